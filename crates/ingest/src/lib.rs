//! The API: accepts messages, manages subscriptions.
//!
//! A call's way is short: [`calls`] reads it, `publish` and `subscriptions` check all of it before anything is
//! stored, [`flight`] brings messages to Redis many at a time. What their channels ask of them is known here
//! ([`channels`]). Events, commands, notifications and health messages are written by [`envelope`] and walk the same
//! way. All of it is described by [`openapi`]. Everything else is `postroad-store`'s.
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
pub mod openapi;
pub mod publish;
pub mod stream;
pub mod subscribe;
pub mod test_rate;
pub mod waiting;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::Router;
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
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use admission::Admission;
use channels::Channels;
use config::{Config, IngestConfig};
use event_types::EventTypes;
use flight::Gate;
use metrics::Metrics;
use openapi::Description;
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

/// The API's calls, and their description.
///
/// # Errors
/// Where the description cannot be written.
pub fn router(app: Arc<App>) -> anyhow::Result<Router> {
    use calls::*;
    let calls = OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(messages::publish))
        .routes(routes!(messages::publish_bulk))
        .routes(routes!(messages::show, delayed::cancel))
        .routes(routes!(messages::deliveries))
        .routes(routes!(messages::publish_raw))
        .routes(routes!(explain::explain))
        .routes(routes!(channels::list))
        .routes(routes!(channels::show, channels::put, channels::forget))
        .routes(routes!(figures::channel_stats))
        .routes(routes!(subscriptions::create, subscriptions::list))
        .routes(routes!(subscriptions::show, subscriptions::patch, subscriptions::cancel))
        .routes(routes!(subscriptions::pause))
        .routes(routes!(subscriptions::resume))
        .routes(routes!(subscriptions::rotate::rotate_secret))
        .routes(routes!(subscriptions::test::test))
        .routes(routes!(pull::pull))
        .routes(routes!(acknowledgments::acknowledge_message))
        .routes(routes!(acknowledgments::acknowledge_batch))
        .routes(routes!(replays::message))
        .routes(routes!(replays::subscription))
        .routes(routes!(replays::show, replays::stop))
        .routes(routes!(events::publish))
        .routes(routes!(event_types::list))
        .routes(routes!(event_types::show, event_types::put, event_types::remove))
        .routes(routes!(cloudevents::publish))
        .routes(routes!(commands::publish_command))
        .routes(routes!(commands::publish_query))
        .routes(routes!(command_responses::show))
        .routes(routes!(command_responses::respond))
        .routes(routes!(notifications::publish))
        .routes(routes!(notification_streams::open))
        .routes(routes!(notification_streams::issue_ticket))
        .routes(routes!(health_checks::publish))
        .routes(routes!(health_checks::services))
        .routes(routes!(figures::metrics))
        .routes(routes!(health::health))
        .merge(message_queue::router())
        .with_state(app);
    let router = openapi::described(calls)?;
    Ok(router.method_not_allowed_fallback(no_such_method).fallback(no_such_path))
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
        waits: Places::new(ingest_config.max_waits, "calls that wait"),
        streams: Places::new(ingest_config.max_streams, "open streams"),
        stop: stop.clone(),
        config: ingest_config,
    });
    let side = health::router(readiness.clone(), Arc::new(metrics_registry));
    let side = side.method_not_allowed_fallback(no_such_method);
    let http = config.auth.guard(router(app)?.merge(side));
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
