//! A message that was no event, as one.
//!
//! | attribute | is |
//! |---|---|
//! | `id` | the message's id |
//! | `source` | `/postroad/<tenant>/channels/<channel>`: within it ids are unique |
//! | `type` | the routing key; the channel's name where there is none |
//! | `time` | the message's timestamp |
//! | `datacontenttype` | the message's content type |
//! | `partitionkey` | the ordering key |
//! | `correlationid` | the correlation id |
//! | `traceparent` | the publisher's, where it came with one |
//! | `postroadchannel` | the channel's name |
//! | `postroadattempt` | the number of this attempt, from 1 |
//!
//! What an attribute may not hold is left out.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::{CloudEvent, Data, SPEC_VERSION, attribute, is_json};
use crate::{
    message::{Message, Payload, PayloadKind},
    names::{OrderingKey, RoutingKey},
};

impl CloudEvent {
    /// The event that goes out for a message: the one that came in, as it came, or one made of the message.
    /// `attempt` counts from 1.
    pub fn of(message: &Message, attempt: u32) -> Self {
        Self::kept(message).unwrap_or_else(|| Self::made(message, attempt))
    }

    /// What there is to send of a message as plain data, and its media type: for those who want no more than
    /// what was published.
    pub fn plain(message: &Message) -> (Option<String>, Bytes) {
        let event = Self::of(message, 1);
        let binary = event.to_binary();
        (binary.content_type, binary.body)
    }

    fn made(message: &Message, attempt: u32) -> Self {
        let channel = message.channel.as_str();
        let metadata = &message.metadata;
        let content_type = media_type(&metadata.content_type, message.payload.kind);
        let routing_key = message.routing_key.as_ref().map(RoutingKey::as_str);
        let attributes = [
            ("specversion", Some(SPEC_VERSION.into())),
            ("id", Some(message.id.as_str().into())),
            ("source", Some(format!("/postroad/{}/channels/{channel}", message.tenant).into())),
            ("type", Some(channel.into())),
            ("type", routing_key.map(Value::from)),
            ("time", Some(metadata.timestamp.to_string().into())),
            ("partitionkey", message.ordering_key.as_ref().map(OrderingKey::as_str).map(Value::from)),
            ("correlationid", metadata.correlation_id.as_deref().map(Value::from)),
            ("traceparent", message.trace.map(|trace| trace.to_string().into())),
            ("postroadchannel", Some(channel.into())),
            ("postroadattempt", Some(attempt.into())),
        ];
        // Of two types the later one stands, if it may.
        let attributes: BTreeMap<String, Value> = attributes
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
            .filter(|(name, value)| attribute::check(name, value).is_ok())
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        let data = data(&message.payload, is_json(Some(&content_type)));
        Self { attributes, data_content_type: Some(content_type), data }
    }
}

/// What a publisher said, if it is a media type.
fn media_type(said: &str, kind: PayloadKind) -> String {
    match attribute::check_media_type(said) {
        Ok(()) => said.to_owned(),
        Err(_) => kind.default_content_type().to_owned(),
    }
}

