//! The entry format: how a message lies in a stream. A contract between daemons of different releases.
//!
//! Version 1 has the fields
//!
//! * `v`: the format's version, a decimal number;
//! * `h`: the header, a JSON object (see [`Header`]);
//! * `b`: the payload's bytes, compressed as the header's `enc` says;
//! * `t`: when it was accepted, in milliseconds by Redis's clock;
//! * `ref` (work queues and dead letters only): `<partition>:<ingress id>`, empty without a history.
//!
//! A reader passes over header members that it does not know. A writer that adds one whose neglect would
//! deliver wrongly must raise the version. `tests/golden` holds entries of every past version.

use std::{io::Read, sync::Arc};

use bytes::Bytes;
use flate2::{Compression, read::ZlibDecoder, write::ZlibEncoder};
use postroad_model::{
    id::{MessageId, SubscriptionId},
    message::{Message, Payload, PayloadKind, Priority},
    names::{ChannelName, OrderingKey, RoutingKey, ServiceName, Tenant},
    trace_context::TraceParent,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trace: Option<TraceParent>,
    #[serde(rename = "ttl", default, skip_serializing_if = "Option::is_none")]
    ttl_seconds: Option<u64>,
    kind: PayloadKind,
    /// `zlib` where the body is compressed.
    #[serde(rename = "enc", default, skip_serializing_if = "Option::is_none")]
    encoding: Option<&'a str>,
    #[serde(borrow, rename = "meta")]
    metadata: &'a RawValue,
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

/// A message as the fields of a stream entry. `t` and `ref` are added by the scripts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The format's version.
    pub version: u32,
    /// The header.
    pub header: Bytes,
    /// The body.
    pub body: Bytes,
}

