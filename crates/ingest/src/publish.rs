//! From a request to a message: everything that can be wrong with it is found here, before anything is
//! stored.

use std::sync::Arc;

use axum::http::StatusCode;
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use postroad_api::{
    caller::Caller,
    error::{ApiError, ApiResult},
    object,
};
use postroad_model::{
    id::{Kind, MessageId, mint_in_partition},
    message::{Message, Metadata, Payload, PayloadKind, Priority},
    names::{ChannelName, OrderingKey, RoutingKey, ServiceName},
    openapi::MessagePayload,
    placement::Layout,
    time::Time,
    trace_context::TraceParent,
};
use postroad_store::{Acceptance, Due, IdKey, entry::Entry};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, value::RawValue};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use crate::{channels::Channels, due};

/// `PublishMessageRequest`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
        "channel": "github.push",
        "payload": {
            "ref": "refs/heads/main",
            "after": "0d1a26e67d8f5eaf1f6ba5c57fc3c7d91ac0fd1c",
            "repository": { "full_name": "octo-org/hello-world" },
        },
        "routing_key": "octo-org.hello-world",
        "ordering_key": "octo-org/hello-world",
        "metadata": {
            "message_id": "72d3162e-cc78-11e3-81ab-4c9367dc0958",
            "priority": "high",
            "ttl": 3600,
            "headers": { "x-github-event": "push" },
        },
        "service_name": "github",
    }))]
pub struct PublishMessageRequest {
    /// The channel.
    #[schema(pattern = r"^[A-Za-z0-9_:/-]+(\.[A-Za-z0-9_:/-]+)*$", max_length = 255)]
    pub channel: String,
    /// An object, a string, or bytes as base64 with `metadata.content_encoding: "base64"`.
    #[schema(value_type = MessagePayload)]
    pub payload: Box<RawValue>,
    /// Everything in it may be left out.
    #[serde(default, deserialize_with = "object::only")]
    pub metadata: Option<MetadataRequest>,
    /// Who publishes; the caller by default.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 255)]
    pub service_name: Option<String>,
    /// `false` keeps no history and waits for no durability.
    #[serde(default)]
    pub persistent: Option<bool>,
    /// The routing key.
    #[serde(default)]
    #[schema(max_length = 255)]
    pub routing_key: Option<String>,
    /// The key whose messages keep their order.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 255)]
    pub ordering_key: Option<String>,
    /// When it is due, at most 30 days ahead: it is matched then, and can be cancelled until then. A time that has
    /// passed means at once.
    #[serde(default)]
    pub deliver_at: Option<Time>,
    /// The same as seconds from when it is stored, 0 to 2,592,000; not together with `deliver_at`.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 2_592_000)]
    pub delay_seconds: Option<i64>,
}

/// `MessageMetadata`, as a publisher gives it.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MetadataRequest {
    /// Makes publishing idempotent.
    #[schema(pattern = "^[A-Za-z0-9_-]{1,128}$")]
    pub message_id: Option<String>,
    /// What ties messages of one undertaking together.
    #[schema(max_length = 255)]
    pub correlation_id: Option<String>,
    /// The channel on which an answer is expected.
    #[schema(max_length = 255)]
    pub reply_to: Option<String>,
    /// The payload's media type.
    #[schema(max_length = 255)]
    pub content_type: Option<String>,
    /// `base64` where the payload is bytes.
    #[schema(max_length = 255)]
    pub content_encoding: Option<String>,
    /// The priority inside a queue.
    #[schema(value_type = Option<Priority>)]
    pub priority: Option<String>,
    /// Seconds after acceptance until which delivery makes sense.
    #[schema(minimum = 1, maximum = 315_360_000)]
    pub ttl: Option<i64>,
    /// When it was published.
    pub timestamp: Option<Time>,
    /// Free headers.
    #[serde(deserialize_with = "object::unique")]
    pub headers: Option<Map<String, Value>>,
}

