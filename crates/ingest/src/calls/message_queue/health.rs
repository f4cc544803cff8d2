//! `GET /message-queue/health`

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use postroad_api::auth::ForeignHost;
use postroad_model::{figures::milliseconds, time::Time};
use postroad_store::{Scope, Server};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    error::QueueResult,
    queues::{self, QueueState, state_of},
};
use crate::{
    App,
    calls::channels::infos,
    figures::{Dates, seen},
};

/// How the message queue is doing.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = MessageQueueHealth)]
pub struct QueueHealth {
    /// `healthy`, `degraded` where a kind of daemon is missing, `unhealthy` where Redis is.
    pub status: &'static str,
    /// The release.
    pub version: &'static str,
    /// The share of minutes in which this API was ready, over the last 31 days or since it was first started, as
    /// `99.9%`. Null while Redis cannot be asked.
    pub uptime: Option<String>,
    /// Redis.
    pub broker: BrokerHealth,
    /// Queues.
    pub queues: InUse,
    /// Subscriptions.
    pub consumers: InUse,
    /// Since first use.
    pub performance: HealthPerformance,
    /// When this was answered.
    pub last_updated: Time,
}

/// How Redis is doing.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct BrokerHealth {
    /// `connected` or `disconnected`.
    pub status: &'static str,
    /// `redis`.
    pub r#type: &'static str,
    /// Its release; null while it cannot be asked.
    pub version: Option<String>,
    /// What it uses, as `500MB`.
    pub memory_usage: Option<String>,
    /// What its append-only file takes; `0MB` where it has none.
    pub disk_usage: Option<String>,
}

/// How many there are, and how many of them are in use.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct InUse {
    /// All.
    pub total: u64,
    /// Those in use.
    pub active: u64,
    /// The others.
    pub inactive: u64,
}

/// How fast it is.
#[derive(Debug, Serialize, ToSchema)]
pub struct HealthPerformance {
    /// From a publish being read to its being stored, as `4ms`.
    pub average_publish_time: String,
    /// What requests to subscribers took.
    pub average_consume_time: String,
    /// Failed attempts as a share of all, 0 to 1.
    pub error_rate: f64,
}

/// Shows how the message queue is doing.
#[utoipa::path(
    get,
    path = "/message-queue/health",
    operation_id = "queue_health",
    tag = "message-queue",
    responses(
        (
            status = 200,
            description = "Redis answers; `degraded` where a kind of daemon is missing.",
            body = QueueHealth,
        ),
        (status = 503, description = "`unhealthy`: Redis does not answer.", body = QueueHealth),
        (
            status = 403,
            description = "`foreign_host`: without authentication only this machine is answered, and only its \
                own pages.",
            body = ForeignHost,
        ),
    ),
)]
pub async fn health(State(app): State<Arc<App>>) -> Response {
    match look(&app).await {
        Ok(health) => Json(health).into_response(),
        Err(_) => {
            let health = QueueHealth {
                status: "unhealthy",
                version: env!("CARGO_PKG_VERSION"),
                uptime: None,
                broker: BrokerHealth { status: "disconnected", r#type: "redis", ..BrokerHealth::default() },
                queues: InUse::default(),
                consumers: InUse::default(),
                performance: HealthPerformance {
                    average_publish_time: milliseconds(0.0),
                    average_consume_time: milliseconds(0.0),
                    error_rate: 0.0,
                },
                last_updated: Time::from_millis(app.clock.now_ms()),
            };
            (StatusCode::SERVICE_UNAVAILABLE, Json(health)).into_response()
        }
    }
}

async fn look(app: &App) -> QueueResult<QueueHealth> {
    let tenant = app.caller().tenant;
    let server = app.store.server().await?;
    let living = app.store.living().await?;
    let is_whole = ["router", "worker"].iter().all(|kind| !living.of_kind(kind).is_empty());
    let names = queues::names(app, &tenant).await?;
    let infos = infos(app, &tenant, &names).await?;
    let of_queues = infos.iter().flatten().map(|info| state_of(app, info) == QueueState::Active);
    let (consumers, active) = app.channels.of_tenant(&tenant)?;
    let figures = seen(app, &tenant, &[Scope::Tenant], Dates::default()).await?.pop().flatten();
    let figures = figures.map(|seen| seen.figures).unwrap_or_default();
    Ok(QueueHealth {
        status: if is_whole { "healthy" } else { "degraded" },
        version: env!("CARGO_PKG_VERSION"),
        uptime: Some(format!("{:.1}%", app.store.uptime().await? * 100.0)),
        broker: BrokerHealth::of(&server),
        queues: InUse::of(of_queues),
        consumers: InUse { total: consumers, active, inactive: consumers - active },
        performance: HealthPerformance {
            average_publish_time: milliseconds(figures.publish_time.mean()),
            average_consume_time: milliseconds(figures.consume_time.mean()),
            error_rate: figures.error_rate(),
        },
        last_updated: Time::from_millis(app.clock.now_ms()),
    })
}

impl BrokerHealth {
    fn of(server: &Server) -> Self {
        Self {
            status: "connected",
            r#type: "redis",
            version: Some(server.release.clone()),
            memory_usage: Some(megabytes(server.used_memory)),
            disk_usage: Some(megabytes(server.file_bytes)),
        }
    }
}

impl InUse {
    fn of(states: impl Iterator<Item = bool>) -> Self {
        let mut all = Self::default();
        for is_active in states {
            all.total += 1;
            *if is_active { &mut all.active } else { &mut all.inactive } += 1;
        }
        all
    }
}

/// Bytes as people read them: `500MB`, `1.5GB`.
fn megabytes(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "read by people")]
    let mb = bytes as f64 / f64::from(1 << 20);
    if mb >= 1_024.0 {
        format!("{:.1}GB", mb / 1_024.0)
    } else if mb >= 10.0 || bytes == 0 {
        format!("{mb:.0}MB")
    } else {
        format!("{mb:.1}MB")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_told_as_people_read_them() {
        for (bytes, text) in [(0, "0MB"), (1 << 20, "1.0MB"), (500 << 20, "500MB"), (3 << 29, "1.5GB")] {
            assert_eq!(megabytes(bytes), text);
        }
    }

    #[test]
    fn what_is_in_use_is_counted() {
        let all = InUse::of([true, false, true].into_iter());
        assert_eq!((all.total, all.active, all.inactive), (3, 2, 1));
    }
}
