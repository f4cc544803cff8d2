//! Calls that are kept waiting: how many at a time, and for a command's answer.

use std::{sync::Arc, time::Duration};

use axum::http::StatusCode;
use postroad_api::error::{ApiError, ApiResult};
use postroad_daemon::stop::Stop;
use postroad_model::{id::MessageId, names::Tenant};
use postroad_store::{Response, Store, signals::Receiver};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until, timeout_at},
};

/// Between two looks where no signal came: for what was told while nobody could hear it.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A bounded number of places.
#[derive(Debug, Clone)]
pub struct Places {
    places: Arc<Semaphore>,
    most: usize,
    what: &'static str,
}

impl Places {
    /// So many; `what` is what takes a place, in plural.
    pub fn new(most: usize, what: &'static str) -> Self {
        Self { places: Arc::new(Semaphore::new(most)), most, what }
    }

    /// A place, until it is dropped. 503 where there is none.
    pub fn take(&self) -> ApiResult<OwnedSemaphorePermit> {
        Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            let message = format!("this instance has {} {}, the most that are allowed", self.most, self.what);
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_waiting", message).retry_after(5)
        })
    }
}

/// Waits for a command's answer. `None` when the time is over, or this instance stops.
///
/// `receiver` listens since before the command was published, so nothing can come unheard; while Redis is away
/// there is nothing to do but to go on waiting.
pub async fn for_response(
    store: &Store,
    tenant: &Tenant,
    command: &MessageId,
    mut receiver: Receiver,
    until: Instant,
    stop: &Stop,
) -> Option<Response> {
    loop {
        match timeout_at(until, store.response(tenant, command)).await {
            Ok(Ok(Some(response))) => return Some(response),
            Ok(Ok(None)) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a command's answer cannot be looked for"),
            Err(_) => return None,
        }
        let next_look = until.min(Instant::now() + LOOK_EVERY);
        tokio::select! {
            _ = receiver.recv() => {}
            () = sleep_until(next_look) => if next_look == until { return None },
            () = stop.requested() => return None,
        }
    }
}
