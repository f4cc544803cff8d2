//! `POST /v1/health-checks` and `GET /v1/services`: how services say they do.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
};
use postroad_api::{
    body,
    error::{ApiError, ApiResult},
    object::RawObject,
    openapi::{Always, Publishes, WithBody, WithQuery},
    page, query,
};
use postroad_model::{
    id::{Kind, MessageId},
    names::ChannelName,
    time::Time,
};
use postroad_store::{ServiceHealth, StoreError};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::messages::{circumstances, counted, publish_one};
use crate::{
    App,
    envelope::{Address, Envelope},
    openapi::params::{PageQuery, PublishHeaders},
};

/// The most bytes of a request, and of what is kept of one.
const MAX_BODY: usize = 8 << 10;
/// The most services of a tenant that are remembered.
const MAX_SERVICES: u64 = 10_000;

/// How a service does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ServiceStatus {
    /// As it should.
    Healthy,
    /// It works, but not as it should.
    Degraded,
    /// It does not work.
    Unhealthy,
}

impl ServiceStatus {
    /// As the API writes it.
    fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// A service's health message.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
        "service_name": "auth",
        "status": "degraded",
        "details": { "database": "slow" },
        "version": "1.4.2",
    }))]
pub struct HealthCheckRequest {
    /// The service: part of the channel's name.
    #[schema(pattern = r"^[A-Za-z0-9_:/-]+(\.[A-Za-z0-9_:/-]+)*$", max_length = 248)]
    pub service_name: String,
    /// `healthy`, `degraded` or `unhealthy`.
    pub status: ServiceStatus,
    /// What there is to say of it; `{}` by default.
    #[serde(default)]
    pub details: Option<RawObject>,
    /// The service's version.
    #[serde(default)]
    #[schema(max_length = 255)]
    pub version: Option<String>,
    /// What ties messages of one undertaking together; the message's id by default.
    #[serde(default)]
    #[schema(max_length = 255)]
    pub correlation_id: Option<String>,
}

/// What became of a health message.
#[derive(Debug, Serialize, ToSchema)]
pub struct HealthCheckReceipt {
    /// Always true: what cannot be published is an error.
    pub success: bool,
    /// The message's id.
    pub health_check_id: String,
    /// The service.
    pub service_name: String,
    /// When it was accepted.
    pub timestamp: Time,
    /// The channel it went to.
    pub channel: String,
    /// What ties messages of one undertaking together.
    pub correlation_id: String,
    /// Always null.
    pub error: Option<String>,
    /// The `Idempotency-Key` was there before; this is the first one's result.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub duplicate: bool,
}

/// A health message, as subscribers get it. What was not given is not there.
#[derive(Debug, Serialize)]
pub struct HealthCheck<'a> {
    /// The message's id.
    pub id: MessageId,
    /// When it was published.
    pub timestamp: Time,
    /// Who published it: the service.
    pub source_service: &'a str,
    /// `health_check`.
    pub r#type: &'static str,
    /// The service.
    pub service_name: &'a str,
    /// How it does.
    pub status: ServiceStatus,
    /// What there is to say of it.
    pub details: &'a RawObject,
    /// The service's version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<&'a str>,
    /// What ties messages of one undertaking together.
    pub correlation_id: String,
}

/// What is kept of a service's last health message.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    status: ServiceStatus,
    details: RawObject,
    version: Option<String>,
}

/// A service's last health message.
#[derive(Debug, Serialize, ToSchema)]
pub struct ServiceInfo {
    /// The service.
    pub service_name: String,
    /// What it said of itself.
    pub status: ServiceStatus,
    /// What more it said.
    pub details: RawObject,
    /// Its version.
    pub version: Option<String>,
    /// When it was accepted.
    pub last_seen: Time,
    /// Seconds since then.
    pub age_seconds: f64,
}

/// A page of services.
#[derive(Debug, Serialize, ToSchema)]
pub struct ServiceList {
    /// By name.
    pub services: Vec<ServiceInfo>,
    /// Leads on, if there are more.
    pub next_cursor: Option<String>,
}

