//! `/v1/messages` and `/v1/channels/{name}/messages`.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use postroad_api::{
    body,
    caller::Caller,
    error::{ApiError, ApiResult},
    path::Named,
};
use postroad_model::{
    id::{Kind, MessageId},
    json_scan::check_depth,
    message::{Message, Payload, PayloadKind},
    names::{MAX_NAME_BYTES, ServiceName},
    time::{Time, millis},
};
use postroad_store::{
    Accepted, Found, StoreError,
    trace::{Lies, Line, Trace},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};

use crate::{
    App,
    publish::{
        Checked, Circumstances, Draft, MetadataRequest, PublishMessageRequest, PublishMessageResponse, check,
    },
};

/// The most messages and bytes of one bulk call.
const MAX_BULK: usize = 1_000;
const MAX_BULK_BYTES: usize = 8 << 20;

/// What the call says besides the message.
fn circumstances(app: &App, headers: &HeaderMap) -> ApiResult<Circumstances> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().map(str::to_owned));
    let idempotency_key = text("idempotency-key")
        .transpose()
        .map_err(|_| ApiError::field("Idempotency-Key", "Idempotency-Key must be visible ASCII"))?;
    if idempotency_key.as_ref().is_some_and(|key| key.is_empty() || key.len() > 255) {
        return Err(ApiError::field("Idempotency-Key", "Idempotency-Key must be 1 to 255 bytes long"));
    }
    // What is no traceparent begins a new trace, as the specification asks.
    let trace = text("traceparent").and_then(Result::ok).and_then(|text| text.parse().ok());
    Ok(Circumstances { idempotency_key, trace, now_ms: app.clock.now_ms() })
}

/// The body of a single message: its payload may be base64, and there is room for its metadata.
fn max_body(app: &App) -> usize {
    app.config.max_message_bytes * 2 + (64 << 10)
}

/// `POST /v1/messages`
pub async fn publish(State(app): State<Arc<App>>, request: Request) -> ApiResult<Response> {
    let caller = app.caller();
    let circumstances = circumstances(&app, request.headers())?;
    let wanted: PublishMessageRequest = counted(&app, body::json(request, max_body(&app)).await)?;
    let checked = counted(&app, check(wanted, &caller, &circumstances, app.limits()))?;
    respond(publish_one(&app, checked).await?)
}

/// `POST /v1/channels/{name}/messages`
pub async fn publish_raw(
    State(app): State<Arc<App>>,
    Named(name): Named,
    request: Request,
) -> ApiResult<Response> {
    let caller = app.caller();
    let circumstances = circumstances(&app, request.headers())?;
    let content_type = match request.headers().get(header::CONTENT_TYPE) {
        Some(value) => Some(
            value
                .to_str()
                .map_err(|_| ApiError::field("Content-Type", "Content-Type must be visible ASCII"))?
                .to_owned(),
        ),
        None => None,
    };
    if let Some(length) = content_type.as_ref().map(String::len).filter(|length| *length > MAX_NAME_BYTES) {
        let message = format!("Content-Type is {length} bytes long; at most {MAX_NAME_BYTES} are allowed");
        return Err(ApiError::field("Content-Type", message));
    }
    let codings: Vec<String> = request
        .headers()
        .get_all(header::CONTENT_ENCODING)
        .iter()
        .map(|coding| coding.to_str().unwrap_or("?").trim().to_ascii_lowercase())
        .collect();
    let body = counted(&app, body::bytes(request, app.config.max_message_bytes).await)?;
    let body = match codings.join(", ").as_str() {
        "" | "identity" => body,
        "gzip" => counted(&app, gunzip(&body, app.config.max_message_bytes))?,
        coding => {
            let message =
                format!("Content-Encoding {coding:?} is not understood; send the body as it is, or gzip");
            return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_encoding", message)
                .with("field", "Content-Encoding"));
        }
    };
    let payload = counted(&app, raw_payload(body, content_type.as_deref()))?;
    let draft = Draft {
        kind: Kind::Message,
        channel: name,
        metadata: MetadataRequest {
            content_type,
            content_encoding: (payload.kind == PayloadKind::Bytes).then(|| "base64".to_owned()),
            ..MetadataRequest::default()
        },
        payload,
        service_name: None,
        persistent: true,
        routing_key: None,
        ordering_key: None,
    };
    let checked = counted(&app, draft.check(&caller, &circumstances, app.limits()))?;
    respond(publish_one(&app, checked).await?)
}

