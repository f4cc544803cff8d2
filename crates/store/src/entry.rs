//! The entry format: how a message lies in a stream. A contract between daemons of different releases.
//!
//! An entry has the fields
//!
//! * `m`: the record, `<version> <header>\n<body>`: the format's version as a decimal number, a space, the
//!   header as a JSON object on one line, a line feed, and the payload's bytes, compressed as the header's
//!   `enc` says;
//! * `t`: when it was accepted, in milliseconds by Redis's clock;
//! * `p` (ingress only, of what waited to become due): when it was published, on the same clock;
//! * `o` (ingress only, of a replay of history): the ingress id that the message first had;
//! * `ref` (work queues and dead letters only): `<partition>:<ingress id>`, the first one's for a replay, empty without
//!   a history.
//!
//! One field rather than many, because each costs on every one of its four ways through a script. In version
//! 1 the header has the members of `Header`; what is as it usually is, is left out. A reader passes over
//! members that it does not know. A writer that adds one whose neglect would deliver wrongly must raise the
//! version. (`test` is none of those: whoever does not know it delivers a sample as it delivers any message, with
//! retries.) `tests/golden` holds records of every past version.

use std::{io::Read, sync::Arc};

use bytes::Bytes;
use flate2::{Compression, read::ZlibDecoder, write::ZlibEncoder};
use postroad_model::{
    id::{MessageId, SubscriptionId},
    message::{Message, Metadata, Payload, PayloadKind, Priority},
    names::{ChannelName, OrderingKey, RoutingKey, ServiceName, Tenant},
    time::Time,
    trace_context::TraceParent,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The version that this release writes, and the newest that it reads.
pub const VERSION: u32 = 1;

/// The most that a payload may grow to when it is decompressed: a guard, not the limit at the door.
const MAX_PAYLOAD: u64 = 64 << 20;

/// Why an entry could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// It was written by a newer release: whoever meets it must stop before it.
    #[error("entry format {0} is newer than the {VERSION} that this release reads")]
    Newer(u32),
    /// It is no entry.
    #[error("undecodable entry: {0}")]
    Broken(String),
}

/// The header's members.
#[derive(Serialize, Deserialize)]
struct Header<'a> {
    tenant: Tenant,
    id: MessageId,
    channel: ChannelName,
    #[serde(rename = "key", default, skip_serializing_if = "Option::is_none")]
    routing_key: Option<RoutingKey>,
    #[serde(rename = "order", default, skip_serializing_if = "Option::is_none")]
    ordering_key: Option<OrderingKey>,
    service: ServiceName,
    #[serde(default, skip_serializing_if = "is_normal")]
    priority: Priority,
    /// `persistent: false`.
    #[serde(default, skip_serializing_if = "is_false")]
    fleeting: bool,
    #[serde(rename = "gen", default, skip_serializing_if = "is_zero")]
    generation: u32,
    #[serde(rename = "to", default, skip_serializing_if = "<[_]>::is_empty")]
    targets: Arc<[SubscriptionId]>,
    /// A sample for its targets.
    #[serde(default, skip_serializing_if = "is_false")]
    test: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trace: Option<TraceParent>,
    kind: PayloadKind,
    /// `zlib` where the body is compressed.
    #[serde(rename = "enc", default, skip_serializing_if = "Option::is_none")]
    encoding: Option<&'a str>,

    // What `Metadata` says besides.
    /// The message's id where there is none.
    #[serde(rename = "cid", default, skip_serializing_if = "Option::is_none")]
    correlation_id: Option<String>,
    #[serde(rename = "reply", default, skip_serializing_if = "Option::is_none")]
    reply_to: Option<String>,
    /// The payload kind's usual one where there is none.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    #[serde(rename = "coding", default, skip_serializing_if = "Option::is_none")]
    content_encoding: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ttl: Option<u64>,
    /// Milliseconds after acceptance; what `ttl` says where there is none. A reader that does not know it goes by
    /// `ttl`, and delivers what only the channel bounds as if it did not.
    #[serde(rename = "exp", default, skip_serializing_if = "Option::is_none")]
    expires_after_ms: Option<u64>,
    /// Milliseconds since 1970.
    #[serde(rename = "at")]
    timestamp_ms: u64,
    #[serde(rename = "hdr", default, skip_serializing_if = "Map::is_empty")]
    headers: Map<String, Value>,
}

fn is_normal(priority: &Priority) -> bool {
    *priority == Priority::Normal
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !*value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(value: &u32) -> bool {
    *value == 0
}

/// A message as the record of a stream entry.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Entry {
    /// The record.
    pub record: Bytes,
}

