//! `/v1/metrics` and `/v1/channels/{name}/stats`: what really happened, whichever instance is asked.

use std::time::Duration;

use postroad_member::tally::Tally;
use postroad_model::{
    delivery::{Outcome, Progress, judge},
    figures::{Count, Figures, Judged},
    names::{ChannelName, Tenant},
    subscription::RetryPolicy,
    time::Time,
};
use postroad_store::{Flush, Row};
use postroad_testkit::wait::eventually;
use serde_json::{Value, json};

use crate::kit::{Api, PATIENCE, Town, is_time, path_of};

/// The fields of `MetricsResponse` and `ChannelStats`, with their types, as the reference has them.
const METRICS: [(&str, &str); 11] = [
    ("service_name", "str"),
    ("timestamp", "datetime"),
    ("total_messages_published", "int"),
    ("total_messages_delivered", "int"),
    ("total_messages_failed", "int"),
    ("active_subscriptions", "int"),
    ("active_channels", "int"),
    ("redis_memory_usage", "int"),
    ("avg_message_size", "float"),
    ("messages_per_second", "float"),
    ("error_rate", "float"),
];
const STATS: [(&str, &str); 7] = [
    ("name", "str"),
    ("messages_published", "int"),
    ("messages_delivered", "int"),
    ("messages_failed", "int"),
    ("active_subscriptions", "int"),
    ("avg_delivery_time", "float"),
    ("last_24h_activity", "int"),
];
const HEALTH: [(&str, &str); 11] = [
    ("status", "str"),
    ("timestamp", "datetime"),
    ("redis_connected", "bool"),
    ("active_subscriptions", "int"),
    ("active_channels", "int"),
    ("uptime_seconds", "float"),
    ("version", "str"),
    ("environment", "str"),
    ("service_name", "str"),
    ("error", "Optional[str]"),
    ("correlation_id", "str"),
];

#[track_caller]
fn has_fields(body: &Value, fields: &[(&str, &str)]) {
    for (name, kind) in fields {
        let value = body.get(name).unwrap_or_else(|| panic!("no {name} in {body}"));
        let fits = match *kind {
            "str" => value.is_string(),
            "Optional[str]" => value.is_string() || value.is_null(),
            "bool" => value.is_boolean(),
            "int" => value.is_u64(),
            "float" => value.is_f64(),
            "datetime" => is_time(value),
            other => panic!("a type {other}"),
        };
        assert!(fits, "{name} is no {kind}: {value}");
    }
}

impl Api {
    async fn metrics(&self) -> Value {
        self.get("/v1/metrics").await.expect(200)
    }

    async fn stats(&self, channel: &str) -> Value {
        self.get(&format!("/v1/channels/{channel}/stats")).await.expect(200)
    }

    async fn give(&self, channel: &str, payload: Value) {
        self.publish(json!({ "channel": channel, "payload": payload })).await.expect(202);
    }
}

/// Counts what a worker would: so many answers with a status, each after so many milliseconds.
fn delivered(tally: &Tally, channel: &str, status: u16, ages_ms: impl IntoIterator<Item = u64>) {
    let (tenant, channel) = (Tenant::single(), ChannelName::new(channel).unwrap());
    let policy = RetryPolicy { max_retries: 0, ..RetryPolicy::default() };
    let outcome = Outcome::Answered { status, retry_after_ms: None };
    let before = Progress::default();
    let verdict = judge(&policy, true, before, &outcome, 0.0);
    for age_ms in ages_ms {
        let judged = Judged { outcome: &outcome, before, verdict: &verdict, took_us: 1_000, age_ms };
        tally.judged(&tenant, &channel, judged);
    }
}

