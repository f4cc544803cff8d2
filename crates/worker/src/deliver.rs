//! deliver: send, judge, and hand the verdict on to be settled.

use std::{sync::Arc, time::Duration};

use postroad_model::{
    delivery::{
        Attempt, DeadReason, Failure, Health, Hold, Outcome, Place as Goes, Verdict, judge, judge_test,
        parse_retry_after,
    },
    message::Message,
    subscription::RetryPolicy,
    time::millis,
};
use postroad_store::{Lease, Settlement, entry::EntryError};
use reqwest::{Request, Url};
use tokio::time::Instant;
use tracing::{debug, error};

use crate::{
    client::NoAnswer,
    figures,
    metrics::{AttemptEnd, AttemptLabels, DeadLabels},
    places::Place,
    request::{self, Sending},
    shared::Shared,
    targets::Target,
};

/// How long an entry of a newer format is left for newer workers.
const NEWER_WAIT_MS: u64 = 5_000;

/// How long a delivery waits for which this machine lacked descriptors or memory.
const EXHAUSTED_WAIT_MS: u64 = 1_000;
/// How long a subscription waits whose settings this worker cannot read.
pub const UNREADABLE_WAIT: Duration = Duration::from_secs(5);

/// Delivers what a lease stands for.
pub async fn deliver(shared: Shared, lease: Lease, target: Arc<Target>, place: Place) {
    let message = match lease.entry.decode() {
        Ok(message) => message,
        Err(error) => {
            let settlement = unreadable(&shared, lease, &error);
            if matches!(settlement.verdict.place, Goes::Dead(_)) {
                figures::undecodable(&shared, &target);
            }
            return shared.settle(settlement, Some(place));
        }
    };
    // Begun now it might come when another worker has it already.
    let settlement = if lease.since.elapsed() > shared.config.latest_start {
        unsent(lease)
    } else {
        let called = if has_expired(&shared, &lease, &message) {
            Called::none(Outcome::Expired)
        } else {
            send(&shared, &lease, &target, &message).await
        };
        conclude(&shared, lease, &target, &message, &called)
    };
    shared.settle(settlement, Some(place));
}

/// Whether its time to live is over.
pub fn has_expired(shared: &Shared, lease: &Lease, message: &Message) -> bool {
    let of_a_test = || message.expires_at_ms(lease.accepted_ms).filter(|_| message.test);
    lease.expires_ms.or_else(of_a_test).is_some_and(|at| at <= shared.redis_now_ms())
}

/// judge: what becomes of a delivery that came to this.
pub fn conclude(
    shared: &Shared,
    lease: Lease,
    target: &Target,
    message: &Message,
    called: &Called,
) -> Settlement {
    let Called { outcome, attempt, .. } = called;
    let subscription = &target.subscription;
    let progress = lease.tries.progress;
    let mut verdict = if message.test {
        judge_test(progress, outcome)
    } else {
        judge(&subscription.retry, subscription.auto_ack, progress, outcome, rand::random::<f64>())
    };
    if *outcome == Outcome::Unsent {
        verdict.place = Goes::Later { delay_ms: EXHAUSTED_WAIT_MS };
    }
    if !message.test {
        count(shared, outcome, verdict.place);
        figures::attempted(shared, &lease, message, called, &verdict);
    }
    debug!(
        message.id = %message.id,
        subscription.id = %subscription.id,
        attempt = lease.tries.progress.attempts + 1,
        outcome = ?outcome,
        "attempted"
    );
    let ack_timeout = Duration::from_secs(subscription.ack_timeout);
    Settlement { lease, verdict, attempt: attempt.clone(), ack_timeout }
}

async fn send(shared: &Shared, lease: &Lease, target: &Target, message: &Message) -> Called {
    let sending = Sending { message, attempt: lease.tries.progress.attempts + 1 };
    let now_ms = shared.clock.now_ms();
    let build = |url: &Url| request::build(target, url, sending, now_ms, rand::random());
    let mut called = call(shared, target, now_ms, build, Attempt::RESPONSE_BYTES).await;
    if let Some(attempt) = &mut called.attempt {
        attempt.number = sending.attempt;
    }
    called
}

/// What came of a request.
#[derive(Clone)]
pub struct Called {
    /// In a word.
    pub outcome: Outcome,
    /// As it is kept, but for its number; none where nothing was attempted.
    pub attempt: Option<Attempt>,
    /// The first bytes of a 2xx.
    pub body: Vec<u8>,
    /// How long it took.
    pub took: Duration,
}

