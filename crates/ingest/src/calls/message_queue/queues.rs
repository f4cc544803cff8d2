//! `GET /message-queue/queues/{queue_name}`, and what there is to say of queues.

use std::sync::Arc;

use axum::{Json, extract::State};
use postroad_model::{
    figures::{Count, Figures, milliseconds},
    names::{ChannelName, Tenant},
    time::{Time, millis},
};
use postroad_store::Scope;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{
    error::{Named, QueueError, QueueResult},
    openapi::{QueueAlways, QueueNamed},
};
use crate::{
    App,
    calls::channels::{ChannelInfo, all_names, infos},
    figures::{Dates, Seen, seen},
    openapi::params::QueuePath,
};

/// Whether a queue is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum QueueState {
    /// It has an active consumer, or something was published on it within the retention time.
    Active,
    /// Neither.
    Inactive,
}

/// A queue's status and statistics.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueueStatus {
    /// Its name.
    pub queue: String,
    /// Whether it is in use.
    pub status: QueueState,
    /// Deliveries that wait for the subscriptions that listen to it, by name or by pattern. Those of a pattern may
    /// be of other queues too.
    pub message_count: u64,
    /// Active subscriptions that listen to it.
    pub consumer_count: u64,
    /// `false`: its messages keep no history.
    pub durable: bool,
    /// Whether its settings go with the last subscription that names it.
    pub auto_delete: bool,
    /// Whether the subscriptions that name it must be one service's.
    pub exclusive: bool,
    /// `x-message-ttl`, `x-max-length`, `x-overflow`, and notes of one's own.
    pub arguments: Map<String, Value>,
    /// Since its first use.
    pub statistics: QueueStatistics,
    /// Over the running minute and the four before it; times since its first use.
    pub performance: QueuePerformance,
    /// When it was first configured, subscribed to or used.
    pub created_at: Time,
    /// When it was last configured or used.
    pub last_updated: Time,
}

/// What happened on a queue.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct QueueStatistics {
    /// Messages stored.
    pub messages_published: u64,
    /// Deliveries that reached their subscriber: answered 2xx, or handed out by a pull.
    pub messages_consumed: u64,
    /// Deliveries settled as done.
    pub messages_acknowledged: u64,
    /// Deliveries to which the subscriber said no.
    pub messages_rejected: u64,
    /// Attempts beyond a delivery's first.
    pub messages_redelivered: u64,
}

/// How fast a queue is.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct QueuePerformance {
    /// From a publish being read to its being stored, as `5ms`.
    pub average_publish_time: String,
    /// What requests to subscribers took, as `10ms`.
    pub average_consume_time: String,
    /// Messages published a second.
    pub throughput_per_second: f64,
}

/// Shows a queue's status and statistics.
#[utoipa::path(
    get,
    path = "/message-queue/queues/{queue_name}",
    operation_id = "queue_show",
    tag = "message-queue",
    params(QueuePath),
    responses(
        (status = 200, description = "The queue.", body = QueueStatus),
        QueueNamed,
        QueueAlways,
    ),
)]
pub async fn show(State(app): State<Arc<App>>, Named(name): Named) -> QueueResult<Json<QueueStatus>> {
    let queue = one(&app, &name, Dates::default()).await?;
    let Queue { info, seen, waiting, state } = queue;
    let figures = seen.as_ref().map(|seen| &seen.figures);
    Ok(Json(QueueStatus {
        status: state,
        message_count: waiting,
        consumer_count: info.subscriber_count,
        durable: info.durable,
        auto_delete: info.auto_delete,
        exclusive: info.exclusive,
        arguments: info.arguments,
        statistics: QueueStatistics::of(figures),
        performance: QueuePerformance::of(seen.as_ref()),
        created_at: info.created_at,
        last_updated: [info.updated_at, info.last_activity]
            .into_iter()
            .flatten()
            .max()
            .unwrap_or(info.created_at),
        queue: info.name,
    }))
}

/// What there is to say of a queue.
pub(super) struct Queue {
    pub(super) info: ChannelInfo,
    pub(super) seen: Option<Seen>,
    /// Deliveries that wait.
    pub(super) waiting: u64,
    pub(super) state: QueueState,
}

/// One queue, or 404.
pub(super) async fn one(app: &App, name: &str, dates: Dates) -> QueueResult<Queue> {
    let tenant = app.caller().tenant;
    let channel = ChannelName::new(name).map_err(|_| QueueError::no_queue(name))?;
    app.channels.follow().await?;
    some(app, &tenant, &[channel], dates).await?.pop().ok_or_else(|| QueueError::no_queue(name))
}

/// The names of a tenant's queues.
pub(super) async fn names(app: &App, tenant: &Tenant) -> QueueResult<Vec<ChannelName>> {
    Ok(all_names(app, tenant).await?.into_iter().collect())
}

/// Those of some queues that there are.
pub(super) async fn some(
    app: &App,
    tenant: &Tenant,
    names: &[ChannelName],
    dates: Dates,
) -> QueueResult<Vec<Queue>> {
    let scopes: Vec<Scope<'_>> = names.iter().map(Scope::Channel).collect();
    let seen = seen(app, tenant, &scopes, dates).await?;
    let mut queues = Vec::with_capacity(names.len());
    for ((name, info), seen) in names.iter().zip(infos(app, tenant, names).await?).zip(seen) {
        let Some(info) = info else { continue };
        let ids = app.channels.subscribers(tenant, name)?.ids;
        let waiting = app.store.waiting(&ids).await?.into_iter().sum();
        let state = state_of(app, &info);
        queues.push(Queue { info, seen, waiting, state });
    }
    Ok(queues)
}

/// Whether a queue is in use.
pub(super) fn state_of(app: &App, info: &ChannelInfo) -> QueueState {
    let since = app.clock.now_ms().saturating_sub(millis(app.config.retention));
    let was_used = info.last_activity.is_some_and(|at| at.as_millis() >= since);
    if info.subscriber_count > 0 || was_used { QueueState::Active } else { QueueState::Inactive }
}

impl QueueStatistics {
    pub(super) fn of(figures: Option<&Figures>) -> Self {
        let count = |count| figures.map_or(0, |figures| figures[count]);
        Self {
            messages_published: count(Count::Published),
            messages_consumed: count(Count::Consumed),
            messages_acknowledged: count(Count::Acknowledged),
            messages_rejected: count(Count::Rejected),
            messages_redelivered: count(Count::Redelivered),
        }
    }
}

impl QueuePerformance {
    pub(super) fn of(seen: Option<&Seen>) -> Self {
        let mean = |of: fn(&Figures) -> f64| milliseconds(seen.map_or(0.0, |seen| of(&seen.figures)));
        Self {
            average_publish_time: mean(|figures| figures.publish_time.mean()),
            average_consume_time: mean(|figures| figures.consume_time.mean()),
            throughput_per_second: seen.map_or(0.0, |seen| seen.per_second),
        }
    }
}
