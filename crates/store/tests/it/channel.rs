//! channel: settings, the stream of their changes, and who may subscribe by name.

use super::kit::*;
use postroad_model::{
    channel::{Arguments, ChannelSettings},
    delivery::Place,
    glob::Glob,
    matching::ChannelType,
    message::Priority,
    names::{ChannelName, ServiceName, Tenant},
    subscription::{Channels, Subscription},
};
use postroad_store::{Change, StoreError, StreamId, keys::Tag};

fn channel(name: &str) -> ChannelName {
    ChannelName::new(name).unwrap()
}

fn settings(name: &str) -> ChannelSettings {
    ChannelSettings::defaults(Tenant::single(), channel(name))
}

fn exclusive(name: &str) -> ChannelSettings {
    ChannelSettings { exclusive: true, ..settings(name) }
}

fn of(service: &str, name: &str) -> impl FnOnce(&mut Subscription) {
    let (service, name) = (ServiceName::new(service).unwrap(), channel(name));
    move |sub| {
        sub.service_name = service;
        sub.selector.channels = Channels::Channel(name);
    }
}

impl Road {
    async fn configured(&self, name: &str) -> Option<ChannelSettings> {
        self.store.channel(&Tenant::single(), &channel(name)).await.unwrap()
    }

    /// Subscribes where that may be refused.
    async fn try_subscribe(&self, change: impl FnOnce(&mut Subscription)) -> Result<(), StoreError> {
        let mut sub = subscription();
        change(&mut sub);
        self.store.put_subscription(&sub, None, 100, Default::default()).await.map(drop)
    }

    /// What the control tag holds of channels.
    async fn notes(&self) -> Vec<String> {
        let mut notes = self.texts(&["KEYS", "test:{ctl}:named:*"]).await;
        notes.sort();
        for key in ["channels", "configured"] {
            notes.extend(self.texts(&["HKEYS", &self.keys.key(Tag::Ctl, key)]).await);
        }
        notes
    }
}

#[tokio::test]
async fn settings_are_written_replaced_and_forgotten_and_each_is_told() {
    let road = Road::new().await;
    let (tenant, name) = (Tenant::single(), channel("orders/eu.new"));
    assert!(!road.store.forget_channel(&tenant, &name).await.unwrap());
    let first = settings(name.as_str());
    assert!(road.store.put_channel(&first, 9).await.unwrap(), "it is new");
    let arguments = Arguments::from(serde_json::Map::from_iter([("x-max-length".into(), 3.into())]));
    let second = ChannelSettings { channel_type: ChannelType::Direct, arguments, ..first.clone() };
    assert!(!road.store.put_channel(&second, 9).await.unwrap());
    assert_eq!(road.store.channel(&tenant, &name).await.unwrap(), Some(second.clone()));
    assert_eq!(road.store.channels().await.unwrap(), std::slice::from_ref(&second));
    let sub = road.subscribe(|_| {}).await;
    assert!(road.store.forget_channel(&tenant, &name).await.unwrap());
    assert!(!road.store.forget_channel(&tenant, &name).await.unwrap());
    assert_eq!(road.store.channel(&tenant, &name).await.unwrap(), None);

    let (changes, version) = road.store.changes(StreamId::ZERO).await.unwrap().unwrap();
    let [
        Change::Channel(one),
        Change::Channel(two),
        Change::Put(put),
        Change::ChannelForgotten(whose, which),
    ] = &changes[..]
    else {
        panic!("{changes:?}")
    };
    assert_eq!((&**one, &**two, &put.subscription.id), (&first, &second, &sub.id));
    assert_eq!((whose, which), (&tenant, &name));
    assert_eq!(version, road.store.newest_change().await.unwrap());
    road.cancel(&sub).await;
    assert!(road.notes().await.is_empty(), "{:?}", road.notes().await);
}

