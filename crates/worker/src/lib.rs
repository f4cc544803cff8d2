//! Delivers webhooks.
//!
//! The heart is four lines, each a file or a function of that name: [`take`] turns ready tokens into leases,
//! `send` makes a signed request of each, `judge` (in `postroad-model`) says what its outcome leads to, and
//! [`settle`] brings the verdict back, many in one flight. [`deliver`] is the way of one delivery, [`batch`] that of several in one request;
//! [`duty`] is what a worker does besides: being heard, and due timers; [`sweep`] finds what crashes left
//! lying.
//!
//! What it guarantees: a delivery that it holds is settled, given back or reclaimed after its lease; at most
//! `worker.max_in_flight` deliveries are taken and not settled at any time, so that is the most that a kill
//! can double; one subscription that hangs cannot have all places. What it does not: exactly-once (a receiver
//! deduplicates by `webhook-id`), and order. Workers know nothing of each other but names; any number may run.

pub mod batch;
pub mod client;
pub mod config;
pub mod deliver;
pub mod duty;
pub mod figures;
pub mod lanes;
pub mod metrics;
pub mod outage;
pub mod outbox;
pub mod places;
pub mod redis_clock;
pub mod request;
pub mod settle;
pub mod shared;
pub mod sweep;
pub mod take;
pub mod targets;

use std::time::Duration;

use postroad_daemon::{
    clock::Clock,
    health::Readiness,
    metrics::registry,
    process::{Context, descriptors},
    stop::Stop,
};
use postroad_member::{
    life::{self, Side},
    tally::Tally,
};
use postroad_store::Store;
use tokio::{sync::mpsc, task::JoinSet};
use tracing::{info, warn};

use client::Callbacks;
use config::{Config, WorkerConfig};
use duty::Living;
use metrics::Metrics;
use places::Places;
use shared::{Inner, Shared};
use targets::Targets;

/// Runs a worker until it is told to stop.
///
/// It stops in this order: nothing more is taken; what is under way comes to its end, within the grace;
/// everything that ended is settled; what is left is given back, so that another worker has it at once; the
/// instance leaves the list of the living.
pub async fn run(config: Config, context: Context) -> anyhow::Result<()> {
    let worker_config = config.checked()?;
    let store = config.base.store()?;
    let Context { program, listener, stop, grace, readiness, clock } = context;
    readiness.set("redis", Err("not reached yet".into()));
    let mut registry = registry(program.version);
    let metrics = Metrics::default();
    metrics.register(&mut registry);
    let tally = Tally::open(store.clone(), life::name_of(duty::KIND));
    tally.register(&mut registry);
    let side = Side::serve(listener, readiness.clone(), registry, &config.base.common.http, grace);
    if life::prepared(&store, &stop).await? {
        let life = Life { clock, stop, grace, readiness };
        work(store, worker_config, metrics, tally, life).await?;
    }
    side.end().await
}

/// What a process gives its worker.
struct Life {
    clock: Clock,
    stop: Stop,
    grace: Duration,
    readiness: Readiness,
}

async fn work(
    store: Store,
    config: WorkerConfig,
    metrics: Metrics,
    tally: Tally,
    life: Life,
) -> anyhow::Result<()> {
    let Life { clock, stop, grace, readiness } = life;
    let me = format!("w-{:012x}", rand::random::<u64>() & 0xffff_ffff_ffff);
    let (settlements, outgoing) = mpsc::unbounded_channel();
    let callbacks = Callbacks::new(
        config.egress.clone(),
        config.connect_timeout,
        config.request_timeout,
        // With so many hosts idle connections may take all descriptors; then they are let go.
        (descriptors() / 32).clamp(8, config.max_in_flight),
    )?;
    let shared = Shared::new(Inner {
        targets: Targets::new(store.clone(), config.egress.clone()),
        places: Places::new(config.max_in_flight, config.max_in_flight_bytes),
        lanes: lanes::Lanes::default(),
        redis_clock: redis_clock::RedisClock::default(),
        outage: outage::Outage::default(),
        outbox: outbox::Outboxes::default(),
        store,
        me,
        config,
        callbacks,
        metrics,
        tally,
        settlements,
        clock,
    });
    info!(worker = shared.me, max_in_flight = shared.config.max_in_flight, "delivering");

    let living = Living::default();
    let settling = tokio::spawn(settle::settle_forever(shared.clone(), outgoing));
    let mut duties = JoinSet::new();
    duties.spawn(duty::announce_forever(shared.clone(), living.clone(), readiness));
    duties.spawn(duty::promote_forever(shared.clone(), living.clone()));
    duties.spawn(sweep::sweep_forever(shared.clone(), living));
    duties.spawn(outbox::empty_forever(shared.clone()));
    let mut taking = JoinSet::new();
    taking.spawn(take::watch_forever(shared.clone()));
    taking.spawn(take::take_forever(shared.clone()));

    tokio::select! {
        () = stop.requested() => {}
        Some(ended) = taking.join_next() => ended?,
        Some(ended) = duties.join_next() => ended?,
    }
    leave(shared, taking, duties, settling, grace).await;
    Ok(())
}

async fn leave(
    shared: Shared,
    mut taking: JoinSet<()>,
    mut duties: JoinSet<()>,
    settling: tokio::task::JoinHandle<()>,
    grace: Duration,
) {
    taking.shutdown().await;
    let finished = tokio::time::timeout(grace, async {
        while shared.places.taken() > 0 {
            shared.places.freed().await;
        }
    });
    if finished.await.is_err() {
        warn!(count = shared.places.taken(), "gave up deliveries that took longer than the grace");
    }
    duties.shutdown().await;
    let lanes: Vec<u16> = (0..shared.store.layout().lanes).collect();
    match shared.store.disown(&shared.me, &lanes, &std::collections::HashMap::new()).await {
        Ok(0) => {}
        Ok(given) => info!(given, "gave back what was left"),
        Err(error) => warn!(%error, "could not give back what was left; it is reclaimed after its lease"),
    }
    shared.tally.close().await;
    let _ = shared.store.leave(&duty::member_name(&shared.me)).await;
    settling.abort();
}
