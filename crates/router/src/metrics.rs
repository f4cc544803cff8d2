//! What the router counts.

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

/// The router's metrics; clones count together.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// Partitions held.
    pub partitions: Gauge,
    /// Partitions that are not read on, since too much of theirs waits for lanes that are ill.
    pub paused: Gauge,
    /// Subscriptions known.
    pub subscriptions: Gauge,
    /// Messages matched.
    pub routed: Counter,
    /// Deliveries put into queues.
    pub enqueued: Counter,
    /// Messages that no subscription matched.
    pub unroutable: Counter,
    /// Entries that could not be decoded and were put aside.
    pub undecodable: Counter,
    /// Times that a lane was found to lack entries that it had.
    pub gaps: Counter,
    /// Queues whose key held something else.
    pub broken: Counter,
    /// Entries of history let go.
    pub trimmed: Counter,
    /// Messages that wait to become due, in the partitions held.
    pub delayed: Gauge,
    /// Those that should have been moved more than a second ago.
    pub overdue: Gauge,
    /// Messages that became due and were moved.
    pub due: Counter,
}

impl Metrics {
    /// Registers everything.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("postroad_router_partitions", "Partitions held", self.partitions.clone());
        registry.register(
            "postroad_router_partitions_paused",
            "Partitions that are not read on: too much of theirs waits for lanes that take nothing",
            self.paused.clone(),
        );
        registry.register("postroad_router_subscriptions", "Subscriptions known", self.subscriptions.clone());
        registry.register("postroad_messages_routed", "Messages matched", self.routed.clone());
        registry.register(
            "postroad_deliveries_enqueued",
            "Deliveries put into queues",
            self.enqueued.clone(),
        );
        registry.register(
            "postroad_messages_unroutable",
            "Messages without a subscription",
            self.unroutable.clone(),
        );
        registry.register(
            "postroad_entries_undecodable",
            "Entries that could not be decoded and were put aside",
            self.undecodable.clone(),
        );
        registry.register("postroad_lane_gaps", "Times that a lane lacked entries it had", self.gaps.clone());
        registry.register(
            "postroad_queues_broken",
            "Queues whose key held something else",
            self.broken.clone(),
        );
        registry.register("postroad_history_trimmed", "Entries of history let go", self.trimmed.clone());
        registry.register(
            "postroad_messages_delayed",
            "Messages that wait to become due, in the partitions held",
            self.delayed.clone(),
        );
        registry.register(
            "postroad_messages_overdue",
            "Messages that were due more than a second ago and still wait, in the partitions held",
            self.overdue.clone(),
        );
        registry.register("postroad_messages_due", "Messages that became due", self.due.clone());
    }
}
