//! `POST /v1/cloudevents`: CloudEvents 1.0 over HTTP, in binary, structured and batched mode.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use postroad_api::{
    body,
    caller::Caller,
    error::{ApiError, ApiResult},
    openapi::{Always, Publishes, WithBody},
    query,
};
use postroad_model::{
    cloud_event::{CloudEvent, CloudEventError, Kept, Mode, PREFIX, batch},
    event::CHANNEL_PREFIX,
    id::Kind,
    message::PayloadKind,
    names::{ChannelName, OrderingKey, RoutingKey},
    time::Time,
};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::messages::{
    BulkPublishResponse, MAX_BULK, MAX_BULK_BYTES, circumstances, counted, gunzip, land, publish_one,
};
use crate::{
    App,
    openapi::{
        params::{CloudEventHeaders, CloudEventsQuery, TraceHeaders},
        schemas::{CloudEvent as CloudEventBody, CloudEventsPublished},
    },
    publish::{Checked, Circumstances, Draft, Limits, MAX_TTL, MetadataRequest, PublishMessageResponse},
};

/// What stands around an event's data: attributes, and data written as base64.
const AROUND_DATA: usize = 64 << 10;

/// Publishes CloudEvents 1.0, in binary, structured or batched mode.
///
/// An event goes to the channel of the query, else to that of its extension `channel`, else to `events.<type>`;
/// its routing key is its type. `partitionkey` is its ordering key, `expirytime` bounds its life, `traceparent`
/// is its trace and `correlationid` its correlation id. All attributes are kept as headers, `ce-<name>`. Source
/// and id make it idempotent. Of a batch all events are published, or none.
#[utoipa::path(
    post,
    path = "/v1/cloudevents",
    operation_id = "publish_cloudevent",
    tag = "events",
    params(CloudEventsQuery, CloudEventHeaders, TraceHeaders),
    request_body(description = "One event, a batch, or in binary mode an event's data.", content(
        (CloudEventBody = "application/cloudevents+json"),
        (Vec<CloudEventBody> = "application/cloudevents-batch+json"),
        (Value = "application/json", example = json!({ "ref": "refs/heads/main" })),
    )),
    responses(
        (
            status = 200,
            description = "An event of this source and id was there before; nothing is delivered.",
            body = PublishMessageResponse,
        ),
        (
            status = 202,
            description = "It is stored: one event is answered as `POST /v1/messages` is, a batch as `POST \
                /v1/messages/bulk`.",
            content((CloudEventsPublished = "application/json")),
        ),
        (
            status = 207,
            description = "A part of Redis is away: some of a batch are not stored.",
            body = BulkPublishResponse,
        ),
        Publishes,
        WithBody,
        Always,
    ),
)]
pub async fn publish(State(app): State<Arc<App>>, uri: Uri, request: Request) -> ApiResult<Response> {
    let caller = app.caller();
    let asked = query::pairs(&uri, &["channel"])?;
    let channel = asked.get("channel").map(String::as_str);
    let headers = request.headers().clone();
    let mut circumstances = circumstances(&app, &headers)?;
    // Source and id are what makes an event idempotent.
    circumstances.idempotency_key = None;
    let content_type = counted(&app, &caller, None, content_type(&headers))?;
    let mode = counted(
        &app,
        &caller,
        None,
        Mode::of(content_type.as_deref()).map_err(|format| unknown_format(&format)),
    )?;
    let most = match mode {
        Mode::Binary => app.config.max_message_bytes,
        Mode::Structured => app.config.max_message_bytes * 2 + AROUND_DATA,
        Mode::Batched => MAX_BULK_BYTES,
    };
    let body = counted(&app, &caller, None, read_body(request, &headers, most).await)?;
    let sending = Sending {
        caller: &caller,
        circumstances: &circumstances,
        limits: app.limits(),
        channel,
        in_headers: mode == Mode::Binary,
    };
    let event = match mode {
        Mode::Batched => return publish_batch(&app, &body, &sending).await,
        Mode::Binary => {
            let given = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
            CloudEvent::from_binary(given, content_type.as_deref(), &body)
                .map_err(|error| refused(&error, in_header(&error.attribute)))
        }
        Mode::Structured => {
            CloudEvent::from_json(&body).map_err(|error| refused(&error, error.attribute.clone()))
        }
    };
    let checked = counted(&app, &caller, None, event.and_then(|event| sending.check(event)))?;
    let response = publish_one(&app, checked).await?;
    let status = if response.duplicate { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(response)).into_response())
}

