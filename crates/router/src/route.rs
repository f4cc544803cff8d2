//! The router's heart: read → follow → match → enqueue, and tell Redis how far it has come.

mod compare;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use postroad_member::tally::Tally;
use postroad_model::{
    channel::ChannelSettings, figures::Count, message::Message, subscription::Subscription, time::millis,
};
use postroad_store::{
    Backoff, IngressReader, Linked, Routed, Store, StoreError, StreamId,
    entry::{Accepted, EntryError},
    line_of,
};
use tracing::{error, info, warn};

use crate::{
    catalog::Catalog,
    config::RouterConfig,
    metrics::Metrics,
    ownership::Holdings,
    road::{Parcel, Road},
};

/// How long a read waits when nothing comes.
const BLOCK: Duration = Duration::from_secs(1);
/// How long telling Redis how far everything is routed may be put off.
const TELL_EVERY: Duration = Duration::from_millis(20);
/// What one read should bring at most, in bytes, by the average entry seen so far.
const READ_BYTES: usize = 4 << 20;
/// What an entry is taken for before any was seen: so large that the first read cannot be too much.
const CAUTIOUS_BYTES: usize = 256 << 10;
/// How long a partition with entries of a newer format is left to others.
const SHUN: Duration = Duration::from_secs(60);
/// How often the lanes are asked whether they still have what they got.
const COMPARE_EVERY: Duration = Duration::from_secs(10);

/// Everything that routing goes by.
pub struct Router {
    store: Store,
    me: String,
    config: RouterConfig,
    holdings: Arc<Holdings>,
    metrics: Metrics,
    tally: Tally,
    catalog: Option<Catalog>,
    roads: BTreeMap<u16, Road>,
    /// Lanes that did not take their entries, and when they are asked again.
    ill: BTreeMap<u16, Ill>,
    /// How many partitions are not read on, since too much of theirs waits for such lanes.
    paused: usize,
    reader: Option<IngressReader>,
    average_bytes: usize,
    compared: Instant,
    told: Instant,
    /// For each partition, positions known to be in every lane, with the time when they were reached.
    settled: BTreeMap<u16, Vec<(Instant, StreamId)>>,
}

impl Router {
    /// A router that holds nothing yet.
    pub fn new(
        store: Store,
        me: String,
        config: RouterConfig,
        holdings: Arc<Holdings>,
        metrics: Metrics,
        tally: Tally,
    ) -> Self {
        Self {
            store,
            me,
            config,
            holdings,
            metrics,
            tally,
            catalog: None,
            roads: BTreeMap::new(),
            ill: BTreeMap::new(),
            paused: 0,
            reader: None,
            average_bytes: CAUTIOUS_BYTES,
            compared: Instant::now(),
            told: Instant::now(),
            settled: BTreeMap::new(),
        }
    }

    /// Routes until `stop` resolves. What was read is then in its queues, or will be read again by the
    /// next owner.
    pub async fn run(&mut self, stop: impl Future<Output = ()>) {
        let mut backoff = Backoff::default();
        let mut ill = false;
        tokio::pin!(stop);
        loop {
            let result = tokio::select! {
                biased;
                () = &mut stop => return,
                result = self.cycle() => result,
            };
            match result {
                Ok(()) => {
                    if ill {
                        info!("routing goes on");
                        ill = false;
                    }
                    backoff.reset();
                }
                Err(error) => {
                    if !ill {
                        warn!(%error, "routing waits for Redis");
                        ill = true;
                    }
                    self.reader = None;
                    // A server that was away may be another one now: compare before anything else.
                    self.compared = compare_now();
                    tokio::select! {
                        () = &mut stop => return,
                        () = backoff.wait() => {}
                    }
                }
            }
        }
    }

    async fn cycle(&mut self) -> Result<(), StoreError> {
        self.follow_holdings();
        if self.catalog.is_none() {
            self.catalog = Some(Catalog::load(&self.store).await?);
        }
        self.leave().await?;
        if self.compared.elapsed() >= COMPARE_EVERY {
            self.compare().await?;
        }
        self.send().await?;
        let read = self.read_and_tell().await?;
        if read.is_empty() {
            return Ok(());
        }
        if let Some(catalog) = &mut self.catalog {
            catalog.follow(&self.store).await?;
            self.metrics.subscriptions.set(i64::try_from(catalog.count()).unwrap_or(i64::MAX));
        }
        for (partition, entries) in read {
            self.place(partition, entries).await?;
        }
        self.send().await
    }

