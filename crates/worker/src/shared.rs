//! What the worker's loops share.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use postroad_daemon::clock::Clock;
use postroad_store::Store;
use tokio::sync::{RwLock, mpsc};

use crate::{
    client::Callbacks,
    config::WorkerConfig,
    lanes::Lanes,
    metrics::Metrics,
    places::{Place, Places},
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
    /// Deliveries run side by side (readers), but one that keeps killing its workers runs alone (writer).
    pub alone: Arc<RwLock<()>>,
    /// This worker's clock.
    pub clock: Clock,
    /// By how many milliseconds Redis's clock is ahead of it.
    pub redis_ahead_ms: AtomicI64,
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

    /// Redis's clock, as far as this worker knows it.
    pub fn redis_now_ms(&self) -> u64 {
        self.clock.now_ms().saturating_add_signed(self.redis_ahead_ms.load(Ordering::Relaxed))
    }

    /// Sends a settlement on its way.
    pub fn settle(&self, settlement: Settlement, place: Option<Place>) {
        // The receiver outlives every sender but at the very end; then the lease runs out by itself.
        let _ = self.settlements.send(Outgoing { settlement, place });
    }
}
