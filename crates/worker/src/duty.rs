//! A worker's duties besides delivering: being heard, and timers.
//!
//! Each lane is looked after by one living worker, found from the list of the living by hashing. Two that
//! disagree for a moment do no harm: every repair is one script and changes nothing the second time.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use postroad_daemon::health::Readiness;
use postroad_member::life;
use postroad_model::{
    delivery::{Attempt, Outcome, Place, judge},
    placement::stable_hash,
    subscription::RetryPolicy,
    time::millis,
};
use postroad_store::{Lease, Settlement, StoreError};
use serde_json::json;
use tracing::{error, info, warn};

use crate::{
    deliver::{UNREADABLE_WAIT, count},
    figures,
    shared::Shared,
    targets::Known,
};

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
        let asked = Instant::now();
        let heard = shared.store.announce(&member, &about).await;
        life::redis_is(&readiness, &heard);
        if let Err(error) = &heard {
            shared.outage.failed(error);
        }
        if let Ok(members) = heard {
            shared.outage.answered();
            shared.redis_clock.set(members.now_ms, asked + asked.elapsed() / 2);
            let (there, here) = (shared.redis_now_ms(), shared.clock.now_ms());
            let ahead = i64::try_from(there).unwrap_or(0) - i64::try_from(here).unwrap_or(0);
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

/// Lanes that are ill, so that each is told of once. One that is keeps nothing from the others.
#[derive(Default)]
pub struct Ill(HashSet<u16>);

impl Ill {
    /// How it went at a lane. Whether to go on with the next one: not while Redis is away.
    pub fn note(&mut self, shared: &Shared, what: &str, lane: u16, result: Result<(), StoreError>) -> bool {
        match result {
            Ok(()) => {
                if self.0.remove(&lane) {
                    info!(lane, "{what} a lane goes on");
                }
                true
            }
            Err(error) if error.is_transient() => {
                shared.outage.failed(&error);
                false
            }
            Err(error) => {
                if self.0.insert(lane) {
                    error!(lane, %error, "{what} a lane failed");
                }
                true
            }
        }
    }
}

/// Promotes what is due: at its time where this worker knows it, within a second where it does not.
pub async fn promote_forever(shared: Shared, living: Living) {
    let mut all_at = tokio::time::Instant::now() + TIMERS_EVERY;
    let mut ill = Ill::default();
    loop {
        let (mut lanes, next) = shared.lanes.take_due();
        if tokio::time::Instant::now() >= all_at {
            let kept = lanes_of(&member_name(&shared.me), &living.names(), shared.store.layout().lanes);
            lanes.retain(|lane| kept.binary_search(lane).is_err());
            lanes.extend(kept);
            all_at = tokio::time::Instant::now() + TIMERS_EVERY;
        }
        if !lanes.is_empty() {
            promote(&shared, &lanes, &mut ill).await;
        }
        let until = next.map_or(all_at, |next| all_at.min(next.into()));
        tokio::select! {
            () = tokio::time::sleep_until(until) => {}
            () = shared.lanes.due_changed() => {}
        }
    }
}

async fn promote(shared: &Shared, lanes: &[u16], ill: &mut Ill) {
    let trace_ms = millis(shared.config.retention);
    let answers = match shared.store.promote(&shared.me, lanes, trace_ms).await {
        Ok(answers) => answers,
        Err(error) => return shared.outage.failed(&error),
    };
    for (lane, answer) in lanes.iter().zip(answers) {
        let result = async {
            let promoted = answer?;
            if let Some(due) = promoted.next_due {
                shared.lanes.due_in(*lane, due);
            }
            if promoted.handled > 0 {
                shared.lanes.heat([*lane]);
            }
            if promoted.notes {
                shared.outbox.note(*lane);
            }
            for (tenant, channel) in &promoted.dead {
                figures::expired(shared, tenant, channel);
            }
            judge_all(shared, promoted.missed, &Outcome::AckMissed).await
        };
        ill.note(shared, "promoting", *lane, result.await);
    }
}

/// Judges deliveries that nobody attempted, on the same path as attempts.
pub async fn judge_all(shared: &Shared, leases: Vec<Lease>, outcome: &Outcome) -> Result<(), StoreError> {
    if leases.is_empty() {
        return Ok(());
    }
    let known = shared.targets.of(&leases).await?;
    for (lease, known) in leases.into_iter().zip(known) {
        let policy = match &known {
            Known::Target(target) => target.subscription.retry,
            Known::Unreadable => RetryPolicy::default(),
            Known::Cancelled => continue,
        };
        let mut verdict = judge(&policy, true, lease.tries.progress, outcome, rand::random::<f64>());
        let mut attempt = Some(noted(shared, outcome));
        let mut ack_timeout = Duration::ZERO;
        if matches!((&known, outcome), (Known::Unreadable, Outcome::AckMissed)) {
            // Whether there is another try only its settings say.
            verdict.place = Place::AwaitingAck;
            verdict.progress = lease.tries.progress;
            (attempt, ack_timeout) = (None, UNREADABLE_WAIT);
        }
        count(shared, outcome, verdict.place);
        figures::unattempted(shared, &lease, outcome, &verdict);
        shared.settle(Settlement { lease, verdict, attempt, ack_timeout }, None);
    }
    Ok(())
}

/// What the delivery's history says of it.
fn noted(shared: &Shared, outcome: &Outcome) -> Attempt {
    let error = match outcome {
        Outcome::AckMissed => "no acknowledgment came in time",
        _ => Attempt::LOST,
    };
    Attempt {
        number: 0,
        started_at_ms: shared.clock.now_ms(),
        duration_ms: 0,
        status: None,
        error: Some(error.into()),
        response: None,
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
