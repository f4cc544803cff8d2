//! A channel's `arguments`, as AMQP 0-9-1 names them.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::names::MAX_NAME_BYTES;

/// The most arguments of a channel.
pub const MAX_ARGUMENTS: usize = 32;
/// The most bytes of a channel's arguments, as JSON.
pub const MAX_ARGUMENTS_BYTES: usize = 16 << 10;
/// The longest `x-message-ttl`: ten years of 365 days, in milliseconds.
const MAX_TTL_MS: u64 = 315_360_000_000;
/// The highest `x-max-length`.
const MAX_LENGTH: u64 = 1_000_000;

const TTL: &str = "x-message-ttl";
const LENGTH: &str = "x-max-length";
const OVERFLOW: &str = "x-overflow";

/// What happens when a queue holds as many as it may: `x-overflow`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overflow {
    /// The oldest makes room.
    #[default]
    DropHead,
    /// Publishing is refused.
    RejectPublish,
}

/// Checked arguments. In JSON they are the object as it was given.
///
/// | argument | value |
/// |---|---|
/// | `x-message-ttl` | milliseconds, 1 to ten years |
/// | `x-max-length` | deliveries that wait in each matching subscription's queue, 1 to 1,000,000 |
/// | `x-overflow` | `drop-head` (the default) or `reject-publish` |
///
/// Any other that begins with `x-` asks for something that Postroad does not do, and is refused. The rest are
/// their owner's notes: kept and shown, at most [`MAX_ARGUMENTS`] and [`MAX_ARGUMENTS_BYTES`] in all.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(from = "Map<String, Value>", into = "Map<String, Value>")]
pub struct Arguments {
    source: Map<String, Value>,
    message_ttl_ms: Option<u64>,
    max_length: Option<u64>,
    overflow: Overflow,
}

/// Why arguments were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct ArgumentError {
    /// Which one; empty where it is all of them together.
    pub argument: String,
    /// What is wrong, in words for the person who chose it.
    pub problem: String,
}

impl Arguments {
    /// Checks arguments.
    pub fn new(source: Map<String, Value>) -> Result<Self, ArgumentError> {
        let wrong =
            |argument: &str, problem: String| ArgumentError { argument: argument.to_owned(), problem };
        if source.len() > MAX_ARGUMENTS {
            return Err(wrong(
                "",
                format!("{} arguments; at most {MAX_ARGUMENTS} are allowed", source.len()),
            ));
        }
        let bytes: usize = source.iter().map(|(name, value)| name.len() + value.to_string().len()).sum();
        if bytes > MAX_ARGUMENTS_BYTES {
            return Err(wrong(
                "",
                format!("arguments of {bytes} bytes; at most {MAX_ARGUMENTS_BYTES} are allowed"),
            ));
        }
        for (name, value) in &source {
            let number = |most: u64| match value.as_u64() {
                Some(number) if (1..=most).contains(&number) => Ok(()),
                _ => Err(wrong(name, format!("{name} = {value} must be a whole number from 1 to {most}"))),
            };
            match name.as_str() {
                TTL => number(MAX_TTL_MS)?,
                LENGTH => number(MAX_LENGTH)?,
                OVERFLOW if value.as_str().and_then(Overflow::read).is_some() => {}
                OVERFLOW => {
                    return Err(wrong(
                        name,
                        format!("{name} = {value} is unknown; drop-head and reject-publish are known"),
                    ));
                }
                _ if name.is_empty() || name.len() > MAX_NAME_BYTES => {
                    let problem =
                        format!("a name of {} bytes; 1 to {MAX_NAME_BYTES} are allowed", name.len());
                    return Err(wrong("", problem));
                }
                _ if name.chars().any(char::is_control) => {
                    return Err(wrong("", "a name contains a control character".into()));
                }
                _ if name.get(..2).is_some_and(|start| start.eq_ignore_ascii_case("x-")) => {
                    let problem = format!("{name:?} is no argument here; {TTL}, {LENGTH} and {OVERFLOW} are");
                    return Err(wrong(name, problem));
                }
                _ => {}
            }
        }
        Ok(source.into())
    }

    /// As they were given.
    pub fn source(&self) -> &Map<String, Value> {
        &self.source
    }

    /// `x-message-ttl`, in milliseconds.
    pub fn message_ttl_ms(&self) -> Option<u64> {
        self.message_ttl_ms
    }

