//! `POST /v1/messages`, and what `GET /v1/messages/{id}` makes of it.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::kit::{Answer, Api, Town, ask, is_time, take};

/// The answer to a publish, and its id and time of acceptance out of it.
#[track_caller]
fn accepted(answer: &Answer, status: u16) -> (String, Value, Value) {
    let mut body = answer.expect(status);
    let [id, at] = take(&mut body, ["message_id", "timestamp"]);
    assert!(is_time(&at), "{at}");
    (id.as_str().unwrap().to_owned(), at, body)
}

async fn shown(api: &Api, id: &str) -> Value {
    api.get(&format!("/v1/messages/{id}")).await.expect(200)
}

#[tokio::test]
async fn the_least_that_can_be_published() {
    let town = Town::new().await;
    let api = town.api().await;
    let (id, at, body) = accepted(&api.publish(json!({ "channel": "orders", "payload": {} })).await, 202);
    assert!(id.starts_with("msg_") && id.len() == 36, "{id}");
    let expected = json!({ "success": true, "channel": "orders", "correlation_id": id, "error": null });
    assert_eq!(body, expected);
    assert_eq!(town.stored().await, 1);

    let mut shown = shown(&api, &id).await;
    let [published] = take(&mut shown, ["published_at"]);
    let [stamp] = take(&mut shown["metadata"], ["timestamp"]);
    assert!(published == at && is_time(&stamp), "{published} {at} {stamp}");
    let expected = json!({
        "message_id": id,
        "status": "accepted",
        "deliveries": 0,
        "channel": "orders",
        "routing_key": null,
        "ordering_key": null,
        "service_name": "anonymous",
        "persistent": true,
        "payload": {},
        "metadata": {
            "message_id": id,
            "correlation_id": id,
            "reply_to": null,
            "content_type": "application/json",
            "content_encoding": null,
            "priority": "normal",
            "ttl": null,
            "headers": {},
        },
    });
    assert_eq!(shown, expected);
}

#[tokio::test]
async fn everything_that_can_be_said_is_kept() {
    let town = Town::new().await;
    let api = town.api().await;
    let metadata = json!({
        "message_id": "Order_7-created",
        "correlation_id": "undertaking 1",
        "reply_to": "answers",
        "content_type": "application/vnd.order+json",
        "content_encoding": "none",
        "priority": "critical",
        "ttl": 315_360_000,
        "timestamp": "2024-01-15T12:30:00.123Z",
        "headers": { "a": 1, "b": [null, { "c": "ä" }], "": "" },
    });
    let request = json!({
        "channel": "orders.eu/new:x_y-z",
        "payload": { "order": 7 },
        "metadata": metadata,
        "service_name": "Läden & Söhne",
        "persistent": false,
        "routing_key": "order..größe",
        "ordering_key": "customer 7",
    });
    let (id, _, body) = accepted(&api.publish(request).await, 202);
    assert_eq!(id, "Order_7-created");
    assert_eq!(body["correlation_id"], "undertaking 1");
    let shown = shown(&api, &id).await;
    assert_eq!(shown["metadata"], metadata);
    let names = ["channel", "service_name", "persistent", "routing_key", "ordering_key", "payload"];
    let expected =
        json!(["orders.eu/new:x_y-z", "Läden & Söhne", false, "order..größe", "customer 7", { "order": 7 }]);
    assert_eq!(names.map(|name| shown[name].clone()).as_slice(), expected.as_array().unwrap());
}

#[tokio::test]
async fn nulls_are_what_was_not_said() {
    let town = Town::new().await;
    let api = town.api().await;
    let metadata = json!({
        "message_id": null, "correlation_id": null, "reply_to": null, "content_type": null,
        "content_encoding": null, "priority": null, "ttl": null, "timestamp": null, "headers": null,
    });
    for metadata in [Value::Null, json!({}), metadata] {
        let request = json!({
            "channel": "a", "payload": "x", "metadata": metadata, "service_name": null, "persistent": null,
            "routing_key": null, "ordering_key": null,
        });
        let (id, _, _) = accepted(&api.publish(request).await, 202);
        let shown = shown(&api, &id).await;
        assert_eq!((&shown["persistent"], &shown["metadata"]["priority"]), (&json!(true), &json!("normal")));
    }
}

