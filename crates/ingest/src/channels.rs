//! Channels as this instance knows them: what was configured, and who subscribes.
//!
//! Publishing looks here and not in Redis. What is known follows the stream of changes: twice a second, so that
//! every instance acts on a change within one, and before the calls that show or change it. What was published
//! while nothing was known yet is refused, as if Redis were away: it might be treated otherwise than its channel
//! says.

mod fullness;
mod known;

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use postroad_daemon::{health::Readiness, stop::Stop};
use postroad_model::{
    channel::ChannelSettings,
    names::{ChannelName, Tenant},
};
use postroad_store::{Change, Store, StoreError};
use tracing::{info, warn};

pub use self::known::Subscribers;
use self::{fullness::Fullness, known::Known};

/// How often changes are looked for.
const EVERY: Duration = Duration::from_millis(500);

/// What is known; clones know the same.
#[derive(Clone)]
pub struct Channels(Arc<Inner>);

struct Inner {
    store: Store,
    known: RwLock<Option<Known>>,
    /// Held while changes are taken in, so that they are taken in their order.
    following: tokio::sync::Mutex<()>,
    fullness: Fullness,
}

impl Channels {
    /// Knows nothing yet.
    pub fn new(store: Store) -> Self {
        Self(Arc::new(Inner {
            store,
            known: RwLock::default(),
            following: tokio::sync::Mutex::default(),
            fullness: Fullness::default(),
        }))
    }

    /// A channel's settings, if it has any.
    pub fn settings(
        &self,
        tenant: &Tenant,
        name: &ChannelName,
    ) -> Result<Option<Arc<ChannelSettings>>, StoreError> {
        self.read(|known| known.settings(tenant, name))
    }

    /// Who subscribes to a channel, by its name or by a pattern.
    pub fn subscribers(&self, tenant: &Tenant, name: &ChannelName) -> Result<Subscribers, StoreError> {
        self.read(|known| known.subscribers(tenant, name))
    }

    /// How many subscriptions a tenant has, and how many of them are active.
    pub fn of_tenant(&self, tenant: &Tenant) -> Result<(u64, u64), StoreError> {
        self.read(|known| known.of_tenant(tenant))
    }

    /// The names of channels that have settings or a subscription that names them.
    pub fn names(&self, tenant: &Tenant) -> Result<Vec<ChannelName>, StoreError> {
        self.read(|known| known.names(tenant))
    }

    /// Refuses a channel, given as `<tenant>/<name>`, whose settings say `reject-publish` where some matching
    /// subscription has as many deliveries waiting as it may, by a figure at most a second old. Only for such
    /// channels is Redis asked.
    pub async fn admit(&self, channel: &str) -> Result<(), StoreError> {
        let bounded = self.read(|known| known.bounded(channel))?;
        match bounded {
            None => Ok(()),
            Some((settings, most)) => self.0.fullness.check(self, channel, &settings, most).await,
        }
    }

    /// Takes in everything that has changed.
    pub async fn follow(&self) -> Result<(), StoreError> {
        let _following = self.0.following.lock().await;
        let Ok(version) = self.read(Known::version) else { return self.load().await };
        let Some((changes, version)) = self.0.store.changes(version).await? else {
            warn!(%version, "changes of configuration are missing; loading all anew");
            return self.load().await;
        };
        self.write(|known| {
            if let Some(known) = known {
                for change in changes {
                    if let Change::Unknown { id, reason } = &change {
                        warn!(change.id = id, reason, "passed over a change");
                    }
                    known.take_in(change);
                }
                known.reach(version);
            }
        });
        Ok(())
    }

    /// Follows until told to stop, also where Redis has forgotten what is known here. Readiness waits for the
    /// first time.
    pub async fn watch(&self, stop: &Stop, readiness: &Readiness) {
        const NAME: &str = "channels";
        readiness.set(NAME, Err("not loaded yet".into()));
        let mut ill = false;
        loop {
            match self.check().await {
                Ok(()) => {
                    readiness.set(NAME, Ok(()));
                    ill = false;
                }
                Err(error) if !ill => {
                    warn!(%error, "cannot follow the changes of configuration");
                    ill = true;
                }
                Err(_) => {}
            }
            if !stop.sleep(EVERY).await {
                return;
            }
        }
    }

    async fn check(&self) -> Result<(), StoreError> {
        if let Ok(version) = self.read(Known::version)
            && self.0.store.newest_change().await? < version
        {
            warn!(%version, "Redis has forgotten changes of configuration; loading all anew");
            let _following = self.0.following.lock().await;
            return self.load().await;
        }
        self.follow().await
    }

    /// Loads everything. To be called while following.
    async fn load(&self) -> Result<(), StoreError> {
        let (subscriptions, version) = self.0.store.snapshot().await?;
        let settings = self.0.store.channels().await?;
        info!(channels = settings.len(), subscriptions = subscriptions.len(), %version, "loaded the channels");
        let mut fresh = Known::default();
        for versioned in subscriptions {
            fresh.take_in(Change::Put(Box::new(versioned)));
        }
        for settings in settings {
            fresh.take_in(Change::Channel(Box::new(settings)));
        }
        fresh.reach(version);
        self.write(|known| *known = Some(fresh));
        Ok(())
    }

    fn read<T>(&self, look: impl FnOnce(&Known) -> T) -> Result<T, StoreError> {
        let known = self.0.known.read().unwrap_or_else(PoisonError::into_inner);
        let unknown = || StoreError::Unavailable("the channels' settings are not loaded yet".into());
        known.as_ref().map(look).ok_or_else(unknown)
    }

    fn write(&self, change: impl FnOnce(&mut Option<Known>)) {
        change(&mut self.0.known.write().unwrap_or_else(PoisonError::into_inner));
    }
}
