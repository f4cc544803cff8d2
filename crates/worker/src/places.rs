//! The places of a worker: how many deliveries it has taken and not settled, and which.
//!
//! A place is taken with a lease and freed when the lease is settled, or when whoever held it panics.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use postroad_model::id::SubscriptionId;
use postroad_store::Lease;
use tokio::sync::Notify;

/// A quarter of the places is kept for subscriptions of which nothing is held, so that those which hang
/// cannot take all.
const KEPT_SHARE: usize = 4;
/// Of one that was alone lately only so much is kept: enough for whoever comes next, who would wait until it
/// gives up, and too little to slow it.
const KEPT_SHARE_ALONE: usize = 16;
/// What "lately" is.
const LATELY: Duration = Duration::from_secs(30);

/// All places of one worker.
pub struct Places {
    most: usize,
    most_bytes: usize,
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Default)]
struct State {
    /// Handles of what is held, by lane.
    held: HashMap<u16, HashSet<String>>,
    /// How much is held of each subscription of which anything is.
    subscriptions: HashMap<SubscriptionId, usize>,
    /// The subscription of which something was taken last.
    latest: Option<SubscriptionId>,
    /// When that was last another one than before.
    turned: Option<Instant>,
    /// Lanes of subscriptions of which nothing is held any more.
    let_go: BTreeSet<u16>,
    count: usize,
    bytes: usize,
    suspects: usize,
}

/// One place; freed when dropped.
pub struct Place {
    places: Arc<Places>,
    lane: u16,
    subscription: SubscriptionId,
    handle: String,
    bytes: usize,
    suspect: bool,
}

/// How many places are free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Free {
    /// In all.
    pub all: usize,
    /// Of those, for anybody: the rest is kept for subscriptions of which nothing is held.
    pub spare: usize,
    /// Bytes that may still be taken.
    pub bytes: usize,
}

