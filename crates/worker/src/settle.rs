//! settle: verdicts back to Redis, many in one flight.
//!
//! Whatever has come to its end while a flight was out goes with the next one: no timer, no waiting when
//! idle. A flight of unknown outcome is sent again as it is; leases make that safe.
//!
//! What fails waits aside and keeps nothing else. A lane that is away is asked again with growing delays, and
//! at once when Redis is heard again. Of what a lane refuses the part that it objects to is found by sending
//! less at a time; that one is given up after some tries, and its lease runs out.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use postroad_model::time::millis;
use postroad_store::{Backoff, Settled, Settlement, StoreError};
use tokio::{sync::mpsc::UnboundedReceiver, time::Instant};
use tracing::{error, info, warn};

use crate::{
    places::Place,
    shared::{Outgoing, Shared},
};

/// The most settlements in one flight.
const MOST: usize = 1_000;
/// How often one is refused before it is given up: for some six seconds.
const TRIES: u32 = 6;

/// Settlements of one lane, and the places that they free.
struct Part {
    lane: u16,
    settlements: Vec<Settlement>,
    places: Vec<Option<Place>>,
    refused: u32,
}

/// Settles until every sender is gone and everything is settled.
pub async fn settle_forever(shared: Shared, mut outgoing: UnboundedReceiver<Outgoing>) {
    let mut batch = Vec::with_capacity(MOST);
    let mut aside = Aside::default();
    let mut open = true;
    while open || !aside.is_empty() {
        tokio::select! {
            count = outgoing.recv_many(&mut batch, MOST), if open => open = count > 0,
            () = aside.due() => {}
            () = shared.outage.ended(), if !aside.is_empty() => aside.hurry(),
        }
        let mut flight = aside.take_due(Instant::now());
        for part in by_lane(batch.drain(..)) {
            if let Some(part) = aside.join(part) {
                flight.push(part);
            }
        }
        fly(&shared, flight, &mut aside).await;
        shared.outage.unsettled(aside.away.len());
        shared.metrics.in_flight.set(i64::try_from(shared.places.taken()).unwrap_or(i64::MAX));
        let let_go = shared.places.take_let_go();
        if shared.places.free().spare > 0 {
            shared.lanes.forget_passed();
        } else {
            shared.lanes.forget_passed_in(let_go);
        }
    }
}

fn by_lane(outgoing: impl Iterator<Item = Outgoing>) -> impl Iterator<Item = Part> {
    let mut lanes: BTreeMap<u16, Part> = BTreeMap::new();
    for Outgoing { settlement, place } in outgoing {
        let lane = settlement.lease.lane;
        lanes.entry(lane).or_insert_with(|| Part::new(lane)).push(settlement, place);
    }
    lanes.into_values()
}

/// Sends a flight. What fails goes aside.
async fn fly(shared: &Shared, mut flight: Vec<Part>, aside: &mut Aside) {
    let trace_ms = millis(shared.config.retention);
    while !flight.is_empty() {
        let (rows, rest): (Vec<_>, Vec<_>) = flight
            .into_iter()
            .map(|part| ((part.lane, part.settlements), (part.places, part.refused)))
            .unzip();
        let answers = match shared.store.settle(&shared.me, &rows, shared.config.circuit, trace_ms).await {
            Ok(answers) => answers,
            Err(error) => rows.iter().map(|_| Err(error.clone())).collect(),
        };
        flight = Vec::new();
        for (((lane, settlements), (places, refused)), answer) in rows.into_iter().zip(rest).zip(answers) {
            match answer {
                Ok(settled) => {
                    drop(places);
                    through(shared, lane, &settled);
                    aside.is_well(lane);
                }
                Err(error) => {
                    let part = Part { lane, settlements, places, refused };
                    shared.outage.failed(&error);
                    flight.extend(aside.put(part, &error, Instant::now()));
                }
            }
        }
    }
}

