//! take: from ready tokens to deliveries under way.

use std::time::Duration;

use postroad_model::delivery::{Health, Hold, Outcome, Verdict, judge};
use postroad_store::{Backoff, Lease, Room, Settlement, StoreError};
use tracing::{info, warn};

use crate::{deliver::deliver, places::Free, shared::Shared};

/// The most lanes that one flight visits.
const LANES: usize = 16;
/// How long a wait for tokens lasts when none come.
const BLOCK: Duration = Duration::from_secs(1);

/// Takes and delivers until it is dropped.
pub async fn take_forever(shared: Shared) {
    let mut backoff = Backoff::default();
    let mut ill = false;
    loop {
        match take(&shared).await {
            Ok(()) => {
                if ill {
                    info!("taking goes on");
                    ill = false;
                }
                backoff.reset();
            }
            Err(error) => {
                if !ill {
                    warn!(%error, "taking waits for Redis");
                    ill = true;
                }
                backoff.wait().await;
                // The reply that was lost may have handed something out.
                match give_back_unknown(&shared).await {
                    Ok(0) => {}
                    Ok(given) => info!(given, "gave back deliveries whose taking was not heard of"),
                    Err(error) => {
                        warn!(%error, "could not give back what was perhaps taken; it is reclaimed after its lease");
                    }
                }
                shared.lanes.heat(0..shared.store.layout().lanes);
            }
        }
    }
}

async fn give_back_unknown(shared: &Shared) -> Result<u64, StoreError> {
    let lanes: Vec<u16> = (0..shared.store.layout().lanes).collect();
    shared.store.disown(&shared.me, &lanes, &shared.places.handles()).await
}

/// One look at hot lanes, waiting for places and tokens as needed.
async fn take(shared: &Shared) -> Result<(), StoreError> {
    let free = loop {
        let free = shared.places.free();
        if free.all > 0 {
            break free;
        }
        shared.places.freed().await;
    };
    let hot = shared.lanes.take_hot(LANES.min(free.all));
    if hot.is_empty() {
        shared.lanes.looked();
        shared.lanes.heated().await;
        return Ok(());
    }
    let flight: Vec<(u16, Room)> = hot.iter().map(|lane| (*lane, room(shared, free, hot.len()))).collect();
    let answers = shared.store.take(&shared.me, &flight).await?;
    let mut leases = Vec::new();
    let mut first_error = None;
    for (lane, answer) in hot.into_iter().zip(answers) {
        match answer {
            Ok(taken) => {
                leases.extend(taken.leases);
                match taken.passed {
                    Some(upto) => shared.lanes.pass(lane, upto),
                    None if taken.left => shared.lanes.heat([lane]),
                    None => {}
                }
            }
            Err(error) => {
                first_error.get_or_insert(error);
            }
        }
    }
    start(shared, leases).await;
    first_error.map_or(Ok(()), Err)
}

/// Each lane of a flight gets its part of the free places.
fn room(shared: &Shared, free: Free, lanes: usize) -> Room {
    Room {
        free: (free.all / lanes).max(1),
        spare: if free.spare == 0 { 0 } else { (free.spare / lanes).max(1) },
        quantum: shared.config.quantum,
        quantum_bytes: shared.config.quantum_bytes,
    }
}

/// Sets deliveries on their way.
async fn start(shared: &Shared, leases: Vec<Lease>) {
    if leases.is_empty() {
        return;
    }
    let places: Vec<_> = leases.iter().map(|lease| shared.places.take(lease)).collect();
    shared.metrics.in_flight.set(i64::try_from(shared.places.taken()).unwrap_or(i64::MAX));
    let targets = shared.targets.of(&leases).await;
    match targets {
        Ok(targets) => {
            for ((lease, place), target) in leases.into_iter().zip(places).zip(targets) {
                // Without a target the subscription is cancelled: its queue is gone, and this with it.
                if let Some(target) = target {
                    tokio::spawn(deliver(shared.clone(), lease, target, place));
                }
            }
        }
        Err(error) => {
            warn!(%error, "could not read subscriptions' settings; giving their deliveries back");
            for (lease, place) in leases.into_iter().zip(places) {
                shared.settle(unsent(lease), Some(place));
            }
        }
    }
}

/// A lease that was not used.
pub fn unsent(lease: Lease) -> Settlement {
    let policy = postroad_model::subscription::RetryPolicy::default();
    let verdict = judge(&policy, true, lease.tries.progress, &Outcome::Unsent, 0.0);
    debug_assert_eq!((verdict.health, verdict.hold), (Health::Unknown, Hold::No));
    Settlement { verdict: Verdict { ..verdict }, lease, attempt: None, ack_timeout: Duration::ZERO }
}

/// Waits for tokens, without taking any, until it is dropped.
pub async fn watch_forever(shared: Shared) {
    let mut backoff = Backoff::default();
    let mut reader = None;
    loop {
        let result = async {
            let mut open = match reader.take() {
                Some(open) => open,
                None => shared.store.ready_reader().await?,
            };
            let lanes = open.wait(&shared.store, &shared.lanes.passed(), BLOCK).await?;
            Ok::<_, StoreError>((open, lanes))
        };
        match result.await {
            Ok((open, lanes)) => {
                reader = Some(open);
                backoff.reset();
                if !lanes.is_empty() {
                    shared.lanes.heat(lanes);
                    // The same tokens would be seen again before they are taken.
                    while !shared.lanes.is_cool() {
                        shared.lanes.cooled().await;
                    }
                }
            }
            Err(_) => backoff.wait().await,
        }
    }
}
