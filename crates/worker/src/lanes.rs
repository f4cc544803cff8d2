//! Which lanes are worth a look, and which timers of theirs are due when.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use postroad_store::StreamId;
use tokio::sync::Notify;

/// What is known of the lanes.
#[derive(Default)]
pub struct Lanes {
    state: Mutex<State>,
    hot: Notify,
    looked: Notify,
    due: Notify,
}

#[derive(Default)]
struct State {
    /// Lanes where tokens lie.
    hot: BTreeSet<u16>,
    /// Whether some that were hot are being looked at.
    looking: bool,
    /// Where the last look ended, so that every lane has its turn.
    next: u16,
    /// Lanes whose tokens up to an entry were passed over: nothing new for this worker up to there.
    passed: HashMap<u16, StreamId>,
    /// Lanes that refuse to be taken from, and when to ask them again; `None` while that is done.
    resting: HashMap<u16, Option<Instant>>,
    /// Lanes where suspects were put off, those first that have waited longest.
    suspects: VecDeque<u16>,
    /// When lanes' next timers are due.
    due: HashMap<u16, Instant>,
}

impl Lanes {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tokens lie there.
    pub fn heat(&self, lanes: impl IntoIterator<Item = u16>) {
        let mut state = self.lock();
        for lane in lanes {
            if !matches!(state.resting.get(&lane), Some(Some(_))) {
                state.hot.insert(lane);
            }
        }
        drop(state);
        self.hot.notify_one();
    }

    /// Tokens lie there. Of what lies behind those that were passed over, the watch tells.
    pub fn warm(&self, lane: u16) {
        if !self.lock().passed.contains_key(&lane) {
            self.heat([lane]);
        }
    }

    /// Takes at most `most` lanes where tokens lie, going round. They are being looked at until the next call.
    pub fn take_hot(&self, most: usize) -> Vec<u16> {
        let mut state = self.lock();
        let next = state.next;
        let round: Vec<u16> =
            state.hot.range(next..).chain(state.hot.range(..next)).copied().take(most).collect();
        for lane in &round {
            state.hot.remove(lane);
        }
        state.looking = !round.is_empty();
        if let Some(last) = round.last() {
            state.next = last.wrapping_add(1);
        }
        round
    }

    /// Waits until some lane may have become hot.
    pub async fn heated(&self) {
        self.hot.notified().await;
    }

    /// Every hot lane was looked at.
    pub fn looked(&self) {
        self.looked.notify_one();
    }

    /// Waits until hot lanes were looked at.
    pub async fn cooled(&self) {
        self.looked.notified().await;
    }

    /// Whether no lane is hot, and none being looked at.
    pub fn is_cool(&self) -> bool {
        let state = self.lock();
        state.hot.is_empty() && !state.looking
    }

    /// Tokens up to `upto` were passed over there, because this worker holds enough of them.
    pub fn pass(&self, lane: u16, upto: StreamId) {
        self.lock().passed.insert(lane, upto);
    }

    /// Places were freed: what was passed over is worth a look again.
    pub fn forget_passed(&self) {
        let mut state = self.lock();
        let passed: Vec<u16> = state.passed.drain().map(|(lane, _)| lane).collect();
        if !passed.is_empty() {
            drop(state);
            self.heat(passed);
        }
    }

    /// The same for some lanes: of some subscription there nothing is held any more.
    pub fn forget_passed_in(&self, lanes: impl IntoIterator<Item = u16>) {
        let mut state = self.lock();
        let passed: Vec<u16> = lanes.into_iter().filter(|lane| state.passed.remove(lane).is_some()).collect();
        if !passed.is_empty() {
            drop(state);
            self.heat(passed);
        }
    }

    /// Up to where tokens were passed over, by lane.
    pub fn passed(&self) -> HashMap<u16, StreamId> {
        self.lock().passed.clone()
    }

    /// Up to where tokens are no news, by lane: they were passed over, or the lane refuses.
    pub fn wait_from(&self) -> HashMap<u16, StreamId> {
        let state = self.lock();
        let mut passed = state.passed.clone();
        passed.extend(state.resting.keys().map(|lane| (*lane, StreamId::LAST)));
        passed
    }

    /// A lane refuses: it is left alone for a while, and out of every wait until it is well, so that it disturbs
    /// no other.
    pub fn rest(&self, lane: u16, during: Duration) {
        let mut state = self.lock();
        state.hot.remove(&lane);
        state.resting.insert(lane, Some(Instant::now() + during));
    }

    /// A lane that refused does so no more.
    pub fn is_well(&self, lane: u16) {
        self.lock().resting.remove(&lane);
    }

    /// Lanes that have rested enough are worth a look again.
    pub fn wake(&self) {
        let now = Instant::now();
        let mut rested = Vec::new();
        for (lane, until) in &mut self.lock().resting {
            if until.is_some_and(|until| until <= now) {
                *until = None;
                rested.push(*lane);
            }
        }
        if !rested.is_empty() {
            self.heat(rested);
        }
    }