    /// Reads on, and meanwhile tells Redis what it does not know yet. Telling is put off a little while
    /// entries come: it only spares the next owner work, so one telling may stand for many batches.
    async fn read_and_tell(&mut self) -> Result<Vec<(u16, Vec<Arc<Accepted>>)>, StoreError> {
        let next_ill = self.ill.values().map(|ill| ill.until.saturating_duration_since(Instant::now())).min();
        let block = next_ill.map_or(BLOCK, |next| next.clamp(Duration::from_millis(1), BLOCK));
        let news = self.news();
        if news.is_empty() {
            return self.read(block).await;
        }
        let since = self.told.elapsed();
        if since < TELL_EVERY {
            return self.read(TELL_EVERY.saturating_sub(since).min(block)).await;
        }
        let (store, me) = (self.store.clone(), self.me.clone());
        let (read, answers) = tokio::join!(self.read(block), store.routed(&me, &news));
        self.heard(news, answers)?;
        read
    }

    /// Begins roads for partitions that were taken, ends those of partitions that were lost.
    fn follow_holdings(&mut self) {
        let held = self.holdings.all();
        let before = self.roads.len();
        self.roads.retain(|partition, road| held.get(partition).is_some_and(|held| held.epoch == road.epoch));
        let mut changed = before != self.roads.len();
        for (partition, holding) in held {
            self.roads.entry(partition).or_insert_with(|| {
                changed = true;
                Road::new(holding.epoch, holding.routed, &holding.sent)
            });
        }
        if changed {
            // The reader may be waiting for partitions that are no longer the right ones.
            self.reader = None;
            self.settled.retain(|partition, _| self.roads.contains_key(partition));
            self.metrics.partitions.set(i64::try_from(self.roads.len()).unwrap_or(i64::MAX));
        }
    }

    /// Waits for entries of the partitions that have room.
    async fn read(&mut self, block: Duration) -> Result<Vec<(u16, Vec<Arc<Accepted>>)>, StoreError> {
        let positions: Vec<(u16, StreamId)> = self
            .roads
            .iter()
            .filter(|(partition, road)| !road.is_full(self.config.max_held) && self.is_fresh(**partition))
            .map(|(partition, road)| (*partition, road.position))
            .collect();
        self.note_paused();
        if positions.is_empty() {
            let _ = tokio::time::timeout(self.config.tick.min(block), self.holdings.changed()).await;
            return Ok(Vec::new());
        }
        let most = (READ_BYTES / self.average_bytes.max(1) / positions.len()).clamp(1, 256);
        let mut reader = match self.reader.take() {
            Some(reader) => reader,
            None => self.store.ingress_reader().await?,
        };
        let found = tokio::select! {
            found = reader.read(&self.store, &positions, most, block) => found?,
            // The answer to a read that is given up must not be taken for the next one's: the reader goes.
            () = self.holdings.changed() => return Ok(Vec::new()),
        };
        self.reader = Some(reader);
        let (mut count, mut bytes) = (0, 0);
        let read: Vec<_> = found
            .into_iter()
            // Frozen in the middle of the read, this router may have lost what it read for.
            .filter(|new| self.is_fresh(new.partition))
            .map(|new| {
                count += new.entries.len();
                bytes += new.entries.iter().map(|entry| entry.entry.size()).sum::<usize>();
                (new.partition, new.entries.into_iter().map(Arc::new).collect())
            })
            .collect();
        if let Some(average) = bytes.checked_div(count) {
            self.average_bytes = (self.average_bytes * 3 + average) / 4 + 1;
        }
        Ok(read)
    }

    /// Says when partitions begin to wait for lanes that do not take their entries, and when they go on.
    fn note_paused(&mut self) {
        let paused = self.roads.values().filter(|road| road.is_full(self.config.max_held)).count();
        match (self.paused, paused) {
            (0, 1..) => {
                warn!(paused, "partitions are not read on: too much of theirs waits for lanes that are ill");
            }
            (1.., 0) => info!("all partitions are read on"),
            _ => {}
        }
        self.paused = paused;
        self.metrics.paused.set(i64::try_from(paused).unwrap_or(i64::MAX));
    }

    /// Whether a partition is surely still ours.
    fn is_fresh(&self, partition: u16) -> bool {
        self.roads
            .get(&partition)
            .is_some_and(|road| self.holdings.is_fresh(partition, road.epoch, &self.config))
    }

