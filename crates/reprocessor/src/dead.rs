//! What can be done with dead letters, as plain functions over the store. The API's calls and the shell's
//! commands are two skins over these.
//!
//! All of them see one tenant: subscriptions whose record says so, and in them what does not say otherwise.
//! None holds more than one page of letters at a time.

mod count;
mod export;
mod list;
mod overview;
mod purge;
mod show;
mod walk;

use postroad_model::{
    id::SubscriptionId,
    names::{ChannelName, ServiceName, Tenant},
    subscription::{Channels, Status, Subscription},
};
use postroad_store::{Store, Versioned};

pub use count::{Count, count};
pub use export::{Export, export};
pub use list::{Page, list};
pub use overview::{Overview, overview};
pub use purge::purge;
pub use show::{Shown, show};
pub(crate) use walk::Measure;
pub use walk::{Walk, walks};

use crate::{error::Error, filter::Filter};

/// A subscription that may have dead letters.
#[derive(Debug, Clone)]
pub struct Queue {
    /// The subscription.
    pub id: SubscriptionId,
    /// The service it belongs to.
    pub service_name: ServiceName,
    /// Its channel, or its pattern.
    pub channel_pattern: String,
    /// Whether it listens to more than one channel.
    pub is_pattern: bool,
    /// The channel on which copies of its dead letters are published.
    pub dead_letter_queue: Option<ChannelName>,
    /// Whether deliveries flow.
    pub status: Status,
}

impl From<&Subscription> for Queue {
    fn from(subscription: &Subscription) -> Self {
        Self {
            id: subscription.id.clone(),
            service_name: subscription.service_name.clone(),
            channel_pattern: subscription.channel_pattern().to_owned(),
            is_pattern: matches!(subscription.selector.channels, Channels::Pattern(_)),
            dead_letter_queue: subscription.dead_letter_queue.clone(),
            status: subscription.status,
        }
    }
}

/// The tenant's subscriptions that have dead letters and that a filter may mean, by id.
pub async fn queues(store: &Store, tenant: &Tenant, filter: &Filter) -> Result<Vec<Queue>, Error> {
    let ids = match &filter.subscription {
        Some(id) => vec![id.clone()],
        None => store.dead_subscriptions().await.map_err(Error::Read)?,
    };
    let mut queues = Vec::new();
    for some in ids.chunks(500) {
        let records = store.records(some).await.map_err(Error::Read)?;
        let of_tenant = |Versioned { subscription, .. }: &Versioned| {
            (subscription.tenant == *tenant).then(|| Queue::from(subscription))
        };
        queues.extend(records.iter().flatten().filter_map(of_tenant));
    }
    Ok(queues)
}

/// One of the tenant's subscriptions.
pub(crate) async fn queue(
    store: &Store,
    tenant: &Tenant,
    id: &SubscriptionId,
) -> Result<Option<Queue>, Error> {
    let filter = Filter::of(id.clone());
    Ok(queues(store, tenant, &filter).await?.pop())
}
