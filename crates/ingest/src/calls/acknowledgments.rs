//! Acknowledgments: `/v1/messages/{id}/ack` and `/v1/subscriptions/{id}/ack`.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use postroad_api::{
    body,
    error::{ApiError, ApiResult, ErrorResponse},
    openapi::{Always, ByName, WithBody},
    path::Named,
};
use postroad_model::{
    id::MessageId,
    subscription::{MAX_ACK_TIMEOUT, Subscription},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    App,
    acknowledge::{Said, Standing, Word, acknowledge, meant},
    openapi::params::{MessagePath, SubscriptionPath},
};

/// The most bytes of a request, and the most deliveries that one may speak of.
const MAX_BODY: usize = 512 << 10;
const MAX_ROWS: usize = 1_000;
/// The longest reason, in bytes.
const MAX_ERROR: usize = 1_024;

/// `MessageAcknowledgment`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
        "subscription_id": "sub_01hm6c8f3sxk2v9d0q4t7w1y5z3b8n",
        "success": false,
        "error": "the warehouse is closed",
    }))]
pub struct MessageAcknowledgment {
    /// The message; the one in the path.
    #[serde(default)]
    #[schema(pattern = "^[A-Za-z0-9_-]{1,128}$")]
    pub message_id: Option<String>,
    /// The subscription whose delivery it is; may be left out where the message went to one only.
    #[serde(default)]
    pub subscription_id: Option<String>,
    /// Whether it was processed; `false` counts as a failed attempt.
    #[serde(default = "yes")]
    pub success: bool,
    /// Why it was not.
    #[serde(default)]
    #[schema(max_length = 1_024)]
    pub error: Option<String>,
}

fn yes() -> bool {
    true
}

/// A delivery that was spoken of.
#[derive(Debug, Serialize, ToSchema)]
pub struct Acknowledged {
    /// Always true: what fails is answered with an `ErrorResponse`.
    pub success: bool,
    /// The message.
    pub message_id: String,
    /// The subscription.
    pub subscription_id: String,
    /// Where the delivery stands now.
    pub status: Standing,
}

/// Acknowledges one delivery of a message.
///
/// A positive acknowledgment settles the delivery wherever it lies; `success: false` counts as a failed attempt.
#[utoipa::path(
    post,
    path = "/v1/messages/{id}/ack",
    operation_id = "acknowledge_message",
    tag = "acknowledgments",
    params(MessagePath),
    request_body = MessageAcknowledgment,
    responses(
        (
            status = 200,
            description = "What was said is taken; also when it is said again.",
            body = Acknowledged,
        ),
        (
            status = 409,
            description = "The delivery is dead, settled otherwise, or was not handed over yet; or the \
                message went to several subscriptions and none is named.",
            body = ErrorResponse,
        ),
        ByName,
        WithBody,
        Always,
    ),
)]
pub async fn acknowledge_message(
    State(app): State<Arc<App>>,
    Named(id): Named,
    request: Request,
) -> ApiResult<Json<Acknowledged>> {
    let caller = app.caller();
    let given: MessageAcknowledgment = body::json(request, MAX_BODY).await?;
    if given.message_id.as_ref().is_some_and(|named| *named != id) {
        let message = format!("message_id is not the path's {id:?}");
        return Err(ApiError::field("message_id", message));
    }
    check_error("error", given.error.as_deref())?;
    let message = MessageId::new(&id).map_err(|_| ApiError::not_found("message", &id))?;
    let subscription = meant(&app, &caller, &message, given.subscription_id.as_deref(), None).await?;
    let word = if given.success { Word::Done { note: None } } else { Word::Failed { error: given.error } };
    let said = [Said { message, word }];
    let mut standings = acknowledge(&app, &subscription, caller.subject.as_str(), &said).await?;
    let status = standings.pop().unwrap_or_else(|| Err(ApiError::not_found("message", &id)))?;
    Ok(Json(Acknowledged {
        success: true,
        message_id: id,
        subscription_id: subscription.id.to_string(),
        status,
    }))
}

/// What is said of several deliveries of one subscription.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
        "acknowledge": ["72d3162e-cc78-11e3-81ab-4c9367dc0958"],
        "reject": [{ "message_id": "msg_01hm6c8f3s07xk2v9d0q4t7w1y5z3b8n", "error": "no such order", "requeue": false }],
        "extend": [],
    }))]
pub struct BatchAcknowledgment {
    /// Messages that were processed.
    #[serde(default)]
    pub acknowledge: Vec<String>,
    /// Messages that were not.
    #[serde(default)]
    pub reject: Vec<Rejection>,
    /// Messages that take longer.
    #[serde(default)]
    pub extend: Vec<String>,
    /// Seconds from now in which those must be acknowledged, 1 to 43,200; the subscription's `ack_timeout` by
    /// default.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 43_200)]
    pub extend_seconds: Option<u64>,
}

/// A delivery that was not processed.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rejection {
    /// The message.
    #[schema(pattern = "^[A-Za-z0-9_-]{1,128}$")]
    pub message_id: String,
    /// Why.
    #[serde(default)]
    #[schema(max_length = 1_024)]
    pub error: Option<String>,
    /// `true` (the default) counts as a failed attempt; `false` makes it a dead letter.
    #[serde(default = "yes")]
    pub requeue: bool,
}

