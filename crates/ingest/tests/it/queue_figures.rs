//! Queues' status, metrics and health in the `/message-queue` dialect, with real daemons behind them.

use postroad_testkit::{
    receiver::{Answer, Behaviour, Receiver},
    wait::eventually,
};
use serde_json::{Value, json};

use crate::kit::{Api, PATIENCE, Town, is_time, take};

/// Asserts a body's members and their types: `s` text, `n` number, `b` boolean, `o` object, `t` time, `%`, `ms` and
/// `B` texts of a share, a duration and bytes.
#[track_caller]
fn shape(body: &Value, members: &[(&str, &str)]) {
    let names: Vec<&str> = body.as_object().unwrap().keys().map(String::as_str).collect();
    let mut expected: Vec<&str> = members.iter().map(|(name, _)| *name).collect();
    expected.sort_unstable();
    assert_eq!(names, expected, "{body}");
    for (name, kind) in members {
        let value = &body[name];
        let text = value.as_str().unwrap_or_default();
        let number = |suffix: &str| text.strip_suffix(suffix).is_some_and(|rest| rest.parse::<f64>().is_ok());
        let holds = match *kind {
            "s" => value.is_string(),
            "n" => value.is_number(),
            "b" => value.is_boolean(),
            "o" => value.is_object(),
            "t" => is_time(value),
            "B" => number("MB") || number("GB"),
            "null" => value.is_null(),
            suffix => number(suffix),
        };
        assert!(holds, "{name} = {value} is no {kind}");
    }
}

async fn publish(api: &Api, queue: &str, count: usize) {
    for n in 0..count {
        api.post("/message-queue/publish", json!({ "queue": queue, "message": { "n": n } }))
            .await
            .expect(200);
    }
}

async fn figures(api: &Api, queue: &str) -> Value {
    api.get(&format!("/message-queue/queues/{queue}")).await.expect(200)["statistics"].clone()
}

