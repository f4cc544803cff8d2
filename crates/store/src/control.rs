//! What everybody shares: subscriptions' records with the stream of their changes, and the list of living
//! instances.
//!
//! A change is written to the control tag first, then to the subscription's lane, and only then is the
//! caller answered. A router that finds a change before the lane has it, or a lane that lost its settings,
//! is mended by [`Store::apply`], which is a no-op for what is there already.

use postroad_model::{
    id::SubscriptionId,
    names::Tenant,
    placement::Layout,
    subscription::{Status, Subscription},
};
use redis::{Pipeline, Value};

use crate::{
    Store, StreamId,
    error::StoreError,
    keys::{self, Tag},
    link::checked,
    reply::{Fields, array, count, int, odd, stream_id, text},
    script::{self, Call},
};

/// A record and the change that wrote it.
#[derive(Debug, Clone)]
pub struct Versioned {
    /// The record.
    pub subscription: Subscription,
    /// The change that wrote it.
    pub change: StreamId,
}

/// One change of configuration.
#[derive(Debug, Clone)]
pub enum Change {
    /// A subscription was created or changed.
    Put(Box<Versioned>),
    /// A subscription was cancelled.
    Cancelled(SubscriptionId),
    /// A change that this release does not know, or a record that it cannot read.
    Unknown {
        /// What it is about.
        id: String,
        /// Why it was passed over.
        reason: String,
    },
}

/// How much a subscription's queue may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneLimits {
    /// Entries.
    pub entries: u64,
    /// Bytes of headers and payloads.
    pub bytes: u64,
}

impl Default for LaneLimits {
    fn default() -> Self {
        Self { entries: 1_000_000, bytes: 1 << 30 }
    }
}

/// Running figures of a subscription.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SubscriptionState {
    /// Its status in its lane; empty where the lane does not know it.
    pub status: String,
    /// Deliveries settled as delivered.
    pub delivered: u64,
    /// Attempts failed.
    pub failed: u64,
    /// When an attempt last ended, by Redis's clock.
    pub active_ms: Option<u64>,
    /// Deliveries in its queues, whatever their place.
    pub queued: u64,
    /// Dead letters.
    pub dead: u64,
    /// How many deliveries may be out now: 0 while its circuit is open.
    pub limit: Option<u64>,
    /// Until when it is held, by Redis's clock.
    pub hold_ms: Option<u64>,
}

/// A living instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// What it says of itself, as JSON.
    pub about: String,
    /// Milliseconds since it was heard.
    pub age_ms: u64,
}

/// The living instances.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Members {
    /// Redis's clock, in milliseconds.
    pub now_ms: u64,
    /// Everyone who was heard of lately.
    pub members: Vec<Member>,
}

/// How long a cancelled subscription's tombstone stays in its lane: longer than any router or retry could
/// still bring something for it.
const TOMBSTONE_MS: u64 = 48 * 3_600_000;

impl Store {
    /// Writes a record, tells of it and applies it in its lane. `expected` is the change that must be
    /// there, `None` if the subscription must not exist; `most` bounds a tenant's subscriptions.
    ///
    /// After an error the record may be written all the same; [`Store::apply_left`] then sees to its lane.
    pub async fn put_subscription(
        &self,
        subscription: &Subscription,
        expected: Option<StreamId>,
        most: u64,
        limits: LaneLimits,
    ) -> Result<StreamId, StoreError> {
        let record =
            serde_json::to_string(subscription).map_err(|error| StoreError::Refused(error.to_string()))?;
        let change = self.subscribe(&subscription.id, &subscription.tenant, &record, expected, most).await?;
        match self.apply(subscription, change, limits).await {
            Ok(_) => self.applied(&subscription.id, change).await,
            // It exists, and an error would only lead to a second one.
            Err(_) if expected.is_none() => {}
            Err(error) => return Err(error),
        }
        Ok(change)
    }

    /// Removes a record, tells of it and leaves a tombstone in its lane; its queue goes too.
    pub async fn cancel_subscription(
        &self,
        id: &SubscriptionId,
        tenant: &Tenant,
        expected: StreamId,
    ) -> Result<(), StoreError> {
        let change = self.subscribe(id, tenant, "", Some(expected), 0).await?;
        self.apply_cancelled(id, change).await?;
        self.applied(id, change).await;
        Ok(())
    }