/// The body itself is the payload. JSON that is no object becomes a string, like any other text.
fn raw_payload(body: Bytes, content_type: Option<&str>) -> ApiResult<Payload> {
    let essence =
        content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_json = essence == "application/json" || essence.ends_with("+json");
    if is_json {
        let invalid = |error: &dyn std::fmt::Display| {
            ApiError::new(StatusCode::BAD_REQUEST, "invalid_json", format!("the body is no JSON: {error}"))
                .with("field", "body")
        };
        check_depth(&body).map_err(|error| invalid(&error))?;
        let raw: &RawValue = serde_json::from_slice(&body).map_err(|error| invalid(&error))?;
        let text = raw.get();
        if text.starts_with('{') {
            return Ok(Payload { kind: PayloadKind::Json, body: Bytes::copy_from_slice(text.as_bytes()) });
        }
        let text = serde_json::from_str::<String>(text).unwrap_or_else(|_| text.to_owned());
        return Ok(Payload { kind: PayloadKind::Text, body: text.into() });
    }
    let is_text = essence.starts_with("text/") || essence.ends_with("xml") || essence.is_empty();
    let kind =
        if is_text && std::str::from_utf8(&body).is_ok() { PayloadKind::Text } else { PayloadKind::Bytes };
    Ok(Payload { kind, body })
}

/// Unpacks gzip, and stops where it grows beyond `max_bytes`.
fn gunzip(body: &[u8], max_bytes: usize) -> ApiResult<Bytes> {
    use std::io::Read;
    let mut out = Vec::new();
    let limit = u64::try_from(max_bytes).unwrap_or(u64::MAX).saturating_add(1);
    MultiGzDecoder::new(body).take(limit).read_to_end(&mut out).map_err(|error| {
        ApiError::new(StatusCode::BAD_REQUEST, "invalid_gzip", format!("the body is no gzip: {error}"))
            .with("field", "body")
    })?;
    if out.len() > max_bytes {
        let message = format!("the body unpacks to more than {max_bytes} bytes");
        return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "message_too_large", message)
            .with("field", "body")
            .with("max_bytes", max_bytes));
    }
    Ok(out.into())
}

async fn publish_one(app: &App, checked: Checked) -> ApiResult<PublishMessageResponse> {
    let acceptance = checked.acceptance(app.config.compress_above_bytes);
    let landed = app.gate.store(vec![(checked.partition, acceptance)]).await.pop();
    answer(app, &checked.message, checked.correlation_id, landed.unwrap_or_else(nothing_landed))
        .map_err(ApiError::from)
}

fn nothing_landed() -> Result<Accepted, StoreError> {
    Err(StoreError::Unavailable("no answer".into()))
}

/// 202 for what is stored now, 200 for what was stored before.
fn respond(response: PublishMessageResponse) -> ApiResult<Response> {
    let status = if response.duplicate { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(response)).into_response())
}

fn answer(
    app: &App,
    message: &Message,
    correlation_id: String,
    landed: Result<Accepted, StoreError>,
) -> Result<PublishMessageResponse, StoreError> {
    let mut response = PublishMessageResponse {
        success: true,
        message_id: message.id.to_string(),
        channel: message.channel.to_string(),
        timestamp: Time::default(),
        correlation_id,
        error: None,
        error_code: None,
        status_code: None,
        duplicate: false,
        deliver_at: None,
    };
    match landed {
        Ok(Accepted::Stored { accepted_ms, .. }) => {
            app.metrics.accepted.inc();
            response.timestamp = Time::from_millis(accepted_ms);
        }
        Ok(Accepted::Delayed { due_ms, accepted_ms }) => {
            app.metrics.accepted.inc();
            response.timestamp = Time::from_millis(accepted_ms);
            response.deliver_at = Some(Time::from_millis(due_ms));
        }
        Ok(Accepted::Duplicate { accepted_ms, first, due_ms, .. }) => {
            app.metrics.duplicates.inc();
            response.timestamp = Time::from_millis(accepted_ms);
            response.duplicate = true;
            response.deliver_at = due_ms.map(Time::from_millis);
            // The first one's result, as far as the history still has it.
            if let Some(first) = first {
                response.channel = first.channel.to_string();
                response.correlation_id = first.metadata.correlation_id.unwrap_or_default();
            }
        }
        Ok(Accepted::NoRoom) | Err(StoreError::TooManyDelayed) => {
            app.metrics.refused.inc();
            return Err(StoreError::TooManyDelayed);
        }
        Err(error) => {
            app.metrics.unavailable.inc();
            return Err(error);
        }
    }
    Ok(response)
}

