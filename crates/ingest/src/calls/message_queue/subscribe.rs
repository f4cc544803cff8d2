//! `POST /message-queue/subscribe`

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json,
    extract::{Request, State},
};
use postroad_api::{
    body,
    caller::Caller,
    error::{ApiError, ApiResult},
    number, object,
};
use postroad_model::{
    subscription::{RetryPolicy, Status},
    time::Time,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{
    error::{QueueErrorBody, QueueResult},
    openapi::{QueueAlways, QueueWithBody},
};
use crate::{
    App,
    calls::subscriptions::{MAX_BODY, SubscriptionResponse},
    subscribe::{RetryPolicyRequest, SubscriptionRequest, create},
};

/// The delay before the first retry where nothing is said, in milliseconds.
const USUAL_DELAY_MS: f64 = 1_000.0;

/// What is subscribed to.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
        "queue": "delivery.events",
        "routing_key": "delivery.*",
        "callback_url": "https://delivery.example/delivery-service/events",
        "headers": { "x-token": "service_token_here" },
        "retry_policy": { "max_retries": 3, "retry_delay": 1000, "backoff_multiplier": 2 },
        "dead_letter_queue": "delivery.events.dlq",
        "prefetch_count": 10,
    }))]
pub struct QueueSubscribeRequest {
    /// The queue: a channel.
    #[schema(pattern = r"^[A-Za-z0-9_:/-]+(\.[A-Za-z0-9_:/-]+)*$", max_length = 255)]
    pub queue: String,
    /// A pattern over routing keys, as the queue's type reads it; a topic pattern by default.
    #[serde(default)]
    #[schema(max_length = 255)]
    pub routing_key: Option<String>,
    /// Where deliveries go; none: they are pulled.
    #[serde(default)]
    pub callback_url: Option<String>,
    /// Headers to send with each delivery.
    #[serde(default)]
    pub headers: Option<BTreeMap<String, String>>,
    /// When to try again.
    #[serde(default, deserialize_with = "object::only")]
    pub retry_policy: Option<QueueRetryPolicy>,
    /// The queue on which copies of dead letters are published.
    #[serde(default)]
    #[schema(pattern = r"^[A-Za-z0-9_:/-]+(\.[A-Za-z0-9_:/-]+)*$", max_length = 255)]
    pub dead_letter_queue: Option<String>,
    /// The most unacknowledged deliveries at a time, over all workers.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 10_000)]
    pub prefetch_count: Option<u32>,
    /// The service that it belongs to; the caller by default.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 255)]
    pub service_name: Option<String>,
    /// Whether a 2xx also acknowledges.
    #[serde(default)]
    pub auto_ack: Option<bool>,
    /// Seconds within which an unacknowledged delivery must be acknowledged.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 43_200)]
    pub ack_timeout: Option<u64>,
    /// Headers to compare.
    #[serde(default)]
    pub header_match: Option<Map<String, Value>>,
    /// An event pattern over the message.
    #[serde(default)]
    pub filter_criteria: Option<Map<String, Value>>,
}

/// When to try again.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct QueueRetryPolicy {
    /// Retries after the first attempt.
    #[serde(default = "usual_retries")]
    #[schema(minimum = 0, maximum = 100)]
    pub max_retries: u32,
    /// Milliseconds before the first retry.
    #[serde(default = "usual_delay", serialize_with = "number::whole")]
    #[schema(minimum = 0, maximum = 3_600_000)]
    pub retry_delay: f64,
    /// What the delay is multiplied by before each further retry.
    #[serde(default = "usual_multiplier", serialize_with = "number::whole")]
    #[schema(minimum = 1, maximum = 100)]
    pub backoff_multiplier: f64,
}

fn usual_retries() -> u32 {
    RetryPolicy::default().max_retries
}

fn usual_delay() -> f64 {
    USUAL_DELAY_MS
}

fn usual_multiplier() -> f64 {
    RetryPolicy::default().backoff_multiplier
}

impl Default for QueueRetryPolicy {
    fn default() -> Self {
        Self {
            max_retries: usual_retries(),
            retry_delay: usual_delay(),
            backoff_multiplier: usual_multiplier(),
        }
    }
}

