//! Refusals: `ErrorResponse`, with a code for programs and a sentence for people.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use postroad_model::{
    id::{Kind, mint},
    names::NameError,
    time::{Time, millis},
};
use postroad_store::StoreError;
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

/// Why a call was refused or failed.
#[derive(Debug, Clone)]
pub struct ApiError {
    /// The status code.
    pub status: StatusCode,
    /// For programs, in `snake_case`.
    pub code: &'static str,
    /// For people: what is wrong, and the way out.
    pub message: String,
    /// More, for programs: `field`, `value`, …
    pub details: Map<String, Value>,
    /// Seconds after which it may work.
    pub retry_after: Option<u64>,
}

/// The most bytes of a message and of a detail: what is refused is repeated to who sent it, but not at any length.
const MAX_MESSAGE: usize = 1_000;
const MAX_DETAIL: usize = 200;

fn short(mut text: String, most: usize) -> String {
    if text.len() > most {
        let end = (0..=most).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

/// The result of a call.
pub type ApiResult<T> = Result<T, ApiError>;

/// `ErrorResponse`: why a call was refused or failed. Nothing has changed, unless the text says otherwise.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "error": "channel contains ' '; words may hold A-Z a-z 0-9 _ - : /",
    "error_code": "invalid_field",
    "timestamp": "2024-01-15T12:30:00.000Z",
    "request_id": "req_01hm6c8f3sxk2v9d0q4t7w1y5z",
    "details": { "field": "channel" },
}))]
pub struct ErrorResponse {
    /// For people: what is wrong, and the way out.
    pub error: String,
    /// For programs, in `snake_case`.
    pub error_code: &'static str,
    /// When this was answered.
    pub timestamp: Time,
    /// Of this call; Postroad's logs name it where the fault is Postroad's.
    pub request_id: String,
    /// More, for programs: `field`, `value`, `index`, …
    pub details: Map<String, Value>,
}

impl ApiError {
    /// A refusal.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        let message = short(message.into(), MAX_MESSAGE);
        Self { status, code, message, details: Map::new(), retry_after: None }
    }

    /// 422: a field's value breaks a rule.
    pub fn field(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_field", message).with("field", field.into())
    }

    /// 404.
    pub fn not_found(what: &'static str, id: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", format!("there is no {what} {id:?}"))
            .with("what", what)
            .with("id", id)
    }

    /// Adds a detail.
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        let value = match value.into() {
            Value::String(text) => Value::String(short(text, MAX_DETAIL)),
            value => value,
        };
        self.details.insert(name.to_owned(), value);
        self
    }

    /// Says when it may work.
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// Names the object inside a list that it is about.
    pub fn at(mut self, index: usize) -> Self {
        self.details.insert("index".into(), json!(index));
        self
    }
}

impl From<NameError> for ApiError {
    fn from(error: NameError) -> Self {
        Self::field(error.what, error.to_string())
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let unavailable = StatusCode::SERVICE_UNAVAILABLE;
        match &error {
            StoreError::Unavailable(_) => Self::new(
                unavailable,
                "redis_unavailable",
                "Redis is away; nothing is known to have been done, repeat the call",
            )
            .retry_after(1),
            StoreError::Full(_) => Self::new(
                unavailable,
                "storage_full",
                "Redis is full; nothing was done, repeat the call later",
            )
            .retry_after(5),
            StoreError::Conflict(what) => Self::new(
                StatusCode::CONFLICT,
                "conflict",
                format!("{what} was changed by another call at the same time; read it and try again"),
            ),
            StoreError::TooManyDelayed => Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                "too_many_delayed",
                "as many messages wait to become due as may; nothing was done: publish it later, or without a delay",
            )
            .retry_after(60),
            StoreError::TooMany(count) => {
                Self::new(StatusCode::CONFLICT, "too_many_subscriptions", error.to_string())
                    .with("count", *count)
            }
            StoreError::TooManyChannels(count) => {
                Self::new(StatusCode::CONFLICT, "too_many_channels", error.to_string()).with("count", *count)
            }
            StoreError::Exclusive { channel, .. } => Self::new(
                StatusCode::CONFLICT,
                "channel_exclusive",
                format!("{error}; subscribe as that service, or configure the channel without exclusive"),
            )
            .with("field", "channel")
            .with("channel", channel.as_str()),
            StoreError::Shared { channel, services } => Self::new(
                StatusCode::CONFLICT,
                "channel_exclusive",
                format!("{error}; cancel those of all services but one first"),
            )
            .with("field", "exclusive")
            .with("channel", channel.as_str())
            .with("services", *services),
            StoreError::ChannelFull { channel, waiting, most } => Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                "channel_full",
                format!(
                    "{error}; the message was not published, repeat it when the subscribers have caught up"
                ),
            )
            .retry_after(1)
            .with("field", "channel")
            .with("channel", channel.as_str())
            .with("waiting", *waiting)
            .with("max_length", *most),
            StoreError::Refused(_)
            | StoreError::Reply(_)
            | StoreError::Layout { .. }
            | StoreError::Unsuitable(_) => {
                tracing::error!(%error, "a call failed");
                Self::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "internal",
                    "something is wrong with Postroad's storage",
                )
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let now_ms = millis(now);
        let request_id = mint(Kind::Request, now_ms, rand::random());
        if self.status.is_server_error() {
            tracing::warn!(
                request.id = request_id,
                status = self.status.as_u16(),
                code = self.code,
                "refused a call"
            );
        }
        let body = ErrorResponse {
            error: self.message,
            error_code: self.code,
            timestamp: Time::from_millis(now_ms),
            request_id,
            details: self.details,
        };
        let mut response = (self.status, axum::Json(body)).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// What answers a path that there is not.
pub async fn no_such_path(uri: axum::http::Uri) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "no_such_path", format!("there is nothing at {}", uri.path()))
}

/// What answers a method that a path does not have.
pub async fn no_such_method(method: axum::http::Method, uri: axum::http::Uri) -> ApiError {
    let message = format!("{method} is not something that {} can do", uri.path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
}