/// `PublishMessageResponse`.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(example = json!({
        "success": true,
        "message_id": "72d3162e-cc78-11e3-81ab-4c9367dc0958",
        "channel": "github.push",
        "timestamp": "2024-01-15T12:30:00.000Z",
        "correlation_id": "72d3162e-cc78-11e3-81ab-4c9367dc0958",
        "error": null,
    }))]
pub struct PublishMessageResponse {
    /// Whether it is stored.
    pub success: bool,
    /// The message's id; empty where it was refused without one.
    pub message_id: String,
    /// The channel; empty where it was refused without one.
    pub channel: String,
    /// When it was accepted.
    pub timestamp: Time,
    /// What ties messages of one undertaking together; the message's own id where nothing was given.
    pub correlation_id: String,
    /// Why it is not stored.
    pub error: Option<String>,
    /// For programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_code: Option<&'static str>,
    /// The status code that it would have been answered with alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status_code: Option<u16>,
    /// The id was there before; this is the first one's result.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub duplicate: bool,
    /// When it is due, as long as it waits for that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deliver_at: Option<Time>,
}

/// What the call says besides the message.
#[derive(Debug, Clone, Default)]
pub struct Circumstances {
    /// The `Idempotency-Key` header.
    pub idempotency_key: Option<String>,
    /// The `traceparent` header.
    pub trace: Option<TraceParent>,
    /// The API's clock.
    pub now_ms: u64,
}

/// A message that may be stored, and where.
#[derive(Debug)]
pub struct Checked {
    /// The partition.
    pub partition: u16,
    /// The message.
    pub message: Message,
    /// The id was chosen by the publisher, so it may have been used before.
    pub chosen: bool,
    /// What ties messages of one undertaking together.
    pub correlation_id: String,
    /// When it is due, if not at once.
    pub due: Option<Due>,
}

/// The most headers in a message's metadata, and their bytes.
const MAX_HEADERS: usize = 64;
const MAX_HEADER_BYTES: usize = 16 << 10;
/// The longest `ttl`: ten years.
pub(crate) const MAX_TTL: i64 = 315_360_000;

/// The limits that a message is held to.
#[derive(Clone, Copy)]
pub struct Limits<'a> {
    /// What its channel asks of it.
    pub channels: &'a Channels,
    /// The most bytes of a payload.
    pub max_message_bytes: usize,
    /// Where messages may lie.
    pub layout: Layout,
    /// Where a message goes whose place is ours to choose.
    pub partition: u16,
}

/// Checks a request.
pub fn check(
    request: PublishMessageRequest,
    caller: &Caller,
    circumstances: &Circumstances,
    limits: Limits<'_>,
) -> ApiResult<Checked> {
    let due = due::asked(request.deliver_at, request.delay_seconds, circumstances.now_ms)?;
    let metadata = request.metadata.unwrap_or_default();
    let encoding = metadata.content_encoding.as_deref();
    let payload = payload(&request.payload, encoding == Some("base64"))?;
    let draft = Draft {
        kind: Kind::Message,
        channel: request.channel,
        payload,
        metadata,
        service_name: request.service_name,
        persistent: request.persistent.unwrap_or(true),
        routing_key: request.routing_key,
        ordering_key: request.ordering_key,
    };
    Ok(Checked { due, ..draft.check(caller, circumstances, limits)? })
}

/// A message before its checks, from whichever call.
pub struct Draft {
    /// What kind of id it gets.
    pub kind: Kind,
    /// The channel.
    pub channel: String,
    /// The content.
    pub payload: Payload,
    /// The metadata.
    pub metadata: MetadataRequest,
    /// Who publishes.
    pub service_name: Option<String>,
    /// Whether history is kept.
    pub persistent: bool,
    /// The routing key.
    pub routing_key: Option<String>,
    /// The ordering key.
    pub ordering_key: Option<String>,
}

