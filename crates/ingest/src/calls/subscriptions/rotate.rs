//! `POST /v1/subscriptions/{id}/rotate-secret`

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{Request, State},
    http::StatusCode,
};
use postroad_api::{
    body,
    error::{ApiError, ApiResult, ErrorResponse},
    openapi::{Always, ByName, WithBody},
    path::Named,
};
use postroad_model::{
    signature::{
        SecretKey,
        rotation::{RotationError, rotate},
    },
    subscription::Subscription,
    time::Time,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{MAX_BODY, SubscriptionResponse, change};
use crate::{App, openapi::params::SubscriptionPath};

/// How long the old secrets sign on, in seconds: by default a day, at most a week.
const DEFAULT_GRACE: u64 = 86_400;
const MAX_GRACE: u64 = 604_800;

/// What a rotation is asked for with; all of it may be left out.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(example = json!({ "grace_seconds": 86_400 }))]
pub struct RotateSecretRequest {
    /// Seconds for which the old secrets sign on beside the new one, 0 to 604,800; 86,400 by default.
    #[schema(minimum = 0, maximum = 604_800)]
    pub grace_seconds: Option<u64>,
    /// The new secret, `whsec_` and 24 to 64 bytes in base64; made by default.
    #[schema(pattern = "^whsec_[A-Za-z0-9+/]+={0,2}$")]
    pub secret: Option<String>,
}

/// A subscription with its new secret.
#[derive(Debug, Serialize, ToSchema)]
pub struct RotateSecretResponse {
    /// The subscription, with the new secret, which is not shown again.
    #[serde(flatten)]
    pub subscription: SubscriptionResponse,
    /// Until when the secrets before it sign too; null where none does.
    pub previous_secret_expires_at: Option<Time>,
    /// How many secrets sign now, this one included.
    pub live_secrets: usize,
}

/// Gives a subscription a new signing secret.
///
/// The old ones sign beside it for a while.
#[utoipa::path(
    post,
    path = "/v1/subscriptions/{id}/rotate-secret",
    operation_id = "rotate_secret",
    tag = "subscriptions",
    params(SubscriptionPath),
    request_body = RotateSecretRequest,
    responses(
        (
            status = 200,
            description = "The subscription with its new secret, which is not shown again.",
            body = RotateSecretResponse,
        ),
        (
            status = 409,
            description = "As many secrets sign as may, or others changed the subscription at the same time.",
            body = ErrorResponse,
        ),
        ByName,
        WithBody,
        Always,
    ),
)]
pub async fn rotate_secret(
    State(app): State<Arc<App>>,
    Named(id): Named,
    request: Request,
) -> ApiResult<Json<RotateSecretResponse>> {
    let wanted: RotateSecretRequest = body::json_or_default(request, MAX_BODY).await?;
    let grace = wanted.grace_seconds.unwrap_or(DEFAULT_GRACE);
    if grace > MAX_GRACE {
        let message = format!("grace_seconds = {grace} must be 0 to {MAX_GRACE}");
        return Err(ApiError::field("grace_seconds", message));
    }
    let key = match &wanted.secret {
        Some(text) => SecretKey::parse(text),
        None => SecretKey::from_bytes(&rand::random::<[u8; 32]>()),
    };
    let key = key.map_err(|error| ApiError::field("secret", error.to_string()))?;
    let now = Time::from_millis(app.clock.now_ms());
    let changed = change(&app, &id, |current| {
        let secrets =
            rotate(&current.secrets, key.clone(), now, Duration::from_secs(grace)).map_err(refusal)?;
        Ok(Subscription { secrets, updated_at: now, ..current })
    })
    .await?;
    let previous = changed.secrets.iter().skip(1);
    Ok(Json(RotateSecretResponse {
        subscription: SubscriptionResponse::of(&changed).with_secret(&changed),
        previous_secret_expires_at: previous.filter_map(|secret| secret.expires_at).max(),
        live_secrets: changed.secrets.len(),
    }))
}

fn refusal(error: RotationError) -> ApiError {
    match error {
        RotationError::TooMany => ApiError::new(StatusCode::CONFLICT, "limit_reached", error.to_string()),
        RotationError::InUse => ApiError::field("secret", error.to_string()),
    }
}
