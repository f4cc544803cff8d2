//! The API: accepts messages, manages subscriptions.
//!
//! A call's way is short: [`calls`] reads it, `publish` and `subscriptions` check all of it before anything is
//! stored, [`flight`] brings messages to Redis many at a time. What their channels ask of them is known here
//! ([`channels`]). Events, commands, notifications and health messages are written by [`envelope`] and walk the same
//! way. Everything else is `postroad-store`'s.
//!
//! What it guarantees: a 2xx to a publish follows the write; a refused call has changed nothing; a repeated
//! one with the same id delivers nothing twice. It keeps no state of its own but what it can load anew, and what it
//! has counted in the last moment ([`figures`]): any number of instances may run, and a caller may speak to a
//! different one each time.

pub mod acknowledge;
pub mod admission;
pub mod calls;
pub mod channels;
pub mod config;
pub mod deliveries;
pub mod due;
pub mod envelope;
pub mod event_types;
pub mod figures;
pub mod flight;
pub mod metrics;
pub mod publish;
pub mod stream;
pub mod subscribe;
pub mod test_rate;
pub mod waiting;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    routing::{get, post},
};
use postroad_api::{
    caller::Caller,
    error::{no_such_method, no_such_path},
};
use postroad_daemon::{
    clock::Clock,
    health::{self, Readiness},
    metrics::registry,
    process::Context,
    serve::{self, Serving},
    stop::Stop,
};
use postroad_member::{life, tally::Tally};
use postroad_store::Store;

use admission::Admission;
use channels::Channels;
use config::{Config, IngestConfig};
use event_types::EventTypes;
use flight::Gate;
use metrics::Metrics;
use publish::Limits;
use test_rate::TestRate;
use waiting::Places;

/// How an API instance names itself among the living.
pub const KIND: &str = "ingest";

/// What the calls share.
pub struct App {
    /// Redis.
    pub store: Store,
    /// Where messages get on.
    pub gate: Gate,
    /// What is known of channels.
    pub channels: Channels,
    /// The configuration.
    pub config: IngestConfig,
    /// What is counted.
    pub metrics: Metrics,
    /// What is counted of channels, for everybody to see.
    pub tally: Tally,
    /// The tests of subscriptions of late.
    pub tests: Arc<TestRate>,
    /// This instance's clock.
    pub clock: Clock,
    /// When it started.
    pub started: Instant,
    /// The event types that tenants have registered.
    pub event_types: EventTypes,
    /// Places of calls that wait for a command's answer.
    pub waits: Places,
    /// Places of open streams of notifications.
    pub streams: Places,
    /// Told when this instance is to stop.
    pub stop: Stop,
}

impl App {
    /// Who calls.
    pub fn caller(&self) -> Caller {
        Caller::anonymous()
    }

    /// The limits that a message is held to.
    pub fn limits(&self) -> Limits<'_> {
        Limits {
            channels: &self.channels,
            max_message_bytes: self.config.max_message_bytes,
            layout: self.store.layout(),
            partition: self.gate.next_partition(),
        }
    }
}

/// The API's calls.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/v1/messages", post(calls::messages::publish))
        .route("/v1/messages/bulk", post(calls::messages::publish_bulk))
        .route("/v1/messages/{id}", get(calls::messages::show).delete(calls::delayed::cancel))
        .route("/v1/messages/{id}/ack", post(calls::acknowledgments::acknowledge_message))
        .route("/v1/messages/{id}/deliveries", get(calls::messages::deliveries))
        .route("/v1/messages/{id}/replay", post(calls::replays::message))
        .route("/v1/channels/{name}/messages", post(calls::messages::publish_raw))
        .route("/v1/channels", get(calls::channels::list))
        .route(
            "/v1/channels/{name}",
            get(calls::channels::show).put(calls::channels::put).delete(calls::channels::forget),
        )
        .route("/v1/explain", post(calls::explain::explain))
        .route("/v1/subscriptions", post(calls::subscriptions::create).get(calls::subscriptions::list))
        .route(
            "/v1/subscriptions/{id}",
            get(calls::subscriptions::show)
                .patch(calls::subscriptions::patch)
                .delete(calls::subscriptions::cancel),
        )
        .route("/v1/subscriptions/{id}/pull", post(calls::pull::pull))
        .route("/v1/subscriptions/{id}/ack", post(calls::acknowledgments::acknowledge_batch))
        .route("/v1/subscriptions/{id}/pause", post(calls::subscriptions::pause))
        .route("/v1/subscriptions/{id}/resume", post(calls::subscriptions::resume))
        .route("/v1/channels/{name}/stats", get(calls::figures::channel_stats))
        .route("/v1/metrics", get(calls::figures::metrics))
        .route("/v1/subscriptions/{id}/rotate-secret", post(calls::subscriptions::rotate_secret))
        .route("/v1/subscriptions/{id}/test", post(calls::subscriptions::test))
        .route("/v1/cloudevents", post(calls::cloudevents::publish))
        .route("/v1/events", post(calls::events::publish))
        .route("/v1/event-types", get(calls::event_types::list))
        .route(
            "/v1/event-types/{type}",
            get(calls::event_types::show).put(calls::event_types::put).delete(calls::event_types::remove),
        )
        .route("/v1/commands", post(calls::commands::publish_command))
        .route("/v1/queries", post(calls::commands::publish_query))
        .route("/v1/commands/{id}", get(calls::command_responses::show))
        .route("/v1/commands/{id}/response", post(calls::command_responses::respond))
        .route("/v1/notifications", post(calls::notifications::publish))
        .route("/v1/notifications/stream", get(calls::notification_streams::open))
        .route("/v1/notifications/tickets", post(calls::notification_streams::issue_ticket))
        .route("/v1/health-checks", post(calls::health_checks::publish))
        .route("/v1/services", get(calls::health_checks::services))
        .route("/v1/subscriptions/{id}/replay", post(calls::replays::subscription))
        .route("/v1/replays/{id}", get(calls::replays::show).delete(calls::replays::stop))
        .route("/health", get(calls::health::health))
        .merge(calls::message_queue::router())
        .method_not_allowed_fallback(no_such_method)
        .fallback(no_such_path)
        .with_state(app)
}

