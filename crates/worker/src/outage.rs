//! Whether Redis was away lately.
//!
//! While it is, leases run out although their holders live. Once it is back, what they hold and could not
//! settle must have time to be settled before anyone takes it for lost: it would be delivered twice.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use postroad_store::StoreError;
use tokio::sync::Notify;

/// After an outage nothing is taken for lost for so long: above the longest wait between two tries of a
/// worker that settles.
const GRACE: Duration = Duration::from_secs(8);

/// What this worker has noticed of it.
#[derive(Default)]
pub struct Outage {
    state: Mutex<State>,
    unsettled: AtomicUsize,
    ended: Notify,
}

#[derive(Default)]
struct State {
    away: bool,
    last: Option<Instant>,
}

impl Outage {
    /// A call failed.
    pub fn failed(&self, error: &StoreError) {
        if error.is_transient() {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            *state = State { away: true, last: Some(Instant::now()) };
        }
    }

    /// A heartbeat was answered.
    pub fn answered(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut state.away) {
            self.ended.notify_one();
        }
    }

    /// Waits until Redis is heard again after it was away.
    pub async fn ended(&self) {
        self.ended.notified().await;
    }

    /// So many settlements wait for Redis.
    pub fn unsettled(&self, count: usize) {
        self.unsettled.store(count, Ordering::Relaxed);
    }

    /// Whether what was not settled in time may be taken for lost.
    pub fn is_over(&self) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.unsettled.load(Ordering::Relaxed) == 0 && state.last.is_none_or(|last| last.elapsed() > GRACE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_is_lost_during_an_outage_nor_just_behind_it() {
        let outage = Outage::default();
        assert!(outage.is_over());
        outage.failed(&StoreError::Refused("no such thing".into()));
        assert!(outage.is_over(), "a refusal is no outage");
        outage.failed(&StoreError::Unavailable("gone".into()));
        outage.answered();
        tokio::time::timeout(Duration::from_secs(1), outage.ended()).await.unwrap();
        assert!(!outage.is_over(), "others may not have settled yet");
        outage.state.lock().unwrap().last = Instant::now().checked_sub(GRACE * 2);
        assert!(outage.is_over());
        outage.unsettled(1);
        assert!(!outage.is_over());
    }
}
