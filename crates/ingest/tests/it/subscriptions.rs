//! `/v1/subscriptions`: created, listed, changed, paused, cancelled.

use std::sync::Arc;

use postroad_model::id::SubscriptionId;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::kit::{Api, Town, is_time, judge, path_of, refused, subscription, take};

/// What only running adds to `SubscriptionInfo`, for a subscription that nothing has happened to.
fn at_rest(info: &mut Value) {
    for (name, value) in [
        ("last_activity", Value::Null),
        ("message_count", json!(0)),
        ("error_count", json!(0)),
        ("queued", json!(0)),
        ("dead_letters", json!(0)),
        ("circuit_open", json!(false)),
        ("status_reason", Value::Null),
    ] {
        info[name] = value;
    }
}

async fn info(api: &Api, path: &str) -> Value {
    api.get(path).await.expect(200)
}

#[tokio::test]
async fn the_least_that_can_be_asked_for() {
    let town = Town::new().await;
    let api = town.api().await;
    let mut created = api.subscribe(json!({ "channel": "orders" })).await;
    let path = path_of(&created);
    let [id, secret, at] = take(&mut created, ["subscription_id", "secret", "created_at"]);
    assert!(id.as_str().unwrap().starts_with("sub_") && is_time(&at), "{id} {at}");
    let secret = secret.as_str().unwrap();
    assert!(secret.starts_with("whsec_") && secret.len() >= 6 + 32, "{secret}");
    let mut expected = json!({
        "success": true,
        "channel": "orders",
        "channel_pattern": null,
        "service_name": "billing",
        "status": "active",
        "error": null,
        "callback_url": "https://billing.example.com/hooks",
        "routing_key": null,
        "filter_criteria": null,
        "header_match": null,
        "max_retries": 3,
        "retry_delay": 60,
        "backoff_multiplier": 2,
        "prefetch_count": 32,
        "auto_ack": true,
        "ack_timeout": 30,
        "batch_size": 1,
        "rate_limit": null,
        "ordered": false,
        "format": "native",
        "dead_letter_queue": null,
    });
    assert_eq!(created, expected);

    let shown = api.get(&path).await;
    assert!(!String::from_utf8_lossy(&shown.body).contains(secret), "shown once only");
    take(&mut expected, ["success", "error"]);
    at_rest(&mut expected);
    for (name, value) in [
        ("subscription_id", id),
        ("created_at", at.clone()),
        ("updated_at", at),
        ("channel_pattern", json!("orders")),
        ("max_delivery_attempts", json!(4)),
    ] {
        expected[name] = value;
    }
    assert_eq!(shown.expect(200), expected);
    let listed = api.get("/v1/subscriptions").await.expect(200);
    assert_eq!(listed, json!({ "subscriptions": [expected], "next_cursor": null }));
}

/// Everything that can be asked for.
fn everything() -> Value {
    json!({
        "service_name": "billing",
        "callback_url": "https://user:password@billing.example.com/hooks?key=1",
        "channel_pattern": "orders.*",
        "filter_criteria": { "total": [{ "numeric": [">", 10] }], "state": "new" },
        "routing_key": "order.#",
        "header_match": { "x-match": "any", "kind": 7 },
        "headers": { "x-token": "hush", "authorization": "Bearer hush" },
        "max_retries": 100,
        "retry_delay": 0.25,
        "retry_policy": { "max_retries": 1, "retry_delay": 1, "backoff_multiplier": 1.5 },
        "prefetch_count": 10_000,
        "auto_ack": false,
        "ack_timeout": 43_200,
        "batch_size": 1_000,
        "rate_limit": 5,
        "ordered": true,
        "format": "cloudevents",
        "dead_letter_queue": "orders.dead",
    })
}

