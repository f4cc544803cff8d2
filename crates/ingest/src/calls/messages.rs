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
    openapi::{Always, ByName, Publishes, WithBody},
    path::Named,
};
use postroad_model::{
    figures::Count,
    id::{Kind, MessageId},
    json_scan::check_depth,
    message::{Message, Metadata, Payload, PayloadKind},
    names::{ChannelName, MAX_NAME_BYTES, ServiceName},
    openapi::MessagePayload,
    time::{Time, millis},
};
use postroad_store::{Accepted, Found, StoreError};
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};
use utoipa::ToSchema;

use crate::{
    App,
    deliveries::{Delivery, Status, deliveries_of, overall},
    openapi::{
        params::{ChannelPath, MessagePath, PublishHeaders},
        schemas::{BulkMessage, ContentIfKept},
    },
    publish::{
        Checked, Circumstances, Draft, MetadataRequest, PublishMessageRequest, PublishMessageResponse, check,
    },
};

/// The most messages and bytes of one bulk call.
pub(super) const MAX_BULK: usize = 1_000;
pub(super) const MAX_BULK_BYTES: usize = 8 << 20;

/// What the call says besides the message.
pub(crate) fn circumstances(app: &App, headers: &HeaderMap) -> ApiResult<Circumstances> {
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
pub(crate) fn max_body(app: &App) -> usize {
    app.config.max_message_bytes * 2 + (64 << 10)
}

/// Publishes a message.
///
/// Answered once Redis holds it; then every subscription that matches it gets it at least once. With
/// `metadata.message_id` or an `Idempotency-Key` publishing is idempotent for as long as ids are remembered.
#[utoipa::path(
    post,
    path = "/v1/messages",
    operation_id = "publish_message",
    tag = "messages",
    params(PublishHeaders),
    request_body = PublishMessageRequest,
    responses(
        (
            status = 200,
            description = "The id was there before; this is the first result, and nothing is delivered.",
            body = PublishMessageResponse,
        ),
        (status = 202, description = "It is stored.", body = PublishMessageResponse),
        Publishes,
        WithBody,
        Always,
    ),
)]
pub async fn publish(State(app): State<Arc<App>>, request: Request) -> ApiResult<Response> {
    let caller = app.caller();
    let circumstances = circumstances(&app, request.headers())?;
    let wanted: PublishMessageRequest =
        counted(&app, &caller, None, body::json(request, max_body(&app)).await)?;
    let channel = wanted.channel.clone();
    let checked = check(wanted, &caller, &circumstances, app.limits());
    let checked = counted(&app, &caller, Some(&channel), checked)?;
    respond(publish_one(&app, checked).await?)
}

/// Publishes a body as it is.
///
/// The body is the payload, and its `Content-Type` is kept. A JSON object stays one; other JSON and text become
/// a string, anything else bytes. `Content-Encoding: gzip` is unpacked.
#[utoipa::path(
    post,
    path = "/v1/channels/{name}/messages",
    operation_id = "publish_raw_message",
    tag = "messages",
    params(ChannelPath, PublishHeaders),
    request_body(description = "The payload.", content(
        (Value = "application/json", example = json!({ "ref": "refs/heads/main", "after": "0d1a26e" })),
        (String = "text/plain", example = json!("deployed")),
        (Vec<u8> = "application/octet-stream"),
    )),
    responses(
        (
            status = 200,
            description = "The id was there before; this is the first result, and nothing is delivered.",
            body = PublishMessageResponse,
        ),
        (status = 202, description = "It is stored.", body = PublishMessageResponse),
        Publishes,
        WithBody,
        Always,
    ),
)]
pub async fn publish_raw(
    State(app): State<Arc<App>>,
    Named(name): Named,
    request: Request,
) -> ApiResult<Response> {
    let caller = app.caller();
    let channel = Some(name.as_str());
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
    let body = counted(&app, &caller, channel, body::bytes(request, app.config.max_message_bytes).await)?;
    let body = match codings.join(", ").as_str() {
        "" | "identity" => body,
        "gzip" => counted(&app, &caller, channel, gunzip(&body, app.config.max_message_bytes))?,
        coding => {
            let message =
                format!("Content-Encoding {coding:?} is not understood; send the body as it is, or gzip");
            return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_encoding", message)
                .with("field", "Content-Encoding"));
        }
    };
    let payload = counted(&app, &caller, channel, raw_payload(body, content_type.as_deref()))?;
    let draft = Draft {
        kind: Kind::Message,
        channel: name.clone(),
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
    let checked = counted(&app, &caller, channel, draft.check(&caller, &circumstances, app.limits()))?;
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
pub(super) fn gunzip(body: &[u8], max_bytes: usize) -> ApiResult<Bytes> {
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

pub(crate) async fn publish_one(app: &App, checked: Checked) -> ApiResult<PublishMessageResponse> {
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
            let is_ours = !matches!(error, StoreError::ChannelFull { .. });
            if is_ours { &app.metrics.unavailable } else { &app.metrics.refused }.inc();
            return Err(error);
        }
    }
    Ok(response)
}