fn through(shared: &Shared, lane: u16, settled: &Settled) {
    shared.metrics.stale.inc_by(settled.stale);
    shared.metrics.disabled.inc_by(u64::try_from(settled.disabled.len()).unwrap_or(0));
    if let Some(due) = settled.next_due {
        shared.lanes.due_in(lane, due);
    }
    if settled.ready {
        shared.lanes.warm(lane);
    }
    if settled.notes {
        shared.outbox.note(lane);
    }
}

impl Part {
    fn new(lane: u16) -> Self {
        Self { lane, settlements: Vec::new(), places: Vec::new(), refused: 0 }
    }

    fn push(&mut self, settlement: Settlement, place: Option<Place>) {
        self.settlements.push(settlement);
        self.places.push(place);
    }

    /// Less at a time: by subscription, then one by one. `Err` for what is one already.
    fn split(self) -> Result<Vec<Self>, Self> {
        if self.settlements.len() < 2 {
            return Err(self);
        }
        let subscriptions: BTreeSet<_> =
            self.settlements.iter().map(|settlement| settlement.lease.subscription.clone()).collect();
        let each = subscriptions.len() < 2;
        let lane = self.lane;
        let mut parts: BTreeMap<(String, usize), Self> = BTreeMap::new();
        for (at, (settlement, place)) in self.settlements.into_iter().zip(self.places).enumerate() {
            let key = (settlement.lease.subscription.to_string(), if each { at } else { 0 });
            parts.entry(key).or_insert_with(|| Self::new(lane)).push(settlement, place);
        }
        Ok(parts.into_values().collect())
    }
}

/// What has failed and waits for another try.
#[derive(Default)]
struct Aside {
    away: BTreeMap<u16, Away>,
    refused: Vec<(Instant, Part)>,
}

/// A lane that is away.
struct Away {
    part: Part,
    backoff: Backoff,
    /// `None` while it is being asked.
    due: Option<Instant>,
}

impl Aside {
    fn is_empty(&self) -> bool {
        self.away.is_empty() && self.refused.is_empty()
    }

    /// Waits until something is due.
    async fn due(&self) {
        let away = self.away.values().filter_map(|away| away.due);
        match away.chain(self.refused.iter().map(|(due, _)| *due)).min() {
            Some(due) => tokio::time::sleep_until(due).await,
            None => std::future::pending().await,
        }
    }

    /// Redis is heard again: everything is due, and the next delays are short.
    fn hurry(&mut self) {
        for away in self.away.values_mut() {
            away.due = Some(Instant::now());
            away.backoff.reset();
        }
    }

    fn take_due(&mut self, now: Instant) -> Vec<Part> {
        let mut flight = Vec::new();
        for (lane, away) in &mut self.away {
            if away.due.is_some_and(|due| due <= now) {
                away.due = None;
                flight.push(std::mem::replace(&mut away.part, Part::new(*lane)));
            }
        }
        let (due, waiting) = std::mem::take(&mut self.refused).into_iter().partition(|(due, _)| *due <= now);
        self.refused = waiting;
        let due: Vec<(Instant, Part)> = due;
        flight.extend(due.into_iter().map(|(_, part)| part));
        flight
    }

    /// What comes for a lane that is away waits with the rest; else it is given back.
    fn join(&mut self, mut part: Part) -> Option<Part> {
        let Some(away) = self.away.get_mut(&part.lane).filter(|away| away.due.is_some()) else {
            return Some(part);
        };
        away.part.settlements.append(&mut part.settlements);
        away.part.places.append(&mut part.places);
        None
    }

