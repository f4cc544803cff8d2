//! `/health`, `/livez`, `/readyz`, `/metrics`.

use postroad_store::Claim;
use serde_json::{Value, json};

use crate::kit::{Town, is_time, path_of, take};

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
    let [instances, mut unrouted, redis, partitions, oldest] =
        take(&mut health, ["instances", "unrouted", "redis", "partitions", "oldest_retained"]);
    let instances = instances.as_array().unwrap();
    assert_eq!(instances.len(), 2);
    for instance in instances {
        assert_eq!((&instance["kind"], &instance["format"]), (&json!("ingest"), &json!(1)));
        assert!(instance["name"].as_str().unwrap().starts_with("ingest-"));
        assert!(instance["heard_ms_ago"].is_u64() && instance["version"].is_string());
    }
    assert!(take(&mut unrouted, ["oldest_ms"])[0].is_u64());
    assert_eq!(unrouted, json!({ "count": 3 }));
    let partitions = partitions.as_array().unwrap();
    let waits: Vec<u64> = partitions.iter().map(|row| row["count"].as_u64().unwrap()).collect();
    assert_eq!((waits.len(), waits.iter().sum::<u64>()), (4, 3));
    for (row, number) in partitions.iter().zip(0u16..) {
        assert!(row["partition"] == number && row["owner"].is_null() && row["oldest_ms"].is_u64(), "{row}");
    }
    assert!(is_time(&oldest), "{oldest}");
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
        "queues": {
            "subscriptions": 0, "queued": 0, "queued_is_complete": true, "ready": 0, "oldest_ready_ms": 0,
        },
        "durability": { "level": "memory", "append_only_file": false, "fsync": null, "replicas": 0 },
    });
    assert_eq!(health, expected);
}

#[tokio::test]
async fn health_says_whose_lag_it_is() {
    let town = Town::new().await;
    let api = town.api().await;
    assert_eq!(api.get("/health").await.expect(200)["oldest_retained"], Value::Null);
    for n in 0..20 {
        let metadata = json!({ "message_id": format!("m-{n}") });
        api.publish(json!({ "channel": "a", "payload": {}, "metadata": metadata })).await.expect(202);
    }
    // A router that owns half of the partitions and does nothing, and a worker that holds seven deliveries.
    let store = town.store();
    store.heartbeat("router-1", r#"{"kind":"router","version":"x","format":1}"#, 60_000).await.unwrap();
    store.heartbeat("worker-1", r#"{"kind":"worker","in_flight":7}"#, 60_000).await.unwrap();
    let claims = [0, 2].map(|partition| Claim { partition, epoch: None, take: true });
    store.claim("router-1", 60_000, &claims).await.unwrap();
    let paused = api.subscribe(json!({ "channel": "b" })).await;
    api.post(&format!("{}/pause", path_of(&paused)), json!({})).await.expect(200);
    api.subscribe(json!({ "channel": "b" })).await;

    let health = api.get("/health").await.expect(200);
    assert_eq!((&health["status"], &health["error"]), (&json!("healthy"), &Value::Null));
    assert_eq!(health["active_subscriptions"], 1, "the other one is paused");
    let of = |name: &str| {
        let instances = health["instances"].as_array().unwrap();
        instances.iter().find(|instance| instance["name"] == name).unwrap().clone()
    };
    let waits = |partition: usize| health["partitions"][partition]["count"].as_u64().unwrap();
    assert_eq!(waits(0) + waits(1) + waits(2) + waits(3), 20);
    assert_eq!(of("router-1")["unrouted"]["count"], waits(0) + waits(2));
    assert_eq!(
        (&health["partitions"][2]["owner"], &health["partitions"][1]["owner"]),
        (&json!("router-1"), &Value::Null)
    );
    assert_eq!((&of("worker-1")["in_flight"], &of("worker-1")["unrouted"]), (&json!(7), &Value::Null));
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
