//! What a daemon counts, on its way to Redis.
//!
//! Counting is a look into a table, behind a lock that is held for nothing else: no message waits for Redis
//! because it is counted. What was counted goes to Redis a moment later, many messages in one row, not more
//! often than every quarter of a second and the slower the more rows there are; with nothing to tell there is
//! no timer. Whoever is about to show figures calls [`Tally::flush`] first, so that an instance shows what it
//! has done itself.
//!
//! What it guarantees: a flush counts once, also where its first outcome is not known; memory is bounded, and
//! what finds no room there counts for its tenant as a whole, or in `postroad_figures_lost`. What it does not: a
//! killed process takes with it what it has counted since its last flush.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use postroad_model::{
    figures::{Count, Figures, Judged},
    names::{ChannelName, Tenant},
    placement::Layout,
};
use postroad_store::{Backoff, Flush, Row, Store, StoreError};
use prometheus_client::{metrics::counter::Counter, registry::Registry};
use tokio::sync::mpsc;
use tracing::{error, info, warn};

/// The shortest time between two flushes.
const PAUSE: Duration = Duration::from_millis(250);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// So much later is the next flush for each row of this one: a row costs Redis 50 to 100 µs, so an instance
/// takes no more than a hundredth of a CPU there.
const PAUSE_PER_ROW: Duration = Duration::from_millis(10);
/// The most rows that are held, waiting ones included.
const MOST_ROWS: usize = 20_000;
/// The most rows in one script, so that none runs for long.
const ROWS_PER_SCRIPT: usize = 20;
/// What is counted while a flush waits for Redis goes into another one after so long: figures are kept by the minute.
const MINUTE: Duration = Duration::from_secs(60);
/// How long the last flush may take.
const LAST_FLUSH: Duration = Duration::from_secs(2);

/// Where a daemon counts; clones count together.
#[derive(Clone)]
pub struct Tally(Arc<Inner>);

struct Inner {
    store: Store,
    me: String,
    running: Mutex<Running>,
    waiting: tokio::sync::Mutex<Waiting>,
    /// Rows in `waiting`.
    held: AtomicUsize,
    wake: mpsc::Sender<()>,
    lost: Counter,
}

impl Tally {
    /// Begins to count, under a name that no other instance ever had. The task that flushes ends when every clone
    /// is gone.
    pub fn open(store: Store, me: String) -> Self {
        let (wake, woken) = mpsc::channel(1);
        let tally = Self(Arc::new(Inner {
            store,
            me,
            running: Mutex::default(),
            waiting: tokio::sync::Mutex::default(),
            held: AtomicUsize::new(0),
            wake,
            lost: Counter::default(),
        }));
        tokio::spawn(flush_forever(Arc::downgrade(&tally.0), woken));
        tally
    }

