//! `POST /v1/commands` and `POST /v1/queries`.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{Request, State},
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
};
use postroad_api::{
    body,
    error::{ApiError, ApiResult, ErrorResponse},
    object::RawObject,
    openapi::{Always, Publishes, WithBody},
    query,
};
use postroad_model::{
    command::{self, MAX_TIMEOUT},
    id::{Kind, MessageId},
    names::{ChannelName, RoutingKey},
    time::Time,
};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa::ToSchema;

use super::{
    command_responses::{CommandResponse, find},
    messages::{circumstances, counted, max_body, publish_one},
};
use crate::{
    App,
    envelope::{Address, Envelope},
    openapi::{
        params::{PublishHeaders, WaitQuery},
        schemas::CommandAnswered,
    },
    publish::{Checked, PublishMessageResponse},
    waiting,
};

/// The longest `?wait`, in seconds.
const MAX_WAIT: u64 = 60;

/// `PublishCommandRequest`, and what the reference's commands say besides.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
        "command_type": "validate_token",
        "target_service": "auth",
        "payload": { "token": "abc" },
        "reply_to": "responses.menu",
        "timeout": 30,
    }))]
pub struct PublishCommandRequest {
    /// What is to be done, or asked: `validate_token`.
    #[schema(min_length = 1, max_length = 255)]
    pub command_type: String,
    /// What it takes; `{}` by default.
    #[serde(default)]
    pub payload: Option<RawObject>,
    /// Who publishes it; the caller by default.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 255)]
    pub service_name: Option<String>,
    /// What ties messages of one undertaking together; the command's id by default.
    #[serde(default)]
    #[schema(max_length = 255)]
    pub correlation_id: Option<String>,
    /// Free data; `{}` by default.
    #[serde(default)]
    pub metadata: Option<RawObject>,
    /// Who is to handle it: part of the channel's name. Whoever listens to `commands` by default.
    #[serde(default)]
    #[schema(pattern = r"^[A-Za-z0-9_:/-]+(\.[A-Za-z0-9_:/-]+)*$", max_length = 246)]
    pub target_service: Option<String>,
    /// The channel on which the answer is published.
    #[serde(default)]
    #[schema(pattern = r"^[A-Za-z0-9_:/-]+(\.[A-Za-z0-9_:/-]+)*$", max_length = 255)]
    pub reply_to: Option<String>,
    /// Seconds in which it makes sense to handle it, 1 to 2,592,000. No bound by default.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 2_592_000)]
    pub timeout: Option<u64>,
}

/// `CommandReceipt`.
#[derive(Debug, Serialize, ToSchema)]
pub struct CommandReceipt {
    /// Always true: what cannot be published is an error.
    pub success: bool,
    /// The command's id.
    pub command_id: String,
    /// When it was accepted.
    pub timestamp: Time,
    /// What ties messages of one undertaking together.
    pub correlation_id: String,
    /// Always null.
    pub error: Option<String>,
    /// The `Idempotency-Key` was there before; this is the first one's result.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub duplicate: bool,
}

/// A command or query, as its handlers get it. What was not given is not there.
#[derive(Debug, Serialize)]
pub struct Command<'a> {
    /// The message's id, under which it is answered.
    pub id: MessageId,
    /// When it was published.
    pub timestamp: Time,
    /// Who published it.
    pub source_service: String,
    /// `command` or `query`.
    pub r#type: &'static str,
    /// What is to be done, or asked.
    pub command_type: &'a str,
    /// Who is to handle it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_service: Option<&'a str>,
    /// What it takes.
    pub payload: &'a RawObject,
    /// The channel on which the answer is published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<&'a str>,
    /// Seconds in which it makes sense to handle it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u64>,
    /// What ties messages of one undertaking together.
    pub correlation_id: String,
    /// Free data.
    pub metadata: &'a RawObject,
}

/// Publishes a command.
///
/// It goes to the channel `commands.<target_service>`, or `commands`, with its type as routing key.
#[utoipa::path(
    post,
    path = "/v1/commands",
    operation_id = "publish_command",
    tag = "commands",
    params(WaitQuery, PublishHeaders),
    request_body = PublishCommandRequest,
    responses(
        (
            status = 200,
            description = "With `wait`, the answer; else the first result of an `Idempotency-Key` that was \
                there before.",
            content((CommandAnswered = "application/json")),
        ),
        (status = 202, description = "It is stored.", body = CommandReceipt),
        (
            status = 504,
            description = "`command_timeout`: nobody has answered in time. It is published all the same, \
                under `details.command_id`.",
            body = ErrorResponse,
        ),
        Publishes,
        WithBody,
        Always,
    ),
)]
pub async fn publish_command(State(app): State<Arc<App>>, uri: Uri, request: Request) -> ApiResult<Response> {
    publish(&app, &uri, request, Kind::Command).await
}

/// Publishes a query: a command that asks.
#[utoipa::path(
    post,
    path = "/v1/queries",
    operation_id = "publish_query",
    tag = "commands",
    params(WaitQuery, PublishHeaders),
    request_body = PublishCommandRequest,
    responses(
        (
            status = 200,
            description = "With `wait`, the answer; else the first result of an `Idempotency-Key` that was \
                there before.",
            content((CommandAnswered = "application/json")),
        ),
        (status = 202, description = "It is stored.", body = CommandReceipt),
        (
            status = 504,
            description = "`command_timeout`: nobody has answered in time. It is published all the same, \
                under `details.command_id`.",
            body = ErrorResponse,
        ),
        Publishes,
        WithBody,
        Always,
    ),
)]
pub async fn publish_query(State(app): State<Arc<App>>, uri: Uri, request: Request) -> ApiResult<Response> {
    publish(&app, &uri, request, Kind::Query).await
}