impl Entry {
    /// Writes a message. A payload of more than `compress_above` bytes is compressed, where that helps.
    pub fn encode(message: &Message, compress_above: usize) -> Self {
        let raw = &message.payload.body;
        let packed =
            (raw.len() > compress_above).then(|| compress(raw)).filter(|packed| packed.len() < raw.len());
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
            trace: message.trace,
            ttl_seconds: message.ttl_seconds,
            kind: message.payload.kind,
            encoding: packed.as_ref().map(|_| "zlib"),
            metadata: &message.metadata,
        };
        Self {
            version: VERSION,
            header: serde_json::to_vec(&header).unwrap_or_default().into(),
            body: packed.map_or_else(|| raw.clone(), Bytes::from),
        }
    }

    /// Reads a message.
    pub fn decode(&self) -> Result<Message, EntryError> {
        if self.version > VERSION {
            return Err(EntryError::Newer(self.version));
        }
        let broken = |error: &dyn std::fmt::Display| EntryError::Broken(error.to_string());
        let header: Header<'_> = serde_json::from_slice(&self.header).map_err(|error| broken(&error))?;
        let body = match header.encoding {
            None => self.body.clone(),
            Some("zlib") => decompress(&self.body).map_err(|error| broken(&error))?,
            Some(other) => return Err(EntryError::Broken(format!("unknown body encoding {other:?}"))),
        };
        Ok(Message {
            tenant: header.tenant,
            id: header.id,
            channel: header.channel,
            routing_key: header.routing_key,
            ordering_key: header.ordering_key,
            service: header.service,
            priority: header.priority,
            persistent: !header.fleeting,
            generation: header.generation,
            targets: header.targets,
            trace: header.trace,
            ttl_seconds: header.ttl_seconds,
            metadata: header.metadata.to_owned(),
            payload: Payload { kind: header.kind, body },
        })
    }

    /// What the entry counts for in a queue's bytes; the scripts reckon the same.
    pub fn size(&self) -> usize {
        self.header.len() + self.body.len()
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
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn message(payload: Payload) -> Message {
        Message {
            tenant: Tenant::single(),
            id: MessageId::new("order-1").unwrap(),
            channel: ChannelName::new("orders.created").unwrap(),
            routing_key: Some(RoutingKey::new("eu.new").unwrap()),
            ordering_key: None,
            service: ServiceName::new("shop").unwrap(),
            priority: Priority::High,
            persistent: true,
            generation: 0,
            targets: Arc::from([]),
            trace: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().unwrap()),
            ttl_seconds: Some(60),
            metadata: RawValue::from_string(r#"{"message_id":"order-1"}"#.into()).unwrap(),
            payload,
        }
    }

    fn same(a: &Message, b: &Message) -> bool {
        format!("{a:?}") == format!("{b:?}")
    }

    #[test]
    fn a_message_survives_the_way_there_and_back() {
        for (kind, body) in [
            (PayloadKind::Json, Bytes::from_static(br#"{"a": 1e400,  "b":"\u00e9"}"#)),
            (PayloadKind::Text, Bytes::from_static("größe".as_bytes())),
            (PayloadKind::Bytes, Bytes::from_static(&[0, 159, 146, 150])),
            (PayloadKind::Text, Bytes::new()),
        ] {
            let message = message(Payload { kind, body });
            let entry = Entry::encode(&message, usize::MAX);
            assert!(same(&entry.decode().unwrap(), &message));
        }
    }

    #[test]
    fn every_member_survives() {
        let mut message = message(Payload { kind: PayloadKind::Json, body: Bytes::from_static(b"{}") });
        message.ordering_key = Some(OrderingKey::new("customer 7").unwrap());
        message.persistent = false;
        message.generation = 2;
        message.targets = Arc::from([SubscriptionId::new("sub_1").unwrap()]);
        assert!(same(&Entry::encode(&message, 0).decode().unwrap(), &message));
    }

    #[test]
    fn large_bodies_are_compressed_where_that_helps() {
        let body = Bytes::from(vec![b'a'; 10_000]);
        let message = message(Payload { kind: PayloadKind::Text, body });
        let entry = Entry::encode(&message, 1_000);
        assert!(entry.body.len() < 1_000);
        assert!(same(&entry.decode().unwrap(), &message));
        let short = self::message(Payload { kind: PayloadKind::Text, body: Bytes::from_static(b"xyz") });
        assert_eq!(Entry::encode(&short, 0).body, Bytes::from_static(b"xyz"));
    }

    #[test]
    fn newer_and_broken_entries_are_told_apart() {
        let good =
            Entry::encode(&message(Payload { kind: PayloadKind::Json, body: Bytes::from_static(b"{}") }), 9);
        let newer = Entry { version: 2, ..good.clone() };
        assert_eq!(newer.decode().unwrap_err(), EntryError::Newer(2));
        for header in ["", "junk", "{}", "[1]", r#"{"tenant":"{p0}"}"#] {
            let entry = Entry { header: Bytes::from(header), ..good.clone() };
            assert!(matches!(entry.decode(), Err(EntryError::Broken(_))), "{header}");
        }
        let text = String::from_utf8(good.header.to_vec())
            .unwrap()
            .replace("\"kind\"", "\"enc\":\"rot13\",\"kind\"");
        let entry = Entry { header: text.into(), ..good.clone() };
        assert!(entry.decode().unwrap_err().to_string().contains("rot13"));
        let text =
            String::from_utf8(good.header.to_vec()).unwrap().replace("\"kind\"", "\"enc\":\"zlib\",\"kind\"");
        let entry = Entry { header: text.into(), ..good };
        assert!(matches!(entry.decode(), Err(EntryError::Broken(_))));
    }

    #[test]
    fn members_of_later_releases_are_passed_over() {
        let good =
            Entry::encode(&message(Payload { kind: PayloadKind::Json, body: Bytes::from_static(b"{}") }), 9);
        let text =
            String::from_utf8(good.header.to_vec()).unwrap().replace("\"kind\"", "\"shiny\":[1],\"kind\"");
        assert!(Entry { header: text.into(), ..good }.decode().is_ok());
    }

    /// Entries written by past releases must stay readable: never change these files, only add to them.
    #[test]
    fn golden_entries_of_every_version_are_read() {
        let golden = include_str!("../tests/golden/entry-v1.json");
        let rows: Vec<serde_json::Value> = serde_json::from_str(golden).unwrap();
        for row in rows {
            let part = |name: &str| row[name].as_str().unwrap().to_owned();
            let entry = Entry {
                version: part("v").parse().unwrap(),
                header: part("h").into(),
                body: (0..part("b").len() / 2)
                    .map(|at| u8::from_str_radix(&part("b")[2 * at..2 * at + 2], 16).unwrap())
                    .collect(),
            };
            let message = entry.decode().unwrap();
            assert_eq!(message.id.as_str(), part("id"));
            assert_eq!(String::from_utf8_lossy(&message.payload.body), part("payload"));
        }
    }
}
