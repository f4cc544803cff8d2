//! `POST /v1/notifications`.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use postroad_api::{
    body,
    error::{ApiError, ApiResult},
    object::RawObject,
    openapi::{Always, Publishes, WithBody},
};
use postroad_model::{
    id::{Kind, MessageId},
    message::Priority,
    names::Tenant,
    notification::{self, NotificationType, Recipients},
    time::Time,
};
use postroad_store::{Backoff, StoreError, TailBounds};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa::ToSchema;

use super::messages::{circumstances, counted, publish_one};
use crate::{
    App,
    envelope::{Address, EntityId, Envelope},
    openapi::params::PublishHeaders,
};

/// The most bytes of a request, and of what a tail keeps of one.
const MAX_BODY: usize = 16 << 10;
/// The most entries of a tail.
const TAIL_ENTRIES: u64 = 1_000;
/// How long the id of a notification without `Idempotency-Key` is remembered: for our own repetitions.
const REMEMBER_BRIEFLY: Duration = Duration::from_secs(60);
/// The longest title, in bytes.
const MAX_TITLE: usize = 255;

/// The reference's notification.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
        "notification_type": "success",
        "title": "Deployed",
        "message": "hello-world runs 0d1a26e",
        "target_user_id": 42,
        "channel": "deployments",
        "priority": 2,
    }))]
pub struct NotificationRequest {
    /// `success`, `info`, `warning` or `error`.
    pub notification_type: NotificationType,
    /// What it is called, 1 to 255 bytes.
    #[schema(min_length = 1, max_length = 255)]
    pub title: String,
    /// What it says.
    #[schema(min_length = 1)]
    pub message: String,
    /// The user it is for.
    #[serde(default)]
    pub target_user_id: Option<EntityId>,
    /// Without a user: the company all of whose users it is for. With one: the company it belongs to. With
    /// neither it is for everybody.
    #[serde(default)]
    pub company_id: Option<EntityId>,
    /// What it belongs to: part of the message channel's name.
    #[serde(default)]
    #[schema(pattern = r"^[A-Za-z0-9_:/-]+(\.[A-Za-z0-9_:/-]+)*$", max_length = 241)]
    pub channel: Option<String>,
    /// 1 low, 2 normal (the default), 3 high, 4 critical; or by name.
    #[serde(default)]
    pub priority: Option<NotificationPriority>,
    /// Free data.
    #[serde(default)]
    pub data: Option<RawObject>,
    /// Who publishes it; the caller by default.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 255)]
    pub source_service: Option<String>,
    /// What ties messages of one undertaking together; the notification's id by default.
    #[serde(default)]
    #[schema(max_length = 255)]
    pub correlation_id: Option<String>,
    /// Free data about it.
    #[serde(default)]
    pub metadata: Option<RawObject>,
}

/// A notification's priority: the reference's number, or a name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(untagged, expecting = "must be 1, 2, 3, 4, or low, normal, high, critical")]
pub enum NotificationPriority {
    /// 1 to 4.
    Level(i64),
    /// `low`, `normal`, `high` or `critical`.
    Name(Priority),
}

/// What became of a notification.
#[derive(Debug, Serialize, ToSchema)]
pub struct NotificationReceipt {
    /// Always true: what cannot be published is an error.
    pub success: bool,
    /// The notification's id.
    pub notification_id: String,
    /// When it was accepted.
    pub timestamp: Time,
    /// The message channel it went to.
    pub channel: String,
    /// Whom it is for: `user`, `company` or `broadcast`.
    pub recipients: &'static str,
    /// Its id in the streams that show it.
    pub stream_id: String,
    /// What ties messages of one undertaking together.
    pub correlation_id: String,
    /// Always null.
    pub error: Option<String>,
    /// The `Idempotency-Key` was there before; this is the first one's result.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub duplicate: bool,
}

/// A notification, as subscribers and streams get it. What was not given is not there.
#[derive(Debug, Serialize)]
pub struct Notification<'a> {
    /// The message's id.
    pub id: MessageId,
    /// When it was published.
    pub timestamp: Time,
    /// Who published it.
    pub source_service: String,
    /// `notification`.
    pub r#type: &'static str,
    /// `success`, `info`, `warning` or `error`.
    pub notification_type: NotificationType,
    /// What it is called.
    pub title: &'a str,
    /// What it says.
    pub message: &'a str,
    /// The user it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_user_id: Option<&'a EntityId>,
    /// The company it belongs to, or is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub company_id: Option<&'a EntityId>,
    /// What it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<&'a str>,
    /// 1 to 4.
    pub priority: u8,
    /// Free data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<&'a RawObject>,
    /// What ties messages of one undertaking together.
    pub correlation_id: String,
    /// Free data about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<&'a RawObject>,
}

