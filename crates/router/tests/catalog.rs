//! The catalog over a real Redis: what is matched follows what was configured.

use std::sync::Arc;

use bytes::Bytes;
use postroad_model::{
    channel::{Arguments, ChannelSettings},
    id::{MessageId, SubscriptionId},
    matching::ChannelType,
    message::{Message, Metadata, Payload, PayloadKind, Priority},
    names::{ChannelName, RoutingKey, ServiceName, Tenant},
    placement::Layout,
    subscription::Subscription,
    time::Time,
};
use postroad_router::catalog::Catalog;
use postroad_store::{LaneLimits, LinkConfig, Store};
use postroad_testkit::redis::PrivateRedis;
use serde_json::json;

fn message(tenant: &str, channel: &str, key: &str) -> Message {
    Message {
        tenant: Tenant::new(tenant).unwrap(),
        id: MessageId::new("m").unwrap(),
        channel: ChannelName::new(channel).unwrap(),
        routing_key: Some(RoutingKey::new(key).unwrap()),
        ordering_key: None,
        service: ServiceName::new("shop").unwrap(),
        priority: Priority::Normal,
        persistent: true,
        expires_after_ms: None,
        generation: 0,
        test: false,
        targets: Arc::new([]),
        trace: None,
        metadata: Metadata {
            message_id: MessageId::new("m").unwrap(),
            correlation_id: None,
            reply_to: None,
            content_type: "application/json".into(),
            content_encoding: None,
            priority: Priority::Normal,
            ttl: None,
            timestamp: Time::default(),
            headers: serde_json::from_value(json!({ "kind": "new" })).unwrap(),
        },
        payload: Payload { kind: PayloadKind::Json, body: Bytes::from_static(b"{}") },
    }
}

async fn subscribe(store: &Store, id: &str, tenant: &str, selector: serde_json::Value) {
    let mut record = json!({
        "id": id, "tenant": tenant, "service_name": "s", "secrets": [],
        "retry": {"max_retries": 0, "retry_delay_ms": 0, "backoff_multiplier": 1.0},
        "auto_ack": true, "ack_timeout": 30, "batch_size": 1, "prefetch_count": 1, "status": "active",
        "created_at": "2024-01-01T00:00:00Z", "updated_at": "2024-01-01T00:00:00Z",
    });
    for (name, value) in selector.as_object().unwrap() {
        record[name] = value.clone();
    }
    let subscription: Subscription = serde_json::from_value(record).unwrap();
    store.put_subscription(&subscription, None, 100, LaneLimits::default()).await.unwrap();
}

fn matched(catalog: &mut Catalog, message: &Message) -> Vec<String> {
    let mut out = Vec::new();
    catalog.matches(message, &mut out);
    let mut ids: Vec<String> = out.iter().map(|subscription| subscription.id.to_string()).collect();
    ids.sort();
    ids
}

fn typed(name: &str, channel_type: ChannelType) -> ChannelSettings {
    let name = ChannelName::new(name).unwrap();
    ChannelSettings { channel_type, ..ChannelSettings::defaults(Tenant::single(), name) }
}

#[tokio::test]
async fn a_channels_type_is_honoured_from_its_change_on() {
    let redis = PrivateRedis::start().await.unwrap();
    let store = Store::new(LinkConfig::new(redis.url()), "test", Layout { partitions: 1, lanes: 2 }).unwrap();
    store.prepare().await.unwrap();
    let table = [
        ("sub_exact", json!({ "channel": "orders", "routing_key": "a.b" })),
        ("sub_glob", json!({ "pattern": "ord*", "routing_key": "*.b" })),
        (
            "sub_headers",
            json!({ "channel": "orders", "routing_key": "no", "header_match": { "kind": "new" } }),
        ),
        ("sub_other", json!({ "channel": "orders", "routing_key": "no", "header_match": { "kind": "old" } })),
    ];
    for (id, selector) in table {
        subscribe(&store, id, "default", selector.clone()).await;
        subscribe(&store, &format!("{id}_foreign"), "other", selector).await;
    }
    let (mut awake, sent) = (Catalog::load(&store).await.unwrap(), message("default", "orders", "a.b"));
    let topic = ["sub_exact", "sub_glob"];
    assert_eq!(matched(&mut awake, &sent), topic);
    for (channel_type, expected) in [
        (ChannelType::Direct, &["sub_exact"][..]),
        (ChannelType::Fanout, &["sub_exact", "sub_glob", "sub_headers"]),
        (ChannelType::Headers, &["sub_exact", "sub_glob", "sub_headers"]),
        (ChannelType::Topic, &topic),
    ] {
        store.put_channel(&typed("orders", channel_type), 9).await.unwrap();
        awake.follow(&store).await.unwrap();
        let mut fresh = Catalog::load(&store).await.unwrap();
        for catalog in [&mut awake, &mut fresh] {
            assert_eq!(matched(catalog, &sent), expected, "{channel_type:?}");
            let foreign = matched(catalog, &message("other", "orders", "a.b"));
            assert_eq!(foreign, ["sub_exact_foreign", "sub_glob_foreign"], "settings are one tenant's");
            assert_eq!(matched(catalog, &message("default", "ordinary", "a.b")), ["sub_glob"]);
        }
    }
    store.put_channel(&typed("orders", ChannelType::Direct), 9).await.unwrap();
    store.forget_channel(&Tenant::single(), &ChannelName::new("orders").unwrap()).await.unwrap();
    awake.follow(&store).await.unwrap();
    assert_eq!(matched(&mut awake, &sent), topic, "without settings it is a topic");
}

#[tokio::test]
async fn settings_are_known_by_name_also_after_a_gap() {
    let redis = PrivateRedis::start().await.unwrap();
    let store = Store::new(LinkConfig::new(redis.url()), "test", Layout { partitions: 1, lanes: 2 }).unwrap();
    store.prepare().await.unwrap();
    let (tenant, name) = (Tenant::single(), ChannelName::new("orders").unwrap());
    let mut catalog = Catalog::load(&store).await.unwrap();
    assert!(catalog.channel(&tenant, &name).is_none());
    let arguments = Arguments::from(serde_json::Map::from_iter([("x-max-length".into(), 3.into())]));
    let settings = ChannelSettings { arguments, ..typed("orders", ChannelType::Fanout) };
    store.put_channel(&settings, 9).await.unwrap();
    redis.command(&["XTRIM", "test:{ctl}:changes", "MAXLEN", "0"]).await.unwrap();
    store.put_channel(&typed("news", ChannelType::Direct), 9).await.unwrap();
    catalog.follow(&store).await.unwrap();
    assert_eq!(catalog.channel(&tenant, &name), Some(&settings));
    assert_eq!(catalog.channel(&tenant, &name).unwrap().max_length(), Some(3));
    assert_eq!(catalog.channel(&Tenant::new("other").unwrap(), &name), None);
    let id = SubscriptionId::new("sub_none").unwrap();
    assert!(catalog.get(&id).is_none() && catalog.count() == 0);
}
