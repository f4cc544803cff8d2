//! CloudEvents 1.0: reading and writing them in HTTP's modes, and keeping them as messages.
//!
//! A [`CloudEvent`] is read from a binary or a structured request ([`CloudEvent::from_binary`],
//! [`CloudEvent::from_json`]) and written as either ([`CloudEvent::to_binary`], [`CloudEvent::to_json`]).
//! In between it is a message ([`CloudEvent::keep`], [`CloudEvent::kept`]), and what comes out is what went
//! in. How it lies in a message:
//!
//! | of the event | in the message |
//! |---|---|
//! | attribute `x`, extensions too | `metadata.headers["ce-x"]`: a string, or a boolean or number where it was one |
//! | `datacontenttype` | `metadata.content_type`; where there is none, `ce-datacontenttype` is null |
//! | data: a JSON object | the payload, an object |
//! | data: a JSON string, where the content type is JSON's | the payload, that string |
//! | data: any other JSON, also `null` | the payload, its text as a string; `ce-data` is `"json"` |
//! | data: text | the payload, a string |
//! | data: bytes | the payload, bytes |
//! | no data | the payload is empty; `ce-data` is `"none"` |
//!
//! `ce-data` can be no attribute: the specification forbids one of that name. What any other message is as an
//! event, [`CloudEvent::of`] says.

mod attribute;
mod binary;
mod kept;
mod made;
mod structured;

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::Value;

pub use binary::Binary;
pub use kept::Kept;
pub use structured::batch;

/// The version of the specification that is spoken.
pub const SPEC_VERSION: &str = "1.0";
/// The media type of one event in structured mode.
pub const STRUCTURED_JSON: &str = "application/cloudevents+json";
/// The media type of a batch.
pub const BATCH_JSON: &str = "application/cloudevents-batch+json";
/// What an attribute's name follows, in HTTP's and in a kept message's headers.
pub const PREFIX: &str = "ce-";

/// What an event is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// Nothing: not even `null`.
    None,
    /// The text of one JSON value.
    Json(Bytes),
    /// Text that is no JSON.
    Text(String),
    /// Bytes.
    Bytes(Bytes),
}

/// A CloudEvent whose attributes are what the specification asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudEvent {
    /// By name; `datacontenttype` is not among them. Strings, booleans and 32-bit integers.
    attributes: BTreeMap<String, Value>,
    /// The media type of the data.
    data_content_type: Option<String>,
    /// What it is about.
    data: Data,
}

/// Why something is no CloudEvent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{attribute} {problem}")]
pub struct CloudEventError {
    /// The attribute, `data` or `data_base64`; `body` where it is none of those.
    pub attribute: String,
    /// What is wrong, to follow its name.
    pub problem: String,
}

fn refuse<T>(attribute: &str, problem: impl Into<String>) -> Result<T, CloudEventError> {
    Err(CloudEventError { attribute: attribute.to_owned(), problem: problem.into() })
}

/// How an event stands in an HTTP request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Attributes in headers, data in the body.
    Binary,
    /// All of it in a JSON body.
    Structured,
    /// Many of them in a JSON body.
    Batched,
}

impl Mode {
    /// The mode that a `Content-Type` says; `Err` names the format where it is none that we read.
    pub fn of(content_type: Option<&str>) -> Result<Self, String> {
        let essence = essence(content_type.unwrap_or_default());
        // The batch first: it shares the other one's beginning.
        for (family, json, mode) in [
            ("application/cloudevents-batch", BATCH_JSON, Self::Batched),
            ("application/cloudevents", STRUCTURED_JSON, Self::Structured),
        ] {
            if essence.starts_with(family) {
                // Without a suffix the format is JSON's, which is what nearly all who leave it out mean.
                return if essence == json || essence == family { Ok(mode) } else { Err(essence) };
            }
        }
        Ok(Self::Binary)
    }
}

impl CloudEvent {
    /// Makes an event of its parts, if its attributes are what the specification asks for. `specversion` may
    /// be left out.
    pub fn new(
        mut attributes: BTreeMap<String, Value>,
        data_content_type: Option<String>,
        data: Data,
    ) -> Result<Self, CloudEventError> {
        attributes.entry("specversion".into()).or_insert_with(|| SPEC_VERSION.into());
        for (name, value) in &attributes {
            attribute::check(name, value)?;
        }
        for required in ["id", "source", "type"] {
            if !attributes.contains_key(required) {
                return refuse(required, "is missing; every CloudEvent has id, source, specversion and type");
            }
        }
        if let Some(content_type) = &data_content_type {
            attribute::check_media_type(content_type)?;
        }
        Ok(Self { attributes, data_content_type, data })
    }

    /// An attribute as text, in its canonical form.
    pub fn attribute(&self, name: &str) -> Option<String> {
        self.attributes.get(name).map(attribute::text)
    }

    /// `id`: with `source` it tells one event from all others.
    pub fn id(&self) -> &str {
        self.attributes["id"].as_str().unwrap_or_default()
    }

    /// `source`.
    pub fn source(&self) -> &str {
        self.attributes["source"].as_str().unwrap_or_default()
    }

    /// `type`.
    pub fn kind(&self) -> &str {
        self.attributes["type"].as_str().unwrap_or_default()
    }

    /// `datacontenttype`.
    pub fn data_content_type(&self) -> Option<&str> {
        self.data_content_type.as_deref()
    }

    /// What it is about.
    pub fn data(&self) -> &Data {
        &self.data
    }
}

/// A media type without its parameters, in lower case.
fn essence(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Whether data of a media type is JSON: `*/json` and `*/*+json`, and where none is given.
fn is_json(content_type: Option<&str>) -> bool {
    content_type.is_none_or(|content_type| {
        let essence = essence(content_type);
        essence.ends_with("/json") || essence.ends_with("+json")
    })
}

#[cfg(test)]
mod tests;
