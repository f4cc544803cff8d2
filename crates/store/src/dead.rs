//! Dead letters: looking at them, and their moves replay and purge.

use std::{fmt, str::FromStr};

use bytes::Bytes;
use postroad_model::{delivery::DeadReason, id::SubscriptionId};
use redis::{Pipeline, Value};

use crate::{
    Store, StreamId,
    entry::Entry,
    error::StoreError,
    keys::{self, Tag},
    lease::Tries,
    link::checked,
    reply::{Fields, array, count, stream_id, text},
    script::{self, Call},
};

/// A dead letter's id: `<subscription>.<entry>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeadLetterId {
    /// The subscription whose dead letter it is.
    pub subscription: SubscriptionId,
    /// The entry among its dead letters.
    pub entry: StreamId,
}

impl fmt::Display for DeadLetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.subscription, self.entry)
    }
}

impl FromStr for DeadLetterId {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is no dead letter's id");
        let (subscription, entry) = text.split_once('.').ok_or_else(bad)?;
        Ok(Self {
            subscription: SubscriptionId::new(subscription).map_err(|_| bad())?,
            entry: entry.parse().map_err(|_| bad())?,
        })
    }
}

/// A dead letter.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// Its id.
    pub id: DeadLetterId,
    /// The message.
    pub entry: Entry,
    /// When the message was accepted, by Redis's clock.
    pub accepted_ms: u64,
    /// When it died, by Redis's clock.
    pub died_ms: u64,
    /// Why.
    pub reason: Option<DeadReason>,
    /// What it has been through.
    pub tries: Tries,
    /// Fields that no entry has: only where it is none. For whoever has to look at it.
    pub strange: Vec<(Vec<u8>, Bytes)>,
}

/// A subscription that has dead letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadQueue {
    /// The subscription.
    pub subscription: SubscriptionId,
    /// How many.
    pub count: u64,
    /// When the oldest died, by Redis's clock.
    pub oldest_ms: u64,
    /// When the newest died.
    pub newest_ms: u64,
    /// The newest: what dies from now on lies behind it.
    pub newest: StreamId,
}

/// Why a replay into a queue ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplayState {
    /// Everything asked for was moved, or was no longer there.
    Done,
    /// The queue holds as much as it may.
    Full,
    /// The subscription was cancelled.
    Gone,
    /// The lane lacks the subscription's settings; see [`Store::apply`].
    Unknown,
    /// Another runner has the job by now, or it was stopped.
    Lost,
}

/// What a replay did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replayed {
    /// Dead letters moved.
    pub moved: u64,
    /// Why it ended.
    pub state: ReplayState,
}

impl Store {
    fn dead_key(&self, subscription: &SubscriptionId) -> String {
        let lane = self.layout.lane_of(subscription);
        self.keys.key(Tag::Lane(lane), &format!("{}{subscription}", keys::DEAD))
    }

    /// Subscriptions that have dead letters, by id, over all tenants.
    pub async fn dead_subscriptions(&self) -> Result<Vec<SubscriptionId>, StoreError> {
        let mut members = Pipeline::new();
        for lane in 0..self.layout.lanes {
            members.cmd("SMEMBERS").arg(self.keys.key(Tag::Lane(lane), keys::DEADS));
        }
        let mut ids = Vec::new();
        for answer in self.link.pipeline(&members).await? {
            for id in array(checked(answer)?)? {
                ids.extend(SubscriptionId::new(&text(id)?).ok());
            }
        }
        ids.sort_unstable();
        Ok(ids)
    }

    /// How many dead letters subscriptions have, in the order asked for.
    pub async fn count_dead(&self, ids: &[SubscriptionId]) -> Result<Vec<u64>, StoreError> {
        let mut counts = Vec::with_capacity(ids.len());
        for some in ids.chunks(1_000) {
            let mut lengths = Pipeline::with_capacity(some.len());
            for id in some {
                lengths.cmd("XLEN").arg(self.dead_key(id));
            }
            for answer in self.link.pipeline(&lengths).await? {
                counts.push(count(&checked(answer)?)?);
            }
        }
        Ok(counts)
    }