/// A subscription.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueueSubscribeResponse {
    /// Its id.
    pub subscription_id: String,
    /// The queue.
    pub queue: String,
    /// The pattern over routing keys.
    pub routing_key: Option<String>,
    /// Where deliveries go.
    pub callback_url: Option<String>,
    /// Whether deliveries flow.
    pub status: Status,
    /// When it was created.
    pub created_at: Time,
    /// When to try again.
    pub retry_policy: QueueRetryPolicy,
    /// The queue on which copies of dead letters are published.
    pub dead_letter_queue: Option<String>,
    /// The most unacknowledged deliveries at a time.
    pub prefetch_count: u32,
    /// The service that it belongs to.
    pub service_name: String,
    /// What its deliveries are signed with (`whsec_…`). Shown this once.
    pub secret: Option<String>,
}

/// Subscribes to a queue.
///
/// As `POST /v1/subscriptions`, in the other dialect: times are milliseconds.
#[utoipa::path(
    post,
    path = "/message-queue/subscribe",
    operation_id = "queue_subscribe",
    tag = "message-queue",
    request_body = QueueSubscribeRequest,
    responses(
        (
            status = 200,
            description = "The subscription, with the `secret` that its deliveries are signed with, which is \
                not shown again.",
            body = QueueSubscribeResponse,
        ),
        (
            status = 409,
            description = "Too many subscriptions, or the queue is another service's alone.",
            body = QueueErrorBody,
        ),
        QueueWithBody,
        QueueAlways,
    ),
)]
pub async fn subscribe(
    State(app): State<Arc<App>>,
    request: Request,
) -> QueueResult<Json<QueueSubscribeResponse>> {
    let caller = app.caller();
    let wanted: QueueSubscribeRequest = body::json_unique(request, MAX_BODY).await?;
    let (queue, policy) = (wanted.queue.clone(), wanted.retry_policy.unwrap_or_default());
    let subscription =
        create(translated(wanted, &caller)?, &caller, &app.config, app.clock.now_ms()).map_err(renamed)?;
    crate::calls::subscriptions::add(&app, &subscription).await.map_err(renamed)?;
    let SubscriptionResponse { subscription_id, status, created_at, service_name, secret, settings, .. } =
        SubscriptionResponse::of(&subscription).with_secret(&subscription);
    Ok(Json(QueueSubscribeResponse {
        subscription_id,
        queue,
        routing_key: settings.routing_key,
        callback_url: settings.callback_url,
        status,
        created_at,
        retry_policy: policy,
        dead_letter_queue: settings.dead_letter_queue,
        prefetch_count: settings.prefetch_count,
        service_name,
        secret,
    }))
}

/// The same request in the other dialect.
fn translated(wanted: QueueSubscribeRequest, caller: &Caller) -> ApiResult<SubscriptionRequest> {
    let policy = wanted.retry_policy.unwrap_or_default();
    let most_ms = RetryPolicy::CEILING_MS;
    #[expect(clippy::cast_precision_loss, reason = "an hour in milliseconds is exact")]
    if !(0.0..=most_ms as f64).contains(&policy.retry_delay) {
        let message = format!("retry_delay = {} must be 0 to {most_ms} milliseconds", policy.retry_delay);
        return Err(ApiError::field("retry_policy.retry_delay", message));
    }
    Ok(SubscriptionRequest {
        service_name: wanted.service_name.unwrap_or_else(|| caller.subject.to_string()),
        callback_url: wanted.callback_url,
        channel: Some(wanted.queue),
        channel_pattern: None,
        filter_criteria: wanted.filter_criteria,
        routing_key: wanted.routing_key,
        header_match: wanted.header_match,
        headers: wanted.headers,
        max_retries: None,
        retry_delay: None,
        retry_policy: Some(RetryPolicyRequest {
            max_retries: Some(policy.max_retries),
            retry_delay: Some(policy.retry_delay / 1_000.0),
            backoff_multiplier: Some(policy.backoff_multiplier),
        }),
        prefetch_count: wanted.prefetch_count,
        auto_ack: wanted.auto_ack,
        ack_timeout: wanted.ack_timeout,
        batch_size: None,
        rate_limit: None,
        ordered: None,
        format: None,
        dead_letter_queue: wanted.dead_letter_queue,
    })
}

fn renamed(mut error: ApiError) -> ApiError {
    if error.details.get("field").and_then(Value::as_str) == Some("channel") {
        error.details.insert("field".to_owned(), Value::from("queue"));
    }
    error
}
