//! `POST /v1/commands/{id}/response` and `GET /v1/commands/{id}`: what became of commands and queries.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use postroad_api::{
    body,
    error::{ApiError, ApiResult, ErrorResponse},
    openapi::{Always, ByName, Publishes, WithBody},
    path::Named,
};
use postroad_model::{
    command::{self, CommandStatus},
    id::{Kind, MessageId},
    message::Message,
    names::{ChannelName, ServiceName},
    time::{Time, millis},
};
use postroad_store::{Found, Responded, Response as StoredResponse, StoreError};
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use super::messages::{circumstances, counted, max_body, publish_one};
use crate::{
    App,
    deliveries::{Status, deliveries_of, overall},
    envelope::{Address, Envelope},
    openapi::params::{CommandPath, TraceHeaders},
    publish::Limits,
};

/// The most bytes that stand around an answer in the message that carries it.
const AROUND_ANSWER: usize = 4 << 10;

/// What a handler answers. Of a command's answers the first one counts.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "success": true, "payload": { "valid": true } }))]
pub struct CommandResponseRequest {
    /// Whether it was done; true by default, unless there is an `error`.
    #[serde(default)]
    pub success: Option<bool>,
    /// What came of it: any JSON.
    #[serde(default)]
    #[schema(value_type = Value, required = false)]
    pub payload: Option<Box<RawValue>>,
    /// Why it was not done.
    #[serde(default)]
    pub error: Option<String>,
    /// Who answers; the caller by default.
    #[serde(default)]
    pub service_name: Option<String>,
}

/// An answer, as it is kept.
#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    success: bool,
    payload: Option<Box<RawValue>>,
    error: Option<String>,
    source_service: String,
}

/// A command's answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct CommandResponse {
    /// Whether it was done.
    pub success: bool,
    /// The command's id.
    pub command_id: String,
    /// What was to be done, or asked.
    pub command_type: String,
    /// What came of it.
    #[schema(value_type = Value)]
    pub payload: Option<Box<RawValue>>,
    /// Why it was not done.
    pub error: Option<String>,
    /// Who answered.
    pub source_service: String,
    /// What ties messages of one undertaking together: the command's.
    pub correlation_id: String,
    /// When it was answered.
    pub timestamp: Time,
    /// It was answered after the command's `timeout`.
    pub late: bool,
}

/// A command's answer, as it is published to its `reply_to`.
#[derive(Debug, Serialize)]
struct ResponseMessage {
    id: MessageId,
    r#type: &'static str,
    #[serde(flatten)]
    response: CommandResponse,
}

/// What the handler is told.
#[derive(Debug, Serialize, ToSchema)]
pub struct CommandResponseReceipt {
    /// Always true.
    pub success: bool,
    /// The command's id.
    pub command_id: String,
    /// When it was first answered.
    pub timestamp: Time,
    /// What ties messages of one undertaking together: the command's.
    pub correlation_id: String,
    /// It was answered after the command's `timeout`. The answer is kept and published all the same.
    pub late: bool,
    /// The channel on which the answer was published; null for a command without `reply_to`.
    pub reply_to: Option<String>,
    /// The id under which it was published there.
    pub reply_message_id: Option<String>,
    /// The same was answered before.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub duplicate: bool,
}

/// How a command stands.
#[derive(Debug, Serialize, ToSchema)]
pub struct CommandState {
    /// Its id.
    pub command_id: String,
    /// `command` or `query`.
    pub r#type: &'static str,
    /// What is to be done, or asked.
    pub command_type: String,
    /// Who is to handle it.
    pub target_service: Option<String>,
    /// `pending`, `delivered` (nobody has answered), `completed`, `failed` or `timed_out`.
    pub status: CommandStatus,
    /// How its message stands: as `status` of `GET /v1/messages/{id}`.
    pub delivery_status: Status,
    /// What ties messages of one undertaking together.
    pub correlation_id: String,
    /// The channel on which the answer is published.
    pub reply_to: Option<String>,
    /// Seconds in which it makes sense to handle it.
    pub timeout: Option<u64>,
    /// When it was accepted.
    pub published_at: Time,
    /// When its time is over.
    pub expires_at: Option<Time>,
    /// What it was answered.
    pub response: Option<CommandResponse>,
}