/// Counts a refusal.
fn counted<T>(app: &App, result: ApiResult<T>) -> ApiResult<T> {
    if result.is_err() {
        app.metrics.refused.inc();
    }
    result
}

/// `BulkPublishRequest`. The messages are read one by one, so that one that is wrong does not spoil the rest.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BulkPublishRequest {
    messages: Vec<Box<RawValue>>,
    #[serde(default)]
    service_name: Option<String>,
    #[serde(default)]
    fail_on_error: bool,
}

/// `BulkPublishResponse`.
#[derive(Debug, Serialize)]
struct BulkPublishResponse {
    success: bool,
    published_count: usize,
    failed_count: usize,
    results: Vec<PublishMessageResponse>,
}

/// `POST /v1/messages/bulk`
pub async fn publish_bulk(State(app): State<Arc<App>>, request: Request) -> ApiResult<Response> {
    let caller = app.caller();
    let mut circumstances = circumstances(&app, request.headers())?;
    let key = circumstances.idempotency_key.take();
    let bulk: BulkPublishRequest = counted(&app, body::json(request, MAX_BULK_BYTES).await)?;
    if bulk.messages.is_empty() || bulk.messages.len() > MAX_BULK {
        let message = format!("{} messages; 1 to {MAX_BULK} are allowed", bulk.messages.len());
        return counted(&app, Err(ApiError::field("messages", message)));
    }
    if let Some(name) = &bulk.service_name {
        counted(&app, ServiceName::new(name).map_err(ApiError::from))?;
    }
    let mut checks = Vec::with_capacity(bulk.messages.len());
    for (index, raw) in bulk.messages.iter().enumerate() {
        let mut circumstances = circumstances.clone();
        circumstances.idempotency_key = key.as_ref().map(|key| format!("{key}/{index}"));
        let checked = body::parse::<PublishMessageRequest>(raw.get().as_bytes()).and_then(|mut wanted| {
            wanted.service_name = wanted.service_name.or_else(|| bulk.service_name.clone());
            check(wanted, &caller, &circumstances, app.limits())
        });
        match counted(&app, checked) {
            Err(error) if bulk.fail_on_error => {
                let mut error = error.at(index);
                error.status = StatusCode::UNPROCESSABLE_ENTITY;
                error.message = format!("message {index}: {}; nothing was published", error.message);
                return Err(error);
            }
            Err(error) => checks.push(Err(refused(raw, &error, app.clock.now_ms()))),
            Ok(checked) => checks.push(Ok(checked)),
        }
    }
    let (results, away) = land(&app, checks).await;
    let failed_count = results.iter().filter(|result| !result.success).count();
    let published_count = results.len() - failed_count;
    // Nothing is stored, and not for being wrong.
    if let (0, Some(error)) = (published_count, away) {
        return Err(error);
    }
    let status = if failed_count > 0 { StatusCode::MULTI_STATUS } else { StatusCode::ACCEPTED };
    let response = BulkPublishResponse { success: failed_count == 0, published_count, failed_count, results };
    Ok((status, Json(response)).into_response())
}

/// Publishes what is valid; one result for each, in order, and why some could not be stored, if so.
async fn land(
    app: &App,
    checks: Vec<Result<Checked, PublishMessageResponse>>,
) -> (Vec<PublishMessageResponse>, Option<ApiError>) {
    let flight: Vec<_> = checks
        .iter()
        .filter_map(|checked| checked.as_ref().ok())
        .map(|checked| (checked.partition, checked.acceptance(app.config.compress_above_bytes)))
        .collect();
    let mut landed = app.gate.store(flight).await.into_iter();
    let mut away = None;
    let results = checks
        .into_iter()
        .map(|checked| {
            let Checked { message, correlation_id, .. } = match checked {
                Ok(checked) => checked,
                Err(refused) => return refused,
            };
            let landed = landed.next().unwrap_or_else(nothing_landed);
            answer(app, &message, correlation_id, landed).unwrap_or_else(|error| {
                let error = ApiError::from(error);
                let (id, channel) = (message.id.to_string(), message.channel.to_string());
                let correlation_id = message.metadata.correlation_id.unwrap_or_default();
                let failed = failed(id, channel, correlation_id, &error, app.clock.now_ms());
                away = Some(error);
                failed
            })
        })
        .collect();
    (results, away)
}