impl Draft {
    /// Checks it, gives it its id and its place.
    pub fn check(
        self,
        caller: &Caller,
        circumstances: &Circumstances,
        limits: Limits<'_>,
    ) -> ApiResult<Checked> {
        let Self { kind, channel, payload, metadata, service_name, persistent, routing_key, ordering_key } =
            self;
        let size = payload.body.len();
        if size > limits.max_message_bytes {
            let message = format!(
                "the payload is {size} bytes large; at most {} are allowed",
                limits.max_message_bytes
            );
            return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "message_too_large", message)
                .with("field", "payload")
                .with("max_bytes", limits.max_message_bytes));
        }
        let channel = ChannelName::new(&channel)?;
        let routing_key = routing_key.as_deref().map(RoutingKey::new).transpose()?;
        let ordering_key = ordering_key.as_deref().map(OrderingKey::new).transpose()?;
        let service = match service_name {
            Some(name) => ServiceName::new(&name)?,
            None => caller.subject.clone(),
        };
        let priority = match metadata.priority.as_deref() {
            Some(text) => {
                text.parse::<Priority>().map_err(|error| ApiError::field("metadata.priority", error))?
            }
            None => Priority::default(),
        };
        let ttl_seconds = ttl(metadata.ttl)?;
        let headers = metadata.headers.unwrap_or_default();
        check_headers(&headers)?;
        for (field, text) in [
            ("metadata.correlation_id", &metadata.correlation_id),
            ("metadata.reply_to", &metadata.reply_to),
            ("metadata.content_type", &metadata.content_type),
            ("metadata.content_encoding", &metadata.content_encoding),
        ] {
            check_text(field, text.as_deref())?;
        }

        let chosen_id = match (metadata.message_id, &circumstances.idempotency_key) {
            (Some(id), _) => Some(
                MessageId::new(&id)
                    .map_err(|error| ApiError::field("metadata.message_id", error.to_string()))?,
            ),
            (None, Some(key)) => Some(derived_id(kind, caller, key)?),
            (None, None) => None,
        };
        let chosen = chosen_id.is_some();
        let layout = limits.layout;
        let id = match chosen_id {
            Some(id) => id,
            None => {
                let partition = match &ordering_key {
                    // Only to carry it: where it lies is decided by the key.
                    Some(key) => layout.partition_of(
                        &caller.tenant,
                        &channel,
                        &MessageId::new("none").map_err(ApiError::from)?,
                        Some(key),
                    ),
                    None => limits.partition,
                };
                MessageId::new(&mint_in_partition(kind, circumstances.now_ms, partition, rand::random()))?
            }
        };
        let partition = layout.partition_of(&caller.tenant, &channel, &id, ordering_key.as_ref());
        let correlation_id = metadata.correlation_id.clone().unwrap_or_else(|| id.to_string());
        let content_type =
            metadata.content_type.unwrap_or_else(|| payload.kind.default_content_type().to_owned());
        let metadata = Metadata {
            message_id: id.clone(),
            correlation_id: Some(correlation_id.clone()),
            reply_to: metadata.reply_to,
            content_type,
            content_encoding: metadata.content_encoding,
            priority,
            ttl: ttl_seconds,
            timestamp: metadata.timestamp.unwrap_or(Time::from_millis(circumstances.now_ms)),
            headers,
        };
        let asked_ms = metadata.ttl_ms();
        let (persistent, expires_after_ms) = match limits.channels.settings(&caller.tenant, &channel)? {
            Some(settings) => (settings.keeps(persistent), settings.lifetime_ms(asked_ms)),
            None => (persistent, asked_ms),
        };
        let message = Message {
            tenant: caller.tenant.clone(),
            id,
            channel,
            routing_key,
            ordering_key,
            service,
            priority,
            persistent,
            expires_after_ms,
            generation: 0,
            targets: Arc::from([]),
            test: false,
            trace: circumstances.trace,
            metadata,
            payload,
        };
        Ok(Checked { partition, message, chosen, correlation_id, due: None })
    }
}