impl CommandResponse {
    /// What a command was answered.
    pub(super) fn of(command: &Message, stored: &StoredResponse) -> ApiResult<Self> {
        let answer: Answer = serde_json::from_str(&stored.answer)
            .map_err(|error| StoreError::Reply(format!("a command's answer: {error}")))?;
        Ok(Self {
            success: answer.success,
            command_id: command.id.to_string(),
            command_type: command_type(command),
            payload: answer.payload,
            error: answer.error,
            source_service: answer.source_service,
            correlation_id: correlation_id(command),
            timestamp: Time::from_millis(stored.at_ms),
            late: stored.late,
        })
    }
}

fn command_type(command: &Message) -> String {
    command.routing_key.as_ref().map(ToString::to_string).unwrap_or_default()
}

fn correlation_id(command: &Message) -> String {
    command.metadata.correlation_id.clone().unwrap_or_else(|| command.id.to_string())
}

/// The command, or the 404. What history has let go of can no longer be answered.
pub(super) async fn find(app: &App, id: &str) -> ApiResult<(Found, Message)> {
    let unknown = || ApiError::not_found("command", id);
    if ![Kind::Command, Kind::Query].iter().any(|kind| id.starts_with(kind.prefix())) {
        return Err(unknown());
    }
    let message_id = MessageId::new(id).map_err(|_| unknown())?;
    let window_ms = millis(app.config.retention);
    let mut found =
        app.store.find_message(&app.caller().tenant, &message_id, window_ms, app.clock.now_ms()).await?;
    let found = found.pop().ok_or_else(unknown)?;
    let message = found.message.clone().ok_or_else(unknown)?;
    let channel = message.channel.as_str();
    if channel == "commands" || channel.starts_with("commands.") {
        Ok((found, message))
    } else {
        Err(unknown())
    }
}

fn expires_ms(found: &Found, command: &Message) -> Option<u64> {
    command.metadata.ttl.map(|seconds| found.accepted_ms.saturating_add(seconds.saturating_mul(1_000)))
}

/// Answers a command or query.
///
/// The first answer counts. It is also published to the command's `reply_to`.
#[utoipa::path(
    post,
    path = "/v1/commands/{id}/response",
    operation_id = "answer_command",
    tag = "commands",
    params(CommandPath, TraceHeaders),
    request_body = CommandResponseRequest,
    responses(
        (status = 200, description = "The same was answered before.", body = CommandResponseReceipt),
        (status = 201, description = "It is the first answer.", body = CommandResponseReceipt),
        (status = 409, description = "`already_answered`, and differently.", body = ErrorResponse),
        Publishes,
        ByName,
        WithBody,
        Always,
    ),
)]
pub async fn respond(State(app): State<Arc<App>>, Named(id): Named, request: Request) -> ApiResult<Response> {
    let caller = app.caller();
    let mut circumstances = circumstances(&app, request.headers())?;
    // The command's id is all that makes it idempotent.
    circumstances.idempotency_key = None;
    let wanted: CommandResponseRequest =
        counted(&app, &caller, None, body::json(request, max_body(&app)).await)?;
    let answer = counted(&app, &caller, None, check(wanted, &caller.subject))?;
    let text = serde_json::to_string(&answer)
        .map_err(|error| ApiError::field("payload", format!("payload cannot be written: {error}")))?;
    let max_bytes = app.config.max_message_bytes;
    if text.len() > max_bytes {
        let message = format!("the answer is {} bytes large; at most {max_bytes} are allowed", text.len());
        let error = ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "message_too_large", message);
        return counted(
            &app,
            &caller,
            None,
            Err(error.with("field", "payload").with("max_bytes", max_bytes)),
        );
    }
    let (found, command) = find(&app, &id).await?;
    let retention_ms = millis(app.config.retention);
    let keep_ms = command.metadata.ttl.unwrap_or(0).saturating_mul(1_000).max(retention_ms);
    let due_ms = expires_ms(&found, &command);
    let responded = app.store.respond(&caller.tenant, &command.id, &text, due_ms, keep_ms).await?;
    let (stored, duplicate) = match responded {
        Responded::First(stored) => (stored, false),
        Responded::Before(stored) if is_same(&stored.answer, &text) => (stored, true),
        Responded::Before(stored) => {
            let message =
                format!("command {id:?} was answered before, and differently; the first answer counts");
            return Err(ApiError::new(StatusCode::CONFLICT, "already_answered", message)
                .with("command_id", id.as_str())
                .with("answered_at", Time::from_millis(stored.at_ms).to_string()));
        }
    };

    let mut receipt = CommandResponseReceipt {
        success: true,
        command_id: id,
        timestamp: Time::from_millis(stored.at_ms),
        correlation_id: correlation_id(&command),
        late: stored.late,
        reply_to: command.metadata.reply_to.clone(),
        reply_message_id: None,
        duplicate,
    };
    if let Some(reply_to) = &command.metadata.reply_to {
        // Also where it was answered before: whoever did may have been killed before this.
        let channel = ChannelName::new(reply_to)?;
        let response = CommandResponse::of(&command, &stored)?;
        let limits = app.limits();
        // The answer fits; what stands around it must not make it too large.
        let limits = Limits { max_message_bytes: limits.max_message_bytes + AROUND_ANSWER, ..limits };
        let source = ("service_name", Some(response.source_service.as_str()));
        let correlation = Some(response.correlation_id.clone());
        let envelope = Envelope::open(Kind::Message, &caller, &circumstances, limits, source, correlation)?
            .named(reply_id(&command.id)?);
        let address = Address::new(channel, &response.command_type);
        let content = ResponseMessage { id: envelope.id.clone(), r#type: "response", response };
        let checked = envelope.seal(address, &content, &caller, &circumstances, limits)?;
        receipt.reply_message_id = Some(publish_one(&app, checked).await?.message_id);
    }
    let status = if duplicate { StatusCode::OK } else { StatusCode::CREATED };
    Ok((status, Json(receipt)).into_response())
}