    /// Brings changes into their lanes that whoever made them did not: how many.
    pub async fn apply_left(&self, limits: LaneLimits) -> Result<usize, StoreError> {
        const AFTER_MS: u64 = 5_000;
        const MOST: usize = 100;
        let mut due = redis::cmd("ZRANGEBYSCORE");
        let now = self.clock().await?;
        due.arg(self.keys.key(Tag::Ctl, keys::UNAPPLIED)).arg("-inf").arg(now.saturating_sub(AFTER_MS));
        due.arg("LIMIT").arg(0).arg(MOST);
        let rows = array(self.link.command(&due).await?)?;
        let count = rows.len();
        for row in rows {
            let row = text(row)?;
            let parts = row.split_once(' ').and_then(|(id, change)| {
                Some((SubscriptionId::new(id).ok()?, change.parse::<StreamId>().ok()?))
            });
            if let Some((id, change)) = parts {
                match self.subscription(&id).await {
                    Ok(Some(known)) => drop(self.apply(&known.subscription, known.change, limits).await?),
                    Ok(None) => self.apply_cancelled(&id, change).await?,
                    // A record that cannot be read: a newer release may.
                    Err(StoreError::Reply(_)) => {}
                    Err(error) => return Err(error),
                }
            }
            self.settled_change(&row).await?;
        }
        Ok(count)
    }

    /// Notes that a change has reached its lane. Should the note fail, the change is applied once more.
    async fn applied(&self, id: &SubscriptionId, change: StreamId) {
        let _ = self.settled_change(&format!("{id} {change}")).await;
    }

    async fn settled_change(&self, row: &str) -> Result<(), StoreError> {
        let mut command = redis::cmd("ZREM");
        command.arg(self.keys.key(Tag::Ctl, keys::UNAPPLIED)).arg(row);
        self.link.command(&command).await.map(drop)
    }

    /// Redis's clock, in milliseconds.
    async fn clock(&self) -> Result<u64, StoreError> {
        let mut parts = array(self.link.command(&redis::cmd("TIME")).await?)?.into_iter();
        Ok(count(&parts.next().unwrap_or_default())? * 1_000)
    }

    async fn subscribe(
        &self,
        id: &SubscriptionId,
        tenant: &Tenant,
        record: &str,
        expected: Option<StreamId>,
        most: u64,
    ) -> Result<StreamId, StoreError> {
        let mut call = Call::new(&script::SUBSCRIBE, &self.keys, Tag::Ctl);
        let expected = expected.map(|change| change.to_string()).unwrap_or_default();
        call.arg(id.as_str()).arg(tenant.as_str()).arg(record).arg(expected).arg(most);
        let value = script::call(&self.link, call).await?;
        let shown = value.clone();
        let mut parts = array(value)?.into_iter();
        let verdict = text(parts.next().unwrap_or_default())?;
        let detail = parts.next().unwrap_or_default();
        match verdict.as_str() {
            "OK" => stream_id(detail),
            "CONFLICT" => Err(StoreError::Conflict(id.to_string())),
            "FULL" => Err(StoreError::TooMany(count(&detail)?)),
            _ => Err(odd("subscribe", &shown)),
        }
    }

    /// apply: a subscription's settings into its lane. `false` if these or newer ones are there.
    pub async fn apply(
        &self,
        subscription: &Subscription,
        change: StreamId,
        limits: LaneLimits,
    ) -> Result<bool, StoreError> {
        let status = match (subscription.status, &subscription.callback_url) {
            (Status::Active, None) => "pull",
            (status, _) => status.as_str(),
        };
        let settings =
            serde_json::to_string(subscription).map_err(|error| StoreError::Refused(error.to_string()))?;
        let mut call = self.apply_call(&subscription.id, change, status);
        call.arg(subscription.prefetch_count).arg(limits.entries).arg(limits.bytes).arg(settings).arg(0);
        call.arg(if subscription.ordered { "1" } else { "" })
            .arg(subscription.rate_limit.map_or_else(String::new, |rate| rate.to_string()))
            .arg(subscription.dead_letter_queue.as_ref().map_or("", |channel| channel.as_str()))
            .arg(if subscription.auto_ack { "" } else { "1" });
        Ok(int(&script::call(&self.link, call).await?)? == 1)
    }

