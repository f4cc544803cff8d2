//! Replay jobs: their records, and who runs them.
//!
//! A job is made, taken with a lease, brought forward and finished (or stopped by anybody) in the control tag.
//! What it moves is counted where it moves: in the lanes, or of history in the partitions. A runner first takes the
//! job, which gives it an epoch, then opens all of them with that epoch, which shuts out every earlier runner and
//! tells what they moved, and then saves once: from a `true` on it alone moves, and knows the count. A finished job is
//! ended by whoever finds it: all of them are closed, and what they counted goes into the record.

use postroad_model::names::Tenant;
use redis::{Pipeline, Value};

use crate::{
    Store,
    error::StoreError,
    keys::{self, Tag},
    link::checked,
    reply::{array, count, int, odd, text},
    script::{self, Call},
};

/// How a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobState {
    /// Nobody has begun it.
    Waiting,
    /// Somebody runs it.
    Running,
    /// It came to its end.
    Done,
    /// Somebody stopped it.
    Stopped,
    /// It could not go on; its note says why.
    Failed,
}

impl JobState {
    /// As the API and the record write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Done => "done",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Waiting, Self::Running, Self::Done, Self::Stopped, Self::Failed]
            .into_iter()
            .find(|state| state.as_str() == text)
    }

    /// Whether there is something left to do.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Waiting | Self::Running)
    }
}

/// A job's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Its id.
    pub id: String,
    /// The tenant whose dead letters or messages it moves.
    pub tenant: Tenant,
    /// What it is to do, as JSON.
    pub spec: String,
    /// How it stands.
    pub state: JobState,
    /// Where it goes on, as its runner wrote it.
    pub cursor: String,
    /// What its runner has to say, as JSON or text.
    pub note: String,
    /// When it was made, by Redis's clock.
    pub made_ms: u64,
    /// When it last changed.
    pub changed_ms: u64,
    /// What it moved in all, once it has ended; until then the lanes know ([`Store::job_moved`]).
    pub moved: Option<u64>,
}

/// How long an ended job is remembered.
const REMEMBER_MS: u64 = 7 * 86_400_000;
/// How many jobs are remembered, if there are not more open ones.
const REMEMBER: u64 = 1_000;

impl Store {
    /// Where jobs move something: dead letters in lanes, history in partitions.
    pub(crate) fn job_tags(&self) -> impl Iterator<Item = Tag> {
        (0..self.layout.lanes).map(Tag::Lane).chain((0..self.layout.partitions).map(Tag::Partition))
    }

    fn job_call(&self, tag: Tag, verb: &str, id: &str) -> Call {
        let mut call = Call::new(&script::JOB, &self.keys, tag);
        call.arg(verb).arg(id);
        call
    }

    /// Makes a job; `spec` says what it is to do, `plan` (for its runner only, and perhaps long) where. With an
    /// `owner` it is that runner's to take. `Some` says how many open jobs the tenant has, if that is
    /// `most_open` already: then nothing was made.
    pub async fn make_job(
        &self,
        id: &str,
        tenant: &Tenant,
        spec: &str,
        plan: &str,
        owner: Option<&str>,
        most_open: u64,
    ) -> Result<Option<u64>, StoreError> {
        let mut call = self.job_call(Tag::Ctl, "make", id);
        call.arg(tenant.as_str()).arg(spec).arg(plan).arg(owner.unwrap_or_default());
        call.arg(most_open.max(1)).arg(REMEMBER);
        let reply = script::call(&self.link, call).await?;
        match int(&reply)? {
            0 => Ok(None),
            -1 => Err(StoreError::Conflict(id.to_owned())),
            _ => count(&reply).map(Some),
        }
    }

    /// Takes a job: the name under which it is mine from now on, `<job>@<epoch>`. `None` if it is another's or
    /// finished.
    pub async fn take_job(&self, id: &str, me: &str, lease_ms: u64) -> Result<Option<String>, StoreError> {
        let mut call = self.job_call(Tag::Ctl, "take", id);
        call.arg(me).arg(lease_ms);
        let epoch = count(&script::call(&self.link, call).await?)?;
        Ok((epoch > 0).then(|| format!("{id}@{epoch}")))
    }

    /// Opens all lanes and partitions to the runner that [`Store::take_job`] gave this name, and shuts them to earlier
    /// ones. What the job has moved so far; the last word only if a [`Store::save_job`] after it says that the job is
    /// still mine.
    pub async fn open_job(&self, mine: &str) -> Result<u64, StoreError> {
        self.wherever_jobs_move("open", mine).await
    }

    /// Saves how far a job has come, and renews the lease. `false` if it was stopped or taken over.
    pub async fn save_job(
        &self,
        id: &str,
        me: &str,
        state: JobState,
        cursor: &str,
        note: &str,
    ) -> Result<bool, StoreError> {
        let mut call = self.job_call(Tag::Ctl, "save", id);
        call.arg(me).arg(state.as_str()).arg(cursor).arg(note);
        Ok(int(&script::call(&self.link, call).await?)? == 1)
    }

