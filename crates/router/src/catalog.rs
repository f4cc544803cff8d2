//! What subscriptions there are, as of a version of the change stream.

use std::{collections::HashMap, sync::Arc};

use postroad_model::{id::SubscriptionId, message::Message, subscription::Subscription};
use postroad_store::{Change, Store, StoreError, StreamId, Versioned};
use tracing::{info, warn};

use crate::index::Index;

/// Every subscription, and the index that finds those which match a message.
pub struct Catalog {
    index: Index,
    changes: HashMap<SubscriptionId, StreamId>,
    version: StreamId,
}

impl Catalog {
    /// Loads everything.
    pub async fn load(store: &Store) -> Result<Self, StoreError> {
        let (all, version) = store.snapshot().await?;
        let mut catalog = Self { index: Index::new(), changes: HashMap::new(), version };
        for versioned in all {
            catalog.put(versioned);
        }
        info!(subscriptions = catalog.index.len(), version = %version, "loaded the subscriptions");
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
        warn!(version = %self.version, "changes of subscriptions are missing; loading all anew");
        *self = Self::load(store).await?;
        Ok(())
    }

    /// The subscriptions that a message goes to: those of its tenant that match it, or of its targets where it has
    /// any, each once.
    pub fn matches(&mut self, message: &Message, out: &mut Vec<Arc<Subscription>>) {
        out.clear();
        if !message.targets.is_empty() {
            let there = message.targets.iter().filter_map(|id| self.index.get(id));
            out.extend(there.filter(|subscription| subscription.tenant == message.tenant));
            return;
        }
        self.index.matches(message, postroad_model::matching::ChannelType::Topic, out);
    }

    /// A subscription and the change that wrote it.
    pub fn get(&self, id: &SubscriptionId) -> Option<(Arc<Subscription>, StreamId)> {
        Some((self.index.get(id)?, *self.changes.get(id)?))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.index.len()
    }

    fn put(&mut self, versioned: Versioned) {
        let Versioned { subscription, change } = versioned;
        self.changes.insert(subscription.id.clone(), change);
        self.index.insert(Arc::new(subscription));
    }
}
