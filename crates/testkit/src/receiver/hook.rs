//! One path: how it behaves and what it got.

use std::fmt::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::{Answer, Behaviour, Recorded};

/// Requests that a failure message shows.
const SHOWN: usize = 5;

#[derive(Debug)]
pub(super) struct Hook {
    behaviour: Mutex<Arc<Behaviour>>,
    log: Mutex<Vec<Arc<Recorded>>>,
    arrived: AtomicUsize,
    in_flight: AtomicUsize,
    peak_in_flight: AtomicUsize,
    changed: Notify,
}

impl Hook {
    pub(super) fn new() -> Self {
        Self {
            behaviour: Mutex::new(Arc::new(Answer::ok().into())),
            log: Mutex::default(),
            arrived: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            peak_in_flight: AtomicUsize::new(0),
            changed: Notify::new(),
        }
    }

    pub(super) fn behave(&self, behaviour: Behaviour) {
        *self.behaviour.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(behaviour);
    }

    pub(super) fn answer(&self, request: &Recorded) -> Answer {
        let behaviour = Arc::clone(&self.behaviour.lock().unwrap_or_else(PoisonError::into_inner));
        behaviour.answer(request)
    }

    /// Counts a request as in flight until what is returned is dropped.
    pub(super) fn arrive(self: &Arc<Self>) -> InFlight {
        let now = self.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        self.peak_in_flight.fetch_max(now, Ordering::Relaxed);
        InFlight { hook: Arc::clone(self) }
    }

    /// The next request's number.
    pub(super) fn number(&self) -> usize {
        self.arrived.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(super) fn record(&self, request: Arc<Recorded>) {
        self.log().push(request);
        self.changed.notify_waiters();
    }

    pub(super) fn recorded(&self) -> Vec<Arc<Recorded>> {
        self.log().clone()
    }

    pub(super) fn count(&self) -> usize {
        self.log().len()
    }

    pub(super) fn peak_in_flight(&self) -> usize {
        self.peak_in_flight.load(Ordering::Relaxed)
    }

    pub(super) fn clear(&self) {
        self.log().clear();
        self.peak_in_flight.store(self.in_flight.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Whether there are `n` requests before the time is over.
    pub(super) async fn wait_for(&self, n: usize, timeout: Duration) -> bool {
        let deadline = tokio::time::Instant::now() + timeout;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // From here on no change is missed.
            changed.as_mut().enable();
            if self.count() >= n {
                return true;
            }
            if tokio::time::timeout_at(deadline, changed).await.is_err() {
                return self.count() >= n;
            }
        }
    }

    pub(super) fn describe(&self, started: Instant) -> String {
        let log = self.log();
        let mut text = format!("got {}", log.len());
        if log.len() > SHOWN {
            let _ = write!(text, ", the last {SHOWN}");
        }
        for request in log.iter().skip(log.len().saturating_sub(SHOWN)) {
            let after = request.at.saturating_duration_since(started).as_secs_f64();
            let _ = write!(text, "\n  at {after:.3} s: {request}");
        }
        text
    }

    fn log(&self) -> MutexGuard<'_, Vec<Arc<Recorded>>> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that has not had its answer.
#[derive(Debug)]
pub(super) struct InFlight {
    hook: Arc<Hook>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.hook.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
