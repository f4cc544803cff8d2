//! Commands and queries, their answers, and waiting for them.

use std::sync::Arc;

use postroad_testkit::{redis::Reply, wait::eventually};
use serde_json::{Value, json};

use crate::kit::{Api, PATIENCE, Town, ask, field, is_time, judge, refused, take};

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

async fn message(api: &Api, id: &str) -> Value {
    api.get(&format!("/v1/messages/{id}")).await.expect(200)
}

/// The one message on a channel of answers.
async fn reply(api: &Api, receipt: &Value) -> Value {
    message(api, text(&receipt["reply_message_id"])).await
}

/// The reference's example, field for field.
#[tokio::test]
async fn a_command_is_the_references_command() {
    let town = Town::new().await;
    let api = town.api().await;
    let request = json!({
        "command_type": "validate_token",
        "payload": { "token": "jwt-token" },
        "service_name": "api-gateway",
        "correlation_id": "c-1",
        "metadata": { "a": 1 },
        "target_service": "user-auth-service",
        "reply_to": "api-gateway-responses",
        "timeout": 30,
    });
    for (path, prefix, kind) in [("/v1/commands", "cmd_", "command"), ("/v1/queries", "qry_", "query")] {
        let mut receipt = api.post(path, request.clone()).await.expect(202);
        let [id, at] = take(&mut receipt, ["command_id", "timestamp"]);
        assert!(text(&id).starts_with(prefix) && is_time(&at), "{id} {at}");
        assert_eq!(receipt, json!({ "success": true, "correlation_id": "c-1", "error": null }));

        let message = message(&api, text(&id)).await;
        let names = ["channel", "routing_key", "service_name"].map(|name| text(&message[name]));
        assert_eq!(names, ["commands.user-auth-service", "validate_token", "api-gateway"]);
        let metadata = &message["metadata"];
        assert_eq!((&metadata["ttl"], &metadata["reply_to"]), (&json!(30), &json!("api-gateway-responses")));
        let mut content = message["payload"].clone();
        let [stamp] = take(&mut content, ["timestamp"]);
        assert!(is_time(&stamp));
        let expected = json!({
            "id": id, "source_service": "api-gateway", "type": kind, "command_type": "validate_token",
            "target_service": "user-auth-service", "payload": { "token": "jwt-token" },
            "reply_to": "api-gateway-responses", "timeout": 30, "correlation_id": "c-1", "metadata": { "a": 1 },
        });
        assert_eq!(content, expected);

        let mut state = api.get(&format!("/v1/commands/{}", text(&id))).await.expect(200);
        let [published, expires] = take(&mut state, ["published_at", "expires_at"]);
        assert!(published == at && is_time(&expires), "{published} {expires}");
        let expected = json!({
            "command_id": id, "type": kind, "command_type": "validate_token",
            "target_service": "user-auth-service", "status": "pending", "delivery_status": "accepted",
            "correlation_id": "c-1", "reply_to": "api-gateway-responses", "timeout": 30, "response": null,
        });
        assert_eq!(state, expected);
    }
}

#[tokio::test]
async fn little_needs_to_be_said() {
    let town = Town::new().await;
    let api = town.api().await;
    let receipt = api.post("/v1/commands", json!({ "command_type": "go" })).await.expect(202);
    let message = message(&api, text(&receipt["command_id"])).await;
    assert_eq!((&message["channel"], &message["metadata"]["ttl"]), (&json!("commands"), &Value::Null));
    let mut content = message["payload"].clone();
    take(&mut content, ["timestamp", "id"]);
    let expected = json!({
        "source_service": "anonymous", "type": "command", "command_type": "go", "payload": {},
        "correlation_id": receipt["command_id"], "metadata": {},
    });
    assert_eq!(content, expected);
}