#[tokio::test]
async fn what_happened_is_told_by_every_instance_alike() {
    let town = Town::with_loopback().await;
    let (api, other) = (town.api().await, town.api().await);
    let _delivering = town.deliver().await;
    let receiver = Receiver::start().await.unwrap();
    // Every message fails once.
    receiver.on("/in", Behaviour::first(5, Answer::status(500)).then(Answer::status(200)));
    let wanted = json!({
        "queue": "delivery.events", "callback_url": receiver.url("/in"), "prefetch_count": 5,
        "retry_policy": { "retry_delay": 10 },
    });
    api.post("/message-queue/subscribe", wanted).await.expect(200);
    publish(&api, "delivery.events", 3).await;
    publish(&other, "delivery.events", 2).await;
    api.post("/message-queue/publish", json!({ "queue": "delivery.events", "message": [] }))
        .await
        .expect(400);
    publish(&api, "payment.events", 1).await;
    let expected = json!({
        "messages_published": 5, "messages_consumed": 5, "messages_acknowledged": 5, "messages_rejected": 0,
        "messages_redelivered": 5,
    });
    eventually(PATIENCE, "everything to be counted", async || {
        let seen = [figures(&api, "delivery.events").await, figures(&other, "delivery.events").await];
        if seen.iter().all(|seen| *seen == expected) { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await
    .unwrap();

    let mut status = api.get("/message-queue/queues/delivery.events").await.expect(200);
    shape(
        &status,
        &[
            ("queue", "s"),
            ("status", "s"),
            ("message_count", "n"),
            ("consumer_count", "n"),
            ("durable", "b"),
            ("auto_delete", "b"),
            ("exclusive", "b"),
            ("arguments", "o"),
            ("statistics", "o"),
            ("performance", "o"),
            ("created_at", "t"),
            ("last_updated", "t"),
        ],
    );
    let [performance] = take(&mut status, ["performance"]);
    shape(
        &performance,
        &[("average_publish_time", "ms"), ("average_consume_time", "ms"), ("throughput_per_second", "n")],
    );
    assert!(performance["throughput_per_second"].as_f64().unwrap() > 0.0);
    assert_ne!(performance["average_publish_time"], "0ms");
    assert_eq!(
        json!([status["queue"], status["status"], status["message_count"], status["consumer_count"]]),
        json!(["delivery.events", "active", 0, 1])
    );
}

#[tokio::test]
async fn metrics_are_of_all_queues_of_one_and_of_a_time() {
    let town = Town::new().await;
    let api = town.api().await;
    publish(&api, "a", 3).await;
    publish(&api, "b", 1).await;
    let metrics = async |query: &str| api.get(&format!("/message-queue/metrics{query}")).await.expect(200);
    let mut all = metrics("").await;
    let [rows] = take(&mut all, ["queue_metrics"]);
    shape(&all, &[("overview", "o"), ("performance", "o"), ("error_rates", "o"), ("generated_at", "t")]);
    shape(
        &all["overview"],
        &[
            ("total_queues", "n"),
            ("total_messages", "n"),
            ("total_consumers", "n"),
            ("average_throughput", "n"),
        ],
    );
    assert_eq!(json!([all["overview"]["total_queues"], all["overview"]["total_messages"]]), json!([2, 4]));
    shape(
        &all["performance"],
        &[
            ("average_publish_time", "ms"),
            ("average_consume_time", "ms"),
            ("p95_publish_time", "ms"),
            ("p95_consume_time", "ms"),
            ("p99_publish_time", "ms"),
            ("p99_consume_time", "ms"),
        ],
    );
    shape(
        &all["error_rates"],
        &[
            ("publish_errors", "n"),
            ("consume_errors", "n"),
            ("acknowledge_errors", "n"),
            ("reject_errors", "n"),
        ],
    );
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), 2);
    shape(
        &rows[0],
        &[
            ("queue", "s"),
            ("message_count", "n"),
            ("consumer_count", "n"),
            ("messages_published", "n"),
            ("messages_consumed", "n"),
            ("messages_acknowledged", "n"),
            ("messages_rejected", "n"),
            ("messages_redelivered", "n"),
            ("average_publish_time", "ms"),
            ("average_consume_time", "ms"),
            ("throughput_per_second", "n"),
        ],
    );
    assert_eq!(json!([rows[0]["queue"], rows[0]["messages_published"]]), json!(["a", 3]));

    let one = metrics("?queue=b").await;
    assert_eq!(json!([one["overview"]["total_queues"], one["overview"]["total_messages"]]), json!([1, 1]));
    assert_eq!(one["queue_metrics"].as_array().unwrap().len(), 1);
    let before = metrics("?queue=a&date_to=2024-01-31T23:59:59Z").await;
    assert_eq!(before["overview"]["total_messages"], 0);
    let since = metrics("?date_from=2024-01-01T00:00:00Z").await;
    assert_eq!(since["overview"]["total_messages"], 4);
}

#[tokio::test]
async fn what_there_is_not_and_what_is_no_date() {
    let town = Town::new().await;
    let api = town.api().await;
    for path in
        ["/message-queue/queues/nobody", "/message-queue/queues/a%20b", "/message-queue/metrics?queue=nobody"]
    {
        let answer = api.get(path).await;
        let body = answer.expect(404);
        assert_eq!(body["error"], "queue_not_found", "{body}");
        assert!(body["details"]["queue"].is_string() && body["message"].is_string(), "{body}");
    }
    for query in [
        "date_from=yesterday",
        "date_to=1",
        "date_from=2024-01-02T00:00:00Z&date_to=2024-01-01T00:00:00Z",
        "x=1",
    ] {
        let body = api.get(&format!("/message-queue/metrics?{query}")).await.expect(400);
        assert_eq!(body["error"], "invalid_message", "{body}");
        assert!(body["details"]["field"].is_string() && body["details"]["issue"].is_string(), "{body}");
    }
}

#[tokio::test]
async fn acknowledgments_and_their_failures_are_counted() {
    let town = Town::new().await;
    let api = town.api().await;
    let wanted = json!({ "queue": "a", "service_name": "billing" });
    let created = api.post("/message-queue/subscribe", wanted).await.expect(200);
    let path = format!("/v1/subscriptions/{}", created["subscription_id"].as_str().unwrap());
    let _routing = town.route().await;
    publish(&api, "a", 4).await;
    let mut pulled = Vec::new();
    while pulled.len() < 4 {
        let answer = api.post(&format!("{path}/pull"), json!({ "wait_seconds": 10 })).await.expect(200);
        pulled.extend(answer["deliveries"].as_array().unwrap().clone());
    }
    let id = |at: usize| pulled[at]["message_id"].as_str().unwrap().to_owned();
    for n in 0..2 {
        let path = format!("/message-queue/messages/{}/acknowledge", id(n));
        api.post(&path, json!({ "acknowledged_by": "billing" })).await.expect(200);
    }
    api.post(&format!("/message-queue/messages/{}/reject", id(2)), json!({ "requeue": false }))
        .await
        .expect(200);
    api.post(&format!("/message-queue/messages/{}/reject", id(0)), json!({})).await.expect(409);
    let expected = json!({
        "messages_published": 4, "messages_consumed": 4, "messages_acknowledged": 2, "messages_rejected": 1,
        "messages_redelivered": 0,
    });
    assert_eq!(figures(&api, "a").await, expected);
    let rates = api.get("/message-queue/metrics").await.expect(200)["error_rates"].clone();
    assert_eq!(json!([rates["acknowledge_errors"], rates["reject_errors"]]), json!([0.0, 0.5]));
    let info = api.get(&path).await.expect(200);
    assert_eq!(json!([info["message_count"], info["queued"], info["dead_letters"]]), json!([2, 1, 1]));
}

#[tokio::test]
async fn health_is_told_also_while_redis_is_away() {
    let town = Town::new().await;
    let api = town.api().await;
    publish(&api, "a", 1).await;
    let members = [
        ("status", "s"),
        ("version", "s"),
        ("uptime", "%"),
        ("broker", "o"),
        ("queues", "o"),
        ("consumers", "o"),
        ("performance", "o"),
        ("last_updated", "t"),
    ];
    let alone = api.get("/message-queue/health").await.expect(200);
    assert_eq!(alone["status"], "degraded", "neither router nor worker");
    let _delivering = town.deliver().await;
    eventually(PATIENCE, "a whole minute to be noted", async || {
        let health = api.get("/message-queue/health").await.expect(200);
        if health["uptime"] == "100.0%" { Ok(()) } else { Err(health.to_string()) }
    })
    .await
    .unwrap();
    let health = api.get("/message-queue/health").await.expect(200);
    shape(&health, &members);
    assert_eq!(health["status"], "healthy");
    shape(
        &health["broker"],
        &[("status", "s"), ("type", "s"), ("version", "s"), ("memory_usage", "B"), ("disk_usage", "B")],
    );
    assert_eq!(json!([health["broker"]["status"], health["broker"]["type"]]), json!(["connected", "redis"]));
    assert_eq!(health["queues"], json!({ "total": 1, "active": 1, "inactive": 0 }));
    assert_eq!(health["consumers"], json!({ "total": 0, "active": 0, "inactive": 0 }));
    shape(
        &health["performance"],
        &[("average_publish_time", "ms"), ("average_consume_time", "ms"), ("error_rate", "n")],
    );
    town.redis.kill().unwrap();
    let away = api.get("/message-queue/health").await.expect(503);
    assert_eq!(
        json!([away["status"], away["broker"]["status"], away["uptime"]]),
        json!(["unhealthy", "disconnected", null])
    );
    shape(&away, &members.map(|(name, kind)| if name == "uptime" { (name, "null") } else { (name, kind) }));
}
