//! History once more: one message for the subscriptions that are to get it again, or what one subscription matches of
//! a time. What is found is accepted anew in the partition that it lies in, and routers do the rest.

use std::{collections::HashMap, sync::Arc, time::Duration};

use postroad_model::{
    id::SubscriptionId,
    matching::{Candidate, ChannelType, json_view, wants},
    message::Message,
    names::ChannelName,
    subscription::Subscription,
    time::{Time, millis},
};
use postroad_store::{Again, HistoryNote, HistoryReplay, Job, JobState, Source, StreamId, entry::Accepted};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{
    move_on::upto_match,
    pace::Pace,
    run::{Runner, Seen, Tell},
    spec::{At, write},
    tenure::{Left, Tenure},
};
use crate::{dead::Measure, error::Error};

/// The most subscriptions of one entry: a longer list would be a large header.
const TARGETS: usize = 500;
/// How long a full queue, or a crowded Redis, is left alone.
const WAIT: Duration = Duration::from_millis(500);
/// By how much clocks may have been set back while messages were accepted: what is accepted later than that behind the
/// end of a time is behind everything of it.
const CLOCK_STEP_MS: u64 = 600_000;

/// How far a job came.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Cursor {
    /// Through a time: the partition.
    #[serde(default)]
    partition: u16,
    /// And behind which of its entries.
    #[serde(default)]
    after: Option<At>,
    /// To all that match a message: behind which subscription. To named ones: how many are done.
    #[serde(default)]
    subscription: Option<SubscriptionId>,
    #[serde(default)]
    done: usize,
}

pub(super) struct History<'a> {
    runner: &'a Runner,
    job: Job,
    /// The job's name with this tenure's epoch.
    mine: String,
    replay: HistoryReplay,
    /// Per partition, the last entry that was there when the job was made.
    upto: Vec<StreamId>,
    cursor: Cursor,
    pace: Pace,
    moved: u64,
    note: HistoryNote,
    saved: Instant,
    tell: Tell<'a>,
    /// What this tenure added and no router may have been past: ids, by partition.
    on_the_way: Vec<(u16, StreamId)>,
    /// When Redis's memory was last looked at, and whether there was too little.
    memory: Option<(Instant, bool)>,
    /// How the tenant's configured channels read routing keys, as of this tenure's beginning.
    types: HashMap<ChannelName, ChannelType>,
}

impl Tenure for History<'_> {
    fn runner(&self) -> &Runner {
        self.runner
    }

    fn saved(&self) -> Instant {
        self.saved
    }

    fn moved(&self) -> u64 {
        self.moved
    }

    async fn save(&mut self, state: JobState) -> Result<bool, Error> {
        self.saved = Instant::now();
        let (store, me) = (&self.runner.store, &self.runner.me);
        (self.tell)(&Seen {
            moved: self.moved,
            skipped: self.note.skipped,
            scanned: self.note.scanned,
            letters: 0,
            trouble: self.note.waits_for.clone(),
        });
        let (cursor, note) = (write(&self.cursor), write(&self.note));
        store.save_job(&self.job.id, me, state, &cursor, &note).await.map_err(Error::Jobs)
    }

    async fn go(&mut self) -> Result<Left, Error> {
        let configured = self.runner.store.channels().await.map_err(Error::History)?;
        let of_tenant = configured.into_iter().filter(|settings| settings.tenant == self.job.tenant);
        self.types = of_tenant.map(|settings| (settings.name, settings.channel_type)).collect();
        match self.replay.source.clone() {
            Source::Message { partition, at, subscriptions, .. } => {
                let gone = || Error::Gone(self.job.id.clone());
                let entry = self.runner.store.entry_at(partition, at).await.map_err(Error::History)?;
                let message = entry.ok_or_else(gone)?.entry.decode().map_err(|_| gone())?;
                if message.tenant != self.job.tenant {
                    return Err(gone());
                }
                match subscriptions {
                    Some(named) => self.deliver_to(partition, at, &message, &named).await,
                    None => self.deliver_to_all(partition, at, &message).await,
                }
            }
            Source::Range { subscription, from, to } => self.range(&subscription, from, to).await,
        }
    }
}