    /// Matches entries and hands them to their lanes' chains.
    async fn place(&mut self, partition: u16, entries: Vec<Arc<Accepted>>) -> Result<(), StoreError> {
        for accepted in entries {
            let Some(road) = self.roads.get(&partition) else { return Ok(()) };
            if accepted.id <= road.position {
                continue;
            }
            let parcels = match accepted.entry.decode() {
                Ok(message) => {
                    let parcels = self.match_one(&accepted, &message);
                    let matched: usize = parcels.iter().map(|(_, parcel)| parcel.to.len()).sum();
                    if matched == 0 {
                        self.metrics.unroutable.inc();
                        self.tally.on(&message.tenant, Some(&message.channel), |figures| {
                            figures.add(Count::Unroutable, 1);
                        });
                    }
                    self.metrics.enqueued.inc_by(u64::try_from(matched).unwrap_or(0));
                    parcels
                }
                Err(EntryError::Newer(version)) => {
                    self.give_up(partition, version).await?;
                    return Ok(());
                }
                Err(EntryError::Broken(reason)) => {
                    error!(partition, entry = %accepted.id, reason, "put an undecodable entry aside");
                    self.store.quarantine(partition, &accepted, &reason).await?;
                    self.metrics.undecodable.inc();
                    Vec::new()
                }
            };
            if let Some(road) = self.roads.get_mut(&partition) {
                for (lane, parcel) in parcels {
                    road.add(lane, parcel);
                }
                road.position = accepted.id;
            }
            self.metrics.routed.inc();
        }
        Ok(())
    }

    /// A message's parcels, one per lane.
    fn match_one(&mut self, accepted: &Arc<Accepted>, message: &Message) -> Vec<(u16, Parcel)> {
        let mut matched: Vec<Arc<Subscription>> = Vec::new();
        if let Some(catalog) = &mut self.catalog {
            catalog.matches(message, &mut matched);
        }
        let layout = self.store.layout();
        let catalog = self.catalog.as_ref();
        let settings = catalog.and_then(|catalog| catalog.channel(&message.tenant, &message.channel));
        let max_length = settings.and_then(ChannelSettings::drop_bound);
        // A test that comes too late is no dead letter: the worker drops it.
        let expires_ms = message.expires_at_ms(accepted.accepted_ms).filter(|_| !message.test);
        let line = message.ordering_key.as_ref().map(|key| line_of(&message.channel, key));
        let mut lanes: BTreeMap<u16, Parcel> = BTreeMap::new();
        for subscription in matched {
            lanes
                .entry(layout.lane_of(&subscription.id))
                .or_insert_with(|| Parcel {
                    accepted: Arc::clone(accepted),
                    keep: message.persistent,
                    rank: message.priority.rank(),
                    expires_ms,
                    line: line.clone(),
                    max_length,
                    to: Vec::new(),
                })
                .to
                .push(subscription.id.clone());
        }
        lanes.into_iter().collect()
    }

    /// Sends what waits, lane by lane, until nothing does but for lanes that are ill: those hold back only
    /// their own.
    async fn send(&mut self) -> Result<(), StoreError> {
        loop {
            let flight = self.flight();
            if flight.is_empty() {
                return Ok(());
            }
            self.fly(flight).await?;
        }
    }

    /// Per lane the partitions that have something for it.
    fn flight(&self) -> Vec<(u16, Vec<u16>)> {
        let now = Instant::now();
        let mut lanes: BTreeMap<u16, Vec<u16>> = BTreeMap::new();
        for (partition, road) in self.roads.iter().filter(|(partition, _)| self.is_fresh(**partition)) {
            for (lane, chain) in &road.chains {
                if !chain.is_idle() && self.ill.get(lane).is_none_or(|ill| ill.until <= now) {
                    lanes.entry(*lane).or_default().push(*partition);
                }
            }
        }
        lanes.into_iter().collect()
    }

    /// One flight of links.
    async fn fly(&mut self, lanes: Vec<(u16, Vec<u16>)>) -> Result<(), StoreError> {
        let trace_ms = millis(self.config.retention);
        let mut flight = Vec::with_capacity(lanes.len());
        for (lane, partitions) in &lanes {
            let links: Vec<_> = partitions
                .iter()
                .filter_map(|partition| self.roads.get(partition)?.link(*partition, *lane))
                .collect();
            if !links.is_empty() {
                flight.push((*lane, links));
            }
        }
        let replies = self.store.enqueue(&flight, trace_ms).await?;
        let sent: Vec<(u16, Vec<(u16, StreamId)>)> = flight
            .iter()
            .map(|(lane, links)| (*lane, links.iter().map(|link| (link.partition, link.last)).collect()))
            .collect();
        drop(flight);
        for ((lane, links), reply) in sent.into_iter().zip(replies) {
            let reply = match reply {
                Ok(reply) => {
                    if self.ill.remove(&lane).is_some() {
                        info!(lane, "a lane takes its entries again");
                        // It may lie on another server now.
                        self.compared = compare_now();
                    }
                    reply
                }
                Err(error) => {
                    let ill = self.ill.entry(lane).or_insert_with(|| {
                        warn!(lane, %error, "a lane does not take its entries; they wait");
                        Ill { until: Instant::now(), backoff: Backoff::default() }
                    });
                    ill.until = Instant::now() + ill.backoff.next_delay();
                    continue;
                }
            };
            for (tenant, channel) in &reply.dead {
                self.tally.on(tenant, Some(channel), |figures| figures.add(Count::Dead, 1));
            }
            for queue in reply.broken {
                error!(
                    lane,
                    queue, "a queue's key holds something that is no queue; its entries were not added"
                );
                self.metrics.broken.inc();
            }
            for ((partition, last), linked) in links.into_iter().zip(reply.links) {
                match linked {
                    Linked::Ok | Linked::Duplicate => {
                        if let Some(road) = self.roads.get_mut(&partition) {
                            road.taken(lane, last);
                        }
                    }
                    Linked::Gap(mark) => self.refill(partition, lane, mark).await?,
                }
            }
            for id in reply.unknown {
                self.introduce(&id).await?;
            }
        }
        Ok(())
    }

