//! One request that arrived, and how it is shown.

use std::{borrow::Cow, fmt::Write};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use postroad_model::time::Time;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::text::{safe, size};

/// A request, as far as it says something, and what was answered.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// When its last byte was there, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The path that it was sent to.
    pub path: String,
    /// `webhook-id`.
    pub webhook_id: Option<String>,
    /// Whether it is genuine.
    pub trust: Trust,
    /// The status that it was answered with.
    pub status: u16,
    /// The body.
    pub body: Bytes,
    /// What the body says, if it is Postroad's native format.
    pub delivery: Option<Delivery>,
}

/// Whether a request is genuine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// Its signature fits one of our secrets.
    Verified,
    /// We have no secret to check it with.
    Unchecked,
    /// It is not, or cannot be shown to be, for this reason.
    Refused(String),
}

/// `MessageDelivery`, as far as we look at it.
#[derive(Debug, Clone, Deserialize)]
pub struct Delivery {
    /// The message.
    pub message_id: String,
    /// The subscription.
    pub subscription_id: String,
    /// The channel.
    pub channel: String,
    /// The routing key.
    #[serde(default)]
    pub routing_key: Option<String>,
    /// Which attempt this is, from 1.
    pub delivery_attempt: u32,
    /// How many there may be.
    pub max_attempts: u32,
    /// The payload, as the text that it is.
    pub payload: Box<RawValue>,
}

impl Arrival {
    /// One line for people.
    pub fn line(&self) -> String {
        let time = Time::from_millis(self.at_ms).to_string();
        // The time of the day, in UTC.
        let time = time.split_once('T').map_or(time.as_str(), |(_, time)| time);
        let mut line = time.to_owned();
        // Writing to a String does not fail.
        let _ = match &self.delivery {
            Some(delivery) => write!(
                line,
                "  {}  {}  {}  attempt {}/{}",
                safe(&delivery.message_id),
                safe(&delivery.channel),
                delivery.routing_key.as_deref().map_or(Cow::Borrowed("-"), safe),
                delivery.delivery_attempt,
                delivery.max_attempts
            ),
            None => {
                write!(
                    line,
                    "  {}  {}",
                    self.webhook_id.as_deref().map_or("-".into(), safe),
                    safe(&self.path)
                )
            }
        };
        let _ = match &self.trust {
            Trust::Verified => write!(line, "  verified"),
            Trust::Unchecked => write!(line, "  not verified (no --secret)"),
            Trust::Refused(reason) => write!(line, "  NOT GENUINE: {reason}"),
        };
        let _ = write!(line, "  {}", size(self.body.len()));
        if self.status != 200 {
            let _ = write!(line, "  answered {}", self.status);
        }
        line
    }

    /// One JSON object on one line, with the body.
    pub fn json(&self) -> String {
        #[derive(Serialize)]
        struct Line<'a> {
            received_at: Time,
            path: &'a str,
            message_id: Option<&'a str>,
            subscription_id: Option<&'a str>,
            channel: Option<&'a str>,
            routing_key: Option<&'a str>,
            attempt: Option<u32>,
            max_attempts: Option<u32>,
            verified: Option<bool>,
            #[serde(skip_serializing_if = "Option::is_none")]
            reason: Option<&'a str>,
            status: u16,
            bytes: usize,
            #[serde(flatten)]
            body: Body,
        }
        let delivery = self.delivery.as_ref();
        let line = Line {
            received_at: Time::from_millis(self.at_ms),
            path: &self.path,
            message_id: delivery.map(|it| it.message_id.as_str()).or(self.webhook_id.as_deref()),
            subscription_id: delivery.map(|it| it.subscription_id.as_str()),
            channel: delivery.map(|it| it.channel.as_str()),
            routing_key: delivery.and_then(|it| it.routing_key.as_deref()),
            attempt: delivery.map(|it| it.delivery_attempt),
            max_attempts: delivery.map(|it| it.max_attempts),
            verified: match self.trust {
                Trust::Verified => Some(true),
                Trust::Unchecked => None,
                Trust::Refused(_) => Some(false),
            },
            reason: match &self.trust {
                Trust::Refused(reason) => Some(reason),
                Trust::Verified | Trust::Unchecked => None,
            },
            status: self.status,
            bytes: self.body.len(),
            body: Body::of(&self.body),
        };
        serde_json::to_string(&line).unwrap_or_default()
    }
}

/// A body inside a JSON line: as the JSON that it is, else as text, else as base64.
#[derive(Serialize)]
enum Body {
    #[serde(rename = "body")]
    Json(Box<RawValue>),
    #[serde(rename = "body_text")]
    Text(String),
    #[serde(rename = "body_base64")]
    Bytes(String),
}

impl Body {
    fn of(bytes: &[u8]) -> Self {
        let Ok(text) = std::str::from_utf8(bytes) else { return Self::Bytes(STANDARD.encode(bytes)) };
        // Between its tokens, JSON may hold line ends; inside a string it may not.
        match RawValue::from_string(text.replace(['\n', '\r'], " ").trim().to_owned()) {
            Ok(json) => Self::Json(json),
            Err(_) => Self::Text(text.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrival(body: &'static str) -> Arrival {
        Arrival {
            at_ms: 1_700_000_000_123,
            path: "/hook".into(),
            webhook_id: Some("msg_1".into()),
            trust: Trust::Verified,
            status: 200,
            body: Bytes::from_static(body.as_bytes()),
            delivery: serde_json::from_str(body).ok(),
        }
    }

    const NATIVE: &str = r#"{"message_id":"msg_1","subscription_id":"sub_1","channel":"a.b","payload":{"x": 1.50},
        "metadata":{},"delivery_attempt":2,"max_attempts":4,"delivered_at":"t","routing_key":"k"}"#;

    #[test]
    fn a_line_says_it_all() {
        assert_eq!(
            arrival(NATIVE).line(),
            format!("22:13:20.123Z  msg_1  a.b  k  attempt 2/4  verified  {} B", NATIVE.len())
        );
        let refused = Trust::Refused("no webhook-signature matches".into());
        let other = Arrival { status: 401, trust: refused, ..arrival("hello") };
        let line =
            "22:13:20.123Z  msg_1  /hook  NOT GENUINE: no webhook-signature matches  5 B  answered 401";
        assert_eq!(other.line(), line);
    }

    #[test]
    fn nobody_drives_our_terminal() {
        let hostile = Arrival { webhook_id: Some("\u{1b}[2J".into()), ..arrival("x") };
        assert!(!hostile.line().contains('\u{1b}'), "{}", hostile.line());
    }

    #[test]
    fn json_lines_are_one_line_each_and_keep_the_payloads_bytes() {
        let json = arrival(NATIVE).json();
        assert!(!json.contains('\n') && json.contains(r#""payload":{"x": 1.50}"#), "{json}");
        let read: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(read["attempt"], 2);
        assert_eq!(read["verified"], true);
        assert_eq!(read["body"]["payload"]["x"], 1.5);
        let text: serde_json::Value = serde_json::from_str(&arrival("a\nb").json()).unwrap();
        assert_eq!(text["body_text"], "a\nb");
        let bytes = Arrival { body: Bytes::from_static(&[0xff]), ..arrival("") };
        let bytes: serde_json::Value = serde_json::from_str(&bytes.json()).unwrap();
        assert_eq!(bytes["body_base64"], "/w==");
    }
}
