//! A dead letter, opened, and as people see it.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use postroad_model::{
    delivery::{Attempt, DeadReason},
    id::{MessageId, SubscriptionId},
    message::{Message, Metadata, Payload, PayloadKind, Priority},
    names::{ChannelName, OrderingKey, RoutingKey, ServiceName, Tenant},
    time::Time,
};
use postroad_store::{DeadLetter, entry::EntryError};
use serde::Serialize;
use serde_json::value::RawValue;

/// A dead letter and the message in it, where it can be read.
#[derive(Debug)]
pub struct Letter {
    /// As it lies there.
    pub dead: DeadLetter,
    /// What it holds.
    pub message: Result<Message, EntryError>,
}

impl Letter {
    /// Opens a dead letter.
    pub fn open(dead: DeadLetter) -> Self {
        let message = dead.entry.decode();
        Self { dead, message }
    }

    /// Whether it is this tenant's, as far as it says.
    pub fn is_of(&self, tenant: &Tenant) -> bool {
        self.message.as_ref().map_or(true, |message| message.tenant == *tenant)
    }

    /// The message's channel.
    pub fn channel(&self) -> Option<&ChannelName> {
        self.message.as_ref().ok().map(|message| &message.channel)
    }

    /// The last attempt.
    pub fn last(&self) -> Option<&Attempt> {
        self.dead.tries.attempts.last()
    }

    /// The payload; of what cannot be read, all bytes.
    pub fn contents(&self) -> Vec<&[u8]> {
        match &self.message {
            Ok(message) => vec![&message.payload.body],
            Err(_) => {
                let strange = self.dead.strange.iter().map(|(_, content)| &content[..]);
                [&self.dead.entry.record[..]].into_iter().chain(strange).collect()
            }
        }
    }

    /// Bytes that it takes.
    pub fn size(&self) -> usize {
        let strange: usize = self.dead.strange.iter().map(|(_, content)| content.len()).sum();
        self.dead.entry.size() + strange
    }
}

/// A dead letter in a list.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    pub(crate) id: String,
    pub(crate) message_id: Option<MessageId>,
    pub(crate) subscription_id: SubscriptionId,
    pub(crate) channel: Option<ChannelName>,
    pub(crate) routing_key: Option<RoutingKey>,
    pub(crate) service_name: Option<ServiceName>,
    pub(crate) reason: Option<DeadReason>,
    pub(crate) attempts: u32,
    pub(crate) last_error: Option<String>,
    pub(crate) last_status_code: Option<u16>,
    pub(crate) published_at: Time,
    pub(crate) died_at: Time,
    /// Why it cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) undecodable: Option<String>,
}

impl From<&Letter> for Row {
    fn from(letter: &Letter) -> Self {
        let message = letter.message.as_ref().ok();
        let last = letter.last();
        Self {
            id: letter.dead.id.to_string(),
            message_id: message.map(|message| message.id.clone()),
            subscription_id: letter.dead.id.subscription.clone(),
            channel: letter.channel().cloned(),
            routing_key: message.and_then(|message| message.routing_key.clone()),
            service_name: message.map(|message| message.service.clone()),
            reason: letter.dead.reason,
            attempts: letter.dead.tries.progress.attempts,
            last_error: last.and_then(|last| last.error.clone()),
            last_status_code: last.and_then(|last| last.status),
            published_at: Time::from_millis(letter.dead.accepted_ms),
            died_at: Time::from_millis(letter.dead.died_ms),
            undecodable: letter.message.as_ref().err().map(ToString::to_string),
        }
    }
}

/// A dead letter, whole.
#[derive(Debug, Serialize)]
pub struct Full {
    #[serde(flatten)]
    row: Row,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    content: Option<Content>,
    attempt_log: Vec<AttemptView>,
    /// The bytes of what cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    raw: Option<Raw>,
}

#[derive(Debug, Serialize)]
struct Content {
    ordering_key: Option<OrderingKey>,
    priority: Priority,
    persistent: bool,
    generation: u32,
    payload: Box<RawValue>,
    metadata: Metadata,
}

/// One attempt, as people see it.
#[derive(Debug, Serialize)]
struct AttemptView {
    attempt: u32,
    started_at: Time,
    duration_ms: u64,
    status_code: Option<u16>,
    error: Option<String>,
    response: Option<String>,
}

/// Bytes as base64.
#[derive(Debug, Serialize)]
struct Raw {
    record_base64: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    fields_base64: BTreeMap<String, String>,
}

impl From<&Letter> for Full {
    fn from(letter: &Letter) -> Self {
        let entry = &letter.dead.entry;
        let raw = letter.message.is_err().then(|| Raw {
            record_base64: STANDARD.encode(&entry.record),
            fields_base64: letter
                .dead
                .strange
                .iter()
                .map(|(name, content)| (String::from_utf8_lossy(name).into_owned(), STANDARD.encode(content)))
                .collect(),
        });
        Self {
            row: letter.into(),
            content: letter.message.as_ref().ok().map(content),
            attempt_log: letter.dead.tries.attempts.iter().map(view).collect(),
            raw,
        }
    }
}

fn view(attempt: &Attempt) -> AttemptView {
    AttemptView {
        attempt: attempt.number,
        started_at: attempt.started_at(),
        duration_ms: attempt.duration_ms,
        status_code: attempt.status,
        error: attempt.error.clone(),
        response: attempt.response.clone(),
    }
}

fn content(message: &Message) -> Content {
    Content {
        ordering_key: message.ordering_key.clone(),
        priority: message.priority,
        persistent: message.persistent,
        generation: message.generation,
        payload: rendered(&message.payload),
        metadata: message.metadata.clone(),
    }
}

/// As `GET /v1/messages/{id}` shows it: an object as it was published, text, or bytes as base64.
fn rendered(payload: &Payload) -> Box<RawValue> {
    let text = String::from_utf8_lossy(&payload.body);
    match payload.kind {
        PayloadKind::Json => one_line(&text),
        PayloadKind::Text => quoted(&text),
        PayloadKind::Bytes => quoted(&STANDARD.encode(&payload.body)),
    }
}

fn quoted(text: &str) -> Box<RawValue> {
    serde_json::value::to_raw_value(text).unwrap_or_default()
}

/// JSON as it is, but on one line: a line end can only stand between its tokens.
fn one_line(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.replace(['\n', '\r'], " ")).unwrap_or_else(|_| quoted(json))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_keep_their_text_and_stay_on_one_line() {
        let shown = |kind, body: &'static [u8]| {
            rendered(&Payload { kind, body: bytes::Bytes::from_static(body) }).get().to_owned()
        };
        assert_eq!(shown(PayloadKind::Json, b"{\r\n \"n\": 1e400}"), "{   \"n\": 1e400}");
        assert_eq!(shown(PayloadKind::Json, b"{no json"), "\"{no json\"");
        assert_eq!(shown(PayloadKind::Text, b"a\nb"), r#""a\nb""#);
        assert_eq!(shown(PayloadKind::Bytes, &[0, 255]), "\"AP8=\"");
    }
}
