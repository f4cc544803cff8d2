//! `POST /v1/subscriptions/{id}/test`: a sample goes the whole way, and what came back is answered.

use postroad_testkit::receiver::{Answer, Receiver};
use serde_json::{Value, json};

use crate::kit::{Api, Refusals, Town, ask, field, path_of, refused, take};

async fn test(api: &Api, subscription: &Value, body: Value) -> Value {
    api.post(&format!("{}/test", path_of(subscription)), body).await.expect(200)
}

#[tokio::test]
async fn a_sample_goes_to_that_subscription_alone_and_says_what_it_is() {
    let town = Town::with_loopback().await;
    let (api, receiver) = (town.api().await, Receiver::start().await.unwrap());
    let _delivering = town.deliver().await;
    // It would match nothing that the sample is.
    let tested = api
        .subscribe(json!({
            "channel": "a", "callback_url": receiver.url("/tested"), "filter_criteria": { "never": [1] },
            "auto_ack": false,
        }))
        .await;
    api.subscribe(json!({ "channel_pattern": "*", "callback_url": receiver.url("/other") })).await;
    receiver.on("/tested", Answer::status(201).body("welcome"));
    let answer = api.send(&ask("POST", format!("{}/test", path_of(&tested)))).await;
    let mut answer = answer.expect(200);
    let [id, duration] = take(&mut answer, ["message_id", "duration_ms"]);
    assert!(id.as_str().unwrap().starts_with("msg_") && duration.is_u64(), "{id} {duration}");
    let expected = json!({
        "subscription_id": tested["subscription_id"], "delivered": true, "status_code": 201, "error": null,
        "response": "welcome",
    });
    assert_eq!(answer, expected);
    let request = receiver.received("/tested").remove(0);
    assert_eq!(request.header("webhook-id"), id.as_str());
    assert_eq!(request.header("postroad-test"), Some("true"));
    let body = request.json().unwrap();
    assert_eq!((&body["channel"], &body["payload"]["test"]), (&json!("a"), &json!(true)));
    assert_eq!(body["payload"]["subscription_id"], tested["subscription_id"]);
    assert_eq!(body["metadata"]["priority"], "critical");

    let own = json!({ "payload": { "n": 7 }, "routing_key": "k", "channel": "elsewhere" });
    assert_eq!(test(&api, &tested, own).await["delivered"], true);
    let body = receiver.received("/tested")[1].json().unwrap();
    let parts = ["payload", "routing_key", "channel"].map(|name| body[name].clone());
    assert_eq!(parts, [json!({ "n": 7 }), json!("k"), json!("elsewhere")]);
    assert_eq!((receiver.count("/tested"), receiver.count("/other")), (2, 0));
}

#[tokio::test]
async fn a_failed_test_says_why_and_counts_for_nothing() {
    let town = Town::with_loopback().await;
    let (api, receiver) = (town.api().await, Receiver::start().await.unwrap());
    let _delivering = town.deliver().await;
    let tested =
        api.subscribe(json!({ "channel_pattern": "a.*", "callback_url": receiver.url("/in") })).await;
    receiver.on("/in", Answer::status(500).body("x".repeat(2_000)));
    let mut answer = test(&api, &tested, json!({})).await;
    let [id, status, error, response] = take(&mut answer, ["message_id", "status_code", "error", "response"]);
    assert_eq!((&answer["delivered"], status, error), (&json!(false), json!(500), json!("answered 500")));
    assert_eq!(response.as_str().unwrap().len(), 256);
    assert_eq!(receiver.received("/in")[0].json().unwrap()["channel"], "postroad.test");

    receiver.on("/in", Answer::close_without_answer());
    let answer = test(&api, &tested, json!({})).await;
    assert_eq!((&answer["delivered"], &answer["status_code"]), (&json!(false), &Value::Null));
    assert!(answer["error"].as_str().unwrap().starts_with("broken"), "{answer}");

    let info = api.get(&path_of(&tested)).await.expect(200);
    for name in ["queued", "dead_letters", "error_count", "message_count"] {
        assert_eq!(info[name], 0, "{name}");
    }
    let shown = api.get(&format!("/v1/messages/{}/deliveries", id.as_str().unwrap())).await.expect(200);
    let delivery = &shown["deliveries"][0];
    assert_eq!((&delivery["state"], &delivery["dead_reason"]), (&json!("dead"), &Value::Null));
    assert_eq!(delivery["attempts"][0]["status_code"], 500);
    assert_eq!(receiver.count("/in"), 2, "no test is tried again");
}

#[tokio::test]
async fn a_test_that_nobody_sends_says_what_is_missing() {
    let town = Town::with_loopback().await;
    let api = town.api().await;
    let tested = api.subscribe(json!({ "channel": "a" })).await;
    let path = format!("{}/test", path_of(&tested));
    let asked = ask("POST", &path).json(r#"{"timeout_seconds":1}"#);
    let expect = |answer: &crate::kit::Answer, says: &'static str| {
        crate::kit::judge(answer, refused(504, "test_timeout", "", says)).unwrap();
        assert!(answer.json()["details"]["message_id"].is_string());
    };
    // While one is under way there is no other, whichever of them came first.
    let (first, second) = tokio::join!(api.send(&asked), api.send(&asked));
    let (late, busy) = if first.status == 504 { (first, second) } else { (second, first) };
    crate::kit::judge(&busy, refused(409, "test_running", "", "under way")).unwrap();
    expect(&late, "no router is running; no worker is running");
    let _routing = town.route().await;
    expect(&api.send(&asked).await, "1 s: no worker is running");
}

#[tokio::test]
async fn what_cannot_be_tested_is_refused_before_anything_is_sent() {
    let town = Town::new().await;
    let api = town.api().await;
    let pulled = api.subscribe(json!({ "channel": "a", "callback_url": null })).await;
    let paused = api.subscribe(json!({ "channel": "a" })).await;
    api.send(&ask("POST", format!("{}/pause", path_of(&paused)))).await.expect(200);
    let active = api.subscribe(json!({ "channel": "a" })).await;
    let refusals = Refusals::of(&town, &api).await;
    let path = |subscription: &Value| format!("{}/test", path_of(subscription));
    let conflicts = [
        ("pulled", &pulled, refused(409, "pull_subscription", "", "pull")),
        ("paused", &paused, refused(409, "not_active", "", "paused; resume")),
    ];
    for (case, subscription, expected) in conflicts {
        refusals.check(case, &ask("POST", path(subscription)), expected).await;
    }
    for (body, expected) in [
        (json!({ "timeout_seconds": 21 }), field("timeout_seconds", "21 must be 1 to 20")),
        (json!({ "timeout_seconds": 0 }), field("timeout_seconds", "0 must be")),
        (json!({ "channel": "a b" }), field("channel", "' '")),
        (json!({ "routing_key": "\u{1}" }), field("routing_key", "control")),
        (json!({ "payload": [1] }), field("payload", "an object, a string")),
        (json!({ "callback_url": "http://10.0.0.1/" }), field("callback_url", "unknown field")),
    ] {
        refusals.check(&body.to_string(), &ask("POST", path(&active)).json(body.to_string()), expected).await;
    }
    let unknown = refused(404, "not_found", "", "subscription");
    refusals.check("unknown", &ask("POST", "/v1/subscriptions/sub_x/test"), unknown).await;
    refusals.end();
}
