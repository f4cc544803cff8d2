//! What a reprocessor counts.

use postroad_store::JobState;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// A reprocessor's metrics; clones count together.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// Dead letters moved back into their queues.
    pub replayed: Counter,
    /// Deliveries of history that were asked for once more.
    pub again: Counter,
    /// Dead letters let go.
    pub purged: Counter,
    /// Dead letters that there are, of all tenants.
    pub dead: Gauge,
    jobs: Family<JobLabels, Gauge>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct JobLabels {
    state: &'static str,
}

const STATES: [JobState; 5] =
    [JobState::Waiting, JobState::Running, JobState::Done, JobState::Stopped, JobState::Failed];

impl Metrics {
    /// So many jobs are remembered in each state.
    pub fn jobs_are(&self, counts: &[(JobState, u64)]) {
        for state in STATES {
            let count = counts.iter().find(|(known, _)| *known == state).map_or(0, |(_, count)| *count);
            let gauge = self.jobs.get_or_create(&JobLabels { state: state.as_str() });
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Registers everything.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "postroad_dead_letters_replayed",
            "Dead letters that this process moved back into their queues",
            self.replayed.clone(),
        );
        registry.register(
            "postroad_history_replayed",
            "Deliveries of history that this process asked for once more",
            self.again.clone(),
        );
        registry.register(
            "postroad_dead_letters_purged",
            "Dead letters that this process let go because someone asked for it",
            self.purged.clone(),
        );
        registry.register(
            "postroad_dead_letters",
            "Dead letters that there are, over all tenants; every reprocessor says the same",
            self.dead.clone(),
        );
        registry.register(
            "postroad_replay_jobs",
            "Replay jobs that are remembered, by state; every reprocessor says the same",
            self.jobs.clone(),
        );
    }
}
