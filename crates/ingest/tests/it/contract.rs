//! Every answer that a reference document describes has that document's fields, with its types: each call once, with
//! something to tell.

use postroad_model::delivery::Outcome;
use serde_json::{Value, json};

use crate::{
    kit::{Answer, Api, Town, ask, path_of, subscription},
    road::Road,
    shape::{self, Model, faults},
};

const FINE: Outcome = Outcome::Answered { status: 200, retry_after_ms: None };

/// What is wrong with answers, call by call.
#[derive(Default)]
struct Findings(Vec<String>);

impl Findings {
    fn note(&mut self, call: &str, answer: &Answer, status: u16, model: Model) -> Value {
        if answer.status != status {
            self.0.push(format!("{call}: not {status}: {}", answer.text()));
            return Value::Null;
        }
        let body = answer.json();
        self.check(call, &body, model);
        body
    }

    fn check(&mut self, call: &str, body: &Value, model: Model) {
        self.0.extend(faults(body, model).into_iter().map(|fault| format!("{call}: {fault}")));
    }

    fn end(self) {
        assert!(self.0.is_empty(), "{}", self.0.join("\n"));
    }
}

/// A town of one partition and one lane, with a channel that is configured.
async fn scene() -> (Town, Api) {
    let town = Road::town().await;
    let api = town.api().await;
    let settings = json!({ "arguments": { "x-message-ttl": 3_600_000, "x-max-length": 10_000 } });
    api.put("/v1/channels/orders", settings).await.expect(201);
    (town, api)
}

fn order(id: &str) -> Value {
    json!({
        "channel": "orders", "payload": { "total": 7 }, "service_name": "shop", "persistent": true,
        "metadata": { "message_id": id, "ttl": 3_600, "priority": "high", "headers": { "x-shop": "north" } },
    })
}

#[tokio::test]
async fn publishing_answers_as_the_models_have_it() {
    let (_town, api) = scene().await;
    let mut found = Findings::default();
    for (case, status) in [("a new message", 202), ("a repeated one", 200)] {
        let answer = api.publish(order("order-1")).await;
        found.note(case, &answer, status, shape::PUBLISH_MESSAGE_RESPONSE);
    }
    let raw = ask("POST", "/v1/channels/orders/messages").header("content-type", "text/plain").body("hello");
    found.note("a raw body", &api.send(&raw).await, 202, shape::PUBLISH_MESSAGE_RESPONSE);
    let waiting = json!({ "channel": "orders", "payload": {}, "delay_seconds": 60 });
    found.note("one for later", &api.publish(waiting).await, 202, shape::PUBLISH_MESSAGE_RESPONSE);
    let messages = json!([order("order-2"), { "channel": "no channel", "payload": {} }]);
    for (case, fail_on_error, status) in
        [("a bulk of which some failed", false, 207), ("a bulk that failed", true, 422)]
    {
        let bulk = json!({ "messages": messages, "service_name": "shop", "fail_on_error": fail_on_error });
        let answer = api.post("/v1/messages/bulk", bulk).await;
        // What was refused as a whole is an error like any other.
        let model = if fail_on_error { shape::ERROR_RESPONSE } else { &shape::BULK_PUBLISH_RESPONSE[..3] };
        let body = found.note(case, &answer, status, model);
        if !fail_on_error {
            found.check(case, &body["results"][0], shape::PUBLISH_MESSAGE_RESPONSE);
            assert!(
                body["results"][1]["error"].is_string() && body["results"][1]["success"] == false,
                "{body}"
            );
        }
    }
    let bulk = json!({ "messages": [order("order-3")], "service_name": "shop" });
    let answer = api.post("/v1/messages/bulk", bulk).await;
    found.note("a bulk", &answer, 202, shape::BULK_PUBLISH_RESPONSE);

    let event = json!({
        "event_type": "user.created", "source_service": "auth", "event_data": { "id": 1 }, "correlation_id": "c-1",
        "metadata": {},
    });
    found.note("an event", &api.post("/v1/events", event).await, 202, shape::EVENT_RESPONSE);
    for call in ["/v1/commands", "/v1/queries"] {
        let command = json!({
            "command_type": "validate_token", "payload": { "token": "t" }, "service_name": "gateway",
            "target_service": "auth",
        });
        found.note(call, &api.post(call, command).await, 202, shape::COMMAND_RECEIPT);
    }
    found.end();
}

