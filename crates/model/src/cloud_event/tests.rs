//! From the specification's text: the core, the JSON event format and the HTTP protocol binding of 1.0.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    id::MessageId,
    message::{Message, Metadata, Payload, PayloadKind, Priority},
    names::{ChannelName, ServiceName, Tenant},
    time::Time,
};

const LEAST: [(&str, &[u8]); 4] = [
    ("ce-specversion", b"1.0"),
    ("ce-type", b"com.example.someevent"),
    ("ce-id", b"1234-1234-1234"),
    ("ce-source", b"/mycontext/subcontext"),
];

fn binary(
    more: &[(&str, &[u8])],
    content_type: Option<&str>,
    body: &str,
) -> Result<CloudEvent, CloudEventError> {
    let headers = LEAST.iter().filter(|(name, _)| more.iter().all(|(other, _)| other != name)).chain(more);
    CloudEvent::from_binary(headers.copied(), content_type, &Bytes::copy_from_slice(body.as_bytes()))
}

fn structured(more: &Value) -> Result<CloudEvent, CloudEventError> {
    let mut event = json!({ "specversion": "1.0", "type": "t", "id": "i", "source": "/s" });
    for (name, value) in more.as_object().unwrap() {
        event[name] = value.clone();
    }
    CloudEvent::from_json(event.to_string().as_bytes())
}

/// The message that an event is kept as.
pub(super) fn message(event: CloudEvent) -> Message {
    let Kept { headers, content_type, payload } = event.keep();
    let content_type = content_type.unwrap_or_else(|| payload.kind.default_content_type().to_owned());
    Message {
        tenant: Tenant::single(),
        id: MessageId::new("m").unwrap(),
        channel: ChannelName::new("c").unwrap(),
        routing_key: None,
        ordering_key: None,
        service: ServiceName::new("s").unwrap(),
        priority: Priority::Normal,
        persistent: true,
        expires_after_ms: None,
        generation: 0,
        targets: Arc::from([]),
        test: false,
        trace: None,
        metadata: Metadata {
            message_id: MessageId::new("m").unwrap(),
            correlation_id: None,
            reply_to: None,
            content_type,
            content_encoding: None,
            priority: Priority::Normal,
            ttl: None,
            timestamp: Time::from_millis(1),
            headers,
        },
        payload,
    }
}

/// The example of the HTTP protocol binding, section 3.1.4.
#[test]
fn binary_mode_is_read_and_written() {
    let more: [(&str, &[u8]); 2] = [("CE-Time", b"2018-04-05T03:56:24Z"), ("Host", b"webhook.example.com")];
    let event = binary(&more, Some("application/json; charset=utf-8"), " {\"much\": \"wow\"} ").unwrap();
    assert_eq!(
        (event.id(), event.source(), event.kind()),
        ("1234-1234-1234", "/mycontext/subcontext", "com.example.someevent")
    );
    assert_eq!(event.attribute("time").as_deref(), Some("2018-04-05T03:56:24Z"));
    assert_eq!(event.data(), &Data::Json(Bytes::from_static(b"{\"much\": \"wow\"}")));
    assert_eq!(event.data_content_type(), Some("application/json; charset=utf-8"));
    let written = event.to_binary();
    assert_eq!(written.content_type.as_deref(), Some("application/json; charset=utf-8"));
    assert_eq!(&written.body[..], b"{\"much\": \"wow\"}");
    let names: Vec<&str> = written.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["ce-id", "ce-source", "ce-specversion", "ce-time", "ce-type"]);
}

