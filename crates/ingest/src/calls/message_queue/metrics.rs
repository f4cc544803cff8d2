//! `GET /message-queue/metrics`

use std::sync::Arc;

use axum::{Json, extract::State, http::Uri};
use postroad_api::query;
use postroad_model::{
    figures::{Count, Figures, Histogram, milliseconds},
    time::Time,
};
use postroad_store::Scope;
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    error::QueueResult,
    openapi::{QueueAlways, QueueNamed, QueueWithQuery},
    queues::{self, Queue, QueuePerformance, QueueStatistics},
};
use crate::{
    App,
    figures::{Dates, seen},
    openapi::params::{DatesQuery, QueueQuery},
};

/// The most queues that one answer tells of, by name; the overview is of all.
const MOST_QUEUES: usize = 1_000;

/// Figures of all queues, or of one; since their first use, or between `date_from` and `date_to`.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueueMetrics {
    /// All that was asked for, together.
    pub overview: QueueOverview,
    /// Each queue, by name; at most 1,000.
    pub queue_metrics: Vec<QueueMetricsRow>,
    /// How long things took.
    pub performance: QueueTimes,
    /// What failed, as shares of what was tried, 0 to 1.
    pub error_rates: QueueErrorRates,
    /// When this was answered.
    pub generated_at: Time,
}

/// Queues together.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueueOverview {
    /// How many queues there are.
    pub total_queues: u64,
    /// Messages published.
    pub total_messages: u64,
    /// Active subscriptions.
    pub total_consumers: u64,
    /// Messages published a second.
    pub average_throughput: f64,
}

/// One queue's figures.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueueMetricsRow {
    /// Its name.
    pub queue: String,
    /// Deliveries that wait now.
    pub message_count: u64,
    /// Active subscriptions that listen to it now.
    pub consumer_count: u64,
    /// What happened on it.
    #[serde(flatten)]
    pub statistics: QueueStatistics,
    /// How fast it was.
    #[serde(flatten)]
    pub performance: QueuePerformance,
}

/// How long things took; quantiles are within 6 %.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueueTimes {
    /// From a publish being read to its being stored, as `4ms`.
    pub average_publish_time: String,
    /// What requests to subscribers took.
    pub average_consume_time: String,
    /// 95 of 100 publishes took no longer.
    pub p95_publish_time: String,
    /// 95 of 100 requests took no longer.
    pub p95_consume_time: String,
    /// 99 of 100 publishes took no longer.
    pub p99_publish_time: String,
    /// 99 of 100 requests took no longer.
    pub p99_consume_time: String,
}

/// What failed, as shares of what was tried, 0 to 1.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueueErrorRates {
    /// Publishes that were refused or failed.
    pub publish_errors: f64,
    /// Attempts at deliveries that failed.
    pub consume_errors: f64,
    /// Calls to acknowledge that failed.
    pub acknowledge_errors: f64,
    /// Calls to reject that failed.
    pub reject_errors: f64,
}

/// Shows the figures of all queues, or of one.
///
/// Since their first use, or between `date_from` and `date_to`.
#[utoipa::path(
    get,
    path = "/message-queue/metrics",
    operation_id = "queue_metrics",
    tag = "message-queue",
    params(QueueQuery, DatesQuery),
    responses(
        (status = 200, description = "The figures.", body = QueueMetrics),
        QueueNamed,
        QueueWithQuery,
        QueueAlways,
    ),
)]
pub async fn metrics(State(app): State<Arc<App>>, uri: Uri) -> QueueResult<Json<QueueMetrics>> {
    let asked = query::pairs(&uri, &["queue", "date_from", "date_to"])?;
    let dates = Dates::read(&asked)?;
    let tenant = app.caller().tenant;
    let generated_at = Time::from_millis(app.clock.now_ms());
    if let Some(name) = asked.get("queue") {
        let queue = queues::one(&app, name, dates).await?;
        let overview = QueueOverview {
            total_queues: 1,
            total_messages: queue.seen.as_ref().map_or(0, |seen| seen.figures[Count::Published]),
            total_consumers: queue.info.subscriber_count,
            average_throughput: queue.seen.as_ref().map_or(0.0, |seen| seen.per_second),
        };
        let figures = queue.seen.as_ref().map(|seen| seen.figures.clone()).unwrap_or_default();
        return Ok(Json(QueueMetrics {
            overview,
            performance: QueueTimes::of(&figures),
            error_rates: QueueErrorRates::of(&figures),
            queue_metrics: vec![row(queue)],
            generated_at,
        }));
    }
    let names = queues::names(&app, &tenant).await?;
    let shown = &names[..names.len().min(MOST_QUEUES)];
    let rows = queues::some(&app, &tenant, shown, dates).await?;
    let whole = seen(&app, &tenant, &[Scope::Tenant], dates).await?.pop().flatten();
    let figures = whole.as_ref().map(|seen| seen.figures.clone()).unwrap_or_default();
    Ok(Json(QueueMetrics {
        overview: QueueOverview {
            total_queues: u64::try_from(names.len()).unwrap_or(u64::MAX),
            total_messages: figures[Count::Published],
            total_consumers: app.channels.of_tenant(&tenant)?.1,
            average_throughput: whole.as_ref().map_or(0.0, |seen| seen.per_second),
        },
        performance: QueueTimes::of(&figures),
        error_rates: QueueErrorRates::of(&figures),
        queue_metrics: rows.into_iter().map(row).collect(),
        generated_at,
    }))
}

fn row(queue: Queue) -> QueueMetricsRow {
    let figures = queue.seen.as_ref().map(|seen| &seen.figures);
    QueueMetricsRow {
        message_count: queue.waiting,
        consumer_count: queue.info.subscriber_count,
        statistics: QueueStatistics::of(figures),
        performance: QueuePerformance::of(queue.seen.as_ref()),
        queue: queue.info.name,
    }
}

impl QueueTimes {
    fn of(figures: &Figures) -> Self {
        let (publish, consume) = (&figures.publish_time, &figures.consume_time);
        let quantile = |times: &Histogram, share| milliseconds(times.quantile(share));
        Self {
            average_publish_time: milliseconds(publish.mean()),
            average_consume_time: milliseconds(consume.mean()),
            p95_publish_time: quantile(publish, 0.95),
            p95_consume_time: quantile(consume, 0.95),
            p99_publish_time: quantile(publish, 0.99),
            p99_consume_time: quantile(consume, 0.99),
        }
    }
}

impl QueueErrorRates {
    fn of(figures: &Figures) -> Self {
        Self {
            publish_errors: figures.publish_error_rate(),
            consume_errors: figures.error_rate(),
            acknowledge_errors: figures.acknowledge_error_rate(),
            reject_errors: figures.reject_error_rate(),
        }
    }
}
