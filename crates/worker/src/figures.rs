//! What the worker adds to the figures of channels.

use std::time::Duration;

use postroad_model::{
    delivery::{DeadReason, Outcome, Verdict},
    figures::{Count, Judged},
    message::Message,
    names::{ChannelName, Tenant},
};
use postroad_store::Lease;

use crate::{deliver::Called, metrics::DeadLabels, shared::Shared, targets::Target};

/// Counts an attempt and what was judged of it.
pub fn attempted(shared: &Shared, lease: &Lease, message: &Message, called: &Called, verdict: &Verdict) {
    let Called { outcome, attempt, took, .. } = called;
    let judged = Judged {
        outcome,
        before: lease.tries.progress,
        verdict,
        took_us: micros(*took),
        age_ms: shared.redis_now_ms().saturating_sub(lease.accepted_ms),
    };
    shared.tally.on(&message.tenant, Some(&message.channel), |figures| {
        // It was handed over in a batch, and its subscriber said no to it alone.
        if *outcome == Outcome::Refused && attempt.is_some() {
            figures.add(Count::Attempted, 1);
        }
        figures.judged(judged);
    });
}

/// Counts a delivery that nobody attempted: whose worker was lost, or whose acknowledgment did not come.
pub fn unattempted(shared: &Shared, lease: &Lease, outcome: &Outcome, verdict: &Verdict) {
    // Rare enough to be read once more. What cannot be read is of no channel.
    if let Ok(message) = lease.entry.decode() {
        attempted(shared, lease, &message, &Called::none(outcome.clone()), verdict);
    }
}

/// Counts a delivery that is dead because nobody can read it, or say of which channel it is.
pub fn undecodable(shared: &Shared, target: &Target) {
    shared.tally.on(&target.subscription.tenant, None, |figures| figures.add(Count::Dead, 1));
}

/// Counts a delivery whose time to live ended while it waited.
pub fn expired(shared: &Shared, tenant: &Tenant, channel: &ChannelName) {
    shared.tally.on(tenant, Some(channel), |figures| figures.add(Count::Dead, 1));
    shared.metrics.dead.get_or_create(&DeadLabels { reason: DeadReason::Expired.as_str() }).inc();
}

/// Counts a message of Postroad's own.
pub fn published(shared: &Shared, message: &Message, took: Duration) {
    let bytes = u64::try_from(message.payload.body.len()).unwrap_or(u64::MAX);
    shared
        .tally
        .on(&message.tenant, Some(&message.channel), |figures| figures.published(bytes, micros(took)));
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