/// Publishes a notification.
///
/// For one user, for all of a company, or for everybody. It is a message like any other, and is shown in its
/// recipients' streams.
#[utoipa::path(
    post,
    path = "/v1/notifications",
    operation_id = "publish_notification",
    tag = "notifications",
    params(PublishHeaders),
    request_body = NotificationRequest,
    responses(
        (
            status = 200,
            description = "The `Idempotency-Key` was there before; this is the first result.",
            body = NotificationReceipt,
        ),
        (status = 202, description = "It is stored.", body = NotificationReceipt),
        Publishes,
        WithBody,
        Always,
    ),
)]
pub async fn publish(State(app): State<Arc<App>>, request: Request) -> ApiResult<Response> {
    let caller = app.caller();
    let circumstances = circumstances(&app, request.headers())?;
    let wanted: NotificationRequest = counted(&app, &caller, None, body::json(request, MAX_BODY).await)?;
    let (recipients, priority) = counted(&app, &caller, None, check(&wanted))?;
    let channel = counted(
        &app,
        &caller,
        None,
        notification::channel(wanted.channel.as_deref()).map_err(|error| {
            ApiError::field("channel", format!("channel, behind notifications, {}", error.problem))
        }),
    )?;
    let limits = app.limits();
    let source = ("source_service", wanted.source_service.as_deref());
    let correlation_id = wanted.correlation_id.clone();
    let opened = Envelope::open(Kind::Notification, &caller, &circumstances, limits, source, correlation_id);
    let envelope = counted(&app, &caller, None, opened)?;
    let content = Notification {
        id: envelope.id.clone(),
        timestamp: envelope.timestamp,
        source_service: envelope.source.to_string(),
        r#type: "notification",
        notification_type: wanted.notification_type,
        title: &wanted.title,
        message: &wanted.message,
        target_user_id: wanted.target_user_id.as_ref(),
        company_id: wanted.company_id.as_ref(),
        channel: wanted.channel.as_deref(),
        priority: notification::level_of(priority),
        data: wanted.data.as_ref(),
        correlation_id: envelope.correlation_id.clone(),
        metadata: wanted.metadata.as_ref(),
    };
    let is_chosen = envelope.is_chosen();
    let address = Address { priority, ..Address::new(channel, wanted.notification_type.as_str()) };
    let checked =
        counted(&app, &caller, None, envelope.seal(address, &content, &caller, &circumstances, limits))?;
    let (id, shown) = (checked.message.id.clone(), checked.message.payload.body.clone());
    let published = publish_one(&app, checked).await?;
    let bounds = TailBounds {
        entries: TAIL_ENTRIES,
        keep: app.config.retention,
        remember: if is_chosen { app.config.retention } else { REMEMBER_BRIEFLY },
    };
    // Also where it was published before: whoever did may have been killed before this.
    let stream_id = show(&app, &caller.tenant, &recipients, &id, &shown, bounds).await?;
    let status = if published.duplicate { StatusCode::OK } else { StatusCode::ACCEPTED };
    let receipt = NotificationReceipt {
        success: true,
        notification_id: published.message_id,
        timestamp: published.timestamp,
        channel: published.channel,
        recipients: recipients.as_str(),
        stream_id,
        correlation_id: published.correlation_id,
        error: None,
        duplicate: published.duplicate,
    };
    Ok((status, Json(receipt)).into_response())
}

fn check(wanted: &NotificationRequest) -> ApiResult<(Recipients, Priority)> {
    if wanted.title.is_empty() || wanted.title.len() > MAX_TITLE {
        let message = format!("title is {} bytes long; 1 to {MAX_TITLE} are allowed", wanted.title.len());
        return Err(ApiError::field("title", message));
    }
    if wanted.message.is_empty() {
        return Err(ApiError::field("message", "message is empty"));
    }
    let user = wanted.target_user_id.as_ref().map(|id| id.checked("target_user_id")).transpose()?;
    let company = wanted.company_id.as_ref().map(|id| id.checked("company_id")).transpose()?;
    let recipients = match (user, company) {
        (Some(user), _) => Recipients::User(user),
        (None, Some(company)) => Recipients::Company(company),
        (None, None) => Recipients::Everybody,
    };
    let priority = match &wanted.priority {
        None => Priority::default(),
        Some(NotificationPriority::Name(priority)) => *priority,
        Some(NotificationPriority::Level(level)) => notification::priority_of(*level).ok_or_else(|| {
            ApiError::field("priority", format!("priority = {level} must be 1 to 4, or a name"))
        })?,
    };
    Ok((recipients, priority))
}

/// Puts it where streams look, again for a while where Redis is away. Its id there.
async fn show(
    app: &App,
    tenant: &Tenant,
    recipients: &Recipients,
    id: &MessageId,
    content: &[u8],
    bounds: TailBounds,
) -> Result<String, StoreError> {
    let tail = recipients.tail();
    let deadline = Instant::now() + app.config.patience;
    let mut backoff = Backoff::default();
    loop {
        match app.store.notify(tenant, &tail, id, content, bounds).await {
            Ok(notified) => return Ok(notified.at.to_string()),
            Err(error @ StoreError::Unavailable(_)) => {
                let pause = backoff.next_delay();
                if Instant::now() + pause >= deadline {
                    return Err(error);
                }
                tokio::time::sleep(pause).await;
            }
            Err(error) => return Err(error),
        }
    }
}
