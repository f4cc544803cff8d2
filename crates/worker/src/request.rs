//! A delivery as an HTTP request: the body in the subscription's format, signed as Standard Webhooks asks.
//!
//! A format says what the body is, of which type, and which headers belong to it. Everything else is the same in
//! all of them, and stands here. Signed are the bytes that are sent.

pub mod batch;
mod cloud_event;
mod native;
mod raw;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{AsHeaderName, CONTENT_TYPE, IntoHeaderName},
};
use postroad_model::{
    message::Message,
    signature::{live, sign},
    subscription::Format,
    time::Time,
    trace_context::TraceParent,
};
use reqwest::{Body, Method, Request, Url};

use crate::targets::Target;

const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
const GENERATION: HeaderName = HeaderName::from_static("postroad-generation");
const TEST: HeaderName = HeaderName::from_static("postroad-test");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// A delivery that is about to be sent.
#[derive(Debug, Clone, Copy)]
pub struct Sending<'a> {
    /// The message.
    pub message: &'a Message,
    /// The number of this attempt, from 1.
    pub attempt: u32,
}

/// What a format makes of deliveries.
struct Content {
    content_type: Option<HeaderValue>,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
}

impl Content {
    fn json(content_type: &'static str, body: Vec<u8>) -> Self {
        let content_type = Some(HeaderValue::from_static(content_type));
        Self { content_type, headers: Vec::new(), body: body.into() }
    }
}

/// What the headers say of what is sent.
struct About<'a> {
    webhook_id: &'a str,
    generation: u32,
    is_test: bool,
    trace: TraceParent,
}

/// Builds the request of one attempt. `now_ms` is the worker's clock, `span` a random number that names this
/// attempt in the message's trace.
pub fn build(target: &Target, url: &Url, sending: Sending<'_>, now_ms: u64, span: u64) -> Request {
    let message = sending.message;
    let content = match target.subscription.format {
        Format::Native => Content::json(native::ONE, native::delivery(target, sending, now_ms)),
        Format::Cloudevents => Content::json(cloud_event::ONE, cloud_event::structured(sending)),
        Format::CloudeventsBinary => cloud_event::binary(sending),
        Format::Raw => raw::content(message),
    };
    let about = About {
        webhook_id: message.id.as_str(),
        generation: message.generation,
        is_test: message.test,
        trace: trace_of(message),
    };
    request(target, url, &about, content, now_ms, span)
}

/// The publisher's trace, or the message's own.
fn trace_of(message: &Message) -> TraceParent {
    message.trace.unwrap_or_else(|| TraceParent::of_message(&message.id))
}

fn request(
    target: &Target,
    url: &Url,
    about: &About<'_>,
    content: Content,
    now_ms: u64,
    span: u64,
) -> Request {
    let mut request = Request::new(Method::POST, url.clone());
    let headers = request.headers_mut();
    headers.clone_from(&target.headers);
    match content.content_type {
        Some(content_type) => headers.insert(CONTENT_TYPE, content_type),
        None => headers.remove(CONTENT_TYPE),
    };
    headers.extend(content.headers);
    let seconds = now_ms / 1_000;
    let keys = live(&target.subscription.secrets, Time::from_millis(now_ms));
    set(headers, WEBHOOK_SIGNATURE, sign(keys, about.webhook_id, seconds, &content.body));
    set(headers, WEBHOOK_ID, about.webhook_id.to_owned());
    set(headers, WEBHOOK_TIMESTAMP, seconds.to_string());
    set(headers, GENERATION, about.generation.to_string());
    if about.is_test {
        headers.insert(TEST, HeaderValue::from_static("true"));
    }
    set(headers, TRACEPARENT, TraceParent { parent_id: span.max(1), ..about.trace }.to_string());
    *request.body_mut() = Some(Body::from(content.body));
    request
}

fn set(headers: &mut HeaderMap, name: impl AsHeaderName + IntoHeaderName, value: String) {
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}

/// A media type as a header; one that cannot stand there is just bytes.
fn content_type(media_type: String) -> HeaderValue {
    const BYTES: HeaderValue = HeaderValue::from_static("application/octet-stream");
    if media_type.is_ascii() { HeaderValue::try_from(media_type).unwrap_or(BYTES) } else { BYTES }
}

#[cfg(test)]
mod tests;
