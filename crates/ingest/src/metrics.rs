//! What the API counts.

use prometheus_client::{metrics::counter::Counter, registry::Registry};

/// The API's metrics; clones count together.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// Messages stored.
    pub accepted: Counter,
    /// Messages whose id was there before.
    pub duplicates: Counter,
    /// Messages refused because something was wrong with them, or their channel full.
    pub refused: Counter,
    /// Messages refused because Redis was away or full.
    pub unavailable: Counter,
}

impl Metrics {
    /// Registers everything.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("postroad_messages_accepted", "Messages stored", self.accepted.clone());
        registry.register(
            "postroad_messages_duplicate",
            "Messages whose id was there before",
            self.duplicates.clone(),
        );
        registry.register(
            "postroad_messages_refused",
            "Messages with something wrong, or whose channel was full",
            self.refused.clone(),
        );
        registry.register(
            "postroad_messages_unavailable",
            "Messages refused because Redis was away or full",
            self.unavailable.clone(),
        );
    }
}
