//! CloudEvents over HTTP, in all three modes; what is kept of them comes out as it went in.

use postroad_model::cloud_event::{CloudEvent, Data};
use postroad_store::StreamId;
use serde_json::{Value, json};

use crate::kit::{Api, Ask, Town, ask, field, judge, refused, take};

fn binary(headers: &[(&str, &str)], body: &str) -> Ask {
    let least =
        [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/shop"), ("ce-type", "order.created")];
    let given = |name: &str| headers.iter().any(|(other, _)| other.eq_ignore_ascii_case(name));
    let mut request = ask("POST", "/v1/cloudevents").body(body);
    for (name, value) in least.iter().filter(|(name, _)| !given(name)).chain(headers) {
        request = request.header(name, value);
    }
    request
}

fn event(change: &Value) -> Value {
    let mut event = json!({ "specversion": "1.0", "id": "1", "source": "/shop", "type": "order.created" });
    for (name, value) in change.as_object().unwrap() {
        event[name] = value.clone();
    }
    event
}

fn structured(event: &Value) -> Ask {
    ask("POST", "/v1/cloudevents")
        .header("content-type", "application/cloudevents+json; charset=utf-8")
        .body(event.to_string())
}

fn batched(events: &Value) -> Ask {
    ask("POST", "/v1/cloudevents")
        .header("content-type", "application/cloudevents-batch+json")
        .body(events.to_string())
}

async fn shown(api: &Api, answer: &Value) -> Value {
    api.get(&format!("/v1/messages/{}", answer["message_id"].as_str().unwrap())).await.expect(200)
}

/// Everything that is stored, as the events that it was.
async fn kept(town: &Town) -> Vec<CloudEvent> {
    let (zero, last) = (StreamId::ZERO, StreamId { ms: u64::MAX, seq: u64::MAX });
    let mut events = Vec::new();
    for partition in 0..4 {
        for entry in town.store().history(partition, zero, last, 1_000).await.unwrap() {
            events.push(CloudEvent::kept(&entry.entry.decode().unwrap()).unwrap());
        }
    }
    events
}

#[tokio::test]
async fn binary_mode_makes_a_message() {
    let town = Town::new().await;
    let api = town.api().await;
    let headers = [
        ("content-type", "application/json"),
        ("ce-subject", "Euro%20%E2%82%AC"),
        ("ce-time", "2024-01-15T12:30:00Z"),
        ("ce-partitionkey", "customer 7"),
        ("ce-correlationid", "c"),
        ("ce-traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("ce-expirytime", "2999-01-01T00:00:00Z"),
        ("ce-comexampleext", "x"),
    ];
    let soon = postroad_model::time::Time::from_millis(now_ms() + 100_500).to_string();
    let headers =
        headers.map(|(name, value)| (name, if name == "ce-expirytime" { soon.as_str() } else { value }));
    let mut answer = api.send(&binary(&headers, r#"{"much": "wow"}"#)).await.expect(202);
    let message = shown(&api, &answer).await;
    let [id, _] = take(&mut answer, ["message_id", "timestamp"]);
    assert!(id.as_str().unwrap().starts_with("evt_"), "{id}");
    let expected =
        json!({ "success": true, "channel": "events.order.created", "correlation_id": "c", "error": null });
    assert_eq!(answer, expected);
    let names = ["channel", "routing_key", "ordering_key"].map(|name| message[name].as_str().unwrap());
    assert_eq!(names, ["events.order.created", "order.created", "customer 7"]);
    assert_eq!(message["payload"], json!({ "much": "wow" }));
    let mut metadata = message["metadata"].clone();
    let [ttl] = take(&mut metadata, ["ttl"]);
    assert!((90..=101).contains(&ttl.as_u64().unwrap()), "{ttl}");
    let expected = json!({
        "message_id": id, "correlation_id": "c", "reply_to": null, "content_type": "application/json",
        "content_encoding": null, "priority": "normal", "timestamp": "2024-01-15T12:30:00.000Z",
        "headers": {
            "ce-specversion": "1.0", "ce-id": "1", "ce-source": "/shop", "ce-type": "order.created",
            "ce-subject": "Euro €", "ce-time": "2024-01-15T12:30:00Z", "ce-partitionkey": "customer 7",
            "ce-correlationid": "c", "ce-comexampleext": "x", "ce-expirytime": soon,
            "ce-traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        },
    });
    assert_eq!(metadata, expected);
    let [event] = &kept(&town).await[..] else { panic!("one event") };
    assert_eq!(event.attribute("subject").as_deref(), Some("Euro €"));
    assert_eq!(event.data(), &Data::Json(r#"{"much": "wow"}"#.into()));
}

fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    postroad_model::time::millis(now)
}

/// What is sent in one mode comes out as the same event, whatever its data is.
#[tokio::test]
async fn what_goes_in_comes_out() {
    let town = Town::new().await;
    let api = town.api().await;
    let mut sent = Vec::new();
    let data = [
        json!({ "data": { "a": [1.5, null] } }),
        json!({ "data": null }),
        json!({}),
        json!({ "data": "text" }),
        json!({ "data": "text", "datacontenttype": "text/plain" }),
        json!({ "data": [1, 2], "datacontenttype": "application/json" }),
        json!({ "data_base64": "AP+A", "datacontenttype": "image/png" }),
        json!({ "data_base64": "AP+A" }),
        json!({ "data": {}, "flag": true, "count": -7, "nothing": null }),
    ];
    for (n, data) in data.into_iter().enumerate() {
        let mut event = event(&data);
        event["id"] = json!(n.to_string());
        api.send(&structured(&event)).await.expect(202);
        sent.push(CloudEvent::from_json(event.to_string().as_bytes()).unwrap());
    }
    for (id, content_type, body) in
        [("b1", "text/xml", "<größe/>"), ("b2", "application/json", "7"), ("b3", "", "x")]
    {
        let mut headers = vec![("ce-id", id)];
        headers.extend((!content_type.is_empty()).then_some(("content-type", content_type)));
        api.send(&binary(&headers, body)).await.expect(202);
        let given =
            [("ce-specversion", "1.0"), ("ce-id", id), ("ce-source", "/shop"), ("ce-type", "order.created")];
        let given = given.iter().map(|(name, value)| (*name, value.as_bytes()));
        let content_type = (!content_type.is_empty()).then_some(content_type);
        sent.push(CloudEvent::from_binary(given, content_type, &body.to_owned().into()).unwrap());
    }
    let mut came = kept(&town).await;
    sent.sort_by(|a, b| a.id().cmp(b.id()));
    came.sort_by(|a, b| a.id().cmp(b.id()));
    assert_eq!(came, sent);
}

#[tokio::test]
async fn source_and_id_tell_an_event_from_all_others() {
    let town = Town::new().await;
    let (one, two) = (town.api().await, town.api().await);
    let first = one.send(&structured(&event(&json!({ "data": { "n": 1 } })))).await.expect(202);
    for again in [
        structured(&event(&json!({ "data": { "n": 2 } }))),
        binary(&[("content-type", "application/json")], "{}"),
        binary(&[("idempotency-key", "other")], ""),
    ] {
        let again = two.send(&again).await.expect(200);
        assert_eq!((&again["message_id"], &again["duplicate"]), (&first["message_id"], &json!(true)));
    }
    let far = json!({ "id": "far", "expirytime": "2999-01-01T00:00:00Z" });
    for other in
        [far, json!({ "id": "2" }), json!({ "source": "/shop2" }), json!({ "id": "p1", "source": "/sho" })]
    {
        one.send(&structured(&event(&other))).await.expect(202);
    }
    assert_eq!(town.stored().await, 5);
}

#[tokio::test]
async fn a_channel_can_be_named() {
    let town = Town::new().await;
    let api = town.api().await;
    let mut request = structured(&event(&json!({ "type": "com.example/any type", "channel": "own" })));
    assert_eq!(api.send(&request).await.expect(202)["channel"], "own");
    request = structured(&event(&json!({ "id": "2", "type": "com.example/any type", "channel": "own" })));
    request.path = b"/v1/cloudevents?channel=orders".to_vec();
    assert_eq!(api.send(&request).await.expect(202)["channel"], "orders");
    let unnamed = api.send(&structured(&event(&json!({ "id": "3", "type": "any type" })))).await;
    judge(&unnamed, field("type", "?channel=")).unwrap();
    request.path = b"/v1/cloudevents?channel=a%20b".to_vec();
    judge(&api.send(&request).await, field("channel", "' '")).unwrap();
}

#[tokio::test]
async fn a_batch_is_published_whole_or_not_at_all() {
    let town = Town::new().await;
    let api = town.api().await;
    let three: Vec<Value> = ["1", "2", "1"].iter().map(|id| event(&json!({ "id": id }))).collect();
    let answer = api.send(&batched(&json!(three))).await.expect(202);
    assert_eq!((&answer["published_count"], &answer["failed_count"]), (&json!(3), &json!(0)));
    let duplicates: Vec<bool> =
        answer["results"].as_array().unwrap().iter().map(|row| row["duplicate"] == true).collect();
    assert_eq!(duplicates, [false, false, true]);
    assert_eq!(api.send(&batched(&json!([]))).await.expect(202)["published_count"], 0);

    let before = town.dump().await;
    let bad = json!([event(&json!({ "id": "5" })), event(&json!({ "id": "6", "source": "" })), 7]);
    let answer = api.send(&batched(&bad)).await;
    judge(&answer, field("source", "event 1: source is empty; nothing was published")).unwrap();
    assert_eq!(answer.refusal().unwrap()["details"]["index"], 1);
    let answer = api.send(&batched(&json!([event(&json!({ "id": "5" })), 7]))).await;
    judge(&answer, refused(422, "invalid_json", "body", "event 1")).unwrap();
    let many: Vec<Value> = (0..1_001).map(|n| event(&json!({ "id": n.to_string() }))).collect();
    judge(&api.send(&batched(&json!(many))).await, field("body", "1001 events")).unwrap();
    judge(&api.send(&batched(&event(&json!({})))).await, refused(400, "invalid_json", "body", "array"))
        .unwrap();
    assert_eq!(town.dump().await, before);
}

#[tokio::test]
async fn what_is_wrong_is_named_and_changes_nothing() {
    let town = Town::new().await;
    let api = town.api().await;
    let long = "x".repeat(256);
    let json_body = ("content-type", "application/json");
    let mut table = vec![
        (binary(&[("ce-id", "")], ""), field("ce-id", "empty")),
        (binary(&[("ce-source", "a%20b")], ""), field("ce-source", "URI")),
        (binary(&[("ce-specversion", "0.3")], ""), field("ce-specversion", "1.0")),
        (binary(&[("ce-subject", "%C0%A0")], ""), field("ce-subject", "UTF-8")),
        (binary(&[("ce-time", "now")], ""), field("ce-time", "RFC 3339")),
        (binary(&[("ce-datacontenttype", "text/plain")], ""), field("Content-Type", "cannot stand")),
        (binary(&[("ce-under_score", "x")], ""), field("ce-under_score", "a-z")),
        (binary(&[("ce-type", &long)], ""), field("ce-type", "channel")),
        (binary(&[("ce-partitionkey", &long)], ""), field("ce-partitionkey", "256 bytes")),
        (binary(&[("ce-expirytime", "2001-01-01T00:00:00Z")], ""), field("ce-expirytime", "over")),
        (binary(&[json_body], "{"), refused(400, "invalid_json", "body", "JSON")),
        (
            binary(&[json_body, ("content-encoding", "br")], "{}"),
            refused(415, "unsupported_encoding", "Content-Encoding", "gzip"),
        ),
        (ask("POST", "/v1/cloudevents").json("{}"), field("ce-specversion", "missing")),
        (binary(&[("ce-correlationid", &long)], ""), field("ce-correlationid", "256 bytes")),
        (structured(&event(&json!({ "expirytime": "2001-01-01T00:00:00Z" }))), field("expirytime", "over")),
        (structured(&event(&json!({ "ext": "x".repeat(16 << 10) }))), field("attributes", "at most 16384")),
        (structured(&json!([])), refused(400, "invalid_json", "body", "JSON")),
        (structured(&event(&json!({ "id": null }))), field("id", "missing")),
        (structured(&event(&json!({ "data": 1, "data_base64": "AA==" }))), field("data_base64", "beside")),
        (structured(&event(&json!({ "data_base64": "?" }))), field("data_base64", "base64")),
        (structured(&event(&json!({ "ext": {} }))), field("ext", "neither")),
    ];
    for format in ["application/cloudevents+avro", "application/cloudevents-batch+protobuf"] {
        let request = ask("POST", "/v1/cloudevents").header("content-type", format).body("x");
        table.push((request, refused(415, "unsupported_media_type", "Content-Type", format)));
    }
    let large = "x".repeat((256 << 10) + 1);
    table.push((binary(&[], &large), refused(413, "body_too_large", "body", "262144")));
    table.push((
        structured(&event(&json!({ "data": large }))),
        refused(413, "message_too_large", "payload", "262144"),
    ));
    let before = town.dump().await;
    for (request, expected) in table {
        let answer = api.send(&request).await;
        judge(&answer, expected).unwrap_or_else(|problem| {
            panic!("{:?}: {problem}: {}", request.headers.len(), answer.text());
        });
    }
    assert_eq!(town.dump().await, before);
}