    /// A part failed. What is to be sent again at once.
    fn put(&mut self, part: Part, error: &StoreError, now: Instant) -> Vec<Part> {
        if error.is_transient() {
            if self.away.is_empty() {
                warn!(lane = part.lane, %error, "settling waits for Redis");
            }
            let lane = part.lane;
            let away = self.away.entry(lane).or_insert_with(|| Away {
                part: Part::new(lane),
                backoff: Backoff::default(),
                due: None,
            });
            away.part.settlements.extend(part.settlements);
            away.part.places.extend(part.places);
            if away.due.is_none_or(|due| due <= now) {
                away.due = Some(now + away.backoff.next_delay());
            }
            return Vec::new();
        }
        // The lane is there.
        self.is_well(part.lane);
        match part.split() {
            Ok(parts) => parts,
            Err(mut part) => {
                part.refused += 1;
                if part.refused < TRIES {
                    self.refused.push((now + Duration::from_millis(100 << part.refused), part));
                } else if let Some(settlement) = part.settlements.first() {
                    let lease = &settlement.lease;
                    error!(
                        lane = lease.lane,
                        subscription.id = %lease.subscription,
                        entry = %lease.id,
                        %error,
                        "gave up settling a delivery; it is reclaimed after its lease"
                    );
                }
                Vec::new()
            }
        }
    }

    /// A lane answered.
    fn is_well(&mut self, lane: u16) {
        if self.away.get(&lane).is_some_and(|away| away.part.settlements.is_empty()) {
            self.away.remove(&lane);
            if self.away.is_empty() {
                info!("settling goes on");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{deliver::unsent, places::tests::lease};

    fn part(subscriptions: &[&str]) -> Part {
        let mut part = Part::new(3);
        for (at, subscription) in (1..).zip(subscriptions) {
            part.push(unsent(lease(subscription, at)), None);
        }
        part
    }

    fn away() -> StoreError {
        StoreError::Unavailable("gone".into())
    }

    fn refusal() -> StoreError {
        StoreError::Refused("WRONGTYPE".into())
    }

    #[test]
    fn what_is_refused_is_sent_in_ever_smaller_parts_and_given_up_in_the_end() {
        let mut aside = Aside::default();
        let now = Instant::now();
        let parts = aside.put(part(&["sub_a", "sub_b", "sub_a"]), &refusal(), now);
        assert_eq!(parts.iter().map(|part| part.settlements.len()).collect::<Vec<_>>(), [2, 1]);
        let mut ones = Vec::new();
        for part in parts {
            ones.extend(aside.put(part, &refusal(), now));
        }
        assert_eq!((ones.len(), aside.refused.len()), (2, 1), "sub_b's was one already");
        for _ in 0..TRIES {
            let mut flight = aside.take_due(now + Duration::from_secs(60));
            flight.append(&mut ones);
            for part in flight {
                assert!(aside.put(part, &refusal(), now).is_empty());
            }
        }
        assert!(aside.is_empty());
    }

    #[tokio::test]
    async fn a_lane_that_is_away_waits_for_itself() {
        let mut aside = Aside::default();
        let now = Instant::now();
        assert!(aside.put(part(&["sub_a"]), &away(), now).is_empty());
        assert!(aside.take_due(now).is_empty(), "not at once");
        assert!(aside.join(part(&["sub_b"])).is_none(), "what comes behind waits with it");
        assert_eq!(aside.join(Part::new(4)).map(|part| part.lane), Some(4), "another lane's does not");
        let flight = aside.take_due(now + Duration::from_secs(60));
        assert_eq!(flight[0].settlements.len(), 2);
        // Failed again, and again until Redis is heard.
        let mut flight = flight;
        for _ in 0..20 {
            assert!(aside.put(flight.remove(0), &away(), now).is_empty());
            flight = aside.take_due(now + Duration::from_secs(60));
        }
        assert!(aside.put(flight.remove(0), &away(), now).is_empty());
        aside.hurry();
        tokio::time::timeout(Duration::from_secs(1), aside.due()).await.unwrap();
        assert_eq!(aside.take_due(Instant::now()).len(), 1);
        aside.is_well(3);
        assert!(aside.is_empty());
    }
}