    /// Subscriptions that have dead letters, by id, over all tenants, with figures.
    pub async fn dead_queues(&self) -> Result<Vec<DeadQueue>, StoreError> {
        self.dead_queues_of(&self.dead_subscriptions().await?).await
    }

    /// Those of some subscriptions that have dead letters, with figures.
    pub async fn dead_queues_of(&self, ids: &[SubscriptionId]) -> Result<Vec<DeadQueue>, StoreError> {
        // Each answer holds whole entries: not too many in one flight.
        const FLIGHT: usize = 64;
        let mut queues = Vec::with_capacity(ids.len());
        for some in ids.chunks(FLIGHT) {
            let mut looks = Pipeline::with_capacity(3 * some.len());
            for id in some {
                let key = self.dead_key(id);
                looks.cmd("XLEN").arg(&key);
                looks.cmd("XRANGE").arg(&key).arg("-").arg("+").arg("COUNT").arg(1);
                looks.cmd("XREVRANGE").arg(&key).arg("+").arg("-").arg("COUNT").arg(1);
            }
            let mut answers = self.link.pipeline(&looks).await?.into_iter().map(checked);
            let mut next = || answers.next().unwrap_or(Ok(Value::Nil));
            for subscription in some {
                let count = count(&next()?)?;
                let ((_, oldest_ms), (newest, newest_ms)) = (died(next()?)?, died(next()?)?);
                if count > 0 {
                    let subscription = subscription.clone();
                    queues.push(DeadQueue { subscription, count, oldest_ms, newest_ms, newest });
                }
            }
        }
        Ok(queues)
    }

    /// Dead letters of a subscription behind `after` up to `upto`, oldest first, at most `most`.
    pub async fn dead_letters(
        &self,
        subscription: &SubscriptionId,
        after: StreamId,
        upto: Option<StreamId>,
        most: usize,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        let mut command = redis::cmd("XRANGE");
        command
            .arg(self.dead_key(subscription))
            .arg(format!("({after}"))
            .arg(upto.map_or_else(|| "+".to_owned(), |id| id.to_string()))
            .arg("COUNT")
            .arg(most);
        array(self.link.command(&command).await?)?.into_iter().map(|row| read(subscription, row)).collect()
    }

    /// Dead letters of a subscription before `below`, newest first, at most `most`.
    pub async fn newest_dead_letters(
        &self,
        subscription: &SubscriptionId,
        below: Option<StreamId>,
        most: usize,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        let mut command = redis::cmd("XREVRANGE");
        command
            .arg(self.dead_key(subscription))
            .arg(below.map_or_else(|| "+".to_owned(), |id| format!("({id}")))
            .arg("-")
            .arg("COUNT")
            .arg(most);
        array(self.link.command(&command).await?)?.into_iter().map(|row| read(subscription, row)).collect()
    }

    /// One dead letter.
    pub async fn dead_letter(&self, id: &DeadLetterId) -> Result<Option<DeadLetter>, StoreError> {
        let mut command = redis::cmd("XRANGE");
        command.arg(self.dead_key(&id.subscription)).arg(id.entry.to_string()).arg(id.entry.to_string());
        array(self.link.command(&command).await?)?.pop().map(|row| read(&id.subscription, row)).transpose()
    }