impl Called {
    /// Of a delivery that nobody attempted.
    pub fn none(outcome: Outcome) -> Self {
        Self { outcome, attempt: None, body: Vec::new(), took: Duration::ZERO }
    }
}

/// send: makes the request and hears what comes of it. So many bytes of the answer are kept.
pub async fn call(
    shared: &Shared,
    target: &Target,
    started_at_ms: u64,
    build: impl FnOnce(&Url) -> Request,
    keep: usize,
) -> Called {
    let mut attempt =
        Attempt { number: 0, started_at_ms, duration_ms: 0, status: None, error: None, response: None };
    let Some(url) = &target.url else {
        attempt.error = Some("the callback URL may not be called; egress.allow can permit it".into());
        return Called { attempt: Some(attempt), ..Called::none(Outcome::Failed(Failure::Blocked)) };
    };
    let request = build(url);
    let began = Instant::now();
    let answer = shared.callbacks.send(request, keep).await;
    let took = began.elapsed();
    attempt.duration_ms = millis(took);
    match answer {
        Ok(answer) => {
            attempt.status = Some(answer.status);
            attempt.response = answer.shown();
            let mut body = answer.body;
            if !(200..300).contains(&answer.status) {
                attempt.error = Some(format!("answered {}", answer.status));
                body = Vec::new();
            }
            let now_ms = shared.clock.now_ms();
            let retry_after_ms = answer.retry_after.and_then(|text| parse_retry_after(&text, now_ms));
            let outcome = Outcome::Answered { status: answer.status, retry_after_ms };
            Called { outcome, attempt: Some(attempt), body, took }
        }
        Err(no_answer) => {
            attempt.error = Some(no_answer.to_string());
            let (outcome, attempt) = match no_answer {
                NoAnswer::Failed { failure, .. } => (Outcome::Failed(failure), Some(attempt)),
                NoAnswer::Exhausted(_) => (Outcome::Unsent, None),
            };
            Called { outcome, attempt, body: Vec::new(), took }
        }
    }
}

/// What cannot be read is dead at once, alone, with its bytes; what a newer release wrote is left to newer
/// workers.
pub fn unreadable(shared: &Shared, lease: Lease, why: &EntryError) -> Settlement {
    error!(subscription.id = %lease.subscription, entry = %lease.id, %why, "cannot read a queued entry");
    let place = match why {
        EntryError::Newer(_) => Goes::Later { delay_ms: NEWER_WAIT_MS },
        EntryError::Broken(_) => {
            let reason = DeadReason::Undecodable;
            shared.metrics.dead.get_or_create(&DeadLabels { reason: reason.as_str() }).inc();
            Goes::Dead(reason)
        }
    };
    let verdict = Verdict { place, progress: lease.tries.progress, health: Health::Unknown, hold: Hold::No };
    Settlement { lease, verdict, attempt: None, ack_timeout: Duration::ZERO }
}

/// A lease that was not used.
pub fn unsent(lease: Lease) -> Settlement {
    let verdict = judge(&RetryPolicy::default(), true, lease.tries.progress, &Outcome::Unsent, 0.0);
    debug_assert_eq!((verdict.health, verdict.hold), (Health::Unknown, Hold::No));
    Settlement { verdict, lease, attempt: None, ack_timeout: Duration::ZERO }
}

/// A lease of a subscription whose settings cannot be read: all of it waits, or its queue would be taken and
/// given back without end.
pub fn waiting(lease: Lease) -> Settlement {
    let mut settlement = unsent(lease);
    settlement.verdict.hold = Hold::For { ms: millis(UNREADABLE_WAIT) };
    settlement
}

/// Counts an outcome and where it leads.
pub fn count(shared: &Shared, outcome: &Outcome, place: Goes) {
    let end = match outcome {
        Outcome::Answered { status: 200..=299, .. } => Some(AttemptEnd::Delivered),
        Outcome::Answered { .. } | Outcome::Refused => Some(AttemptEnd::Refused),
        Outcome::Failed(_) => Some(AttemptEnd::Failed),
        _ => None,
    };
    if let Some(end) = end {
        shared.metrics.attempts.get_or_create(&AttemptLabels { end }).inc();
    }
    match place {
        Goes::Settled => shared.metrics.delivered.inc(),
        Goes::Later { .. } => shared.metrics.retried.inc(),
        Goes::Dead(reason) => {
            shared.metrics.dead.get_or_create(&DeadLabels { reason: reason.as_str() }).inc()
        }
        Goes::AwaitingAck | Goes::Again => 0,
    };
}