/// What became of each, in the order `acknowledge`, `reject`, `extend`.
#[derive(Debug, Serialize, ToSchema)]
pub struct BatchAcknowledged {
    /// Whether all succeeded.
    pub success: bool,
    /// One for each.
    pub results: Vec<BatchRow>,
}

/// What became of one.
#[derive(Debug, Serialize, ToSchema)]
pub struct BatchRow {
    /// The message.
    pub message_id: String,
    /// Whether it was done as asked.
    pub success: bool,
    /// Where the delivery stands now; null where it failed, and for one that was extended.
    pub status: Option<Standing>,
    /// Why it failed.
    pub error: Option<String>,
    /// The same, for programs.
    pub error_code: Option<&'static str>,
}

/// Acknowledges, rejects or extends up to 1,000 deliveries of a subscription.
#[utoipa::path(
    post,
    path = "/v1/subscriptions/{id}/ack",
    operation_id = "acknowledge_deliveries",
    tag = "acknowledgments",
    params(SubscriptionPath),
    request_body = BatchAcknowledgment,
    responses(
        (status = 200, description = "All is done as asked.", body = BatchAcknowledged),
        (status = 207, description = "Some failed: their rows say why.", body = BatchAcknowledged),
        ByName,
        WithBody,
        Always,
    ),
)]
pub async fn acknowledge_batch(
    State(app): State<Arc<App>>,
    Named(id): Named,
    request: Request,
) -> ApiResult<Response> {
    let caller = app.caller();
    let batch: BatchAcknowledgment = body::json(request, MAX_BODY).await?;
    let count = batch.acknowledge.len() + batch.reject.len() + batch.extend.len();
    if count == 0 || count > MAX_ROWS {
        let message = format!("{count} deliveries are spoken of; 1 to {MAX_ROWS} are allowed");
        return Err(ApiError::field("acknowledge", message));
    }
    let mut said = Vec::with_capacity(count);
    for (index, id) in batch.acknowledge.iter().enumerate() {
        said.push(Said { message: message_id("acknowledge", index, id)?, word: Word::Done { note: None } });
    }
    for (index, rejection) in batch.reject.into_iter().enumerate() {
        check_error("reject.error", rejection.error.as_deref())?;
        let message = message_id("reject", index, &rejection.message_id)?;
        let error = rejection.error;
        let word = if rejection.requeue { Word::Failed { error } } else { Word::Rejected { error } };
        said.push(Said { message, word });
    }
    let mut extended = Vec::with_capacity(batch.extend.len());
    for (index, id) in batch.extend.iter().enumerate() {
        extended.push(message_id("extend", index, id)?);
    }
    let seconds = batch.extend_seconds;
    if seconds.is_some_and(|seconds| !(1..=MAX_ACK_TIMEOUT).contains(&seconds)) {
        let message = format!("extend_seconds must be 1 to {MAX_ACK_TIMEOUT}");
        return Err(ApiError::field("extend_seconds", message));
    }
    let subscription = super::subscriptions::find(&app, &caller, &id).await?.subscription;
    let standings = acknowledge(&app, &subscription, caller.subject.as_str(), &said).await?;
    let mut results: Vec<BatchRow> =
        said.iter().zip(standings).map(|(said, standing)| row(&said.message, standing.map(Some))).collect();
    let by = Duration::from_secs(seconds.unwrap_or(subscription.ack_timeout));
    results.extend(extend(&app, &subscription, by, &extended).await?);
    let success = results.iter().all(|row| row.success);
    let status = if success { StatusCode::OK } else { StatusCode::MULTI_STATUS };
    Ok((status, Json(BatchAcknowledged { success, results })).into_response())
}

fn row(message: &MessageId, result: ApiResult<Option<Standing>>) -> BatchRow {
    let (status, failed) = match result {
        Ok(status) => (status, None),
        Err(error) => (None, Some(error)),
    };
    BatchRow {
        message_id: message.to_string(),
        success: failed.is_none(),
        status,
        error: failed.as_ref().map(|error| error.message.clone()),
        error_code: failed.map(|error| error.code),
    }
}

async fn extend(
    app: &App,
    subscription: &Subscription,
    by: Duration,
    messages: &[MessageId],
) -> ApiResult<Vec<BatchRow>> {
    if messages.is_empty() {
        return Ok(Vec::new());
    }
    let extended = crate::acknowledge::extend(app, subscription, by, messages).await?;
    Ok(messages.iter().zip(extended).map(|(message, result)| row(message, result.map(|()| None))).collect())
}

fn message_id(field: &str, index: usize, text: &str) -> ApiResult<MessageId> {
    MessageId::new(text).map_err(|error| ApiError::field(field, error.to_string()).at(index))
}

pub(crate) fn check_error(field: &str, error: Option<&str>) -> ApiResult<()> {
    match error {
        Some(text) if text.len() > MAX_ERROR => {
            let message = format!("{field} is {} bytes long; at most {MAX_ERROR} are allowed", text.len());
            Err(ApiError::field(field, message))
        }
        _ => Ok(()),
    }
}