    /// apply, for a subscription that is cancelled.
    pub async fn apply_cancelled(&self, id: &SubscriptionId, change: StreamId) -> Result<(), StoreError> {
        let mut call = self.apply_call(id, change, "cancelled");
        call.arg(0).arg(0).arg(0).arg("").arg(TOMBSTONE_MS).arg("").arg("").arg("").arg("");
        script::call(&self.link, call).await.map(drop)
    }

    fn apply_call(&self, id: &SubscriptionId, change: StreamId, status: &str) -> Call {
        let mut call = Call::new(&script::APPLY, &self.keys, Tag::Lane(self.layout.lane_of(id)));
        call.arg(id.as_str()).arg(change.to_string()).arg(status);
        call
    }

    /// Settings of subscriptions as their lanes have them, in the order asked for. One that cannot be read does
    /// not keep back the others.
    pub async fn settings(
        &self,
        ids: &[SubscriptionId],
    ) -> Result<Vec<Result<Option<Subscription>, StoreError>>, StoreError> {
        let mut pipeline = Pipeline::with_capacity(ids.len());
        for id in ids {
            let key = self.keys.key(Tag::Lane(self.layout.lane_of(id)), &format!("{}{id}", keys::SUB));
            pipeline.cmd("HGET").arg(key).arg("settings");
        }
        let answers = self.link.pipeline(&pipeline).await?;
        Ok(answers.into_iter().map(|answer| read_record(checked(answer)?)).collect())
    }

    /// A subscription's record.
    pub async fn subscription(&self, id: &SubscriptionId) -> Result<Option<Versioned>, StoreError> {
        self.read_records(std::slice::from_ref(id)).await?.pop().unwrap_or(Ok(None))
    }

    /// Records, in the order asked for. One that cannot be read, such as a newer release's, is left out like
    /// one that does not exist, and said to be so: it must not keep back the others.
    pub async fn records(&self, ids: &[SubscriptionId]) -> Result<Vec<Option<Versioned>>, StoreError> {
        let rows = self.read_records(ids).await?;
        Ok(rows
            .into_iter()
            .zip(ids)
            .map(|(row, id)| {
                row.unwrap_or_else(|error| {
                    tracing::error!(subscription.id = %id, %error, "a subscription's record cannot be read");
                    None
                })
            })
            .collect())
    }