    /// Registers what it says of itself.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "postroad_figures_lost",
            "Rows of figures that found no room or were refused by Redis",
            self.0.lost.clone(),
        );
    }

    /// Counts on a channel, or for the tenant as a whole where the channel is not known.
    pub fn on(&self, tenant: &Tenant, channel: Option<&ChannelName>, count: impl FnOnce(&mut Figures)) {
        self.many(|running| running.on(tenant.as_str(), channel.map_or("", ChannelName::as_str), count));
    }

    /// Counts much at once.
    pub fn many(&self, count: impl FnOnce(&mut Counting<'_>)) {
        let mut running = self.0.running.lock().unwrap_or_else(PoisonError::into_inner);
        let most = MOST_ROWS.saturating_sub(self.0.held.load(Ordering::Relaxed));
        let mut counting = Counting { running: &mut running, most, lost: 0 };
        count(&mut counting);
        let lost = counting.lost;
        let first = running.rows > 0 && running.since.is_none();
        if first {
            running.since = Some(Instant::now());
        }
        drop(running);
        if lost > 0 {
            self.0.lost.inc_by(lost);
        }
        if first {
            self.wake();
        }
    }

    /// Counts what became of an attempt, or of a delivery that nobody attempted.
    pub fn judged(&self, tenant: &Tenant, channel: &ChannelName, judged: Judged<'_>) {
        self.on(tenant, Some(channel), |figures| figures.judged(judged));
    }

    /// Counts a delivery that was acknowledged by a call, wherever it lay.
    pub fn acknowledged(&self, tenant: &Tenant, channel: &ChannelName) {
        self.on(tenant, Some(channel), |figures| {
            figures.add(Count::Acknowledged, 1);
            figures.add(Count::AcknowledgeCalls, 1);
        });
    }

    /// Counts a call to acknowledge that failed.
    pub fn acknowledge_failed(&self, tenant: &Tenant, channel: Option<&ChannelName>) {
        self.on(tenant, channel, |figures| {
            figures.add(Count::AcknowledgeCalls, 1);
            figures.add(Count::AcknowledgeErrors, 1);
        });
    }

    /// Counts a delivery that was rejected by a call, and what was judged of it.
    pub fn rejected(&self, tenant: &Tenant, channel: &ChannelName, judged: Judged<'_>) {
        self.on(tenant, Some(channel), |figures| {
            figures.judged(judged);
            figures.add(Count::RejectCalls, 1);
        });
    }

    /// Counts a call to reject that failed.
    pub fn reject_failed(&self, tenant: &Tenant, channel: Option<&ChannelName>) {
        self.on(tenant, channel, |figures| {
            figures.add(Count::RejectCalls, 1);
            figures.add(Count::RejectErrors, 1);
        });
    }

    /// Brings everything that was counted until now to Redis. May be given up at any time: what was sent then and
    /// is sent again counts once.
    ///
    /// # Errors
    ///
    /// Redis did not take it: it waits for the next flush.
    pub async fn flush(&self) -> Result<(), StoreError> {
        let mut waiting = self.0.waiting.lock().await;
        let taken = self.freeze(&mut waiting);
        self.fly(&mut waiting).await?;
        if !taken {
            self.freeze(&mut waiting);
            self.fly(&mut waiting).await?;
        }
        Ok(())
    }

    /// The last flush of a daemon that stops.
    pub async fn close(&self) {
        let flushed = tokio::time::timeout(LAST_FLUSH, self.flush()).await;
        if !matches!(flushed, Ok(Ok(()))) {
            warn!("left with figures that Redis did not take");
        }
    }

    fn wake(&self) {
        // One that lies there already wakes as well.
        let _ = self.0.wake.try_send(());
    }

    /// Takes what was counted to where it waits for Redis; not yet, where something waits there already. Whether it
    /// was taken.
    fn freeze(&self, waiting: &mut Waiting) -> bool {
        let mut running = self.0.running.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(since) = running.since else { return true };
        if !waiting.flushes.is_empty() && since.elapsed() < MINUTE {
            return false;
        }
        let rows = waiting.add(std::mem::take(&mut *running), since, self.0.store.layout());
        self.0.held.fetch_add(rows, Ordering::Relaxed);
        true
    }

    /// Sends what waits, in order. What stays is of partitions that did not take it; why the first did not.
    async fn fly(&self, waiting: &mut Waiting) -> Result<(), StoreError> {
        let mut ill: Vec<u16> = Vec::new();
        let mut first = Ok(());
        let mut at = 0;
        while let Some(held) = waiting.flushes.get_mut(at) {
            let (partition, rows) = (held.flush.partition, held.flush.rows.len());
            if ill.contains(&partition) {
                at += 1;
                continue;
            }
            held.flush.began = held.began.elapsed();
            held.flush.ended = held.ended.elapsed();
            // It goes only once its outcome is known.
            let flush = std::slice::from_ref(&held.flush);
            let answer = self.0.store.tally(&self.0.me, flush).await?.pop();
            match answer.unwrap_or_else(|| Err(StoreError::Reply("no answer".into()))) {
                Err(error) if error.is_transient() => {
                    ill.push(partition);
                    first = first.and(Err(error));
                    at += 1;
                    continue;
                }
                Err(error) => {
                    error!(partition, rows, %error, "Redis refused figures; they are lost");
                    self.0.lost.inc_by(u64::try_from(rows).unwrap_or(0));
                }
                Ok(_) => {}
            }
            waiting.flushes.remove(at);
            waiting.sent += rows;
            self.0.held.fetch_sub(rows, Ordering::Relaxed);
        }
        first
    }
}