#[tokio::test]
async fn metrics_tell_what_happened_whichever_instance_is_asked() {
    let town = Town::new().await;
    let (api, other) = (town.api().await, town.api().await);
    let nothing = api.metrics().await;
    has_fields(&nothing, &METRICS);
    has_fields(&api.get("/health").await.expect(200), &HEALTH);
    for (name, _) in &METRICS[2..] {
        assert!(*name == "redis_memory_usage" || nothing[name].as_f64() == Some(0.0), "{name}: {nothing}");
    }

    let paused = api.subscribe(json!({ "channel": "a" })).await;
    api.post(&format!("{}/pause", path_of(&paused)), json!({})).await.expect(200);
    api.subscribe(json!({ "channel": "a" })).await;
    // Payloads of 9 and 13 bytes, through one and the other.
    for _ in 0..3 {
        api.give("a", json!({ "n": 123 })).await;
    }
    other.give("b", json!({ "n": 1234567 })).await;
    let request = json!({ "channel": "a", "payload": {}, "metadata": { "message_id": "once" } });
    for status in [202, 200, 200] {
        other.publish(request.clone()).await.expect(status);
    }
    // Refused: with a channel, without one, and one row of a bulk.
    api.publish(json!({ "channel": "a", "payload": 7 })).await.expect(422);
    api.publish(json!({ "channel": "no channel", "payload": {} })).await.expect(422);
    let rows = json!([{ "channel": "c", "payload": {} }, { "channel": "c", "payload": {}, "ttl": 1 }]);
    api.post("/v1/messages/bulk", json!({ "messages": rows })).await.expect(207);
    let worker = Tally::open(town.store(), "worker-x".into());
    delivered(&worker, "a", 200, [10, 20]);
    delivered(&worker, "a", 500, [30]);
    worker.on(&Tenant::single(), Some(&ChannelName::new("b").unwrap()), |figures| {
        figures.add(Count::Unroutable, 1);
    });
    worker.flush().await.unwrap();

    let own = other.metrics().await["total_messages_published"].as_u64().unwrap();
    assert!(own >= 2, "an instance shows at once what it has done itself: {own}");
    let seen = eventually(PATIENCE, "both to tell of everything", async || {
        let (one, two) = (api.metrics().await, other.metrics().await);
        let done = |seen: &Value| {
            (seen["total_messages_published"] == 6)
                && seen["total_publish_errors"] == 3
                && seen["active_subscriptions"] == 1
        };
        if done(&one) && done(&two) { Ok([one, two]) } else { Err(format!("{one} {two}")) }
    })
    .await
    .unwrap();
    for seen in &seen {
        let expected = json!({
            "service_name": "postroad",
            "total_messages_published": 6,
            "total_messages_delivered": 2,
            "total_messages_failed": 1,
            "active_subscriptions": 1,
            "active_channels": 3,
            "avg_message_size": (3.0 * 9.0 + 13.0 + 2.0 + 2.0) / 6.0,
            "error_rate": 1.0 / 3.0,
            "total_messages_unroutable": 1,
            "total_messages_acknowledged": 2,
            "total_attempts_failed": 1,
            "total_publish_errors": 3,
        });
        for (name, value) in expected.as_object().unwrap() {
            assert_eq!(&seen[name], value, "{name}");
        }
        assert!(seen["redis_memory_usage"].as_u64().unwrap() > 100_000);
        // Six messages in the time that there was, which is at least a second and less than this test's patience.
        let rate = seen["messages_per_second"].as_f64().unwrap();
        assert!(rate > 6.0 / 60.0 && rate <= 6.0, "{rate}");
    }
}

#[tokio::test]
async fn a_channels_stats_are_its_own() {
    let town = Town::new().await;
    let api = town.api().await;
    let unknown = api.get("/v1/channels/a/stats").await.expect(404);
    assert_eq!(unknown["error_code"], "not_found");
    api.get("/v1/channels/not%20a%20name/stats").await.expect(404);
    // Refused publishes make no channel.
    api.publish(json!({ "channel": "a", "payload": 7 })).await.expect(422);
    api.get("/v1/channels/a/stats").await.expect(404);

    for subscription in
        [json!({ "channel": "a/b" }), json!({ "channel_pattern": "a*" }), json!({ "channel": "c" })]
    {
        api.subscribe(subscription).await;
    }
    let cancelled = api.subscribe(json!({ "channel": "a/b" })).await;
    api.give("a/b", json!({})).await;
    api.give("c", json!({})).await;
    assert_eq!(api.stats("a%2Fb").await["active_subscriptions"], 3);
    api.delete(&path_of(&cancelled)).await.expect(200);
    let worker = Tally::open(town.store(), "worker-x".into());
    delivered(&worker, "a/b", 200, 1..=1_000);
    delivered(&worker, "a/b", 500, [1, 1]);
    worker.flush().await.unwrap();
    let stats = api.stats("a%2Fb").await;
    has_fields(&stats, &STATS);
    let expected = json!({
        "name": "a/b",
        "messages_published": 1,
        "messages_delivered": 1_000,
        "messages_failed": 2,
        "active_subscriptions": 2,
        "avg_delivery_time": 0.5005,
        "last_24h_activity": 1,
        "messages_unroutable": 0,
        "messages_acknowledged": 1_000,
        "attempts_failed": 2,
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&stats[name], value, "{name}");
    }
    for (name, exact) in [("p95_delivery_time", 0.950), ("p99_delivery_time", 0.990)] {
        let told = stats[name].as_f64().unwrap();
        assert!((told - exact).abs() <= exact * 0.06, "{name}: {told}");
    }
}

