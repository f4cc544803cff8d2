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

use crate::{
    error::{ApiError, ApiResult},
    object::Unique,
};

/// Reads a body of at most `max_bytes`.
pub async fn bytes(request: Request, max_bytes: usize) -> ApiResult<Bytes> {
    read_body(request.into_body(), &BodyLimits::of(max_bytes)).await.map_err(|error| {
        let code = match error {
            BodyError::TooLarge { .. } => "body_too_large",
            BodyError::TooSlow => "body_too_slow",
            BodyError::Broken(_) => "body_unreadable",
        };
        ApiError::new(error.status(), code, error.to_string()).with("field", "body")
    })
}

/// Reads a JSON body of at most `max_bytes`.
pub async fn json<T: DeserializeOwned>(request: Request, max_bytes: usize) -> ApiResult<T> {
    json_type(request.headers())?;
    parse(&bytes(request, max_bytes).await?)
}

/// The same for a call whose body may be left out.
pub async fn json_or_default<T: DeserializeOwned + Default>(
    request: Request,
    max_bytes: usize,
) -> ApiResult<T> {
    let headers = request.headers().clone();
    let body = bytes(request, max_bytes).await?;
    if body.is_empty() {
        return Ok(T::default());
    }
    json_type(&headers)?;
    parse(&body)
}

/// The same, and refuses a body that names anything twice: for calls of which there are few, since the body is
/// read twice over.
pub async fn json_unique<T: DeserializeOwned>(request: Request, max_bytes: usize) -> ApiResult<T> {
    json_type(request.headers())?;
    let body = bytes(request, max_bytes).await?;
    let parsed = parse(&body)?;
    parse::<Unique>(&body)?;
    Ok(parsed)
}

/// Refuses a body that says it is something else than JSON.
pub fn json_type(headers: &HeaderMap) -> ApiResult<()> {
    if let Some(coding) = headers.get(header::CONTENT_ENCODING)
        && !coding.as_bytes().eq_ignore_ascii_case(b"identity")
    {
        return Err(unsupported("Content-Encoding", "the body is encoded; send JSON as it is".into()));
    }
    let Some(given) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let essence =
        given.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json")) {
        return Ok(());
    }
    let message = format!("the body is {essence:?}; send JSON with content-type application/json");
    Err(unsupported("Content-Type", message))
}

fn unsupported(header: &str, message: String) -> ApiError {
    ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message).with("field", header)
}

/// Reads JSON: 400 for what is none, 422 for what is not what the call takes.
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> ApiResult<T> {
    let invalid = |message: String| {
        ApiError::new(StatusCode::BAD_REQUEST, "invalid_json", message).with("field", "body")
    };
    if body.is_empty() {
        return Err(invalid("the body is empty; send a JSON object".into()));
    }
    if check_depth(body).is_err() {
        return Err(invalid(format!("the body is nested more than {MAX_DEPTH} deep")));
    }
    // Else an array would be read as an object's members in their order.
    if body.trim_ascii_start().starts_with(b"[") && serde_json::from_slice::<IgnoredAny>(body).is_ok() {
        return Err(ApiError::field("body", "the body is a JSON array; send a JSON object"));
    }
    let mut reader = serde_json::Deserializer::from_slice(body);
    let parsed: T =
        serde_path_to_error::deserialize(&mut reader).map_err(|error| match error.inner().classify() {
            Category::Data => {
                let message = error.inner().to_string();
                let field = field_at(&error.path().to_string(), &message);
                let message = if message.contains(&field) { message } else { format!("{field}: {message}") };
                ApiError::field(field, message)
            }
            Category::Io | Category::Syntax | Category::Eof => {
                invalid(format!("the body is no JSON: {}", error.inner()))
            }
        })?;
    reader.end().map_err(|error| invalid(format!("the body goes on behind its JSON: {error}")))?;
    Ok(parsed)
}

/// Which field it is about. A field that is unknown, missing or doubled is in the message; the path then leads to
/// the object that it belongs to, or as far as the field itself.
fn field_at(path: &str, message: &str) -> String {
    let named = ["unknown field `", "missing field `", "duplicate field `"]
        .iter()
        .find_map(|said| message.strip_prefix(said)?.split_once('`'))
        .map(|(field, _)| field);
    match (path, named) {
        (".", None) => "body".to_owned(),
        (".", Some(field)) => field.to_owned(),
        (path, Some(field)) if path != field && !path.ends_with(&format!(".{field}")) => {
            format!("{path}.{field}")
        }
        (path, _) => path.to_owned(),
    }
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
        assert_eq!(refused(b""), (400, field("body")));
        assert_eq!(refused(b"not json"), (400, field("body")));
        assert_eq!(refused(b"{\"name\":\"\xff\"}"), (400, field("body")));
        assert_eq!(refused(b"{\"name\":\"a\"} x"), (400, field("body")));
        assert_eq!(refused("[".repeat(10_000).as_bytes()), (400, field("body")));
        assert_eq!(refused(b"{}"), (422, field("name")));
        assert_eq!(refused(b"[]"), (422, field("body")));
        assert_eq!(refused(b" [\"a\", null]"), (422, field("body")));
        assert_eq!(refused(b"7"), (422, field("body")));
        assert_eq!(refused(b"{\"name\":1}"), (422, field("name")));
        assert_eq!(refused(b"{\"name\":\"a\",\"inner\":{\"count\":-1}}"), (422, field("inner.count")));
        assert_eq!(refused(b"{\"name\":\"a\",\"shape\":1}"), (422, field("shape")));
        assert_eq!(refused(b"{\"name\":\"a\",\"name\":1}"), (422, field("name")));
        assert_eq!(refused(b"{\"name\":\"a\",\"inner\":{}}"), (422, field("inner.count")));
        assert_eq!(refused(b"{\"name\":\"a\",\"inner\":{\"x\":1}}"), (422, field("inner.x")));
        assert_eq!(
            refused(b"{\"name\":\"a\",\"inner\":{\"count\":1,\"count\":1}}"),
            (422, field("inner.count"))
        );
        assert!(parse::<Thing>(b"{\"name\":\"a\",\"inner\":{\"count\":1}}").is_ok());
    }
}
