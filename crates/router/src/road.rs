//! One partition's way into the lanes: what was read, what each lane still has to get, and how far all of
//! it has come.
//!
//! Pure bookkeeping, no I/O: [`crate::route`] reads and sends.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use postroad_model::id::SubscriptionId;
use postroad_store::{ChainLink, Placed, StreamId, entry::Accepted};

/// One entry for subscriptions of one lane.
#[derive(Debug, Clone)]
pub struct Parcel {
    /// The entry.
    pub accepted: Arc<Accepted>,
    /// Whether the message keeps a history.
    pub keep: bool,
    /// The rank of its priority.
    pub rank: u8,
    /// When it expires, by Redis's clock in milliseconds.
    pub expires_ms: Option<u64>,
    /// What its order is kept by.
    pub line: Option<String>,
    /// The most that may wait in a queue before its oldest goes.
    pub max_length: Option<u64>,
    /// The subscriptions.
    pub to: Vec<SubscriptionId>,
}

impl Parcel {
    fn size(&self) -> usize {
        self.accepted.entry.size() + 64 * self.to.len()
    }
}

/// One partition's chain in one lane.
#[derive(Debug, Default)]
pub struct Chain {
    /// The highest id that the lane is known to have taken.
    pub prev: StreamId,
    /// What it has yet to get, by rising id.
    pub pending: VecDeque<Parcel>,
    /// What it had before it lost its tail: sending again is over when its mark is back there.
    pub had: StreamId,
}

impl Chain {
    /// Whether there is anything to send.
    pub fn is_idle(&self) -> bool {
        self.pending.is_empty() && self.had <= self.prev
    }
}

/// A partition that is held, on its way.
#[derive(Debug)]
pub struct Road {
    /// The ownership.
    pub epoch: u64,
    /// Everything up to here was read and matched.
    pub position: StreamId,
    /// Per lane, what it got and what it has yet to get.
    pub chains: BTreeMap<u16, Chain>,
    /// What was last told to Redis: up to where everything is in its queues.
    pub told: StreamId,
    /// Lanes that got something since then.
    pub sent: BTreeMap<u16, StreamId>,
}

/// The most bytes of one partition that may wait for lanes.
const HELD_BYTES: usize = 32 << 20;
/// The most bytes that one link may carry, so that no script runs for long.
const LINK_BYTES: usize = 1 << 20;

impl Road {
    /// A partition that was just taken.
    pub fn new(epoch: u64, routed: StreamId, sent: &[(u16, StreamId)]) -> Self {
        let chains = sent.iter().map(|(lane, id)| (*lane, Chain { prev: *id, ..Chain::default() })).collect();
        Self { epoch, position: routed, chains, told: routed, sent: BTreeMap::new() }
    }

    /// Adds an entry for subscriptions of one lane.
    pub fn add(&mut self, lane: u16, parcel: Parcel) {
        self.chains.entry(lane).or_default().pending.push_back(parcel);
    }

    /// Whether as many entries wait for some lane as may, or as many bytes.
    pub fn is_full(&self, max_held: usize) -> bool {
        let waiting = || self.chains.values().flat_map(|chain| &chain.pending);
        waiting().count() >= max_held || waiting().map(Parcel::size).sum::<usize>() >= HELD_BYTES
    }

    /// Up to where every entry is in its queues.
    pub fn routed(&self) -> StreamId {
        let first = self
            .chains
            .values()
            .filter_map(|chain| chain.pending.front())
            .map(|parcel| parcel.accepted.id)
            .min();
        first.map_or(self.position, before)
    }

