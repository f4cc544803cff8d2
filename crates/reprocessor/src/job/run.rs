//! Running a job, from taking it to its end.

use std::{sync::Arc, time::Duration};

use postroad_daemon::stop::Stop;
use postroad_model::time::millis;
use postroad_store::{Backoff, Job, JobState, LaneLimits, Store};
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tracing::{info, warn};

use super::{
    history::History,
    move_on::DeadLetters,
    spec::{Cursor, Note, Order, Plan, write},
    tenure::{Left, Tenure},
};
use crate::{error::Error, filter::Filter, metrics::Metrics};

/// Whoever runs jobs. Holds nothing of any one of them: all of that lies in Redis.
pub struct Runner {
    /// Redis.
    pub store: Store,
    /// Its name among the living.
    pub me: String,
    /// How long a job stays with a runner that is not heard of it again.
    pub lease: Duration,
    /// The most entries that a queue may hold after a replay into it.
    pub max_queued: u64,
    /// How long traces are kept.
    pub retention: Duration,
    /// The bounds of a queue, for settings that a lane lacks.
    pub limits: LaneLimits,
    /// History is not replayed while Redis uses this much of its memory.
    pub max_memory_percent: u8,
    /// When to stop.
    pub stop: Stop,
    /// What becomes of a job then.
    pub on_stop: OnStop,
    /// Places to read dead letters at: bounds the memory of all jobs together, and gives each its turn.
    pub places: Arc<Semaphore>,
    /// What is counted.
    pub metrics: Metrics,
}

/// What becomes of a job whose runner is told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnStop {
    /// Somebody else goes on with it.
    GiveBack,
    /// It is stopped.
    StopJob,
}

/// How far a job has come, for whoever looks on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen {
    /// Letters moved.
    pub moved: u64,
    /// Letters that matched and could not be moved.
    pub skipped: u64,
    /// Letters looked at.
    pub scanned: u64,
    /// Letters there are to look at.
    pub letters: u64,
    /// What keeps it from going on.
    pub trouble: Option<String>,
}

/// Is told how far a job has come.
pub type Tell<'a> = &'a (dyn Fn(&Seen) + Send + Sync);

/// How running a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The job is over.
    Finished(JobState),
    /// Somebody else has it.
    Lost,
    /// It was given back.
    GivenBack,
}

impl Runner {
    /// The lease in milliseconds.
    pub fn lease_ms(&self) -> u64 {
        millis(self.lease)
    }

    /// Takes a job and runs it to its end, through outages of Redis. Dropping this at any point loses nothing.
    ///
    /// Whatever goes wrong, it goes on as another runner would: it takes the job again, under a new epoch, so
    /// that what is still under way of before either has been counted by then or never takes place.
    pub async fn run(&self, id: &str, tell: Tell<'_>) -> Result<Ended, Error> {
        let mut backoff = Backoff::default();
        loop {
            let mut has_begun = false;
            match self.hold(id, tell, &mut has_begun).await {
                Ok(Some(ended)) => return Ok(ended),
                Ok(None) => {}
                Err(error) if error.is_transient() => {
                    let error = anyhow::Error::from(error);
                    warn!(job.id = id, error = format!("{error:#}"), "a replay job waits for Redis");
                    tell(&Seen { trouble: Some(format!("{error:#}")), ..Seen::default() });
                }
                Err(error) => return self.fail(id, error).await,
            }
            if has_begun {
                backoff.reset();
            }
            if !self.stop.sleep(backoff.next_delay()).await {
                return self.interrupted(id).await;
            }
        }
    }

