//! Through a subscription's dead letters, a bounded page at a time.

use postroad_model::{id::SubscriptionId, names::Tenant};
use postroad_store::{Store, StreamId};

use super::{Queue, queues};
use crate::{error::Error, filter::Filter, letter::Letter};

/// The most letters of a page.
const LETTERS: usize = 200;
/// What a page should not hold much more of.
const BYTES: usize = 4 << 20;
/// The first page, before anything is known of how large the letters are.
const FIRST: usize = 25;

/// How many letters to read at a time, going by how large the last ones were.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measure(usize);

impl Default for Measure {
    fn default() -> Self {
        Self(FIRST)
    }
}

impl Measure {
    /// The next page's letters.
    pub(crate) fn most(self) -> usize {
        self.0
    }

    /// Learns from a page.
    pub(super) fn learn_of(&mut self, page: &[Letter]) {
        self.learn(page.len(), page.iter().map(Letter::size).sum());
    }

    /// Learns from a page of so many with so many bytes.
    pub(crate) fn learn(&mut self, count: usize, bytes: usize) {
        self.0 = match bytes {
            0..BYTES => (self.0 * 2).min(LETTERS),
            _ => (count * BYTES / bytes).clamp(1, LETTERS),
        };
    }
}

/// A way through one subscription's dead letters, oldest first, up to one that is there now.
#[derive(Debug, Clone)]
pub struct Walk {
    /// The subscription.
    pub subscription: SubscriptionId,
    /// Behind which letter it goes on.
    pub after: StreamId,
    /// The last letter that it may come to.
    pub upto: StreamId,
    measure: Measure,
}

impl Walk {
    /// A way from behind one letter up to another.
    pub fn new(subscription: SubscriptionId, after: StreamId, upto: StreamId) -> Self {
        Self { subscription, after, upto, measure: Measure::default() }
    }

    /// Skips what a filter cannot mean.
    pub fn narrowed(mut self, filter: &Filter) -> Self {
        self.after = self.after.max(filter.after());
        self.upto = filter.below().map_or(self.upto, |below| self.upto.min(below));
        self
    }

    /// The next letters; none at the end.
    pub async fn next(&mut self, store: &Store) -> Result<Vec<Letter>, Error> {
        if self.after >= self.upto {
            return Ok(Vec::new());
        }
        let most = self.measure.most();
        let read = store.dead_letters(&self.subscription, self.after, Some(self.upto), most);
        let page: Vec<Letter> = read.await.map_err(Error::Read)?.into_iter().map(Letter::open).collect();
        self.after = match page.last() {
            Some(last) if page.len() == most => last.dead.id.entry,
            _ => self.upto,
        };
        self.measure.learn_of(&page);
        Ok(page)
    }
}

/// The ways through all that a filter may mean, up to what is dead now.
pub async fn walks(store: &Store, tenant: &Tenant, filter: &Filter) -> Result<Vec<(Queue, Walk)>, Error> {
    let queues = queues(store, tenant, filter).await?;
    let ids: Vec<SubscriptionId> = queues.iter().map(|queue| queue.id.clone()).collect();
    let figures = store.dead_queues_of(&ids).await.map_err(Error::Read)?;
    let mut figures = figures.into_iter().peekable();
    let mut walks = Vec::new();
    for queue in queues {
        if let Some(found) = figures.next_if(|found| found.subscription == queue.id) {
            let walk = Walk::new(queue.id.clone(), StreamId::ZERO, found.newest).narrowed(filter);
            walks.push((queue, walk));
        }
    }
    Ok(walks)
}
