//! Pull subscriptions: long polls, batches of acknowledgments, more time.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::join;

use crate::{
    kit::{Api, Refusals, Town, ask, field, judge, no_json, path_of, refused, timed},
    road::Road,
};

async fn pulled(api: &Api, change: Value) -> (Value, String) {
    let mut wanted = json!({ "service_name": "billing", "channel": "orders" });
    for (name, value) in change.as_object().unwrap() {
        wanted[name] = value.clone();
    }
    let created = api.post("/v1/subscriptions", wanted).await.expect(201);
    let path = path_of(&created);
    (created, path)
}

async fn publish(api: &Api, id: &str) {
    let message = json!({
        "channel": "orders", "payload": { "n": id }, "routing_key": "order.new",
        "metadata": { "message_id": id, "correlation_id": "c", "headers": { "h": 1 } },
    });
    api.publish(message).await.expect(202);
}

async fn pull(api: &Api, path: &str, body: Value) -> Vec<Value> {
    let answer = api.post(&format!("{path}/pull"), body).await.expect(200);
    answer["deliveries"].as_array().unwrap().clone()
}

fn ids(deliveries: &[Value]) -> Vec<&str> {
    deliveries.iter().map(|delivery| delivery["message_id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn pulled_acknowledged_and_gone() {
    let town = Road::town().await;
    let api = town.api().await;
    let mut road = Road::of(&town);
    let (created, path) = pulled(&api, json!({})).await;
    for id in ["a", "b", "c"] {
        publish(&api, id).await;
    }
    road.route(&[&created]).await;
    let first = pull(&api, &path, json!({ "max_messages": 2 })).await;
    assert_eq!(ids(&first), ["a", "b"]);
    let mut delivery = first[0].clone();
    let names: Vec<&String> = delivery.as_object().unwrap().keys().collect();
    // `MessageDelivery` of the reference, and the routing key.
    assert_eq!(
        names,
        [
            "channel",
            "delivered_at",
            "delivery_attempt",
            "max_attempts",
            "message_id",
            "metadata",
            "payload",
            "routing_key",
            "subscription_id"
        ]
    );
    assert_eq!(delivery["payload"].take(), json!({ "n": "a" }));
    assert_eq!((&delivery["delivery_attempt"], &delivery["max_attempts"]), (&json!(1), &json!(4)));
    assert_eq!(ids(&pull(&api, &path, json!({ "wait_seconds": 0 })).await), ["c"]);

    let body = json!({
        "acknowledge": ["a"],
        "reject": [{ "message_id": "b", "error": "no" }, { "message_id": "z" }],
        "extend": ["c", "a"], "extend_seconds": 600,
    });
    let answer = api.post(&format!("{path}/ack"), body).await.expect(207);
    let row = |id: &str, status: Option<&str>, code: Option<&str>| json!([id, code.is_none(), status, code]);
    let rows: Vec<Value> = answer["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| json!([row["message_id"], row["success"], row["status"], row["error_code"]]))
        .collect();
    assert_eq!(answer["success"], false);
    assert_eq!(
        rows,
        [
            row("a", Some("delivered"), None),
            row("b", Some("retry_scheduled"), None),
            row("z", None, Some("no_delivery")),
            row("c", None, None),
            row("a", None, Some("no_delivery")),
        ]
    );
    let all = api.post(&format!("{path}/ack"), json!({ "acknowledge": ["c", "c"] })).await.expect(200);
    assert_eq!(all["success"], true);
    // What was refused comes again.
    road.promote_early(&town, "w-1").await;
    let again = pull(&api, &path, json!({ "wait_seconds": 0 })).await;
    assert_eq!((ids(&again), &again[0]["delivery_attempt"]), (vec!["b"], &json!(2)));
    api.post(&format!("{path}/ack"), json!({ "acknowledge": ["b"] })).await.expect(200);
    let info = api.get(&path).await.expect(200);
    assert_eq!((&info["queued"], &info["message_count"]), (&json!(0), &json!(3)));
    assert!(pull(&api, &path, json!({ "wait_seconds": 0 })).await.is_empty());
}

#[tokio::test]
async fn a_long_poll_is_answered_when_something_comes() {
    let town = Road::town().await;
    let (api, other) = (town.api().await, town.api().await);
    let mut road = Road::of(&town);
    let (created, path) = pulled(&api, json!({})).await;
    let waiting = pull(&api, &path, json!({ "wait_seconds": 15 }));
    let coming = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        publish(&other, "a").await;
        road.route(&[&created]).await;
    };
    let ((deliveries, ()), took) = timed(async { join!(waiting, coming) }).await;
    assert_eq!(ids(&deliveries), ["a"]);
    assert!(took < Duration::from_secs(10), "{took:?}");
    let (nothing, took) = timed(pull(&api, &path, json!({ "wait_seconds": 0.4 }))).await;
    assert!(nothing.is_empty() && took >= Duration::from_millis(400), "{took:?}");
}

#[tokio::test]
async fn two_who_pull_do_not_get_the_same() {
    let town = Road::town().await;
    let (one, two) = (town.api().await, town.api().await);
    let mut road = Road::of(&town);
    let (created, path) = pulled(&one, json!({})).await;
    let names: Vec<String> = (0..40).map(|n| format!("m{n:02}")).collect();
    for id in &names {
        publish(&one, id).await;
    }
    road.route(&[&created]).await;
    let all = json!({ "max_messages": 25 });
    let (mut first, second) = join!(pull(&one, &path, all.clone()), pull(&two, &path, all));
    first.extend(second);
    let mut seen = ids(&first);
    seen.sort_unstable();
    assert_eq!(seen, names);
}

#[tokio::test]
async fn messages_without_a_history_can_be_acknowledged_too() {
    let town = Road::town().await;
    let api = town.api().await;
    let mut road = Road::of(&town);
    let (created, path) = pulled(&api, json!({})).await;
    for n in 0..3 {
        let message = json!({ "channel": "orders", "payload": { "n": n }, "persistent": false });
        api.publish(message).await.expect(202);
    }
    road.route(&[&created]).await;
    let deliveries = pull(&api, &path, json!({})).await;
    let named = ids(&deliveries);
    assert_eq!(named.len(), 3);
    api.post(&format!("{path}/ack"), json!({ "acknowledge": named })).await.expect(200);
    assert_eq!(api.get(&path).await.expect(200)["queued"], 0);
}

#[tokio::test]
async fn who_is_paused_or_pushed_to_pulls_nothing() {
    let town = Road::town().await;
    let api = town.api().await;
    let (_, path) = pulled(&api, json!({})).await;
    api.post(&format!("{path}/pause"), json!({})).await.expect(200);
    let answer = api.post(&format!("{path}/pull"), json!({})).await;
    judge(&answer, refused(409, "subscription_paused", "", "paused")).unwrap();
    api.post(&format!("{path}/resume"), json!({})).await.expect(200);
    assert!(pull(&api, &path, json!({ "wait_seconds": 0 })).await.is_empty());
    let pushed = api.subscribe(json!({ "channel": "orders" })).await;
    let answer = api.post(&format!("{}/pull", path_of(&pushed)), json!({})).await;
    judge(&answer, refused(409, "not_pulled", "", "callback_url")).unwrap();
    api.delete(&path).await.expect(200);
    let answer = api.post(&format!("{path}/pull"), json!({})).await;
    judge(&answer, refused(404, "not_found", "", "subscription")).unwrap();
}

#[tokio::test]
async fn what_it_may_not_be_asked_for_with() {
    let town = Town::new().await;
    let api = town.api().await;
    let (_, path) = pulled(&api, json!({})).await;
    let refusals = Refusals::of(&town, &api).await;
    for (call, body, expected) in [
        ("pull", json!({ "max_messages": 0 }), field("max_messages", "1 to 1000")),
        ("pull", json!({ "max_messages": 1_001 }), field("max_messages", "1 to 1000")),
        ("pull", json!({ "max_messages": "1" }), field("max_messages", "max_messages")),
        ("pull", json!({ "wait_seconds": -1 }), field("wait_seconds", "0 to 60")),
        ("pull", json!({ "wait_seconds": 61 }), field("wait_seconds", "0 to 60")),
        ("pull", json!({ "surprise": 1 }), field("surprise", "unknown field")),
        ("ack", json!({}), field("acknowledge", "0 deliveries")),
        ("ack", json!({ "acknowledge": vec!["a"; 1_001] }), field("acknowledge", "1001 deliveries")),
        ("ack", json!({ "acknowledge": ["a b"] }), field("acknowledge", "contains ' '")),
        ("ack", json!({ "reject": [{}] }), field("reject[0].message_id", "missing")),
        ("ack", json!({ "extend": ["a"], "extend_seconds": 0 }), field("extend_seconds", "1 to 43200")),
        ("ack", json!({ "extend": [""] }), field("extend", "0 bytes")),
        (
            "ack",
            json!({ "reject": [{ "message_id": "a", "error": "x".repeat(1_025) }] }),
            field("reject.error", "1025 bytes"),
        ),
    ] {
        let ask = ask("POST", format!("{path}/{call}")).json(body.to_string());
        refusals.check(&format!("{call} {body:.60}"), &ask, expected).await;
    }
    for call in ["pull", "ack"] {
        let ask = ask("POST", format!("{path}/{call}")).json("{");
        refusals.check(call, &ask, no_json("")).await;
    }
    let other = json!({ "message_id": "b", "success": true }).to_string();
    let ask = ask("POST", "/v1/messages/a/ack").json(other);
    refusals.check("another message", &ask, field("message_id", "path")).await;
    refusals.end();
}
