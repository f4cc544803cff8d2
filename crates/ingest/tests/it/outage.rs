//! A Redis that is away, frozen, restarted or full.

use std::{sync::Arc, time::Duration};

use postroad_testkit::{
    proxy::{Direction, Proxy},
    redis::{Fsync, PrivateRedis},
    wait::eventually,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::kit::{
    Answer, Api, Ask, PATIENCE, Refused, Town, ask, judge, path_of, refused, subscription, timed,
};

const AWAY: Refused = refused(503, "redis_unavailable", "", "Redis is away");
const FULL: Refused = refused(503, "storage_full", "", "Redis is full");

/// An API whose Redis can be cut off.
async fn behind_a_proxy() -> (Town, Proxy) {
    let mut town = Town::new().await;
    let proxy = Proxy::start(town.redis.addr()).await.unwrap();
    town.config.base.redis.url = town.redis.url_through(proxy.addr());
    (town, proxy)
}

fn message(id: &str) -> Value {
    json!({ "channel": "a", "payload": { "id": id }, "metadata": { "message_id": id } })
}

fn publish(id: &str) -> Ask {
    ask("POST", "/v1/messages").json(message(id).to_string())
}

/// Publishes that are refused while Redis does not take any.
fn publishes(id: &str) -> [Ask; 4] {
    let bulk = |more: &str| {
        ask("POST", "/v1/messages/bulk").json(format!(
            r#"{{"messages":[{},{}]{more}}}"#,
            message(id),
            message("other")
        ))
    };
    let raw = ask("POST", "/v1/channels/a/messages").header("idempotency-key", id).body("x");
    [publish(id), bulk(""), bulk(r#","fail_on_error":true"#), raw]
}

/// Changes of subscriptions, of which the one at `path` is there.
fn changes(path: &str) -> [Ask; 5] {
    let mut request = subscription();
    request["channel"] = json!("a");
    [
        ask("POST", "/v1/subscriptions").json(request.to_string()),
        ask("PATCH", path).json(r#"{"max_retries":9}"#),
        ask("POST", format!("{path}/pause")),
        ask("POST", format!("{path}/resume")),
        ask("DELETE", path),
    ]
}

fn reads(path: &str) -> [Ask; 4] {
    ["/v1/messages/there", "/v1/messages/there/deliveries", "/v1/subscriptions", path]
        .map(|path| ask("GET", path))
}

#[track_caller]
fn is_refused(answer: &Answer, expected: Refused, seconds: &str, case: &Ask) {
    let case = format!("{} {}", case.method, String::from_utf8_lossy(&case.path));
    judge(answer, expected).unwrap_or_else(|problem| panic!("{case}: {problem}: {}", answer.text()));
    assert_eq!(answer.header("retry-after"), Some(seconds), "{case}");
}

/// Sooner or later a publish is accepted, and none that was refused before was stored.
async fn is_accepted(api: &Api, id: &str) {
    let accepted = eventually(PATIENCE, "a publish to be accepted", async || {
        let answer = api.send(&publish(id)).await;
        if answer.status < 300 { Ok(answer) } else { Err(answer.text()) }
    })
    .await
    .unwrap()
    .expect(202);
    assert_eq!((&accepted["message_id"], accepted.get("duplicate")), (&json!(id), None));
}

async fn is_ready(api: &Api, expected: u16) {
    eventually(PATIENCE, format!("/readyz to answer {expected}"), async || {
        let answer = api.get("/readyz").await;
        if answer.status == expected { Ok(()) } else { Err(answer.text()) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn every_call_says_that_redis_is_away_and_works_when_it_is_back() {
    let (mut town, proxy) = behind_a_proxy().await;
    town.config.ingest.patience_ms = 300;
    let api = town.api().await;
    let path = path_of(&api.subscribe(json!({ "channel": "a" })).await);
    api.send(&publish("there")).await.expect(202);
    let before = town.dump().await;

    proxy.cut().await;
    for call in publishes("m").iter().chain(&changes(&path)).chain(&reads(&path)) {
        is_refused(&api.send(call).await, AWAY, "1", call);
    }
    let health = api.get("/health").await.expect(503);
    assert_eq!((&health["status"], &health["redis_connected"]), (&json!("unhealthy"), &json!(false)));
    assert!(
        health["error"].as_str().unwrap().contains("unavailable") && health["service_name"] == "postroad"
    );
    is_ready(&api, 503).await;
    api.get("/livez").await.expect(200);
    // What is wrong is wrong also now.
    api.publish(json!({ "channel": "", "payload": {} })).await.expect(422);
    api.get("/v1/nowhere").await.expect(404);
    assert_eq!(town.dump().await, before);

    proxy.heal().await.unwrap();
    is_accepted(&api, "m").await;
    for call in reads(&path) {
        api.send(&call).await.expect(200);
    }
    assert_eq!(api.get("/v1/messages/m").await.expect(200)["payload"], json!({ "id": "m" }));
    is_ready(&api, 200).await;
}

#[tokio::test]
async fn a_publish_outlasts_a_short_absence() {
    let (mut town, proxy) = behind_a_proxy().await;
    town.config.ingest.patience_ms = 15_000;
    let api = Arc::new(town.api().await);
    proxy.cut().await;
    let mut calls = JoinSet::new();
    for n in 0..20 {
        let api = api.clone();
        calls.spawn(async move { (n, api.send(&publish(&format!("m{n}"))).await) });
    }
    for n in 20..40 {
        let api = api.clone();
        calls.spawn(async move { (n, api.publish(json!({ "channel": "a", "payload": {} })).await) });
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(calls.try_join_next().is_none(), "none is answered yet");
    proxy.heal().await.unwrap();
    for (n, answer) in calls.join_all().await {
        let body = answer.expect(202);
        let id = body["message_id"].as_str().unwrap();
        assert!(if n < 20 { id == format!("m{n}") } else { id.starts_with("msg_") }, "{body}");
        api.get(&format!("/v1/messages/{id}")).await.expect(200);
    }
    assert_eq!(town.stored().await, 40);
}

#[tokio::test]
async fn a_reply_that_was_lost_leaves_one_message() {
    let (town, proxy) = behind_a_proxy().await;
    let api = town.api().await;
    for n in 0..5 {
        let id = format!("m{n}");
        // The script has run when the first byte of its reply comes through.
        proxy.cut_after_bytes(Direction::ToClient, 1);
        let (answer, ()) = tokio::join!(async { api.send(&publish(&id)).await }, async {
            proxy.wait_until_cut(PATIENCE).await.unwrap();
            proxy.heal().await.unwrap();
        });
        assert!([200, 202].contains(&answer.status), "{}", answer.text());
        assert_eq!(answer.json()["message_id"], id);
        api.send(&publish(&id)).await.expect(200);
        assert_eq!(town.stored().await, n + 1);
    }
}

#[tokio::test]
async fn nobody_waits_longer_than_its_patience() {
    let (mut town, proxy) = behind_a_proxy().await;
    town.config.ingest.patience_ms = 500;
    // An answer may take so long that only the patience can end the wait.
    town.config.base.redis.response_timeout_ms = 120_000;
    town.config.base.redis.connect_timeout_ms = 120_000;
    let api = Arc::new(town.api().await);
    api.send(&publish("first")).await.expect(202);
    proxy.freeze();
    let mut calls = JoinSet::new();
    for n in 0..12 {
        let api = api.clone();
        calls.spawn(async move {
            // Some find a flight out already.
            tokio::time::sleep(Duration::from_millis(100 * n)).await;
            let call = &publishes(&format!("m{n}"))[usize::try_from(n).unwrap() % 4];
            let (answer, took) = timed(api.send(call)).await;
            is_refused(&answer, AWAY, "1", call);
            took
        });
    }
    for took in calls.join_all().await {
        assert!(took < PATIENCE, "{took:?}");
    }
    proxy.heal().await.unwrap();
    for n in 0..12 {
        let id = format!("m{n}");
        eventually(PATIENCE, "a publish to be accepted", async || {
            let answer = api.send(&publish(&id)).await;
            if [200, 202].contains(&answer.status) { Ok(()) } else { Err(answer.text()) }
        })
        .await
        .unwrap();
    }
    let in_the_raw = ["m3", "m7", "m11"].len();
    let most = 1 + 12 + 1 + in_the_raw;
    let stored = town.stored().await;
    assert!(
        (13..=most).contains(&stored),
        "{stored}: each once, and what was frozen on its way at most once"
    );
}

#[tokio::test]
async fn what_was_accepted_survives_a_kill_of_redis() {
    let redis = PrivateRedis::builder().append_only(Fsync::Always).start().await.unwrap();
    let town = Town::on(redis);
    let api = town.api().await;
    let durability = &api.get("/health").await.expect(200)["durability"];
    let expected = json!({ "level": "fsync", "append_only_file": true, "fsync": "always", "replicas": 0 });
    assert_eq!(durability, &expected);
    let created = api.subscribe(json!({ "channel": "a" })).await;
    for n in 0..20 {
        api.send(&publish(&format!("m{n}"))).await.expect(202);
    }
    town.redis.kill().unwrap();
    is_refused(&api.send(&publish("late")).await, AWAY, "1", &publish("late"));
    town.redis.restart().await.unwrap();
    for n in 0..20 {
        let id = format!("m{n}");
        let shown = eventually(PATIENCE, "the message to be found", async || {
            let answer = api.get(&format!("/v1/messages/{id}")).await;
            if answer.status == 200 { Ok(answer.json()) } else { Err(answer.text()) }
        })
        .await
        .unwrap();
        assert_eq!(shown["payload"], json!({ "id": id }));
        api.send(&publish(&id)).await.expect(200);
    }
    api.get(&path_of(&created)).await.expect(200);
    api.send(&publish("late")).await.expect(202);
    assert_eq!(town.stored().await, 21);
}

#[tokio::test]
async fn a_full_redis_takes_nothing_and_still_tells() {
    let town = Town::new().await;
    let api = town.api().await;
    let path = path_of(&api.subscribe(json!({ "channel": "a" })).await);
    api.send(&publish("there")).await.expect(202);
    let before = town.dump().await;
    town.full(true).await;
    for call in publishes("m") {
        is_refused(&api.send(&call).await, FULL, "5", &call);
    }
    for call in reads(&path) {
        api.send(&call).await.expect(200);
    }
    assert_eq!(api.get("/health").await.expect(200)["redis"]["max_memory"], 1);
    api.get("/readyz").await.expect(200);
    assert_eq!(town.dump().await, before);
    // Whoever must pause or cancel to get out of it can.
    for call in changes(&path) {
        let answer = api.send(&call).await;
        assert!(answer.status < 300, "{} {}", call.method, answer.text());
    }
    town.full(false).await;
    is_accepted(&api, "m").await;
}

#[tokio::test]
async fn the_door_closes_before_redis_is_full() {
    let town = Town::new().await;
    let api = town.api().await;
    // Beside this, what connections take makes no difference.
    town.redis.command(&["SETRANGE", "filler", "16777216", "x"]).await.unwrap();
    let used = town.redis.command(&["INFO", "memory"]).await.unwrap().info("used_memory").unwrap();
    let most = used.parse::<u64>().unwrap() * 11 / 10;
    town.redis.command(&["CONFIG", "SET", "maxmemory", &most.to_string()]).await.unwrap();
    eventually(PATIENCE, "the door to close", async || {
        let answer = api.publish(json!({ "channel": "a", "payload": {} })).await;
        if answer.status == 503 { Ok(()) } else { Err(answer.text()) }
    })
    .await
    .unwrap();
    let before = town.stored().await;
    for call in publishes("m") {
        is_refused(&api.send(&call).await, FULL, "5", &call);
    }
    assert_eq!(town.stored().await, before);
    // Redis itself would take more: what makes room is not refused.
    let created = api.subscribe(json!({ "channel": "a" })).await;
    api.delete(&path_of(&created)).await.expect(200);
    town.full(false).await;
    is_accepted(&api, "m").await;
}

#[tokio::test]
async fn an_api_starts_before_its_redis() {
    let (town, proxy) = behind_a_proxy().await;
    proxy.cut().await;
    let api = town.launch().await;
    let not_ready = api.get("/readyz").await.expect(503);
    assert!(not_ready["not_ready"]["redis"].is_string(), "{not_ready}");
    let call = ask("GET", "/v1/subscriptions");
    is_refused(&api.send(&call).await, AWAY, "1", &call);
    proxy.heal().await.unwrap();
    is_ready(&api, 200).await;
    api.send(&publish("m")).await.expect(202);
}
