//! Replays of history: making jobs, looking at them, stopping them. Reprocessors run them.

use postroad_model::{
    id::{Kind, MessageId, mint},
    names::Tenant,
};
use postroad_store::{HistoryReplay, JobState, Source, StreamId};
use serde_json::{Value, json};

use crate::kit::{Answer, Api, Refusals, Town, ask, field, is_time, no_json, path_of, refused, take};

async fn publish(api: &Api, id: &str, more: &Value) {
    let mut request = json!({ "channel": "a", "payload": {}, "metadata": { "message_id": id } });
    for (name, value) in more.as_object().unwrap() {
        request[name] = value.clone();
    }
    api.publish(request).await.expect(202);
}

/// The job that an answer shows, with what cannot be known before taken out.
#[track_caller]
fn job(answer: &Answer, status: u16) -> (String, Value) {
    let mut body = answer.expect(status);
    let [id, started, updated] = take(&mut body, ["job_id", "started_at", "updated_at"]);
    assert!(is_time(&started) && is_time(&updated), "{started} {updated}");
    (id.as_str().unwrap().to_owned(), body)
}

fn waiting() -> Value {
    json!({
        "state": "waiting", "message_id": null, "subscriptions": null, "subscription_id": null, "from": null,
        "to": null, "rate": null, "limit": null, "replayed": 0, "scanned": 0, "skipped": 0, "waiting_for": null,
        "error": null,
    })
}

fn with(mut job: Value, members: &Value) -> Value {
    for (name, value) in members.as_object().unwrap() {
        job[name] = value.clone();
    }
    job
}