    /// replay: dead letters of one subscription back into its queue, which may then hold at most `bound`
    /// entries. What is no longer there is passed over. `job` is the job's id, or what [`Store::take_job`] gave
    /// its runner: then only that runner's moves count, and only while it holds the job.
    pub async fn replay_dead(
        &self,
        subscription: &SubscriptionId,
        job: &str,
        bound: u64,
        trace_ms: u64,
        entries: &[StreamId],
    ) -> Result<Replayed, StoreError> {
        let lane = Tag::Lane(self.layout.lane_of(subscription));
        let mut call = Call::new(&script::REPLAY, &self.keys, lane);
        call.arg(subscription.as_str()).arg(job).arg(bound).arg(trace_ms);
        for entry in entries {
            call.arg(entry.to_string());
        }
        let mut parts = array(script::call(&self.link, call).await?)?.into_iter();
        let moved = count(&parts.next().unwrap_or_default())?;
        let state = match text(parts.next().unwrap_or_default())?.as_str() {
            "OK" => ReplayState::Done,
            "FULL" => ReplayState::Full,
            "GONE" => ReplayState::Gone,
            "UNKNOWN" => ReplayState::Unknown,
            "LOST" => ReplayState::Lost,
            other => return Err(StoreError::Reply(format!("replay: {other}"))),
        };
        Ok(Replayed { moved, state })
    }

    /// purge: lets dead letters of one subscription go. How many went.
    pub async fn purge_dead(
        &self,
        subscription: &SubscriptionId,
        entries: &[StreamId],
    ) -> Result<u64, StoreError> {
        let lane = Tag::Lane(self.layout.lane_of(subscription));
        let mut call = Call::new(&script::PURGE, &self.keys, lane);
        call.arg(subscription.as_str());
        for entry in entries {
            call.arg(entry.to_string());
        }
        count(&script::call(&self.link, call).await?)
    }

    /// How many dead letters a job has moved over all lanes, or deliveries it has asked for over all partitions.
    pub async fn job_moved(&self, job: &str) -> Result<u64, StoreError> {
        let mut pipeline = Pipeline::new();
        for tag in self.job_tags() {
            pipeline.cmd("HGET").arg(self.keys.key(tag, keys::JOBS)).arg(job);
        }
        let mut moved = 0;
        for answer in self.link.pipeline(&pipeline).await? {
            moved += text(checked(answer)?)?.parse::<u64>().unwrap_or(0);
        }
        Ok(moved)
    }

    /// Forgets what was counted for a job where it moved; its record knows the sum by now.
    pub async fn forget_job_counts(&self, job: &str) -> Result<(), StoreError> {
        let mut pipeline = Pipeline::new();
        for tag in self.job_tags() {
            pipeline.cmd("HDEL").arg(self.keys.key(tag, keys::JOBS)).arg(job);
        }
        self.link.pipeline(&pipeline).await?.into_iter().try_for_each(|answer| checked(answer).map(drop))
    }
}

/// The id and the time of death of the one entry that a look found.
fn died(value: Value) -> Result<(StreamId, u64), StoreError> {
    let Some(row) = array(value)?.pop() else { return Ok((StreamId::ZERO, 0)) };
    let mut row = array(row)?.into_iter();
    let id = stream_id(row.next().unwrap_or_default())?;
    Ok((id, Fields::read(row.next().unwrap_or_default())?.take_number("died")))
}

/// The fields of a dead letter.
const KNOWN: [&[u8]; 7] = [b"m", b"t", b"ref", b"rank", b"reason", b"tries", b"died"];

fn read(subscription: &SubscriptionId, row: Value) -> Result<DeadLetter, StoreError> {
    let mut row = array(row)?.into_iter();
    let entry = stream_id(row.next().unwrap_or_default())?;
    let mut fields = Fields::read(row.next().unwrap_or_default())?;
    Ok(DeadLetter {
        id: DeadLetterId { subscription: subscription.clone(), entry },
        accepted_ms: fields.take_number("t"),
        died_ms: fields.take_number("died"),
        reason: DeadReason::parse(&fields.take_text("reason")),
        tries: Tries::read(&fields.take_text("tries")),
        entry: fields.entry(),
        strange: fields.raw().into_iter().filter(|(name, _)| !KNOWN.contains(&name.as_slice())).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back() {
        let id: DeadLetterId = "sub_1.17-0".parse().unwrap();
        assert_eq!(id.to_string(), "sub_1.17-0");
        for bad in ["", "sub_1", "sub_1.", ".17-0", "sub 1.17-0", "sub_1.x"] {
            assert!(bad.parse::<DeadLetterId>().is_err(), "{bad}");
        }
    }
}
