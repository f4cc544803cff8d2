//! Binary mode: attributes in headers, data in the body.

use std::collections::BTreeMap;
use std::fmt::Write;

use bytes::Bytes;
use serde_json::{Value, value::RawValue};

use super::{CloudEvent, CloudEventError, Data, PREFIX, essence, is_json, refuse};
use crate::json_scan::check_depth;

/// An event as the parts of an HTTP message in binary mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binary {
    /// `ce-…` headers, with their values encoded.
    pub headers: Vec<(String, String)>,
    /// `Content-Type`; none where there is no data or nobody knows.
    pub content_type: Option<String>,
    /// The data.
    pub body: Bytes,
}

impl CloudEvent {
    /// Reads the headers and the body of a request in binary mode. Headers without the prefix `ce-` are passed
    /// over; `content_type` is the `Content-Type`. An empty body is no data.
    ///
    /// Values are unquoted (RFC 7230) and then percent-decoded once.
    pub fn from_binary<'a>(
        headers: impl IntoIterator<Item = (&'a str, &'a [u8])>,
        content_type: Option<&str>,
        body: &Bytes,
    ) -> Result<Self, CloudEventError> {
        let mut attributes = BTreeMap::new();
        for (header, value) in headers {
            let Some(name) = header.get(..PREFIX.len()).filter(|start| start.eq_ignore_ascii_case(PREFIX))
            else {
                continue;
            };
            let name = header[name.len()..].to_ascii_lowercase();
            let value = decode(&name, value)?;
            if attributes.contains_key(&name) {
                return refuse(&name, "is given twice");
            }
            attributes.insert(name, Value::String(value));
        }
        if !attributes.contains_key("specversion") {
            return refuse(
                "specversion",
                "is missing; every CloudEvent has id, source, specversion and type",
            );
        }
        let data = data(content_type, body)?;
        Self::new(attributes, content_type.map(str::to_owned), data)
    }

    /// The event in binary mode.
    pub fn to_binary(&self) -> Binary {
        let headers = self
            .attributes
            .iter()
            .map(|(name, value)| (format!("{PREFIX}{name}"), encode(&super::attribute::text(value))))
            .collect();
        let (body, implied) = match &self.data {
            Data::None => (Bytes::new(), None),
            Data::Json(text) => (text.clone(), Some("application/json")),
            Data::Text(text) => (Bytes::from(text.clone()), None),
            Data::Bytes(bytes) => (bytes.clone(), None),
        };
        let content_type = self.data_content_type.clone().or_else(|| implied.map(str::to_owned));
        Binary { headers, content_type, body }
    }
}

/// What a body is.
fn data(content_type: Option<&str>, body: &Bytes) -> Result<Data, CloudEventError> {
    if body.is_empty() {
        return Ok(Data::None);
    }
    let Some(content_type) = content_type else { return Ok(Data::Bytes(body.clone())) };
    if is_json(Some(content_type)) {
        if let Err(error) = check_depth(body) {
            return refuse("data", error.to_string());
        }
        return match serde_json::from_slice::<&RawValue>(body) {
            Ok(raw) => Ok(Data::Json(Bytes::copy_from_slice(raw.get().as_bytes()))),
            Err(error) => refuse("data", format!("is no JSON: {error}")),
        };
    }
    let essence = essence(content_type);
    let is_text = (essence.starts_with("text/") || essence.ends_with("xml")) && is_utf8_by_name(content_type);
    match std::str::from_utf8(body) {
        Ok(text) if is_text => Ok(Data::Text(text.to_owned())),
        _ => Ok(Data::Bytes(body.clone())),
    }
}

/// Whether a media type names no other charset than UTF-8.
fn is_utf8_by_name(content_type: &str) -> bool {
    content_type.split(';').skip(1).all(|parameter| {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        !name.trim().eq_ignore_ascii_case("charset")
            || ["utf-8", "us-ascii"]
                .iter()
                .any(|known| value.trim().trim_matches('"').eq_ignore_ascii_case(known))
    })
}

/// Encodes what a header cannot hold: space, `"`, `%` and everything that is no visible ASCII.
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'"' | b'%' => {}
            0x21..=0x7e => {
                encoded.push(char::from(byte));
                continue;
            }
            _ => {}
        }
        // Writing to a string does not fail.
        let _ = write!(encoded, "%{byte:02X}");
    }
    encoded
}

fn decode(name: &str, value: &[u8]) -> Result<String, CloudEventError> {
    let mut decoded = Vec::with_capacity(value.len());
    let mut bytes = unquoted(name, value)?.into_iter();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        match (digit(bytes.next()), digit(bytes.next())) {
            (Some(high), Some(low)) => decoded.push(u8::try_from(high * 16 + low).unwrap_or_default()),
            _ => return refuse(name, "holds a % that begins no percent-encoded byte; write it as %25"),
        }
    }
    String::from_utf8(decoded).or_else(|_| refuse(name, "is no UTF-8 when it is percent-decoded"))
}

/// A header's value without the quotes of RFC 7230, section 3.2.6.
fn unquoted(name: &str, value: &[u8]) -> Result<Vec<u8>, CloudEventError> {
    if !value.is_ascii() {
        return refuse(name, "holds bytes that are no ASCII; percent-encode them");
    }
    let value = value.trim_ascii();
    let Some(inner) = value.strip_prefix(b"\"") else { return Ok(value.to_vec()) };
    let mut plain = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter();
    loop {
        match bytes.next() {
            Some(b'\\') => plain.extend(bytes.next()),
            Some(b'"') if bytes.len() == 0 => return Ok(plain),
            Some(b'"') | None => return refuse(name, "begins with a quote but is no quoted string"),
            Some(byte) => plain.push(*byte),
        }
    }
}
