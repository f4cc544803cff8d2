//! What is known, as of a version of the stream of changes.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use postroad_model::{
    channel::ChannelSettings,
    glob::Glob,
    id::SubscriptionId,
    names::{ChannelName, Tenant},
    subscription::{Channels, Status, Subscription},
    time::Time,
};
use postroad_store::{Change, StreamId};

/// Settings of every channel that has some, and of every subscription what channels it listens to.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// By `<tenant>/<name>`, as messages on their way name it.
    settings: HashMap<String, Arc<ChannelSettings>>,
    tenants: HashMap<Tenant, Listeners>,
    /// Where to find a subscription that is changed or cancelled.
    places: HashMap<SubscriptionId, (Tenant, Option<ChannelName>)>,
    version: StreamId,
}

/// One tenant's subscriptions.
#[derive(Debug, Default)]
struct Listeners {
    named: HashMap<ChannelName, HashMap<SubscriptionId, Listener>>,
    patterns: HashMap<SubscriptionId, (Glob, Listener)>,
}

#[derive(Debug, Clone, Copy)]
struct Listener {
    active: bool,
    since: Time,
}

/// Who subscribes to a channel.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Subscribers {
    /// All of them, whatever their status.
    pub ids: Vec<SubscriptionId>,
    /// How many of them are active.
    pub active: u64,
    /// When the first of those that name the channel began.
    pub named_since: Option<Time>,
}

impl Known {
    pub(super) fn version(&self) -> StreamId {
        self.version
    }

    pub(super) fn reach(&mut self, version: StreamId) {
        self.version = version;
    }

    pub(super) fn settings(&self, tenant: &Tenant, name: &ChannelName) -> Option<Arc<ChannelSettings>> {
        if self.settings.is_empty() {
            return None;
        }
        self.settings.get(&field(tenant, name)).cloned()
    }

    /// The settings of a channel, by `<tenant>/<name>`, that refuses messages, and its bound.
    pub(super) fn bounded(&self, channel: &str) -> Option<(Arc<ChannelSettings>, u64)> {
        let settings = self.settings.get(channel)?;
        Some((Arc::clone(settings), settings.publish_bound()?))
    }

    pub(super) fn subscribers(&self, tenant: &Tenant, name: &ChannelName) -> Subscribers {
        let Some(listeners) = self.tenants.get(tenant) else { return Subscribers::default() };
        let named = || listeners.named.get(name).into_iter().flatten();
        let matching = listeners.patterns.iter().filter(|(_, (glob, _))| glob.matches(name.as_str()));
        let mut found = Subscribers {
            named_since: named().map(|(_, listener)| listener.since).min(),
            ..Subscribers::default()
        };
        for (id, listener) in named().chain(matching.map(|(id, (_, listener))| (id, listener))) {
            found.ids.push(id.clone());
            found.active += u64::from(listener.active);
        }
        found
    }

    /// How many subscriptions a tenant has, and how many of them are active.
    pub(super) fn of_tenant(&self, tenant: &Tenant) -> (u64, u64) {
        let listeners = || self.tenants.get(tenant).into_iter();
        let named = listeners().flat_map(|listeners| listeners.named.values().flat_map(HashMap::values));
        let patterns =
            listeners().flat_map(|listeners| listeners.patterns.values().map(|(_, listener)| listener));
        named
            .chain(patterns)
            .fold((0, 0), |(all, active), listener| (all + 1, active + u64::from(listener.active)))
    }

    pub(super) fn names(&self, tenant: &Tenant) -> Vec<ChannelName> {
        let configured = self.settings.values().filter(|settings| settings.tenant == *tenant);
        let named = self.tenants.get(tenant).into_iter().flat_map(|listeners| listeners.named.keys());
        let all: BTreeSet<_> = configured.map(|settings| &settings.name).chain(named).cloned().collect();
        all.into_iter().collect()
    }

    pub(super) fn take_in(&mut self, change: Change) {
        match change {
            Change::Put(versioned) => self.put(&versioned.subscription),
            Change::Cancelled(id) => self.remove(&id),
            Change::Channel(settings) => {
                self.settings.insert(field(&settings.tenant, &settings.name), Arc::from(settings));
            }
            Change::ChannelForgotten(tenant, name) => {
                self.settings.remove(&field(&tenant, &name));
            }
            Change::Unknown { .. } => {}
        }
    }

    fn put(&mut self, subscription: &Subscription) {
        let Subscription { id, tenant, selector, status, created_at, .. } = subscription;
        self.remove(id);
        let listener = Listener { active: *status == Status::Active, since: *created_at };
        let listeners = self.tenants.entry(tenant.clone()).or_default();
        let name = match &selector.channels {
            Channels::Channel(name) => {
                listeners.named.entry(name.clone()).or_default().insert(id.clone(), listener);
                Some(name.clone())
            }
            Channels::Pattern(glob) => {
                listeners.patterns.insert(id.clone(), (glob.clone(), listener));
                None
            }
        };
        self.places.insert(id.clone(), (tenant.clone(), name));
    }

