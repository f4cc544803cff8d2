//! Keeping to a rate, smoothly.

use std::time::Duration;

use tokio::time::Instant;

/// What may be caught up after a delay: more would be a burst.
const SLACK: Duration = Duration::from_millis(100);
/// How often something is moved, where the rate allows it: batches get larger rather than more.
const BEATS: f64 = 20.0;
/// The most letters that one script moves: Redis does nothing else meanwhile.
const MOST: usize = 100;

/// When the next letters may be moved, and how many.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    rate: Option<f64>,
    next: Instant,
}

impl Pace {
    /// So many letters a second; none: as fast as it goes.
    pub(super) fn new(rate: Option<f64>, now: Instant) -> Self {
        Self { rate, next: now }
    }

    /// How many letters may be moved at a time.
    pub(super) fn batch(&self) -> usize {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "checked to lie in bounds"
        )]
        self.rate.map_or(MOST, |rate| (rate / BEATS).clamp(1.0, 100.0) as usize).min(MOST)
    }

    /// When the next ones may be.
    pub(super) fn due(&self) -> Instant {
        self.next
    }

    /// So many were moved.
    pub(super) fn spent(&mut self, letters: u64, now: Instant) {
        let Some(rate) = self.rate else { return };
        let letters = f64::from(u32::try_from(letters).unwrap_or(u32::MAX));
        let from = self.next.max(now.checked_sub(SLACK).unwrap_or(now));
        self.next = from + Duration::from_secs_f64(letters / rate);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_follow_the_rate() {
        let batch = |rate| Pace::new(rate, Instant::now()).batch();
        assert_eq!(
            [batch(Some(0.1)), batch(Some(5.0)), batch(Some(100.0)), batch(Some(1e6))],
            [1, 1, 5, 100]
        );
        assert_eq!(batch(None), 100);
    }

    #[test]
    fn a_delay_is_not_caught_up_in_a_burst() {
        let start = Instant::now();
        let mut pace = Pace::new(Some(10.0), start);
        pace.spent(1, start);
        assert_eq!(pace.due(), start + Duration::from_millis(100));
        let late = start + Duration::from_secs(60);
        pace.spent(1, late);
        assert_eq!(pace.due(), late);
        pace.spent(5, late);
        assert_eq!(pace.due(), late + Duration::from_millis(500));
    }
}
