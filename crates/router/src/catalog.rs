//! What subscriptions and configured channels there are, as of a version of the change stream.

use std::{collections::HashMap, sync::Arc};

use postroad_model::{
    channel::ChannelSettings,
    id::SubscriptionId,
    message::Message,
    names::{ChannelName, Tenant},
    subscription::Subscription,
};
use postroad_store::{Change, Store, StoreError, StreamId, Versioned};
use tracing::{info, warn};

use crate::index::Index;

/// Every subscription, the index that finds those which match a message, and every channel's settings.
pub struct Catalog {
    index: Index,
    changes: HashMap<SubscriptionId, StreamId>,
    channels: HashMap<Tenant, HashMap<ChannelName, ChannelSettings>>,
    version: StreamId,
}

impl Catalog {
    /// Loads everything.
    pub async fn load(store: &Store) -> Result<Self, StoreError> {
        let (all, version) = store.snapshot().await?;
        let channels = store.channels().await?;
        let mut catalog =
            Self { index: Index::new(), changes: HashMap::new(), channels: HashMap::new(), version };
        info!(
            subscriptions = all.len(),
            channels = channels.len(),
            version = %version,
            "loaded the subscriptions and the channels' settings"
        );
        for versioned in all {
            catalog.put(versioned);
        }
        for settings in channels {
            catalog.configure(settings);
        }
        Ok(catalog)
    }

    /// Takes in everything that has changed. Called after a batch was read and before it is matched, so
    /// that a subscription which was answered before a message was published gets it.
    pub async fn follow(&mut self, store: &Store) -> Result<(), StoreError> {
        let Some((changes, version)) = store.changes(self.version).await? else {
            return self.reload(store).await;
        };
        for change in changes {
            match change {
                Change::Put(versioned) => self.put(*versioned),
                Change::Cancelled(id) => {
                    self.index.remove(&id);
                    self.changes.remove(&id);
                }
                Change::Channel(settings) => self.configure(*settings),
                Change::ChannelForgotten(tenant, name) => {
                    if let Some(channels) = self.channels.get_mut(&tenant) {
                        channels.remove(&name);
                        if channels.is_empty() {
                            self.channels.remove(&tenant);
                        }
                    }
                }
                Change::Unknown { id, reason } => warn!(change.id = id, reason, "passed over a change"),
            }
        }
        self.version = version;
        Ok(())
    }

    /// Follows, also where Redis has forgotten what this catalog knows.
    pub async fn check(&mut self, store: &Store) -> Result<(), StoreError> {
        if store.newest_change().await? < self.version {
            return self.reload(store).await;
        }
        self.follow(store).await
    }

    async fn reload(&mut self, store: &Store) -> Result<(), StoreError> {
        warn!(version = %self.version, "changes of configuration are missing; loading all anew");
        *self = Self::load(store).await?;
        Ok(())
    }

    /// The subscriptions that match a message: those of its tenant, each once. Where it names its targets it is
    /// those, as far as they are there and its tenant's: what they ask for is not looked at.
    pub fn matches(&mut self, message: &Message, out: &mut Vec<Arc<Subscription>>) {
        out.clear();
        if !message.targets.is_empty() {
            return self.index.targets(message, out);
        }
        let settings = self.channel(&message.tenant, &message.channel);
        let channel_type = settings.map(|settings| settings.channel_type).unwrap_or_default();
        self.index.matches(message, channel_type, out);
    }

    /// A channel's settings, where somebody configured it.
    pub fn channel(&self, tenant: &Tenant, name: &ChannelName) -> Option<&ChannelSettings> {
        self.channels.get(tenant)?.get(name)
    }

    /// A subscription and the change that wrote it.
    pub fn get(&self, id: &SubscriptionId) -> Option<(Arc<Subscription>, StreamId)> {
        Some((self.index.get(id)?, *self.changes.get(id)?))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.index.len()
    }

    fn configure(&mut self, settings: ChannelSettings) {
        let channels = self.channels.entry(settings.tenant.clone()).or_default();
        channels.insert(settings.name.clone(), settings);
    }

    fn put(&mut self, versioned: Versioned) {
        let Versioned { subscription, change } = versioned;
        self.changes.insert(subscription.id.clone(), change);
        self.index.insert(Arc::new(subscription));
    }
}
