//! What a receiver answers to one request.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

/// An answer, good or bad.
#[derive(Debug, Clone)]
pub struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) delay: Duration,
    pub(super) manner: Manner,
}

/// How the answer is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Manner {
    Whole,
    Hang,
    Close,
    Raw,
    ResetAfterHeaders,
    EndlessBody,
    SlowBody { bytes_per_second: u32 },
    SlowHead { bytes_per_second: u32 },
    HugeHeaders { bytes: usize },
}

impl Answer {
    /// 200 without a body.
    pub fn ok() -> Self {
        Self::status(200)
    }

    /// A status without a body. 1xx, and anything that is no status, become 500.
    pub fn status(status: u16) -> Self {
        let status = StatusCode::from_u16(status).ok().filter(|status| !status.is_informational());
        Self {
            status: status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            delay: Duration::ZERO,
            manner: Manner::Whole,
        }
    }

    /// Nothing, ever; the connection stays open until the client closes it.
    pub fn hang() -> Self {
        Self::ok().given(Manner::Hang)
    }

    /// Closes the connection without a byte of an answer.
    pub fn close_without_answer() -> Self {
        Self::ok().given(Manner::Close)
    }

    /// These bytes instead of an HTTP answer, then the end of the connection.
    pub fn raw(bytes: impl Into<Bytes>) -> Self {
        Self::ok().body(bytes).given(Manner::Raw)
    }

    /// Adds a header.
    ///
    /// # Panics
    /// If name or value can't stand in a header: [`Answer::raw`] sends such things.
    #[track_caller]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("the name of a header");
        self.headers.append(name, HeaderValue::from_str(value).expect("the value of a header"));
        self
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Sets a JSON body and its content type.
    pub fn json(self, body: &serde_json::Value) -> Self {
        self.header("content-type", "application/json").body(body.to_string())
    }

    /// Answers only after this time.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Status and headers at once, then a body without end, as fast as the client reads.
    pub fn endless_body(self) -> Self {
        self.given(Manner::EndlessBody)
    }

    /// Status and headers at once, then a body without end at this rate.
    pub fn slow_body(self, bytes_per_second: u32) -> Self {
        self.given(Manner::SlowBody { bytes_per_second: bytes_per_second.max(1) })
    }

    /// The whole answer at this rate, from the first byte of the status line.
    pub fn slow_head(self, bytes_per_second: u32) -> Self {
        self.given(Manner::SlowHead { bytes_per_second: bytes_per_second.max(1) })
    }

    /// Headers of this size in all, in lines of about 8 kB, before an empty body.
    pub fn huge_headers(self, bytes: usize) -> Self {
        self.given(Manner::HugeHeaders { bytes })
    }

    /// Status and headers, which promise a body, and then a reset of the connection.
    pub fn reset_after_headers(self) -> Self {
        self.given(Manner::ResetAfterHeaders)
    }

    fn given(mut self, manner: Manner) -> Self {
        self.manner = manner;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_impossible_status_becomes_500() {
        for status in [0, 99, 100, 199, 1000] {
            assert_eq!(Answer::status(status).status, 500, "{status}");
        }
        assert_eq!(Answer::status(410).status, 410);
        assert_eq!(Answer::status(999).status, 999);
    }

    #[test]
    fn json_has_its_type() {
        let answer = Answer::status(207).json(&serde_json::json!({"failed": []}));
        assert_eq!(answer.headers["content-type"], "application/json");
        assert_eq!(answer.body, r#"{"failed":[]}"#);
    }
}