/// Counts a refusal, on its channel where that is known.
pub(crate) fn counted<T>(
    app: &App,
    caller: &Caller,
    channel: Option<&str>,
    result: ApiResult<T>,
) -> ApiResult<T> {
    let Err(error) = &result else { return result };
    if error.status.is_server_error() {
        app.metrics.unavailable.inc();
    } else {
        app.metrics.refused.inc();
    }
    let channel = channel.and_then(|name| ChannelName::new(name).ok());
    app.tally.on(&caller.tenant, channel.as_ref(), |figures| figures.add(Count::PublishErrors, 1));
    result
}

/// `BulkPublishRequest`. The messages are read one by one, so that one that is wrong does not spoil the rest.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
        "messages": [
            { "channel": "github.push", "payload": { "ref": "refs/heads/main" } },
            { "channel": "github.issues", "payload": { "action": "opened", "issue": { "number": 7 } } },
        ],
        "service_name": "github",
        "fail_on_error": true,
    }))]
pub struct BulkPublishRequest {
    #[schema(value_type = Vec<BulkMessage>, min_items = 1, max_items = 1_000)]
    messages: Vec<Box<RawValue>>,
    #[serde(default)]
    #[schema(min_length = 1, max_length = 255)]
    service_name: Option<String>,
    #[serde(default)]
    fail_on_error: bool,
}

/// `BulkPublishResponse`.
#[derive(Debug, Serialize, ToSchema)]
pub struct BulkPublishResponse {
    /// Whether all are stored.
    pub success: bool,
    /// How many are.
    pub published_count: usize,
    /// How many are not.
    pub failed_count: usize,
    /// One for each, in order.
    pub results: Vec<PublishMessageResponse>,
}