impl<'a> History<'a> {
    #[expect(
        clippy::too_many_arguments,
        reason = "the record's parts, each read and checked by its only caller"
    )]
    pub(super) fn new(
        runner: &'a Runner,
        job: Job,
        mine: String,
        replay: HistoryReplay,
        upto: Vec<StreamId>,
        cursor: Cursor,
        note: HistoryNote,
        moved: u64,
        tell: Tell<'a>,
    ) -> Self {
        let now = Instant::now();
        Self {
            runner,
            job,
            mine,
            pace: Pace::new(replay.rate, now),
            replay,
            upto,
            cursor,
            moved,
            note,
            saved: now,
            tell,
            on_the_way: Vec::new(),
            memory: None,
            types: HashMap::new(),
        }
    }

    /// One message to those of some subscriptions that there still are. It adds one entry to a queue at most, so it
    /// waits for none.
    async fn deliver_to(
        &mut self,
        partition: u16,
        first: StreamId,
        message: &Message,
        named: &[SubscriptionId],
    ) -> Result<Left, Error> {
        while self.cursor.done < named.len() {
            let some = &named[self.cursor.done..named.len().min(self.cursor.done + TARGETS)];
            let records = self.runner.store.records(some).await.map_err(Error::History)?;
            let there: Arc<[SubscriptionId]> = records
                .into_iter()
                .flatten()
                .filter(|found| found.subscription.tenant == self.job.tenant)
                .map(|found| found.subscription.id)
                .collect();
            let gone = some.len() - there.len();
            let part = format!("named {}", self.cursor.done);
            if let Some(left) = self.one_entry(partition, first, message, part, there).await? {
                return Ok(left);
            }
            self.note.scanned = 1;
            self.note.skipped += u64::try_from(gone).unwrap_or(0);
            self.cursor.done += some.len();
        }
        Ok(Left::Through)
    }

    /// One message to all that match it now; one that was itself for named ones, to those of them.
    async fn deliver_to_all(
        &mut self,
        partition: u16,
        first: StreamId,
        message: &Message,
    ) -> Result<Left, Error> {
        if !message.targets.is_empty() {
            let named = Arc::clone(&message.targets);
            return self.deliver_to(partition, first, message, &named).await;
        }
        loop {
            let after = self.cursor.subscription.clone();
            let after = after.as_ref().map(SubscriptionId::as_str);
            let page = self.runner.store.subscriptions(&self.job.tenant, after, TARGETS).await;
            let page = page.map_err(Error::History)?;
            let Some(last) = page.last().map(|last| last.subscription.id.clone()) else {
                return Ok(Left::Through);
            };
            let wanted: Arc<[SubscriptionId]> = page
                .into_iter()
                .filter(|found| is_wanted(&found.subscription, message, &self.types))
                .map(|found| found.subscription.id)
                .collect();
            let part = format!("behind {}", after.unwrap_or_default());
            if let Some(left) = self.one_entry(partition, first, message, part, wanted).await? {
                return Ok(left);
            }
            self.note.scanned = 1;
            self.cursor.subscription = Some(last);
        }
    }

    /// One entry for some subscriptions.
    async fn one_entry(
        &mut self,
        partition: u16,
        first: StreamId,
        message: &Message,
        part: String,
        targets: Arc<[SubscriptionId]>,
    ) -> Result<Option<Left>, Error> {
        if targets.is_empty() {
            return self.wait_until(Instant::now()).await;
        }
        let again = Again { first, part, message: Message { targets, ..message.clone() } };
        self.add(partition, vec![again]).await
    }

    /// What one subscription matches of a time, partition by partition, each in its order.
    async fn range(&mut self, subscription: &SubscriptionId, from: Time, to: Time) -> Result<Left, Error> {
        // An id is never below the time at which it was given.
        let before = StreamId { ms: from.as_millis().saturating_sub(1), seq: u64::MAX };
        while let Some(upto) = self.upto.get(usize::from(self.cursor.partition)).copied() {
            let mut measure = Measure::default();
            loop {
                let after = self.cursor.after.map_or(before, |At(after)| after);
                let page = self.page(after, upto, &mut measure).await?;
                let Some(newest) = page.last() else { break };
                let is_over = newest.accepted_ms > to.as_millis().saturating_add(CLOCK_STEP_MS);
                if let Some(left) = self.through(subscription, (from, to), &page).await? {
                    return Ok(left);
                }
                if is_over {
                    break;
                }
            }
            self.cursor = Cursor { partition: self.cursor.partition + 1, ..Cursor::default() };
        }
        Ok(Left::Through)
    }

    async fn page(
        &self,
        after: StreamId,
        upto: StreamId,
        measure: &mut Measure,
    ) -> Result<Vec<Accepted>, Error> {
        let Runner { store, places, .. } = self.runner;
        if after >= upto {
            return Ok(Vec::new());
        }
        let _place = places.acquire().await;
        let page = store.history(self.cursor.partition, after, upto, measure.most()).await;
        let page = page.map_err(Error::History)?;
        measure.learn(page.len(), page.iter().map(|entry| entry.entry.size()).sum());
        Ok(page)
    }

    /// Through a page, as fast as the rate, the limit and the room in the queue allow.
    async fn through(
        &mut self,
        id: &SubscriptionId,
        time: (Time, Time),
        page: &[Accepted],
    ) -> Result<Option<Left>, Error> {
        let found = self.runner.store.subscription(id).await.map_err(Error::History)?;
        let subscription = found
            .map(|found| found.subscription)
            .filter(|subscription| subscription.tenant == self.job.tenant)
            .ok_or_else(|| Error::no_such("subscription", id.as_str()))?;
        let rows: Vec<(StreamId, Option<Message>)> =
            page.iter().map(|entry| (entry.id, meant(entry, time, &subscription, &self.types))).collect();
        let mut marks: &[(StreamId, bool)] =
            &rows.iter().map(|(id, message)| (*id, message.is_some())).collect::<Vec<_>>();
        let mut rows = rows.into_iter();
        while !marks.is_empty() {
            let mut most = self.pace.batch();
            if marks.iter().any(|(_, is_meant)| *is_meant) {
                if let Some(left) = self.wait_until(self.pace.due()).await? {
                    return Ok(Some(left));
                }
                most = most.min(self.left());
                if most == 0 {
                    return Ok(Some(Left::Through));
                }
                most = most.min(self.room(&subscription.id).await?);
                if most == 0 {
                    self.note.waits_for = Some(format!("room in the queue of {id}"));
                    if let Some(left) = self.wait_until(Instant::now() + WAIT).await? {
                        return Ok(Some(left));
                    }
                    continue;
                }
            }
            let (some, rest) = marks.split_at(upto_match(marks, most));
            let targets: Arc<[SubscriptionId]> = Arc::from([subscription.id.clone()]);
            let messages = rows.by_ref().take(some.len()).filter_map(|(first, message)| {
                let message = Message { targets: Arc::clone(&targets), ..message? };
                Some(Again { first, part: String::new(), message })
            });
            let messages: Vec<Again> = messages.collect();
            if let Some(left) = self.add(self.cursor.partition, messages).await? {
                return Ok(Some(left));
            }
            self.note.waits_for = None;
            self.note.scanned += u64::try_from(some.len()).unwrap_or(0);
            self.cursor.after = some.last().map(|(id, _)| At(*id));
            marks = rest;
        }
        self.wait_until(Instant::now()).await
    }

    /// Accepts messages anew, once there is memory for it.
    async fn add(&mut self, partition: u16, messages: Vec<Again>) -> Result<Option<Left>, Error> {
        if messages.is_empty() {
            return Ok(None);
        }
        while self.is_crowded().await? {
            self.note.waits_for = Some("memory in Redis".into());
            if let Some(left) = self.wait_until(Instant::now() + WAIT).await? {
                return Ok(Some(left));
            }
        }
        let Runner { store, retention, .. } = self.runner;
        let answer = store.accept_again(partition, &self.mine, &messages, millis(*retention)).await;
        let Some(added) = answer.map_err(Error::History)? else { return Ok(Some(Left::Lost)) };
        let mut deliveries = 0;
        for (again, added) in messages.iter().zip(&added) {
            if added.generation.is_some() {
                deliveries += u64::try_from(again.message.targets.len()).unwrap_or(0);
            }
            self.on_the_way.push((partition, added.at));
        }
        self.moved += deliveries;
        self.runner.metrics.again.inc_by(deliveries);
        self.pace.spent(deliveries, Instant::now());
        Ok(None)
    }

    /// How many messages may still be delivered again.
    fn left(&self) -> usize {
        let left = self.replay.limit.map_or(u64::MAX, |limit| limit.saturating_sub(self.moved));
        usize::try_from(left).unwrap_or(usize::MAX)
    }

    /// How many more a queue may be given: what this job added counts also while it is on its way there.
    async fn room(&mut self, id: &SubscriptionId) -> Result<usize, Error> {
        let Runner { store, max_queued, .. } = self.runner;
        let mut partitions: Vec<u16> = self.on_the_way.iter().map(|(partition, _)| *partition).collect();
        partitions.dedup();
        for partition in partitions {
            let routed = store.routed_upto(partition).await.map_err(Error::History)?;
            self.on_the_way.retain(|(of, at)| *of != partition || *at > routed);
        }
        let states = store.states(std::slice::from_ref(id)).await.map_err(Error::History)?;
        let queued = states.first().map_or(0, |state| state.queued);
        let room = max_queued.saturating_sub(queued);
        Ok(usize::try_from(room).unwrap_or(usize::MAX).saturating_sub(self.on_the_way.len()))
    }

    /// Whether Redis uses more of its memory than a replay may add to.
    async fn is_crowded(&mut self) -> Result<bool, Error> {
        if let Some((looked, is_crowded)) = self.memory
            && looked.elapsed() < WAIT
        {
            return Ok(is_crowded);
        }
        let Runner { store, max_memory_percent, .. } = self.runner;
        let used = store.memory_used().await.map_err(Error::History)?;
        let is_crowded = used * 100.0 >= f64::from(*max_memory_percent);
        self.memory = Some((Instant::now(), is_crowded));
        Ok(is_crowded)
    }
}

