//! Messages of a kind: events, commands, notifications and health messages say inside what they are.
//!
//! What subscribers get carries its own id, time and source, as the reference's messages do; so these are known
//! before the content is written. From there on it is a message like any other.

use bytes::Bytes;
use postroad_api::{
    caller::Caller,
    error::{ApiError, ApiResult},
};
use postroad_model::{
    id::{Kind, MessageId, mint_in_partition},
    message::{Payload, PayloadKind, Priority},
    names::{ChannelName, ServiceName},
    time::Time,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::publish::{Checked, Circumstances, Draft, Limits, MetadataRequest, check_text, derived_id};

/// Who or what something is about: services number or name their users, companies and entities.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged, expecting = "must be a whole number or a string")]
pub enum EntityId {
    /// A number.
    Number(i64),
    /// A name.
    Text(String),
}

/// The longest name of an entity, in bytes.
const MAX_ENTITY_BYTES: usize = 128;

impl EntityId {
    /// The id as text, if it is one: 1 to 128 bytes without control characters.
    pub fn checked(&self, field: &'static str) -> ApiResult<String> {
        match self {
            Self::Number(number) => Ok(number.to_string()),
            Self::Text(text) if text.is_empty() || text.len() > MAX_ENTITY_BYTES => {
                let message =
                    format!("{field} is {} bytes long; 1 to {MAX_ENTITY_BYTES} are allowed", text.len());
                Err(ApiError::field(field, message))
            }
            Self::Text(text) if text.chars().any(char::is_control) => {
                Err(ApiError::field(field, format!("{field} contains a control character")))
            }
            Self::Text(text) => Ok(text.clone()),
        }
    }
}

/// What every message of a kind says of itself.
#[derive(Debug)]
pub struct Envelope {
    /// The message's id.
    pub id: MessageId,
    /// When it was published, by the API's clock.
    pub timestamp: Time,
    /// Who publishes it.
    pub source: ServiceName,
    /// What ties messages of one undertaking together; its own id where nothing was given.
    pub correlation_id: String,
    kind: Kind,
    chosen: bool,
}

/// Where a message of a kind goes, and how.
#[derive(Debug)]
pub struct Address {
    /// The channel.
    pub channel: ChannelName,
    /// The routing key.
    pub routing_key: String,
    /// The channel on which an answer is expected.
    pub reply_to: Option<String>,
    /// The priority inside a queue.
    pub priority: Priority,
    /// Seconds until which delivery makes sense.
    pub ttl: Option<u64>,
}

impl Address {
    /// A channel and a routing key, and nothing special.
    pub fn new(channel: ChannelName, routing_key: &str) -> Self {
        let routing_key = routing_key.to_owned();
        Self { channel, routing_key, reply_to: None, priority: Priority::default(), ttl: None }
    }
}

impl Envelope {
    /// Opens one: its id is new, or the one that the `Idempotency-Key` stands for. `source` says who publishes,
    /// under the name that the call gives it.
    pub fn open(
        kind: Kind,
        caller: &Caller,
        circumstances: &Circumstances,
        limits: Limits<'_>,
        source: (&'static str, Option<&str>),
        correlation_id: Option<String>,
    ) -> ApiResult<Self> {
        let (field, source) = source;
        let source = match source {
            Some(name) => ServiceName::new(name)
                .map_err(|error| ApiError::field(field, format!("{field} {}", error.problem)))?,
            None => caller.subject.clone(),
        };
        check_text("correlation_id", correlation_id.as_deref())?;
        let now_ms = circumstances.now_ms;
        let id = match &circumstances.idempotency_key {
            Some(key) => derived_id(kind, caller, key)?,
            None => MessageId::new(&mint_in_partition(kind, now_ms, limits.partition, rand::random()))?,
        };
        Ok(Self {
            correlation_id: correlation_id.unwrap_or_else(|| id.to_string()),
            timestamp: Time::from_millis(now_ms),
            chosen: circumstances.idempotency_key.is_some(),
            id,
            source,
            kind,
        })
    }

    /// Gives it an id that was made elsewhere, and may have been used before.
    pub fn named(self, id: MessageId) -> Self {
        Self { id, chosen: true, ..self }
    }

    /// Whether its id may have been used before.
    pub fn is_chosen(&self) -> bool {
        self.chosen
    }

    /// The message, with its content.
    pub fn seal(
        self,
        address: Address,
        content: &impl Serialize,
        caller: &Caller,
        circumstances: &Circumstances,
        limits: Limits<'_>,
    ) -> ApiResult<Checked> {
        let Address { channel, routing_key, reply_to, priority, ttl } = address;
        let body = serde_json::to_vec(content)
            .map_err(|error| ApiError::field("body", format!("the body cannot be written again: {error}")))?;
        let draft = Draft {
            kind: self.kind,
            channel: channel.to_string(),
            payload: Payload { kind: PayloadKind::Json, body: Bytes::from(body) },
            metadata: MetadataRequest {
                message_id: Some(self.id.to_string()),
                correlation_id: Some(self.correlation_id),
                reply_to,
                priority: Some(priority.to_string()),
                ttl: ttl.map(|seconds| i64::try_from(seconds).unwrap_or(i64::MAX)),
                timestamp: Some(self.timestamp),
                ..MetadataRequest::default()
            },
            service_name: Some(self.source.to_string()),
            persistent: true,
            routing_key: Some(routing_key),
            ordering_key: None,
        };
        let checked = draft.check(caller, circumstances, limits)?;
        // An id that is new needs no looking for.
        Ok(Checked { chosen: self.chosen, ..checked })
    }
}
