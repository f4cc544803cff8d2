//! `POST /message-queue/messages/{message_id}/acknowledge` and `…/reject`

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
};
use postroad_api::{body, error::ApiError, number, path::Named};
use postroad_model::{id::MessageId, names::ServiceName, subscription::Subscription, time::Time};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    error::{QueueError, QueueErrorBody, QueueResult},
    openapi::{QueueAlways, QueueNamed, QueueWithBody},
};
use crate::{
    App,
    acknowledge::{Said, Standing, Word, acknowledge, meant},
    calls::acknowledgments::check_error,
    openapi::params::QueueMessagePath,
};

/// The most bytes of a request.
const MAX_BODY: usize = 16 << 10;

/// What is said of a message that was processed, or was not.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
        "acknowledged_by": "delivery-service",
        "processing_time": 150,
        "success": true,
        "notes": "Event processed successfully",
    }))]
pub struct QueueAcknowledgeRequest {
    /// The service that processed it; the caller by default.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 255)]
    pub acknowledged_by: Option<String>,
    /// Milliseconds that it took.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 1_000_000_000_000.0)]
    pub processing_time: Option<f64>,
    /// `false` counts as a failed attempt.
    #[serde(default = "yes")]
    pub success: bool,
    /// What there is to note.
    #[serde(default)]
    #[schema(max_length = 1_024)]
    pub notes: Option<String>,
    /// The subscription whose delivery it is; else the service's, or the only one.
    #[serde(default)]
    pub subscription_id: Option<String>,
}

fn yes() -> bool {
    true
}

/// A message that was spoken of.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueueAcknowledgeResponse {
    /// The message.
    pub message_id: String,
    /// Always true: what fails is refused.
    pub acknowledged: bool,
    /// When.
    pub acknowledged_at: Time,
    /// By whom.
    pub acknowledged_by: String,
    /// Milliseconds that it took.
    #[serde(serialize_with = "number::whole_if_any")]
    pub processing_time: Option<f64>,
    /// Whether it was processed.
    pub success: bool,
    /// What there was to note.
    pub notes: Option<String>,
}

/// What is said of a message that will not be processed now.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
        "rejected_by": "delivery-service",
        "reason": "Invalid message format",
        "requeue": false,
        "retry_count": 3,
    }))]
pub struct QueueRejectRequest {
    /// The service that rejects it; the caller by default.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 255)]
    pub rejected_by: Option<String>,
    /// Why.
    #[serde(default)]
    #[schema(max_length = 1_024)]
    pub reason: Option<String>,
    /// `true` counts as a failed attempt; `false` makes it a dead letter.
    #[serde(default = "yes")]
    pub requeue: bool,
    /// How often it was tried, as the caller counts. Postroad counts for itself.
    #[serde(default)]
    #[expect(dead_code, reason = "a part of this dialect that changes nothing")]
    retry_count: Option<u32>,
    /// The subscription whose delivery it is; else the service's, or the only one.
    #[serde(default)]
    pub subscription_id: Option<String>,
}

/// A message that was rejected.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueueRejectResponse {
    /// The message.
    pub message_id: String,
    /// Always true: what fails is refused.
    pub rejected: bool,
    /// When.
    pub rejected_at: Time,
    /// By whom.
    pub rejected_by: String,
    /// Why.
    pub reason: Option<String>,
    /// Whether it is tried again; not where it has no retries left.
    pub requeued: bool,
    /// Its failed attempts so far.
    pub retry_count: u32,
}