/// The message of an entry that is to be delivered again: of the time, with a history, no replay itself, and wanted.
fn meant(
    entry: &Accepted,
    (from, to): (Time, Time),
    subscription: &Subscription,
    types: &HashMap<ChannelName, ChannelType>,
) -> Option<Message> {
    let is_of_time = (from.as_millis()..to.as_millis()).contains(&entry.accepted_ms);
    if !is_of_time || entry.first.is_some() {
        return None;
    }
    let message = entry.entry.decode().ok().filter(|message| message.persistent && !message.test)?;
    let is_target = message.targets.is_empty() || message.targets.contains(&subscription.id);
    (is_target && is_wanted(subscription, &message, types)).then_some(message)
}

/// Whether a message matches a subscription now.
fn is_wanted(
    subscription: &Subscription,
    message: &Message,
    types: &HashMap<ChannelName, ChannelType>,
) -> bool {
    let candidate = Candidate {
        tenant: &message.tenant,
        channel: &message.channel,
        channel_type: types.get(&message.channel).copied().unwrap_or_default(),
        routing_key: message.routing_key.as_ref().map(postroad_model::names::RoutingKey::as_str),
        headers: &message.metadata.headers,
        payload: json_view(&message.payload),
    };
    wants(subscription, &candidate)
}
