//! The `/message-queue` API, field for field as its document has it, over the same messages as v1.

use postroad_model::delivery::Outcome;
use serde_json::{Map, Value, json};

use crate::{
    kit::{Answer, Api, Town, is_time, path_of, take},
    road::Road,
};

const FINE: Outcome = Outcome::Answered { status: 200, retry_after_ms: None };

/// A refusal of this dialect: exactly `error`, `message` and `details`.
#[track_caller]
fn refusal(answer: &Answer, status: u16, error: &str, details: &Value) {
    assert_eq!(answer.status, status, "{}", answer.text());
    let body = answer.json();
    let names: Vec<&String> = body.as_object().unwrap().keys().collect();
    assert_eq!(names, ["details", "error", "message"], "{}", answer.text());
    assert_eq!(body["error"], error, "{}", answer.text());
    assert!(!body["message"].as_str().unwrap().is_empty());
    for (name, value) in details.as_object().unwrap() {
        assert_eq!(body["details"][name], *value, "{}", answer.text());
    }
}

fn invalid(field: &str) -> Value {
    json!({ "field": field })
}

fn document() -> Value {
    json!({
        "queue": "delivery.events",
        "message": { "event_type": "delivery_created", "delivery_id": "550e8400-e29b-41d4-a716-446655440000" },
        "routing_key": "delivery.created",
        "headers": { "content_type": "application/json", "priority": "high", "retry_count": 0 },
        "ttl": 3600,
        "persistent": true,
    })
}

async fn publish(api: &Api, body: Value) -> Value {
    api.post("/message-queue/publish", body).await.expect(200)
}

#[tokio::test]
async fn published_and_shown_as_the_document_has_it() {
    let town = Town::new().await;
    let api = town.api().await;
    let mut published = publish(&api, document()).await;
    let [id, at] = take(&mut published, ["message_id", "published_at"]);
    assert!(id.as_str().unwrap().starts_with("msg_") && is_time(&at), "{id} {at}");
    let expected = json!({
        "queue": "delivery.events", "routing_key": "delivery.created", "published": true, "ttl": 3600,
        "persistent": true,
    });
    assert_eq!(published, expected);

    let shown = api.get(&format!("/message-queue/messages/{}", id.as_str().unwrap())).await.expect(200);
    let expected = json!({
        "message_id": id, "queue": "delivery.events", "routing_key": "delivery.created",
        "message": document()["message"], "headers": document()["headers"], "status": "accepted",
        "published_at": at, "consumed_at": null, "acknowledged_at": null, "ttl": 3600, "persistent": true,
        "retry_count": 0, "redelivery_count": 0,
    });
    assert_eq!(shown, expected);
    // The same message in the other dialect.
    let other = api.get(&format!("/v1/messages/{}", id.as_str().unwrap())).await.expect(200);
    assert_eq!(
        json!([
            other["channel"],
            other["metadata"]["priority"],
            other["metadata"]["content_type"],
            other["metadata"]["ttl"]
        ]),
        json!(["delivery.events", "high", "application/json", 3600])
    );
    assert_eq!(other["payload"], document()["message"]);
}

#[tokio::test]
async fn the_least_and_what_is_repeated() {
    let town = Town::new().await;
    let api = town.api().await;
    let least = json!({ "queue": "a", "message": "text", "message_id": "m-1" });
    let first = publish(&api, least.clone()).await;
    assert_eq!(
        (&first["ttl"], &first["persistent"], &first["routing_key"]),
        (&Value::Null, &json!(true), &Value::Null)
    );
    assert!(first.get("duplicate").is_none());
    assert_eq!(publish(&api, least).await["duplicate"], true);
    let shown = api.get("/message-queue/messages/m-1").await.expect(200);
    assert_eq!(shown["message"], "text");
    assert_eq!(
        shown["headers"],
        json!({ "content_type": "text/plain; charset=utf-8", "priority": "normal" })
    );
}