    /// Stops a job. The state it had; `None` if there is none. Until [`Store::end_job`], what its runner has
    /// under way may still be moved.
    pub async fn stop_job(&self, id: &str) -> Result<Option<JobState>, StoreError> {
        let call = self.job_call(Tag::Ctl, "stop", id);
        Ok(JobState::parse(&text(script::call(&self.link, call).await?)?))
    }

    /// Ends a finished job: shuts lanes and partitions, so that nothing more is moved, and notes what was. May be
    /// repeated; the first note counts.
    pub async fn end_job(&self, id: &str) -> Result<(), StoreError> {
        let moved = self.wherever_jobs_move("close", id).await?;
        let mut call = self.job_call(Tag::Ctl, "end", id);
        call.arg(moved).arg(REMEMBER_MS);
        match int(&script::call(&self.link, call).await?)? {
            -1 => Err(StoreError::Conflict(id.to_owned())),
            _ => self.forget_job_counts(id).await,
        }
    }

    async fn wherever_jobs_move(&self, verb: &str, job: &str) -> Result<u64, StoreError> {
        let calls: Vec<Call> = self.job_tags().map(|tag| self.job_call(tag, verb, job)).collect();
        let mut moved = 0;
        for answer in script::fly(&self.link, &calls).await? {
            moved += count(&answer?)?;
        }
        Ok(moved)
    }

    /// Looks at all jobs: open ones that nobody runs and finished ones that nobody has ended, oldest first, at
    /// most so many; and how many jobs there are in each state.
    pub async fn look_at_jobs(
        &self,
        lease_ms: u64,
        most: usize,
    ) -> Result<(Vec<String>, Vec<(JobState, u64)>), StoreError> {
        let mut call = self.job_call(Tag::Ctl, "look", "");
        call.arg(lease_ms).arg(most);
        let mut parts = array(script::call(&self.link, call).await?)?.into_iter();
        let (Some(ids), Some(counts)) = (parts.next(), parts.next()) else {
            return Err(odd("look", &Value::Nil));
        };
        let ids = array(ids)?.into_iter().map(text).collect::<Result<_, _>>()?;
        let mut pairs = array(counts)?.into_iter();
        let mut states = Vec::new();
        while let (Some(state), Some(number)) = (pairs.next(), pairs.next()) {
            if let Some(state) = JobState::parse(&text(state)?) {
                states.push((state, count(&number)?));
            }
        }
        Ok((ids, states))
    }

    /// A job's record.
    pub async fn job(&self, id: &str) -> Result<Option<Job>, StoreError> {
        Ok(self.job_records(&[id.to_owned()]).await?.pop())
    }

    /// The records of those jobs that there are, in the order asked for.
    pub async fn job_records(&self, ids: &[String]) -> Result<Vec<Job>, StoreError> {
        const FIELDS: [&str; 8] = ["tenant", "spec", "state", "cursor", "note", "made", "changed", "moved"];
        let mut pipeline = Pipeline::with_capacity(ids.len());
        for id in ids {
            pipeline.cmd("HMGET").arg(self.keys.key(Tag::Ctl, &format!("{}{id}", keys::JOB))).arg(&FIELDS);
        }
        let mut jobs = Vec::with_capacity(ids.len());
        for (id, answer) in ids.iter().zip(self.link.pipeline(&pipeline).await?) {
            jobs.extend(read_job(id, checked(answer)?)?);
        }
        Ok(jobs)
    }

    /// A job's plan; empty once it has ended.
    pub async fn job_plan(&self, id: &str) -> Result<String, StoreError> {
        let mut command = redis::cmd("HGET");
        command.arg(self.keys.key(Tag::Ctl, &format!("{}{id}", keys::JOB))).arg("plan");
        text(self.link.command(&command).await?)
    }

    /// The newest jobs, newest first.
    pub async fn jobs(&self, most: usize) -> Result<Vec<String>, StoreError> {
        if most == 0 {
            return Ok(Vec::new());
        }
        let mut command = redis::cmd("ZRANGE");
        command.arg(self.keys.key(Tag::Ctl, keys::JOB_LIST)).arg(0).arg(most - 1).arg("REV");
        array(self.link.command(&command).await?)?.into_iter().map(text).collect()
    }
}

fn read_job(id: &str, fields: Value) -> Result<Option<Job>, StoreError> {
    let mut fields = array(fields)?.into_iter();
    let mut next = || text(fields.next().unwrap_or(Value::Nil));
    let tenant = next()?;
    if tenant.is_empty() {
        return Ok(None);
    }
    let tenant = Tenant::new(&tenant).map_err(|error| StoreError::Reply(error.to_string()))?;
    let spec = next()?;
    let state = next()?;
    Ok(Some(Job {
        id: id.to_owned(),
        tenant,
        spec,
        state: JobState::parse(&state).ok_or_else(|| StoreError::Reply(format!("job state {state}")))?,
        cursor: next()?,
        note: next()?,
        made_ms: next()?.parse().unwrap_or(0),
        changed_ms: next()?.parse().unwrap_or(0),
        moved: next()?.parse().ok(),
    }))
}
