//! What a channel's settings do: to messages, to who may subscribe, and to themselves.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use postroad_model::{
    id::{MessageId, SubscriptionId},
    message::Message,
    names::Tenant,
};
use postroad_store::{ChainLink, Placed, Store, StreamId};
use postroad_testkit::wait::eventually;
use serde_json::{Value, json};

use crate::kit::{Api, PATIENCE, Town, judge, path_of, refused, subscription};

impl Town {
    /// A message as it is stored.
    async fn message(&self, id: &str) -> Message {
        let (tenant, id) = (Tenant::single(), MessageId::new(id).unwrap());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let now_ms = u64::try_from(now.as_millis()).unwrap();
        let found = self.store().find_message(&tenant, &id, 86_400_000, now_ms).await.unwrap();
        found.into_iter().next().unwrap().message.unwrap()
    }
}

async fn publish(api: &Api, change: Value) -> String {
    let mut request = json!({ "channel": "orders", "payload": {} });
    for (name, value) in change.as_object().unwrap() {
        request[name] = value.clone();
    }
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let id = format!("m{}", NEXT.fetch_add(1, Ordering::Relaxed));
    request["metadata"]["message_id"] = json!(id);
    api.publish(request).await.expect(202);
    id
}

#[tokio::test]
async fn messages_are_as_fleeting_as_their_channel() {
    let town = Town::new().await;
    let api = town.api().await;
    for (durable, persistent, kept) in [
        (true, Value::Null, true),
        (true, json!(false), false),
        (false, json!(true), false),
        (false, Value::Null, false),
    ] {
        api.put("/v1/channels/orders", json!({ "durable": durable })).await;
        let id = publish(&api, json!({ "persistent": persistent })).await;
        let shown = api.get(&format!("/v1/messages/{id}")).await.expect(200);
        assert_eq!((&shown["persistent"], town.message(&id).await.persistent), (&json!(kept), kept));
    }
}

#[tokio::test]
async fn the_smaller_lifetime_counts_and_the_publishers_is_shown() {
    let town = Town::new().await;
    let api = town.api().await;
    for (channel_ms, ttl, expected) in [
        (None, None, None),
        (None, Some(2), Some(2_000)),
        (Some(1_500), None, Some(1_500)),
        (Some(1_500), Some(2), Some(1_500)),
        (Some(2_500), Some(2), Some(2_000)),
    ] {
        let arguments = channel_ms.map_or(json!({}), |ms| json!({ "x-message-ttl": ms }));
        api.put("/v1/channels/orders", json!({ "arguments": arguments })).await;
        let id = publish(&api, json!({ "metadata": { "ttl": ttl } })).await;
        let message = town.message(&id).await;
        assert_eq!((message.expires_after_ms, message.metadata.ttl), (expected, ttl));
        let shown = api.get(&format!("/v1/messages/{id}")).await.expect(200);
        assert_eq!(shown["metadata"]["ttl"], json!(ttl));
    }
}

/// Wherever the change was made, and whichever call publishes.
#[tokio::test]
async fn every_instance_sees_a_change() {
    let town = Town::new().await;
    let (one, two) = (town.api().await, town.api().await);
    one.put("/v1/channels/orders", json!({ "arguments": { "x-message-ttl": 7 } })).await.expect(201);
    let lifetime = async |api: &Api| {
        let id = publish(api, json!({})).await;
        town.message(&id).await.expires_after_ms
    };
    assert_eq!(lifetime(&one).await, Some(7), "its own change at once");
    let reaches = async |expected: Option<u64>| {
        eventually(PATIENCE, "the other instance to see it", async || {
            let seen = lifetime(&two).await;
            if seen == expected { Ok(()) } else { Err(format!("{seen:?}")) }
        })
        .await
        .unwrap();
    };
    reaches(Some(7)).await;
    // Also where its change was lost, and where Redis forgot all changes.
    for (case, command) in [
        ("a gap", &["XTRIM", "test:{ctl}:changes", "MAXLEN", "0"][..]),
        ("none left", &["DEL", "test:{ctl}:changes"]),
    ] {
        one.put("/v1/channels/orders", json!({ "arguments": { "x-message-ttl": 8 } })).await.expect(200);
        town.redis.command(command).await.unwrap();
        if case == "a gap" {
            one.put("/v1/channels/other", json!({})).await;
        }
        reaches(Some(8)).await;
        one.put("/v1/channels/orders", json!({ "arguments": { "x-message-ttl": 7 } })).await.expect(200);
        reaches(Some(7)).await;
    }
    one.delete("/v1/channels/orders").await.expect(200);
    assert_eq!(lifetime(&one).await, None);
    reaches(None).await;
}

async fn try_subscribe(api: &Api, service: &str, change: Value) -> crate::kit::Answer {
    let mut request = subscription();
    request["service_name"] = json!(service);
    for (name, value) in change.as_object().unwrap() {
        request[name] = value.clone();
    }
    api.post("/v1/subscriptions", request).await
}