#[tokio::test]
async fn subscriptions_and_deliveries_are_as_the_models_have_them() {
    let (town, api) = scene().await;
    let mut found = Findings::default();
    let mut request = subscription();
    request["channel"] = json!("orders");
    let created = api.post("/v1/subscriptions", request.clone()).await;
    let created = found.note("created", &created, 201, shape::SUBSCRIPTION_RESPONSE);
    let path = path_of(&created);
    for how in ["pause", "resume", "rotate-secret"] {
        let answer = api.post(&format!("{path}/{how}"), json!({})).await;
        found.note(how, &answer, 200, shape::SUBSCRIPTION_RESPONSE);
    }
    request["channel"] = Value::Null;
    request["channel_pattern"] = json!("orders*");
    request["callback_url"] = Value::Null;
    let pulled = api.post("/v1/subscriptions", request).await;
    let pulled = found.note("one by pattern", &pulled, 201, shape::SUBSCRIPTION_RESPONSE);

    let mut road = Road::of(&town);
    api.publish(order("order-1")).await.expect(202);
    let text = json!({ "channel": "orders", "payload": "text", "metadata": { "message_id": "order-2" } });
    api.publish(text).await.expect(202);
    road.route(&[&created, &pulled]).await;
    let answer = api.post(&format!("{}/pull", path_of(&pulled)), json!({})).await.expect(200);
    let deliveries = answer["deliveries"].as_array().unwrap();
    assert_eq!(deliveries.len(), 2);
    for delivery in deliveries {
        found.check("pulled", delivery, shape::MESSAGE_DELIVERY);
    }
    let ack = json!({
        "message_id": "order-1", "subscription_id": pulled["subscription_id"], "success": true, "error": null,
    });
    let answer = api.post("/v1/messages/order-1/ack", ack).await.expect(200);
    assert_eq!(answer["success"], true);

    for path in [&path, &path_of(&pulled)] {
        found.note("shown", &api.get(path).await, 200, shape::SUBSCRIPTION_INFO);
    }
    let listed = api.get("/v1/subscriptions").await.expect(200);
    for info in listed["subscriptions"].as_array().unwrap() {
        found.check("listed", info, shape::SUBSCRIPTION_INFO);
    }
    let answer = api.patch(&path, json!({ "batch_size": 3 })).await;
    found.note("changed", &answer, 200, shape::SUBSCRIPTION_INFO);
    let shown = api.get("/v1/messages/order-1").await.expect(200);
    found.check("a message", &shown["metadata"], shape::MESSAGE_METADATA);
    found.end();
}

#[tokio::test]
async fn channels_figures_and_health_are_as_the_models_have_them() {
    let (_town, api) = scene().await;
    let mut found = Findings::default();
    found.note("never used", &api.get("/v1/channels/orders").await, 200, shape::CHANNEL_INFO);
    api.publish(order("order-1")).await.expect(202);
    found.note("a channel", &api.get("/v1/channels/orders").await, 200, shape::CHANNEL_INFO);
    found.note("configured", &api.put("/v1/channels/orders", json!({})).await, 200, shape::CHANNEL_INFO);
    let listed = api.get("/v1/channels").await.expect(200);
    found.check("listed", &listed["channels"][0], shape::CHANNEL_INFO);
    found.note("stats", &api.get("/v1/channels/orders/stats").await, 200, shape::CHANNEL_STATS);
    found.note("metrics", &api.get("/v1/metrics").await, 200, shape::METRICS_RESPONSE);
    found.note("health", &api.get("/health").await, 200, shape::HEALTH_RESPONSE);
    found.end();
}

#[tokio::test]
async fn refusals_are_as_the_model_has_them() {
    let (_town, api) = scene().await;
    let mut found = Findings::default();
    for (call, path, body, status) in [
        ("POST", "/v1/messages", "{", 400),
        ("POST", "/v1/messages", "{}", 422),
        ("POST", "/v1/subscriptions", "{}", 422),
        ("GET", "/v1/messages/nobody", "", 404),
        ("GET", "/v1/nowhere", "", 404),
        ("PUT", "/v1/messages", "{}", 405),
        ("GET", "/v1/channels/nobody/stats", "", 404),
    ] {
        let answer = api.send(&ask(call, path).json(body)).await;
        found.note(&format!("{call} {path}"), &answer, status, shape::ERROR_RESPONSE);
    }
    let health = json!({ "service_name": "auth", "status": "nonsense" });
    let answer = api.post("/v1/health-checks", health).await;
    found.note("a health check", &answer, 422, shape::ERROR_RESPONSE);
    found.end();
}

