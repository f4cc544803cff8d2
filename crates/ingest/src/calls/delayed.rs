//! `DELETE /v1/messages/{id}`: calling back what is not due yet.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use postroad_api::{
    error::{ApiError, ApiResult, ErrorResponse},
    openapi::{Always, ByName},
    path::Named,
};
use postroad_model::{
    id::MessageId,
    time::{Time, millis},
};
use postroad_store::Cancelled;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{App, openapi::params::MessagePath};

/// What became of a cancellation.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct CancelResponse {
    /// Always true: what cannot be cancelled is an error.
    pub success: bool,
    /// The message's id. It stays used for as long as ids are remembered: publishing it again is answered as a
    /// duplicate and delivers nothing.
    pub message_id: String,
    /// Always true.
    pub cancelled: bool,
    /// When it was cancelled: now, or by an earlier call.
    pub cancelled_at: Time,
    /// When it would have been due; null where an earlier call cancelled it.
    pub deliver_at: Option<Time>,
}

/// Cancels a message that is not due yet.
///
/// Answered alike when it is repeated, for as long as ids are remembered. Where several messages with one id
/// wait, under different ordering keys, all of them are cancelled.
#[utoipa::path(
    delete,
    path = "/v1/messages/{id}",
    operation_id = "cancel_message",
    tag = "messages",
    params(MessagePath),
    responses(
        (status = 200, description = "It is cancelled.", body = CancelResponse),
        (status = 409, description = "`already_published`: it is due, or was.", body = ErrorResponse),
        ByName,
        Always,
    ),
)]
pub async fn cancel(State(app): State<Arc<App>>, Named(id): Named) -> ApiResult<Json<CancelResponse>> {
    let unknown = || ApiError::not_found("message", &id);
    let message_id = MessageId::new(&id).map_err(|_| unknown())?;
    let tenant = app.caller().tenant;
    let window_ms = millis(app.config.retention);
    let found = app.store.find_message(&tenant, &message_id, window_ms, app.clock.now_ms()).await?;
    let (mut cancelled, mut is_published) = (None, false);
    for found in &found {
        match app.store.cancel_delayed(found.partition, &found.key, window_ms).await? {
            Cancelled::Now { at_ms, due_ms } => cancelled = Some((at_ms, due_ms)),
            Cancelled::Before { at_ms } => cancelled = cancelled.or(Some((at_ms, None))),
            Cancelled::Published => is_published = true,
            Cancelled::Unknown => {}
        }
    }
    match cancelled {
        Some((at_ms, due_ms)) => Ok(Json(CancelResponse {
            success: true,
            message_id: id,
            cancelled: true,
            cancelled_at: Time::from_millis(at_ms),
            deliver_at: due_ms.map(Time::from_millis),
        })),
        None if is_published => {
            let message =
                format!("message {id:?} is published already; only one that is not due can be cancelled");
            Err(ApiError::new(StatusCode::CONFLICT, "already_published", message).with("id", id))
        }
        None => Err(unknown()),
    }
}
