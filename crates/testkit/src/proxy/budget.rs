//! How many bytes have passed, and how many more may.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Direction;

#[derive(Debug, Default)]
pub(super) struct Budget {
    left: Mutex<Option<(Direction, u64)>>,
    to_server: AtomicU64,
    to_client: AtomicU64,
}

/// Leave to send some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) bytes: usize,
    /// They are the last ones.
    pub(super) last: bool,
}

impl Budget {
    pub(super) fn set(&self, direction: Direction, bytes: u64) {
        *self.left() = Some((direction, bytes));
    }

    pub(super) fn clear(&self) {
        *self.left() = None;
    }

    pub(super) fn passed(&self, direction: Direction) -> u64 {
        self.counter(direction).load(Ordering::Relaxed)
    }

    /// Takes up to `wanted` bytes out of what is left, and counts them as passed.
    pub(super) fn take(&self, direction: Direction, wanted: usize) -> Grant {
        let grant = match &mut *self.left() {
            Some((limited, left)) if *limited == direction => {
                let bytes = usize::try_from(*left).unwrap_or(usize::MAX).min(wanted);
                *left -= bytes as u64;
                Grant { bytes, last: *left == 0 }
            }
            _ => Grant { bytes: wanted, last: false },
        };
        self.counter(direction).fetch_add(grant.bytes as u64, Ordering::Relaxed);
        grant
    }

    fn counter(&self, direction: Direction) -> &AtomicU64 {
        match direction {
            Direction::ToServer => &self.to_server,
            Direction::ToClient => &self.to_client,
        }
    }

    fn left(&self) -> MutexGuard<'_, Option<(Direction, u64)>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::Direction::{ToClient, ToServer};
    use super::*;

    #[test]
    fn one_direction_is_limited_and_both_are_counted() {
        let budget = Budget::default();
        assert_eq!(budget.take(ToServer, 10), Grant { bytes: 10, last: false });
        budget.set(ToServer, 12);
        assert_eq!(budget.take(ToClient, 100), Grant { bytes: 100, last: false });
        assert_eq!(budget.take(ToServer, 10), Grant { bytes: 10, last: false });
        assert_eq!(budget.take(ToServer, 10), Grant { bytes: 2, last: true });
        assert_eq!(budget.take(ToServer, 10), Grant { bytes: 0, last: true });
        budget.clear();
        assert_eq!(budget.take(ToServer, 10), Grant { bytes: 10, last: false });
        assert_eq!((budget.passed(ToServer), budget.passed(ToClient)), (32, 100));
    }
}
