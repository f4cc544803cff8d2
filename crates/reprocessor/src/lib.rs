//! Dead letters: see them, send them again, purge them. And history: deliver it again.
//!
//! * [`filter`] says which dead letters are meant, [`letter`] how one looks; [`dead`] is what can be done with
//!   them, as plain functions over the store.
//! * [`job`] moves many of them back into their queues, at a rate and up to a limit, through crashes; and in the same
//!   way replays history, which the API of `ingest` asks for.
//! * [`calls`] is the dead-letter API and [`shell`] the one-shot commands: two skins over the same.
//!
//! What it guarantees: a dead letter is in its stream or in its queue, never in both and never in neither; a
//! replay moves nothing that died after it was made, and never more than its limit, however often its runner
//! is killed, frozen or cut off; once a stop has answered, nothing more is moved; a purge lets nothing go that
//! was not counted. Each caller sees one tenant, and each answer is bounded or streamed. What it does not: judge.
//! A letter that is back in its queue is a fresh delivery, with a fresh set of attempts, and may die again. Any
//! number of reprocessors may run; each open job has one runner.

pub mod calls;
pub mod config;
pub mod dead;
pub mod error;
pub mod filter;
pub mod job;
pub mod letter;
pub mod metrics;
pub mod shell;

use std::{sync::Arc, time::Duration};

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
use tokio::sync::{Notify, Semaphore};

use config::{Config, ReprocessorConfig};
use job::{
    run::{OnStop, Runner},
    tend::tend_forever,
};
use metrics::Metrics;

/// How a reprocessor names itself among the living.
pub const KIND: &str = "reprocessor";

/// How many jobs of one process read dead letters at a time.
const PLACES: usize = 4;
/// How often all dead letters are counted, for the metric.
const COUNT_EVERY: Duration = Duration::from_secs(15);

/// What the calls share.
pub struct App {
    /// Redis.
    pub store: Store,
    /// The configuration.
    pub config: ReprocessorConfig,
    /// What is counted.
    pub metrics: Metrics,
    /// This instance's clock.
    pub clock: Clock,
    /// Tells whoever runs jobs that there is one.
    pub nudge: Arc<Notify>,
    /// Places for calls that read through dead letters.
    pub places: Arc<Semaphore>,
}

impl App {
    /// What the calls share.
    pub fn new(store: Store, config: ReprocessorConfig, metrics: Metrics, clock: Clock) -> Self {
        let places = Arc::new(Semaphore::new(config.max_calls));
        Self { store, config, metrics, clock, nudge: Arc::default(), places }
    }

    /// Who calls.
    pub fn caller(&self) -> Caller {
        Caller::anonymous()
    }

    /// Whoever runs jobs beside these calls.
    pub fn runner(&self, me: String, stop: Stop) -> Runner {
        Runner::new(self.store.clone(), me, &self.config, stop, OnStop::GiveBack, self.metrics.clone())
    }
}

impl Runner {
    /// A runner as it is configured.
    pub fn new(
        store: Store,
        me: String,
        config: &ReprocessorConfig,
        stop: Stop,
        on_stop: OnStop,
        metrics: Metrics,
    ) -> Self {
        let &ReprocessorConfig { lease, max_queued, retention, limits, max_memory_percent, .. } = config;
        let places = Arc::new(Semaphore::new(PLACES));
        Self {
            store,
            me,
            lease,
            max_queued,
            retention,
            limits,
            max_memory_percent,
            stop,
            on_stop,
            places,
            metrics,
        }
    }
}

/// The dead-letter API's calls.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/v1/dlq", get(calls::letters::overview))
        .route("/v1/dlq/messages", get(calls::letters::list))
        .route("/v1/dlq/messages/{id}", get(calls::letters::show))
        .route("/v1/dlq/purge", post(calls::letters::purge))
        .route("/v1/dlq/export", get(calls::letters::export))
        .route("/v1/dlq/replay", post(calls::replays::replay))
        .route("/v1/dlq/replays", get(calls::replays::list))
        .route("/v1/dlq/replays/{id}", get(calls::replays::show).delete(calls::replays::stop))
        .method_not_allowed_fallback(no_such_method)
        .fallback(no_such_path)
        .with_state(app)
}

/// Runs a reprocessor until it is told to stop: no new connections, answers under way are finished, jobs are
/// given back with how far they came, the instance leaves the list of the living.
pub async fn run(config: Config, context: Context) -> anyhow::Result<()> {
    let checked = config.checked()?;
    let store = config.base.store()?;
    let Context { program, listener, stop, grace, readiness, clock } = context;
    let mut metrics_registry = registry(program.version);
    let metrics = Metrics::default();
    metrics.register(&mut metrics_registry);
    let serving = Serving::new(&config.base.common.http, grace);
    serving.metrics.register(&mut metrics_registry);
    let app = Arc::new(App::new(store, checked, metrics, clock));
    let calls = router(Arc::clone(&app));
    let http = config.auth.guard(calls.merge(health::router(readiness.clone(), Arc::new(metrics_registry))));
    readiness.set("redis", Err("not reached yet".into()));
    let work = tokio::spawn(work(app, stop.clone(), readiness));
    serve::serve(listener, http, serving, &stop).await;
    work.await??;
    Ok(())
}

/// Checks Redis, then runs jobs and says once a second that this instance lives.
async fn work(app: Arc<App>, stop: Stop, readiness: Readiness) -> anyhow::Result<()> {
    if !life::prepared(&app.store, &stop).await? {
        return Ok(());
    }
    let me = life::name_of(KIND);
    let runner = Arc::new(app.runner(me.clone(), stop.clone()));
    let tending = tokio::spawn(tend_forever(runner, Arc::clone(&app.nudge)));
    let counting = tokio::spawn(count_forever(Arc::clone(&app), stop.clone()));
    life::announce(&app.store, &me, KIND, &stop, &readiness).await;
    tending.await?;
    counting.await?;
    let _ = app.store.leave(&me).await;
    Ok(())
}

/// Keeps the gauge of dead letters.
async fn count_forever(app: Arc<App>, stop: Stop) {
    loop {
        let counted = async {
            let ids = app.store.dead_subscriptions().await?;
            app.store.count_dead(&ids).await
        };
        // While Redis is away the last figure stands, and `/readyz` says why.
        if let Ok(counts) = counted.await {
            app.metrics.dead.set(i64::try_from(counts.iter().sum::<u64>()).unwrap_or(i64::MAX));
        }
        if !stop.sleep(COUNT_EVERY).await {
            return;
        }
    }
}
