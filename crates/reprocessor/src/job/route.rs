//! A job's way through its plan: which subscription is next, and which ones wait for room.

use std::{collections::VecDeque, time::Duration};

use postroad_model::id::SubscriptionId;
use postroad_store::StreamId;
use tokio::time::Instant;

use super::spec::{At, Cursor, Plan};

/// How long a full queue is left alone at first; doubled each time that nothing could be moved.
const FULL_WAIT: Duration = Duration::from_millis(200);
/// How long at most.
const FULL_WAIT_MAX: Duration = Duration::from_secs(5);

/// A subscription of the plan that was begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leg {
    index: usize,
    /// The subscription.
    pub(super) subscription: SubscriptionId,
    /// Behind which letter it goes on.
    pub(super) after: StreamId,
    /// The last letter that may be moved.
    pub(super) upto: StreamId,
    wait: Duration,
}

/// What is next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ahead {
    /// This subscription.
    Leg(Leg),
    /// Nothing before then: all that is left waits for room.
    Nothing(Instant),
    /// The end.
    End,
}

/// The way.
#[derive(Debug)]
pub(super) struct Route {
    plan: Plan,
    next: usize,
    aside: VecDeque<(Instant, Leg)>,
}

impl Route {
    /// The way through a plan from where a cursor stands.
    pub(super) fn new(plan: Plan, cursor: &Cursor, now: Instant) -> Self {
        let mut route = Self { plan, next: cursor.next, aside: VecDeque::new() };
        for (index, At(after)) in &cursor.begun {
            if let Some(leg) = route.leg(*index, *after) {
                route.aside.push_back((now, leg));
            }
        }
        route
    }

    fn leg(&self, index: usize, after: StreamId) -> Option<Leg> {
        let (subscription, At(upto)) = self.plan.get(index)?;
        Some(Leg { index, subscription: subscription.clone(), after, upto: *upto, wait: FULL_WAIT })
    }

    /// What is next: what was put aside long enough ago, then what was not begun.
    pub(super) fn ahead(&mut self, now: Instant) -> Ahead {
        if self.aside.front().is_some_and(|(due, _)| *due <= now)
            && let Some((_, leg)) = self.aside.pop_front()
        {
            return Ahead::Leg(leg);
        }
        if let Some(leg) = self.leg(self.next, StreamId::ZERO) {
            self.next += 1;
            return Ahead::Leg(leg);
        }
        self.aside.front().map_or(Ahead::End, |(due, _)| Ahead::Nothing(*due))
    }

    /// Goes on with another subscription until there may be room in this one's queue.
    pub(super) fn put_aside(&mut self, mut leg: Leg, has_moved: bool, now: Instant) {
        leg.wait = if has_moved { FULL_WAIT } else { (leg.wait * 2).min(FULL_WAIT_MAX) };
        let due = now + leg.wait;
        let place = self.aside.partition_point(|(other, _)| *other <= due);
        self.aside.insert(place, (due, leg));
    }

    /// Where it stands, with the leg that is under way.
    pub(super) fn cursor(&self, under_way: Option<&Leg>) -> Cursor {
        let aside = self.aside.iter().map(|(_, leg)| leg);
        let begun = under_way.into_iter().chain(aside).map(|leg| (leg.index, At(leg.after))).collect();
        Cursor { next: self.next, begun }
    }

    /// Subscriptions that wait for room, a few of them.
    pub(super) fn waiting(&self) -> Vec<SubscriptionId> {
        self.aside.iter().take(10).map(|(_, leg)| leg.subscription.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(count: usize) -> Plan {
        let id = |n| SubscriptionId::new(&format!("sub_{n}")).unwrap();
        (0..count).map(|n| (id(n), At(StreamId { ms: 9, seq: 0 }))).collect()
    }

    fn leg(route: &mut Route, now: Instant) -> Leg {
        match route.ahead(now) {
            Ahead::Leg(leg) => leg,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_full_queue_keeps_no_other_waiting() {
        let now = Instant::now();
        let mut route = Route::new(plan(2), &Cursor::default(), now);
        let full = leg(&mut route, now);
        route.put_aside(full.clone(), true, now);
        assert_eq!(leg(&mut route, now).subscription.as_str(), "sub_1");
        assert_eq!(route.ahead(now), Ahead::Nothing(now + FULL_WAIT));
        assert_eq!(route.waiting(), std::slice::from_ref(&full.subscription));
        let again = leg(&mut route, now + FULL_WAIT);
        assert_eq!(again, full);
        assert_eq!(route.ahead(now), Ahead::End);
        route.put_aside(again, false, now);
        assert_eq!(route.ahead(now), Ahead::Nothing(now + 2 * FULL_WAIT));
    }

    #[test]
    fn a_cursor_leads_back_to_where_it_was() {
        let now = Instant::now();
        let mut route = Route::new(plan(3), &Cursor::default(), now);
        let full = leg(&mut route, now);
        route.put_aside(full, true, now);
        let mut under_way = leg(&mut route, now);
        under_way.after = StreamId { ms: 5, seq: 1 };
        let cursor = route.cursor(Some(&under_way));
        let mut again = Route::new(plan(3), &cursor, now);
        assert_eq!(again.cursor(None), cursor);
        assert_eq!(leg(&mut again, now).after, under_way.after);
        assert_eq!(leg(&mut again, now).subscription.as_str(), "sub_0");
        assert_eq!(leg(&mut again, now).subscription.as_str(), "sub_2");
        assert_eq!(again.ahead(now), Ahead::End);
    }

    #[test]
    fn a_cursor_beyond_the_plan_is_the_end() {
        let now = Instant::now();
        let cursor = Cursor { next: 9, begun: vec![(7, At(StreamId::ZERO))] };
        assert_eq!(Route::new(plan(1), &cursor, now).ahead(now), Ahead::End);
    }
}
