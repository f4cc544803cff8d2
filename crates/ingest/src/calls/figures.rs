//! `GET /v1/metrics` and `GET /v1/channels/{name}/stats`.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{StatusCode, Uri},
};
use postroad_api::{
    error::{ApiError, ApiResult},
    openapi::{Always, ByName, WithQuery},
    path::Named,
    query,
};
use postroad_model::{
    figures::{Count, Figures},
    names::{ChannelName, Tenant},
    time::{Time, millis},
};
use postroad_store::Scope;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    App,
    figures::{self, DATES, Dates},
    openapi::params::{ChannelPath, DatesQuery},
};

/// `MetricsResponse`: the figures of the caller's tenant, since its first message or between `date_from` and `date_to`.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct MetricsResponse {
    /// `postroad`.
    pub service_name: &'static str,
    /// When this was answered.
    pub timestamp: Time,
    /// Messages stored.
    pub total_messages_published: u64,
    /// Deliveries that reached their subscriber: answered 2xx, or handed out by a pull.
    pub total_messages_delivered: u64,
    /// Deliveries that were dead-lettered.
    pub total_messages_failed: u64,
    /// Subscriptions that get deliveries now.
    pub active_subscriptions: u64,
    /// Channels on which something was published within the retention time.
    pub active_channels: u64,
    /// Bytes that Redis uses, whatever for.
    pub redis_memory_usage: Option<u64>,
    /// Bytes of a payload, on average.
    pub avg_message_size: f64,
    /// Messages published a second: over the running minute and the four before it, or between the dates.
    pub messages_per_second: f64,
    /// Failed attempts as a share of all attempts, 0 to 1.
    pub error_rate: f64,
    /// Messages that no subscription matched.
    pub total_messages_unroutable: u64,
    /// Deliveries settled as done.
    pub total_messages_acknowledged: u64,
    /// Attempts that failed.
    pub total_attempts_failed: u64,
    /// Publishes that were refused or failed.
    pub total_publish_errors: u64,
}

/// Shows the tenant's figures.
///
/// Since its first message, or between `date_from` and `date_to`.
#[utoipa::path(
    get,
    path = "/v1/metrics",
    operation_id = "show_metrics",
    tag = "health",
    params(DatesQuery),
    responses(
        (status = 200, description = "The figures.", body = MetricsResponse),
        WithQuery,
        Always,
    ),
)]
pub async fn metrics(State(app): State<Arc<App>>, uri: Uri) -> ApiResult<Json<MetricsResponse>> {
    let dates = Dates::read(&query::pairs(&uri, &DATES)?)?;
    let tenant = app.caller().tenant;
    let seen = figures::seen(&app, &tenant, &[Scope::Tenant], dates).await?.pop().flatten();
    let (per_second, figures) =
        seen.map_or_else(|| (0.0, Figures::default()), |seen| (seen.per_second, seen.figures));
    let now_ms = app.clock.now_ms();
    app.channels.follow().await?;
    Ok(Json(MetricsResponse {
        service_name: "postroad",
        timestamp: Time::from_millis(now_ms),
        total_messages_published: figures[Count::Published],
        total_messages_delivered: figures[Count::Consumed],
        total_messages_failed: figures[Count::Dead],
        active_subscriptions: app.channels.of_tenant(&tenant)?.1,
        active_channels: active_channels(&app, &tenant).await?,
        redis_memory_usage: Some(app.store.server().await?.used_memory),
        avg_message_size: figures.mean_message_bytes(),
        messages_per_second: per_second,
        error_rate: figures.error_rate(),
        total_messages_unroutable: figures[Count::Unroutable],
        total_messages_acknowledged: figures[Count::Acknowledged],
        total_attempts_failed: figures[Count::Failed],
        total_publish_errors: figures[Count::PublishErrors],
    }))
}

