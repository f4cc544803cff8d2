//! Bodies: bounded, JSON, and refused in words that name the field.

use axum::{
    extract::Request,
    http::{HeaderMap, StatusCode, header},
};
use bytes::Bytes;
use postroad_daemon::body::{BodyError, BodyLimits, read_body};
use postroad_model::json_scan::{MAX_DEPTH, check_depth};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::error::Category;

use crate::error::{ApiError, ApiResult};

/// Reads a body of at most `max_bytes`.
pub async fn bytes(request: Request, max_bytes: usize) -> ApiResult<Bytes> {
    read_body(request.into_body(), &BodyLimits::of(max_bytes)).await.map_err(|error| {
        let code = match error {
            BodyError::TooLarge { .. } => "body_too_large",
            BodyError::TooSlow => "body_too_slow",
            BodyError::Broken(_) => "body_unreadable",
        };
        ApiError::new(error.status(), code, error.to_string())
    })
}

/// Reads a JSON body of at most `max_bytes`.
pub async fn json<T: DeserializeOwned>(request: Request, max_bytes: usize) -> ApiResult<T> {
    json_type(request.headers())?;
    parse(&bytes(request, max_bytes).await?)
}

/// Refuses a body that says it is something else than JSON.
pub fn json_type(headers: &HeaderMap) -> ApiResult<()> {
    let Some(given) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let essence =
        given.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json")) {
        return Ok(());
    }
    let message = format!("the body is {essence:?}; send JSON with content-type application/json");
    Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message))
}

/// Reads JSON: 400 for what is none, 422 for what is not what the call takes.
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> ApiResult<T> {
    let invalid = |message: String| ApiError::new(StatusCode::BAD_REQUEST, "invalid_json", message);
    if body.is_empty() {
        return Err(invalid("the body is empty; send a JSON object".into()));
    }
    if check_depth(body).is_err() {
        return Err(invalid(format!("the body is nested more than {MAX_DEPTH} deep")));
    }
    // Else an array would be read as an object's members in their order.
    if body.trim_ascii_start().starts_with(b"[") && serde_json::from_slice::<IgnoredAny>(body).is_ok() {
        return Err(ApiError::field("body", "is a JSON array; send a JSON object"));
    }
    let mut reader = serde_json::Deserializer::from_slice(body);
    let parsed: T = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let field = match error.path().to_string().as_str() {
            "." => "body".to_owned(),
            field => field.to_owned(),
        };
        match error.inner().classify() {
            Category::Data => {
                let message = error.inner().to_string();
                let field = named_field(&message).unwrap_or(field);
                ApiError::field(field, message)
            }
            Category::Io | Category::Syntax | Category::Eof => {
                invalid(format!("the body is no JSON: {}", error.inner()))
            }
        }
    })?;
    reader.end().map_err(|error| invalid(format!("the body goes on behind its JSON: {error}")))?;
    Ok(parsed)
}

/// The field that serde names in a message about a field that is unknown or missing.
fn named_field(message: &str) -> Option<String> {
    let rest = message.strip_prefix("unknown field `").or_else(|| message.strip_prefix("missing field `"))?;
    rest.split_once('`').map(|(field, _)| field.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only parsed")]
    struct Thing {
        name: String,
        inner: Option<Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only parsed")]
    struct Inner {
        count: u32,
    }

    fn refused(body: &[u8]) -> (u16, Option<String>) {
        let error = parse::<Thing>(body).unwrap_err();
        let field = error.details.get("field").and_then(|field| field.as_str()).map(str::to_owned);
        (error.status.as_u16(), field)
    }

    #[test]
    fn refusals_name_the_field() {
        let field = |name: &str| Some(name.to_owned());
        assert_eq!(refused(b""), (400, None));
        assert_eq!(refused(b"not json"), (400, None));
        assert_eq!(refused(b"{\"name\":\"\xff\"}"), (400, None));
        assert_eq!(refused(b"{\"name\":\"a\"} x"), (400, None));
        assert_eq!(refused("[".repeat(10_000).as_bytes()), (400, None));
        assert_eq!(refused(b"{}"), (422, field("name")));
        assert_eq!(refused(b"[]"), (422, field("body")));
        assert_eq!(refused(b" [\"a\", null]"), (422, field("body")));
        assert_eq!(refused(b"7"), (422, field("body")));
        assert_eq!(refused(b"{\"name\":1}"), (422, field("name")));
        assert_eq!(refused(b"{\"name\":\"a\",\"inner\":{\"count\":-1}}"), (422, field("inner.count")));
        assert_eq!(refused(b"{\"name\":\"a\",\"shape\":1}"), (422, field("shape")));
        assert!(parse::<Thing>(b"{\"name\":\"a\",\"inner\":{\"count\":1}}").is_ok());
    }
}
