//! What the worker counts.

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum AttemptEnd {
    /// 2xx.
    Delivered,
    /// Another status.
    Refused,
    /// No answer.
    Failed,
}

/// Labels of attempts.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AttemptLabels {
    /// How it ended.
    pub end: AttemptEnd,
}

/// Labels of dead letters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DeadLabels {
    /// Why.
    pub reason: &'static str,
}

/// The worker's metrics; clones count together.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// Deliveries taken and not settled.
    pub in_flight: Gauge,
    /// Attempts, by how they ended.
    pub attempts: Family<AttemptLabels, Counter>,
    /// Deliveries settled as delivered.
    pub delivered: Counter,
    /// Deliveries scheduled for another attempt.
    pub retried: Counter,
    /// Deliveries that died here.
    pub dead: Family<DeadLabels, Counter>,
    /// Outcomes that came too late to count.
    pub stale: Counter,
    /// Deliveries taken from workers that were lost.
    pub reclaimed: Counter,
    /// Tokens and timers that were missing.
    pub rearmed: Counter,
    /// Entries that vanished from under their group.
    pub lost: Counter,
    /// Subscriptions that were disabled here.
    pub disabled: Counter,
    /// Milliseconds by which Redis's clock is ahead of this worker's.
    pub clock_offset_ms: Gauge,
}

impl Metrics {
    /// Registers everything.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "postroad_deliveries_in_flight",
            "Deliveries taken and not settled",
            self.in_flight.clone(),
        );
        registry.register("postroad_attempts", "Attempts, by how they ended", self.attempts.clone());
        registry.register(
            "postroad_deliveries_delivered",
            "Deliveries settled as delivered",
            self.delivered.clone(),
        );
        registry.register("postroad_deliveries_retried", "Deliveries scheduled again", self.retried.clone());
        registry.register("postroad_deliveries_dead", "Deliveries that died, by reason", self.dead.clone());
        registry.register(
            "postroad_stale_settles",
            "Outcomes that came too late to count",
            self.stale.clone(),
        );
        registry.register(
            "postroad_deliveries_reclaimed",
            "Deliveries of lost workers",
            self.reclaimed.clone(),
        );
        registry.register(
            "postroad_tokens_rearmed",
            "Tokens and timers that were missing",
            self.rearmed.clone(),
        );
        registry.register(
            "postroad_entries_lost",
            "Entries that vanished from their queue",
            self.lost.clone(),
        );
        registry.register("postroad_subscriptions_disabled", "Subscriptions disabled", self.disabled.clone());
        registry.register(
            "postroad_redis_clock_offset_milliseconds",
            "By how much Redis's clock is ahead of this worker's",
            self.clock_offset_ms.clone(),
        );
    }
}
