//! `POST /v1/messages/bulk`.

use serde_json::{Value, json};

use crate::kit::{Answer, Town, ask, field, is_time, judge, take};

/// The rows of an answer, and the rest of it.
#[track_caller]
fn rows(answer: &Answer, status: u16) -> (Vec<Value>, Value) {
    let mut body = answer.expect(status);
    let [rows] = take(&mut body, ["results"]);
    let mut rows: Vec<Value> = rows.as_array().unwrap().clone();
    for row in &mut rows {
        let [at] = take(row, ["timestamp"]);
        assert!(is_time(&at), "{at}");
    }
    (rows, body)
}

#[tokio::test]
async fn all_that_is_valid_is_published_in_order() {
    let town = Town::new().await;
    let api = town.api().await;
    let messages: Vec<Value> = (0..300)
        .map(|n| json!({ "channel": format!("c{}", n % 7), "payload": { "n": n }, "metadata": { "message_id": format!("m{n}") } }))
        .collect();
    for (status, duplicate) in [(202, None), (202, Some(true))] {
        let (rows, body) =
            rows(&api.post("/v1/messages/bulk", json!({ "messages": messages })).await, status);
        assert_eq!(body, json!({ "success": true, "published_count": 300, "failed_count": 0 }));
        for (n, row) in rows.iter().enumerate() {
            let mut expected = json!({
                "success": true, "message_id": format!("m{n}"), "channel": format!("c{}", n % 7),
                "correlation_id": format!("m{n}"), "error": null,
            });
            if let Some(duplicate) = duplicate {
                expected["duplicate"] = json!(duplicate);
            }
            assert_eq!(row, &expected);
        }
        assert_eq!(town.stored().await, 300);
    }
}

#[tokio::test]
async fn the_services_name_is_for_those_that_have_none() {
    let town = Town::new().await;
    let api = town.api().await;
    let messages = json!([
        { "channel": "a", "payload": {}, "metadata": { "message_id": "m0" } },
        { "channel": "a", "payload": {}, "metadata": { "message_id": "m1" }, "service_name": "own" },
    ]);
    let request = json!({ "messages": messages, "service_name": "all", "fail_on_error": true });
    api.post("/v1/messages/bulk", request).await.expect(202);
    for (id, name) in [("m0", "all"), ("m1", "own")] {
        assert_eq!(api.get(&format!("/v1/messages/{id}")).await.expect(200)["service_name"], name);
    }
}

/// Valid, wrong in several ways, valid.
fn mixed() -> Value {
    json!([
        { "channel": "a", "payload": {}, "metadata": { "message_id": "m0" } },
        { "channel": "a b", "payload": {}, "metadata": { "message_id": "m1", "correlation_id": "c" } },
        { "channel": "a", "payload": 7 },
        "no object",
        { "channel": "a", "payload": {}, "metadata": { "message_id": "m.4" } },
        { "channel": "a", "payload": "x".repeat((256 << 10) + 1) },
        { "channel": "a", "payload": {}, "surprise": true },
        { "channel": "a", "payload": {}, "metadata": { "message_id": "m7" } },
        { "channel": "a", "payload": {}, "metadata": { "message_id": "m0" } },
    ])
}

#[tokio::test]
async fn one_that_is_wrong_does_not_spoil_the_rest() {
    let town = Town::new().await;
    let api = town.api().await;
    let (rows, body) = rows(&api.post("/v1/messages/bulk", json!({ "messages": mixed() })).await, 207);
    assert_eq!(body, json!({ "success": false, "published_count": 3, "failed_count": 6 }));
    let stored = |id: &str| json!({ "success": true, "message_id": id, "channel": "a", "correlation_id": id, "error": null });
    let failed = |id: &str, channel: &str, correlation: &str, code: &str, status: u16| {
        json!({
            "success": false, "message_id": id, "channel": channel, "correlation_id": correlation,
            "error_code": code, "status_code": status,
        })
    };
    let mut again = stored("m0");
    again["duplicate"] = json!(true);
    let expected = [
        (stored("m0"), ""),
        (failed("m1", "a b", "c", "invalid_field", 422), "channel contains ' '"),
        (failed("", "a", "", "invalid_field", 422), "payload must be an object, a string"),
        (failed("", "", "", "invalid_field", 422), "body: invalid type: string"),
        (failed("m.4", "a", "", "invalid_field", 422), "message_id contains '.'"),
        (failed("", "a", "", "message_too_large", 413), "262145 bytes"),
        (failed("", "a", "", "invalid_field", 422), "unknown field `surprise`"),
        (stored("m7"), ""),
        (again, ""),
    ];
    assert_eq!(rows.len(), expected.len());
    for (mut row, (expected, says)) in rows.into_iter().zip(expected) {
        if !says.is_empty() {
            let [error] = take(&mut row, ["error"]);
            assert!(error.as_str().unwrap().contains(says), "{error} does not say {says}");
        }
        assert_eq!(row, expected);
    }
    assert_eq!(town.stored().await, 2);
}

#[tokio::test]
async fn or_nothing_is_published() {
    let town = Town::new().await;
    let api = town.api().await;
    let before = town.dump().await;
    let request = json!({ "messages": mixed(), "fail_on_error": true });
    let answer = api.post("/v1/messages/bulk", request).await;
    judge(&answer, field("channel", "message 1: channel contains ' '")).unwrap();
    assert_eq!(answer.json()["details"]["index"], 1);
    assert_eq!(town.dump().await, before);
}

#[tokio::test]
async fn a_key_makes_each_message_count_once() {
    let town = Town::new().await;
    let api = town.api().await;
    let messages = json!({ "messages": vec![json!({ "channel": "a", "payload": {} }); 3] });
    let keyed = |key: &str| {
        ask("POST", "/v1/messages/bulk").header("idempotency-key", key).json(messages.to_string())
    };
    let ids = |answer: Answer| {
        let (rows, _) = rows(&answer, 202);
        rows.iter().map(|row| row["message_id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let first = ids(api.send(&keyed("k")).await);
    assert_eq!(ids(api.send(&keyed("k")).await), first);
    assert_eq!(town.stored().await, 3);
    assert_ne!(ids(api.send(&keyed("l")).await), first);
    assert_eq!(town.stored().await, 6);
}

#[tokio::test]
async fn a_thousand_go_in_one_call() {
    let town = Town::new().await;
    let api = town.api().await;
    let messages = vec![json!({ "channel": "a", "payload": {} }); 1_000];
    let (rows, body) = rows(&api.post("/v1/messages/bulk", json!({ "messages": messages })).await, 202);
    assert_eq!((rows.len(), &body["published_count"]), (1_000, &json!(1_000)));
    assert_eq!(town.stored().await, 1_000);
}
