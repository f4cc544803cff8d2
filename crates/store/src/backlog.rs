//! How far behind everything is: what the health call tells of partitions, queues and history.

use redis::{Pipeline, Value};

use crate::{
    Store, StreamId,
    error::StoreError,
    keys::{self, Tag},
    link::checked,
    reply::{array, count, text},
};

/// What waits in the lanes for a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Backlog {
    /// Subscriptions whose queues hold deliveries, whatever their place.
    pub subscriptions: u64,
    /// Of those, the ones that a worker may deliver to now, and none has begun to.
    pub ready: u64,
    /// For how long the first of them has been ready, in milliseconds.
    pub oldest_ready_ms: u64,
    /// Deliveries in the queues of the subscriptions that were looked at: at most [`Backlog::LOOKED_AT`].
    pub queued: u64,
}

impl Backlog {
    /// Of so many subscriptions, at most, the deliveries are counted.
    pub const LOOKED_AT: usize = 1_000;
}

impl Store {
    /// Who owns each partition; nobody where it was released.
    pub async fn owners(&self) -> Result<Vec<Option<String>>, StoreError> {
        let mut pipeline = Pipeline::new();
        for partition in 0..self.layout.partitions {
            pipeline.cmd("HGET").arg(self.keys.key(Tag::Partition(partition), keys::OWNER)).arg("name");
        }
        let answers = self.link.pipeline(&pipeline).await?;
        answers
            .into_iter()
            .map(|answer| Ok(Some(text(checked(answer)?)?).filter(|name| !name.is_empty())))
            .collect()
    }

    /// What waits in the lanes. `now_ms` is Redis's clock.
    pub async fn backlog(&self, now_ms: u64) -> Result<Backlog, StoreError> {
        let mut pipeline = Pipeline::new();
        for lane in 0..self.layout.lanes {
            let key = |name| self.keys.key(Tag::Lane(lane), name);
            pipeline.cmd("SCARD").arg(key(keys::LIVE));
            pipeline.cmd("XLEN").arg(key(keys::READY));
            pipeline.cmd("XRANGE").arg(key(keys::READY)).arg("-").arg("+").arg("COUNT").arg(1);
        }
        let mut waiting = Backlog::default();
        let mut answers = self.link.pipeline(&pipeline).await?.into_iter().map(told);
        let mut lanes = Vec::new();
        for lane in 0..self.layout.lanes {
            let mut next = || answers.next().unwrap_or(Ok(Value::Nil));
            let live = number(&next()?)?;
            waiting.subscriptions += live;
            waiting.ready += number(&next()?)?;
            if live > 0 {
                lanes.push(lane);
            }
            for token in array(next()?)? {
                let id: StreamId = text(array(token)?.into_iter().next().unwrap_or_default())?
                    .parse()
                    .map_err(StoreError::Reply)?;
                waiting.oldest_ready_ms = waiting.oldest_ready_ms.max(now_ms.saturating_sub(id.ms));
            }
        }
        waiting.queued = self.queued(&lanes).await?;
        Ok(waiting)
    }

    /// Deliveries in the queues of some subscriptions of these lanes.
    async fn queued(&self, lanes: &[u16]) -> Result<u64, StoreError> {
        let Some(each) = Backlog::LOOKED_AT.checked_div(lanes.len()) else { return Ok(0) };
        let mut who = Pipeline::new();
        for lane in lanes {
            who.cmd("SRANDMEMBER").arg(self.keys.key(Tag::Lane(*lane), keys::LIVE)).arg(each);
        }
        let mut lengths = Pipeline::new();
        for (lane, answer) in lanes.iter().zip(self.link.pipeline(&who).await?) {
            for id in array(told(answer)?)? {
                let id = text(id)?;
                for rank in 0..4 {
                    let key = self.keys.key(Tag::Lane(*lane), &format!("{}{id}:{rank}", keys::WORK));
                    lengths.cmd("XLEN").arg(key);
                }
            }
        }
        let mut queued = 0;
        for answer in self.link.pipeline(&lengths).await? {
            queued += number(&told(answer)?)?;
        }
        Ok(queued)
    }

    /// When the oldest message that history still has was accepted, by Redis's clock.
    pub async fn oldest_retained(&self) -> Result<Option<u64>, StoreError> {
        let newest = StreamId { ms: u64::MAX, seq: u64::MAX };
        let mut oldest = None;
        for partition in 0..self.layout.partitions {
            for entry in self.history(partition, StreamId::ZERO, newest, 1).await? {
                oldest = Some(oldest.unwrap_or(u64::MAX).min(entry.accepted_ms));
            }
        }
        Ok(oldest)
    }
}

/// An answer; nothing where a key is of another type, which must not keep the rest from being told.
fn told(answer: Value) -> Result<Value, StoreError> {
    match checked(answer) {
        Err(error) if !error.is_transient() => Ok(Value::Nil),
        answer => answer,
    }
}

fn number(value: &Value) -> Result<u64, StoreError> {
    if *value == Value::Nil { Ok(0) } else { count(value) }
}
