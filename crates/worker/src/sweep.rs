//! sweep: what crashes left lying, lane by lane.

use std::time::Duration;

use postroad_model::{delivery::Outcome, id::SubscriptionId};
use postroad_store::StoreError;
use tracing::{error, info};

use crate::{
    duty::{Ill, Living, judge_all, lanes_of, member_name},
    shared::Shared,
};

/// Longer than any lease: nothing is taken for lost.
const NEVER: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Looks for what crashes left lying.
pub async fn sweep_forever(shared: Shared, living: Living) {
    let mut ill = Ill::default();
    loop {
        // Not all workers at the same moment.
        tokio::time::sleep(shared.config.sweep.mul_f64(0.75 + rand::random::<f64>() / 2.0)).await;
        let names = living.names();
        let lanes = lanes_of(&member_name(&shared.me), &names, shared.store.layout().lanes);
        let consumers: Vec<String> =
            names.iter().map(|name| format!("w-{}", name.trim_start_matches("worker-"))).collect();
        for lane in lanes {
            let result = sweep(&shared, lane, &consumers).await;
            if !ill.note(&shared, "sweeping", lane, result) {
                break;
            }
        }
    }
}

async fn sweep(shared: &Shared, lane: u16, workers: &[String]) -> Result<(), StoreError> {
    let mut cursor = Some(0);
    while let Some(from) = cursor {
        let lease = if shared.outage.is_over() { shared.config.lease } else { NEVER };
        let known = shared.places.handles_in(lane);
        let swept = shared.store.sweep(&shared.me, lease, lane, from, workers, &known).await?;
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
