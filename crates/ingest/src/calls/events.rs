//! `POST /v1/events`.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use postroad_api::{
    body,
    error::{ApiResult, ErrorResponse},
    object::RawObject,
    openapi::{Always, Publishes, WithBody},
};
use postroad_model::{
    event::{CHANNEL_PREFIX, EventType},
    id::{Kind, MessageId},
    time::Time,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::messages::{circumstances, counted, max_body, publish_one};
use crate::{
    App,
    envelope::{Address, EntityId, Envelope},
    openapi::params::PublishHeaders,
};

/// `EventRequest`, and what the reference's events say besides.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
        "event_type": "user.created",
        "source_service": "auth",
        "entity_type": "user",
        "entity_id": 42,
        "company_id": 7,
        "user_id": 1,
        "after_data": { "email": "octocat@example.com" },
        "event_data": { "invited": true },
    }))]
pub struct EventRequest {
    /// What has happened: `user.created`, or any dot-separated words.
    #[schema(pattern = r"^[A-Za-z0-9_:/-]+(\.[A-Za-z0-9_:/-]+)*$", max_length = 248)]
    pub event_type: String,
    /// Who publishes it; the caller by default.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 255)]
    pub source_service: Option<String>,
    /// What there is to say of it; `{}` by default. A type's schema is about this.
    #[serde(default)]
    pub event_data: Option<RawObject>,
    /// What ties messages of one undertaking together; the event's id by default.
    #[serde(default)]
    #[schema(max_length = 255)]
    pub correlation_id: Option<String>,
    /// Free data; `{}` by default.
    #[serde(default)]
    pub metadata: Option<RawObject>,
    /// What kind of thing it happened to: `user`.
    #[serde(default)]
    #[schema(max_length = 255)]
    pub entity_type: Option<String>,
    /// Which one.
    #[serde(default)]
    pub entity_id: Option<EntityId>,
    /// The company it belongs to.
    #[serde(default)]
    pub company_id: Option<EntityId>,
    /// Who made it happen.
    #[serde(default)]
    pub user_id: Option<EntityId>,
    /// The thing before.
    #[serde(default)]
    pub before_data: Option<RawObject>,
    /// The thing after.
    #[serde(default)]
    pub after_data: Option<RawObject>,
}

/// `EventResponse`.
#[derive(Debug, Serialize, ToSchema)]
pub struct EventResponse {
    /// Always true: what cannot be published is an error.
    pub success: bool,
    /// The event's id.
    pub event_id: String,
    /// Its type.
    pub event_type: String,
    /// When it was accepted.
    pub published_at: Time,
    /// The channels it went to.
    pub channels: Vec<String>,
    /// Always null.
    pub error: Option<String>,
    /// Whether the catalogue knows its type: of the reference, or registered. Types that it does not know are
    /// published all the same.
    pub registered: bool,
    /// The `Idempotency-Key` was there before; this is the first one's result.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub duplicate: bool,
}

/// An event, as subscribers get it. What was not given is not there.
#[derive(Debug, Serialize)]
pub struct Event<'a> {
    /// The message's id.
    pub id: MessageId,
    /// When it was published.
    pub timestamp: Time,
    /// Who published it.
    pub source_service: String,
    /// `event`.
    pub r#type: &'static str,
    /// What has happened.
    pub event_type: &'a str,
    /// What kind of thing it happened to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entity_type: Option<&'a str>,
    /// Which one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entity_id: Option<&'a EntityId>,
    /// The company it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub company_id: Option<&'a EntityId>,
    /// Who made it happen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<&'a EntityId>,
    /// The thing before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before_data: Option<&'a RawObject>,
    /// The thing after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after_data: Option<&'a RawObject>,
    /// What there is to say of it.
    pub event_data: &'a RawObject,
    /// What ties messages of one undertaking together.
    pub correlation_id: String,
    /// Free data.
    pub metadata: &'a RawObject,
}

/// Publishes a business event.
///
/// It goes to the channel `events.<event_type>`, with the type as routing key. Where the type has a schema,
/// `event_data` must satisfy it.
#[utoipa::path(
    post,
    path = "/v1/events",
    operation_id = "publish_event",
    tag = "events",
    params(PublishHeaders),
    request_body = EventRequest,
    responses(
        (
            status = 200,
            description = "The `Idempotency-Key` was there before; this is the first result.",
            body = EventResponse,
        ),
        (status = 202, description = "It is stored.", body = EventResponse),
        (
            status = 409,
            description = "`unusable_schema`: the type's schema is none that this release can run.",
            body = ErrorResponse,
        ),
        Publishes,
        WithBody,
        Always,
    ),
)]
pub async fn publish(State(app): State<Arc<App>>, request: Request) -> ApiResult<Response> {
    let caller = app.caller();
    let circumstances = circumstances(&app, request.headers())?;
    let wanted: EventRequest = counted(&app, &caller, None, body::json(request, max_body(&app)).await)?;
    let EventRequest { event_type, source_service, event_data, correlation_id, metadata, .. } = &wanted;
    let event_type = counted(&app, &caller, None, EventType::new(event_type).map_err(Into::into))?;
    for (field, id) in
        [("entity_id", &wanted.entity_id), ("company_id", &wanted.company_id), ("user_id", &wanted.user_id)]
    {
        counted(&app, &caller, None, id.as_ref().map(|id| id.checked(field)).transpose())?;
    }
    counted(&app, &caller, None, crate::publish::check_text("entity_type", wanted.entity_type.as_deref()))?;

    let limits = app.limits();
    let source = ("source_service", source_service.as_deref());
    let envelope = counted(
        &app,
        &caller,
        None,
        Envelope::open(Kind::Event, &caller, &circumstances, limits, source, correlation_id.clone()),
    )?;
    let empty = RawObject::empty();
    let event_data = event_data.as_ref().unwrap_or(&empty);
    let event = Event {
        id: envelope.id.clone(),
        timestamp: envelope.timestamp,
        source_service: envelope.source.to_string(),
        r#type: "event",
        event_type: event_type.as_str(),
        entity_type: wanted.entity_type.as_deref(),
        entity_id: wanted.entity_id.as_ref(),
        company_id: wanted.company_id.as_ref(),
        user_id: wanted.user_id.as_ref(),
        before_data: wanted.before_data.as_ref(),
        after_data: wanted.after_data.as_ref(),
        event_data,
        correlation_id: envelope.correlation_id.clone(),
        metadata: metadata.as_ref().unwrap_or(&empty),
    };
    let address = Address::new(event_type.channel().clone(), event_type.as_str());
    let checked =
        counted(&app, &caller, None, envelope.seal(address, &event, &caller, &circumstances, limits))?;

    let registered = app.event_types.find(&app.store, &caller.tenant, event_type.as_str()).await?;
    if let Some(registered) = &registered {
        counted(&app, &caller, None, app.event_types.validate(registered, event_data).await)?;
    }
    let published = publish_one(&app, checked).await?;
    let event_type_published =
        published.channel.strip_prefix(CHANNEL_PREFIX).unwrap_or(event_type.as_str()).to_owned();
    let status = if published.duplicate { StatusCode::OK } else { StatusCode::ACCEPTED };
    let response = EventResponse {
        success: true,
        event_id: published.message_id,
        event_type: event_type_published,
        published_at: published.timestamp,
        channels: vec![published.channel],
        error: None,
        registered: registered.is_some() || event_type.known().is_some(),
        duplicate: published.duplicate,
    };
    Ok((status, Json(response)).into_response())
}
