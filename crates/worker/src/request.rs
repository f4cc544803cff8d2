//! A delivery as an HTTP request: the body in the subscription's format, signed as Standard Webhooks asks.

use http::{HeaderMap, HeaderName, HeaderValue, header::AsHeaderName};
use postroad_model::{
    message::Message,
    message_delivery,
    signature::{live, sign},
    time::Time,
    trace_context::TraceParent,
};
use reqwest::{Body, Method, Request, Url};

use crate::targets::Target;

const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
const GENERATION: HeaderName = HeaderName::from_static("postroad-generation");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Builds the request of one attempt. `attempt` counts from 1, `now_ms` is the worker's clock, `span` a
/// random number that names this attempt in the message's trace.
pub fn build(target: &Target, url: &Url, message: &Message, attempt: u32, now_ms: u64, span: u64) -> Request {
    let mut body = Vec::new();
    message_delivery::write(&mut body, &target.subscription, message, attempt, now_ms);
    let mut request = Request::new(Method::POST, url.clone());
    let headers = request.headers_mut();
    headers.clone_from(&target.headers);
    let seconds = now_ms / 1_000;
    let keys = live(&target.subscription.secrets, Time::from_millis(now_ms));
    set(headers, WEBHOOK_SIGNATURE, sign(keys, message.id.as_str(), seconds, &body));
    set(headers, WEBHOOK_ID, message.id.to_string());
    set(headers, WEBHOOK_TIMESTAMP, seconds.to_string());
    set(headers, GENERATION, message.generation.to_string());
    let trace = message.trace.unwrap_or_else(|| TraceParent::of_message(&message.id));
    set(headers, TRACEPARENT, TraceParent { parent_id: span.max(1), ..trace }.to_string());
    *request.body_mut() = Some(Body::from(body));
    request
}

fn set(headers: &mut HeaderMap, name: impl AsHeaderName + http::header::IntoHeaderName, value: String) {
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}