    /// The next link for a lane, with as much as one may carry; `None` where nothing waits.
    pub fn link(&self, partition: u16, lane: u16) -> Option<ChainLink<'_>> {
        let chain = self.chains.get(&lane).filter(|chain| !chain.is_idle())?;
        let mut bytes = 0;
        let entries: Vec<Placed<'_>> = chain
            .pending
            .iter()
            .take_while(|parcel| {
                let first = bytes == 0;
                bytes += parcel.size();
                first || bytes <= LINK_BYTES
            })
            .map(|parcel| Placed {
                accepted: &parcel.accepted,
                keep: parcel.keep,
                rank: parcel.rank,
                expires_ms: parcel.expires_ms,
                line: parcel.line.clone(),
                max_length: parcel.max_length,
                to: parcel.to.clone(),
            })
            .collect();
        let mut last = entries.last().map_or(chain.prev, |placed| placed.accepted.id);
        // Nothing more of what was lost is to come: the mark goes back to where it was.
        if chain.pending.get(entries.len()).is_none_or(|next| next.accepted.id > chain.had) {
            last = last.max(chain.had);
        }
        Some(ChainLink { partition, prev: chain.prev, last, entries })
    }

    /// The lane has taken everything up to `last`, now or before.
    pub fn taken(&mut self, lane: u16, last: StreamId) {
        let chain = self.chains.entry(lane).or_default();
        while chain.pending.front().is_some_and(|parcel| parcel.accepted.id <= last) {
            chain.pending.pop_front();
        }
        if last > chain.prev {
            chain.prev = last;
            self.sent.insert(lane, last);
        }
    }

    /// The lane lacks what lies behind its mark: these parcels, which are put before what waits.
    pub fn lost(&mut self, lane: u16, mark: StreamId, parcels: Vec<Parcel>) {
        let chain = self.chains.entry(lane).or_default();
        // What the parcels cover waits twice otherwise.
        let upto = chain.prev;
        chain.pending.retain(|parcel| parcel.accepted.id > upto);
        chain.had = chain.had.max(chain.prev);
        chain.prev = mark;
        for parcel in parcels.into_iter().rev() {
            chain.pending.push_front(parcel);
        }
    }

    /// What Redis should be told, if anything: the position, and the lanes that got something.
    pub fn news(&self) -> Option<(StreamId, BTreeMap<u16, StreamId>)> {
        let routed = self.routed();
        (routed > self.told || !self.sent.is_empty()).then(|| (routed, self.sent.clone()))
    }

    /// Everything is to be told again: what Redis was told may be lost.
    pub fn tell_again(&mut self) {
        self.told = StreamId::ZERO;
        for (lane, chain) in &self.chains {
            // While a lane is sent again what it lost, the next owner must know what it once had.
            let had = chain.prev.max(chain.had);
            if had > StreamId::ZERO {
                self.sent.insert(*lane, had);
            }
        }
    }

    /// Redis was told.
    pub fn told(&mut self, upto: StreamId, sent: &[(u16, StreamId)]) {
        self.told = self.told.max(upto);
        for (lane, id) in sent {
            if self.sent.get(lane).is_some_and(|newest| newest <= id) {
                self.sent.remove(lane);
            }
        }
    }
}