impl Entry {
    /// Writes a message. A payload of more than `compress_above` bytes is compressed, where that helps.
    pub fn encode(message: &Message, compress_above: usize) -> Self {
        let Metadata {
            correlation_id,
            reply_to,
            content_type,
            content_encoding,
            ttl,
            timestamp,
            headers,
            ..
        } = &message.metadata;
        let raw = &message.payload.body;
        let packed =
            (raw.len() > compress_above).then(|| compress(raw)).filter(|packed| packed.len() < raw.len());
        let kind = message.payload.kind;
        let header = Header {
            tenant: message.tenant.clone(),
            id: message.id.clone(),
            channel: message.channel.clone(),
            routing_key: message.routing_key.clone(),
            ordering_key: message.ordering_key.clone(),
            service: message.service.clone(),
            priority: message.priority,
            fleeting: !message.persistent,
            generation: message.generation,
            targets: Arc::clone(&message.targets),
            test: message.test,
            trace: message.trace,
            kind,
            encoding: packed.as_ref().map(|_| "zlib"),
            correlation_id: correlation_id.clone().filter(|id| id != message.id.as_str()),
            reply_to: reply_to.clone(),
            content_type: Some(content_type.clone()).filter(|usual| usual != kind.default_content_type()),
            content_encoding: content_encoding.clone(),
            ttl: *ttl,
            expires_after_ms: message.expires_after_ms.filter(|ms| Some(*ms) != message.metadata.ttl_ms()),
            timestamp_ms: timestamp.as_millis(),
            headers: headers.clone(),
        };
        let body = packed.as_deref().unwrap_or(raw);
        let mut record = Vec::with_capacity(body.len() + 400);
        record.extend_from_slice(VERSION.to_string().as_bytes());
        record.push(b' ');
        // Writing to a vector does not fail.
        let _ = serde_json::to_writer(&mut record, &header);
        record.push(b'\n');
        record.extend_from_slice(body);
        Self { record: record.into() }
    }

    /// Writes a message up to the number of its generation, and what is behind that: whoever stores it knows the
    /// number.
    pub(crate) fn encode_unnumbered(message: &Message, compress_above: usize) -> (Bytes, Bytes) {
        const NAME: &str = r#""gen":"#;
        const STAND_IN: u32 = u32::MAX;
        let message = Message { generation: STAND_IN, ..message.clone() };
        let Self { record } = Self::encode(&message, compress_above);
        let needle = format!("{NAME}{STAND_IN}");
        // No text in the header can read so: in JSON its quotation marks are escaped.
        let at = record.windows(needle.len()).position(|window| window == needle.as_bytes()).unwrap_or(0);
        (record.slice(..at + NAME.len()), record.slice(at + needle.len()..))
    }

    /// Reads a message.
    pub fn decode(&self) -> Result<Message, EntryError> {
        let broken = |error: &dyn std::fmt::Display| EntryError::Broken(error.to_string());
        let (header, body) = self.split()?;
        let header: Header<'_> = serde_json::from_slice(header).map_err(|error| broken(&error))?;
        let body = match header.encoding {
            None => body,
            Some("zlib") => decompress(&body).map_err(|error| broken(&error))?,
            Some(other) => return Err(EntryError::Broken(format!("unknown body encoding {other:?}"))),
        };
        let metadata = Metadata {
            message_id: header.id.clone(),
            correlation_id: Some(header.correlation_id.unwrap_or_else(|| header.id.to_string())),
            reply_to: header.reply_to,
            content_type: header
                .content_type
                .unwrap_or_else(|| header.kind.default_content_type().to_owned()),
            content_encoding: header.content_encoding,
            priority: header.priority,
            ttl: header.ttl,
            timestamp: Time::from_millis(header.timestamp_ms),
            headers: header.headers,
        };
        let expires_after_ms = header.expires_after_ms.or(metadata.ttl_ms());
        Ok(Message {
            tenant: header.tenant,
            id: header.id,
            channel: header.channel,
            routing_key: header.routing_key,
            ordering_key: header.ordering_key,
            service: header.service,
            priority: header.priority,
            persistent: !header.fleeting,
            expires_after_ms,
            generation: header.generation,
            targets: header.targets,
            test: header.test,
            trace: header.trace,
            metadata,
            payload: Payload { kind: header.kind, body },
        })
    }

    /// Header and body; the version decides whether they may be read at all.
    /// Whose message it is and of which channel, from the head of its record alone.
    pub(crate) fn channel_of(head: &Bytes) -> Option<(Tenant, ChannelName)> {
        let record = Self { record: head.clone() };
        let (header, _) = record.split().ok()?;
        let header: Header<'_> = serde_json::from_slice(header).ok()?;
        Some((header.tenant, header.channel))
    }