/// Section 3.1.3.2 of the HTTP protocol binding, and what readers must accept besides.
#[test]
fn header_values_are_unquoted_and_then_decoded_once() {
    let table: [(&[u8], &str); 10] = [
        (b"Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
        (b"Euro%20%e2%82%ac", "Euro €"),
        (b"plain", "plain"),
        (b"\"in quotes\"", "in quotes"),
        (b"\"a \\\"b\\\" \\\\c\"", "a \"b\" \\c"),
        (b"\"%22\"", "\""),
        (b"%2541", "%41"),
        (b"%41%2C", "A,"),
        (b" x ", "x"),
        (b"a\"b", "a\"b"),
    ];
    for (value, expected) in table {
        let event = binary(&[("ce-subject", value)], None, "").unwrap();
        assert_eq!(
            event.attribute("subject").as_deref(),
            Some(expected),
            "{}",
            String::from_utf8_lossy(value)
        );
    }
    let bad: [(&[u8], &str); 8] = [
        (b"%C0%A0", "no UTF-8"),
        (b"%ff", "no UTF-8"),
        (b"100%", "%25"),
        (b"%g0", "%25"),
        (b"\"open", "quote"),
        (b"\"a\" b", "quote"),
        ("€".as_bytes(), "ASCII"),
        (b"%00", "may hold"),
    ];
    for (value, says) in bad {
        let error = binary(&[("ce-subject", value)], None, "").unwrap_err();
        assert_eq!(error.attribute, "subject");
        assert!(error.problem.contains(says), "{} of {}", error.problem, String::from_utf8_lossy(value));
    }
}

#[test]
fn header_values_are_encoded_as_the_binding_says() {
    let event =
        structured(&json!({ "subject": "Euro € 😀 100% \"x\"!~", "flag": true, "count": -7 })).unwrap();
    let headers = event.to_binary().headers;
    let value = |name: &str| headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    assert_eq!(value("ce-subject"), Some("Euro%20%E2%82%AC%20%F0%9F%98%80%20100%25%20%22x%22!~"));
    assert_eq!((value("ce-flag"), value("ce-count")), (Some("true"), Some("-7")));
}

#[test]
fn the_content_type_tells_the_mode() {
    let table = [
        (None, Ok(Mode::Binary)),
        (Some("application/json"), Ok(Mode::Binary)),
        (Some("text/plain"), Ok(Mode::Binary)),
        (Some("application/cloudevents+json"), Ok(Mode::Structured)),
        (Some("Application/CloudEvents+JSON; charset=UTF-8"), Ok(Mode::Structured)),
        (Some("application/cloudevents"), Ok(Mode::Structured)),
        (Some("application/cloudevents-batch+json"), Ok(Mode::Batched)),
        (Some("APPLICATION/CLOUDEVENTS-BATCH+JSON"), Ok(Mode::Batched)),
        (Some("application/cloudevents+avro"), Err("application/cloudevents+avro")),
        (Some("application/cloudevents-batch+protobuf"), Err("application/cloudevents-batch+protobuf")),
    ];
    for (content_type, mode) in table {
        assert_eq!(Mode::of(content_type), mode.map_err(str::to_owned), "{content_type:?}");
    }
}

/// Section 3.1 of the JSON event format.
#[test]
fn data_is_what_its_media_type_says() {
    let json = |text: &str| Data::Json(Bytes::copy_from_slice(text.as_bytes()));
    let table = [
        (json!({ "data": { "a": [1] } }), json("{\"a\":[1]}")),
        (json!({ "data": "x" }), json("\"x\"")),
        (json!({ "data": "x", "datacontenttype": "application/json" }), json("\"x\"")),
        (json!({ "data": "<x/>", "datacontenttype": "text/xml" }), Data::Text("<x/>".into())),
        (json!({ "data": 5, "datacontenttype": "text/xml" }), json("5")),
        (json!({ "data": null }), json("null")),
        (json!({ "data": null, "datacontenttype": "text/xml" }), json("null")),
        (json!({}), Data::None),
        (json!({ "data_base64": null }), Data::None),
        (json!({ "data_base64": "AP8=" }), Data::Bytes(Bytes::from_static(&[0, 255]))),
        (json!({ "data_base64": "", "datacontenttype": "image/png" }), Data::Bytes(Bytes::new())),
    ];
    for (members, data) in table {
        let event = structured(&members).unwrap();
        assert_eq!(event.data(), &data, "{members}");
        assert_eq!(CloudEvent::from_json(&event.to_json()).unwrap(), event, "{members}");
        assert_eq!(CloudEvent::kept(&message(event.clone())), Some(event), "{members}");
    }
    // Byte for byte, whatever a reader would make of it.
    let text = r#"{"specversion":"1.0","type":"t","id":"i","source":"/s","data":{"z":1.50, "a":1e400}}"#;
    let event = CloudEvent::from_json(text.as_bytes()).unwrap();
    assert!(String::from_utf8(event.to_json()).unwrap().ends_with(r#""data":{"z":1.50, "a":1e400}}"#));
}

#[test]
fn what_breaks_a_rule_is_refused_by_name() {
    let table = [
        (json!({ "id": "" }), "id", "empty"),
        (json!({ "id": null }), "id", "missing"),
        (json!({ "id": 7 }), "id", "string"),
        (json!({ "type": "" }), "type", "empty"),
        (json!({ "type": null }), "type", "missing"),
        (json!({ "source": "" }), "source", "empty"),
        (json!({ "source": "a b" }), "source", "URI"),
        (json!({ "source": "/größe" }), "source", "percent-encode"),
        (json!({ "specversion": "0.3" }), "specversion", "1.0"),
        (json!({ "specversion": 1 }), "specversion", "string"),
        (json!({ "specversion": null }), "specversion", "missing"),
        (json!({ "time": "yesterday" }), "time", "RFC 3339"),
        (json!({ "subject": "" }), "subject", "empty"),
        (json!({ "subject": "a\u{7}" }), "subject", "may hold"),
        (json!({ "subject": "a\u{fffe}" }), "subject", "may hold"),
        (json!({ "dataschema": "relative" }), "dataschema", "absolute"),
        (json!({ "datacontenttype": "json" }), "datacontenttype", "media type"),
        (json!({ "datacontenttype": 1 }), "datacontenttype", "string"),
        (json!({ "Upper": "x" }), "Upper", "a-z"),
        (json!({ "under_score": "x" }), "under_score", "a-z"),
        (json!({ "ext": 1.5 }), "ext", "32 bits"),
        (json!({ "ext": 2_147_483_648_i64 }), "ext", "32 bits"),
        (json!({ "ext": {} }), "ext", "neither"),
        (json!({ "data": 1, "data_base64": "AA==" }), "data_base64", "beside"),
        (json!({ "data_base64": "?" }), "data_base64", "base64"),
        (json!({ "data_base64": 1 }), "body", "JSON"),
    ];
    for (members, attribute, says) in table {
        let error = structured(&members).unwrap_err();
        assert_eq!(error.attribute, attribute, "{members}: {error}");
        assert!(error.problem.contains(says), "{members}: {error}");
    }
    assert!(structured(&json!({ "ext": -2_147_483_648_i64, "flag": false, "nothing": null })).is_ok());
    for text in ["", "[]", "7", "{", r#"{"id":"a","id":"b"}"#, r#"{"data":1,"data":2}"#] {
        assert_eq!(CloudEvent::from_json(text.as_bytes()).unwrap_err().attribute, "body", "{text}");
    }
    let deep = format!(r#"{{"data":{}{}}}"#, "[".repeat(64), "]".repeat(64));
    assert!(CloudEvent::from_json(deep.as_bytes()).unwrap_err().problem.contains("deep"));
    type Headers<'a> = &'a [(&'a str, &'a [u8])];
    let in_headers: [(Headers<'_>, &str); 4] = [
        (&[("ce-datacontenttype", b"text/plain")], "datacontenttype"),
        (&[("ce-data", b"x")], "data"),
        (&[("ce-x", b"1"), ("CE-X", b"2")], "x"),
        (&[("ce-id", b"")], "id"),
    ];
    for (headers, attribute) in in_headers {
        assert_eq!(binary(headers, None, "").unwrap_err().attribute, attribute);
    }
    let none = CloudEvent::from_binary([], Some("application/json"), &Bytes::from_static(b"{}")).unwrap_err();
    assert_eq!(none.attribute, "specversion");
    assert_eq!(binary(&[], Some("application/json"), "{").unwrap_err().attribute, "data");
}

#[test]
fn a_body_in_binary_mode_is_bytes_unless_it_is_known_to_be_more() {
    let table = [
        (None, "text", Data::Bytes("text".into())),
        (Some("text/plain"), "größe", Data::Text("größe".into())),
        (Some("application/xml"), "<x/>", Data::Text("<x/>".into())),
        (Some("text/plain; charset=\"UTF-8\""), "a", Data::Text("a".into())),
        (Some("text/plain; charset=iso-8859-1"), "a", Data::Bytes("a".into())),
        (Some("image/png"), "a", Data::Bytes("a".into())),
        (Some("application/vnd.x+json"), "[1]", Data::Json("[1]".into())),
        (Some("text/json"), "\"a\"", Data::Json("\"a\"".into())),
        (Some("application/json"), "", Data::None),
        (Some("text/plain"), "", Data::None),
    ];
    for (content_type, body, data) in table {
        let event = binary(&[], content_type, body).unwrap();
        assert_eq!(event.data(), &data, "{content_type:?}");
        let written = event.to_binary();
        assert_eq!((written.content_type.as_deref(), &written.body[..]), (content_type, body.as_bytes()));
        assert_eq!(CloudEvent::kept(&message(event.clone())), Some(event), "{content_type:?}");
    }
}

#[test]
fn what_is_kept_can_be_looked_at() {
    let event = structured(&json!({ "subject": "s", "flag": true, "data": { "a": 1 } })).unwrap();
    let Kept { headers, content_type, payload } = event.keep();
    let expected = json!({
        "ce-specversion": "1.0", "ce-type": "t", "ce-id": "i", "ce-source": "/s", "ce-subject": "s", "ce-flag": true,
        "ce-datacontenttype": null,
    });
    assert_eq!(Value::Object(headers), expected);
    assert_eq!((content_type.as_deref(), payload.kind), (Some("application/json"), PayloadKind::Json));
    let Kept { headers, payload, .. } = structured(&json!({ "data": [1, 2] })).unwrap().keep();
    assert_eq!(
        (&headers["ce-data"], payload.kind, &payload.body[..]),
        (&json!("json"), PayloadKind::Text, &b"[1,2]"[..])
    );
    let Kept { content_type, payload, .. } = structured(&json!({ "data": "x" })).unwrap().keep();
    assert_eq!((content_type.as_deref(), &payload.body[..]), (Some("application/json"), &b"x"[..]));
}

#[test]
fn what_was_no_event_is_none() {
    let mut plain = message(structured(&json!({})).unwrap());
    plain.metadata.headers.remove("ce-specversion");
    assert_eq!(CloudEvent::kept(&plain), None);
    let change = |name: &str, value: Value| {
        let mut message = message(structured(&json!({ "data": { "a": 1 } })).unwrap());
        message.metadata.headers.insert(name.into(), value);
        CloudEvent::kept(&message)
    };
    assert_eq!(change("ce-id", json!("")), None);
    assert_eq!(change("ce-nested", json!({})), None);
    assert_eq!(change("ce-specversion", json!("2")), None);
    assert!(change("other", json!({})).is_some());
    let mut broken = message(structured(&json!({ "data": [1] })).unwrap());
    broken.payload = Payload { kind: PayloadKind::Text, body: Bytes::from_static(b"[1") };
    assert_eq!(CloudEvent::kept(&broken), None);
}

#[test]
fn a_batch_is_an_array_of_events() {
    let events = batch(br#"[{"specversion":"1.0","id":"1","source":"/","type":"t"}, 7]"#).unwrap();
    assert_eq!(events.len(), 2);
    assert!(CloudEvent::from_json(events[0].get().as_bytes()).is_ok());
    assert!(CloudEvent::from_json(events[1].get().as_bytes()).is_err());
    assert!(batch(b"[]").unwrap().is_empty());
    assert_eq!(batch(b"{}").unwrap_err().attribute, "body");
}

fn event() -> impl Strategy<Value = CloudEvent> {
    let text = "[ -~äöü€😀]{1,12}";
    let value = prop_oneof![
        text.prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
    ];
    let extensions = proptest::collection::btree_map("x[a-z0-9]{1,8}", value, 0..4);
    let json = prop_oneof![
        Just(json!(null)),
        Just(json!({ "a": [1, "x"] })),
        Just(json!([{}])),
        any::<i64>().prop_map(Value::from),
        ".{0,9}".prop_map(Value::from),
    ];
    let data = prop_oneof![
        Just(Data::None),
        json.prop_map(|value| Data::Json(value.to_string().into())),
        proptest::collection::vec(any::<u8>(), 0..20).prop_map(|bytes| Data::Bytes(bytes.into())),
    ];
    let content_type = prop_oneof![
        Just(None),
        Just(Some("application/json".to_owned())),
        Just(Some("application/a+json; x=y".to_owned())),
    ];
    (text, text, extensions, content_type, data).prop_map(|(id, kind, mut attributes, content_type, data)| {
        attributes.insert("id".into(), id.into());
        attributes.insert("type".into(), kind.into());
        attributes.insert("source".into(), "urn:x".into());
        CloudEvent::new(attributes, content_type, data).unwrap()
    })
}

proptest! {
    #[test]
    fn nothing_is_lost_on_the_way(event in event()) {
        prop_assert_eq!(CloudEvent::from_json(&event.to_json()).unwrap(), event.clone());
        prop_assert_eq!(CloudEvent::kept(&message(event.clone())), Some(event.clone()));
        // In headers everything is text.
        let written = event.to_binary();
        let headers = written.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        if let Ok(read) = CloudEvent::from_binary(headers, written.content_type.as_deref(), &written.body) {
            for name in event.attributes.keys() {
                prop_assert_eq!(read.attribute(name), event.attribute(name));
            }
            prop_assert_eq!(read.to_binary(), written);
        } else {
            prop_assert!(matches!(event.data(), Data::Bytes(_)), "only bytes that say they are JSON");
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(text in proptest::collection::vec(any::<u8>(), 0..60)) {
        let _ = CloudEvent::from_json(&text);
        let _ = batch(&text);
        let _ = binary(&[("ce-subject", &text)], Some("application/json"), "");
    }
}
