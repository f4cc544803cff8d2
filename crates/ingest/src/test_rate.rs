//! How often a subscription may be tested: whoever tests reads what a server answers, so it must be no way to scan.
//!
//! One test of a subscription at a time, and ten a minute, at each instance of the API. Who asks several instances
//! gets several times as much: the bound is there to make scanning dull, not to count.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use postroad_model::id::SubscriptionId;
use tokio::time::Instant;

/// So many tests of one subscription within [`WINDOW`].
const MOST: usize = 10;
const WINDOW: Duration = Duration::from_secs(60);
/// So many subscriptions are kept in mind; beyond that no other is tested until some are forgotten.
const SUBSCRIPTIONS: usize = 10_000;

/// The tests of late.
#[derive(Debug, Default)]
pub struct TestRate(Mutex<HashMap<SubscriptionId, Recent>>);

#[derive(Debug, Default)]
struct Recent {
    running: bool,
    begun: VecDeque<Instant>,
}

/// Why a test may not begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Another one is under way.
    Running,
    /// There were too many of late.
    TooMany {
        /// Until there may be another.
        wait: Duration,
    },
}

/// A test under way, until it is dropped.
#[derive(Debug)]
pub struct Running {
    rate: Arc<TestRate>,
    subscription: SubscriptionId,
}

impl TestRate {
    /// Begins a test, if there may be one.
    pub fn begin(self: &Arc<Self>, subscription: &SubscriptionId, now: Instant) -> Result<Running, Refusal> {
        let mut tests = self.lock();
        tests.retain(|_, recent| recent.is_of_late(now));
        let is_new = !tests.contains_key(subscription);
        if is_new && tests.len() >= SUBSCRIPTIONS {
            return Err(Refusal::TooMany { wait: WINDOW });
        }
        let recent = tests.entry(subscription.clone()).or_default();
        if recent.running {
            return Err(Refusal::Running);
        }
        if let (true, Some(first)) = (recent.begun.len() >= MOST, recent.begun.front()) {
            return Err(Refusal::TooMany { wait: WINDOW.saturating_sub(now - *first) });
        }
        recent.begun.push_back(now);
        recent.running = true;
        Ok(Running { rate: Arc::clone(self), subscription: subscription.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SubscriptionId, Recent>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recent {
    /// Forgets what was too long ago. Whether anything is left.
    fn is_of_late(&mut self, now: Instant) -> bool {
        while self.begun.front().is_some_and(|begun| now.duration_since(*begun) >= WINDOW) {
            self.begun.pop_front();
        }
        self.running || !self.begun.is_empty()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(recent) = self.rate.lock().get_mut(&self.subscription) {
            recent.running = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: usize) -> SubscriptionId {
        SubscriptionId::new(&format!("sub_{n}")).unwrap()
    }

    #[test]
    fn one_at_a_time_and_ten_a_minute() {
        let rate = Arc::new(TestRate::default());
        let start = Instant::now();
        let first = rate.begin(&id(1), start).unwrap();
        assert_eq!(rate.begin(&id(1), start).unwrap_err(), Refusal::Running);
        assert!(rate.begin(&id(2), start).is_ok(), "another subscription's is not in the way");
        drop(first);
        for n in 1..10 {
            rate.begin(&id(1), start + Duration::from_secs(n)).unwrap();
        }
        let wait = Duration::from_secs(40);
        assert_eq!(
            rate.begin(&id(1), start + Duration::from_secs(20)).unwrap_err(),
            Refusal::TooMany { wait }
        );
        rate.begin(&id(1), start + WINDOW).unwrap();
        assert_eq!(
            rate.begin(&id(1), start + WINDOW).unwrap_err(),
            Refusal::TooMany { wait: Duration::from_secs(1) }
        );
    }

    #[test]
    fn what_is_kept_in_mind_is_bounded() {
        let rate = Arc::new(TestRate::default());
        let start = Instant::now();
        for n in 0..SUBSCRIPTIONS {
            rate.lock().insert(id(n), Recent { running: false, begun: [start].into() });
        }
        assert_eq!(rate.begin(&id(SUBSCRIPTIONS), start).unwrap_err(), Refusal::TooMany { wait: WINDOW });
        rate.begin(&id(1), start).unwrap();
        rate.begin(&id(SUBSCRIPTIONS), start + WINDOW).unwrap();
        assert_eq!(rate.lock().len(), 1);
    }
}