/// Acknowledges a message.
///
/// The delivery is that of `subscription_id` if given, else of the subscription whose service is
/// `acknowledged_by`, else the only one there is.
#[utoipa::path(
    post,
    path = "/message-queue/messages/{message_id}/acknowledge",
    operation_id = "queue_acknowledge",
    tag = "message-queue",
    params(QueueMessagePath),
    request_body = QueueAcknowledgeRequest,
    responses(
        (
            status = 200,
            description = "What was said is taken; also when it is said again.",
            body = QueueAcknowledgeResponse,
        ),
        (
            status = 409,
            description = "The delivery is dead, settled otherwise, or was not handed over yet; or several \
                could be meant.",
            body = QueueErrorBody,
        ),
        QueueNamed,
        QueueWithBody,
        QueueAlways,
    ),
)]
pub async fn acknowledge_message(
    State(app): State<Arc<App>>,
    Named(id): Named,
    request: Request,
) -> QueueResult<Json<QueueAcknowledgeResponse>> {
    let given: QueueAcknowledgeRequest = body::json(request, MAX_BODY).await?;
    check_error("notes", given.notes.as_deref())?;
    if given.processing_time.is_some_and(|time| !(0.0..=1e12).contains(&time)) {
        return Err(
            ApiError::field("processing_time", "processing_time must be 0 or more milliseconds").into()
        );
    }
    let by = service(&app, "acknowledged_by", given.acknowledged_by)?;
    let word = if given.success {
        Word::Done { note: given.notes.clone() }
    } else {
        Word::Failed { error: given.notes.clone() }
    };
    say(&app, &id, given.subscription_id.as_deref(), &by, word).await?;
    Ok(Json(QueueAcknowledgeResponse {
        message_id: id,
        acknowledged: true,
        acknowledged_at: Time::from_millis(app.clock.now_ms()),
        acknowledged_by: by.to_string(),
        processing_time: given.processing_time,
        success: given.success,
        notes: given.notes,
    }))
}

/// Rejects a message.
///
/// With `requeue: true` it counts as a failed attempt, with `false` it is a dead letter.
#[utoipa::path(
    post,
    path = "/message-queue/messages/{message_id}/reject",
    operation_id = "queue_reject",
    tag = "message-queue",
    params(QueueMessagePath),
    request_body = QueueRejectRequest,
    responses(
        (status = 200, description = "What was said is taken.", body = QueueRejectResponse),
        (
            status = 409,
            description = "The delivery is settled, or was not handed over yet; or several could be meant.",
            body = QueueErrorBody,
        ),
        QueueNamed,
        QueueWithBody,
        QueueAlways,
    ),
)]
pub async fn reject(
    State(app): State<Arc<App>>,
    Named(id): Named,
    request: Request,
) -> QueueResult<Json<QueueRejectResponse>> {
    let given: QueueRejectRequest = body::json(request, MAX_BODY).await?;
    check_error("reason", given.reason.as_deref())?;
    let by = service(&app, "rejected_by", given.rejected_by)?;
    let error = given.reason.clone();
    let word = if given.requeue { Word::Failed { error } } else { Word::Rejected { error } };
    let (standing, subscription) = say(&app, &id, given.subscription_id.as_deref(), &by, word).await?;
    Ok(Json(QueueRejectResponse {
        rejected: true,
        rejected_at: Time::from_millis(app.clock.now_ms()),
        rejected_by: by.to_string(),
        reason: given.reason,
        requeued: standing != Standing::Dead,
        retry_count: super::message::retries(&app, &id, &subscription).await?,
        message_id: id,
    }))
}

fn service(app: &App, field: &str, given: Option<String>) -> QueueResult<ServiceName> {
    match given {
        None => Ok(app.caller().subject),
        Some(name) => {
            ServiceName::new(&name).map_err(|error| ApiError::field(field, error.to_string()).into())
        }
    }
}

async fn say(
    app: &App,
    id: &str,
    subscription: Option<&str>,
    by: &ServiceName,
    word: Word,
) -> QueueResult<(Standing, Subscription)> {
    let caller = app.caller();
    let message = MessageId::new(id).map_err(|_| QueueError::no_message(id))?;
    let subscription = meant(app, &caller, &message, subscription, Some(by.as_str())).await?;
    let said = [Said { message, word }];
    let mut standings = acknowledge(app, &subscription, by.as_str(), &said).await?;
    let standing = standings.pop().unwrap_or_else(|| Err(ApiError::not_found("message", id)))?;
    Ok((standing, subscription))
}
