//! What a path names.

use axum::{
    extract::{FromRequestParts, Path},
    http::{StatusCode, request::Parts},
};

use crate::error::ApiError;

/// The one name in a path, percent-decoded. One that is no text is refused like everything else that is wrong.
#[derive(Debug)]
pub struct Named(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        Path::from_request_parts(parts, state).await.map(|Path(name)| Self(name)).map_err(|error| {
            let message = format!("the path cannot be read: {}", error.body_text());
            ApiError::new(StatusCode::BAD_REQUEST, "invalid_path", message).with("field", "path")
        })
    }
}