#[tokio::test]
async fn the_first_answer_counts_and_is_published_once() {
    let town = Town::new().await;
    let (one, two) = (town.api().await, town.api().await);
    let request = json!({
        "command_type": "sum", "reply_to": "sums", "correlation_id": "c", "timeout": 60,
        "target_service": "calculator",
    });
    let receipt = one.post("/v1/commands", request).await.expect(202);
    let id = text(&receipt["command_id"]).to_owned();
    let path = format!("/v1/commands/{id}/response");
    let answer = json!({ "success": true, "payload": { "sum": 3 }, "service_name": "calculator" });
    let mut first = two.post(&path, answer.clone()).await.expect(201);
    let [at, reply_id] = take(&mut first, ["timestamp", "reply_message_id"]);
    assert!(is_time(&at) && text(&reply_id).starts_with("msg_"));
    let expected = json!({ "success": true, "command_id": id, "correlation_id": "c", "late": false, "reply_to": "sums" });
    assert_eq!(first, expected);

    let stored = town.stored().await;
    let same = json!({ "service_name": "calculator", "payload": { "sum": 3 } });
    for (api, answer) in [(&one, &answer), (&two, &same)] {
        let again = api.post(&path, answer.clone()).await.expect(200);
        assert_eq!((&again["duplicate"], &again["timestamp"]), (&json!(true), &at));
        assert_eq!(again["reply_message_id"], reply_id);
    }
    let other = one.post(&path, json!({ "error": "no", "service_name": "calculator" })).await;
    judge(&other, refused(409, "already_answered", "", "first answer counts")).unwrap();
    assert_eq!(town.stored().await, stored, "nothing more is published");

    let message = message(&one, text(&reply_id)).await;
    assert_eq!((&message["channel"], &message["routing_key"]), (&json!("sums"), &json!("sum")));
    assert_eq!(message["metadata"]["correlation_id"], "c");
    let response = json!({
        "success": true, "command_id": id, "command_type": "sum", "payload": { "sum": 3 }, "error": null,
        "source_service": "calculator", "correlation_id": "c", "timestamp": at, "late": false,
    });
    let mut published = message["payload"].clone();
    assert_eq!(take(&mut published, ["id", "type"]), [reply_id, json!("response")]);
    assert_eq!(published, response);
    let state = two.get(&format!("/v1/commands/{id}")).await.expect(200);
    assert_eq!((&state["status"], &state["response"]), (&json!("completed"), &response));
}

#[tokio::test]
async fn failures_are_answers_too() {
    let town = Town::new().await;
    let api = town.api().await;
    let id = async || {
        text(&api.post("/v1/queries", json!({ "command_type": "q" })).await.expect(202)["command_id"])
            .to_owned()
    };
    let failed = id().await;
    let answered =
        api.post(&format!("/v1/commands/{failed}/response"), json!({ "error": "not found" })).await;
    assert_eq!(answered.expect(201)["reply_to"], Value::Null);
    let state = api.get(&format!("/v1/commands/{failed}")).await.expect(200);
    assert_eq!((&state["status"], &state["response"]["error"]), (&json!("failed"), &json!("not found")));
    // Any JSON is an answer.
    for payload in [json!(null), json!([1, "a"]), json!("text"), json!(7.5)] {
        let id = id().await;
        api.post(&format!("/v1/commands/{id}/response"), json!({ "payload": payload })).await.expect(201);
        let state = api.get(&format!("/v1/commands/{id}")).await.expect(200);
        assert_eq!(state["response"]["payload"], payload);
    }
}

#[tokio::test]
async fn after_its_time_a_command_is_timed_out_and_its_answer_late() {
    let town = Town::new().await;
    let api = town.api().await;
    let request = json!({ "command_type": "slow", "timeout": 1, "reply_to": "answers" });
    let receipt = api.post("/v1/commands", request).await.expect(202);
    let path = format!("/v1/commands/{}", text(&receipt["command_id"]));
    eventually(PATIENCE, "the command's time to be over", async || {
        let state = api.get(&path).await.expect(200);
        if state["status"] == "timed_out" { Ok(()) } else { Err(state["status"].to_string()) }
    })
    .await
    .unwrap();
    let late = api.post(&format!("{path}/response"), json!({ "payload": 1 })).await.expect(201);
    assert_eq!(late["late"], true);
    assert_eq!(reply(&api, &late).await["payload"]["late"], true);
    let state = api.get(&path).await.expect(200);
    assert_eq!((&state["status"], &state["response"]["late"]), (&json!("completed"), &json!(true)));
}

