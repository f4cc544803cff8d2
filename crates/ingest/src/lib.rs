//! The API: accepts messages, manages subscriptions.
//!
//! A call's way is short: [`calls`] reads it, `publish` and `subscriptions` check all of it before anything is
//! stored, [`flight`] brings messages to Redis many at a time. Everything else is `postroad-store`'s.
//!
//! What it guarantees: a 2xx to a publish follows the write; a refused call has changed nothing; a repeated
//! one with the same id delivers nothing twice. It keeps no state of its own: any number of instances may
//! run, and a caller may speak to a different one each time.

pub mod admission;
pub mod calls;
pub mod config;
pub mod due;
pub mod flight;
pub mod metrics;
pub mod publish;
pub mod subscribe;

use std::{sync::Arc, time::Instant};

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
use postroad_member::life;
use postroad_store::Store;

use admission::Admission;
use config::{Config, IngestConfig};
use flight::Gate;
use metrics::Metrics;
use publish::Limits;

/// How an API instance names itself among the living.
pub const KIND: &str = "ingest";

/// What the calls share.
pub struct App {
    /// Redis.
    pub store: Store,
    /// Where messages get on.
    pub gate: Gate,
    /// The configuration.
    pub config: IngestConfig,
    /// What is counted.
    pub metrics: Metrics,
    /// This instance's clock.
    pub clock: Clock,
    /// When it started.
    pub started: Instant,
}

impl App {
    /// Who calls.
    pub fn caller(&self) -> Caller {
        Caller::anonymous()
    }

    /// The limits that a message is held to.
    pub fn limits(&self) -> Limits {
        Limits {
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
        .route("/v1/messages/{id}/deliveries", get(calls::messages::deliveries))
        .route("/v1/messages/{id}/replay", post(calls::replays::message))
        .route("/v1/channels/{name}/messages", post(calls::messages::publish_raw))
        .route("/v1/subscriptions", post(calls::subscriptions::create).get(calls::subscriptions::list))
        .route(
            "/v1/subscriptions/{id}",
            get(calls::subscriptions::show)
                .patch(calls::subscriptions::patch)
                .delete(calls::subscriptions::cancel),
        )
        .route("/v1/subscriptions/{id}/pause", post(calls::subscriptions::pause))
        .route("/v1/subscriptions/{id}/resume", post(calls::subscriptions::resume))
        .route("/v1/subscriptions/{id}/replay", post(calls::replays::subscription))
        .route("/v1/replays/{id}", get(calls::replays::show).delete(calls::replays::stop))
        .route("/health", get(calls::health::health))
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
    let admission = Arc::new(Admission::new(ingest_config.max_memory_percent));
    let app = Arc::new(App {
        gate: Gate::open(
            store.clone(),
            Arc::clone(&admission),
            ingest_config.retention,
            ingest_config.patience,
            ingest_config.delayed,
        ),
        store: store.clone(),
        config: ingest_config,
        metrics,
        clock,
        started: Instant::now(),
    });
    let side = health::router(readiness.clone(), Arc::new(metrics_registry));
    let side = side.method_not_allowed_fallback(no_such_method);
    let http = config.auth.guard(router(app).merge(side));
    readiness.set("redis", Err("not reached yet".into()));
    let presence = tokio::spawn(be_present(store, admission, stop.clone(), readiness));
    serve::serve(listener, http, serving, &stop).await;
    presence.await??;
    Ok(())
}

/// Checks Redis, then says once a second that this instance lives and looks at how full Redis is.
async fn be_present(
    store: Store,
    admission: Arc<Admission>,
    stop: Stop,
    readiness: Readiness,
) -> anyhow::Result<()> {
    if life::prepared(&store, &stop).await? {
        let me = life::name_of(KIND);
        tokio::join!(life::announce(&store, &me, KIND, &stop, &readiness), admission.watch(&store, &stop),);
        let _ = store.leave(&me).await;
    }
    Ok(())
}