#[tokio::test]
async fn a_tenant_configures_so_many_and_others_do_not_count() {
    let road = Road::new().await;
    for name in ["a", "b"] {
        road.store.put_channel(&settings(name), 2).await.unwrap();
    }
    let before = road.store.newest_change().await.unwrap();
    let full = road.store.put_channel(&settings("c"), 2).await.unwrap_err();
    assert!(matches!(full, StoreError::TooManyChannels(2)) && !full.is_transient());
    assert_eq!(road.store.newest_change().await.unwrap(), before, "a refusal is no change");
    road.store.put_channel(&settings("b"), 2).await.unwrap();
    let foreign = ChannelSettings { tenant: Tenant::new("other").unwrap(), ..settings("c") };
    road.store.put_channel(&foreign, 2).await.unwrap();
    assert!(road.store.forget_channel(&Tenant::single(), &channel("a")).await.unwrap());
    road.store.put_channel(&settings("c"), 2).await.unwrap();
    assert_eq!(road.store.channels().await.unwrap().len(), 3);
}

#[tokio::test]
async fn an_exclusive_channel_is_one_services() {
    let road = Road::new().await;
    road.store.put_channel(&exclusive("orders"), 9).await.unwrap();
    let mut first = road.subscribe(of("billing", "orders")).await;
    let refused = |result: Result<(), StoreError>| match result.unwrap_err() {
        StoreError::Exclusive { channel, service } => {
            assert_eq!((&*channel, &*service), ("orders", "billing"));
        }
        other => panic!("{other}"),
    };
    let before = road.store.newest_change().await.unwrap();
    refused(road.try_subscribe(of("shop", "orders")).await);
    assert_eq!(road.store.newest_change().await.unwrap(), before, "a refusal is no change");
    road.subscribe(of("billing", "orders")).await;
    // A pattern is not the name, another tenant's channel another one.
    road.subscribe(|sub| {
        of("shop", "x")(sub);
        sub.selector.channels = Channels::Pattern(Glob::new("ord*").unwrap());
    })
    .await;
    road.subscribe(|sub| {
        of("shop", "orders")(sub);
        sub.tenant = Tenant::new("other").unwrap();
    })
    .await;
    // Nor may one come to it by being changed, in either respect.
    let mut other = road.subscribe(of("shop", "news")).await;
    let there = road.store.subscription(&other.id).await.unwrap().unwrap().change;
    of("shop", "orders")(&mut other);
    refused(road.store.put_subscription(&other, Some(there), 100, Default::default()).await.map(drop));
    let there = road.store.subscription(&first.id).await.unwrap().unwrap().change;
    let mut moved = first.clone();
    of("shop", "orders")(&mut moved);
    refused(road.store.put_subscription(&moved, Some(there), 100, Default::default()).await.map(drop));
    road.change(&mut first, |sub| sub.prefetch_count = 9).await;
    // Without the settings anyone may.
    road.store.put_channel(&settings("orders"), 9).await.unwrap();
    road.subscribe(of("shop", "orders")).await;
    let shared = road.store.put_channel(&exclusive("orders"), 9).await.unwrap_err();
    assert!(matches!(shared, StoreError::Shared { services: 2, .. }), "{shared}");
    assert!(!road.configured("orders").await.unwrap().exclusive);
}

/// However many come at once, one service has it.
#[tokio::test]
async fn a_race_for_an_exclusive_channel_has_one_winner() {
    let road = Road::new().await;
    for _ in 0..20 {
        road.redis(&["FLUSHALL"]).await;
        let (a, b) = (road.try_subscribe(of("a", "orders")), road.try_subscribe(of("b", "orders")));
        let settings = exclusive("orders");
        let (made, a, b) = tokio::join!(road.store.put_channel(&settings, 9), a, b);
        let services = [a.is_ok(), b.is_ok()].into_iter().filter(|came| *came).count();
        match made {
            Ok(_) => assert_eq!(services, 1),
            Err(error) => assert!(matches!(error, StoreError::Shared { .. }) && services == 2, "{error}"),
        }
    }
}

