//! `POST /message-queue/publish`

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
};
use postroad_api::{
    body,
    error::{ApiError, ApiResult},
    object,
};
use postroad_model::{id::Kind, openapi::MessagePayload, time::Time};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, value::RawValue};
use utoipa::ToSchema;

use super::{
    error::QueueResult,
    openapi::{QueueAlways, QueuePublishes, QueueWithBody},
};
use crate::{
    App,
    calls::messages::{circumstances, counted, max_body, publish_one},
    openapi::params::PublishHeaders,
    publish::{Draft, MetadataRequest, payload},
};

/// What is published.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
        "queue": "delivery.events",
        "message": {
            "event_type": "delivery_created",
            "delivery_id": "550e8400-e29b-41d4-a716-446655440000",
            "status": "created",
        },
        "routing_key": "delivery.created",
        "headers": { "content_type": "application/json", "priority": "high", "retry_count": 0 },
        "ttl": 3600,
        "persistent": true,
    }))]
pub struct QueuePublishRequest {
    /// The queue: a channel.
    #[schema(pattern = r"^[A-Za-z0-9_:/-]+(\.[A-Za-z0-9_:/-]+)*$", max_length = 255)]
    pub queue: String,
    /// The content: an object or a string.
    #[schema(value_type = MessagePayload)]
    pub message: Box<RawValue>,
    /// The routing key.
    #[serde(default)]
    #[schema(max_length = 255)]
    pub routing_key: Option<String>,
    /// Headers; `content_type` and `priority` (`low`, `normal`, `high`, `critical`) mean what they say.
    #[serde(default, deserialize_with = "object::unique")]
    pub headers: Option<Map<String, Value>>,
    /// Seconds after which it is not delivered any more.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 315_360_000)]
    pub ttl: Option<i64>,
    /// `false` keeps no history and waits for no durability.
    #[serde(default)]
    pub persistent: Option<bool>,
    /// Who publishes; the caller by default.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 255)]
    pub service_name: Option<String>,
    /// Makes publishing idempotent.
    #[serde(default)]
    #[schema(pattern = "^[A-Za-z0-9_-]{1,128}$")]
    pub message_id: Option<String>,
    /// What ties messages of one undertaking together.
    #[serde(default)]
    #[schema(max_length = 255)]
    pub correlation_id: Option<String>,
    /// The key whose messages keep their order.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 255)]
    pub ordering_key: Option<String>,
}

/// What was published.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueuePublishResponse {
    /// The message's id.
    pub message_id: String,
    /// The queue.
    pub queue: String,
    /// The routing key.
    pub routing_key: Option<String>,
    /// Always true: what fails is refused.
    pub published: bool,
    /// When it was accepted.
    pub published_at: Time,
    /// Seconds after which it is not delivered any more.
    pub ttl: Option<u64>,
    /// Whether a history is kept.
    pub persistent: bool,
    /// The id was there before; this is the first one's result.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub duplicate: bool,
}

/// Publishes a message to a queue.
///
/// As `POST /v1/messages`, in the other dialect.
#[utoipa::path(
    post,
    path = "/message-queue/publish",
    operation_id = "queue_publish",
    tag = "message-queue",
    params(PublishHeaders),
    request_body = QueuePublishRequest,
    responses(
        (status = 200, description = "It is stored, or was before.", body = QueuePublishResponse),
        QueuePublishes,
        QueueWithBody,
        QueueAlways,
    ),
)]
pub async fn publish(
    State(app): State<Arc<App>>,
    request: Request,
) -> QueueResult<Json<QueuePublishResponse>> {
    let caller = app.caller();
    let circumstances = circumstances(&app, request.headers())?;
    let wanted: QueuePublishRequest =
        counted(&app, &caller, None, body::json(request, max_body(&app)).await)?;
    let (queue, routing_key) = (wanted.queue.clone(), wanted.routing_key.clone());
    let checked =
        draft(wanted).and_then(|draft| draft.check(&caller, &circumstances, app.limits())).map_err(renamed);
    let checked = counted(&app, &caller, Some(&queue), checked)?;
    let (ttl, persistent) = (checked.message.metadata.ttl, checked.message.persistent);
    let published = publish_one(&app, checked).await?;
    Ok(Json(QueuePublishResponse {
        message_id: published.message_id,
        queue,
        routing_key,
        published: true,
        published_at: published.timestamp,
        ttl,
        persistent,
        duplicate: published.duplicate,
    }))
}

fn draft(wanted: QueuePublishRequest) -> ApiResult<Draft> {
    let headers = wanted.headers.unwrap_or_default();
    let content_type = text(&headers, "content_type")?;
    let priority = text(&headers, "priority")?;
    Ok(Draft {
        kind: Kind::Message,
        channel: wanted.queue,
        payload: payload(&wanted.message, false)?,
        metadata: MetadataRequest {
            message_id: wanted.message_id,
            correlation_id: wanted.correlation_id,
            content_type,
            priority,
            ttl: wanted.ttl,
            headers: Some(headers),
            ..MetadataRequest::default()
        },
        service_name: wanted.service_name,
        persistent: wanted.persistent.unwrap_or(true),
        routing_key: wanted.routing_key,
        ordering_key: wanted.ordering_key,
    })
}

/// A header that means something here must be a text.
fn text(headers: &Map<String, Value>, name: &str) -> ApiResult<Option<String>> {
    match headers.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => {
            let field = format!("headers.{name}");
            Err(ApiError::field(&field, format!("{field} = {other} must be a string")))
        }
    }
}

/// A refusal in this dialect's names.
fn renamed(mut error: ApiError) -> ApiError {
    let name = match error.details.get("field").and_then(Value::as_str) {
        Some("channel") => "queue",
        Some("payload") => "message",
        Some("metadata.ttl") => "ttl",
        Some("metadata.priority") => "headers.priority",
        Some("metadata.content_type") => "headers.content_type",
        Some("metadata.headers") => "headers",
        Some("metadata.message_id") => "message_id",
        Some("metadata.correlation_id") => "correlation_id",
        _ => return error,
    };
    error.details.insert("field".to_owned(), Value::from(name));
    error
}
