//! A request as it was received, and how much of it is kept.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::OnceLock;
use std::time::Instant;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method};
use serde_json::Value;

/// A request that a receiver got.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// When its head had arrived.
    pub at: Instant,
    /// The how-many-eth request to its path it is, from 1.
    pub number: usize,
    /// The connection it came on: the receiver's first is 1.
    pub connection: u64,
    /// The method.
    pub method: Method,
    /// The path without the query.
    pub path: String,
    /// What stood after `?`.
    pub query: Option<String>,
    /// The headers that are kept.
    pub headers: HeaderMap,
    /// The body's bytes as they came, if they are kept.
    pub body: Bytes,
    /// The body's length, also if it is not kept.
    pub body_bytes: usize,
    /// The chosen JSON fields, by pointer, with [`Keep::only`].
    pub fields: BTreeMap<String, Value>,
    pub(super) answered: OnceLock<u16>,
}

impl Recorded {
    /// A header's first value, if it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("the body of {self} is no JSON"))
    }

    /// A field of the JSON body by its pointer, as `/message_id`, whether the body was kept or only the field.
    pub fn field(&self, pointer: &str) -> Option<Value> {
        match self.fields.get(pointer) {
            Some(value) => Some(value.clone()),
            None => self.json().ok()?.pointer(pointer).cloned(),
        }
    }

    /// The status, once a whole answer was handed to the connection. None for one that hangs, is delayed still,
    /// misbehaves, or whose client left before the answer.
    pub fn answered(&self) -> Option<u16> {
        self.answered.get().copied()
    }

    #[cfg(test)]
    pub(super) fn sample() -> Self {
        let mut headers = HeaderMap::new();
        headers.insert("webhook-id", HeaderValue::from_static("msg_1"));
        headers.insert("user-agent", HeaderValue::from_static("test"));
        let body = Bytes::from_static(br#"{"message_id":"msg_1","payload":{"a":[1,2]}}"#);
        Self {
            at: Instant::now(),
            number: 1,
            connection: 1,
            method: Method::POST,
            path: "/sample".to_owned(),
            query: None,
            headers,
            body_bytes: body.len(),
            body,
            fields: BTreeMap::new(),
            answered: OnceLock::new(),
        }
    }
}

impl fmt::Display for Recorded {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, method, path, body_bytes, connection, .. } = self;
        write!(formatter, "#{number} {method} {path}")?;
        if let Some(id) = self.header("webhook-id") {
            write!(formatter, " webhook-id={id}")?;
        }
        write!(formatter, " ({body_bytes} bytes on connection {connection})")?;
        match self.answered() {
            Some(status) => write!(formatter, " -> {status}"),
            None => write!(formatter, " -> no whole answer"),
        }
    }
}

/// How much a receiver keeps of each request.
#[derive(Debug, Clone, Default)]
pub enum Keep {
    /// All of it.
    #[default]
    Everything,
    /// All but the body.
    Head,
    /// The named headers and JSON fields: see [`Keep::only`].
    Only {
        /// Names of headers, in lower case.
        headers: Vec<String>,
        /// JSON pointers, as `/message_id`.
        fields: Vec<String>,
    },
}

impl Keep {
    /// Only these headers and these fields (JSON pointers) of the body. A body is parsed only if there are fields.
    pub fn only(headers: &[&str], fields: &[&str]) -> Self {
        Self::Only {
            headers: headers.iter().map(|name| name.to_ascii_lowercase()).collect(),
            fields: fields.iter().map(|&pointer| pointer.to_owned()).collect(),
        }
    }

    /// What is kept is copied: the parts of a request are slices of the connection's read buffer, and one kept
    /// header would hold all of it.
    pub(super) fn trim(&self, mut request: Recorded) -> Recorded {
        if let Self::Only { fields, .. } = self
            && !fields.is_empty()
            && let Ok(body) = request.json()
        {
            let found =
                fields.iter().filter_map(|pointer| Some((pointer.clone(), body.pointer(pointer)?.clone())));
            request.fields = found.collect();
        }
        let kept = request.headers.iter().filter(|(name, _)| match self {
            Self::Everything | Self::Head => true,
            Self::Only { headers, .. } => headers.iter().any(|wanted| wanted == name.as_str()),
        });
        let copied = kept.filter_map(|(name, value)| {
            Some((name.clone(), HeaderValue::from_bytes(value.as_bytes()).ok()?))
        });
        request.headers = copied.collect();
        request.body = match self {
            Self::Everything => Bytes::copy_from_slice(&request.body),
            Self::Head | Self::Only { .. } => Bytes::new(),
        };
        request
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn everything_is_everything() {
        let request = Keep::Everything.trim(Recorded::sample());
        assert_eq!(request.json().unwrap()["payload"]["a"], json!([1, 2]));
        assert_eq!(request.field("/payload/a/1"), Some(json!(2)));
        assert_eq!(request.field("/nothing"), None);
    }

    #[test]
    fn the_head_is_all_but_the_body() {
        let request = Keep::Head.trim(Recorded::sample());
        assert_eq!((request.body.len(), request.body_bytes), (0, 44));
        assert_eq!(request.header("webhook-id"), Some("msg_1"));
        let error = request.json().unwrap_err().to_string();
        assert!(error.starts_with("the body of #1 POST /sample webhook-id=msg_1 (44 bytes"), "{error}");
    }

    #[test]
    fn only_what_is_chosen_stays() {
        let keep = Keep::only(&["Webhook-Id", "absent"], &["/message_id", "/absent"]);
        let request = keep.trim(Recorded::sample());
        assert_eq!(request.headers.len(), 1);
        assert_eq!(request.header("webhook-id"), Some("msg_1"));
        assert_eq!(request.field("/message_id"), Some(json!("msg_1")));
        assert_eq!((request.fields.len(), request.body.len()), (1, 0));
    }
}