/// How many channels something was published on within the retention time.
pub(super) async fn active_channels(app: &App, tenant: &Tenant) -> Result<u64, postroad_store::StoreError> {
    let since = app.clock.now_ms().saturating_sub(millis(app.config.retention));
    let channels = app.store.active_channels(tenant, since).await?;
    Ok(u64::try_from(channels.len()).unwrap_or(u64::MAX))
}

/// `ChannelStats`: a channel's figures, since its first message or between `date_from` and `date_to`.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ChannelStats {
    /// The channel.
    pub name: String,
    /// Messages stored.
    pub messages_published: u64,
    /// Deliveries that reached their subscriber: answered 2xx, or handed out by a pull.
    pub messages_delivered: u64,
    /// Deliveries that were dead-lettered.
    pub messages_failed: u64,
    /// Subscriptions that listen to it, by name or by pattern, and get deliveries now.
    pub active_subscriptions: u64,
    /// Seconds from a message's acceptance to its delivery, on average, waiting and retries included.
    pub avg_delivery_time: f64,
    /// Messages published within the last 24 hours.
    pub last_24h_activity: u64,
    /// Seconds within which 95 of 100 deliveries were made, within 6 %.
    pub p95_delivery_time: f64,
    /// Seconds within which 99 of 100 deliveries were made, within 6 %.
    pub p99_delivery_time: f64,
    /// Messages that no subscription matched.
    pub messages_unroutable: u64,
    /// Deliveries settled as done.
    pub messages_acknowledged: u64,
    /// Attempts that failed.
    pub attempts_failed: u64,
}

/// Shows a channel's figures.
///
/// Since its first message, or between `date_from` and `date_to`.
#[utoipa::path(
    get,
    path = "/v1/channels/{name}/stats",
    operation_id = "show_channel_stats",
    tag = "channels",
    params(ChannelPath, DatesQuery),
    responses(
        (status = 200, description = "The figures.", body = ChannelStats),
        ByName,
        WithQuery,
        Always,
    ),
)]
pub async fn channel_stats(
    State(app): State<Arc<App>>,
    Named(name): Named,
    uri: Uri,
) -> ApiResult<Json<ChannelStats>> {
    let dates = Dates::read(&query::pairs(&uri, &DATES)?)?;
    let channel = ChannelName::new(&name).map_err(|_| ApiError::not_found("channel", &name))?;
    let tenant = app.caller().tenant;
    let seen = figures::seen(&app, &tenant, &[Scope::Channel(&channel)], dates).await?.pop().flatten();
    let (figures, last_24h_activity) = match seen {
        Some(seen) => (seen.figures, seen.last_day),
        None => (without(&app, &tenant, &channel).await?, 0),
    };
    app.channels.follow().await?;
    let seconds = |ms: f64| ms / 1_000.0;
    let delivery = &figures.delivery_time;
    Ok(Json(ChannelStats {
        name,
        messages_published: figures[Count::Published],
        messages_delivered: figures[Count::Consumed],
        messages_failed: figures[Count::Dead],
        active_subscriptions: app.channels.subscribers(&tenant, &channel)?.active,
        avg_delivery_time: seconds(delivery.mean()),
        last_24h_activity,
        p95_delivery_time: seconds(delivery.quantile(0.95)),
        p99_delivery_time: seconds(delivery.quantile(0.99)),
        messages_unroutable: figures[Count::Unroutable],
        messages_acknowledged: figures[Count::Acknowledged],
        attempts_failed: figures[Count::Failed],
    }))
}

/// Why a channel has no figures: nothing was ever published there, or it is one of too many.
async fn without(app: &App, tenant: &Tenant, channel: &ChannelName) -> ApiResult<Figures> {
    if !app.store.is_active_channel(tenant, channel).await? {
        return Err(ApiError::not_found("channel", channel.as_str()));
    }
    let message = "no figures are kept of this channel: the tenant has more channels than figures are kept of; \
                   GET /v1/metrics counts them all";
    Err(ApiError::new(StatusCode::NOT_FOUND, "no_figures", message).with("channel", channel.as_str()))
}