#[tokio::test]
async fn dates_choose_what_is_told() {
    let town = Town::new().await;
    let (api, store) = (town.api().await, town.store());
    let channel = ChannelName::new("a").unwrap();
    let now = store.clock().await.unwrap();
    // Messages of earlier days: 2 sixty days ago, 4 thirty hours ago, 8 three hours ago.
    for (number, (count, hours)) in (1u64..).zip([(2, 60 * 24), (4, 30), (8, 3)]) {
        let mut figures = Figures::default();
        (0..count).for_each(|_| figures.published(100, 5));
        for scope in [Some(channel.clone()), None] {
            let partition = store.layout().partition_of_figures(&Tenant::single(), scope.as_ref());
            let row = Row { tenant: Tenant::single(), channel: scope, figures: figures.clone() };
            let ago = Duration::from_secs(hours * 3_600);
            let flush = Flush { partition, number, began: ago, ended: ago, rows: vec![row] };
            let me = format!("ingest-{partition}");
            // Both may lie in one partition: then the second needs a number of its own.
            let flush = Flush { number: number * 2 + u64::from(flush.rows[0].channel.is_none()), ..flush };
            store.tally(&me, &[flush]).await.unwrap().remove(0).unwrap();
        }
    }
    api.give("a", json!({})).await;
    let at = |hours: u64| Time::from_millis(now - hours * 3_600_000).to_string();
    let table = [
        (String::new(), 15),
        (format!("?date_from={}", at(1)), 1),
        (format!("?date_from={}", at(4)), 9),
        (format!("?date_from={}&date_to={}", at(4), at(2)), 8),
        (format!("?date_from={}&date_to={}", at(40), at(20)), 4),
        (format!("?date_to={}", at(20)), 6),
        (format!("?date_from={}&date_to={}", at(80 * 24), at(50 * 24)), 2),
        (format!("?date_from={}&date_to={}", at(10), at(5)), 0),
        ("?date_from=2999-01-01T00:00:00Z".to_owned(), 0),
    ];
    for (query, count) in table {
        let stats = api.get(&format!("/v1/channels/a/stats{query}")).await.expect(200);
        assert_eq!(stats["messages_published"], count, "{query}");
        assert_eq!(stats["last_24h_activity"], 9, "whatever the dates");
        let metrics = api.get(&format!("/v1/metrics{query}")).await.expect(200);
        assert_eq!(metrics["total_messages_published"], count, "{query}");
    }
    let metrics = api.get(&format!("/v1/metrics?date_from={}&date_to={}", at(4), at(2))).await.expect(200);
    let rate = metrics["messages_per_second"].as_f64().unwrap();
    assert!((rate - 8.0 / 7_200.0).abs() < 1e-6, "{rate}: eight in two hours");

    for (query, field) in [
        ("?date_from=yesterday", "date_from"),
        ("?date_to=2026-01-01", "date_to"),
        ("?date_from=2026-01-02T00:00:00Z&date_to=2026-01-01T00:00:00Z", "date_from"),
        ("?queue=a", "queue"),
    ] {
        for path in ["/v1/metrics", "/v1/channels/a/stats"] {
            let refused = api.get(&format!("{path}{query}")).await;
            assert_eq!(refused.refusal().unwrap()["details"]["field"], field, "{path}{query}");
            assert_eq!(refused.status, 422);
        }
    }
}

#[tokio::test]
async fn figures_of_one_channel_too_many_are_said_to_be_missing() {
    let town = Town::new().await;
    let api = town.api().await;
    // The lists of the tenant's channels are full.
    let now = town.store().clock().await.unwrap();
    let fill = "for n = 1, 2500 do redis.call('ZADD', KEYS[1], ARGV[1], 'c' .. n) end";
    let partition =
        town.store().layout().partition_of_figures(&Tenant::single(), Some(&ChannelName::new("a").unwrap()));
    let layout = town.store().layout();
    let key = postroad_store::keys::Keys::new("test", layout)
        .key(postroad_store::keys::Tag::Partition(partition), "figures:channels:default");
    town.redis.command(&["EVAL", fill, "1", &key, &now.to_string()]).await.unwrap();
    api.give("a", json!({})).await;
    let refused = api.get("/v1/channels/a/stats").await.expect(404);
    assert_eq!(refused["error_code"], "no_figures");
    assert_eq!(api.metrics().await["total_messages_published"], 1, "its tenant's count it");
}

#[tokio::test]
async fn what_cannot_be_stored_is_an_error_of_its_channel() {
    let town = Town::new().await;
    let api = town.api().await;
    api.give("a", json!({})).await;
    api.stats("a").await;
    town.full(true).await;
    eventually(PATIENCE, "publishing to be refused", async || {
        let answer = api.publish(json!({ "channel": "a", "payload": {} })).await;
        if answer.status == 503 { Ok(()) } else { Err(answer.text()) }
    })
    .await
    .unwrap();
    // Figures are shown also while Redis takes none.
    assert_eq!(api.stats("a").await["name"], "a");
    town.full(false).await;
    eventually(PATIENCE, "the error to be told", async || {
        let errors = api.metrics().await["total_publish_errors"].as_u64().unwrap();
        if errors >= 1 { Ok(()) } else { Err(errors) }
    })
    .await
    .unwrap();
}
