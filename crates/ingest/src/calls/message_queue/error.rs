//! Refusals of the `/message-queue` API.

use axum::{
    Json,
    extract::FromRequestParts,
    http::{HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use postroad_api::{error::ApiError, path};
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

/// The body of a refusal.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueueErrorBody {
    /// For programs, in `snake_case`.
    pub error: String,
    /// For people: what is wrong, and the way out.
    pub message: String,
    /// More, for programs: `field` and `issue`, `queue`, `limit`, …
    pub details: Map<String, Value>,
}

/// Why a call was refused or failed.
#[derive(Debug)]
pub struct QueueError {
    status: StatusCode,
    body: QueueErrorBody,
    retry_after: Option<u64>,
}

/// The result of a call.
pub type QueueResult<T> = Result<T, QueueError>;

impl QueueError {
    /// 404 for a message.
    pub fn no_message(id: &str) -> Self {
        let details = Map::from_iter([("message_id".to_owned(), json!(id))]);
        Self::of(StatusCode::NOT_FOUND, "message_not_found", "Message not found", details)
    }

    /// 404 for a queue.
    pub fn no_queue(name: &str) -> Self {
        let details = Map::from_iter([("queue".to_owned(), json!(name))]);
        Self::of(StatusCode::NOT_FOUND, "queue_not_found", "Queue not found", details)
    }

    fn of(status: StatusCode, error: &str, message: &str, details: Map<String, Value>) -> Self {
        let body = QueueErrorBody { error: error.to_owned(), message: message.to_owned(), details };
        Self { status, body, retry_after: None }
    }
}

/// The one name in a path, refused in this dialect where it is no text.
#[derive(Debug)]
pub struct Named(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = QueueError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> QueueResult<Self> {
        let path::Named(name) = path::Named::from_request_parts(parts, state).await?;
        Ok(Self(name))
    }
}

/// What the other API refuses with 422 is 400 `invalid_message` here, with the field and what is wrong with it.
impl From<ApiError> for QueueError {
    fn from(error: ApiError) -> Self {
        let ApiError { status, code, message, mut details, retry_after } = error;
        let (status, code) = match (status, code) {
            (StatusCode::UNPROCESSABLE_ENTITY | StatusCode::BAD_REQUEST, _) => {
                details.insert("issue".to_owned(), json!(message));
                (StatusCode::BAD_REQUEST, "invalid_message")
            }
            (StatusCode::NOT_FOUND, "no_delivery") => (status, "message_not_found"),
            (StatusCode::NOT_FOUND, "not_found") => (status, "subscription_not_found"),
            other => other,
        };
        Self { retry_after, ..Self::of(status, code, &message, details) }
    }
}

impl From<postroad_store::StoreError> for QueueError {
    fn from(error: postroad_store::StoreError) -> Self {
        ApiError::from(error).into()
    }
}

impl IntoResponse for QueueError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body)).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
