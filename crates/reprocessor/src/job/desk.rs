//! Making jobs, looking at them, stopping them.

use postroad_model::{
    id::{JobId, Kind, SubscriptionId, mint},
    names::Tenant,
    time::Time,
};
use postroad_store::{Job, JobState, Store};
use serde::Serialize;

use super::spec::{At, Note, Plan, Spec, write};
use crate::{
    dead::queues,
    error::Error,
    filter::{Filter, Wanted},
};

/// The most subscriptions that one job goes through.
const MOST_QUEUES: usize = 10_000;
/// More jobs than the store ever remembers.
const REMEMBERED: usize = 100_000;

/// How a job comes along.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Progress {
    /// Its id.
    pub job_id: String,
    /// `waiting`, `running`, `done`, `stopped` or `failed`.
    pub state: &'static str,
    /// How many letters match, where that is known without looking at each.
    pub matched: Option<u64>,
    /// Letters moved.
    pub moved: u64,
    /// Letters that matched and could not be moved: their subscription was cancelled, or they were moved or
    /// purged by others.
    pub skipped: u64,
    /// The most letters that it may move.
    pub limit: Option<u64>,
    /// Letters a second that it may move.
    pub rate: Option<f64>,
    /// Letters that it looked at.
    pub scanned: u64,
    /// Letters that there were to look at when it was made.
    pub letters: u64,
    /// Subscriptions whose queues are full, a few of them: they go on when there is room.
    pub waiting_for: Vec<SubscriptionId>,
    /// What was asked for.
    pub filter: Wanted,
    /// When it was made.
    pub started_at: Time,
    /// When it last got on.
    pub updated_at: Time,
    /// Why it failed.
    pub error: Option<String>,
}

impl Progress {
    fn new(job: &Job, spec: Spec, moved: u64) -> Self {
        let note: Note = serde_json::from_str(&job.note).unwrap_or_default();
        let is_whole = Filter::new(&spec.filter).is_ok_and(|filter| filter.is_whole());
        let is_open = job.state.is_open();
        Self {
            job_id: job.id.clone(),
            state: job.state.as_str(),
            matched: is_whole.then_some(spec.letters),
            moved: job.moved.unwrap_or(moved),
            skipped: note.skipped,
            limit: spec.limit,
            rate: spec.rate,
            scanned: note.scanned,
            letters: spec.letters,
            waiting_for: if is_open { note.waiting_for } else { Vec::new() },
            filter: spec.filter,
            started_at: Time::from_millis(job.made_ms),
            updated_at: Time::from_millis(job.changed_ms),
            error: note.error,
        }
    }
}

/// Makes a job that replays what `spec` means and is dead now; with an `owner` it is that runner's to take.
pub async fn make(
    store: &Store,
    tenant: &Tenant,
    mut spec: Spec,
    now_ms: u64,
    most_open: u64,
    owner: Option<&str>,
) -> Result<Progress, Error> {
    let filter = Filter::new(&spec.filter)?;
    let ids: Vec<SubscriptionId> =
        queues(store, tenant, &filter).await?.into_iter().map(|queue| queue.id).collect();
    let figures = store.dead_queues_of(&ids).await.map_err(Error::Read)?;
    if figures.len() > MOST_QUEUES {
        return Err(Error::TooManyQueues { count: figures.len(), most: MOST_QUEUES });
    }
    spec.letters = figures.iter().map(|queue| queue.count).sum();
    let plan: Plan = figures.into_iter().map(|queue| (queue.subscription, At(queue.newest))).collect();
    let id = mint(Kind::Job, now_ms, rand::random());
    let made = store.make_job(&id, tenant, &write(&spec), &write(&plan), owner, most_open).await;
    match made.map_err(Error::Jobs)? {
        None => progress(store, tenant, &id).await,
        Some(open) => Err(Error::TooManyJobs(open)),
    }
}

/// How a job comes along.
pub async fn progress(store: &Store, tenant: &Tenant, id: &str) -> Result<Progress, Error> {
    let unknown = || Error::no_such("replay job", id);
    JobId::new(id).map_err(|_| unknown())?;
    // The lanes first: once a job has ended they know nothing, and its record does.
    let moved = store.job_moved(id).await.map_err(Error::Jobs)?;
    let job =
        store.job(id).await.map_err(Error::Jobs)?.filter(|job| job.tenant == *tenant).ok_or_else(unknown)?;
    let spec = Spec::read(&job.spec).ok_or_else(unknown)?;
    Ok(Progress::new(&job, spec, moved))
}

/// A page of the tenant's jobs behind another one, newest first, and the job behind which more follow.
pub async fn list(
    store: &Store,
    tenant: &Tenant,
    limit: usize,
    after: Option<&str>,
) -> Result<(Vec<Progress>, Option<String>), Error> {
    let ids = store.jobs(REMEMBERED).await.map_err(Error::Jobs)?;
    // A job that is forgotten meanwhile was among the oldest.
    let from = after.map_or(0, |after| ids.iter().position(|id| id == after).map_or(ids.len(), |at| at + 1));
    let mut found: Vec<Progress> = Vec::new();
    for some in ids[from..].chunks(100) {
        for job in store.job_records(some).await.map_err(Error::Jobs)? {
            let Some(spec) = Spec::read(&job.spec).filter(|_| job.tenant == *tenant) else { continue };
            if found.len() == limit {
                let last = found.last().map(|last| last.job_id.clone());
                return Ok((found, last));
            }
            found.push(match job.moved {
                Some(moved) => Progress::new(&job, spec, moved),
                None => match progress(store, tenant, &job.id).await {
                    Err(Error::NoSuch { .. }) => continue,
                    progress => progress?,
                },
            });
        }
    }
    Ok((found, None))
}

/// Stops a job: nothing is moved any more once this has answered. Stopping twice is fine.
pub async fn stop(store: &Store, tenant: &Tenant, id: &str) -> Result<Progress, Error> {
    progress(store, tenant, id).await?;
    match store.stop_job(id).await.map_err(Error::Jobs)? {
        Some(state @ (JobState::Done | JobState::Failed)) => {
            Err(Error::Finished { id: id.to_owned(), state })
        }
        Some(JobState::Waiting | JobState::Running | JobState::Stopped) => {
            store.end_job(id).await.map_err(Error::Jobs)?;
            progress(store, tenant, id).await
        }
        None => Err(Error::no_such("replay job", id)),
    }
}