/// Publishes a service's health message.
///
/// It goes to the channel `health.<service_name>`, and the last one of each service is kept.
#[utoipa::path(
    post,
    path = "/v1/health-checks",
    operation_id = "publish_health_check",
    tag = "health",
    params(PublishHeaders),
    request_body = HealthCheckRequest,
    responses(
        (
            status = 200,
            description = "The `Idempotency-Key` was there before; this is the first result.",
            body = HealthCheckReceipt,
        ),
        (status = 202, description = "It is stored.", body = HealthCheckReceipt),
        Publishes,
        WithBody,
        Always,
    ),
)]
pub async fn publish(State(app): State<Arc<App>>, request: Request) -> ApiResult<Response> {
    let caller = app.caller();
    let circumstances = circumstances(&app, request.headers())?;
    let wanted: HealthCheckRequest = counted(&app, &caller, None, body::json(request, MAX_BODY).await)?;
    let HealthCheckRequest { service_name, status, details, version, correlation_id } = wanted;
    let channel = counted(
        &app,
        &caller,
        None,
        ChannelName::new(&format!("health.{service_name}")).map_err(|error| {
            ApiError::field("service_name", format!("service_name, in its channel, {}", error.problem))
        }),
    )?;
    counted(&app, &caller, None, crate::publish::check_text("version", version.as_deref()))?;
    let limits = app.limits();
    let source = ("service_name", Some(service_name.as_str()));
    let opened = Envelope::open(Kind::Health, &caller, &circumstances, limits, source, correlation_id);
    let envelope = counted(&app, &caller, None, opened)?;
    let kept = Kept { status, details: details.unwrap_or_else(RawObject::empty), version };
    let content = HealthCheck {
        id: envelope.id.clone(),
        timestamp: envelope.timestamp,
        source_service: &service_name,
        r#type: "health_check",
        service_name: &service_name,
        status,
        details: &kept.details,
        version: kept.version.as_deref(),
        correlation_id: envelope.correlation_id.clone(),
    };
    let address = Address::new(channel, status.as_str());
    let checked =
        counted(&app, &caller, None, envelope.seal(address, &content, &caller, &circumstances, limits))?;
    let published = publish_one(&app, checked).await?;
    let record = serde_json::to_string(&kept)
        .map_err(|error| ApiError::field("details", format!("details cannot be written: {error}")))?;
    let health =
        ServiceHealth { service: service_name.clone(), record, at_ms: published.timestamp.as_millis() };
    // What is repeated need not say the same: then the first one counts.
    if !published.duplicate {
        app.store.keep_health(&caller.tenant, &health, MAX_SERVICES).await?;
    }
    let status = if published.duplicate { StatusCode::OK } else { StatusCode::ACCEPTED };
    let receipt = HealthCheckReceipt {
        success: true,
        health_check_id: published.message_id,
        service_name,
        timestamp: published.timestamp,
        channel: published.channel,
        correlation_id: published.correlation_id,
        error: None,
        duplicate: published.duplicate,
    };
    Ok((status, Json(receipt)).into_response())
}

/// Lists the last health message of each service, by name.
#[utoipa::path(
    get,
    path = "/v1/services",
    operation_id = "list_services",
    tag = "health",
    params(PageQuery),
    responses(
        (status = 200, description = "A page.", body = ServiceList),
        WithQuery,
        Always,
    ),
)]
pub async fn services(State(app): State<Arc<App>>, uri: Uri) -> ApiResult<Json<ServiceList>> {
    let asked = query::pairs(&uri, &["limit", "cursor"])?;
    let limit = asked.get("limit").map(|limit| query::number("limit", limit)).transpose()?;
    let limit = page::limit(limit)?;
    let after = page::position(asked.get("cursor").map(String::as_str))?;
    let found = app.store.services(&app.caller().tenant, after.as_deref(), limit).await?;
    let last = found.services.last().map(|health| page::cursor(&health.service));
    let next_cursor = if found.more { last } else { None };
    let services = found
        .services
        .into_iter()
        .map(|health| {
            let Kept { status, details, version } = serde_json::from_str(&health.record)
                .map_err(|error| StoreError::Reply(format!("a service's health: {error}")))?;
            let age_ms = u32::try_from(found.now_ms.saturating_sub(health.at_ms)).unwrap_or(u32::MAX);
            Ok(ServiceInfo {
                service_name: health.service,
                status,
                details,
                version,
                last_seen: Time::from_millis(health.at_ms),
                age_seconds: f64::from(age_ms) / 1_000.0,
            })
        })
        .collect::<Result<_, StoreError>>()?;
    Ok(Json(ServiceList { services, next_cursor }))
}