/// Publishes up to 1,000 messages, 8 MiB in all.
///
/// The results are in the order of the messages. With `fail_on_error: true` one message with something wrong and
/// nothing is published; with `false` the others are. An `Idempotency-Key` stands for each message's own, by its
/// place.
#[utoipa::path(
    post,
    path = "/v1/messages/bulk",
    operation_id = "publish_messages",
    tag = "messages",
    params(PublishHeaders),
    request_body = BulkPublishRequest,
    responses(
        (status = 202, description = "All are stored.", body = BulkPublishResponse),
        (
            status = 207,
            description = "Some are not stored: their rows say why. Those with `status_code` 503 may be \
                repeated with the same ids.",
            body = BulkPublishResponse,
        ),
        Publishes,
        WithBody,
        Always,
    ),
)]
pub async fn publish_bulk(State(app): State<Arc<App>>, request: Request) -> ApiResult<Response> {
    let caller = app.caller();
    let mut circumstances = circumstances(&app, request.headers())?;
    let key = circumstances.idempotency_key.take();
    let bulk: BulkPublishRequest = counted(&app, &caller, None, body::json(request, MAX_BULK_BYTES).await)?;
    if bulk.messages.is_empty() || bulk.messages.len() > MAX_BULK {
        let message = format!("{} messages; 1 to {MAX_BULK} are allowed", bulk.messages.len());
        return counted(&app, &caller, None, Err(ApiError::field("messages", message)));
    }
    if let Some(name) = &bulk.service_name {
        counted(&app, &caller, None, ServiceName::new(name).map_err(ApiError::from))?;
    }
    let mut checks = Vec::with_capacity(bulk.messages.len());
    for (index, raw) in bulk.messages.iter().enumerate() {
        let mut circumstances = circumstances.clone();
        circumstances.idempotency_key = key.as_ref().map(|key| format!("{key}/{index}"));
        let mut channel = None;
        let checked = body::parse::<PublishMessageRequest>(raw.get().as_bytes()).and_then(|mut wanted| {
            channel = Some(wanted.channel.clone());
            wanted.service_name = wanted.service_name.or_else(|| bulk.service_name.clone());
            check(wanted, &caller, &circumstances, app.limits())
        });
        match counted(&app, &caller, channel.as_deref(), checked) {
            // Nothing is known of channels yet: that is no fault of this one.
            Err(error) if error.status.is_server_error() => return Err(error),
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
    if bulk.fail_on_error {
        for (index, checked) in checks.iter().flatten().enumerate() {
            app.gate.admit(&checked.channel()).await.map_err(|error| ApiError::from(error).at(index))?;
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
pub(super) async fn land(
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
pub(crate) async fn find(app: &App, caller: &Caller, id: &str) -> ApiResult<(MessageId, Found)> {
    let unknown = || ApiError::not_found("message", id);
    let id = MessageId::new(id).map_err(|_| unknown())?;
    let window_ms = millis(app.config.retention);
    let mut found = app.store.find_message(&caller.tenant, &id, window_ms, app.clock.now_ms()).await?;
    found.sort_by_key(|found| found.accepted_ms);
    let newest = found.pop().ok_or_else(unknown)?;
    Ok((id, newest))
}

/// Shows a message and its status.
///
/// The content is there for as long as history is kept, the status for as long as ids are remembered.
#[utoipa::path(
    get,
    path = "/v1/messages/{id}",
    operation_id = "show_message",
    tag = "messages",
    params(MessagePath),
    responses(
        (status = 200, description = "The message.", body = MessageView),
        ByName,
        Always,
    ),
)]
pub async fn show(State(app): State<Arc<App>>, Named(id): Named) -> ApiResult<Json<MessageView>> {
    let caller = app.caller();
    let (id, found) = find(&app, &caller, &id).await?;
    let deliveries = deliveries_of(&app, &found).await?;
    let accepted_at = Time::from_millis(found.accepted_ms);
    let message = found.message.as_ref();
    Ok(Json(MessageView {
        message_id: id.to_string(),
        status: overall(&found, &deliveries),
        published_at: (!found.is_cancelled()).then_some(accepted_at),
        deliver_at: found.due_ms.map(Time::from_millis),
        cancelled_at: found.is_cancelled().then_some(accepted_at),
        deliveries: deliveries.len(),
        content: message.map(Content::of).transpose()?,
    }))
}

/// A message and its status.
#[derive(Debug, Serialize, ToSchema)]
pub struct MessageView {
    /// Its id.
    pub message_id: String,
    /// The least finished of its deliveries' states.
    pub status: Status,
    /// When it was accepted; null where it was cancelled.
    pub published_at: Option<Time>,
    /// When it is due, while it waits for that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deliver_at: Option<Time>,
    /// When it was cancelled, if it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cancelled_at: Option<Time>,
    /// How many deliveries there are of it.
    pub deliveries: usize,
    /// The message itself; not there where the history has let it go.
    #[serde(flatten)]
    #[schema(value_type = ContentIfKept)]
    pub content: Option<Content>,
}

/// A message as it was published.
#[derive(Debug, Serialize, ToSchema)]
pub struct Content {
    /// Its channel.
    pub channel: String,
    /// Its routing key.
    pub routing_key: Option<String>,
    /// The key whose messages keep their order.
    pub ordering_key: Option<String>,
    /// Who published it.
    pub service_name: String,
    /// Whether a history is kept.
    pub persistent: bool,
    /// What subscribers see besides.
    pub metadata: Metadata,
    /// Byte for byte as it was published: what JSON's readers make of it is theirs. Bytes are base64.
    #[schema(value_type = MessagePayload)]
    pub payload: Box<RawValue>,
}

impl Content {
    fn of(message: &Message) -> ApiResult<Self> {
        Ok(Self {
            channel: message.channel.to_string(),
            routing_key: message.routing_key.as_ref().map(ToString::to_string),
            ordering_key: message.ordering_key.as_ref().map(ToString::to_string),
            service_name: message.service.to_string(),
            persistent: message.persistent,
            metadata: message.metadata.clone(),
            payload: payload_of(&message.payload)?,
        })
    }
}

pub(crate) fn payload_of(payload: &Payload) -> ApiResult<Box<RawValue>> {
    let text = match payload.kind {
        PayloadKind::Json => String::from_utf8_lossy(&payload.body).into_owned(),
        PayloadKind::Text => Value::from(String::from_utf8_lossy(&payload.body)).to_string(),
        PayloadKind::Bytes => Value::from(STANDARD.encode(&payload.body)).to_string(),
    };
    RawValue::from_string(text).map_err(|error| StoreError::Reply(format!("a payload: {error}")).into())
}

/// A message's deliveries.
#[derive(Debug, Serialize, ToSchema)]
pub struct Deliveries {
    /// The message.
    pub message_id: String,
    /// The least finished of their states.
    pub status: Status,
    /// One for each subscription.
    pub deliveries: Vec<Delivery>,
}

/// Shows every subscription's delivery of a message, with each attempt.
#[utoipa::path(
    get,
    path = "/v1/messages/{id}/deliveries",
    operation_id = "list_deliveries",
    tag = "messages",
    params(MessagePath),
    responses(
        (status = 200, description = "The deliveries.", body = Deliveries),
        ByName,
        Always,
    ),
)]
pub async fn deliveries(State(app): State<Arc<App>>, Named(id): Named) -> ApiResult<Json<Deliveries>> {
    let caller = app.caller();
    let (id, found) = find(&app, &caller, &id).await?;
    let deliveries = deliveries_of(&app, &found).await?;
    let status = overall(&found, &deliveries);
    Ok(Json(Deliveries { message_id: id.to_string(), status, deliveries }))
}