    fn split(&self) -> Result<(&[u8], Bytes), EntryError> {
        let broken = |what: &str| EntryError::Broken(what.to_owned());
        let record = &self.record[..];
        let space = record
            .iter()
            .take(12)
            .position(|byte| *byte == b' ')
            .ok_or_else(|| broken("it has no version"))?;
        let version: u32 = std::str::from_utf8(&record[..space])
            .ok()
            .and_then(|text| text.parse().ok())
            .filter(|version| *version > 0)
            .ok_or_else(|| broken("its version is no number"))?;
        if version > VERSION {
            return Err(EntryError::Newer(version));
        }
        let end =
            record.iter().position(|byte| *byte == b'\n').ok_or_else(|| broken("its header does not end"))?;
        Ok((&record[space + 1..end], self.record.slice(end + 1..)))
    }

    /// What the entry counts for in a queue's bytes; the scripts reckon the same.
    pub fn size(&self) -> usize {
        self.record.len()
    }
}

fn compress(raw: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = ZlibEncoder::new(Vec::with_capacity(raw.len() / 2), Compression::fast());
    // Writing to a vector does not fail.
    let _ = encoder.write_all(raw);
    encoder.finish().unwrap_or_default()
}

fn decompress(packed: &[u8]) -> std::io::Result<Bytes> {
    let mut raw = Vec::new();
    ZlibDecoder::new(packed).take(MAX_PAYLOAD).read_to_end(&mut raw)?;
    Ok(raw.into())
}

/// An entry of ingress, as a router reads it.
#[derive(Debug, Clone)]
pub struct Accepted {
    /// Its id in the partition's stream.
    pub id: crate::StreamId,
    /// When it was accepted, by Redis's clock.
    pub accepted_ms: u64,
    /// Its fields, to be copied into queues as they are.
    pub entry: Entry,
    /// Of a replay of history: the id that the message first had there.
    pub first: Option<crate::StreamId>,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn message(payload: Payload) -> Message {
        let id = MessageId::new("order-1").unwrap();
        Message {
            tenant: Tenant::single(),
            id: id.clone(),
            channel: ChannelName::new("orders.created").unwrap(),
            routing_key: Some(RoutingKey::new("eu.new").unwrap()),
            ordering_key: None,
            service: ServiceName::new("shop").unwrap(),
            priority: Priority::High,
            persistent: true,
            expires_after_ms: None,
            generation: 0,
            targets: Arc::from([]),
            test: false,
            trace: None,
            metadata: Metadata {
                message_id: id,
                correlation_id: Some("order-1".into()),
                reply_to: None,
                content_type: payload.kind.default_content_type().into(),
                content_encoding: None,
                priority: Priority::High,
                ttl: None,
                timestamp: Time::from_millis(1_700_000_000_123),
                headers: Map::new(),
            },
            payload,
        }
    }

    fn json(body: &'static str) -> Payload {
        Payload { kind: PayloadKind::Json, body: Bytes::from_static(body.as_bytes()) }
    }

    /// The record with its text changed.
    fn changed(entry: &Entry, from: &str, to: &str) -> Entry {
        let text = String::from_utf8(entry.record.to_vec()).unwrap();
        assert!(text.contains(from), "{text}");
        Entry { record: text.replacen(from, to, 1).into() }
    }