/// Every row of the contract's tables, with nothing of what it asks for: whatever is said of that, the call is there.
#[tokio::test]
async fn every_call_of_the_contract_is_there() {
    const CALLS: [(&str, &[&str]); 5] = [
        (
            "GET",
            &[
                "/v1/messages/x",
                "/v1/messages/x/deliveries",
                "/v1/replays/x",
                "/v1/event-types",
                "/v1/commands/x",
                "/v1/notifications/stream",
                "/v1/services",
                "/v1/subscriptions",
                "/v1/subscriptions/x",
                "/v1/channels",
                "/v1/channels/x",
                "/v1/channels/x/stats",
                "/v1/metrics",
                "/health",
                "/openapi.json",
                "/docs",
                "/livez",
                "/readyz",
                "/metrics",
                "/message-queue/queues/x",
                "/message-queue/messages/x",
                "/message-queue/metrics",
                "/message-queue/health",
            ],
        ),
        (
            "POST",
            &[
                "/v1/messages",
                "/v1/messages/bulk",
                "/v1/channels/x/messages",
                "/v1/cloudevents",
                "/v1/messages/x/ack",
                "/v1/messages/x/replay",
                "/v1/events",
                "/v1/commands",
                "/v1/queries",
                "/v1/commands/x/response",
                "/v1/notifications",
                "/v1/notifications/tickets",
                "/v1/health-checks",
                "/v1/subscriptions",
                "/v1/subscriptions/x/pause",
                "/v1/subscriptions/x/resume",
                "/v1/subscriptions/x/test",
                "/v1/subscriptions/x/rotate-secret",
                "/v1/subscriptions/x/replay",
                "/v1/subscriptions/x/pull",
                "/v1/subscriptions/x/ack",
                "/v1/explain",
                "/message-queue/publish",
                "/message-queue/subscribe",
                "/message-queue/messages/x/acknowledge",
                "/message-queue/messages/x/reject",
            ],
        ),
        ("PUT", &["/v1/event-types/x.y", "/v1/channels/x"]),
        ("PATCH", &["/v1/subscriptions/x"]),
        ("DELETE", &["/v1/messages/x", "/v1/replays/x", "/v1/subscriptions/x", "/v1/channels/x"]),
    ];
    let (_town, api) = scene().await;
    let mut missing = Vec::new();
    for (method, paths) in CALLS {
        for path in paths {
            let answer = api.send(&ask(method, path).json("[]")).await;
            let text = answer.text();
            if answer.status >= 500 || text.contains("no_such_path") || text.contains("method_not_allowed") {
                missing.push(format!("{method} {path}: {text}"));
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

/// All eight calls.
#[tokio::test]
async fn the_message_queue_answers_as_its_document_has_it() {
    let (town, api) = scene().await;
    let mut found = Findings::default();
    let subscribe = json!({
        "queue": "orders", "routing_key": "order.*", "callback_url": "https://shop.example.com/events",
        "headers": { "authorization": "Bearer t" },
        "retry_policy": { "max_retries": 3, "retry_delay": 1_000, "backoff_multiplier": 2 },
        "dead_letter_queue": "orders.dlq", "prefetch_count": 10, "service_name": "billing", "auto_ack": false,
    });
    let created = api.post("/message-queue/subscribe", subscribe).await;
    let created = found.note("subscribe", &created, 200, shape::QUEUE_SUBSCRIBED);
    let mut road = Road::of(&town);
    for id in ["order-1", "order-2"] {
        let publish = json!({
            "queue": "orders", "message": { "total": 7 }, "routing_key": "order.created",
            "headers": { "content_type": "application/json", "priority": "high", "retry_count": 0 },
            "ttl": 3_600, "persistent": true, "message_id": id,
        });
        let answer = api.post("/message-queue/publish", publish).await;
        found.note("publish", &answer, 200, shape::QUEUE_PUBLISHED);
    }
    road.route(&[&created]).await;
    for lease in road.take("w-1").await {
        road.settle("w-1", lease, &FINE).await;
    }
    let acknowledge = json!({
        "acknowledged_by": "billing", "processing_time": 5_000, "success": true, "notes": "done",
    });
    let answer = api.post("/message-queue/messages/order-1/acknowledge", acknowledge).await;
    found.note("acknowledge", &answer, 200, shape::QUEUE_ACKNOWLEDGED);
    let reject = json!({ "rejected_by": "billing", "reason": "invalid", "requeue": true, "retry_count": 1 });
    let answer = api.post("/message-queue/messages/order-2/reject", reject).await;
    found.note("reject", &answer, 200, shape::QUEUE_REJECTED);
    for id in ["order-1", "order-2"] {
        let answer = api.get(&format!("/message-queue/messages/{id}")).await;
        let body = found.note("message", &answer, 200, shape::QUEUE_MESSAGE);
        let is_time = |name: &str| crate::kit::is_time(&body[name]);
        assert_eq!((is_time("consumed_at"), is_time("acknowledged_at")), (true, id == "order-1"), "{body}");
    }
    found.note("queue", &api.get("/message-queue/queues/orders").await, 200, shape::QUEUE_STATUS);
    found.note("metrics", &api.get("/message-queue/metrics").await, 200, shape::QUEUE_METRICS);
    let range = "/message-queue/metrics?queue=orders&date_from=2024-01-01T00:00:00Z";
    found.note("metrics of one", &api.get(range).await, 200, shape::QUEUE_METRICS);
    found.note("health", &api.get("/message-queue/health").await, 200, shape::QUEUE_HEALTH);

    let answer = api.post("/message-queue/publish", json!({ "queue": "orders" })).await;
    found.note("400", &answer, 400, shape::QUEUE_INVALID);
    found.note("404", &api.get("/message-queue/queues/nobody").await, 404, shape::QUEUE_NOT_FOUND);
    found.end();
}
