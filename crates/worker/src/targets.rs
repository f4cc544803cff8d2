//! Subscriptions as a delivery needs them: checked, parsed and remembered.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use http::{HeaderMap, HeaderName, HeaderValue};
use postroad_model::{
    egress::{CallbackUrl, EgressPolicy},
    id::SubscriptionId,
    subscription::Subscription,
};
use postroad_store::{Lease, Store, StoreError, StreamId};
use reqwest::Url;
use tracing::error;

/// A subscription, ready to be delivered to.
#[derive(Debug)]
pub struct Target {
    /// The subscription.
    pub subscription: Subscription,
    /// Where to; `None` where its URL may not be called or is none.
    pub url: Option<Url>,
    /// The headers that every request to it carries.
    pub headers: HeaderMap,
}

impl Target {
    pub(crate) fn new(subscription: Subscription, policy: &EgressPolicy) -> Self {
        let url = subscription.callback_url.as_deref().and_then(|url| CallbackUrl::check(url, policy).ok());
        let mut headers = HeaderMap::with_capacity(subscription.headers.len() + 8);
        for (name, value) in &subscription.headers {
            if let (Ok(name), Ok(mut value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
                value.set_sensitive(true);
                headers.append(name, value);
            }
        }
        if let Some(login) = url.as_ref().and_then(CallbackUrl::basic_auth)
            && let Ok(mut value) = HeaderValue::from_str(&login)
        {
            value.set_sensitive(true);
            headers.entry(http::header::AUTHORIZATION).or_insert(value);
        }
        let agent = HeaderValue::from_static(concat!("postroad/", env!("CARGO_PKG_VERSION")));
        headers.insert(http::header::USER_AGENT, agent);
        Self { url: url.map(|url| url.target()), headers, subscription }
    }

    /// Whether its requests hold batches.
    pub fn batches(&self) -> bool {
        self.subscription.batch_size > 1 && self.subscription.format.batches()
    }
}

/// The targets that this worker has met, each at its newest change.
pub struct Targets {
    store: Store,
    policy: EgressPolicy,
    known: Mutex<HashMap<SubscriptionId, (StreamId, Arc<Target>)>>,
    /// Changes that could not be read, so that each is told of once.
    unreadable: Mutex<HashMap<SubscriptionId, StreamId>>,
}

/// What is known of a lease's subscription.
#[derive(Debug, Clone)]
pub enum Known {
    /// Where to, and how.
    Target(Arc<Target>),
    /// It is cancelled by now.
    Cancelled,
    /// Its settings cannot be read, by this worker at least.
    Unreadable,
}

/// The most targets that are remembered.
const MOST: usize = 50_000;

impl Targets {
    /// None yet.
    pub fn new(store: Store, policy: EgressPolicy) -> Self {
        Self { store, policy, known: Mutex::default(), unreadable: Mutex::default() }
    }

    fn remembered(&self, id: &SubscriptionId, change: StreamId) -> Option<Arc<Target>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(id).filter(|(of, _)| *of >= change).map(|(_, target)| Arc::clone(target))
    }

    /// What is known of each lease's subscription.
    pub async fn of(&self, leases: &[Lease]) -> Result<Vec<Known>, StoreError> {
        let mut missing: Vec<(SubscriptionId, StreamId)> = Vec::new();
        for lease in leases {
            if self.remembered(&lease.subscription, lease.change).is_none()
                && !missing.iter().any(|(id, _)| *id == lease.subscription)
            {
                missing.push((lease.subscription.clone(), lease.change));
            }
        }
        let unreadable = if missing.is_empty() { HashSet::new() } else { self.learn(missing).await? };
        Ok(leases
            .iter()
            .map(|lease| match self.remembered(&lease.subscription, lease.change) {
                Some(target) => Known::Target(target),
                None if unreadable.contains(&lease.subscription) => Known::Unreadable,
                None => Known::Cancelled,
            })
            .collect())
    }

    /// Reads settings and remembers them. Those that cannot be read.
    async fn learn(
        &self,
        missing: Vec<(SubscriptionId, StreamId)>,
    ) -> Result<HashSet<SubscriptionId>, StoreError> {
        let ids: Vec<SubscriptionId> = missing.iter().map(|(id, _)| id.clone()).collect();
        let read = self.store.settings(&ids).await?;
        if let Some(Err(error)) = read.iter().find(|row| row.as_ref().is_err_and(StoreError::is_transient)) {
            return Err(error.clone());
        }
        let mut unreadable = HashSet::new();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut told = self.unreadable.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() + missing.len() > MOST {
            known.clear();
            told.clear();
        }
        for ((id, change), settings) in missing.into_iter().zip(read) {
            match settings {
                Ok(Some(subscription)) => {
                    told.remove(&id);
                    known.insert(id, (change, Arc::new(Target::new(subscription, &self.policy))));
                }
                Ok(None) => {
                    known.remove(&id);
                }
                Err(error) => {
                    known.remove(&id);
                    if told.insert(id.clone(), change) != Some(change) {
                        error!(subscription.id = %id, %error, "cannot read a subscription's settings; it waits");
                    }
                    unreadable.insert(id);
                }
            }
        }
        Ok(unreadable)
    }
}