    #[test]
    fn a_message_survives_the_way_there_and_back() {
        for (kind, body) in [
            (PayloadKind::Json, Bytes::from_static(br#"{"a": 1e400,  "b":"\u00e9"}"#)),
            (PayloadKind::Text, Bytes::from_static("größe\nzwei".as_bytes())),
            (PayloadKind::Bytes, Bytes::from_static(&[0, 10, 159, 146, 150])),
            (PayloadKind::Text, Bytes::new()),
        ] {
            let message = message(Payload { kind, body });
            assert_eq!(Entry::encode(&message, usize::MAX).decode().unwrap(), message);
        }
    }

    #[test]
    fn every_member_survives() {
        let mut message = message(json("{}"));
        message.ordering_key = Some(OrderingKey::new("customer 7").unwrap());
        message.persistent = false;
        message.generation = 2;
        message.targets = Arc::from([SubscriptionId::new("sub_1").unwrap()]);
        message.test = true;
        message.trace = Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().unwrap());
        message.metadata.correlation_id = Some("undertaking".into());
        message.metadata.reply_to = Some("answers".into());
        message.metadata.content_type = "application/vnd.shop+json".into();
        message.metadata.content_encoding = Some("utf-8".into());
        message.metadata.ttl = Some(60);
        message.expires_after_ms = Some(2_500);
        message.metadata.headers.insert("line\nfeed".into(), serde_json::json!({"deep": [1, "\n"]}));
        assert_eq!(Entry::encode(&message, 0).decode().unwrap(), message);
    }

    #[test]
    fn a_generation_is_put_in_where_it_belongs() {
        let mut message = message(json(r#"{"gen":4294967295}"#));
        message.routing_key = Some(RoutingKey::new(r#","gen":4294967295"#).unwrap());
        message.service = ServiceName::new(r#"\"gen":4294967295"#).unwrap();
        let (head, tail) = Entry::encode_unnumbered(&message, usize::MAX);
        let record = [&head[..], b"17", &tail[..]].concat();
        message.generation = 17;
        assert_eq!(Entry { record: record.into() }, Entry::encode(&message, usize::MAX));
    }

    #[test]
    fn what_is_as_usual_is_left_out() {
        let entry = Entry::encode(&message(json("{}")), usize::MAX);
        let text = String::from_utf8(entry.record.to_vec()).unwrap();
        let expected = r#"1 {"tenant":"default","id":"order-1","channel":"orders.created","key":"eu.new","service":"shop","priority":"high","kind":"json","at":1700000000123}"#;
        assert_eq!(text, format!("{expected}\n{{}}"));
    }

    #[test]
    fn a_lifetime_is_written_where_the_ttl_does_not_say_it() {
        let mut message = message(json("{}"));
        for (ttl, lifetime, written) in [
            (None, None, false),
            (Some(60), Some(60_000), false),
            (Some(60), Some(2_500), true),
            (None, Some(1), true),
        ] {
            (message.metadata.ttl, message.expires_after_ms) = (ttl, lifetime);
            let entry = Entry::encode(&message, usize::MAX);
            let text = String::from_utf8(entry.record.to_vec()).unwrap();
            assert_eq!(text.contains("\"exp\""), written, "{text}");
            assert_eq!(entry.decode().unwrap(), message);
        }
    }

    #[test]
    fn large_bodies_are_compressed_where_that_helps() {
        let message = message(Payload { kind: PayloadKind::Text, body: Bytes::from(vec![b'a'; 10_000]) });
        let entry = Entry::encode(&message, 1_000);
        assert!(entry.size() < 1_000);
        assert_eq!(entry.decode().unwrap(), message);
        let short = self::message(json("{}"));
        assert!(Entry::encode(&short, 0).record.ends_with(b"\n{}"));
    }

    #[test]
    fn newer_and_broken_records_are_told_apart() {
        let good = Entry::encode(&message(json("{}")), 9);
        assert_eq!(changed(&good, "1 {", "2 {").decode().unwrap_err(), EntryError::Newer(2));
        assert_eq!(changed(&good, "1 {", "4294967295 {").decode().unwrap_err(), EntryError::Newer(u32::MAX));
        for record in [
            "",
            "junk",
            "1",
            "1 ",
            "1 {}",
            "1 {}\n",
            "1 [1]\n",
            "0 {}\n",
            "-1 {}\n",
            "x {}\n",
            "99999999999 {}\n",
        ] {
            let entry = Entry { record: Bytes::from_static(record.as_bytes()) };
            assert!(matches!(entry.decode(), Err(EntryError::Broken(_))), "{record:?}");
        }
        let hostile = changed(&good, "\"default\"", "\"{p0}\"");
        assert!(matches!(hostile.decode(), Err(EntryError::Broken(_))));
        let unknown = changed(&good, "\"kind\"", "\"enc\":\"rot13\",\"kind\"");
        assert!(unknown.decode().unwrap_err().to_string().contains("rot13"));
        let unpacked = changed(&good, "\"kind\"", "\"enc\":\"zlib\",\"kind\"");
        assert!(matches!(unpacked.decode(), Err(EntryError::Broken(_))));
    }

    #[test]
    fn members_of_later_releases_are_passed_over() {
        let good = Entry::encode(&message(json("{}")), 9);
        assert!(changed(&good, "\"kind\"", "\"shiny\":[1],\"kind\"").decode().is_ok());
    }

    /// Records written by past releases must stay readable: never change these files, only add to them.
    #[test]
    fn golden_records_of_every_version_are_read() {
        let golden = include_str!("../tests/golden/entry-v1.json");
        let rows: Vec<Value> = serde_json::from_str(golden).unwrap();
        assert_eq!(rows.len(), 3);
        for row in rows {
            let part = |name: &str| row[name].as_str().unwrap().to_owned();
            let hex = part("record_hex");
            let record: Vec<u8> = (0..hex.len() / 2)
                .map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap())
                .collect();
            let message = Entry { record: record.into() }.decode().unwrap();
            assert_eq!(message.id.as_str(), part("id"));
            assert_eq!(serde_json::to_value(&message.metadata).unwrap(), row["metadata"]);
            assert_eq!(message.expires_after_ms, row["metadata"]["ttl"].as_u64().map(|ttl| ttl * 1_000));
            assert_eq!(String::from_utf8_lossy(&message.payload.body), part("payload"));
        }
    }
}