fn check(wanted: CommandResponseRequest, subject: &ServiceName) -> ApiResult<Answer> {
    let CommandResponseRequest { success, payload, error, service_name } = wanted;
    let success = success.unwrap_or(error.is_none());
    if success && error.is_some() {
        return Err(ApiError::field("error", "error goes with success: false"));
    }
    let source_service = match &service_name {
        Some(name) => ServiceName::new(name)?,
        None => subject.clone(),
    };
    Ok(Answer { success, payload, error, source_service: source_service.to_string() })
}

/// Whether two answers say the same, however they are written.
fn is_same(one: &str, other: &str) -> bool {
    let read = |text| serde_json::from_str::<Value>(text).ok();
    one == other || read(one).is_some_and(|one| Some(one) == read(other))
}

/// The id under which an answer is published: of one command always the same.
fn reply_id(command: &MessageId) -> ApiResult<MessageId> {
    use std::fmt::Write;
    let digest = Sha256::new().chain_update(b"reply\0").chain_update(command.as_str()).finalize();
    let mut id = Kind::Message.prefix().to_owned();
    for byte in &digest[..16] {
        let _ = write!(id, "{byte:02x}");
    }
    Ok(MessageId::new(&id)?)
}

/// Shows a command or query, and its answer.
#[utoipa::path(
    get,
    path = "/v1/commands/{id}",
    operation_id = "show_command",
    tag = "commands",
    params(CommandPath),
    responses(
        (status = 200, description = "How it stands.", body = CommandState),
        ByName,
        Always,
    ),
)]
pub async fn show(State(app): State<Arc<App>>, Named(id): Named) -> ApiResult<Json<CommandState>> {
    let (found, command) = find(&app, &id).await?;
    let response = match app.store.response(&command.tenant, &command.id).await? {
        Some(stored) => Some(CommandResponse::of(&command, &stored)?),
        None => None,
    };
    let delivery_status = overall(&found, &deliveries_of(&app, &found).await?);
    let expires_ms = expires_ms(&found, &command);
    let is_over = expires_ms.is_some_and(|expires| app.clock.now_ms() > expires);
    let is_delivered = delivery_status == Status::Delivered;
    let succeeded = response.as_ref().map(|response| response.success);
    Ok(Json(CommandState {
        r#type: if id.starts_with(Kind::Query.prefix()) { "query" } else { "command" },
        command_id: id,
        command_type: command_type(&command),
        target_service: command.channel.as_str().strip_prefix("commands.").map(str::to_owned),
        status: command::status(succeeded, is_over, is_delivered),
        delivery_status,
        correlation_id: correlation_id(&command),
        reply_to: command.metadata.reply_to.clone(),
        timeout: command.metadata.ttl,
        published_at: Time::from_millis(found.accepted_ms),
        expires_at: expires_ms.map(Time::from_millis),
        response,
    }))
}
