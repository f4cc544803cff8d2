//! How many subscriptions there are, of a tenant and of a channel.
//!
//! What is known of them here is a copy that follows the stream of their changes each time that it is asked: it is
//! as true as what a router matches by, and asking costs no look at every record. It is made when it is first
//! asked for, so an instance that shows no figures keeps none.

use std::collections::HashMap;

use postroad_model::{
    id::SubscriptionId,
    names::{ChannelName, Tenant},
    subscription::{Channels, Status, Subscription},
};
use postroad_store::{Change, Store, StoreError, StreamId};
use tokio::sync::Mutex;

/// Subscriptions, by whether they get deliveries now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Subscribers {
    /// Those that do.
    pub active: u64,
    /// Those that are paused or disabled.
    pub inactive: u64,
}

/// The subscriptions that there are.
pub struct Roster {
    store: Store,
    known: Mutex<Option<Known>>,
}

impl Roster {
    /// A roster that knows nothing yet.
    pub fn new(store: Store) -> Self {
        Self { store, known: Mutex::new(None) }
    }

    /// A tenant's subscriptions.
    pub async fn of_tenant(&self, tenant: &Tenant) -> Result<Subscribers, StoreError> {
        self.count(tenant, |_| true).await
    }

    /// The subscriptions that listen to a channel, by its name or by a pattern.
    pub async fn of_channel(
        &self,
        tenant: &Tenant,
        channel: &ChannelName,
    ) -> Result<Subscribers, StoreError> {
        self.count(tenant, |channels| listens(channels, channel)).await
    }

    async fn count(
        &self,
        tenant: &Tenant,
        wanted: impl Fn(&Channels) -> bool,
    ) -> Result<Subscribers, StoreError> {
        let mut known = self.known.lock().await;
        let current = match known.take() {
            Some(before) => before.follow(&self.store).await?,
            None => None,
        };
        let current = match current {
            Some(current) => current,
            None => Known::load(&self.store).await?,
        };
        let mut subscribers = Subscribers::default();
        for (channels, status) in current.tenants.get(tenant).into_iter().flat_map(HashMap::values) {
            if wanted(channels) {
                match status {
                    Status::Active => subscribers.active += 1,
                    Status::Paused | Status::Disabled => subscribers.inactive += 1,
                }
            }
        }
        *known = Some(current);
        Ok(subscribers)
    }
}

fn listens(channels: &Channels, channel: &ChannelName) -> bool {
    match channels {
        Channels::Channel(name) => name == channel,
        Channels::Pattern(glob) => glob.matches(channel.as_str()),
    }
}

struct Known {
    version: StreamId,
    tenants: HashMap<Tenant, HashMap<SubscriptionId, (Channels, Status)>>,
    /// Whose each is.
    owners: HashMap<SubscriptionId, Tenant>,
}

impl Known {
    async fn load(store: &Store) -> Result<Self, StoreError> {
        let (all, version) = store.snapshot().await?;
        let mut known = Self { version, tenants: HashMap::new(), owners: HashMap::new() };
        for versioned in all {
            known.put(versioned.subscription);
        }
        Ok(known)
    }

    /// Takes in what has changed. `None` where changes are missing, or Redis has forgotten some.
    async fn follow(mut self, store: &Store) -> Result<Option<Self>, StoreError> {
        if store.newest_change().await? < self.version {
            return Ok(None);
        }
        let Some((changes, version)) = store.changes(self.version).await? else { return Ok(None) };
        for change in changes {
            match change {
                Change::Put(versioned) => self.put(versioned.subscription),
                Change::Cancelled(id) => self.remove(&id),
                // No subscription that this release can read.
                Change::Unknown { .. } => {}
            }
        }
        self.version = version;
        Ok(Some(self))
    }

    fn put(&mut self, subscription: Subscription) {
        let Subscription { id, tenant, selector, status, .. } = subscription;
        self.owners.insert(id.clone(), tenant.clone());
        self.tenants.entry(tenant).or_default().insert(id, (selector.channels, status));
    }

    fn remove(&mut self, id: &SubscriptionId) {
        if let Some(tenant) = self.owners.remove(id)
            && let Some(subscriptions) = self.tenants.get_mut(&tenant)
        {
            subscriptions.remove(id);
        }
    }
}
