//! `/health`, `/livez`, `/readyz`, `/metrics`.

use serde_json::{Value, json};

use crate::kit::{Town, is_time, take};

#[tokio::test]
async fn health_says_how_things_are() {
    let town = Town::new().await;
    let (api, _other) = (town.api().await, town.api().await);
    api.subscribe(json!({ "channel": "a" })).await;
    for channel in ["a", "a", "b"] {
        api.publish(json!({ "channel": channel, "payload": {} })).await.expect(202);
    }
    let before = town.dump().await;
    let mut health = api.get("/health").await.expect(200);
    assert_eq!(town.dump().await, before);

    let [at, uptime, id] = take(&mut health, ["timestamp", "uptime_seconds", "correlation_id"]);
    assert!(is_time(&at) && uptime.as_f64().is_some_and(|seconds| seconds > 0.0), "{at} {uptime}");
    assert!(id.as_str().unwrap().starts_with("req_"), "{id}");
    let [instances, mut unrouted, redis] = take(&mut health, ["instances", "unrouted", "redis"]);
    let instances = instances.as_array().unwrap();
    assert_eq!(instances.len(), 2);
    for instance in instances {
        assert_eq!((&instance["kind"], &instance["format"]), (&json!("ingest"), &json!(1)));
        assert!(instance["name"].as_str().unwrap().starts_with("ingest-"));
        assert!(instance["heard_ms_ago"].is_u64() && instance["version"].is_string());
    }
    assert!(take(&mut unrouted, ["oldest_ms"])[0].is_u64());
    assert_eq!(unrouted, json!({ "count": 3 }));
    assert!(redis["used_memory"].as_u64().unwrap() > 0 && redis["max_memory"] == 0);
    let expected = json!({
        "status": "degraded",
        "error": "no router and no worker is running",
        "redis_connected": true,
        "active_subscriptions": 1,
        "active_channels": 2,
        "version": env!("CARGO_PKG_VERSION"),
        "environment": "test",
        "service_name": "postroad",
        "durability": { "level": "memory", "append_only_file": false, "fsync": null, "replicas": 0 },
    });
    assert_eq!(health, expected);
}

#[tokio::test]
async fn a_daemon_says_that_it_lives_and_what_it_did() {
    let town = Town::new().await;
    let api = town.api().await;
    assert_eq!(api.get("/livez").await.expect(200), json!({ "status": "alive" }));
    assert_eq!(api.get("/readyz").await.expect(200), json!({ "status": "ready" }));
    let request = json!({ "channel": "a", "payload": {}, "metadata": { "message_id": "m" } });
    for status in [202, 200, 200] {
        api.publish(request.clone()).await.expect(status);
    }
    api.publish(json!({ "channel": "", "payload": {} })).await.expect(422);
    let metrics = api.get("/metrics").await;
    assert_eq!(metrics.status, 200);
    assert!(metrics.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    let text = String::from_utf8(metrics.body).unwrap();
    for line in [
        "postroad_messages_accepted_total 1",
        "postroad_messages_duplicate_total 2",
        "postroad_messages_refused_total 1",
        "postroad_messages_unavailable_total 0",
    ] {
        assert!(text.lines().any(|known| known == line), "no {line} in {text}");
    }
    assert!(text.ends_with("# EOF\n"));
}

#[tokio::test]
async fn heads_are_answered() {
    let town = Town::new().await;
    let api = town.api().await;
    for (path, status) in [("/health", 200), ("/v1/subscriptions", 200), ("/v1/messages/none", 404)] {
        let answer = api.send(&crate::kit::ask("HEAD", path)).await;
        assert_eq!((answer.status, answer.body.len()), (status, 0), "{path}");
        assert!(answer.header("content-length").is_some_and(|length| length != "0"), "{path}");
    }
    let _: Value = api.get("/health").await.json();
}