#[tokio::test]
async fn payloads_come_back_as_they_were_published() {
    let town = Town::new().await;
    let api = town.api().await;
    let bytes = STANDARD.encode([0, 255, 128]);
    // The payload and what is said of it; the content type that it gets.
    let table = [
        (r#"{"z":1,  "a":[1.50, 12345678901234567890123, 1e400]}"#.to_owned(), "", "application/json"),
        (r#"{"a":1,"a":2}"#.to_owned(), "", "application/json"),
        (r#"{"half":"\ud800"}"#.to_owned(), "", "application/json"),
        ("{\"deep\":".repeat(61) + "1" + &"}".repeat(61), "", "application/json"),
        (r#""""#.to_owned(), "", "text/plain; charset=utf-8"),
        ("\"ä\u{1f600}\"".to_owned(), "", "text/plain; charset=utf-8"),
        (format!("\"{}\"", "x".repeat(256 << 10)), "", "text/plain; charset=utf-8"),
        (format!("{bytes:?}"), r#","metadata":{"content_encoding":"base64"}"#, "application/octet-stream"),
    ];
    for (payload, metadata, content_type) in table {
        let body = format!(r#"{{"channel":"a","payload":{payload}{metadata}}}"#);
        let answer = api.send(&ask("POST", "/v1/messages").json(body)).await;
        let (id, _, _) = accepted(&answer, 202);
        let shown = api.get(&format!("/v1/messages/{id}")).await;
        let text = String::from_utf8(shown.body.clone()).unwrap();
        assert!(text.contains(&format!(r#""payload":{payload}"#)), "{text:.400} for {payload:.100}");
        assert!(text.contains(&format!(r#""content_type":"{content_type}""#)), "{text:.400}");
    }
    // Written with an escape, it is the same string.
    let answer = api.send(&ask("POST", "/v1/messages").json(br#"{"channel":"a","payload":"\u00e4"}"#)).await;
    assert_eq!(shown(&api, &accepted(&answer, 202).0).await["payload"], "ä");
}

#[tokio::test]
async fn bodies_are_json_by_several_names() {
    let town = Town::new().await;
    let api = town.api().await;
    let body = r#" {"channel":"a","payload":{}}
        "#;
    for content_type in ["application/json", "APPLICATION/JSON; charset=utf-8", "application/vnd.x+json"] {
        let ask = ask("POST", "/v1/messages").header("content-type", content_type).body(body);
        api.send(&ask).await.expect(202);
    }
    api.send(&ask("POST", "/v1/messages").body(body)).await.expect(202);
    let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let ask = ask("POST", "/v1/messages").header("transfer-encoding", "chunked").body(chunked);
    api.send(&ask).await.expect(202);
}

#[tokio::test]
async fn an_id_counts_once() {
    let town = Town::new().await;
    let (one, two) = (town.api().await, town.api().await);
    let request = json!({ "channel": "a", "payload": { "n": 1 }, "metadata": { "message_id": "m" } });
    let (id, at, body) = accepted(&one.publish(request.clone()).await, 202);
    assert_eq!((id.as_str(), body.get("duplicate")), ("m", None));
    let before = town.dump().await;

    let expected = json!({
        "success": true, "channel": "a", "correlation_id": "m", "error": null, "duplicate": true,
    });
    let other = json!({
        "channel": "b", "payload": "other", "service_name": "x", "routing_key": "k",
        "metadata": { "message_id": "m", "correlation_id": "c" },
    });
    for (api, request) in [(&one, &request), (&two, &request), (&one, &other), (&two, &other)] {
        let again = accepted(&api.publish(request.clone()).await, 200);
        assert_eq!(again, ("m".to_owned(), at.clone(), expected.clone()));
    }
    assert_eq!(town.dump().await, before);
    let shown = shown(&two, "m").await;
    assert_eq!((&shown["channel"], &shown["payload"]), (&json!("a"), &json!({ "n": 1 })));
}

#[tokio::test]
async fn an_idempotency_key_is_an_id() {
    let town = Town::new().await;
    let api = town.api().await;
    let keyed = |key: &str, body: Value| {
        ask("POST", "/v1/messages").header("idempotency-key", key).json(body.to_string())
    };
    let plain = json!({ "channel": "a", "payload": {} });
    let (first, at, _) = accepted(&api.send(&keyed("a key: 1/2", plain.clone())).await, 202);
    assert!(first.starts_with("msg_"), "{first}");
    let (again, again_at, _) = accepted(&api.send(&keyed("a key: 1/2", plain.clone())).await, 200);
    assert_eq!((&again, again_at), (&first, at));
    let (other, _, _) = accepted(&api.send(&keyed(&"k".repeat(255), plain.clone())).await, 202);
    assert_ne!(other, first);
    let raw = ask("POST", "/v1/channels/a/messages").header("idempotency-key", "a key: 1/2").body("x");
    assert_eq!(accepted(&api.send(&raw).await, 200).0, first);
    // Who names an id means it.
    let named = json!({ "channel": "a", "payload": {}, "metadata": { "message_id": "own" } });
    assert_eq!(accepted(&api.send(&keyed("a key: 1/2", named)).await, 202).0, "own");
    assert_eq!(town.stored().await, 3);
}

#[tokio::test]
async fn an_ordering_key_has_ids_of_its_own() {
    let town = Town::new().await;
    let api = town.api().await;
    let line = |channel: &str, key: &str| {
        json!({
            "channel": channel, "payload": {}, "ordering_key": key, "metadata": { "message_id": "m" },
        })
    };
    for (channel, key, status) in
        [("a", "x", 202), ("a", "y", 202), ("b", "x", 202), ("a", "x", 200), ("b", "x", 200)]
    {
        api.publish(line(channel, key)).await.expect(status);
    }
    assert_eq!(town.stored().await, 3);
    let shown = shown(&api, "m").await;
    assert_eq!((&shown["channel"], &shown["ordering_key"]), (&json!("b"), &json!("x")), "the newest");
}

#[tokio::test]
async fn fifty_callers_with_one_id_store_one_message() {
    let town = Town::new().await;
    let apis: [std::sync::Arc<Api>; 2] = [town.api().await.into(), town.api().await.into()];
    for round in 0..3 {
        let before = town.stored().await;
        let mut callers = JoinSet::new();
        for caller in 0..50 {
            let api = apis[caller % 2].clone();
            callers.spawn(async move {
                let metadata =
                    json!({ "message_id": format!("m{round}"), "correlation_id": format!("{caller}") });
                let request =
                    json!({ "channel": "a", "payload": { "caller": caller }, "metadata": metadata });
                (caller, api.publish(request).await)
            });
        }
        let answers = callers.join_all().await;
        assert_eq!(town.stored().await, before + 1);
        let (winners, others): (Vec<_>, Vec<_>) =
            answers.iter().partition(|(_, answer)| answer.status == 202);
        let [(winner, first)] = &winners[..] else { panic!("{winners:?}") };
        let mut first = first.expect(202);
        assert_eq!(first["correlation_id"], winner.to_string());
        assert_eq!(shown(&apis[0], &format!("m{round}")).await["payload"], json!({ "caller": winner }));
        first["duplicate"] = json!(true);
        for (_, other) in others {
            assert_eq!(other.expect(200), first, "the first result");
        }
    }
}

#[tokio::test]
async fn callers_at_the_same_time_all_get_their_own() {
    let town = Town::new().await;
    let api = std::sync::Arc::new(town.api().await);
    let mut callers = JoinSet::new();
    for caller in 0..100 {
        let api = api.clone();
        callers.spawn(async move {
            let correlation = caller.to_string();
            let request = json!({
                "channel": format!("c{caller}"), "payload": {}, "metadata": { "correlation_id": correlation },
            });
            (caller, accepted(&api.publish(request).await, 202))
        });
    }
    let mut ids = std::collections::BTreeSet::new();
    for (caller, (id, _, body)) in callers.join_all().await {
        assert_eq!(body["correlation_id"], caller.to_string());
        assert_eq!(shown(&api, &id).await["channel"], format!("c{caller}"));
        ids.insert(id);
    }
    assert_eq!((ids.len(), town.stored().await), (100, 100));
}