/// 202 with the receipt, 200 for an `Idempotency-Key` that was there before. With `?wait=SECONDS` 200 with the
/// answer; 504 when there is none by then, or by the end of the command's own time.
async fn publish(app: &App, uri: &Uri, request: Request, kind: Kind) -> ApiResult<Response> {
    let tenant = app.caller().tenant;
    let wait = read_wait(uri)?;
    let (checked, timeout) = read(app, request, kind).await?;
    let Some(wait) = wait else {
        let published = publish_one(app, checked).await?;
        return Ok(receipt(published));
    };
    let _place = app.waits.take()?;
    let id = checked.message.id.clone();
    // Listened to before anybody can have answered.
    let receiver = app.store.await_response(&tenant, &id).await?;
    let message = checked.message.clone();
    let published = publish_one(app, checked).await?;
    let patience = Duration::from_secs(timeout.unwrap_or(MAX_WAIT).min(wait));
    let until = Instant::now() + patience;
    match waiting::for_response(&app.store, &tenant, &id, receiver, until, &app.stop).await {
        Some(response) => {
            // What is repeated may have been put otherwise the first time.
            let first = if published.duplicate { find(app, id.as_str()).await.ok() } else { None };
            let command = first.map_or(message, |(_, first)| first);
            Ok(Json(CommandResponse::of(&command, &response)?).into_response())
        }
        None if app.stop.is_requested() => {
            let message = "this instance stops; the command is published and can be looked at";
            let error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", message).retry_after(1);
            Err(name_command(error, &published))
        }
        None => {
            let message = format!(
                "nobody has answered the command within {} s; GET /v1/commands/{id} says what becomes of it",
                patience.as_secs()
            );
            let error = ApiError::new(StatusCode::GATEWAY_TIMEOUT, "command_timeout", message);
            Err(name_command(error, &published))
        }
    }
}

fn name_command(error: ApiError, published: &PublishMessageResponse) -> ApiError {
    error
        .with("command_id", published.message_id.as_str())
        .with("correlation_id", published.correlation_id.as_str())
}

fn read_wait(uri: &Uri) -> ApiResult<Option<u64>> {
    let asked = query::pairs(uri, &["wait"])?;
    let Some(wait) = asked.get("wait") else { return Ok(None) };
    match query::number("wait", wait)? {
        wait @ 1..=MAX_WAIT => Ok(Some(wait)),
        wait => Err(ApiError::field("wait", format!("wait = {wait} must be 1 to {MAX_WAIT} seconds"))),
    }
}

/// The command, and its timeout.
async fn read(app: &App, request: Request, kind: Kind) -> ApiResult<(Checked, Option<u64>)> {
    let caller = app.caller();
    let circumstances = circumstances(app, request.headers())?;
    let wanted: PublishCommandRequest =
        counted(app, &caller, None, body::json(request, max_body(app)).await)?;
    let target = wanted.target_service.as_deref();
    let channel = counted(
        app,
        &caller,
        None,
        command::channel(target).map_err(|error| {
            ApiError::field("target_service", format!("target_service, in its channel, {}", error.problem))
        }),
    )?;
    counted(app, &caller, None, check_type(&wanted.command_type))?;
    if let Some(reply_to) = &wanted.reply_to {
        let checked = ChannelName::new(reply_to);
        counted(
            app,
            &caller,
            None,
            checked.map_err(|error| ApiError::field("reply_to", format!("reply_to {}", error.problem))),
        )?;
    }
    if let Some(seconds) = wanted.timeout.filter(|seconds| !(1..=MAX_TIMEOUT).contains(seconds)) {
        let message = format!("timeout = {seconds} must be 1 to {MAX_TIMEOUT} seconds");
        return counted(app, &caller, None, Err(ApiError::field("timeout", message)));
    }
    let limits = app.limits();
    let source = ("service_name", wanted.service_name.as_deref());
    let correlation_id = wanted.correlation_id.clone();
    let envelope = counted(
        app,
        &caller,
        None,
        Envelope::open(kind, &caller, &circumstances, limits, source, correlation_id),
    )?;
    let empty = RawObject::empty();
    let content = Command {
        id: envelope.id.clone(),
        timestamp: envelope.timestamp,
        source_service: envelope.source.to_string(),
        r#type: if kind == Kind::Query { "query" } else { "command" },
        command_type: &wanted.command_type,
        target_service: target,
        payload: wanted.payload.as_ref().unwrap_or(&empty),
        reply_to: wanted.reply_to.as_deref(),
        timeout: wanted.timeout,
        correlation_id: envelope.correlation_id.clone(),
        metadata: wanted.metadata.as_ref().unwrap_or(&empty),
    };
    let address = Address {
        reply_to: wanted.reply_to.clone(),
        // What nobody waits for any more need not be delivered.
        ttl: wanted.timeout,
        ..Address::new(channel, &wanted.command_type)
    };
    let checked =
        counted(app, &caller, None, envelope.seal(address, &content, &caller, &circumstances, limits))?;
    Ok((checked, wanted.timeout))
}

fn check_type(command_type: &str) -> ApiResult<()> {
    if command_type.is_empty() {
        return Err(ApiError::field("command_type", "command_type is empty"));
    }
    RoutingKey::new(command_type)
        .map(drop)
        .map_err(|error| ApiError::field("command_type", format!("command_type {}", error.problem)))
}

fn receipt(published: PublishMessageResponse) -> Response {
    let status = if published.duplicate { StatusCode::OK } else { StatusCode::ACCEPTED };
    let receipt = CommandReceipt {
        success: true,
        command_id: published.message_id,
        timestamp: published.timestamp,
        correlation_id: published.correlation_id,
        error: None,
        duplicate: published.duplicate,
    };
    (status, Json(receipt)).into_response()
}
