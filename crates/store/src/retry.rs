//! Waiting before the next try, longer each time. The one place that knows the `backoff` crate (which is
//! no longer maintained: see `deny.toml` and decision 2).

use std::time::Duration;

use backoff::{ExponentialBackoff, ExponentialBackoffBuilder, backoff::Backoff as _};

/// Delays that grow from 100 ms to 5 s, with jitter, so that a fleet does not come back in step.
#[derive(Debug)]
pub struct Backoff(ExponentialBackoff);

impl Default for Backoff {
    fn default() -> Self {
        Self(
            ExponentialBackoffBuilder::new()
                .with_initial_interval(Duration::from_millis(100))
                .with_max_interval(Duration::from_secs(5))
                .with_multiplier(2.0)
                .with_max_elapsed_time(None)
                .build(),
        )
    }
}

impl Backoff {
    /// The next delay.
    pub fn next_delay(&mut self) -> Duration {
        self.0.next_backoff().unwrap_or(Duration::from_secs(5))
    }

    /// Waits for the next delay.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.next_delay()).await;
    }

    /// Starts again with a short delay: something worked.
    pub fn reset(&mut self) {
        self.0.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_and_stay_bounded() {
        let mut backoff = Backoff::default();
        let delays: Vec<_> = (0..20).map(|_| backoff.next_delay()).collect();
        assert!(delays[0] <= Duration::from_millis(150));
        assert!(delays[19] >= Duration::from_millis(2_400), "{delays:?}");
        assert!(delays.iter().all(|delay| *delay <= Duration::from_millis(7_500)));
        backoff.reset();
        assert!(backoff.next_delay() <= Duration::from_millis(150));
    }
}