/// The result of a message with something wrong, under the names that it came with.
fn refused(raw: &RawValue, error: &ApiError, now_ms: u64) -> PublishMessageResponse {
    let message: Value = serde_json::from_str(raw.get()).unwrap_or_default();
    let name = |pointer: &str| {
        let text = message.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        if text.len() > MAX_NAME_BYTES { String::new() } else { text.to_owned() }
    };
    let (id, correlation_id) = (name("/metadata/message_id"), name("/metadata/correlation_id"));
    failed(id, name("/channel"), correlation_id, error, now_ms)
}

fn failed(
    message_id: String,
    channel: String,
    correlation_id: String,
    error: &ApiError,
    now_ms: u64,
) -> PublishMessageResponse {
    PublishMessageResponse {
        success: false,
        message_id,
        channel,
        timestamp: Time::from_millis(now_ms),
        correlation_id,
        error: Some(error.message.clone()),
        error_code: Some(error.code),
        status_code: Some(error.status.as_u16()),
        duplicate: false,
        deliver_at: None,
    }
}

/// The message, or the 404.
pub(super) async fn find(app: &App, caller: &Caller, id: &str) -> ApiResult<(MessageId, Found)> {
    let unknown = || ApiError::not_found("message", id);
    let id = MessageId::new(id).map_err(|_| unknown())?;
    let window_ms = millis(app.config.retention);
    let mut found = app.store.find_message(&caller.tenant, &id, window_ms, app.clock.now_ms()).await?;
    found.sort_by_key(|found| found.accepted_ms);
    let newest = found.pop().ok_or_else(unknown)?;
    Ok((id, newest))
}

/// `GET /v1/messages/{id}`
pub async fn show(State(app): State<Arc<App>>, Named(id): Named) -> ApiResult<Json<Shown>> {
    let caller = app.caller();
    let (id, found) = find(&app, &caller, &id).await?;
    let deliveries = deliveries_of(&app, &found).await?;
    let status = overall(&found, &deliveries);
    let mut shown = Shown {
        about: json!({
            "message_id": id,
            "status": status,
            "published_at": (!found.is_cancelled()).then(|| Time::from_millis(found.accepted_ms)),
            "deliveries": deliveries.len(),
        }),
        payload: None,
    };
    if let Some(due_ms) = found.due_ms {
        shown.about["deliver_at"] = json!(Time::from_millis(due_ms));
    }
    if found.is_cancelled() {
        shown.about["cancelled_at"] = json!(Time::from_millis(found.accepted_ms));
    }
    if let Some(message) = &found.message {
        for (name, value) in [
            ("channel", json!(message.channel)),
            ("routing_key", json!(message.routing_key)),
            ("ordering_key", json!(message.ordering_key)),
            ("service_name", json!(message.service)),
            ("persistent", json!(message.persistent)),
            ("metadata", json!(message.metadata)),
        ] {
            shown.about[name] = value;
        }
        shown.payload = Some(payload_of(&message.payload)?);
    }
    Ok(Json(shown))
}

/// What is shown of a message.
#[derive(Debug, Serialize)]
pub struct Shown {
    #[serde(flatten)]
    about: Value,
    /// Byte for byte as it was published: what JSON's readers make of it is theirs.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<Box<RawValue>>,
}

fn payload_of(payload: &Payload) -> ApiResult<Box<RawValue>> {
    let text = match payload.kind {
        PayloadKind::Json => String::from_utf8_lossy(&payload.body).into_owned(),
        PayloadKind::Text => Value::from(String::from_utf8_lossy(&payload.body)).to_string(),
        PayloadKind::Bytes => Value::from(STANDARD.encode(&payload.body)).to_string(),
    };
    RawValue::from_string(text).map_err(|error| StoreError::Reply(format!("a payload: {error}")).into())
}