async fn flush_forever(inner: Weak<Inner>, mut woken: mpsc::Receiver<()>) {
    let mut pause = PAUSE;
    let mut backoff = Backoff::default();
    let mut ill = false;
    while woken.recv().await.is_some() {
        tokio::time::sleep(pause).await;
        let Some(tally) = inner.upgrade().map(Tally) else { return };
        let result = tally.flush().await;
        let rows = std::mem::take(&mut tally.0.waiting.lock().await.sent);
        pause = pace(rows);
        match result {
            Ok(()) => {
                if std::mem::take(&mut ill) {
                    info!("figures reach Redis again");
                }
                backoff.reset();
            }
            Err(error) => {
                if !std::mem::replace(&mut ill, true) {
                    warn!(%error, "figures wait for Redis");
                }
                pause = pause.max(backoff.next_delay());
                tally.wake();
            }
        }
    }
}

/// How long until the next flush, by the rows that went since the one before.
fn pace(rows: usize) -> Duration {
    PAUSE_PER_ROW.saturating_mul(u32::try_from(rows).unwrap_or(u32::MAX)).clamp(PAUSE, LONGEST_PAUSE)
}

/// What was counted since the last flush.
#[derive(Default)]
struct Running {
    since: Option<Instant>,
    ledgers: Vec<Ledger>,
    /// Where each tenant's lies.
    tenants: HashMap<Tenant, usize>,
    rows: usize,
}

struct Ledger {
    tenant: Tenant,
    /// What belongs to no channel.
    whole: Figures,
    rows: Vec<(ChannelName, Figures)>,
    /// Where each channel's lies.
    channels: HashMap<ChannelName, usize>,
}

/// Counting, while nobody else does.
pub struct Counting<'a> {
    running: &'a mut Running,
    most: usize,
    lost: u64,
}

impl Counting<'_> {
    /// Counts on a channel, or, where that is '', for the tenant as a whole. What is no name counts nowhere.
    pub fn on(&mut self, tenant: &str, channel: &str, count: impl FnOnce(&mut Figures)) {
        match self.row(tenant, channel) {
            Some(figures) => count(figures),
            None => self.lost += 1,
        }
    }

    fn row(&mut self, tenant: &str, channel: &str) -> Option<&mut Figures> {
        let Running { ledgers, tenants, rows, .. } = &mut *self.running;
        let at = match tenants.get(tenant) {
            Some(at) => *at,
            None if *rows >= self.most => return None,
            None => {
                let tenant = Tenant::new(tenant).ok()?;
                tenants.insert(tenant.clone(), ledgers.len());
                let (whole, rows_of, channels) = (Figures::default(), Vec::new(), HashMap::new());
                ledgers.push(Ledger { tenant, whole, rows: rows_of, channels });
                *rows += 1;
                ledgers.len() - 1
            }
        };
        let ledger = ledgers.get_mut(at)?;
        let at = match ledger.channels.get(channel) {
            Some(at) => *at,
            None if channel.is_empty() || *rows >= self.most => return Some(&mut ledger.whole),
            None => {
                let channel = ChannelName::new(channel).ok()?;
                ledger.channels.insert(channel.clone(), ledger.rows.len());
                ledger.rows.push((channel, Figures::default()));
                *rows += 1;
                ledger.rows.len() - 1
            }
        };
        ledger.rows.get_mut(at).map(|(_, figures)| figures)
    }
}

/// What waits for Redis.
#[derive(Default)]
struct Waiting {
    flushes: VecDeque<Held>,
    number: u64,
    /// Rows that went since this was last asked.
    sent: usize,
}

struct Held {
    flush: Flush,
    began: Instant,
    ended: Instant,
}