    /// Takes a job and goes on with it; `None`: to be taken again.
    async fn hold(&self, id: &str, tell: Tell<'_>, has_begun: &mut bool) -> Result<Option<Ended>, Error> {
        let taken = self.store.take_job(id, &self.me, self.lease_ms()).await.map_err(Error::Jobs)?;
        let Some(mine) = taken else { return self.over(id).await.map(Some) };
        let Some(job) = self.store.job(id).await.map_err(Error::Jobs)? else { return Ok(Some(Ended::Lost)) };
        let order = Order::read(&job.spec).ok_or_else(|| Error::BadJob {
            id: id.to_owned(),
            problem: "it is of a kind that this release does not know".into(),
        })?;
        let plan = self.store.job_plan(id).await.map_err(Error::Jobs)?;
        let moved = self.store.open_job(&mine).await.map_err(Error::Jobs)?;
        match order {
            Order::DeadLetters(spec) => {
                let plan: Plan = part(id, "plan", &plan)?;
                let cursor: Cursor = cursor(&job)?;
                let note: Note = serde_json::from_str(&job.note).unwrap_or_default();
                let filter = Filter::new(&spec.filter)?;
                let tenure =
                    DeadLetters::new(self, job, mine, &spec, filter, plan, &cursor, note, moved, tell);
                self.go_on(id, tenure, has_begun).await
            }
            Order::History(replay) => {
                let upto = part(id, "plan", &plan)?;
                let cursor = cursor(&job)?;
                let note = serde_json::from_str(&job.note).unwrap_or_default();
                let tenure = History::new(self, job, mine, replay, upto, cursor, note, moved, tell);
                self.go_on(id, tenure, has_begun).await
            }
        }
    }

    async fn go_on(
        &self,
        id: &str,
        mut tenure: impl Tenure,
        has_begun: &mut bool,
    ) -> Result<Option<Ended>, Error> {
        // Only from here on is the count the last word.
        if !tenure.save(JobState::Running).await? {
            return self.over(id).await.map(Some);
        }
        *has_begun = true;
        match tenure.go().await? {
            Left::Lost => Ok(None),
            Left::Through => {
                if tenure.save(JobState::Done).await? {
                    info!(job.id = id, moved = tenure.moved(), "a replay job is done");
                }
                self.over(id).await.map(Some)
            }
            Left::Interrupted => {
                let state = match self.on_stop {
                    OnStop::GiveBack => JobState::Waiting,
                    OnStop::StopJob => JobState::Running,
                };
                tenure.save(state).await?;
                self.interrupted(id).await.map(Some)
            }
        }
    }

    async fn interrupted(&self, id: &str) -> Result<Ended, Error> {
        match self.on_stop {
            OnStop::GiveBack => Ok(Ended::GivenBack),
            OnStop::StopJob => {
                self.store.stop_job(id).await.map_err(Error::Jobs)?;
                self.over(id).await
            }
        }
    }

    /// What became of a job that is not ours to run; ends it where it is finished.
    pub(super) async fn over(&self, id: &str) -> Result<Ended, Error> {
        match self.store.job(id).await.map_err(Error::Jobs)? {
            Some(job) if !job.state.is_open() => {
                self.store.end_job(id).await.map_err(Error::Jobs)?;
                Ok(Ended::Finished(job.state))
            }
            _ => Ok(Ended::Lost),
        }
    }

    /// Lets a job be that cannot go on, with the reason in its record.
    async fn fail(&self, id: &str, error: Error) -> Result<Ended, Error> {
        let Some(job) = self.store.job(id).await.map_err(Error::Jobs)? else { return Err(error) };
        let note: Note = serde_json::from_str(&job.note).unwrap_or_default();
        let error = anyhow::Error::from(error);
        warn!(job.id = id, error = format!("{error:#}"), "a replay job cannot go on");
        let note = write(&Note { error: Some(format!("{error:#}")), ..note });
        let saved = self.store.save_job(id, &self.me, JobState::Failed, &job.cursor, &note).await;
        saved.map_err(Error::Jobs)?;
        self.over(id).await
    }
}

/// Where a job goes on; one that nobody has begun, at the beginning.
fn cursor<T: Default + DeserializeOwned>(job: &Job) -> Result<T, Error> {
    if job.cursor.is_empty() { Ok(T::default()) } else { part(&job.id, "cursor", &job.cursor) }
}

/// A part of a job's record.
fn part<T: DeserializeOwned>(id: &str, name: &str, text: &str) -> Result<T, Error> {
    serde_json::from_str(text)
        .map_err(|error| Error::BadJob { id: id.to_owned(), problem: format!("its {name}: {error}") })
}