impl Checked {
    /// Its channel, `<tenant>/<name>`.
    pub fn channel(&self) -> String {
        format!("{}/{}", self.message.tenant, self.message.channel)
    }

    /// As it gets on a flight.
    pub fn acceptance(&self, compress_above: usize) -> Acceptance {
        let message = &self.message;
        let line = message.ordering_key.as_ref().map(|key| (&message.channel, key));
        Acceptance {
            id: IdKey::new(&message.tenant, &message.id, line),
            remember: message.persistent || self.chosen || self.due.is_some(),
            check: self.chosen,
            channel: self.channel(),
            payload_bytes: message.payload.body.len(),
            entry: Entry::encode(message, compress_above),
            due: self.due,
        }
    }
}

/// The id that an `Idempotency-Key` stands for.
pub(crate) fn derived_id(kind: Kind, caller: &Caller, key: &str) -> ApiResult<MessageId> {
    use std::fmt::Write;
    let digest = Sha256::new()
        .chain_update(b"idempotency-key\0")
        .chain_update(caller.tenant.as_str())
        .chain_update([0])
        .chain_update(key)
        .finalize();
    let mut id = kind.prefix().to_owned();
    for byte in &digest[..16] {
        let _ = write!(id, "{byte:02x}");
    }
    Ok(MessageId::new(&id)?)
}

fn ttl(given: Option<i64>) -> ApiResult<Option<u64>> {
    match given {
        None => Ok(None),
        Some(seconds @ 1..=MAX_TTL) => Ok(Some(seconds.unsigned_abs())),
        Some(seconds) => {
            Err(ApiError::field("metadata.ttl", format!("ttl = {seconds} must be 1 to {MAX_TTL} seconds")))
        }
    }
}

fn check_headers(headers: &Map<String, Value>) -> ApiResult<()> {
    if headers.len() > MAX_HEADERS {
        let message = format!("{} headers are too many; at most {MAX_HEADERS} are allowed", headers.len());
        return Err(ApiError::field("metadata.headers", message));
    }
    let bytes: usize = headers.iter().map(|(name, value)| name.len() + value.to_string().len()).sum();
    if bytes > MAX_HEADER_BYTES {
        let message =
            format!("headers of {bytes} bytes are too large; at most {MAX_HEADER_BYTES} are allowed");
        return Err(ApiError::field("metadata.headers", message));
    }
    Ok(())
}

pub(crate) fn check_text(field: &'static str, text: Option<&str>) -> ApiResult<()> {
    const MAX: usize = 255;
    match text {
        Some(text) if text.len() > MAX => Err(ApiError::field(
            field,
            format!("{field} is {} bytes long; at most {MAX} are allowed", text.len()),
        )),
        Some(text) if text.chars().any(char::is_control) => {
            Err(ApiError::field(field, format!("{field} contains a control character")))
        }
        _ => Ok(()),
    }
}

/// A payload as it stands in a request.
pub(crate) fn payload(raw: &RawValue, base64: bool) -> ApiResult<Payload> {
    let text = raw.get();
    match text.as_bytes().first() {
        Some(b'{') if base64 => {
            Err(ApiError::field("payload", "payload is an object, but metadata.content_encoding says base64"))
        }
        Some(b'{') => Ok(Payload { kind: PayloadKind::Json, body: Bytes::copy_from_slice(text.as_bytes()) }),
        Some(b'"') => {
            let text: String = serde_json::from_str(text)
                .map_err(|error| ApiError::field("payload", format!("payload is no string: {error}")))?;
            if !base64 {
                return Ok(Payload { kind: PayloadKind::Text, body: text.into() });
            }
            let bytes = STANDARD
                .decode(&text)
                .map_err(|error| ApiError::field("payload", format!("payload is no base64: {error}")))?;
            Ok(Payload { kind: PayloadKind::Bytes, body: bytes.into() })
        }
        _ => Err(ApiError::field("payload", "payload must be an object, a string, or bytes as base64")),
    }
}
