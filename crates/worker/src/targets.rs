//! Subscriptions as a delivery needs them: checked, parsed and remembered.

use std::{
    collections::HashMap,
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
    fn new(subscription: Subscription, policy: &EgressPolicy) -> Self {
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
        headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let agent = HeaderValue::from_static(concat!("postroad/", env!("CARGO_PKG_VERSION")));
        headers.insert(http::header::USER_AGENT, agent);
        Self { url: url.map(|url| url.target()), headers, subscription }
    }
}

/// The targets that this worker has met, each at its newest change.
pub struct Targets {
    store: Store,
    policy: EgressPolicy,
    known: Mutex<HashMap<SubscriptionId, (StreamId, Arc<Target>)>>,
}

/// The most targets that are remembered.
const MOST: usize = 50_000;

impl Targets {
    /// None yet.
    pub fn new(store: Store, policy: EgressPolicy) -> Self {
        Self { store, policy, known: Mutex::default() }
    }

    fn remembered(&self, id: &SubscriptionId, change: StreamId) -> Option<Arc<Target>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(id).filter(|(of, _)| *of >= change).map(|(_, target)| Arc::clone(target))
    }

    /// The target of each lease. `None` for subscriptions that are cancelled by now.
    pub async fn of(&self, leases: &[Lease]) -> Result<Vec<Option<Arc<Target>>>, StoreError> {
        let mut missing: Vec<(SubscriptionId, StreamId)> = Vec::new();
        for lease in leases {
            if self.remembered(&lease.subscription, lease.change).is_none()
                && !missing.iter().any(|(id, _)| *id == lease.subscription)
            {
                missing.push((lease.subscription.clone(), lease.change));
            }
        }
        if !missing.is_empty() {
            let ids: Vec<SubscriptionId> = missing.iter().map(|(id, _)| id.clone()).collect();
            let settings = self.store.settings(&ids).await?;
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if known.len() + missing.len() > MOST {
                known.clear();
            }
            for ((id, change), settings) in missing.into_iter().zip(settings) {
                match settings {
                    Some(subscription) => {
                        known.insert(id, (change, Arc::new(Target::new(subscription, &self.policy))));
                    }
                    None => {
                        known.remove(&id);
                    }
                }
            }
        }
        Ok(leases.iter().map(|lease| self.remembered(&lease.subscription, lease.change)).collect())
    }
}
