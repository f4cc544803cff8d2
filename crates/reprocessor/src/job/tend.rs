//! tend: jobs that nobody runs are run here, and those that are over are ended.

use std::{collections::HashMap, sync::Arc, time::Duration};

use postroad_store::StoreError;
use tokio::{
    sync::Notify,
    task::{Id, JoinSet},
};
use tracing::{error, warn};

use super::{run::Runner, spec::Order};

/// How often jobs are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How soon at most, when there is reason to look at once.
const LOOK_AT_MOST: Duration = Duration::from_millis(20);
/// The most jobs at a time. Waiting ones cost next to nothing, and those that move take turns.
const MOST: usize = 1_000;

/// Runs jobs until it is told to stop; then waits until each is given back.
pub async fn tend_forever(runner: Arc<Runner>, nudge: Arc<Notify>) {
    let mut tasks = JoinSet::new();
    let mut held: HashMap<Id, String> = HashMap::new();
    let mut was_well = true;
    while !runner.stop.is_requested() {
        match look(&runner, &mut tasks, &mut held).await {
            Ok(()) => was_well = true,
            Err(error) => {
                if was_well {
                    warn!(%error, "cannot look for replay jobs");
                }
                was_well = false;
            }
        }
        let jitter = Duration::from_millis(rand::random::<u64>() % 200);
        tokio::select! {
            () = runner.stop.requested() => {}
            () = nudge.notified() => {}
            Some(ended) = tasks.join_next_with_id() => {
                let id = match ended {
                    Ok((id, ())) => id,
                    Err(panicked) => panicked.id(),
                };
                held.remove(&id);
            }
            () = tokio::time::sleep(LOOK_EVERY + jitter) => {}
        }
        tokio::time::sleep(LOOK_AT_MOST).await;
    }
    while tasks.join_next().await.is_some() {}
}

async fn look(
    runner: &Arc<Runner>,
    tasks: &mut JoinSet<()>,
    held: &mut HashMap<Id, String>,
) -> Result<(), StoreError> {
    let (ids, counts) = runner.store.look_at_jobs(runner.lease_ms(), MOST).await?;
    runner.metrics.jobs_are(&counts);
    for id in ids {
        if held.len() >= MOST || held.values().any(|known| *known == id) {
            continue;
        }
        let Some(job) = runner.store.job(&id).await? else { continue };
        // Jobs of other kinds are others' to run.
        if Order::read(&job.spec).is_none() {
            continue;
        }
        if !job.state.is_open() {
            runner.store.end_job(&id).await?;
        } else {
            let task = tasks.spawn(run(Arc::clone(runner), id.clone()));
            held.insert(task.id(), id);
        }
    }
    Ok(())
}

async fn run(runner: Arc<Runner>, id: String) {
    if let Err(error) = runner.run(&id, &|_| {}).await {
        let error = anyhow::Error::from(error);
        error!(job.id = id, error = format!("{error:#}"), "a replay job was left where it is");
    }
}
