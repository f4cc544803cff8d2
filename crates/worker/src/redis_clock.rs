//! Redis's clock, as a worker knows it: what the last heartbeat heard and the time since, measured with a
//! clock that nobody can step.

use std::time::Instant;

use postroad_model::time::millis;
use tokio::sync::watch;

/// Redis's clock.
pub struct RedisClock(watch::Sender<Option<(u64, Instant)>>);

impl Default for RedisClock {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl RedisClock {
    /// It said this at that moment.
    pub fn set(&self, now_ms: u64, at: Instant) {
        self.0.send_replace(Some((now_ms, at)));
    }

    /// What it says now; `None` before it was first heard.
    pub fn now_ms(&self) -> Option<u64> {
        let (then_ms, at) = (*self.0.borrow())?;
        Some(then_ms.saturating_add(millis(at.elapsed())))
    }

    /// Waits until it was heard.
    pub async fn heard(&self) {
        // The sender is here: the wait cannot fail.
        let _ = self.0.subscribe().wait_for(Option::is_some).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn it_goes_on_from_what_was_heard_last() {
        let clock = RedisClock::default();
        assert_eq!(clock.now_ms(), None);
        let at = Instant::now().checked_sub(Duration::from_millis(1_500)).unwrap();
        clock.set(1_000, at);
        tokio::time::timeout(Duration::from_secs(1), clock.heard()).await.unwrap();
        assert!((2_500..3_500).contains(&clock.now_ms().unwrap()), "{:?}", clock.now_ms());
        clock.set(100, Instant::now());
        assert!((100..1_100).contains(&clock.now_ms().unwrap()), "Redis's own step is followed");
    }
}