#[tokio::test]
async fn everything_that_can_be_asked_for_is_kept() {
    let town = Town::new().await;
    let api = town.api().await;
    let created = api.subscribe(everything()).await;
    let shown = info(&api, &path_of(&created)).await;
    for shown in [&created, &shown] {
        for (name, value) in [
            ("channel", Value::Null),
            ("channel_pattern", json!("orders.*")),
            ("callback_url", json!("https://***@billing.example.com/hooks?key=1")),
            ("filter_criteria", everything()["filter_criteria"].clone()),
            ("routing_key", json!("order.#")),
            ("header_match", everything()["header_match"].clone()),
            ("max_retries", json!(100)),
            ("retry_delay", json!(0.25)),
            ("backoff_multiplier", json!(1.5)),
            ("prefetch_count", json!(10_000)),
            ("auto_ack", json!(false)),
            ("ack_timeout", json!(43_200)),
            ("batch_size", json!(1_000)),
            ("rate_limit", json!(5)),
            ("ordered", json!(true)),
            ("format", json!("cloudevents")),
            ("dead_letter_queue", json!("orders.dead")),
        ] {
            assert_eq!(shown[name], value, "{name}");
        }
        let text = shown.to_string();
        assert!(!text.contains("hush") && !text.contains("password"), "{text}");
    }
}

#[tokio::test]
async fn a_patch_changes_what_it_names() {
    let town = Town::new().await;
    let api = town.api().await;
    // What it begins as, the patch, and what is other than before.
    let table = [
        (json!({ "channel": "a" }), json!({}), json!({})),
        (json!({ "channel": "a" }), json!({ "service_name": "other" }), json!({ "service_name": "other" })),
        (
            json!({ "channel": "a" }),
            json!({ "channel": "b" }),
            json!({ "channel": "b", "channel_pattern": "b" }),
        ),
        (
            json!({ "channel": "a" }),
            json!({ "channel_pattern": "b*" }),
            json!({ "channel": null, "channel_pattern": "b*" }),
        ),
        (everything(), json!({ "channel": "b" }), json!({ "channel": "b", "channel_pattern": "b" })),
        (everything(), json!({ "channel": null, "channel_pattern": "x" }), json!({ "channel_pattern": "x" })),
        (everything(), json!({ "filter_criteria": null }), json!({ "filter_criteria": null })),
        (everything(), json!({ "filter_criteria": { "a": 1 } }), json!({ "filter_criteria": { "a": 1 } })),
        (everything(), json!({ "header_match": { "b": null } }), json!({ "header_match": { "b": null } })),
        (
            everything(),
            json!({ "header_match": null, "routing_key": null }),
            json!({ "header_match": null, "routing_key": null }),
        ),
        (
            everything(),
            json!({ "callback_url": "https://example.com" }),
            json!({ "callback_url": "https://example.com/" }),
        ),
        (everything(), json!({ "max_retries": 5 }), json!({ "max_retries": 5, "max_delivery_attempts": 6 })),
        (
            everything(),
            json!({ "max_retries": null }),
            json!({ "max_retries": 3, "max_delivery_attempts": 4 }),
        ),
        (everything(), json!({ "retry_delay": 7.5 }), json!({ "retry_delay": 7.5 })),
        (everything(), json!({ "retry_delay": null }), json!({ "retry_delay": 60 })),
        (
            everything(),
            json!({ "retry_policy": { "backoff_multiplier": 3 } }),
            json!({ "backoff_multiplier": 3 }),
        ),
        (
            everything(),
            json!({ "retry_policy": { "max_retries": null, "retry_delay": 2 } }),
            json!({ "max_retries": 3, "max_delivery_attempts": 4, "retry_delay": 2 }),
        ),
        (
            everything(),
            json!({ "retry_policy": null }),
            json!({
                "max_retries": 3, "max_delivery_attempts": 4, "retry_delay": 60, "backoff_multiplier": 2,
            }),
        ),
        (everything(), json!({ "prefetch_count": 1 }), json!({ "prefetch_count": 1 })),
        (everything(), json!({ "prefetch_count": null }), json!({ "prefetch_count": 32 })),
        (everything(), json!({ "headers": { "x-token": null, "x-new": "1" } }), json!({})),
        (everything(), json!({ "headers": null }), json!({})),
    ];
    for (request, patch, change) in table {
        let created = api.subscribe(request).await;
        let path = path_of(&created);
        let mut expected = info(&api, &path).await;
        for (name, value) in change.as_object().unwrap() {
            expected[name] = value.clone();
        }
        let mut changed = api.patch(&path, patch.clone()).await.expect(200);
        assert_eq!(info(&api, &path).await, changed, "{patch}");
        let [before, after] = [&mut expected, &mut changed].map(|info| take(info, ["updated_at"])[0].clone());
        assert!(after.as_str() >= before.as_str(), "{patch}");
        assert_eq!(changed, expected, "{patch}");
    }
}