#[tokio::test]
async fn waiting_ends_with_the_answer_wherever_it_is_given() {
    let town = Town::new().await;
    let (one, two) = (Arc::new(town.api().await), town.api().await);
    // Many at a time, each answered over the other instance.
    let mut waiting = tokio::task::JoinSet::new();
    for n in 0..20 {
        let one = Arc::clone(&one);
        waiting.spawn(async move {
            let request =
                json!({ "command_type": "echo", "correlation_id": n.to_string(), "target_service": "e" });
            let key = format!("wait-{n}");
            let ask =
                ask("POST", "/v1/commands?wait=20").header("idempotency-key", key).json(request.to_string());
            (n, one.send(&ask).await.expect(200))
        });
    }
    let mut answered = std::collections::BTreeSet::new();
    let ids = async || {
        let mut ids = Vec::new();
        for partition in 0..4 {
            for entry in town.store().history(partition, "0-0".parse().unwrap(), LAST, 1_000).await.unwrap() {
                let message = entry.entry.decode().unwrap();
                ids.push((message.id.to_string(), message.metadata.correlation_id.unwrap()));
            }
        }
        ids
    };
    eventually(PATIENCE, "all commands to be published and answered", async || {
        for (id, correlation) in ids().await {
            if answered.insert(id.clone()) {
                let answer = json!({ "payload": { "n": correlation }, "service_name": "e" });
                two.post(&format!("/v1/commands/{id}/response"), answer).await.expect(201);
            }
        }
        if answered.len() == 20 { Ok(()) } else { Err(answered.len()) }
    })
    .await
    .unwrap();
    for (n, mut response) in waiting.join_all().await {
        let [id, at] = take(&mut response, ["command_id", "timestamp"]);
        assert!(answered.contains(text(&id)) && is_time(&at));
        let expected = json!({
            "success": true, "command_type": "echo", "payload": { "n": n.to_string() }, "error": null,
            "source_service": "e", "correlation_id": n.to_string(), "late": false,
        });
        assert_eq!(response, expected);
    }
    // What is answered already is answered at once.
    let again = ask("POST", "/v1/commands?wait=20").header("idempotency-key", "wait-3");
    let again = two.send(&again.json(json!({ "command_type": "other" }).to_string())).await.expect(200);
    assert_eq!((&again["payload"]["n"], &again["command_type"]), (&json!("3"), &json!("echo")));
}

const LAST: postroad_store::StreamId = postroad_store::StreamId { ms: u64::MAX, seq: u64::MAX };

/// The channel on which a call waits for an answer.
async fn listening(town: &Town) -> Result<String, &'static str> {
    let list = town.redis.command(&["PUBSUB", "CHANNELS", "*response:*"]).await.unwrap();
    list.items().first().and_then(Reply::text).ok_or("nobody listens")
}

#[tokio::test]
async fn an_answer_is_heard_through_a_broken_connection() {
    let town = Town::new().await;
    let (one, two) = (Arc::new(town.api().await), town.api().await);
    let waiting = tokio::spawn({
        let one = Arc::clone(&one);
        async move {
            let ask = ask("POST", "/v1/commands?wait=20").header("idempotency-key", "k");
            one.send(&ask.json(json!({ "command_type": "x" }).to_string())).await
        }
    });
    let channel = eventually(PATIENCE, "the call to listen", async || listening(&town).await).await.unwrap();
    let id = channel.rsplit('/').next().unwrap().to_owned();
    let stored = async || if town.stored().await == 1 { Ok(()) } else { Err("not stored") };
    eventually(PATIENCE, "the command to be stored", stored).await.unwrap();
    town.redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await.unwrap();
    two.post(&format!("/v1/commands/{id}/response"), json!({ "payload": "heard" })).await.expect(201);
    assert_eq!(waiting.await.unwrap().expect(200)["payload"], "heard");
    // Nobody listens any more.
    let silent = async || if listening(&town).await.is_err() { Ok(()) } else { Err("somebody listens") };
    eventually(PATIENCE, "the subscription to end", silent).await.unwrap();
}

#[tokio::test]
async fn waiting_is_bounded() {
    let mut town = Town::new().await;
    town.config.ingest.max_waits = 1;
    let api = Arc::new(town.api().await);
    // By the shorter of both times.
    for (query, request) in [
        ("wait=1", json!({ "command_type": "x" })),
        ("wait=30", json!({ "command_type": "x", "timeout": 1 })),
    ] {
        let answer = api.post(&format!("/v1/commands?{query}"), request).await;
        judge(&answer, refused(504, "command_timeout", "", "within 1 s")).unwrap();
        let id = answer.refusal().unwrap()["details"]["command_id"].clone();
        api.get(&format!("/v1/commands/{}", text(&id))).await.expect(200);
    }
    let waiting = tokio::spawn({
        let api = Arc::clone(&api);
        async move { api.post("/v1/queries?wait=3", json!({ "command_type": "x" })).await.status }
    });
    eventually(PATIENCE, "the call to listen", async || listening(&town).await).await.unwrap();
    let crowded = api.post("/v1/commands?wait=1", json!({ "command_type": "x" })).await;
    judge(&crowded, refused(503, "too_many_waiting", "", "1 calls that wait")).unwrap();
    assert_eq!(crowded.header("retry-after"), Some("5"));
    api.post("/v1/commands", json!({ "command_type": "x" })).await.expect(202);
    let pulled =
        api.post("/v1/subscriptions", json!({ "service_name": "billing", "channel": "orders" })).await;
    let path = format!("/v1/subscriptions/{}/pull", text(&pulled.expect(201)["subscription_id"]));
    let crowded = api.post(&path, json!({ "wait_seconds": 1 })).await;
    judge(&crowded, refused(503, "too_many_waiting", "", "1 calls that wait")).unwrap();
    api.post(&path, json!({ "wait_seconds": 0 })).await.expect(200);
    assert_eq!(waiting.await.unwrap(), 504);
}

