//! `/v1/event-types`: the catalogue, and what tenants add to it.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
};
use postroad_api::{
    body,
    error::{ApiError, ApiResult, ErrorResponse},
    openapi::{Always, ByName, WithBody, WithQuery},
    path::Named,
    query,
};
use postroad_model::{
    event::{CATALOGUE, CATEGORIES, CUSTOM, EventType, Known},
    json_schema::MAX_BYTES,
    time::Time,
};
use postroad_store::{EventTypeBounds, EventTypeRecord, PutEventType};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::{
    App,
    event_types::{About, Registered},
    openapi::params::{CategoryQuery, EventTypePath},
};

/// The most bytes of a request: a schema, and what is said about it.
const MAX_BODY: usize = MAX_BYTES + (16 << 10);
/// The most bytes of all that one tenant registers.
const MAX_ALL_BYTES: u64 = 8 << 20;
/// The longest category, and the longest description.
const MAX_CATEGORY: usize = 64;
const MAX_DESCRIPTION: usize = 1_000;

/// What is asked of a type. Everything may be left out.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
        "category": "Orders",
        "description": "An order has left the warehouse.",
        "schema": {
            "type": "object",
            "properties": { "order_id": { "type": "integer" } },
            "required": ["order_id"],
        },
    }))]
pub struct EventTypeRequest {
    /// Its category; `Custom` by default. One of the catalogue's types keeps its own.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 64)]
    pub category: Option<String>,
    /// What has happened.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 1_000)]
    pub description: Option<String>,
    /// A JSON Schema that the `event_data` of its events must satisfy.
    #[serde(default)]
    #[schema(value_type = Value, required = false)]
    pub schema: Option<Box<RawValue>>,
}

/// An event type.
#[derive(Debug, Serialize, ToSchema)]
pub struct EventTypeInfo {
    /// The type.
    pub event_type: String,
    /// Its category.
    pub category: String,
    /// What has happened.
    pub description: Option<String>,
    /// Whether it is one of the catalogue's.
    pub builtin: bool,
    /// What the `event_data` of its events must satisfy.
    #[schema(value_type = Value)]
    pub schema: Option<Box<RawValue>>,
    /// Another one with each change; null for what was never registered.
    pub version: Option<u64>,
    /// When it was registered; null for what was never.
    pub created_at: Option<Time>,
    /// When it was last changed; null for what was never registered.
    pub updated_at: Option<Time>,
}

/// The catalogue.
#[derive(Debug, Serialize, ToSchema)]
pub struct EventTypeList {
    /// The categories that every environment has.
    pub categories: [&'static str; 8],
    /// Types by category and name: first the catalogue's, then the tenant's own.
    pub event_types: Vec<EventTypeInfo>,
}

/// What was removed.
#[derive(Debug, Serialize, ToSchema)]
pub struct EventTypeRemoved {
    /// Always true.
    pub success: bool,
    /// The type.
    pub event_type: String,
}

fn info(name: &str, known: Option<&Known>, registered: Option<(&EventTypeRecord, &About)>) -> EventTypeInfo {
    let about = registered.map(|(_, about)| about);
    let category = known.map(|known| known.category).or_else(|| about?.category.as_deref());
    let description = about.and_then(|about| about.description.as_deref());
    let record = registered.map(|(record, _)| record);
    EventTypeInfo {
        event_type: name.to_owned(),
        category: category.unwrap_or(CUSTOM).to_owned(),
        description: description.or(known.map(|known| known.description)).map(str::to_owned),
        builtin: known.is_some(),
        schema: about.and_then(|about| about.schema.clone()),
        version: record.map(|record| record.version),
        created_at: record.map(|record| Time::from_millis(record.made_ms)),
        updated_at: record.map(|record| Time::from_millis(record.changed_ms)),
    }
}

fn parts(registered: &Registered) -> (&EventTypeRecord, &About) {
    (&registered.record, &registered.about)
}

/// Lists event types: the catalogue's, then the tenant's own.
#[utoipa::path(
    get,
    path = "/v1/event-types",
    operation_id = "list_event_types",
    tag = "events",
    params(CategoryQuery),
    responses(
        (status = 200, description = "The types.", body = EventTypeList),
        WithQuery,
        Always,
    ),
)]
pub async fn list(State(app): State<Arc<App>>, uri: Uri) -> ApiResult<Json<EventTypeList>> {
    let asked = query::pairs(&uri, &["category"])?;
    let tenant = app.caller().tenant;
    let registered = app.event_types.of(&app.store, &tenant).await?;
    let mut event_types: Vec<EventTypeInfo> = CATALOGUE
        .iter()
        .map(|known| {
            let registered = registered.get(known.event_type).map(|registered| parts(registered));
            info(known.event_type, Some(known), registered)
        })
        .collect();
    let is_own = |name: &str| CATALOGUE.iter().all(|known| known.event_type != name);
    let mut own: Vec<EventTypeInfo> = registered
        .iter()
        .filter(|(name, _)| is_own(name))
        .map(|(name, registered)| info(name, None, Some(parts(registered))))
        .collect();
    own.sort_by(|a, b| (&a.category, &a.event_type).cmp(&(&b.category, &b.event_type)));
    event_types.extend(own);
    if let Some(category) = asked.get("category") {
        event_types.retain(|event_type| event_type.category.eq_ignore_ascii_case(category));
    }
    Ok(Json(EventTypeList { categories: CATEGORIES, event_types }))
}

