//! The places of a worker: how many deliveries it has taken and not settled, and which.
//!
//! A place is taken with a lease and freed when the lease is settled, or when whoever held it panics.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use postroad_model::id::SubscriptionId;
use postroad_store::Lease;
use tokio::sync::Notify;

/// A quarter of the places is kept for subscriptions of which nothing is held, so that those which hang
/// cannot take all; but only while more than one subscription was served lately.
const KEPT_SHARE: usize = 4;
/// What "lately" is.
const LATELY: Duration = Duration::from_secs(30);

/// All places of one worker.
pub struct Places {
    most: usize,
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Default)]
struct State {
    /// Handles of what is held, by lane.
    held: HashMap<u16, HashSet<String>>,
    count: usize,
    served: HashMap<SubscriptionId, Instant>,
}

/// One place; freed when dropped.
pub struct Place {
    places: Arc<Places>,
    lane: u16,
    handle: String,
}

/// How many places are free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Free {
    /// In all.
    pub all: usize,
    /// Of those, for anybody: the rest is kept for subscriptions of which nothing is held.
    pub spare: usize,
}

impl Places {
    /// So many, all free.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, state: Mutex::default(), freed: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many are free now.
    pub fn free(&self) -> Free {
        let mut state = self.lock();
        let all = self.most.saturating_sub(state.count);
        if state.served.len() > 1 {
            state.served.retain(|_, when| when.elapsed() < LATELY);
        }
        let kept = if state.served.len() > 1 { self.most / KEPT_SHARE } else { 0 };
        Free { all, spare: all.saturating_sub(kept) }
    }

    /// How many are taken.
    pub fn taken(&self) -> usize {
        self.lock().count
    }

    /// Takes the place of a lease.
    pub fn take(self: &Arc<Self>, lease: &Lease) -> Place {
        let handle = lease.handle();
        let mut state = self.lock();
        state.count += 1;
        state.held.entry(lease.lane).or_default().insert(handle.clone());
        match state.served.get_mut(&lease.subscription) {
            Some(when) => *when = Instant::now(),
            None => {
                state.served.insert(lease.subscription.clone(), Instant::now());
            }
        }
        Place { places: Arc::clone(self), lane: lease.lane, handle }
    }

    /// Waits until a place has been freed since the last wait.
    pub async fn freed(&self) {
        self.freed.notified().await;
    }

    /// What is held, by lane, as `disown` takes it.
    pub fn handles(&self) -> HashMap<u16, Vec<String>> {
        self.lock().held.iter().map(|(lane, handles)| (*lane, handles.iter().cloned().collect())).collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.places.lock();
        state.count -= 1;
        if let Some(handles) = state.held.get_mut(&self.lane) {
            handles.remove(&self.handle);
        }
        drop(state);
        self.places.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postroad_store::{StreamId, Tries, entry::Entry};

    fn lease(subscription: &str, ms: u64) -> Lease {
        Lease {
            lane: 3,
            subscription: SubscriptionId::new(subscription).unwrap(),
            change: StreamId::ZERO,
            rank: 1,
            id: StreamId { ms, seq: 0 },
            number: 1,
            tries: Tries::default(),
            entry: Entry::default(),
            accepted_ms: 0,
            reference: String::new(),
        }
    }

    #[test]
    fn a_lone_subscription_may_have_all_and_several_leave_a_quarter() {
        let places = Places::new(8);
        let first = places.take(&lease("sub_a", 1));
        assert_eq!(places.free(), Free { all: 7, spare: 7 });
        let second = places.take(&lease("sub_b", 2));
        assert_eq!(places.free(), Free { all: 6, spare: 4 });
        assert_eq!(places.handles()[&3].len(), 2);
        drop((first, second));
        assert_eq!(places.free().all, 8);
        assert!(places.handles()[&3].is_empty());
    }

    #[test]
    fn a_panic_frees_the_place() {
        let places = Places::new(1);
        let place = places.take(&lease("sub_a", 1));
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _place = place;
            panic!("on purpose");
        }));
        assert!(result.is_err());
        assert_eq!(places.free().all, 1);
    }

    #[tokio::test]
    async fn freeing_is_heard() {
        let places = Places::new(1);
        drop(places.take(&lease("sub_a", 1)));
        tokio::time::timeout(Duration::from_secs(1), places.freed()).await.unwrap();
    }
}