    /// Suspects were put off there.
    pub fn put_off(&self, lane: u16) {
        let mut state = self.lock();
        if !state.suspects.contains(&lane) {
            state.suspects.push_back(lane);
        }
    }

    /// Which of these lanes may hand out a suspect now.
    pub fn next_suspect(&self, hot: &[u16]) -> Option<u16> {
        let suspects = &mut self.lock().suspects;
        let waiting = suspects.iter().position(|lane| hot.contains(lane));
        waiting.and_then(|at| suspects.remove(at)).or_else(|| hot.first().copied())
    }

    /// A lane's next timer is due after so long.
    pub fn due_in(&self, lane: u16, after: Duration) {
        let at = Instant::now() + after;
        let mut state = self.lock();
        let earlier = state.due.get(&lane).is_none_or(|known| at < *known);
        if earlier {
            state.due.insert(lane, at);
            drop(state);
            self.due.notify_one();
        }
    }

    /// Lanes whose timers are due, and when the next one is.
    pub fn take_due(&self) -> (Vec<u16>, Option<Instant>) {
        let now = Instant::now();
        let mut state = self.lock();
        let lanes: Vec<u16> = state.due.iter().filter(|(_, at)| **at <= now).map(|(lane, _)| *lane).collect();
        for lane in &lanes {
            state.due.remove(lane);
        }
        (lanes, state.due.values().min().copied())
    }

    /// Waits until an earlier timer was made known.
    pub async fn due_changed(&self) {
        self.due.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_take_turns() {
        let lanes = Lanes::default();
        lanes.heat([1, 2, 3]);
        assert_eq!(lanes.take_hot(2), [1, 2]);
        lanes.heat([1, 2]);
        assert_eq!(lanes.take_hot(2), [3, 1]);
        assert_eq!(lanes.take_hot(9), [2]);
        assert!(!lanes.is_cool(), "it is being looked at");
        assert!(lanes.take_hot(9).is_empty() && lanes.is_cool());
    }

    #[test]
    fn what_was_passed_over_comes_back_when_places_are_freed() {
        let lanes = Lanes::default();
        lanes.pass(4, StreamId { ms: 1, seq: 0 });
        assert_eq!(lanes.passed().len(), 1);
        lanes.forget_passed();
        assert_eq!(lanes.take_hot(9), [4]);
        assert!(lanes.passed().is_empty());
    }

    #[test]
    fn what_one_lane_passed_over_comes_back_alone() {
        let lanes = Lanes::default();
        lanes.pass(4, StreamId { ms: 1, seq: 0 });
        lanes.pass(5, StreamId { ms: 1, seq: 0 });
        lanes.forget_passed_in([3, 5]);
        assert_eq!(lanes.take_hot(9), [5]);
        assert_eq!(lanes.passed().into_keys().collect::<Vec<_>>(), [4]);
    }

    #[test]
    fn a_lane_that_refuses_is_left_alone_for_a_while() {
        let lanes = Lanes::default();
        lanes.heat([1, 2]);
        lanes.rest(1, Duration::from_secs(60));
        lanes.rest(3, Duration::ZERO);
        lanes.heat([1, 2, 3]);
        let resting = HashMap::from([(1, StreamId::LAST), (3, StreamId::LAST)]);
        assert_eq!((lanes.take_hot(9), lanes.wait_from()), (vec![2], resting.clone()));
        // It is asked again, and stays out of waits until it has answered.
        lanes.wake();
        assert_eq!((lanes.take_hot(9), lanes.wait_from()), (vec![3], resting));
        // That was not heard of.
        lanes.heat([1, 2, 3]);
        assert_eq!(lanes.take_hot(9), [2, 3]);
        lanes.is_well(3);
        assert_eq!(lanes.wait_from().into_keys().collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn lanes_with_suspects_take_turns() {
        let lanes = Lanes::default();
        assert_eq!((lanes.next_suspect(&[]), lanes.next_suspect(&[7, 8])), (None, Some(7)));
        lanes.put_off(9);
        lanes.put_off(8);
        lanes.put_off(9);
        assert_eq!(lanes.next_suspect(&[7, 8, 9]), Some(9));
        lanes.put_off(9);
        assert_eq!(lanes.next_suspect(&[7, 8, 9]), Some(8));
        assert_eq!(lanes.next_suspect(&[7, 8]), Some(7));
    }

    #[test]
    fn the_earliest_timer_counts() {
        let lanes = Lanes::default();
        lanes.due_in(1, Duration::from_secs(60));
        lanes.due_in(1, Duration::ZERO);
        lanes.due_in(2, Duration::from_secs(60));
        let (due, next) = lanes.take_due();
        assert_eq!(due, [1]);
        assert!(next.unwrap() > Instant::now() + Duration::from_secs(50));
    }
}