/// The id just before another.
fn before(id: StreamId) -> StreamId {
    match id.seq.checked_sub(1) {
        Some(seq) => StreamId { ms: id.ms, seq },
        None => StreamId { ms: id.ms.saturating_sub(1), seq: u64::MAX },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postroad_store::entry::Entry;

    fn id(ms: u64) -> StreamId {
        StreamId { ms, seq: 0 }
    }

    fn parcel(ms: u64, bytes: usize) -> Parcel {
        let entry = Entry { record: vec![0; bytes].into() };
        Parcel {
            accepted: Arc::new(Accepted { id: id(ms), accepted_ms: ms, entry, first: None }),
            keep: true,
            rank: 1,
            expires_ms: None,
            line: None,
            max_length: None,
            to: vec![SubscriptionId::new("sub_1").unwrap()],
        }
    }

    #[test]
    fn the_position_waits_for_the_slowest_lane() {
        let mut road = Road::new(1, id(5), &[]);
        road.add(0, parcel(6, 1));
        road.add(1, parcel(7, 1));
        road.position = id(9);
        assert_eq!(road.routed(), StreamId { ms: 5, seq: u64::MAX });
        road.taken(0, id(6));
        assert_eq!(road.routed(), StreamId { ms: 6, seq: u64::MAX });
        road.taken(1, id(7));
        assert_eq!(road.routed(), id(9));
        assert!(!road.is_full(1));
    }

    #[test]
    fn a_road_is_full_by_entries_and_by_bytes() {
        let mut road = Road::new(1, id(5), &[]);
        road.add(0, parcel(6, 1));
        assert!(road.is_full(1) && !road.is_full(2));
        road.add(1, parcel(7, HELD_BYTES));
        assert!(road.is_full(3));
    }

    #[test]
    fn all_is_told_again() {
        let mut road = Road::new(1, id(5), &[(3, id(2))]);
        road.position = id(6);
        road.told(id(6), &[]);
        assert!(road.news().is_none());
        road.tell_again();
        assert_eq!(road.news().unwrap(), (id(6), BTreeMap::from([(3, id(2))])));
        // A lane that lost its tail: its next owner must learn what it had.
        road.lost(3, id(1), vec![parcel(2, 1)]);
        road.tell_again();
        assert_eq!(road.news().unwrap().1, BTreeMap::from([(3, id(2))]));
    }

    #[test]
    fn links_chain_and_stay_small() {
        let mut road = Road::new(1, id(0), &[(3, id(2))]);
        for ms in 10..14 {
            road.add(3, parcel(ms, 600_000));
        }
        let first = road.link(7, 3).unwrap();
        assert_eq!((first.partition, first.prev, first.last, first.entries.len()), (7, id(2), id(10), 1));
        road.taken(3, id(10));
        assert_eq!(road.link(7, 3).unwrap().prev, id(10));
        road.taken(3, id(13));
        assert!(road.link(7, 3).is_none());
        assert!(road.chains[&3].is_idle());
    }

    #[test]
    fn one_entry_larger_than_a_link_still_goes() {
        let mut road = Road::new(1, id(0), &[]);
        road.add(0, parcel(1, 3 << 20));
        road.add(0, parcel(2, 1));
        assert_eq!(road.link(0, 0).unwrap().entries.len(), 1);
    }

    #[test]
    fn a_gap_goes_before_what_waits() {
        let mut road = Road::new(1, id(0), &[(0, id(8))]);
        road.add(0, parcel(9, 1));
        road.lost(0, id(4), vec![parcel(5, 1), parcel(8, 1)]);
        let link = road.link(0, 0).unwrap();
        assert_eq!((link.prev, link.last), (id(4), id(9)));
        assert_eq!(link.entries.iter().map(|placed| placed.accepted.id.ms).collect::<Vec<_>>(), [5, 8, 9]);
    }

    #[test]
    fn what_is_lost_and_waits_goes_once() {
        let mut road = Road::new(1, id(5), &[(0, id(8))]);
        for ms in [6, 8, 9] {
            road.add(0, parcel(ms, 1));
        }
        road.lost(0, id(4), vec![parcel(6, 1), parcel(8, 1)]);
        let link = road.link(0, 0).unwrap();
        assert_eq!(link.entries.iter().map(|placed| placed.accepted.id.ms).collect::<Vec<_>>(), [6, 8, 9]);
    }

    #[test]
    fn a_gap_of_which_nothing_is_left_closes() {
        let mut road = Road::new(1, id(0), &[(0, id(8))]);
        road.lost(0, id(4), vec![]);
        let link = road.link(0, 0).unwrap();
        assert_eq!((link.prev, link.last, link.entries.len()), (id(4), id(8), 0));
        road.taken(0, id(8));
        assert!(road.link(0, 0).is_none());
    }

    #[test]
    fn redis_is_told_until_it_knows() {
        let mut road = Road::new(1, id(5), &[]);
        assert!(road.news().is_none());
        road.add(0, parcel(6, 1));
        road.position = id(6);
        road.taken(0, id(6));
        let (routed, sent) = road.news().unwrap();
        assert_eq!((routed, sent), (id(6), BTreeMap::from([(0, id(6))])));
        road.add(0, parcel(7, 1));
        road.position = id(7);
        road.taken(0, id(7));
        road.told(id(6), &[(0, id(6))]);
        assert_eq!(road.news().unwrap(), (id(7), BTreeMap::from([(0, id(7))])));
        road.told(id(7), &[(0, id(7))]);
        assert!(road.news().is_none());
    }
}