#[tokio::test]
async fn subscribed_as_the_document_has_it() {
    let town = Town::new().await;
    let api = town.api().await;
    let request = json!({
        "queue": "delivery.events",
        "routing_key": "delivery.*",
        "callback_url": "https://api.delivery.com/delivery-service/events",
        "headers": { "authorization": "Bearer service_token_here", "content_type": "application/json" },
        "retry_policy": { "max_retries": 3, "retry_delay": 1500, "backoff_multiplier": 2 },
        "dead_letter_queue": "delivery.events.dlq",
        "prefetch_count": 10,
    });
    let mut answer = api.post("/message-queue/subscribe", request).await.expect(200);
    let [id, at, secret] = take(&mut answer, ["subscription_id", "created_at", "secret"]);
    assert!(id.as_str().unwrap().starts_with("sub_") && is_time(&at));
    assert!(secret.as_str().unwrap().starts_with("whsec_"));
    let expected = json!({
        "queue": "delivery.events", "routing_key": "delivery.*",
        "callback_url": "https://api.delivery.com/delivery-service/events", "status": "active",
        "retry_policy": { "max_retries": 3, "retry_delay": 1500, "backoff_multiplier": 2 },
        "dead_letter_queue": "delivery.events.dlq", "prefetch_count": 10, "service_name": "anonymous",
    });
    assert_eq!(answer, expected);
    let info = api.get(&format!("/v1/subscriptions/{}", id.as_str().unwrap())).await.expect(200);
    assert_eq!((&info["retry_delay"], &info["channel"]), (&json!(1.5), &json!("delivery.events")));
    // A second's delay where nothing is said; the other dialect's is a minute.
    let least = json!({ "queue": "a", "callback_url": "https://example.com/", "service_name": "billing" });
    let least = api.post("/message-queue/subscribe", least).await.expect(200);
    let usual = json!({ "max_retries": 3, "retry_delay": 1000, "backoff_multiplier": 2 });
    assert_eq!((&least["retry_policy"], &least["service_name"]), (&usual, &json!("billing")));
}

/// A message on its way to a subscription of `delivery-service` that acknowledges for itself.
async fn scene() -> (Town, Api, Road, Value) {
    let town = Road::town().await;
    let api = town.api().await;
    let request = json!({
        "queue": "delivery.events", "callback_url": "https://api.delivery.com/events", "auto_ack": false,
        "service_name": "delivery-service", "retry_policy": { "max_retries": 1 },
    });
    let subscription = api.post("/message-queue/subscribe", request).await.expect(200);
    let mut message = document();
    message["message_id"] = json!("m-1");
    publish(&api, message).await;
    let mut road = Road::of(&town);
    road.route(&[&subscription]).await;
    (town, api, road, subscription)
}

#[tokio::test]
async fn acknowledged_as_the_document_has_it() {
    let (_town, api, road, _) = scene().await;
    let lease = road.take("w-1").await.remove(0);
    road.settle("w-1", lease, &FINE).await;
    let shown = api.get("/message-queue/messages/m-1").await.expect(200);
    assert_eq!(shown["status"], "awaiting_ack");
    assert!(is_time(&shown["consumed_at"]) && shown["acknowledged_at"].is_null());
    let request = json!({
        "acknowledged_by": "delivery-service", "processing_time": 5000, "success": true,
        "notes": "Message processed successfully",
    });
    for _ in 0..2 {
        let path = "/message-queue/messages/m-1/acknowledge";
        let mut answer = api.post(path, request.clone()).await.expect(200);
        assert!(is_time(&take(&mut answer, ["acknowledged_at"])[0]));
        let expected = json!({
            "message_id": "m-1", "acknowledged": true, "acknowledged_by": "delivery-service",
            "processing_time": 5000, "success": true, "notes": "Message processed successfully",
        });
        assert_eq!(answer, expected);
    }
    let shown = api.get("/message-queue/messages/m-1").await.expect(200);
    assert_eq!(shown["status"], "delivered");
    assert!(is_time(&shown["acknowledged_at"]));
    let reject = json!({ "rejected_by": "delivery-service", "reason": "no", "requeue": false });
    let answer = api.post("/message-queue/messages/m-1/reject", reject).await;
    refusal(&answer, 409, "already_acknowledged", &json!({ "message_id": "m-1" }));
}