/// `GET /v1/messages/{id}/deliveries`
pub async fn deliveries(State(app): State<Arc<App>>, Named(id): Named) -> ApiResult<Json<Value>> {
    let caller = app.caller();
    let (id, found) = find(&app, &caller, &id).await?;
    let deliveries = deliveries_of(&app, &found).await?;
    Ok(Json(json!({ "message_id": id, "status": overall(&found, &deliveries), "deliveries": deliveries })))
}

/// A delivery's state, from the least finished to the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum DeliveryState {
    Queued,
    RetryScheduled,
    InFlight,
    AwaitingAck,
    Dead,
    Expired,
    Cancelled,
    Delivered,
}

/// One subscription's delivery, as people see it.
#[derive(Debug, Serialize)]
struct DeliveryView {
    subscription_id: String,
    state: DeliveryState,
    queued_at: Option<Time>,
    due_at: Option<Time>,
    dead_reason: Option<&'static str>,
    attempts: Vec<AttemptView>,
}

/// One attempt, as people see it.
#[derive(Debug, Serialize)]
struct AttemptView {
    attempt: u32,
    started_at: Time,
    duration_ms: u64,
    status_code: Option<u16>,
    error: Option<String>,
    response: Option<String>,
}

async fn deliveries_of(app: &App, found: &Found) -> ApiResult<Vec<DeliveryView>> {
    let mut deliveries = Vec::new();
    // What never came to ingress went to no lane.
    if found.due_ms.is_some() || found.is_cancelled() {
        return Ok(deliveries);
    }
    for trace in app.store.locate(found.partition, found.at).await? {
        let mut subscriptions: Vec<&str> = trace.lines.iter().map(Line::subscription).collect();
        subscriptions.sort_unstable();
        subscriptions.dedup();
        deliveries.extend(subscriptions.into_iter().map(|subscription| view(&trace, subscription)));
    }
    deliveries.sort_by(|a, b| a.subscription_id.cmp(&b.subscription_id));
    Ok(deliveries)
}

fn view(trace: &Trace, subscription: &str) -> DeliveryView {
    let lines = || trace.lines.iter().filter(|line| line.subscription() == subscription);
    let queued_at = lines().find_map(|line| match line {
        Line::Queued { at_ms, .. } => Some(Time::from_millis(*at_ms)),
        _ => None,
    });
    let attempts = lines()
        .filter_map(|line| match line {
            Line::Attempted { attempt, .. } => Some(AttemptView {
                attempt: attempt.number,
                started_at: attempt.started_at(),
                duration_ms: attempt.duration_ms,
                status_code: attempt.status,
                error: attempt.error.clone(),
                response: attempt.response.clone(),
            }),
            _ => None,
        })
        .collect();
    let dead_reason = trace.dead_reason(subscription);
    let lies = trace.located.iter().rev().find(|row| row.subscription == subscription).map(|row| &row.lies);
    let settled = lines().any(|line| matches!(line, Line::Attempted { place, .. } if place == "s"));
    let (state, due_ms) = match lies {
        Some(Lies::Waiting) => (DeliveryState::Queued, None),
        Some(Lies::InFlight(_)) => (DeliveryState::InFlight, None),
        Some(Lies::AwaitingAck(due)) => (DeliveryState::AwaitingAck, Some(*due)),
        Some(Lies::Scheduled(due)) => (DeliveryState::RetryScheduled, Some(*due)),
        Some(Lies::Gone) | None => match dead_reason {
            Some(postroad_model::delivery::DeadReason::Expired) => (DeliveryState::Expired, None),
            Some(_) => (DeliveryState::Dead, None),
            None if settled => (DeliveryState::Delivered, None),
            None => (DeliveryState::Cancelled, None),
        },
    };
    DeliveryView {
        subscription_id: subscription.to_owned(),
        state,
        queued_at,
        due_at: due_ms.filter(|due| *due > 0).map(Time::from_millis),
        dead_reason: dead_reason.map(postroad_model::delivery::DeadReason::as_str),
        attempts,
    }
}

/// The least finished delivery's state speaks for the message.
fn overall(found: &Found, deliveries: &[DeliveryView]) -> Value {
    match deliveries.iter().map(|delivery| delivery.state).min() {
        Some(state) => json!(state),
        None if found.due_ms.is_some() => json!("scheduled"),
        None if found.is_cancelled() => json!("cancelled"),
        None if found.routed => json!("unroutable"),
        None => json!("accepted"),
    }
}
