//! Dead letters as rows, newest first over all subscriptions, a page at a time.
//!
//! Letters are ordered by their entry's id and then by their subscription; a cursor is a place in that order.
//! What dies later comes before every cursor, and what is moved or purged is just missing, so pages neither
//! skip nor repeat. Subscriptions are merged: of each, at most one page is read before it is its turn, and only
//! rows are kept.

use std::{
    cmp::Ordering,
    collections::{BinaryHeap, VecDeque},
};

use postroad_api::page;
use postroad_model::{id::SubscriptionId, names::Tenant};
use postroad_store::{Store, StreamId};
use serde::Serialize;

use super::{Queue, queues, walk::Measure};
use crate::{
    error::Error,
    filter::Filter,
    letter::{Letter, Row},
};

/// A page of dead letters.
#[derive(Debug, Serialize)]
pub struct Page {
    /// The letters, newest first.
    pub messages: Vec<Row>,
    /// Leads on. A page may hold fewer letters than it could, or none, and still lead on: looking has a bound.
    pub next_cursor: Option<String>,
    /// How many letters were looked at.
    pub scanned: u64,
}

/// How many letters, and bytes of them, a page looks at for those that match.
const SCAN_LETTERS: u64 = 10_000;
const SCAN_BYTES: usize = 64 << 20;
/// Letters that are read of all subscriptions together before the first row is out.
const AHEAD: usize = 4_000;

/// A page of the letters that a filter means, behind a cursor.
pub async fn list(
    store: &Store,
    tenant: &Tenant,
    filter: &Filter,
    limit: usize,
    cursor: Option<&str>,
) -> Result<Page, Error> {
    let start = start(cursor)?;
    let mut merge = Merge::begin(store, tenant, filter, start.as_ref()).await?;
    let mut messages = Vec::with_capacity(limit.min(page::MAX_LIMIT));
    let mut last: Option<Spot> = start;
    let next = loop {
        match merge.next(last.as_ref()).await? {
            Next::Row(spot, row) => {
                // One more than a page holds tells whether there is another.
                if messages.len() == limit {
                    break last;
                }
                messages.push(*row);
                last = Some(spot);
            }
            Next::Pause(spot) => break Some(spot),
            Next::End => break None,
        }
    };
    Ok(Page {
        messages,
        next_cursor: next.map(|spot| page::cursor(&spot.to_string())),
        scanned: merge.scanned,
    })
}

/// A place in the order: behind a letter of this id in this subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Spot {
    id: StreamId,
    subscription: String,
}

impl std::fmt::Display for Spot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.id, self.subscription)
    }
}

fn start(cursor: Option<&str>) -> Result<Option<Spot>, Error> {
    let bad = |message: &str| Error::field("cursor", message);
    let Some(text) = page::position(cursor).map_err(|error| bad(&error.message))? else { return Ok(None) };
    let spot = text.split_once(' ').and_then(|(id, subscription)| {
        Some(Spot { id: id.parse().ok()?, subscription: subscription.to_owned() })
    });
    spot.map(Some).ok_or_else(|| bad("cursor is none that this server gave; begin without one"))
}

fn next_id(id: StreamId) -> StreamId {
    match id.seq.checked_add(1) {
        Some(seq) => StreamId { ms: id.ms, seq },
        None => StreamId { ms: id.ms.saturating_add(1), seq: 0 },
    }
}

/// One subscription on its way into the list.
struct Source {
    queue: Queue,
    rows: VecDeque<(StreamId, Row)>,
    /// What was not read yet lies below this.
    below: StreamId,
    is_through: bool,
    measure: Measure,
}

impl Source {
    /// Where its next letter lies, or may lie: a row that is there goes before letters that may lie there.
    fn key(&self) -> (StreamId, bool) {
        self.rows.front().map_or((self.below, false), |(id, _)| (*id, true))
    }
}

impl Ord for Source {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key()).then_with(|| self.queue.id.cmp(&other.queue.id))
    }
}

impl PartialOrd for Source {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Source {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Source {}

enum Next {
    Row(Spot, Box<Row>),
    /// Enough was looked at: all before this place is out.
    Pause(Spot),
    End,
}

struct Merge<'a> {
    store: &'a Store,
    tenant: &'a Tenant,
    filter: &'a Filter,
    sources: BinaryHeap<Source>,
    /// The most letters to read of a subscription at a time.
    share: usize,
    scanned: u64,
    bytes: usize,
}

impl<'a> Merge<'a> {
    async fn begin(
        store: &'a Store,
        tenant: &'a Tenant,
        filter: &'a Filter,
        start: Option<&Spot>,
    ) -> Result<Self, Error> {
        let queues = queues(store, tenant, filter).await?;
        let ids: Vec<SubscriptionId> = queues.iter().map(|queue| queue.id.clone()).collect();
        let figures = store.dead_queues_of(&ids).await.map_err(Error::Read)?;
        let mut figures = figures.into_iter().peekable();
        let mut sources = BinaryHeap::new();
        for queue in queues {
            let Some(found) = figures.next_if(|found| found.subscription == queue.id) else { continue };
            let mut below = next_id(found.newest);
            if let Some(start) = start {
                // At the cursor's own id, subscriptions that sort below its own are still to come.
                let comes = queue.id.as_str() < start.subscription.as_str();
                below = below.min(if comes { next_id(start.id) } else { start.id });
            }
            below = filter.below().map_or(below, |bound| below.min(bound));
            let (rows, measure) = (VecDeque::new(), Measure::default());
            sources.push(Source { queue, rows, below, is_through: false, measure });
        }
        let share = (AHEAD / sources.len().max(1)).max(8);
        Ok(Self { store, tenant, filter, sources, share, scanned: 0, bytes: 0 })
    }

    /// The next row; `last` is where the page stands.
    async fn next(&mut self, last: Option<&Spot>) -> Result<Next, Error> {
        while let Some(mut source) = self.sources.pop() {
            if let Some((id, row)) = source.rows.pop_front() {
                let subscription = source.queue.id.to_string();
                if !(source.rows.is_empty() && source.is_through) {
                    self.sources.push(source);
                }
                return Ok(Next::Row(Spot { id, subscription }, Box::new(row)));
            }
            // Everything at or above this is out. It must have come further than the cursor had.
            let reached = Spot { id: source.below, subscription: String::new() };
            let is_enough = self.scanned >= SCAN_LETTERS || self.bytes >= SCAN_BYTES;
            if is_enough && last.is_none_or(|last| reached.id < last.id) {
                return Ok(Next::Pause(reached));
            }
            self.read(&mut source).await?;
            if !(source.rows.is_empty() && source.is_through) {
                self.sources.push(source);
            }
        }
        Ok(Next::End)
    }

    async fn read(&mut self, source: &mut Source) -> Result<(), Error> {
        let most = source.measure.most().min(self.share);
        let page = self.store.newest_dead_letters(&source.queue.id, Some(source.below), most).await;
        let page: Vec<Letter> = page.map_err(Error::Read)?.into_iter().map(Letter::open).collect();
        source.measure.learn_of(&page);
        self.scanned += page.len() as u64;
        self.bytes += page.iter().map(Letter::size).sum::<usize>();
        if let Some(oldest) = page.last() {
            source.below = oldest.dead.id.entry;
        }
        source.is_through = page.len() < most || source.below <= self.filter.after();
        let meant = page.iter().filter(|letter| self.filter.matches(self.tenant, &source.queue, letter));
        source.rows.extend(meant.map(|letter| (letter.dead.id.entry, Row::from(letter))));
        Ok(())
    }
}
