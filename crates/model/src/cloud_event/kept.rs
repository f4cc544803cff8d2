//! An event as a message, and back.

use bytes::Bytes;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::{CloudEvent, Data, PREFIX, is_json};
use crate::message::{Message, Payload, PayloadKind};

/// Null here: the event said nothing of its data's media type.
const CONTENT_TYPE: &str = "ce-datacontenttype";
/// What the payload is of the data, where it cannot be told by looking.
const DATA: &str = "ce-data";

/// An event as the parts of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// For `metadata.headers`.
    pub headers: Map<String, Value>,
    /// For `metadata.content_type`, where the event has one.
    pub content_type: Option<String>,
    /// The payload.
    pub payload: Payload,
}

impl CloudEvent {
    /// The event as the parts of a message.
    pub fn keep(self) -> Kept {
        let Self { attributes, data_content_type, data } = self;
        let mut headers: Map<String, Value> =
            attributes.into_iter().map(|(name, value)| (format!("{PREFIX}{name}"), value)).collect();
        if data_content_type.is_none() {
            headers.insert(CONTENT_TYPE.into(), Value::Null);
        }
        let mut content_type = data_content_type;
        let (kind, body) = match data {
            Data::None => {
                headers.insert(DATA.into(), "none".into());
                (PayloadKind::Text, Bytes::new())
            }
            Data::Text(text) => (PayloadKind::Text, text.into()),
            Data::Bytes(bytes) => (PayloadKind::Bytes, bytes),
            Data::Json(text) => {
                let is_json = is_json(content_type.as_deref());
                content_type.get_or_insert_with(|| "application/json".into());
                match serde_json::from_slice::<String>(&text) {
                    _ if text.starts_with(b"{") => (PayloadKind::Json, text),
                    Ok(string) if is_json => (PayloadKind::Text, string.into()),
                    _ => {
                        headers.insert(DATA.into(), "json".into());
                        (PayloadKind::Text, text)
                    }
                }
            }
        };
        Kept { headers, content_type, payload: Payload { kind, body } }
    }

    /// The event that a message was, if it was one: published as such, or with the headers of one.
    pub fn kept(message: &Message) -> Option<Self> {
        let headers = &message.metadata.headers;
        // Nearly every message: nothing further to look at.
        headers.get("ce-specversion")?;
        let has_content_type = headers.get(CONTENT_TYPE).is_none_or(|value| !value.is_null());
        let content_type = has_content_type.then(|| message.metadata.content_type.clone());
        let Payload { kind, body } = &message.payload;
        let text = || String::from_utf8(body.to_vec()).ok();
        let data = match (headers.get(DATA).and_then(Value::as_str), kind) {
            (Some("none"), _) => Data::None,
            (Some("json"), _) => {
                serde_json::from_slice::<IgnoredAny>(body).ok()?;
                Data::Json(body.clone())
            }
            (_, PayloadKind::Json) => Data::Json(body.clone()),
            (_, PayloadKind::Text) if is_json(content_type.as_deref()) => {
                Data::Json(serde_json::to_vec(&text()?).ok()?.into())
            }
            (_, PayloadKind::Text) => Data::Text(text()?),
            (_, PayloadKind::Bytes) => Data::Bytes(body.clone()),
        };
        let attributes = headers
            .iter()
            .filter(|(name, _)| *name != DATA && *name != CONTENT_TYPE)
            .filter_map(|(name, value)| Some((name.strip_prefix(PREFIX)?.to_owned(), value.clone())))
            .collect();
        Self::new(attributes, content_type, data).ok()
    }
}
