//! What the worker's loops share.

use std::sync::Arc;

use postroad_daemon::clock::Clock;
use postroad_store::Store;
use tokio::sync::mpsc;

use crate::{
    client::Callbacks,
    config::WorkerConfig,
    lanes::Lanes,
    metrics::Metrics,
    outage::Outage,
    outbox::Outboxes,
    places::{Place, Places},
    redis_clock::RedisClock,
    targets::Targets,
};
use postroad_store::Settlement;

/// A settlement on its way, and the place that is freed with it. What was never taken by `take` (a lost
/// worker's delivery, a missed acknowledgment) has none.
pub struct Outgoing {
    /// What became of the lease.
    pub settlement: Settlement,
    /// The place.
    pub place: Option<Place>,
}

/// What the loops share; cheap to clone.
#[derive(Clone)]
pub struct Shared(Arc<Inner>);

/// See [`Shared`].
pub struct Inner {
    /// Redis.
    pub store: Store,
    /// This worker's name, which is also its consumer's: `w-…`.
    pub me: String,
    /// The configuration.
    pub config: WorkerConfig,
    /// The places.
    pub places: Arc<Places>,
    /// Which lanes are worth a look.
    pub lanes: Lanes,
    /// Subscriptions ready to be delivered to.
    pub targets: Targets,
    /// The HTTP client.
    pub callbacks: Callbacks,
    /// What is counted.
    pub metrics: Metrics,
    /// Where settlements go.
    pub settlements: mpsc::UnboundedSender<Outgoing>,
    /// This worker's clock.
    pub clock: Clock,
    /// Redis's clock.
    pub redis_clock: RedisClock,
    /// Whether Redis was away lately.
    pub outage: Outage,
    /// Lanes with something in their outbox.
    pub outbox: Outboxes,
}

impl std::ops::Deref for Shared {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Shared {
    /// Shares it.
    pub fn new(inner: Inner) -> Self {
        Self(Arc::new(inner))
    }

    /// Redis's clock; this machine's before Redis was first heard.
    pub fn redis_now_ms(&self) -> u64 {
        self.redis_clock.now_ms().unwrap_or_else(|| self.clock.now_ms())
    }

    /// Sends a settlement on its way.
    pub fn settle(&self, settlement: Settlement, place: Option<Place>) {
        // The receiver outlives every sender but at the very end; then the lease runs out by itself.
        let _ = self.settlements.send(Outgoing { settlement, place });
    }
}