    /// A lane does not know a subscription that it was sent something for.
    async fn introduce(&mut self, id: &str) -> Result<(), StoreError> {
        let Ok(id) = postroad_model::id::SubscriptionId::new(id) else { return Ok(()) };
        match self.catalog.as_ref().and_then(|catalog| catalog.get(&id)) {
            Some((subscription, change)) => {
                info!(subscription.id = %id, "applied settings that a lane lacked");
                self.store.apply(&subscription, change, self.config.limits).await.map(drop)
            }
            None => Ok(()),
        }
    }

    fn news(&self) -> Vec<Routed> {
        self.roads
            .iter()
            .filter_map(|(partition, road)| {
                let (upto, sent) = road.news()?;
                Some(Routed {
                    partition: *partition,
                    epoch: road.epoch,
                    upto,
                    sent: sent.into_iter().collect(),
                })
            })
            .collect()
    }

    /// Takes note of what Redis answered to news.
    fn heard(
        &mut self,
        news: Vec<Routed>,
        answers: Result<Vec<Result<bool, StoreError>>, StoreError>,
    ) -> Result<(), StoreError> {
        self.told = Instant::now();
        for (row, answer) in news.into_iter().zip(answers?) {
            if answer? {
                if let Some(road) = self.roads.get_mut(&row.partition) {
                    road.told(row.upto, &row.sent);
                }
            } else {
                info!(partition = row.partition, "a partition is another's now");
                self.holdings.forget(row.partition);
            }
        }
        Ok(())
    }

    /// Tells Redis how far every partition is routed.
    async fn tell(&mut self) -> Result<(), StoreError> {
        let news = self.news();
        if news.is_empty() {
            return Ok(());
        }
        let answers = self.store.routed(&self.me, &news).await;
        self.heard(news, answers)
    }

    /// Releases what has fallen into another's share.
    async fn leave(&mut self) -> Result<(), StoreError> {
        let leaving = self.holdings.take_leaving();
        if leaving.is_empty() {
            return Ok(());
        }
        self.send().await?;
        self.tell().await?;
        for partition in leaving {
            self.release(partition).await?;
        }
        Ok(())
    }

    /// Stops before an entry of a newer format and leaves the partition to a newer router.
    async fn give_up(&mut self, partition: u16, version: u32) -> Result<(), StoreError> {
        error!(
            partition,
            version, "met an entry of a newer format; leaving the partition to a newer release"
        );
        self.send().await?;
        self.tell().await?;
        self.holdings.shun(partition, Instant::now() + SHUN);
        self.release(partition).await
    }

    /// Gives partitions up: their last batch is through by now.
    pub async fn release(&mut self, partition: u16) -> Result<(), StoreError> {
        if let Some(road) = self.roads.remove(&partition) {
            self.store.release(&self.me, partition, road.epoch).await?;
            info!(partition, "released a partition");
        }
        self.holdings.forget(partition);
        Ok(())
    }

    /// Stops in order: what was matched goes to its lanes, Redis is told, the partitions are released.
    pub async fn finish(&mut self) -> Result<(), StoreError> {
        self.send().await?;
        self.tell().await?;
        for partition in self.roads.keys().copied().collect::<Vec<_>>() {
            self.release(partition).await?;
        }
        Ok(())
    }
}

/// A lane that did not take its entries.
struct Ill {
    /// When it is asked again.
    until: Instant,
    backoff: Backoff,
}

/// A time of the last comparison that makes the next one due.
fn compare_now() -> Instant {
    Instant::now().checked_sub(COMPARE_EVERY).unwrap_or_else(Instant::now)
}