impl Places {
    /// So many, all free; none is while so many bytes are held.
    pub fn new(most: usize, most_bytes: usize) -> Arc<Self> {
        Arc::new(Self { most, most_bytes, state: Mutex::default(), freed: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many are free now.
    pub fn free(&self) -> Free {
        let state = self.lock();
        let kept = if state.turned.is_some_and(|turned| turned.elapsed() < LATELY) {
            self.most / KEPT_SHARE
        } else {
            (self.most / KEPT_SHARE_ALONE).max(usize::from(self.most >= KEPT_SHARE))
        };
        let bytes = self.most_bytes.saturating_sub(state.bytes);
        let all = if bytes == 0 { 0 } else { self.most.saturating_sub(state.count) };
        Free { all, spare: all.saturating_sub(kept), bytes }
    }

    /// How many are taken.
    pub fn taken(&self) -> usize {
        self.lock().count
    }

    /// Whether a suspect is held. The rule, which `take` keeps: a delivery that was lost three times is a
    /// suspect, and a worker holds one of them at a time, whatever else it holds. So whoever is buried as
    /// `worker_lost` was the only suspect at hand each of the last times that its worker was lost; what only lay
    /// beside it becomes a suspect at worst, runs without it and comes to its end. (Decision 7.)
    pub fn holds_suspect(&self) -> bool {
        self.lock().suspects > 0
    }

    /// Takes the place of a lease.
    pub fn take(self: &Arc<Self>, lease: &Lease) -> Place {
        let handle = lease.handle();
        let (bytes, suspect) = (lease.entry.size(), lease.tries.progress.runs_alone());
        let mut state = self.lock();
        state.count += 1;
        state.bytes += bytes;
        state.suspects += usize::from(suspect);
        state.held.entry(lease.lane).or_default().insert(handle.clone());
        let subscription = lease.subscription.clone();
        *state.subscriptions.entry(subscription.clone()).or_default() += 1;
        if state.latest.as_ref() != Some(&lease.subscription)
            && state.latest.replace(lease.subscription.clone()).is_some()
        {
            state.turned = Some(Instant::now());
        }
        Place { places: Arc::clone(self), lane: lease.lane, subscription, handle, bytes, suspect }
    }

    /// Waits until a place has been freed since the last wait.
    pub async fn freed(&self) {
        self.freed.notified().await;
    }

    /// Lanes where there was a subscription of which nothing is held any more, since this was last asked.
    pub fn take_let_go(&self) -> BTreeSet<u16> {
        std::mem::take(&mut self.lock().let_go)
    }

    /// What is held, by lane, as `disown` takes it.
    pub fn handles(&self) -> HashMap<u16, Vec<String>> {
        self.lock().held.iter().map(|(lane, handles)| (*lane, handles.iter().cloned().collect())).collect()
    }

    /// What is held of one lane.
    pub fn handles_in(&self, lane: u16) -> Vec<String> {
        self.lock().held.get(&lane).map(|handles| handles.iter().cloned().collect()).unwrap_or_default()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.places.lock();
        state.count -= 1;
        state.bytes -= self.bytes;
        state.suspects -= usize::from(self.suspect);
        if let Some(handles) = state.held.get_mut(&self.lane) {
            handles.remove(&self.handle);
        }
        if let Some(count) = state.subscriptions.get_mut(&self.subscription) {
            *count -= 1;
            if *count == 0 {
                state.subscriptions.remove(&self.subscription);
                state.let_go.insert(self.lane);
            }
        }
        drop(state);
        self.places.freed.notify_one();
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use postroad_model::delivery::Progress;
    use postroad_store::{StreamId, Tries, entry::Entry};

    pub(crate) fn lease(subscription: &str, ms: u64) -> Lease {
        Lease {
            lane: 3,
            subscription: SubscriptionId::new(subscription).unwrap(),
            change: StreamId::ZERO,
            rank: 1,
            id: StreamId { ms, seq: 0 },
            number: 1,
            tries: Tries::default(),
            entry: Entry { record: vec![0; 100].into() },
            accepted_ms: 0,
            expires_ms: None,
            reference: String::new(),
            since: Instant::now(),
        }
    }

    #[test]
    fn one_that_is_alone_leaves_a_few_and_several_leave_a_quarter() {
        let places = Places::new(8, usize::MAX);
        let free = |places: &Places| (places.free().all, places.free().spare);
        let first = places.take(&lease("sub_a", 1));
        assert_eq!(free(&places), (7, 6));
        let second = places.take(&lease("sub_b", 2));
        assert_eq!(free(&places), (6, 4));
        assert_eq!((Places::new(512, 1).free().spare, Places::new(3, 1).free().spare), (480, 3));
        assert_eq!((places.handles()[&3].len(), places.handles_in(3).len()), (2, 2));
        assert!(places.take_let_go().is_empty());
        drop((first, second));
        assert_eq!(places.free().all, 8);
        assert!(places.handles_in(3).is_empty() && places.handles_in(4).is_empty());
        assert_eq!((places.take_let_go(), places.take_let_go()), ([3].into(), BTreeSet::new()));
        assert_eq!(Places::new(1, usize::MAX).free().spare, 1);
    }

    #[test]
    fn bytes_are_bounded_too() {
        let size = lease("sub_a", 1).entry.size();
        let places = Places::new(100, size + 1);
        let first = places.take(&lease("sub_a", 1));
        assert_eq!((places.free().all, places.free().bytes), (99, 1));
        let second = places.take(&lease("sub_b", 2));
        assert_eq!(places.free(), Free { all: 0, spare: 0, bytes: 0 });
        drop(first);
        assert_eq!(places.free().all, 99);
        drop(second);
        assert_eq!(places.free().bytes, size + 1);
    }

    #[test]
    fn a_suspect_is_known() {
        let places = Places::new(9, usize::MAX);
        let _innocent = places.take(&lease("sub_a", 1));
        let mut suspect = lease("sub_a", 2);
        suspect.tries.progress = Progress { attempts: 0, reclaims: Progress::ALONE_AFTER };
        assert!(!places.holds_suspect());
        let place = places.take(&suspect);
        assert!(places.holds_suspect());
        drop(place);
        assert!(!places.holds_suspect());
    }

    #[test]
    fn a_panic_frees_the_place() {
        let places = Places::new(1, usize::MAX);
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
        let places = Places::new(1, usize::MAX);
        drop(places.take(&lease("sub_a", 1)));
        tokio::time::timeout(Duration::from_secs(1), places.freed()).await.unwrap();
    }
}