#[tokio::test]
async fn a_message_is_replayed_by_a_job_that_is_shown_and_stopped() {
    let town = Town::new().await;
    let api = town.api().await;
    let sub = api.subscribe(json!({ "channel": "elsewhere" })).await;
    let sub = sub["subscription_id"].as_str().unwrap();
    publish(&api, "m", &json!({})).await;
    let path = "/v1/messages/m/replay";
    let named = json!({ "subscriptions": [sub, sub] });
    for (ask, subscriptions) in [
        (ask("POST", path), Value::Null),
        (ask("POST", path).json("{}"), Value::Null),
        (ask("POST", path).json(r#"{"subscriptions":null}"#), Value::Null),
        (ask("POST", path).json(named.to_string()), json!([sub])),
    ] {
        let answer = api.send(&ask).await;
        let (id, made) = job(&answer, 202);
        assert!(id.starts_with("job_"), "{id}");
        let path = format!("/v1/replays/{id}");
        assert_eq!(answer.header("location"), Some(&*path));
        assert_eq!(made, with(waiting(), &json!({ "message_id": "m", "subscriptions": subscriptions })));
        assert_eq!(job(&api.get(&path).await, 200), (id.clone(), made.clone()));
        let stopped = with(made, &json!({ "state": "stopped" }));
        for _ in 0..2 {
            assert_eq!(job(&api.delete(&path).await, 200), (id.clone(), stopped.clone()));
        }
        assert_eq!(job(&api.get(&path).await, 200), (id, stopped));
    }
    assert_eq!(town.stored().await, 1, "the API itself replays nothing");
}

#[tokio::test]
async fn a_time_is_replayed_to_one_subscription() {
    let town = Town::new().await;
    let api = town.api().await;
    let created = api.subscribe(json!({ "channel": "a" })).await;
    let path = format!("{}/replay", path_of(&created));
    let whole = json!({
        "from": "2024-01-15T14:30:00+02:00", "to": "2024-01-16T00:00:00Z", "rate": 2.5, "limit": 7,
    });
    let (_, made) = job(&api.post(&path, whole).await, 202);
    let expected = json!({
        "subscription_id": created["subscription_id"], "from": "2024-01-15T12:30:00.000Z",
        "to": "2024-01-16T00:00:00.000Z", "rate": 2.5, "limit": 7,
    });
    assert_eq!(made, with(waiting(), &expected));
    let least = json!({ "from": "2024-01-15T12:30:00Z", "to": null, "rate": null, "limit": null });
    let (_, mut made) = job(&api.post(&path, least).await, 202);
    let [to] = take(&mut made, ["to"]);
    assert!(is_time(&to), "until now");
}

#[tokio::test]
async fn what_cannot_be_replayed_says_why() {
    let mut town = Town::new().await;
    town.config.ingest.max_open_replays = 1;
    let api = town.api().await;
    let created = api.subscribe(json!({ "channel": "a" })).await;
    let range = format!("{}/replay", path_of(&created));
    publish(&api, "m", &json!({})).await;
    publish(&api, "later", &json!({ "delay_seconds": 60 })).await;
    publish(&api, "cancelled", &json!({ "delay_seconds": 60 })).await;
    api.delete("/v1/messages/cancelled").await.expect(200);
    publish(&api, "fleeting", &json!({ "persistent": false })).await;
    publish(&api, "gone", &json!({})).await;
    let store = town.store();
    let found = store
        .find_message(
            &Tenant::single(),
            &MessageId::new("gone").unwrap(),
            86_400_000,
            store.delayed(&[]).await.unwrap().0,
        )
        .await
        .unwrap()
        .remove(0);
    let let_go = "
        for _, key in ipairs(redis.call('KEYS', '*}:ingress')) do redis.call('XDEL', key, ARGV[1]) end";
    town.redis.command(&["EVAL", let_go, "0", &found.at.to_string()]).await.unwrap();
    // Another tenant's, and one of another kind.
    let other = Tenant::new("other").unwrap();
    let theirs = mint(Kind::Job, 1, 1);
    let source = Source::Message {
        id: MessageId::new("gone").unwrap(),
        partition: 0,
        at: StreamId::ZERO,
        subscriptions: None,
    };
    let replay = HistoryReplay::new(source, None, None);
    store.make_history_job(&theirs, &other, &replay, 9).await.unwrap();
    let dead = mint(Kind::Job, 1, 2);
    let spec = r#"{"kind":"dead_letters","filter":{},"letters":0}"#;
    store.make_job(&dead, &Tenant::single(), spec, "[]", None, 9).await.unwrap();
    store.stop_job(&dead).await.unwrap();
    // One that came to its end.
    let done = mint(Kind::Job, 1, 3);
    store.make_history_job(&done, &Tenant::single(), &replay, 9).await.unwrap();
    store.take_job(&done, "r-1", 1_000).await.unwrap().unwrap();
    assert!(store.save_job(&done, "r-1", JobState::Done, "", "").await.unwrap());
    store.end_job(&done).await.unwrap();

    let refusals = Refusals::of(&town, &api).await;
    let not_found = refused(404, "not_found", "", "there is no");
    let post = |path: &str, body: &str| ask("POST", path).json(body);
    for (path, expected) in [
        ("/v1/messages/unknown/replay", not_found),
        ("/v1/messages/a.b/replay", not_found),
        ("/v1/messages/later/replay", refused(409, "not_published", "", "not due yet")),
        ("/v1/messages/cancelled/replay", refused(409, "cancelled", "", "was cancelled")),
        ("/v1/messages/fleeting/replay", refused(409, "no_history", "", "persistent: false")),
        ("/v1/messages/gone/replay", refused(410, "history_gone", "", "history has let")),
    ] {
        refusals.check(path, &ask("POST", path), expected).await;
    }
    let unknown_named = refused(404, "not_found", "subscriptions", "there is no subscription");
    for (body, expected) in [
        (r#"{"subscriptions":[]}"#, field("subscriptions", "0 subscriptions")),
        (r#"{"subscriptions":["sub_unknown"]}"#, unknown_named),
        (r#"{"subscriptions":["a b"]}"#, unknown_named),
        (r#"{"subscriptions":"sub_1"}"#, field("subscriptions", "subscriptions")),
        (r#"{"subscriptions":[1]}"#, field("subscriptions[0]", "subscriptions")),
        (r#"{"to":"x"}"#, field("to", "unknown field")),
        ("[]", field("body", "array")),
        ("nonsense", no_json("no JSON")),
    ] {
        refusals.check(body, &post("/v1/messages/m/replay", body), expected).await;
    }
    let many = json!({ "subscriptions": vec!["sub_1"; 1_001] }).to_string();
    refusals.check("many", &post("/v1/messages/m/replay", &many), field("subscriptions", "1001")).await;

    let from = r#""from":"2024-01-15T12:30:00Z""#;
    for (body, expected) in [
        ("{}".to_owned(), field("from", "missing")),
        (r#"{"from":"yesterday"}"#.into(), field("from", "RFC 3339")),
        (r#"{"from":"2099-01-01T00:00:00Z"}"#.into(), field("from", "must lie before")),
        (format!(r#"{{{from},"to":"2024-01-15T12:30:00Z"}}"#), field("from", "must lie before")),
        (format!(r#"{{{from},"rate":0}}"#), field("rate", "0.01 to 1000000")),
        (format!(r#"{{{from},"rate":"fast"}}"#), field("rate", "rate")),
        (format!(r#"{{{from},"limit":0}}"#), field("limit", "nothing")),
        (format!(r#"{{{from},"limit":-1}}"#), field("limit", "limit")),
        (format!(r#"{{{from},"colour":1}}"#), field("colour", "unknown field")),
        (String::new(), no_json("empty")),
    ] {
        refusals.check(&body, &post(&range, &body), expected).await;
    }
    let body = format!("{{{from}}}");
    refusals.check("of nobody", &post("/v1/subscriptions/sub_none/replay", &body), not_found).await;

    for id in ["job_none", "a.b", &theirs, &dead] {
        for method in ["GET", "DELETE"] {
            let case = format!("{method} {id}");
            refusals.check(&case, &ask(method, format!("/v1/replays/{id}")), not_found).await;
        }
    }
    let finished = refused(409, "job_finished", "", "done already");
    refusals.check("done", &ask("DELETE", format!("/v1/replays/{done}")), finished).await;
    refusals.end();

    api.send(&ask("POST", "/v1/messages/m/replay")).await.expect(202);
    let refusals = Refusals::of(&town, &api).await;
    let full = refused(409, "too_many_jobs", "", "1 replay jobs are open");
    refusals.check("one too many", &ask("POST", "/v1/messages/m/replay"), full).await;
    refusals.check("one too many of a time", &post(&range, &body), full).await;
    refusals.end();
}
