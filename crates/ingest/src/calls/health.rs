//! `GET /health`.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use postroad_api::auth::ForeignHost;
use postroad_model::{
    id::{Kind, mint},
    time::Time,
};
use postroad_store::{Backlog, Member, Server, StoreError};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{App, calls::figures::active_channels, openapi::schemas::HealthStateIfKnown};

/// `HealthResponse`, and how everything that is needed is doing.
#[derive(Debug, Serialize, ToSchema)]
pub struct HealthResponse {
    /// `healthy`, `degraded` where a kind of daemon is missing, `unhealthy` where Redis is.
    pub status: &'static str,
    /// When this was answered.
    pub timestamp: Time,
    /// Whether Redis answered.
    pub redis_connected: bool,
    /// Subscriptions that get deliveries now.
    pub active_subscriptions: u64,
    /// Channels on which something was published within the retention time.
    pub active_channels: u64,
    /// Since this instance started.
    pub uptime_seconds: f64,
    /// The release.
    pub version: &'static str,
    /// The environment's name.
    pub environment: String,
    /// `postroad`.
    pub service_name: &'static str,
    /// What is wrong, if something is.
    pub error: Option<String>,
    /// Of this call.
    pub correlation_id: String,
    /// How things are, where Redis could be asked.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = HealthStateIfKnown)]
    pub state: Option<HealthState>,
}

/// How things are.
#[derive(Debug, Serialize, ToSchema)]
pub struct HealthState {
    /// Every living daemon.
    pub instances: Vec<InstanceHealth>,
    /// Accepted messages that no router has been past.
    pub unrouted: Unrouted,
    /// The same by partition.
    pub partitions: Vec<PartitionHealth>,
    /// What waits for workers.
    pub queues: QueueHealth,
    /// What a 2xx to a publish survives.
    pub durability: Durability,
    /// Redis's memory.
    pub redis: RedisHealth,
    /// When the oldest message was accepted that history still has; none where it has none.
    pub oldest_retained: Option<Time>,
}

/// A living daemon.
#[derive(Debug, Serialize, ToSchema)]
pub struct InstanceHealth {
    /// Its name: its kind and a random number.
    pub name: String,
    /// Milliseconds since it was heard.
    pub heard_ms_ago: u64,
    /// What it said of itself.
    #[serde(flatten)]
    pub about: About,
    /// A router's: messages of the partitions that it owns which it has not been past.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unrouted: Option<Unrouted>,
}

/// What a daemon says of itself.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct About {
    /// `ingest`, `router`, `worker` or `reprocessor`.
    pub kind: String,
    /// Its release.
    pub version: String,
    /// The newest format of entries that it reads.
    pub format: u32,
    /// A worker's: deliveries that it holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<u64>,
}

/// Messages that wait to be routed.
#[derive(Debug, Clone, Copy, Default, Serialize, ToSchema)]
pub struct Unrouted {
    /// How many.
    pub count: u64,
    /// For how long the oldest has waited, in milliseconds.
    pub oldest_ms: u64,
}

impl Unrouted {
    fn and(self, (count, oldest_ms): (u64, u64)) -> Self {
        Self { count: self.count + count, oldest_ms: self.oldest_ms.max(oldest_ms) }
    }
}

/// A partition of ingress.
#[derive(Debug, Serialize, ToSchema)]
pub struct PartitionHealth {
    /// Its number.
    pub partition: u16,
    /// The router that owns it; none where it was released.
    pub owner: Option<String>,
    /// Messages that wait there.
    #[serde(flatten)]
    pub unrouted: Unrouted,
}

/// What waits for workers.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueueHealth {
    /// Subscriptions whose queues hold deliveries: waiting, in flight, scheduled or awaiting acknowledgment.
    pub subscriptions: u64,
    /// Deliveries in those queues; where they are more than 1,000 subscriptions, in as many of them.
    pub queued: u64,
    /// Whether that is all of them.
    pub queued_is_complete: bool,
    /// Subscriptions that could be delivered to and wait for a worker.
    pub ready: u64,
    /// For how long the first of them has waited, in milliseconds.
    pub oldest_ready_ms: u64,
}

/// What a 2xx to a publish survives, as the server is set up now.
#[derive(Debug, Serialize, ToSchema)]
pub struct Durability {
    /// `fsync`: a crash of Redis's machine. `memory`: what the fields below say.
    pub level: &'static str,
    /// Whether there is an append-only file.
    pub append_only_file: bool,
    /// When it is brought to disk; none without one, or where the server does not tell.
    pub fsync: Option<String>,
    /// Connected replicas.
    pub replicas: u32,
}