    async fn read_records(
        &self,
        ids: &[SubscriptionId],
    ) -> Result<Vec<Result<Option<Versioned>, StoreError>>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipeline = Pipeline::with_capacity(2);
        for name in [keys::SUBS, keys::CHANGED] {
            let command = pipeline.cmd("HMGET").arg(self.keys.key(Tag::Ctl, name));
            for id in ids {
                command.arg(id.as_str());
            }
        }
        let mut answers = self.link.pipeline(&pipeline).await?.into_iter();
        let mut next = || array(checked(answers.next().unwrap_or_default())?);
        let (records, changes) = (next()?, next()?);
        Ok(records.into_iter().zip(changes).map(|(record, change)| versioned(record, change)).collect())
    }

    /// A page of a tenant's subscriptions, by id, behind `after`.
    pub async fn subscriptions(
        &self,
        tenant: &Tenant,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Versioned>, StoreError> {
        let from = after.map_or_else(|| "-".to_owned(), |id| format!("({id}"));
        let mut command = redis::cmd("ZRANGE");
        command
            .arg(self.keys.key(Tag::Ctl, &format!("{}{tenant}", keys::TENANT)))
            .arg(from)
            .arg("+")
            .arg("BYLEX")
            .arg("LIMIT")
            .arg(0)
            .arg(limit);
        let ids = array(self.link.command(&command).await?)?
            .into_iter()
            .map(|id| SubscriptionId::new(&text(id)?).map_err(|error| StoreError::Reply(error.to_string())))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(self.records(&ids).await?.into_iter().flatten().collect())
    }

    /// How many subscriptions a tenant has.
    pub async fn count_subscriptions(&self, tenant: &Tenant) -> Result<u64, StoreError> {
        let mut command = redis::cmd("ZCARD");
        command.arg(self.keys.key(Tag::Ctl, &format!("{}{tenant}", keys::TENANT)));
        count(&self.link.command(&command).await?)
    }

    /// Every record, and the version from which on changes must be followed.
    pub async fn snapshot(&self) -> Result<(Vec<Versioned>, StreamId), StoreError> {
        // The version first: what changes while the records are read is then read twice, never missed.
        let version = self.newest_change().await?;
        let mut all = Vec::new();
        let mut cursor = "0".to_owned();
        loop {
            let mut scan = redis::cmd("HSCAN");
            scan.arg(self.keys.key(Tag::Ctl, keys::CHANGED)).arg(&cursor).arg("COUNT").arg(1_000);
            let mut parts = array(self.link.command(&scan).await?)?.into_iter();
            cursor = text(parts.next().unwrap_or_default())?;
            let pairs = array(parts.next().unwrap_or_default())?;
            let ids = pairs
                .into_iter()
                .step_by(2)
                // What is no id is no subscription.
                .filter_map(|id| SubscriptionId::new(&text(id).ok()?).ok())
                .collect::<Vec<_>>();
            all.extend(self.records(&ids).await?.into_iter().flatten());
            if cursor == "0" {
                return Ok((all, version));
            }
        }
    }

    /// Changes behind a version, and the version that they lead to. `None` where changes are missing in
    /// between: then only [`Store::snapshot`] tells the truth.
    pub async fn changes(&self, since: StreamId) -> Result<Option<(Vec<Change>, StreamId)>, StoreError> {
        let mut command = redis::cmd("XRANGE");
        command.arg(self.keys.key(Tag::Ctl, keys::CHANGES)).arg(format!("({since}")).arg("+");
        let rows = array(self.link.command(&command).await?)?;
        let mut version = since;
        let mut changes = Vec::with_capacity(rows.len());
        for row in rows {
            let mut row = array(row)?.into_iter();
            let id = stream_id(row.next().unwrap_or_default())?;
            let mut fields = Fields::read(row.next().unwrap_or_default())?;
            let prev = fields.take_text("prev");
            // What was put there by hand names nobody.
            if !prev.is_empty() && prev != version.to_string() {
                return Ok(None);
            }
            version = id;
            changes.push(read_change(fields, version));
        }
        Ok(Some((changes, version)))
    }

    /// The newest change that there ever was, as far as Redis knows.
    pub async fn newest_change(&self) -> Result<StreamId, StoreError> {
        let mut command = redis::cmd("XINFO");
        command.arg("STREAM").arg(self.keys.key(Tag::Ctl, keys::CHANGES));
        let info = match self.link.command(&command).await {
            Ok(info) => array(info)?,
            // No stream: nothing has ever changed, or everything was lost.
            Err(StoreError::Refused(_)) => return Ok(StreamId::ZERO),
            Err(error) => return Err(error),
        };
        let mut pairs = info.into_iter();
        while let (Some(name), Some(value)) = (pairs.next(), pairs.next()) {
            if text(name)? == "last-generated-id" {
                return stream_id(value);
            }
        }
        Err(StoreError::Reply("XINFO STREAM without a last-generated-id".into()))
    }

    /// Running figures of subscriptions, in the order asked for.
    pub async fn states(&self, ids: &[SubscriptionId]) -> Result<Vec<SubscriptionState>, StoreError> {
        const FIELDS: [&str; 6] = ["status", "delivered", "failed", "active_at", "limit", "hold"];
        let mut pipeline = Pipeline::new();
        for id in ids {
            let tag = Tag::Lane(self.layout.lane_of(id));
            let key = |name: &str, rest: &str| self.keys.key(tag, &format!("{name}{id}{rest}"));
            let command = pipeline.cmd("HMGET").arg(key(keys::SUB, ""));
            for field in FIELDS {
                command.arg(field);
            }
            pipeline.cmd("XLEN").arg(key(keys::DEAD, ""));
            for rank in 0..4 {
                pipeline.cmd("XLEN").arg(key(keys::WORK, &format!(":{rank}")));
            }
        }
        let mut answers = self.link.pipeline(&pipeline).await?.into_iter().map(checked);
        let mut states = Vec::with_capacity(ids.len());
        for _ in ids {
            let mut next = || answers.next().unwrap_or(Ok(Value::Nil));
            let mut fields = array(next()?)?.into_iter().map(text);
            let mut field = || fields.next().unwrap_or_else(|| Ok(String::new()));
            let mut state = SubscriptionState {
                status: field()?,
                delivered: field()?.parse().unwrap_or(0),
                failed: field()?.parse().unwrap_or(0),
                active_ms: field()?.parse().ok(),
                limit: field()?.parse().ok(),
                hold_ms: field()?.parse().ok(),
                ..SubscriptionState::default()
            };
            state.dead = count(&next()?)?;
            for _ in 0..4 {
                state.queued += count(&next()?)?;
            }
            states.push(state);
        }
        Ok(states)
    }

    /// heartbeat: says that an instance lives (or, with no `about`, only looks) and hears who else does.
    pub async fn heartbeat(&self, me: &str, about: &str, gone_ms: u64) -> Result<Members, StoreError> {
        self.heard(me, about, gone_ms, false).await
    }

    /// heartbeat, for an instance that leaves.
    pub async fn leave(&self, me: &str) -> Result<(), StoreError> {
        self.heard(me, "", 60_000, true).await.map(drop)
    }

    /// The living instances.
    pub async fn members(&self, gone_ms: u64) -> Result<Members, StoreError> {
        self.heard("", "", gone_ms, false).await
    }

    async fn heard(&self, me: &str, about: &str, gone_ms: u64, leave: bool) -> Result<Members, StoreError> {
        let mut call = Call::new(&script::HEARTBEAT, &self.keys, Tag::Ctl);
        let Layout { partitions, lanes } = self.layout;
        call.arg(me).arg(about).arg(gone_ms).arg(u8::from(leave)).arg(partitions).arg(lanes);
        let mut parts = array(script::call(&self.link, call).await?)?.into_iter();
        let now_ms = count(&parts.next().unwrap_or_default())?;
        let mut rows = array(parts.next().unwrap_or_default())?.into_iter();
        let mut members = Vec::new();
        while let (Some(name), Some(about), Some(age)) = (rows.next(), rows.next(), rows.next()) {
            let age_ms = u64::try_from(int(&age)?).unwrap_or(0);
            members.push(Member { name: text(name)?, about: text(about)?, age_ms });
        }
        Ok(Members { now_ms, members })
    }

    /// Channels on which something was published within a time, over all tenants or of one.
    pub async fn active_channels(&self, tenant: &Tenant, since_ms: u64) -> Result<Vec<String>, StoreError> {
        let mut pipeline = Pipeline::new();
        for partition in 0..self.layout.partitions {
            pipeline
                .cmd("ZRANGE")
                .arg(self.keys.key(Tag::Partition(partition), keys::CHANNELS))
                .arg(since_ms)
                .arg("+inf")
                .arg("BYSCORE");
        }
        let prefix = format!("{tenant}/");
        let mut channels = Vec::new();
        for answer in self.link.pipeline(&pipeline).await? {
            for name in array(checked(answer)?)? {
                if let Some(channel) = text(name)?.strip_prefix(&prefix) {
                    channels.push(channel.to_owned());
                }
            }
        }
        channels.sort_unstable();
        channels.dedup();
        Ok(channels)
    }
}