#[tokio::test]
async fn without_a_callback_it_is_pulled() {
    let town = Town::new().await;
    let api = town.api().await;
    let wanted = json!({ "service_name": "billing", "channel": "orders" });
    let pulled = api.post("/v1/subscriptions", wanted).await.expect(201);
    let path = path_of(&pulled);
    for (name, value) in
        [("callback_url", Value::Null), ("auto_ack", json!(false)), ("prefetch_count", json!(1_000))]
    {
        assert_eq!(pulled[name], value, "{name}");
    }
    let pushed = json!({ "callback_url": "https://example.com/", "auto_ack": true });
    let changed = api.patch(&path, pushed).await.expect(200);
    assert_eq!(
        (&changed["callback_url"], &changed["auto_ack"]),
        (&json!("https://example.com/"), &json!(true))
    );
    let back = api.patch(&path, json!({ "callback_url": null })).await.expect(200);
    assert_eq!((&back["callback_url"], &back["auto_ack"]), (&Value::Null, &json!(false)));
}

#[tokio::test]
async fn headers_are_mixed_and_the_secret_stays() {
    let town = Town::new().await;
    let (api, store) = (town.api().await, town.store());
    let created = api.subscribe(everything()).await;
    let id = SubscriptionId::new(created["subscription_id"].as_str().unwrap()).unwrap();
    let record = async || store.subscription(&id).await.unwrap().unwrap().subscription;
    let before = record().await;
    let steps = [
        (json!({ "headers": { "x-token": null, "x-new": "1" } }), vec!["authorization", "x-new"]),
        (json!({ "callback_url": "https://example.com" }), vec!["authorization", "x-new"]),
        (json!({ "headers": {} }), vec!["authorization", "x-new"]),
        (json!({ "headers": null }), vec![]),
    ];
    for (patch, names) in steps {
        api.patch(&path_of(&created), patch.clone()).await.expect(200);
        let now = record().await;
        assert_eq!(now.headers.keys().map(String::as_str).collect::<Vec<_>>(), names, "{patch}");
        assert!(now.secrets == before.secrets, "{patch}");
    }
}

#[tokio::test]
async fn pausing_resuming_and_cancelling_may_be_repeated() {
    let town = Town::new().await;
    let (one, two) = (town.api().await, town.api().await);
    let created = one.subscribe(json!({ "channel": "a" })).await;
    let path = path_of(&created);
    for (verb, status) in
        [("pause", "paused"), ("pause", "paused"), ("resume", "active"), ("resume", "active")]
    {
        for api in [&one, &two] {
            let answer = api.post(&format!("{path}/{verb}"), json!({})).await.expect(200);
            let mut expected = created.clone();
            take(&mut expected, ["secret"]);
            expected["status"] = json!(status);
            assert_eq!(answer, expected);
            assert_eq!(info(&two, &path).await["status"], status);
        }
    }
    one.post(&format!("{path}/pause"), json!({})).await.expect(200);
    assert_eq!(one.patch(&path, json!({ "max_retries": 1 })).await.expect(200)["status"], "paused");

    let id = &created["subscription_id"];
    let cancelled = json!({ "success": true, "subscription_id": id, "status": "cancelled" });
    assert_eq!(one.delete(&path).await.expect(200), cancelled);
    let gone = refused(404, "not_found", "", "there is no subscription");
    for api in [&one, &two] {
        for answer in [
            api.delete(&path).await,
            api.get(&path).await,
            api.patch(&path, json!({})).await,
            api.post(&format!("{path}/pause"), json!({})).await,
            api.post(&format!("{path}/resume"), json!({})).await,
        ] {
            judge(&answer, gone).unwrap_or_else(|problem| panic!("{problem}: {}", answer.text()));
            assert_eq!(answer.json()["details"], json!({ "what": "subscription", "id": id }));
        }
        let listed = api.get("/v1/subscriptions").await.expect(200);
        assert_eq!(listed, json!({ "subscriptions": [], "next_cursor": null }));
    }
}

