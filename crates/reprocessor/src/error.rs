//! What can go wrong with dead letters, in words that name what was asked and the way out.

use axum::http::StatusCode;
use postroad_api::error::ApiError;
use postroad_store::{JobState, StoreError};

/// Why something was not done. The shell prints it, the API answers it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// A field's value breaks a rule.
    #[error("{problem}")]
    Field {
        /// The field.
        field: &'static str,
        /// Its value, the rule, and what would do.
        problem: String,
    },
    /// There is no such thing, or it is another tenant's.
    #[error("there is no {what} {id:?}")]
    NoSuch {
        /// What it would be.
        what: &'static str,
        /// The id asked for.
        id: String,
    },
    /// A purge was confirmed with another count than the real one.
    #[error(
        "{matching} dead letters match, not {given}; nothing was purged: look again, then confirm {matching}"
    )]
    Unconfirmed {
        /// The count given.
        given: u64,
        /// The real one.
        matching: u64,
    },
    /// The tenant has as many open jobs as it may have.
    #[error("{0} replay jobs are open, as many as one tenant may have; stop one or wait until one is done")]
    TooManyJobs(u64),
    /// The dead letters of more subscriptions than one job can go through.
    #[error(
        "{count} subscriptions have dead letters, and one job goes through {most}; narrow it by subscription_id or queue"
    )]
    TooManyQueues {
        /// How many there are.
        count: usize,
        /// How many one job takes.
        most: usize,
    },
    /// The job is over.
    #[error("job {id} is {} already; only one that is waiting or running can be stopped", state.as_str())]
    Finished {
        /// The job.
        id: String,
        /// How it ended.
        state: JobState,
    },
    /// A job's record cannot be read.
    #[error("job {id} cannot be run: {problem}")]
    BadJob {
        /// The job.
        id: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Looking at dead letters failed.
    #[error("cannot read dead letters")]
    Read(#[source] StoreError),
    /// Moving them failed; those that were moved are counted.
    #[error("cannot move dead letters")]
    Move(#[source] StoreError),
    /// History could not be read or replayed; what was replayed is counted.
    #[error("cannot replay history")]
    History(#[source] StoreError),
    /// The message that a job is about has left history.
    #[error("history has let the message go that job {0} was to deliver again")]
    Gone(String),
    /// Purging them failed, perhaps half-way.
    #[error("cannot purge dead letters; some may be gone")]
    Purge(#[source] StoreError),
    /// A job's record could not be read or written.
    #[error("cannot reach the replay jobs")]
    Jobs(#[source] StoreError),
}

impl Error {
    /// A field whose value breaks a rule.
    pub fn field(field: &'static str, problem: impl Into<String>) -> Self {
        Self::Field { field, problem: problem.into() }
    }

    /// There is none such, or not for this caller.
    pub fn no_such(what: &'static str, id: &str) -> Self {
        // Whoever asks for a book shall not get it back in every log.
        Self::NoSuch { what, id: id.chars().take(300).collect() }
    }

    /// Whether waiting and repeating may help.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Read(error)
            | Self::Move(error)
            | Self::History(error)
            | Self::Purge(error)
            | Self::Jobs(error) => error.is_transient(),
            _ => false,
        }
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        let conflict = StatusCode::CONFLICT;
        match error {
            Error::Field { field, .. } => Self::field(field, message),
            Error::NoSuch { what, id } => Self::not_found(what, &id),
            Error::Unconfirmed { given, matching } => Self::new(conflict, "count_differs", message)
                .with("confirm", given)
                .with("matching", matching),
            Error::TooManyJobs(open) => Self::new(conflict, "too_many_jobs", message).with("open", open),
            Error::TooManyQueues { count, most } => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "too_many_subscriptions", message)
                    .with("subscriptions", count)
                    .with("most", most)
            }
            Error::Finished { state, .. } => {
                Self::new(conflict, "job_finished", message).with("state", state.as_str())
            }
            Error::BadJob { .. } => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message),
            Error::Gone(_) => Self::new(StatusCode::GONE, "history_gone", message),
            Error::Read(source)
            | Error::Move(source)
            | Error::History(source)
            | Error::Purge(source)
            | Error::Jobs(source) => source.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_carry_what_programs_need() {
        let error = ApiError::from(Error::Unconfirmed { given: 3, matching: 7 });
        assert_eq!((error.status.as_u16(), error.code), (409, "count_differs"));
        assert_eq!(error.details["matching"], 7);
        let error = ApiError::from(Error::field("reason", "reason \"x\" is none"));
        assert_eq!((error.status.as_u16(), &error.details["field"]), (422, &"reason".into()));
        assert_eq!(ApiError::from(Error::Read(StoreError::Unavailable("x".into()))).status.as_u16(), 503);
    }
}