/// Runs the API until it is told to stop: no new connections, answers under way are finished, the instance
/// leaves the list of the living.
pub async fn run(config: Config, context: Context) -> anyhow::Result<()> {
    let ingest_config = config.checked()?;
    let store = config.base.store()?;
    let Context { program, listener, stop, grace, readiness, clock } = context;
    let mut metrics_registry = registry(program.version);
    let metrics = Metrics::default();
    metrics.register(&mut metrics_registry);
    let serving = Serving::new(&config.base.common.http, grace);
    serving.metrics.register(&mut metrics_registry);
    let me = life::name_of(KIND);
    let tally = Tally::open(store.clone(), me.clone());
    tally.register(&mut metrics_registry);
    let admission = Arc::new(Admission::new(ingest_config.max_memory_percent));
    let channels = Channels::new(store.clone());
    let app = Arc::new(App {
        gate: Gate::open(
            store.clone(),
            Arc::clone(&admission),
            channels.clone(),
            tally.clone(),
            ingest_config.retention,
            ingest_config.patience,
            ingest_config.delayed,
        ),
        store: store.clone(),
        channels: channels.clone(),
        metrics,
        tally: tally.clone(),
        tests: Arc::default(),
        clock,
        started: Instant::now(),
        event_types: EventTypes::default(),
        waits: Places::new(ingest_config.max_waits, "calls waiting for an answer"),
        streams: Places::new(ingest_config.max_streams, "open streams"),
        stop: stop.clone(),
        config: ingest_config,
    });
    let side = health::router(readiness.clone(), Arc::new(metrics_registry));
    let side = side.method_not_allowed_fallback(no_such_method);
    let http = config.auth.guard(router(app).merge(side));
    readiness.set("redis", Err("not reached yet".into()));
    let presence = tokio::spawn(be_present(store, me, admission, channels, stop.clone(), readiness));
    serve::serve(listener, http, serving, &stop).await;
    tally.close().await;
    presence.await??;
    Ok(())
}

/// Checks Redis, then says once a second that this instance lives, looks at how full Redis is and follows what is
/// changed about channels.
async fn be_present(
    store: Store,
    me: String,
    admission: Arc<Admission>,
    channels: Channels,
    stop: Stop,
    readiness: Readiness,
) -> anyhow::Result<()> {
    if life::prepared(&store, &stop).await? {
        tokio::join!(
            life::announce(&store, &me, KIND, &stop, &readiness),
            admission.watch(&store, &stop),
            channels.watch(&stop, &readiness),
            note_ready(&store, &stop, &readiness),
        );
        let _ = store.leave(&me).await;
    }
    Ok(())
}

/// Notes the minutes in which this instance is ready: what `/message-queue/health` tells of uptime.
async fn note_ready(store: &Store, stop: &Stop, readiness: &Readiness) {
    const EVERY: Duration = Duration::from_secs(15);
    loop {
        if readiness.is_ready() {
            // A minute has four of them; one that is away is not ready.
            let _ = store.note_ready().await;
        }
        let pause = if readiness.is_ready() { EVERY } else { Duration::from_secs(1) };
        if !stop.sleep(pause).await {
            return;
        }
    }
}
