//! What time it is: passed in, so that tests can shift it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

/// The wall clock, as a value. For what people and other machines are told; durations are measured with
/// [`std::time::Instant`], which no one can step.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    shift_ms: Option<Arc<AtomicI64>>,
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self::default()
    }

    /// The system's clock, shifted by as many milliseconds as the handle says at the moment.
    pub fn shifted(by_ms: Arc<AtomicI64>) -> Self {
        Self { shift_ms: Some(by_ms) }
    }

    /// Milliseconds since the Unix epoch.
    pub fn now_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        match &self.shift_ms {
            Some(shift) => now.saturating_add_signed(shift.load(Ordering::Relaxed)),
            None => now,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shifted_clock_follows_its_handle() {
        let by_ms = Arc::new(AtomicI64::new(0));
        let (system, shifted) = (Clock::system(), Clock::shifted(by_ms.clone()));
        assert!(shifted.now_ms().abs_diff(system.now_ms()) < 1_000);
        by_ms.store(-3_600_000, Ordering::Relaxed);
        assert!((system.now_ms() - shifted.now_ms()).abs_diff(3_600_000) < 1_000);
    }
}