impl Waiting {
    /// Deals rows out to their partitions: how many. A tenant's own row is the sum of its channels' and of what
    /// belongs to none.
    fn add(&mut self, running: Running, began: Instant, layout: Layout) -> usize {
        let ended = Instant::now();
        let mut partitions: BTreeMap<u16, Vec<Row>> = BTreeMap::new();
        let mut put = |tenant: Tenant, channel: Option<ChannelName>, figures: Figures| {
            // What was looked at and counted nothing.
            if figures == Figures::default() {
                return;
            }
            let partition = layout.partition_of_figures(&tenant, channel.as_ref());
            partitions.entry(partition).or_default().push(Row { tenant, channel, figures });
        };
        for Ledger { tenant, mut whole, rows, .. } in running.ledgers {
            for (channel, figures) in rows {
                whole.merge(&figures);
                put(tenant.clone(), Some(channel), figures);
            }
            put(tenant, None, whole);
        }
        let count = partitions.values().map(Vec::len).sum();
        for (partition, mut rows) in partitions {
            while !rows.is_empty() {
                let rest = rows.split_off(rows.len().min(ROWS_PER_SCRIPT));
                self.number += 1;
                let (began_ago, ended_ago) = (Duration::ZERO, Duration::ZERO);
                let flush =
                    Flush { partition, number: self.number, began: began_ago, ended: ended_ago, rows };
                self.flushes.push_back(Held { flush, began, ended });
                rows = rest;
            }
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counting(running: &mut Running, most: usize) -> Counting<'_> {
        Counting { running, most, lost: 0 }
    }

    fn one(figures: &mut Figures) {
        figures.add(Count::Published, 1);
    }

    #[test]
    fn what_finds_no_room_counts_for_its_tenant() {
        let mut running = Running::default();
        let mut counting = counting(&mut running, 3);
        for (tenant, channel) in [("a", "x"), ("a", "y"), ("a", "z"), ("a", "x"), ("a", ""), ("b", "x")] {
            counting.on(tenant, channel, one);
        }
        assert_eq!(counting.lost, 1, "a tenant one too many");
        assert_eq!((running.rows, running.ledgers.len()), (3, 1));
        let ledger = &running.ledgers[0];
        let of = |channel: &str| Some(ledger.rows[*ledger.channels.get(channel)?].1[Count::Published]);
        assert_eq!((of("x"), of("y"), of("z")), (Some(2), Some(1), None));
        assert_eq!(ledger.whole[Count::Published], 2);
    }

    #[test]
    fn rows_are_dealt_out_and_a_tenants_is_their_sum() {
        let mut running = Running::default();
        let mut all = counting(&mut running, MOST_ROWS);
        for n in 0..100 {
            all.on("a", &format!("c.{n}"), one);
        }
        all.on("a", "", one);
        all.on("b", "c.1", one);
        all.on("c", "nothing", |_| {});
        let (mut waiting, layout) = (Waiting::default(), Layout { partitions: 2, lanes: 2 });
        assert_eq!(waiting.add(running, Instant::now(), layout), 103);
        let mut numbers = Vec::new();
        let mut wholes = BTreeMap::new();
        let mut channels = 0;
        for Held { flush, .. } in &waiting.flushes {
            numbers.push(flush.number);
            assert!((1..=ROWS_PER_SCRIPT).contains(&flush.rows.len()));
            for Row { tenant, channel, figures } in &flush.rows {
                assert_eq!(layout.partition_of_figures(tenant, channel.as_ref()), flush.partition);
                match channel {
                    Some(_) => channels += figures[Count::Published],
                    None => drop(wholes.insert(tenant.to_string(), figures[Count::Published])),
                }
            }
        }
        assert_eq!(channels, 101);
        assert_eq!(wholes, BTreeMap::from([("a".to_owned(), 101), ("b".to_owned(), 1)]));
        assert!(numbers.is_sorted() && numbers.len() >= 6, "{numbers:?}");
    }

    #[test]
    fn many_rows_are_told_less_often() {
        assert_eq!([0, 2, 25].map(pace), [PAUSE; 3]);
        assert_eq!(pace(100), Duration::from_secs(1));
        assert_eq!([1_000, usize::MAX].map(pace), [LONGEST_PAUSE; 2]);
    }
}