#[tokio::test]
async fn rejected_as_the_document_has_it() {
    let (town, api, road, _) = scene().await;
    let lease = road.take("w-1").await.remove(0);
    road.settle("w-1", lease, &FINE).await;
    let request = json!({
        "rejected_by": "delivery-service", "reason": "Invalid message format", "requeue": true, "retry_count": 1,
    });
    let path = "/message-queue/messages/m-1/reject";
    let mut answer = api.post(path, request.clone()).await.expect(200);
    assert!(is_time(&take(&mut answer, ["rejected_at"])[0]));
    let expected = json!({
        "message_id": "m-1", "rejected": true, "rejected_by": "delivery-service",
        "reason": "Invalid message format", "requeued": true, "retry_count": 1,
    });
    assert_eq!(answer, expected);
    road.promote_early(&town, "w-1").await;
    let lease = road.take("w-1").await.remove(0);
    road.settle("w-1", lease, &FINE).await;
    // Its retries are used up.
    let answer = api.post(path, request.clone()).await.expect(200);
    assert_eq!((&answer["requeued"], &answer["retry_count"]), (&json!(false), &json!(2)));
    let shown = api.get("/message-queue/messages/m-1").await.expect(200);
    assert_eq!(
        json!([shown["status"], shown["retry_count"], shown["redelivery_count"]]),
        json!(["dead", 2, 1])
    );
    let acknowledge = json!({ "acknowledged_by": "delivery-service", "success": true });
    let answer = api.post("/message-queue/messages/m-1/acknowledge", acknowledge).await;
    refusal(&answer, 409, "delivery_dead", &json!({ "message_id": "m-1" }));
}

#[tokio::test]
async fn without_requeue_it_is_dead_at_once() {
    let (_town, api, road, _) = scene().await;
    let _out = road.take("w-1").await;
    let request = json!({ "rejected_by": "delivery-service", "reason": "nonsense", "requeue": false });
    let answer = api.post("/message-queue/messages/m-1/reject", request).await.expect(200);
    assert_eq!((&answer["requeued"], &answer["rejected"]), (&json!(false), &json!(true)));
    let shown = api.get("/v1/messages/m-1/deliveries").await.expect(200);
    assert_eq!(shown["deliveries"][0]["dead_reason"], "rejected");
}