#[tokio::test]
async fn an_exclusive_channel_lets_one_service_subscribe() {
    let town = Town::new().await;
    let (one, two) = (town.api().await, town.api().await);
    one.put("/v1/channels/orders", json!({ "exclusive": true })).await.expect(201);
    let orders = || json!({ "channel": "orders" });
    let mine = try_subscribe(&one, "billing", orders()).await.expect(201);
    try_subscribe(&two, "billing", orders()).await.expect(201);
    let before = town.dump().await;
    let theirs = refused(409, "channel_exclusive", "channel", "\"billing\" subscribes to it");
    judge(&try_subscribe(&two, "shop", orders()).await, theirs).unwrap();
    assert_eq!(town.dump().await, before);
    let other = try_subscribe(&two, "shop", json!({ "channel": "news" })).await.expect(201);
    let before = town.dump().await;
    judge(&two.patch(&path_of(&other), orders()).await, theirs).unwrap();
    judge(&two.patch(&path_of(&mine), json!({ "service_name": "shop" })).await, theirs).unwrap();
    assert_eq!(town.dump().await, before);
    try_subscribe(&two, "shop", json!({ "channel_pattern": "orders" })).await.expect(201);

    one.put("/v1/channels/orders", json!({})).await.expect(200);
    try_subscribe(&two, "shop", orders()).await.expect(201);
    let before = town.dump().await;
    let answer = one.put("/v1/channels/orders", json!({ "exclusive": true })).await;
    judge(&answer, refused(409, "channel_exclusive", "exclusive", "2 services subscribe")).unwrap();
    assert_eq!(town.dump().await, before);
}

#[tokio::test]
async fn settings_may_go_with_the_last_subscription() {
    let town = Town::new().await;
    let (one, two) = (town.api().await, town.api().await);
    let wanted = json!({ "auto_delete": true, "arguments": { "x-message-ttl": 7 } });
    one.put("/v1/channels/orders", wanted).await.expect(201);
    let subscriptions = [
        one.subscribe(json!({ "channel": "orders" })).await,
        two.subscribe(json!({ "channel": "orders" })).await,
    ];
    for (subscription, configured) in subscriptions.iter().zip([true, false]) {
        assert_eq!(two.get("/v1/channels/orders").await.expect(200)["arguments"]["x-message-ttl"], 7);
        one.delete(&path_of(subscription)).await.expect(200);
        assert_eq!(two.get("/v1/channels/orders").await.status == 200, configured);
    }
    let id = publish(&two, json!({})).await;
    assert_eq!(town.message(&id).await.expires_after_ms, None);
}

/// Puts what was accepted into a subscription's queue, as a router would: where it ends.
async fn route(store: &Store, subscription: &Value, from: StreamId) -> StreamId {
    let end = StreamId { ms: u64::MAX, seq: u64::MAX };
    let all = store.history(0, from, end, 1_000).await.unwrap();
    let last = all.last().unwrap().id;
    let to = vec![SubscriptionId::new(subscription["subscription_id"].as_str().unwrap()).unwrap()];
    let placed = |accepted| Placed {
        accepted,
        keep: true,
        rank: 1,
        expires_ms: None,
        line: None,
        max_length: None,
        to: to.clone(),
    };
    let entries = all.iter().map(placed).collect();
    let link = ChainLink { partition: 0, prev: from, last, entries };
    store.enqueue(&[(0, vec![link])], 60_000).await.unwrap().pop().unwrap().unwrap();
    last
}

#[tokio::test]
async fn a_full_channel_refuses_until_there_is_room() {
    for listens in [json!({ "channel": "orders" }), json!({ "channel_pattern": "o*" })] {
        let mut town = Town::new().await;
        (town.config.base.layout.partitions, town.config.base.layout.lanes) = (1, 1);
        let (api, store) = (town.api().await, town.store());
        let idle = api.subscribe(json!({ "channel": "orders" })).await;
        let full = api.subscribe(listens).await;
        let bounded = json!({ "arguments": { "x-max-length": 2, "x-overflow": "reject-publish" } });
        api.put("/v1/channels/orders", bounded).await.expect(201);
        for _ in 0..2 {
            publish(&api, json!({})).await;
        }
        route(&store, &full, StreamId::ZERO).await;
        let until = async |status: u16| {
            eventually(PATIENCE, "the figure to be looked at again", async || {
                let answer = api.publish(json!({ "channel": "orders", "payload": {} })).await;
                if answer.status == status { Ok(answer) } else { Err(answer.text()) }
            })
            .await
            .unwrap()
        };
        let answer = until(429).await;
        judge(&answer, refused(429, "channel_full", "channel", "2 deliveries waiting")).unwrap();
        assert_eq!(answer.header("retry-after"), Some("1"));
        let details = json!({ "field": "channel", "channel": "orders", "waiting": 2, "max_length": 2 });
        assert_eq!(answer.json()["details"], details);

        let before = town.stored().await;
        let row = |channel: &str| json!({ "channel": channel, "payload": {} });
        let strict = json!({ "messages": [row("free"), row("orders")], "fail_on_error": true });
        let answer = api.post("/v1/messages/bulk", strict).await;
        judge(&answer, refused(429, "channel_full", "channel", "x-max-length is 2")).unwrap();
        assert_eq!((answer.json()["details"]["index"].clone(), town.stored().await), (json!(1), before));
        let loose = json!({ "messages": [row("free"), row("orders"), row("free")] });
        let answer = api.post("/v1/messages/bulk", loose).await.expect(207);
        let codes: Vec<&Value> =
            answer["results"].as_array().unwrap().iter().map(|row| &row["status_code"]).collect();
        assert_eq!(codes, [&Value::Null, &json!(429), &Value::Null]);
        assert_eq!(town.stored().await, before + 2);

        // A channel is refused for what waits; its neighbour and its own bound are another matter.
        api.publish(row("other")).await.expect(202);
        api.put("/v1/channels/orders", json!({ "arguments": { "x-max-length": 2 } })).await.expect(200);
        api.publish(row("orders")).await.expect(202);
        let bounded = json!({ "arguments": { "x-max-length": 2, "x-overflow": "reject-publish" } });
        api.put("/v1/channels/orders", bounded).await.expect(200);
        until(429).await;
        api.delete(&path_of(&full)).await.expect(200);
        until(202).await;
        api.delete(&path_of(&idle)).await.expect(200);
    }
}
