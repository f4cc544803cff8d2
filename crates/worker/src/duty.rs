//! A worker's duties besides delivering: being heard, timers, and what crashes leave lying.
//!
//! Each lane is looked after by one living worker, found from the list of the living by hashing. Two that
//! disagree for a moment do no harm: every repair is one script and changes nothing the second time.

use std::{
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use postroad_daemon::health::Readiness;
use postroad_member::life;
use postroad_model::{
    delivery::{Outcome, judge},
    id::SubscriptionId,
    placement::stable_hash,
};
use postroad_store::{Lease, Settlement, StoreError};
use serde_json::json;
use tracing::{error, info, warn};

use crate::{deliver::count, outbox, shared::Shared};

/// How a worker names itself among the living.
pub const KIND: &str = "worker";
/// How often every timer is looked at, also those that nobody living has heard of.
const TIMERS_EVERY: Duration = Duration::from_secs(1);
/// Beyond this a worker's clock is worth a warning.
const SKEW_MS: i64 = 5_000;

/// The living workers, as last heard.
#[derive(Clone, Default)]
pub struct Living(Arc<Mutex<Vec<String>>>);

impl Living {
    /// Their names.
    pub fn names(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, names: Vec<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = names;
    }
}

/// The lanes that `me` looks after, among the living.
pub fn lanes_of(me: &str, living: &[String], lanes: u16) -> Vec<u16> {
    let keeper = |lane: u16| {
        living.iter().max_by_key(|name| stable_hash(&[name, &lane.to_string()])).map(String::as_str)
    };
    (0..lanes).filter(|lane| keeper(*lane).is_none_or(|keeper| keeper == me)).collect()
}

/// Says once a second that this worker lives, and hears who else does and what time it is.
pub async fn announce_forever(shared: Shared, living: Living, readiness: Readiness) {
    let member = member_name(&shared.me);
    let mut skewed = false;
    loop {
        let about = life::about(KIND, json!({ "in_flight": shared.places.taken() }));
        let before = shared.clock.now_ms();
        let heard = shared.store.announce(&member, &about).await;
        life::redis_is(&readiness, &heard);
        if let Ok(members) = heard {
            let here = before.midpoint(shared.clock.now_ms());
            let ahead = i64::try_from(members.now_ms).unwrap_or(0) - i64::try_from(here).unwrap_or(0);
            shared.redis_ahead_ms.store(ahead, Ordering::Relaxed);
            shared.metrics.clock_offset_ms.set(ahead);
            if ahead.abs() > SKEW_MS && !skewed {
                warn!(
                    ahead_ms = ahead,
                    "this machine's clock and Redis's differ; signatures carry this one's"
                );
            }
            skewed = ahead.abs() > SKEW_MS;
            living.set(members.of_kind(KIND));
        }
        tokio::time::sleep(postroad_store::presence::HEARTBEAT).await;
    }
}

/// The name among the living of a consumer `w-<rest>`.
pub fn member_name(consumer: &str) -> String {
    format!("{KIND}-{}", consumer.trim_start_matches("w-"))
}

/// Promotes what is due: at its time where this worker knows it, within a second where it does not.
pub async fn promote_forever(shared: Shared, living: Living) {
    let mut all_at = tokio::time::Instant::now() + TIMERS_EVERY;
    loop {
        let (mut lanes, next) = shared.lanes.take_due();
        if tokio::time::Instant::now() >= all_at {
            lanes = lanes_of(&member_name(&shared.me), &living.names(), shared.store.layout().lanes);
            all_at = tokio::time::Instant::now() + TIMERS_EVERY;
        }
        if !lanes.is_empty()
            && let Err(error) = promote(&shared, &lanes).await
            && !error.is_transient()
        {
            error!(%error, "promoting failed");
        }
        let until = next.map_or(all_at, |next| all_at.min(next.into()));
        tokio::select! {
            () = tokio::time::sleep_until(until) => {}
            () = shared.lanes.due_changed() => {}
        }
    }
}

async fn promote(shared: &Shared, lanes: &[u16]) -> Result<(), StoreError> {
    for (lane, promoted) in lanes.iter().zip(shared.store.promote(&shared.me, lanes).await?) {
        let promoted = promoted?;
        if let Some(due) = promoted.next_due {
            shared.lanes.due_in(*lane, due);
        }
        if promoted.handled > 0 {
            shared.lanes.heat([*lane]);
        }
        judge_all(shared, promoted.missed, &Outcome::AckMissed).await?;
    }
    Ok(())
}

/// Judges deliveries that nobody attempted, on the same path as attempts.
async fn judge_all(shared: &Shared, leases: Vec<Lease>, outcome: &Outcome) -> Result<(), StoreError> {
    if leases.is_empty() {
        return Ok(());
    }
    let targets = shared.targets.of(&leases).await?;
    for (lease, target) in leases.into_iter().zip(targets) {
        let Some(target) = target else { continue };
        let verdict =
            judge(&target.subscription.retry, true, lease.tries.progress, outcome, rand::random::<f64>());
        count(shared, outcome, verdict.place);
        let attempt = Some(noted(shared, outcome));
        shared.settle(Settlement { lease, verdict, attempt, ack_timeout: Duration::ZERO }, None);
    }
    Ok(())
}

/// What the delivery's history says of it.
fn noted(shared: &Shared, outcome: &Outcome) -> postroad_model::delivery::Attempt {
    let error = match outcome {
        Outcome::AckMissed => "no acknowledgment came in time",
        _ => "the worker that held it was lost",
    };
    postroad_model::delivery::Attempt {
        number: 0,
        started_at_ms: shared.clock.now_ms(),
        duration_ms: 0,
        status: None,
        error: Some(error.into()),
        response: None,
    }
}

/// Looks for what crashes left lying.
pub async fn sweep_forever(shared: Shared, living: Living) {
    loop {
        // Not all workers at the same moment.
        tokio::time::sleep(shared.config.sweep.mul_f64(0.75 + rand::random::<f64>() / 2.0)).await;
        let names = living.names();
        let lanes = lanes_of(&member_name(&shared.me), &names, shared.store.layout().lanes);
        let consumers: Vec<String> =
            names.iter().map(|name| format!("w-{}", name.trim_start_matches("worker-"))).collect();
        let result = async {
            for lane in &lanes {
                sweep(&shared, *lane, &consumers).await?;
            }
            outbox::empty(&shared, &lanes).await
        };
        if let Err(error) = result.await
            && !error.is_transient()
        {
            error!(%error, "sweeping failed");
        }
    }
}

async fn sweep(shared: &Shared, lane: u16, workers: &[String]) -> Result<(), StoreError> {
    let mut cursor = Some(0);
    while let Some(from) = cursor {
        let swept = shared.store.sweep(&shared.me, shared.config.lease, lane, from, workers).await?;
        cursor = swept.cursor;
        if swept.rearmed > 0 {
            info!(lane, count = swept.rearmed, "mended tokens or timers that were missing");
            shared.metrics.rearmed.inc_by(swept.rearmed);
        }
        if swept.missing > 0 {
            error!(lane, count = swept.missing, "entries vanished from a queue while they were pending");
            shared.metrics.lost.inc_by(swept.missing);
        }
        if !swept.lost.is_empty() {
            info!(lane, count = swept.lost.len(), "took deliveries from a worker that was lost");
            shared.metrics.reclaimed.inc_by(u64::try_from(swept.lost.len()).unwrap_or(0));
            judge_all(shared, swept.lost, &Outcome::WorkerLost).await?;
        }
        for id in swept.unknown {
            introduce(shared, &id).await?;
        }
    }
    Ok(())
}

/// A lane holds entries of a subscription whose settings it lacks.
async fn introduce(shared: &Shared, id: &str) -> Result<(), StoreError> {
    let Ok(id) = SubscriptionId::new(id) else { return Ok(()) };
    match shared.store.subscription(&id).await? {
        Some(known) => {
            info!(subscription.id = %id, "applied settings that its lane lacked");
            shared.store.apply(&known.subscription, known.change, shared.config.limits).await.map(drop)
        }
        // Cancelled, and the tombstone is gone too: what was queued since goes with it.
        None => {
            shared
                .store
                .apply_cancelled(&id, postroad_store::StreamId { ms: shared.redis_now_ms(), seq: 0 })
                .await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lane_has_one_keeper() {
        let living: Vec<String> = ["worker-a", "worker-b", "worker-c"].map(str::to_owned).into();
        let mut all: Vec<u16> = living.iter().flat_map(|name| lanes_of(name, &living, 64)).collect();
        all.sort_unstable();
        assert_eq!(all, (0..64).collect::<Vec<_>>());
        assert!(living.iter().all(|name| (8..=40).contains(&lanes_of(name, &living, 64).len())));
    }

    #[test]
    fn without_a_list_every_worker_looks_after_all() {
        assert_eq!(lanes_of("worker-a", &[], 4), [0, 1, 2, 3]);
    }
}