    fn remove(&mut self, id: &SubscriptionId) {
        let Some((tenant, name)) = self.places.remove(id) else { return };
        let Some(listeners) = self.tenants.get_mut(&tenant) else { return };
        match name {
            None => drop(listeners.patterns.remove(id)),
            Some(name) => {
                if let Some(ids) = listeners.named.get_mut(&name) {
                    ids.remove(id);
                    if ids.is_empty() {
                        listeners.named.remove(&name);
                    }
                }
            }
        }
        if listeners.named.is_empty() && listeners.patterns.is_empty() {
            self.tenants.remove(&tenant);
        }
    }
}

fn field(tenant: &Tenant, name: &ChannelName) -> String {
    format!("{tenant}/{name}")
}

#[cfg(test)]
mod tests {
    use postroad_store::Versioned;
    use serde_json::{Value, json};

    use super::*;

    fn put(id: &str, change: &Value) -> Change {
        let mut record = json!({
            "id": id, "tenant": "default", "service_name": "s", "secrets": [],
            "retry": {"max_retries": 0, "retry_delay_ms": 0, "backoff_multiplier": 1.0},
            "auto_ack": true, "ack_timeout": 30, "batch_size": 1, "prefetch_count": 1, "status": "active",
            "created_at": "2024-01-01T00:00:00Z", "updated_at": "2024-01-01T00:00:00Z",
        });
        for (name, value) in change.as_object().unwrap() {
            record[name] = value.clone();
        }
        let subscription = serde_json::from_value(record).unwrap();
        Change::Put(Box::new(Versioned { subscription, change: StreamId::ZERO }))
    }

    fn name(text: &str) -> ChannelName {
        ChannelName::new(text).unwrap()
    }

    fn seen(known: &Known, channel: &str) -> (Vec<String>, u64) {
        let found = known.subscribers(&Tenant::single(), &name(channel));
        let mut ids: Vec<String> = found.ids.iter().map(ToString::to_string).collect();
        ids.sort();
        (ids, found.active)
    }

    #[test]
    fn subscribers_are_found_by_name_and_by_pattern() {
        let mut known = Known::default();
        for change in [
            put("sub_1", &json!({"channel": "orders"})),
            put(
                "sub_2",
                &json!({"channel": "orders", "status": "paused", "created_at": "2023-01-01T00:00:00Z"}),
            ),
            put("sub_3", &json!({"pattern": "o*"})),
            put("sub_4", &json!({"pattern": "*s", "status": "disabled"})),
            put("sub_5", &json!({"channel": "orders", "tenant": "other"})),
        ] {
            known.take_in(change);
        }
        let all = ["sub_1", "sub_2", "sub_3", "sub_4"].map(str::to_owned).to_vec();
        assert_eq!(seen(&known, "orders"), (all, 2));
        assert_eq!(known.of_tenant(&Tenant::single()), (4, 2));
        let since = known.subscribers(&Tenant::single(), &name("orders")).named_since;
        assert_eq!(since, Some(Time::parse("2023-01-01T00:00:00Z").unwrap()));
        assert_eq!(seen(&known, "open"), (vec!["sub_3".to_owned()], 1));
        assert_eq!(known.subscribers(&Tenant::single(), &name("open")).named_since, None);
        // They move, and go.
        known.take_in(put("sub_1", &json!({"channel": "news"})));
        known.take_in(put("sub_3", &json!({"channel": "news"})));
        known.take_in(Change::Cancelled(SubscriptionId::new("sub_2").unwrap()));
        known.take_in(Change::Cancelled(SubscriptionId::new("sub_4").unwrap()));
        known.take_in(Change::Cancelled(SubscriptionId::new("sub_4").unwrap()));
        assert_eq!(seen(&known, "orders"), (vec![], 0));
        assert_eq!(seen(&known, "news").1, 2);
        assert_eq!(known.names(&Tenant::single()), [name("news")]);
        for id in ["sub_1", "sub_3", "sub_5"] {
            known.take_in(Change::Cancelled(SubscriptionId::new(id).unwrap()));
        }
        assert!(known.tenants.is_empty() && known.places.is_empty(), "{known:?}");
    }

    #[test]
    fn settings_are_one_channels_of_one_tenant() {
        let mut known = Known::default();
        let tenant = Tenant::single();
        let bounded = json!({"x-max-length": 3, "x-overflow": "reject-publish"});
        let settings = ChannelSettings {
            arguments: serde_json::from_value(bounded).unwrap(),
            ..ChannelSettings::defaults(tenant.clone(), name("a/b"))
        };
        known.take_in(Change::Channel(Box::new(settings.clone())));
        assert_eq!(known.settings(&tenant, &name("a/b")).as_deref(), Some(&settings));
        assert_eq!(known.settings(&Tenant::new("other").unwrap(), &name("a/b")), None);
        assert_eq!(known.settings(&tenant, &name("a")), None);
        assert_eq!(known.bounded("default/a/b").map(|(_, most)| most), Some(3));
        assert_eq!(known.names(&tenant), [name("a/b")]);
        known.take_in(Change::Channel(Box::new(ChannelSettings {
            arguments: Default::default(),
            ..settings
        })));
        assert!(known.bounded("default/a/b").is_none());
        known.take_in(Change::ChannelForgotten(tenant.clone(), name("a/b")));
        assert_eq!(known.settings(&tenant, &name("a/b")), None);
    }
}