#[tokio::test]
async fn calls_at_the_same_time_do_not_undo_each_other() {
    let town = Town::new().await;
    let apis: [Arc<Api>; 2] = [town.api().await.into(), town.api().await.into()];
    let created = apis[0].subscribe(json!({ "channel": "a" })).await;
    let path = Arc::new(path_of(&created));
    let patches = [json!({ "max_retries": 9 }), json!({ "retry_delay": 9 }), json!({ "prefetch_count": 9 })];
    let mut calls = JoinSet::new();
    for (at, patch) in patches.into_iter().enumerate() {
        let (api, path) = (apis[at % 2].clone(), path.clone());
        calls.spawn(async move { api.patch(&path, patch).await });
    }
    for answer in calls.join_all().await {
        answer.expect(200);
    }
    let shown = info(&apis[0], &path).await;
    let seen = ["max_retries", "retry_delay", "prefetch_count"].map(|name| shown[name].as_f64());
    assert_eq!(seen, [Some(9.0); 3]);

    let mut calls = JoinSet::new();
    for at in 0..10 {
        let (api, path) = (apis[at % 2].clone(), path.clone());
        calls.spawn(async move {
            match at {
                0..6 => api.delete(&path).await,
                _ => api.post(&format!("{path}/pause"), json!({})).await,
            }
        });
    }
    let mut cancelled = 0;
    for answer in calls.join_all().await {
        assert!([200, 404].contains(&answer.status), "{}", answer.text());
        cancelled += usize::from(answer.status == 200 && answer.json()["status"] == "cancelled");
    }
    assert_eq!(cancelled, 1);
    apis[1].get(&path).await.refusal().unwrap();
}

#[tokio::test]
async fn pages_lead_through_all_of_them() {
    let town = Town::new().await;
    let api = town.api().await;
    let mut ids = Vec::new();
    for n in 0..7 {
        let service = if n > 4 { "läden" } else { "billing" };
        let request = json!({ "channel": format!("c{}", n % 2), "service_name": service });
        let created = api.subscribe(request).await;
        if n % 3 == 0 {
            api.post(&format!("{}/pause", path_of(&created)), json!({})).await.expect(200);
        }
        ids.push(created["subscription_id"].clone());
    }
    api.subscribe(json!({ "channel_pattern": "c*" })).await;
    let whole = api.get("/v1/subscriptions").await.expect(200)["subscriptions"].as_array().unwrap().clone();
    assert_eq!(whole.len(), 8);
    for (query, count) in [
        ("", 8),
        ("channel=c0", 4),
        ("channel=c1", 3),
        ("channel=c*", 1),
        ("channel=c", 0),
        ("status=paused", 3),
        ("status=active&channel=c1", 2),
        ("status=disabled", 0),
        ("service_name=billing", 6),
        ("service=l%C3%A4den", 2),
        ("service=billing&status=paused&channel=c0", 1),
    ] {
        for limit in [1, 2, 3, 8, 500] {
            let mut seen: Vec<Value> = Vec::new();
            let mut cursor = String::new();
            let mut pages = 0;
            loop {
                let page =
                    api.get(&format!("/v1/subscriptions?{query}&limit={limit}{cursor}")).await.expect(200);
                let rows = page["subscriptions"].as_array().unwrap();
                assert!(rows.len() <= limit, "{query} {limit}");
                seen.extend(rows.clone());
                pages += 1;
                let Some(next) = page["next_cursor"].as_str() else { break };
                assert!(rows.len() == limit, "a page that is not full is the last");
                cursor = format!("&cursor={next}");
            }
            assert_eq!(seen.len(), count, "{query} {limit}");
            assert_eq!(pages, count.div_ceil(limit).max(1), "{query} {limit}");
            assert!(seen.iter().all(|row| whole.contains(row)), "{query} {limit}");
            seen.dedup_by_key(|row| row["subscription_id"].to_string());
            assert_eq!(seen.len(), count, "{query} {limit}: none twice");
        }
    }
}

#[tokio::test]
async fn a_tenant_has_so_many_and_no_more() {
    let mut town = Town::new().await;
    town.config.ingest.max_subscriptions = 2;
    let api = town.api().await;
    let first = api.subscribe(json!({ "channel": "a" })).await;
    api.subscribe(json!({ "channel": "a" })).await;
    let before = town.dump().await;
    let mut request = subscription();
    request["channel"] = json!("a");
    let answer = api.post("/v1/subscriptions", request).await;
    judge(&answer, refused(409, "too_many_subscriptions", "", "2 subscriptions, the most")).unwrap();
    assert_eq!(town.dump().await, before);
    api.patch(&path_of(&first), json!({ "max_retries": 1 })).await.expect(200);
    api.delete(&path_of(&first)).await.expect(200);
    api.subscribe(json!({ "channel": "a" })).await;
}