fn read_record(value: Value) -> Result<Option<Subscription>, StoreError> {
    let record = text(value)?;
    if record.is_empty() {
        return Ok(None);
    }
    serde_json::from_str(&record)
        .map(Some)
        .map_err(|error| StoreError::Reply(format!("a subscription's record cannot be read: {error}")))
}

fn versioned(record: Value, change: Value) -> Result<Option<Versioned>, StoreError> {
    match (read_record(record)?, change) {
        (Some(subscription), change @ (Value::BulkString(_) | Value::SimpleString(_))) => {
            Ok(Some(Versioned { subscription, change: stream_id(change)? }))
        }
        _ => Ok(None),
    }
}

fn read_change(mut fields: Fields, change: StreamId) -> Change {
    let (kind, id, record) = (fields.take_text("kind"), fields.take_text("id"), fields.take_text("record"));
    let unknown = |reason: String| Change::Unknown { id: id.clone(), reason };
    if kind != "subscription" {
        return unknown(format!("a change of kind {kind:?}"));
    }
    if record.is_empty() {
        return SubscriptionId::new(&id).map_or_else(|error| unknown(error.to_string()), Change::Cancelled);
    }
    match serde_json::from_str(&record) {
        Ok(subscription) => Change::Put(Box::new(Versioned { subscription, change })),
        Err(error) => unknown(error.to_string()),
    }
}
