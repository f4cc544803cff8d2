//! Structured mode: the JSON event format, one event or a batch of them.

use std::{collections::BTreeMap, fmt};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

use super::{CloudEvent, CloudEventError, Data, is_json, refuse};
use crate::json_scan::check_depth;

impl CloudEvent {
    /// Reads one event in the JSON event format. Members that are null are as if they were not there, except
    /// for `data`.
    pub fn from_json(text: &[u8]) -> Result<Self, CloudEventError> {
        if let Err(error) = check_depth(text) {
            return refuse("body", error.to_string());
        }
        let Members { mut attributes, data, data_base64 } = serde_json::from_slice(text)
            .or_else(|error| refuse("body", format!("is no event in JSON: {error}")))?;
        attributes.retain(|_, value| !value.is_null());
        if !attributes.contains_key("specversion") {
            return refuse(
                "specversion",
                "is missing; every CloudEvent has id, source, specversion and type",
            );
        }
        let content_type = match attributes.remove("datacontenttype") {
            None => None,
            Some(Value::String(text)) => Some(text),
            Some(_) => return refuse("datacontenttype", "must be a string"),
        };
        let data = match (data, data_base64) {
            (Some(_), Some(_)) => {
                return refuse("data_base64", "stands beside data; an event has one of the two");
            }
            (None, None) => Data::None,
            (None, Some(base64)) => match STANDARD.decode(&base64) {
                Ok(bytes) => Data::Bytes(bytes.into()),
                Err(error) => return refuse("data_base64", format!("is no base64: {error}")),
            },
            (Some(raw), None) => json_data(&raw, content_type.as_deref()),
        };
        Self::new(attributes, content_type, data)
    }

    /// The event in the JSON event format.
    pub fn to_json(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut begin = b'{';
        let mut member = |out: &mut Vec<u8>, name: &str, value: &[u8]| {
            out.push(std::mem::replace(&mut begin, b','));
            out.extend(Value::from(name).to_string().as_bytes());
            out.push(b':');
            out.extend(value);
        };
        // The ones that everybody looks for stand first.
        let first = ["specversion", "id", "source", "type"];
        let rest = self.attributes.keys().map(String::as_str).filter(|name| !first.contains(name));
        for name in first.into_iter().chain(rest) {
            member(&mut out, name, self.attributes[name].to_string().as_bytes());
        }
        if let Some(content_type) = &self.data_content_type {
            member(&mut out, "datacontenttype", Value::from(content_type.as_str()).to_string().as_bytes());
        }
        match &self.data {
            Data::None => {}
            Data::Json(text) => member(&mut out, "data", text),
            Data::Text(text) => member(&mut out, "data", Value::from(text.as_str()).to_string().as_bytes()),
            Data::Bytes(bytes) => {
                member(&mut out, "data_base64", Value::from(STANDARD.encode(bytes)).to_string().as_bytes());
            }
        }
        out.push(b'}');
        out
    }
}

/// The events of a batch, each still to be read with [`CloudEvent::from_json`]. An empty batch is one.
pub fn batch(text: &[u8]) -> Result<Vec<Box<RawValue>>, CloudEventError> {
    if check_depth(text).is_err() {
        return refuse("body", "is nested too deep");
    }
    serde_json::from_slice(text)
        .or_else(|error| refuse("body", format!("is no JSON array of events: {error}")))
}

/// A string where the data is no JSON is that data's text.
fn json_data(raw: &RawValue, content_type: Option<&str>) -> Data {
    let text = raw.get();
    if text.starts_with('"')
        && !is_json(content_type)
        && let Ok(text) = serde_json::from_str(text)
    {
        return Data::Text(text);
    }
    Data::Json(Bytes::copy_from_slice(text.as_bytes()))
}

/// An event's members: data as it was written.
#[derive(Default)]
struct Members {
    attributes: BTreeMap<String, Value>,
    data: Option<Box<RawValue>>,
    data_base64: Option<String>,
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Event;
        impl<'de> Visitor<'de> for Event {
            type Value = Members;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Members::default();
                while let Some(name) = map.next_key::<String>()? {
                    let is_new = match name.as_str() {
                        "data" => members.data.replace(map.next_value()?).is_none(),
                        "data_base64" => {
                            let before = members.data_base64.is_none();
                            members.data_base64 = map.next_value()?;
                            before
                        }
                        _ => members.attributes.insert(name.clone(), map.next_value()?).is_none(),
                    };
                    if !is_new {
                        return Err(A::Error::custom(format!("{name} stands there twice")));
                    }
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Event)
    }
}
