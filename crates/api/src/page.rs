//! Pages: a bounded number of things, and an opaque cursor to the rest.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::error::{ApiError, ApiResult};

/// How many things a page has by default.
pub const DEFAULT_LIMIT: usize = 50;
/// How many it may have.
pub const MAX_LIMIT: usize = 500;

/// Checks `limit`.
pub fn limit(asked: Option<usize>) -> ApiResult<usize> {
    match asked {
        None => Ok(DEFAULT_LIMIT),
        Some(limit @ 1..=MAX_LIMIT) => Ok(limit),
        Some(limit) => Err(ApiError::field("limit", format!("limit = {limit} must be 1 to {MAX_LIMIT}"))),
    }
}

/// A cursor that leads on behind a position. Positions are names inside a tenant; nothing else can be
/// reached with them.
pub fn cursor(position: &str) -> String {
    URL_SAFE_NO_PAD.encode(position)
}

/// The position that a cursor stands for.
pub fn position(cursor: Option<&str>) -> ApiResult<Option<String>> {
    let Some(cursor) = cursor else { return Ok(None) };
    URL_SAFE_NO_PAD
        .decode(cursor)
        .ok()
        .filter(|bytes| !bytes.is_empty())
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .map(Some)
        .ok_or_else(strange_cursor)
}

/// The refusal of a cursor that leads nowhere.
pub fn strange_cursor() -> ApiError {
    ApiError::field("cursor", "cursor is none that this server gave; begin without one")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_read_back_and_junk_is_refused() {
        assert_eq!(position(Some(&cursor("sub_1"))).unwrap().as_deref(), Some("sub_1"));
        assert_eq!(position(None).unwrap(), None);
        assert!(position(Some("!!")).is_err() && position(Some("")).is_err());
        assert!(limit(Some(0)).is_err() && limit(Some(501)).is_err());
        assert_eq!(limit(None).unwrap(), 50);
    }
}