    /// `x-max-length`, in deliveries.
    pub fn max_length(&self) -> Option<u64> {
        self.max_length
    }

    /// `x-overflow`.
    pub fn overflow(&self) -> Overflow {
        self.overflow
    }
}

/// A record may be a later release's: what cannot be read in it is passed over.
impl From<Map<String, Value>> for Arguments {
    fn from(source: Map<String, Value>) -> Self {
        let number = |name: &str| source.get(name).and_then(Value::as_u64).filter(|number| *number > 0);
        Self {
            message_ttl_ms: number(TTL),
            max_length: number(LENGTH),
            overflow: source
                .get(OVERFLOW)
                .and_then(Value::as_str)
                .and_then(Overflow::read)
                .unwrap_or_default(),
            source,
        }
    }
}

impl From<Arguments> for Map<String, Value> {
    fn from(arguments: Arguments) -> Self {
        arguments.source
    }
}

impl Overflow {
    /// As the API writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DropHead => "drop-head",
            Self::RejectPublish => "reject-publish",
        }
    }

    fn read(text: &str) -> Option<Self> {
        [Self::DropHead, Self::RejectPublish].into_iter().find(|known| known.as_str() == text)
    }
}

impl fmt::Display for Overflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(given: Value) -> Result<Arguments, ArgumentError> {
        Arguments::new(serde_json::from_value(given).unwrap())
    }

    #[test]
    fn what_is_known_is_read() {
        let table = [
            (json!({}), None, None, Overflow::DropHead),
            (json!({"x-message-ttl": 1}), Some(1), None, Overflow::DropHead),
            (json!({"x-message-ttl": 315_360_000_000_u64}), Some(315_360_000_000), None, Overflow::DropHead),
            (json!({"x-max-length": 1, "x-overflow": "drop-head"}), None, Some(1), Overflow::DropHead),
            (
                json!({"x-max-length": 1_000_000, "x-overflow": "reject-publish", "note": {"a": [null]}}),
                None,
                Some(1_000_000),
                Overflow::RejectPublish,
            ),
        ];
        for (given, ttl, length, overflow) in table {
            let arguments = read(given.clone()).unwrap();
            let seen = (arguments.message_ttl_ms(), arguments.max_length(), arguments.overflow());
            assert_eq!(seen, (ttl, length, overflow), "{given}");
            assert_eq!(serde_json::to_value(&arguments).unwrap(), given);
        }
    }

    #[test]
    fn what_is_refused_is_named() {
        let many: Map<String, Value> = (0..33).map(|n| (format!("a{n}"), json!(n))).collect();
        let table = [
            (json!({"x-message-ttl": 0}), "x-message-ttl", "from 1 to 315360000000"),
            (json!({"x-message-ttl": 315_360_000_001_u64}), "x-message-ttl", "from 1 to"),
            (json!({"x-message-ttl": -1}), "x-message-ttl", "= -1 must"),
            (json!({"x-message-ttl": 1.5}), "x-message-ttl", "whole number"),
            (json!({"x-message-ttl": "60"}), "x-message-ttl", "whole number"),
            (json!({"x-message-ttl": null}), "x-message-ttl", "= null must"),
            (json!({"x-max-length": 0}), "x-max-length", "from 1 to 1000000"),
            (json!({"x-max-length": 1_000_001}), "x-max-length", "from 1 to 1000000"),
            (json!({"x-overflow": "reject-publish-dlx"}), "x-overflow", "drop-head and reject-publish"),
            (json!({"x-overflow": 1}), "x-overflow", "drop-head and reject-publish"),
            (json!({"x-expires": 1}), "x-expires", "is no argument here"),
            (json!({"X-Message-TTL": 1}), "X-Message-TTL", "is no argument here"),
            (json!({"": 1}), "", "0 bytes"),
            (json!({ "n".repeat(256): 1 }), "", "256 bytes"),
            (json!({"a\nb": 1}), "", "control character"),
            (json!({ "note": "n".repeat(MAX_ARGUMENTS_BYTES) }), "", "at most 16384"),
            (Value::Object(many), "", "33 arguments; at most 32"),
        ];
        for (given, argument, says) in table {
            let error = read(given.clone()).unwrap_err();
            assert_eq!(error.argument, argument, "{given}");
            assert!(error.to_string().contains(says), "{error}");
        }
    }
}