/// Redis's memory.
#[derive(Debug, Serialize, ToSchema)]
pub struct RedisHealth {
    /// Bytes in use.
    pub used_memory: u64,
    /// The bound on them; 0 for none.
    pub max_memory: u64,
}

/// Shows how everything that is needed is doing.
#[utoipa::path(
    get,
    path = "/health",
    operation_id = "show_health",
    tag = "health",
    responses(
        (
            status = 200,
            description = "Redis answers; `degraded` where a kind of daemon is missing.",
            body = HealthResponse,
        ),
        (status = 503, description = "`unhealthy`: Redis does not answer.", body = HealthResponse),
        (
            status = 403,
            description = "`foreign_host`: without authentication only this machine is answered, and only its \
                own pages.",
            body = ForeignHost,
        ),
    ),
)]
pub async fn health(State(app): State<Arc<App>>) -> Response {
    let now_ms = app.clock.now_ms();
    let mut health = HealthResponse {
        status: "healthy",
        timestamp: Time::from_millis(now_ms),
        redis_connected: true,
        active_subscriptions: 0,
        active_channels: 0,
        uptime_seconds: app.started.elapsed().as_secs_f64(),
        version: env!("CARGO_PKG_VERSION"),
        environment: app.config.environment.clone(),
        service_name: "postroad",
        error: None,
        correlation_id: mint(Kind::Request, now_ms, rand::random()),
        state: None,
    };
    let code = match look(&app, &mut health).await {
        Ok(()) => StatusCode::OK,
        Err(error) => {
            health.status = "unhealthy";
            health.redis_connected = false;
            health.error = Some(error.to_string());
            StatusCode::SERVICE_UNAVAILABLE
        }
    };
    (code, Json(health)).into_response()
}

async fn look(app: &App, health: &mut HealthResponse) -> Result<(), StoreError> {
    let (store, tenant) = (&app.store, app.caller().tenant);
    let server = store.server().await?;
    let living = store.living().await?;
    health.active_channels = active_channels(app, &tenant).await?;
    app.channels.follow().await?;
    (_, health.active_subscriptions) = app.channels.of_tenant(&tenant)?;
    let missing: Vec<&str> =
        ["router", "worker"].into_iter().filter(|kind| living.of_kind(kind).is_empty()).collect();
    if !missing.is_empty() {
        health.status = "degraded";
        health.error = Some(format!("no {} is running", missing.join(" and no ")));
    }
    let waits = store.unrouted(living.now_ms).await?;
    let owners = store.owners().await?;
    let mut owned: BTreeMap<&str, Unrouted> = BTreeMap::new();
    for (owner, waits) in owners.iter().zip(&waits) {
        if let Some(owner) = owner {
            let sum = owned.entry(owner).or_default();
            *sum = sum.and(*waits);
        }
    }
    let instances = living.members.iter().map(|member| instance(member, &owned)).collect();
    let partitions = (0..).zip(&owners).zip(&waits).map(|((partition, owner), waits)| PartitionHealth {
        partition,
        owner: owner.clone(),
        unrouted: Unrouted::default().and(*waits),
    });
    health.state = Some(HealthState {
        instances,
        unrouted: waits.iter().fold(Unrouted::default(), |sum, waits| sum.and(*waits)),
        partitions: partitions.collect(),
        queues: queues(store.backlog(living.now_ms).await?),
        durability: durability(&server, store.fsync_policy().await),
        redis: RedisHealth { used_memory: server.used_memory, max_memory: server.max_memory },
        oldest_retained: store.oldest_retained().await?.map(Time::from_millis),
    });
    Ok(())
}

fn instance(member: &Member, owned: &BTreeMap<&str, Unrouted>) -> InstanceHealth {
    let about: About = serde_json::from_str(&member.about).unwrap_or_default();
    let is_router = about.kind == "router";
    InstanceHealth {
        name: member.name.clone(),
        heard_ms_ago: member.age_ms,
        about,
        unrouted: is_router.then(|| owned.get(member.name.as_str()).copied().unwrap_or_default()),
    }
}

fn queues(waiting: Backlog) -> QueueHealth {
    let Backlog { subscriptions, ready, oldest_ready_ms, queued } = waiting;
    let complete = usize::try_from(subscriptions).is_ok_and(|count| count <= Backlog::LOOKED_AT);
    QueueHealth { subscriptions, queued, queued_is_complete: complete, ready, oldest_ready_ms }
}

fn durability(server: &Server, fsync: Option<String>) -> Durability {
    Durability {
        level: match (server.append_only, fsync.as_deref()) {
            (true, Some("always")) => "fsync",
            _ => "memory",
        },
        append_only_file: server.append_only,
        fsync: fsync.filter(|_| server.append_only),
        replicas: server.replicas,
    }
}
