//! A message, as it is kept from its acceptance on.

use std::{fmt, str::FromStr, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    id::{MessageId, SubscriptionId},
    names::{ChannelName, OrderingKey, RoutingKey, ServiceName, Tenant},
    time::Time,
    trace_context::TraceParent,
};

/// How urgent a message is inside a subscription's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// After everything else.
    Low,
    /// The default.
    #[default]
    Normal,
    /// Before normal ones.
    High,
    /// Before everything else.
    Critical,
}

impl Priority {
    /// From the least to the most urgent.
    pub const ALL: [Self; 4] = [Self::Low, Self::Normal, Self::High, Self::Critical];

    /// 0 (low) to 3 (critical).
    pub fn rank(self) -> u8 {
        match self {
            Self::Low => 0,
            Self::Normal => 1,
            Self::High => 2,
            Self::Critical => 3,
        }
    }

    /// The priority of a rank; `None` above 3.
    pub fn from_rank(rank: u8) -> Option<Self> {
        Self::ALL.get(usize::from(rank)).copied()
    }

    /// As the API writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Priority {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|priority| priority.as_str() == text)
            .ok_or_else(|| format!("{text:?} is no priority; low, normal, high and critical are"))
    }
}

/// What a payload's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PayloadKind {
    /// The text of one JSON object, byte for byte as it was published.
    Json,
    /// UTF-8 text.
    Text,
    /// Any bytes; base64 where they have to stand in JSON.
    Bytes,
}

/// A message's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// What the bytes are.
    pub kind: PayloadKind,
    /// The bytes, decoded and uncompressed.
    pub body: Bytes,
}

/// A message's metadata, as subscribers see it (`MessageMetadata`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = MessageMetadata))]
pub struct Metadata {
    /// The message's id.
    pub message_id: MessageId,
    /// What ties messages of one undertaking together.
    pub correlation_id: Option<String>,
    /// The channel on which an answer is expected.
    pub reply_to: Option<String>,
    /// The payload's media type.
    pub content_type: String,
    /// `base64` where the payload is bytes.
    pub content_encoding: Option<String>,
    /// The priority inside a queue.
    pub priority: Priority,
    /// Seconds after acceptance until which delivery makes sense.
    pub ttl: Option<u64>,
    /// When it was published, by the publisher's or the API's clock.
    pub timestamp: Time,
    /// Free headers.
    pub headers: Map<String, Value>,
}

/// A message.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// The tenant it lives in.
    pub tenant: Tenant,
    /// Its id.
    pub id: MessageId,
    /// The channel it was published on.
    pub channel: ChannelName,
    /// Its routing key.
    pub routing_key: Option<RoutingKey>,
    /// The key whose messages keep their order.
    pub ordering_key: Option<OrderingKey>,
    /// Who published it.
    pub service: ServiceName,
    /// Its priority.
    pub priority: Priority,
    /// `false`: no history is kept and no durability is waited for.
    pub persistent: bool,
    /// Milliseconds after its acceptance from which on it is no longer delivered: the smaller of the
    /// publisher's `metadata.ttl` and the channel's `x-message-ttl`.
    pub expires_after_ms: Option<u64>,
    /// 0, and one higher with each replay of history.
    pub generation: u32,
    /// Where not empty: only these subscriptions get it, and no matching takes place.
    pub targets: Arc<[SubscriptionId]>,
    /// A sample that its targets were asked to be sent: delivered once, however that goes, and no sign of how
    /// a subscriber does.
    pub test: bool,
    /// The publisher's trace, if it came with one.
    pub trace: Option<TraceParent>,
    /// What subscribers see besides. Its id and priority are the message's.
    pub metadata: Metadata,
    /// The content.
    pub payload: Payload,
}

impl Message {
    /// When it expires, by the clock that said when it was accepted.
    pub fn expires_at_ms(&self, accepted_ms: u64) -> Option<u64> {
        self.expires_after_ms.map(|lifetime| accepted_ms.saturating_add(lifetime))
    }
}

impl Metadata {
    /// The lifetime that the publisher asked for, in milliseconds.
    pub fn ttl_ms(&self) -> Option<u64> {
        self.ttl.map(|seconds| seconds.saturating_mul(1_000))
    }
}

impl PayloadKind {
    /// The media type of a payload that came without one.
    pub fn default_content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Text => "text/plain; charset=utf-8",
            Self::Bytes => "application/octet-stream",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lifetime_begins_with_the_acceptance() {
        let name = |text: &str| MessageId::new(text).unwrap();
        let mut message = Message {
            tenant: Tenant::single(),
            id: name("m"),
            channel: ChannelName::new("c").unwrap(),
            routing_key: None,
            ordering_key: None,
            service: ServiceName::new("s").unwrap(),
            priority: Priority::Normal,
            persistent: true,
            expires_after_ms: None,
            generation: 0,
            test: false,
            targets: Arc::from([]),
            trace: None,
            metadata: Metadata {
                message_id: name("m"),
                correlation_id: None,
                reply_to: None,
                content_type: String::new(),
                content_encoding: None,
                priority: Priority::Normal,
                ttl: Some(1),
                timestamp: Time::default(),
                headers: Map::new(),
            },
            payload: Payload { kind: PayloadKind::Text, body: Bytes::new() },
        };
        assert_eq!(message.metadata.ttl_ms(), Some(1_000));
        assert_eq!(message.expires_at_ms(0), None, "what the publisher asked for is only shown");
        message.expires_after_ms = Some(500);
        assert_eq!(message.expires_at_ms(1_000), Some(1_500));
        assert_eq!(message.expires_at_ms(u64::MAX - 1), Some(u64::MAX));
    }

    #[test]
    fn priorities_order_and_name_themselves() {
        assert!(Priority::Critical > Priority::High && Priority::Normal > Priority::Low);
        for priority in Priority::ALL {
            assert_eq!(Priority::from_rank(priority.rank()), Some(priority));
            assert_eq!(priority.as_str().parse(), Ok(priority));
            assert_eq!(serde_json::to_string(&priority).unwrap(), format!("\"{priority}\""));
        }
        assert_eq!(Priority::from_rank(4), None);
        assert!("urgent".parse::<Priority>().unwrap_err().contains("urgent"));
    }
}