fn read_name(name: &str) -> ApiResult<EventType> {
    Ok(EventType::new(name)?)
}

/// Shows an event type.
#[utoipa::path(
    get,
    path = "/v1/event-types/{type}",
    operation_id = "show_event_type",
    tag = "events",
    params(EventTypePath),
    responses(
        (status = 200, description = "The type.", body = EventTypeInfo),
        ByName,
        Always,
    ),
)]
pub async fn show(State(app): State<Arc<App>>, Named(name): Named) -> ApiResult<Json<EventTypeInfo>> {
    let unknown = || ApiError::not_found("event type", &name);
    let event_type = read_name(&name).map_err(|_| unknown())?;
    let registered = app.event_types.find(&app.store, &app.caller().tenant, event_type.as_str()).await?;
    let known = event_type.known();
    if registered.is_none() && known.is_none() {
        return Err(unknown());
    }
    Ok(Json(info(event_type.as_str(), known, registered.as_ref().map(|registered| parts(registered)))))
}

/// Registers an event type, or a schema for one of the catalogue's.
///
/// All instances know within a second.
#[utoipa::path(
    put,
    path = "/v1/event-types/{type}",
    operation_id = "register_event_type",
    tag = "events",
    params(EventTypePath),
    request_body = EventTypeRequest,
    responses(
        (status = 200, description = "What was registered is changed.", body = EventTypeInfo),
        (status = 201, description = "It is registered.", body = EventTypeInfo),
        (
            status = 409,
            description = "`too_many_event_types`: they are too many, or too large in all.",
            body = ErrorResponse,
        ),
        WithBody,
        Always,
    ),
)]
pub async fn put(State(app): State<Arc<App>>, Named(name): Named, request: Request) -> ApiResult<Response> {
    let tenant = app.caller().tenant;
    let event_type = read_name(&name)?;
    let wanted: EventTypeRequest = body::json_unique(request, MAX_BODY).await?;
    let known = event_type.known();
    check_words("category", wanted.category.as_deref(), MAX_CATEGORY)?;
    check_words("description", wanted.description.as_deref(), MAX_DESCRIPTION)?;
    if let (Some(known), Some(category)) = (known, &wanted.category)
        && known.category != category
    {
        let message = format!("{name} belongs to the category {}; leave category out", known.category);
        return Err(ApiError::field("category", message));
    }
    if let Some(schema) = &wanted.schema {
        app.event_types.try_schema(schema).await?;
    }
    let EventTypeRequest { category, description, schema } = wanted;
    let about = About { category, description, schema };
    let record = serde_json::to_string(&about)
        .map_err(|error| ApiError::field("schema", format!("the schema cannot be written: {error}")))?;
    let bounds = EventTypeBounds { types: app.config.max_event_types, bytes: MAX_ALL_BYTES };
    let put = app.store.put_event_type(&tenant, event_type.as_str(), &record, bounds).await?;
    app.event_types.changed(&tenant).await;
    let too_many =
        |message: String| Err(ApiError::new(StatusCode::CONFLICT, "too_many_event_types", message));
    match put {
        PutEventType::Put { record, new } => {
            let status = if new { StatusCode::CREATED } else { StatusCode::OK };
            let info = info(event_type.as_str(), known, Some((&record, &about)));
            Ok((status, Json(info)).into_response())
        }
        PutEventType::TooMany(count) => {
            too_many(format!("{count} event types are registered, the most that are allowed; delete some"))
        }
        PutEventType::TooLarge(bytes) => too_many(format!(
            "all registered event types would be {bytes} bytes large; at most {MAX_ALL_BYTES} are allowed"
        )),
    }
}

fn check_words(field: &'static str, text: Option<&str>, most: usize) -> ApiResult<()> {
    match text {
        Some(text) if text.is_empty() || text.len() > most => {
            let message = format!("{field} is {} bytes long; 1 to {most} are allowed", text.len());
            Err(ApiError::field(field, message))
        }
        Some(text) if text.chars().any(char::is_control) => {
            Err(ApiError::field(field, format!("{field} contains a control character")))
        }
        _ => Ok(()),
    }
}

/// Forgets what was registered of an event type.
///
/// One of the catalogue's types stays, without its schema.
#[utoipa::path(
    delete,
    path = "/v1/event-types/{type}",
    operation_id = "forget_event_type",
    tag = "events",
    params(EventTypePath),
    responses(
        (status = 200, description = "It is forgotten.", body = EventTypeRemoved),
        ByName,
        Always,
    ),
)]
pub async fn remove(State(app): State<Arc<App>>, Named(name): Named) -> ApiResult<Json<EventTypeRemoved>> {
    let unknown = || ApiError::not_found("registered event type", &name);
    let event_type = read_name(&name).map_err(|_| unknown())?;
    let tenant = app.caller().tenant;
    let removed = app.store.remove_event_type(&tenant, event_type.as_str()).await?;
    app.event_types.changed(&tenant).await;
    if removed { Ok(Json(EventTypeRemoved { success: true, event_type: name })) } else { Err(unknown()) }
}