fn data(payload: &Payload, says_json: bool) -> Data {
    let body = &payload.body;
    match payload.kind {
        PayloadKind::Json => Data::Json(body.clone()),
        PayloadKind::Bytes => Data::Bytes(body.clone()),
        // A string that says it is JSON is the text of some: what was posted raw and is no object became one. If
        // it is not, then it was a JSON string.
        PayloadKind::Text if says_json => match serde_json::from_slice::<IgnoredAny>(body) {
            Ok(_) => Data::Json(body.clone()),
            Err(_) => Data::Json(Value::from(String::from_utf8_lossy(body)).to_string().into()),
        },
        PayloadKind::Text => Data::Text(String::from_utf8_lossy(body).into_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cloud_event::tests::message;

    fn plain(kind: PayloadKind, body: &[u8], content_type: &str) -> Message {
        let empty = BTreeMap::from(["id", "source", "type"].map(|name| (name.to_owned(), "/x".into())));
        let mut message = message(CloudEvent::new(empty, None, Data::None).unwrap());
        message.metadata.headers.clear();
        message.metadata.content_type = content_type.into();
        message.metadata.correlation_id = Some("m".into());
        message.payload = Payload { kind, body: Bytes::copy_from_slice(body) };
        message
    }

    #[test]
    fn a_message_becomes_an_event_of_its_own() {
        let mut message = plain(PayloadKind::Json, br#"{"z":1.50, "a":1e400}"#, "application/json");
        let bare = r#"{"specversion":"1.0","id":"m","source":"/postroad/default/channels/c","type":"c","#
            .to_owned()
            + r#""correlationid":"m","postroadattempt":2,"postroadchannel":"c","time":"1970-01-01T00:00:00.001Z","#
            + r#""datacontenttype":"application/json","data":{"z":1.50, "a":1e400}}"#;
        assert_eq!(String::from_utf8(CloudEvent::of(&message, 2).to_json()).unwrap(), bare);

        message.routing_key = Some(RoutingKey::new("größe.new").unwrap());
        message.ordering_key = Some(OrderingKey::new("customer 7").unwrap());
        message.trace = Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().unwrap());
        let event = CloudEvent::of(&message, 1);
        assert_eq!(event.kind(), "größe.new");
        assert_eq!(event.attribute("partitionkey").as_deref(), Some("customer 7"));
        assert_eq!(event.attribute("traceparent"), message.trace.map(|trace| trace.to_string()));
        let headers = event.to_binary().headers;
        let find = |name: &str| &headers.iter().find(|(known, _)| known == name).unwrap().1;
        assert_eq!(
            (find("ce-type").as_str(), find("ce-partitionkey").as_str()),
            ("gr%C3%B6%C3%9Fe.new", "customer%207")
        );
        assert_eq!(CloudEvent::from_json(&event.to_json()).unwrap(), event);
    }

    #[test]
    fn what_no_attribute_may_hold_is_left_out() {
        let mut message = plain(PayloadKind::Bytes, b"x", "no media type");
        message.routing_key = Some(RoutingKey::new("a\u{fffe}").unwrap());
        message.metadata.correlation_id = Some("\u{fffe}".into());
        let event = CloudEvent::of(&message, 1);
        assert_eq!((event.kind(), event.attribute("correlationid")), ("c", None));
        assert_eq!(event.data_content_type(), Some("application/octet-stream"));
        message.routing_key = Some(RoutingKey::new("").unwrap());
        assert_eq!(CloudEvent::of(&message, 1).kind(), "c");
    }

    #[test]
    fn what_came_as_an_event_goes_as_the_same() {
        let text = br#"{"specversion":"1.0","id":"i d","source":"/s","type":"t","own":7,"data":[1, 2]}"#;
        let event = CloudEvent::from_json(text).unwrap();
        assert_eq!(CloudEvent::of(&message(event.clone()), 3), event);
        let (content_type, body) = CloudEvent::plain(&message(event));
        assert_eq!((content_type.as_deref(), &body[..]), (Some("application/json"), &b"[1, 2]"[..]));
    }

    #[test]
    fn data_is_what_was_published() {
        use PayloadKind::{Bytes, Json, Text};
        /// Kind, payload, content type; as data in JSON, as a body.
        type Row<'a> = (PayloadKind, &'a [u8], &'a str, Value, &'a [u8]);
        let table: [Row<'_>; 8] = [
            (Json, b"{\"a\":1}", "text/odd", json!({ "data": { "a": 1 } }), b"{\"a\":1}"),
            (Text, "größe\n".as_bytes(), "text/plain", json!({ "data": "größe\n" }), "größe\n".as_bytes()),
            (Text, b"", "text/plain", json!({ "data": "" }), b""),
            (Text, b"{\"a\":1}", "text/plain", json!({ "data": "{\"a\":1}" }), b"{\"a\":1}"),
            (Text, b"[1,2]", "application/json", json!({ "data": [1, 2] }), b"[1,2]"),
            (Text, b"say \"x\"", "application/json", json!({ "data": "say \"x\"" }), b"\"say \\\"x\\\"\""),
            (Bytes, &[0, 255], "image/png", json!({ "data_base64": "AP8=" }), &[0, 255]),
            (Bytes, b"{}", "application/json", json!({ "data_base64": "e30=" }), b"{}"),
        ];
        for (kind, payload, content_type, in_json, body) in table {
            let message = plain(kind, payload, content_type);
            let event: Value = serde_json::from_slice(&CloudEvent::of(&message, 1).to_json()).unwrap();
            for name in ["data", "data_base64"] {
                assert_eq!(event.get(name), in_json.get(name), "{payload:?} as {content_type}");
            }
            assert_eq!(event["datacontenttype"], content_type);
            let (said, sent) = CloudEvent::plain(&message);
            assert_eq!(
                (said.as_deref(), &sent[..]),
                (Some(content_type), body),
                "{payload:?} as {content_type}"
            );
        }
    }
}
