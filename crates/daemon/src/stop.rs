//! Stopping on request, in order and under a deadline.
//!
//! A [`Stop`] only asks. Whoever holds one stops taking new work when it is requested, finishes or gives
//! back what it has, and returns; [`Stop::within_grace`] is for those who put a deadline to it. A child can
//! be stopped alone, and is stopped with its parent.

use std::{future::Future, io, time::Duration};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The exit code after a second signal: at once, with work in flight.
const CUT_SHORT: i32 = 130;

/// A request to stop that any number of tasks can wait for. Clones are the same request.
#[derive(Debug, Clone, Default)]
pub struct Stop(CancellationToken);

impl Stop {
    /// Not requested until [`Stop::request`] is called.
    pub fn new() -> Self {
        Self::default()
    }

    /// Requested by the first SIGTERM or SIGINT; the second one exits the process at once with code 130.
    /// Must be called inside a runtime; from then on, these signals no longer kill the process.
    pub fn on_signals() -> io::Result<Self> {
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let stop = Self::new();
        let requested = stop.clone();
        tokio::spawn(async move {
            let mut next = async || {
                tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                }
            };
            let name = next().await;
            tracing::info!(signal = name, "stopping; a second signal exits at once");
            requested.request();
            let name = next().await;
            tracing::warn!(signal = name, "exiting at once");
            std::process::exit(CUT_SHORT);
        });
        Ok(stop)
    }

    /// Asks everyone who holds this stop, or a child of it, to stop.
    pub fn request(&self) {
        self.0.cancel();
    }

    /// Waits until stopping is requested.
    pub async fn requested(&self) {
        self.0.cancelled().await;
    }

    /// As [`Stop::requested`], for a future that must own what it waits for.
    pub fn requested_owned(&self) -> impl Future<Output = ()> + Send + 'static {
        self.0.clone().cancelled_owned()
    }

    /// Whether stopping has been requested.
    pub fn is_requested(&self) -> bool {
        self.0.is_cancelled()
    }

    /// A stop that is requested with this one, and can be requested alone.
    pub fn child(&self) -> Self {
        Self(self.0.child_token())
    }

    /// Waits for a while, or until stopping is requested: whether there is reason to go on.
    pub async fn sleep(&self, duration: Duration) -> bool {
        tokio::select! {
            () = self.requested() => false,
            () = tokio::time::sleep(duration) => true,
        }
    }

    /// Runs some work to its end, but once stopping is requested no longer than `grace`: then the work is
    /// dropped where it stands, and this is `None`.
    pub async fn within_grace<F: Future>(&self, grace: Duration, work: F) -> Option<F::Output> {
        let cut = async {
            self.requested().await;
            tokio::time::sleep(grace).await;
        };
        tokio::select! {
            biased;
            output = work => Some(output),
            () = cut => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn a_child_stops_alone_or_with_its_parent() {
        let parent = Stop::new();
        let (one, other) = (parent.child(), parent.child());
        one.request();
        assert!(one.is_requested() && !parent.is_requested() && !other.is_requested());
        parent.clone().request();
        other.requested().await;
        assert!(parent.is_requested() && other.is_requested());
        other.requested_owned().await;
    }

    #[tokio::test]
    async fn sleep_ends_early_when_stopping() {
        let stop = Stop::new();
        assert!(stop.sleep(Duration::from_millis(1)).await);
        stop.request();
        assert!(!stop.sleep(Duration::from_secs(3_600)).await);
    }

    #[tokio::test]
    async fn work_has_its_grace_and_no_more() {
        let stop = Stop::new();
        assert_eq!(stop.within_grace(GRACE, async { 1 }).await, Some(1));
        stop.request();
        let quick = async {
            tokio::time::sleep(GRACE / 5).await;
            2
        };
        assert_eq!(stop.within_grace(GRACE, quick).await, Some(2));
        assert_eq!(stop.within_grace(GRACE, std::future::pending::<()>()).await, None);
    }

    #[tokio::test]
    async fn without_a_request_there_is_no_deadline() {
        let slow = async {
            tokio::time::sleep(GRACE * 2).await;
            3
        };
        assert_eq!(Stop::new().within_grace(Duration::ZERO, slow).await, Some(3));
    }
}