#[tokio::test]
async fn what_is_wrong_is_named_and_changes_nothing() {
    let town = Town::new().await;
    let api = town.api().await;
    let receipt = api.post("/v1/commands", json!({ "command_type": "x" })).await.expect(202);
    let path = format!("/v1/commands/{}/response", text(&receipt["command_id"]));
    let with = |name: &str, value: Value| {
        let mut request = json!({ "command_type": "x" });
        request[name] = value;
        request
    };
    let commands = [
        (json!({}), field("command_type", "missing")),
        (json!({ "command_type": "" }), field("command_type", "empty")),
        (json!({ "command_type": "x".repeat(256) }), field("command_type", "256 bytes")),
        (json!({ "command_type": "a\u{0}" }), field("command_type", "control")),
        (with("payload", json!([])), field("payload", "not an object")),
        (with("payload", json!("x")), field("payload", "not an object")),
        (with("metadata", json!(1)), field("metadata", "not an object")),
        (with("target_service", json!("a b")), field("target_service", "' '")),
        (with("target_service", json!("")), field("target_service", "empty")),
        (with("reply_to", json!("a..b")), field("reply_to", "empty word")),
        (with("timeout", json!(0)), field("timeout", "1 to 2592000")),
        (with("timeout", json!(2_592_001)), field("timeout", "1 to 2592000")),
        (with("timeout", json!(-1)), field("timeout", "timeout")),
        (with("timeout", json!(1.5)), field("timeout", "timeout")),
        (with("service_name", json!("")), field("service_name", "empty")),
        (with("correlation_id", json!("a\n")), field("correlation_id", "control")),
        (with("ttl", json!(1)), field("ttl", "unknown field")),
    ];
    let large = json!({ "payload": "x".repeat(256 << 10) });
    let responses = [
        (json!({ "success": true, "error": "x" }), field("error", "success: false")),
        (json!({ "success": 1 }), field("success", "bool")),
        (json!({ "service_name": "" }), field("service_name", "empty")),
        (json!({ "result": 1 }), field("result", "unknown field")),
        (large, refused(413, "message_too_large", "payload", "at most 262144")),
    ];
    let before = town.dump().await;
    for (request, expected) in commands {
        for path in ["/v1/commands", "/v1/queries?wait=1"] {
            let answer = api.post(path, request.clone()).await;
            judge(&answer, expected)
                .unwrap_or_else(|problem| panic!("{request}: {problem}: {}", answer.text()));
        }
    }
    for (request, expected) in responses {
        let answer = api.post(&path, request.clone()).await;
        judge(&answer, expected).unwrap_or_else(|problem| panic!("{problem}: {}", answer.text()));
    }
    for wait in ["0", "61", "-1", "x", ""] {
        let answer = api.post(&format!("/v1/commands?wait={wait}"), json!({ "command_type": "x" })).await;
        judge(&answer, field("wait", "wait")).unwrap();
    }
    for id in ["cmd_unknown", "msg_unknown", "a.b"] {
        api.get(&format!("/v1/commands/{id}")).await.expect(404);
        api.post(&format!("/v1/commands/{id}/response"), json!({})).await.expect(404);
    }
    assert_eq!(town.dump().await, before);
}

/// An answer that fits can be published, whatever stands around it.
#[tokio::test]
async fn the_largest_answer_is_published() {
    let town = Town::new().await;
    let api = town.api().await;
    let long = "\"".repeat(255);
    let request = json!({ "command_type": long, "correlation_id": long, "reply_to": "r" });
    let receipt = api.post("/v1/commands", request).await.expect(202);
    let answer = json!({ "payload": "x".repeat((256 << 10) - 600), "service_name": long });
    let path = format!("/v1/commands/{}/response", text(&receipt["command_id"]));
    let answered = api.post(&path, answer.clone()).await.expect(201);
    assert_eq!(reply(&api, &answered).await["payload"]["payload"], answer["payload"]);
}