#[tokio::test]
async fn the_delivery_is_the_named_one_the_services_or_the_only_one() {
    let (_town, api, mut road, first) = scene().await;
    let wanted = json!({ "channel": "delivery.events", "auto_ack": false, "service_name": "audit" });
    let second = api.subscribe(wanted.clone()).await;
    let third = api.subscribe(wanted).await;
    let mut message = document();
    message["message_id"] = json!("m-2");
    publish(&api, message).await;
    road.route(&[&first, &second, &third]).await;
    let path = "/message-queue/messages/m-2/acknowledge";
    for by in ["audit", "nobody"] {
        let answer = api.post(path, json!({ "acknowledged_by": by })).await;
        refusal(&answer, 409, "ambiguous_subscription", &invalid("subscription_id"));
    }
    api.post(path, json!({ "acknowledged_by": "delivery-service" })).await.expect(200);
    let named = json!({ "acknowledged_by": "nobody", "subscription_id": second["subscription_id"] });
    api.post(path, named).await.expect(200);
    let shown = api.get("/v1/messages/m-2/deliveries").await.expect(200);
    let states: Map<String, Value> = shown["deliveries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["subscription_id"].as_str().unwrap().to_owned(), row["state"].clone()))
        .collect();
    let state = |created: &Value| states[created["subscription_id"].as_str().unwrap()].clone();
    assert_eq!([state(&first), state(&second), state(&third)], ["delivered", "delivered", "queued"]);
    assert!(api.get(&path_of(&third)).await.status == 200);
    // The only one.
    api.post("/message-queue/messages/m-1/acknowledge", json!({ "acknowledged_by": "nobody" }))
        .await
        .expect(200);
}

#[tokio::test]
async fn what_has_no_history_is_looked_for_with_the_service() {
    let (_town, api, mut road, subscription) = scene().await;
    let mut message = document();
    (message["message_id"], message["persistent"]) = (json!("m-2"), json!(false));
    publish(&api, message).await;
    road.route(&[&subscription]).await;
    assert_eq!(road.take("w-1").await.len(), 2);
    let path = "/message-queue/messages/m-2/acknowledge";
    let answer = api.post(path, json!({ "acknowledged_by": "nobody" })).await;
    refusal(&answer, 404, "message_not_found", &json!({ "message_id": "m-2" }));
    let service = json!({ "acknowledged_by": "delivery-service" });
    api.post(path, service.clone()).await.expect(200);
    refusal(&api.post(path, service).await, 404, "message_not_found", &json!({ "message_id": "m-2" }));
}

#[tokio::test]
async fn refused_in_its_own_words() {
    let town = Town::new().await;
    let api = town.api().await;
    let before = town.dump().await;
    let mut wrong: Vec<(&str, Value, &str)> = Vec::new();
    for (name, value, field) in [
        ("queue", json!("a b"), "queue"),
        ("queue", json!(7), "queue"),
        ("message", Value::Null, "message"),
        ("message", json!([1]), "message"),
        ("ttl", json!(-1), "ttl"),
        ("headers", json!({ "priority": "urgent" }), "headers.priority"),
        ("headers", json!({ "priority": 3 }), "headers.priority"),
        ("headers", json!({ "content_type": 3 }), "headers.content_type"),
        ("message_id", json!("a.b"), "message_id"),
        ("surprise", json!(1), "surprise"),
    ] {
        let mut body = document();
        body[name] = value;
        wrong.push(("publish", body, field));
    }
    wrong.push(("publish", json!({ "queue": "a" }), "message"));
    wrong.push(("publish", json!({ "message": {} }), "queue"));
    for (change, field) in [
        (json!({ "queue": "a..b" }), "queue"),
        (json!({ "callback_url": "gopher://example.com" }), "callback_url"),
        (json!({ "retry_policy": { "retry_delay": -1 } }), "retry_policy.retry_delay"),
        (json!({ "retry_policy": { "retry_delay": 3_600_001 } }), "retry_policy.retry_delay"),
        (json!({ "retry_policy": { "max_retries": 101 } }), "retry_policy.max_retries"),
        (json!({ "prefetch_count": 0 }), "prefetch_count"),
        (json!({ "dead_letter_queue": "" }), "dead_letter_queue"),
    ] {
        let mut body = json!({ "queue": "a", "callback_url": "https://example.com/" });
        for (name, value) in change.as_object().unwrap() {
            body[name] = value.clone();
        }
        wrong.push(("subscribe", body, field));
    }
    for (call, body, field) in wrong {
        let answer = api.post(&format!("/message-queue/{call}"), body.clone()).await;
        refusal(&answer, 400, "invalid_message", &invalid(field));
        assert!(answer.json()["details"]["issue"].is_string(), "{body}");
    }
    for (path, body) in [("acknowledge", json!({ "success": true })), ("reject", json!({ "requeue": true }))]
    {
        let answer = api.post(&format!("/message-queue/messages/nobody/{path}"), body).await;
        refusal(&answer, 404, "message_not_found", &json!({}));
    }
    for id in ["nobody", "a.b"] {
        let answer = api.get(&format!("/message-queue/messages/{id}")).await;
        refusal(&answer, 404, "message_not_found", &json!({ "message_id": id }));
    }
    assert_eq!(town.dump().await, before);
}