async fn publish_batch(app: &App, body: &[u8], sending: &Sending<'_>) -> ApiResult<Response> {
    let events = counted(
        app,
        sending.caller,
        None,
        batch(body).map_err(|error| refused(&error, error.attribute.clone())),
    )?;
    if events.len() > MAX_BULK {
        let message = format!("{} events are too many; at most {MAX_BULK} are allowed", events.len());
        return counted(app, sending.caller, None, Err(ApiError::field("body", message)));
    }
    let mut checks = Vec::with_capacity(events.len());
    for (index, event) in events.iter().enumerate() {
        let event = CloudEvent::from_json(event.get().as_bytes())
            .map_err(|error| refused(&error, error.attribute.clone()));
        let checked = counted(app, sending.caller, None, event.and_then(|event| sending.check(event)))
            .map_err(|mut error| {
                error.status = StatusCode::UNPROCESSABLE_ENTITY;
                error.message = format!("event {index}: {}; nothing was published", error.message);
                error.at(index)
            })?;
        checks.push(Ok(checked));
    }
    for (index, checked) in checks.iter().flatten().enumerate() {
        app.gate.admit(&checked.channel()).await.map_err(|error| ApiError::from(error).at(index))?;
    }
    let (results, away) = land(app, checks).await;
    let failed_count = results.iter().filter(|result| !result.success).count();
    let published_count = results.len() - failed_count;
    if let (0, Some(error)) = (published_count, away) {
        return Err(error);
    }
    let status = if failed_count > 0 { StatusCode::MULTI_STATUS } else { StatusCode::ACCEPTED };
    let response = BulkPublishResponse { success: failed_count == 0, published_count, failed_count, results };
    Ok((status, Json(response)).into_response())
}

fn content_type(headers: &HeaderMap) -> ApiResult<Option<String>> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(None) };
    match value.to_str() {
        Ok(text) => Ok(Some(text.to_owned())),
        Err(_) => Err(ApiError::field("Content-Type", "Content-Type must be visible ASCII")),
    }
}

fn unknown_format(format: &str) -> ApiError {
    let message = format!("{format} is no format that is read; send CloudEvents as JSON, or in binary mode");
    ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message)
        .with("field", "Content-Type")
}

async fn read_body(request: Request, headers: &HeaderMap, most: usize) -> ApiResult<Bytes> {
    let codings: Vec<String> = headers
        .get_all(header::CONTENT_ENCODING)
        .iter()
        .map(|coding| coding.to_str().unwrap_or("?").trim().to_ascii_lowercase())
        .collect();
    let body = body::bytes(request, most).await?;
    match codings.join(", ").as_str() {
        "" | "identity" => Ok(body),
        "gzip" => gunzip(&body, most),
        coding => {
            let message =
                format!("Content-Encoding {coding:?} is not understood; send the body as it is, or gzip");
            Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_encoding", message)
                .with("field", "Content-Encoding"))
        }
    }
}

/// An attribute's name where it stands in a header.
fn in_header(attribute: &str) -> String {
    match attribute {
        "data" | "body" => "body".to_owned(),
        "datacontenttype" => "Content-Type".to_owned(),
        name => format!("{PREFIX}{name}"),
    }
}

/// 400 for what is no JSON, 422 for an attribute that breaks a rule.
fn refused(error: &CloudEventError, field: String) -> ApiError {
    if field == "body" {
        let message = format!("the {error}");
        return ApiError::new(StatusCode::BAD_REQUEST, "invalid_json", message).with("field", "body");
    }
    ApiError::field(field, error.to_string())
}

/// What events of one request are sent with.
struct Sending<'a> {
    caller: &'a Caller,
    circumstances: &'a Circumstances,
    limits: Limits<'a>,
    channel: Option<&'a str>,
    in_headers: bool,
}

