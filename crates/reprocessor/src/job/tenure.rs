//! A runner's time with a job, whatever it moves.

use std::time::Duration;

use postroad_store::JobState;
use tokio::time::Instant;

use super::run::Runner;
use crate::error::Error;

/// How often progress is saved, if the lease is not shorter than four of it.
const SAVE_EVERY: Duration = Duration::from_millis(500);

/// Why a runner leaves a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// There is nothing more to move, or the limit is reached.
    Through,
    /// The runner is told to stop.
    Interrupted,
    /// It is another's, or stopped: taking it again tells.
    Lost,
}

pub(super) trait Tenure {
    /// Whose time it is.
    fn runner(&self) -> &Runner;

    /// When it was saved last.
    fn saved(&self) -> Instant;

    /// What the job has moved in all.
    fn moved(&self) -> u64;

    /// Saves how far it came and renews the lease; `false` if the job is not ours any more.
    async fn save(&mut self, state: JobState) -> Result<bool, Error>;

    /// Goes on until there is a reason to leave.
    async fn go(&mut self) -> Result<Left, Error>;

    fn save_every(&self) -> Duration {
        SAVE_EVERY.min(self.runner().lease / 4)
    }

    async fn save_in_time(&mut self) -> Result<Option<Left>, Error> {
        let is_ours = self.saved().elapsed() < self.save_every() || self.save(JobState::Running).await?;
        Ok((!is_ours).then_some(Left::Lost))
    }

    /// Waits, with the lease kept and the stop heard.
    async fn wait_until(&mut self, due: Instant) -> Result<Option<Left>, Error> {
        loop {
            if self.runner().stop.is_requested() {
                return Ok(Some(Left::Interrupted));
            }
            if let Some(left) = self.save_in_time().await? {
                return Ok(Some(left));
            }
            let now = Instant::now();
            if due <= now {
                return Ok(None);
            }
            self.runner().stop.sleep((due - now).min(self.save_every())).await;
        }
    }
}