#[tokio::test]
async fn settings_may_go_with_the_last_subscription_that_names_their_channel() {
    let road = Road::new().await;
    let fleeting = ChannelSettings { auto_delete: true, ..settings("orders") };
    road.store.put_channel(&fleeting, 9).await.unwrap();
    road.store.put_channel(&settings("kept"), 9).await.unwrap();
    let pattern =
        road.subscribe(|sub| sub.selector.channels = Channels::Pattern(Glob::new("orders").unwrap())).await;
    road.cancel(&pattern).await;
    assert!(road.configured("orders").await.is_some(), "there was none that named it yet");
    let (one, mut two) = (road.subscribe(of("a", "orders")).await, road.subscribe(of("b", "orders")).await);
    road.cancel(&one).await;
    assert!(road.configured("orders").await.is_some());
    let before = road.store.newest_change().await.unwrap();
    road.change(&mut two, of("b", "kept")).await;
    assert!(road.configured("orders").await.is_none(), "moving on is leaving");
    let (changes, _) = road.store.changes(before).await.unwrap().unwrap();
    assert!(
        matches!(&changes[..], [Change::Put(_), Change::ChannelForgotten(_, name)] if name.as_str() == "orders")
    );
    road.cancel(&two).await;
    assert!(road.configured("kept").await.is_some());

    road.store.put_channel(&fleeting, 9).await.unwrap();
    let again = road.subscribe(of("a", "orders")).await;
    road.cancel(&again).await;
    assert!(road.configured("orders").await.is_none());
    assert_eq!(road.notes().await, ["default/kept", "default"]);
}

#[tokio::test]
async fn changes_and_records_that_cannot_be_read_are_passed_over() {
    let road = Road::new().await;
    let (changes, records) = (road.keys.key(Tag::Ctl, "changes"), road.keys.key(Tag::Ctl, "channels"));
    for (id, record) in [("default/orders", "{"), ("orders", ""), ("a b/orders", ""), ("default/a b", "")] {
        road.redis(&["XADD", &changes, "*", "kind", "channel", "id", id, "record", record]).await;
    }
    road.redis(&["HSET", &records, "default/broken", "no json"]).await;
    road.store.put_channel(&settings("whole"), 9).await.unwrap();
    let (read, _) = road.store.changes(StreamId::ZERO).await.unwrap().unwrap();
    let strange = |change: &Change| matches!(change, Change::Unknown { reason, .. } if !reason.is_empty());
    assert!(read[..4].iter().all(strange) && matches!(read[4], Change::Channel(_)), "{read:?}");
    assert_eq!(road.store.channels().await.unwrap(), [settings("whole")]);
    let broken = road.store.channel(&Tenant::single(), &channel("broken")).await.unwrap_err();
    assert!(matches!(broken, StoreError::Reply(_)), "{broken}");
    // Nor do they keep anybody from subscribing.
    road.subscribe(of("a", "broken")).await;
}

#[tokio::test]
async fn when_something_was_last_published_is_known_by_channel() {
    let road = Road::new().await;
    let tenant = Tenant::single();
    let before = road.now().await;
    road.accept(&["one"]).await;
    road.accept_all(1, vec![acceptance("two", Priority::Normal)]).await.unwrap();
    let names = [channel("orders"), channel("order")];
    let found = road.store.last_publishes(&tenant, &names).await.unwrap();
    let at_ms = found[0].unwrap();
    assert!(at_ms >= before && at_ms <= road.now().await);
    assert_eq!(found, [Some(at_ms), None]);
    let other = Tenant::new("other").unwrap();
    assert_eq!(road.store.last_publishes(&other, &names).await.unwrap(), [None, None]);
}

#[tokio::test]
async fn what_waits_is_neither_out_nor_awaiting_its_acknowledgment() {
    let mut road = Road::new().await;
    let (sub, none) = (road.subscribe(|_| {}).await, road.subscribe(|_| {}).await);
    let waiting = async |road: &Road| road.store.waiting(&[sub.id.clone(), none.id.clone()]).await.unwrap();
    assert_eq!(waiting(&road).await, [0, 0]);
    road.queue(&sub, &["1", "2", "3", "4", "5", "6"]).await;
    road.queue_ranked(&sub, &["7"], Priority::High).await;
    assert_eq!(waiting(&road).await, [7, 0]);
    let mut leases = road.take("w-a", &sub).await.leases;
    assert_eq!(leases.len(), 4, "as many as it may have at a time");
    assert_eq!(waiting(&road).await, [3, 0]);
    let places = [Place::Later { delay_ms: 60_000 }, Place::Again, Place::AwaitingAck];
    let settlements = places.into_iter().map(|place| put(leases.remove(0), place)).collect();
    road.settle("w-a", settlements).await;
    assert_eq!(waiting(&road).await, [5, 0], "one is later, one again; one is out, one with its subscriber");
    road.redis(&["SET", &road.lane_key(&none, &format!("work:{}:2", none.id)), "no queue"]).await;
    assert_eq!(waiting(&road).await, [5, 0]);
}