impl Sending<'_> {
    /// An event as a message.
    fn check(&self, event: CloudEvent) -> ApiResult<Checked> {
        let channel = self.channel_of(&event)?;
        let kind = event.kind().to_owned();
        RoutingKey::new(&kind)
            .map_err(|error| ApiError::field(self.name("type"), format!("type {}", error.problem)))?;
        let extension = |name: &str| event.attribute(name);
        let ordering_key = extension("partitionkey");
        if let Some(key) = &ordering_key {
            OrderingKey::new(key).map_err(|error| {
                ApiError::field(self.name("partitionkey"), format!("partitionkey {}", error.problem))
            })?;
        }
        let ttl = extension("expirytime").map(|at| self.seconds_until(&at)).transpose()?;
        let timestamp = extension("time").and_then(|time| Time::parse(&time).ok());
        let trace = extension("traceparent").and_then(|trace| trace.parse().ok());
        let correlation_id = extension("correlationid");
        let message_id = derived_id(self.caller, &event);
        let Kept { headers, content_type, payload } = event.keep();
        let draft = Draft {
            kind: Kind::Event,
            channel: channel.to_string(),
            metadata: MetadataRequest {
                message_id: Some(message_id),
                correlation_id,
                content_type,
                content_encoding: (payload.kind == PayloadKind::Bytes).then(|| "base64".to_owned()),
                ttl,
                timestamp,
                headers: Some(headers),
                ..MetadataRequest::default()
            },
            payload,
            service_name: None,
            persistent: true,
            routing_key: Some(kind),
            ordering_key,
        };
        let circumstances =
            Circumstances { trace: trace.or(self.circumstances.trace), ..self.circumstances.clone() };
        draft.check(self.caller, &circumstances, self.limits).map_err(|error| self.by_attribute(error))
    }

    /// A refusal of what a message may hold, by the name of the attribute that it was.
    fn by_attribute(&self, mut error: ApiError) -> ApiError {
        let attribute = match error.details.get("field").and_then(Value::as_str) {
            Some("metadata.correlation_id") => "correlationid",
            Some("metadata.content_type") => "datacontenttype",
            Some("metadata.headers") => "attributes",
            _ => return error,
        };
        error.details.insert("field".into(), self.name(attribute).into());
        error
    }

    /// An attribute's name where it stands.
    fn name(&self, attribute: &str) -> String {
        if self.in_headers && attribute != "attributes" { in_header(attribute) } else { attribute.to_owned() }
    }

    fn channel_of(&self, event: &CloudEvent) -> ApiResult<ChannelName> {
        if let Some(channel) = self.channel {
            return Ok(ChannelName::new(channel)?);
        }
        if let Some(channel) = event.attribute("channel") {
            return Ok(ChannelName::new(&channel)?);
        }
        ChannelName::new(&format!("{CHANNEL_PREFIX}{}", event.kind())).map_err(|error| {
            let message = format!(
                "type, behind {CHANNEL_PREFIX}, is no channel: it {}; name one with ?channel=",
                error.problem
            );
            ApiError::field(self.name("type"), message)
        })
    }

    /// Whole seconds, so many that it lives until then.
    fn seconds_until(&self, expiry: &str) -> ApiResult<i64> {
        let expiry = Time::parse(expiry).map_err(|error| ApiError::field(self.name("expirytime"), error))?;
        let left_ms = expiry.as_millis().saturating_sub(self.circumstances.now_ms);
        if left_ms == 0 {
            return Err(ApiError::field(
                self.name("expirytime"),
                "expirytime is over: nobody would get the event",
            ));
        }
        let left = Duration::from_millis(left_ms.saturating_add(999)).as_secs();
        // Longer than messages can say is for ever.
        Ok(i64::try_from(left).unwrap_or(i64::MAX).min(MAX_TTL))
    }
}

/// The id that an event's source and id stand for: the same for the same event, however often it comes.
fn derived_id(caller: &Caller, event: &CloudEvent) -> String {
    use std::fmt::Write;
    let digest = Sha256::new()
        .chain_update(b"cloudevent\0")
        .chain_update(caller.tenant.as_str())
        .chain_update([0])
        .chain_update(event.source())
        .chain_update([0])
        .chain_update(event.id())
        .finalize();
    digest[..16].iter().fold(Kind::Event.prefix().to_owned(), |mut id, byte| {
        // Writing to a string does not fail.
        let _ = write!(id, "{byte:02x}");
        id
    })
}
