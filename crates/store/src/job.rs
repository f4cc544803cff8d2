//! Replay jobs: their records, and who runs them.

use postroad_model::names::Tenant;
use redis::Value;

use crate::{
    Store,
    error::StoreError,
    keys::{self, Tag},
    reply::{array, int, text},
    script::{self, Call},
};

/// How a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    /// The tenant whose dead letters it moves.
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
}

/// How long a finished job is remembered.
const REMEMBER_MS: u64 = 7 * 86_400_000;

impl Store {
    fn job_call(&self, verb: &str, id: &str) -> Call {
        let mut call = Call::new(&script::JOB, &self.keys, Tag::Ctl);
        call.arg(verb).arg(id);
        call
    }

    /// Makes a job. `false` if there is one of that id.
    pub async fn make_job(&self, id: &str, tenant: &Tenant, spec: &str) -> Result<bool, StoreError> {
        let mut call = self.job_call("make", id);
        call.arg(tenant.as_str()).arg(spec).arg(REMEMBER_MS);
        Ok(int(&script::call(&self.link, call).await?)? == 1)
    }

    /// Takes a job, or goes on holding it. `false` if it is another's or finished.
    pub async fn take_job(&self, id: &str, me: &str, lease_ms: u64) -> Result<bool, StoreError> {
        let mut call = self.job_call("take", id);
        call.arg(me).arg(lease_ms);
        Ok(int(&script::call(&self.link, call).await?)? == 1)
    }

    /// Saves how far a job has come. `false` if it was stopped or taken over.
    pub async fn save_job(
        &self,
        id: &str,
        me: &str,
        state: JobState,
        cursor: &str,
        note: &str,
    ) -> Result<bool, StoreError> {
        let mut call = self.job_call("save", id);
        call.arg(me).arg(state.as_str()).arg(cursor).arg(note).arg(REMEMBER_MS);
        Ok(int(&script::call(&self.link, call).await?)? == 1)
    }

    /// Stops a job. The state it had; `None` if there is none.
    pub async fn stop_job(&self, id: &str) -> Result<Option<JobState>, StoreError> {
        let call = self.job_call("stop", id);
        Ok(JobState::parse(&text(script::call(&self.link, call).await?)?))
    }

    /// A job's record.
    pub async fn job(&self, id: &str) -> Result<Option<Job>, StoreError> {
        let mut command = redis::cmd("HMGET");
        command.arg(self.keys.key(Tag::Ctl, &format!("{}{id}", keys::JOB)));
        for field in ["tenant", "spec", "state", "cursor", "note", "made", "changed"] {
            command.arg(field);
        }
        let mut fields = array(self.link.command(&command).await?)?.into_iter();
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
        }))
    }

    /// The newest jobs, newest first.
    pub async fn jobs(&self, most: usize) -> Result<Vec<String>, StoreError> {
        let mut command = redis::cmd("ZRANGE");
        command.arg(self.keys.key(Tag::Ctl, keys::JOB_LIST)).arg(0).arg(most.saturating_sub(1)).arg("REV");
        array(self.link.command(&command).await?)?.into_iter().map(text).collect()
    }
}
