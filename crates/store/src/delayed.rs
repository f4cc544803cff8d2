//! Messages that are not due yet. They wait in their partition, beside ingress, and enter it when their time has
//! come: only then are they matched, and until then they can be cancelled.
//!
//! Moves: delay (in), due (on), cancel (out).

use redis::{Pipeline, Value};

use crate::{
    Acceptance, Accepted, IdKey, Store,
    error::StoreError,
    keys::{self, Tag},
    link::checked,
    partition::read_duplicate,
    reply::{array, count, int, odd, stream_id, text},
    script::{self, Call},
};

/// About the most bytes that one call of due moves.
const DUE_BYTES: usize = 4 << 20;

/// When a message is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// At a time, in milliseconds since 1970.
    At(u64),
    /// So many milliseconds after it is stored, by Redis's clock.
    After(u64),
}

/// How much may wait in one partition to become due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DelayLimits {
    /// Messages.
    pub messages: u64,
    /// Bytes of their headers and payloads.
    pub bytes: u64,
}

impl Default for DelayLimits {
    fn default() -> Self {
        Self { messages: 1_000_000, bytes: 128 << 20 }
    }
}

/// What waits in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Waiting {
    /// Messages.
    pub messages: u64,
    /// When the first of them is due, by Redis's clock.
    pub first_due_ms: Option<u64>,
}

/// What became of messages that were due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MovedDue {
    /// Those that entered ingress.
    pub moved: u64,
    /// Those that were due as well and are left.
    pub left: u64,
}

/// What became of a cancellation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelled {
    /// It is cancelled.
    Now {
        /// When, by Redis's clock.
        at_ms: u64,
        /// When it would have been due.
        due_ms: Option<u64>,
    },
    /// It was cancelled before.
    Before {
        /// When, by Redis's clock.
        at_ms: u64,
    },
    /// It was due already, or never waited.
    Published,
    /// Nobody knows it.
    Unknown,
}

impl Store {
    /// delay: a flight of messages that are to wait, by partition. Those that find room are stored together.
    /// `window_ms` is how long ids are remembered.
    pub async fn delay(
        &self,
        flight: &[(u16, Vec<Acceptance>)],
        window_ms: u64,
        limits: DelayLimits,
    ) -> Result<Vec<Result<Vec<Accepted>, StoreError>>, StoreError> {
        let calls: Vec<Call> = flight
            .iter()
            .map(|(partition, messages)| {
                let mut call = Call::new(&script::DELAY, &self.keys, Tag::Partition(*partition));
                call.arg(window_ms).arg(limits.messages).arg(limits.bytes);
                for message in messages {
                    call.arg(message.id.number)
                        .arg(&message.id.field)
                        .arg(u8::from(message.check))
                        .arg(&message.channel)
                        .arg(match message.due.unwrap_or(Due::After(0)) {
                            Due::At(ms) => ms.to_string(),
                            Due::After(ms) => format!("+{ms}"),
                        })
                        .arg(&message.entry.record[..]);
                }
                call
            })
            .collect();
        let answers = script::fly(&self.link, &calls).await?;
        Ok(answers.into_iter().map(|answer| array(answer?)?.into_iter().map(read).collect()).collect())
    }

    /// What waits in partitions, in the order asked for, and Redis's clock.
    pub async fn delayed(&self, partitions: &[u16]) -> Result<(u64, Vec<Waiting>), StoreError> {
        let mut looks = Pipeline::with_capacity(1 + 2 * partitions.len());
        looks.cmd("TIME");
        for partition in partitions {
            let key = self.keys.key(Tag::Partition(*partition), keys::DELAYED);
            looks.cmd("ZCARD").arg(&key);
            looks.cmd("ZRANGE").arg(&key).arg(0).arg(0).arg("WITHSCORES");
        }
        let mut answers = self.link.pipeline(&looks).await?.into_iter().map(checked);
        let mut next = || answers.next().unwrap_or(Ok(Value::Nil));
        let time = array(next()?)?.iter().map(count).collect::<Result<Vec<_>, _>>()?;
        let [seconds, micros] = time[..] else { return Err(odd("TIME", &Value::Nil)) };
        let waiting = partitions
            .iter()
            .map(|_| {
                let messages = count(&next()?)?;
                let first_due_ms = array(next()?)?.pop().and_then(|score| milliseconds(score).ok());
                Ok(Waiting { messages, first_due_ms })
            })
            .collect::<Result<_, StoreError>>()?;
        Ok((seconds * 1_000 + micros / 1_000, waiting))
    }

    /// due: what is due in partitions enters ingress, at most `most` messages of each. May be repeated, and
    /// called by anybody.
    pub async fn move_due(
        &self,
        partitions: &[u16],
        window_ms: u64,
        most: usize,
    ) -> Result<Vec<Result<MovedDue, StoreError>>, StoreError> {
        let line = self.link.line().await?;
        let calls: Vec<Call> = partitions
            .iter()
            .map(|partition| {
                let mut call = Call::new(&script::DUE, &self.keys, Tag::Partition(*partition));
                call.arg(window_ms).arg(line.run_id()).arg(most).arg(DUE_BYTES);
                call
            })
            .collect();
        let answers = script::fly_on(&self.link, &line, &calls).await?;
        let read = |answer: Result<Value, StoreError>| {
            let mut row = array(answer?)?.into_iter();
            let mut next = || count(&row.next().unwrap_or_default());
            Ok(MovedDue { moved: next()?, left: next()? })
        };
        Ok(answers.into_iter().map(read).collect())
    }

    /// How many messages are overdue by more than `by_ms` in partitions.
    pub async fn overdue(&self, partitions: &[u16], now_ms: u64, by_ms: u64) -> Result<u64, StoreError> {
        let mut counts = Pipeline::with_capacity(partitions.len());
        for partition in partitions {
            let key = self.keys.key(Tag::Partition(*partition), keys::DELAYED);
            counts.cmd("ZCOUNT").arg(key).arg("-inf").arg(now_ms.saturating_sub(by_ms));
        }
        let mut sum = 0;
        for answer in self.link.pipeline(&counts).await? {
            sum += count(&checked(answer)?)?;
        }
        Ok(sum)
    }

    /// cancel: a message that waits is let go. May be repeated: as long as ids are remembered it says the same.
    pub async fn cancel_delayed(
        &self,
        partition: u16,
        id: &IdKey,
        window_ms: u64,
    ) -> Result<Cancelled, StoreError> {
        let mut call = Call::new(&script::CANCEL, &self.keys, Tag::Partition(partition));
        call.arg(window_ms).arg(id.number).arg(&id.field);
        let reply = script::call(&self.link, call).await?;
        let mut row = array(reply)?.into_iter();
        let mut next = || row.next().unwrap_or_default();
        Ok(match int(&next())? {
            1 => Cancelled::Now { at_ms: count(&next())?, due_ms: milliseconds(next()).ok() },
            2 => Cancelled::Before { at_ms: count(&next())? },
            3 => {
                stream_id(next())?;
                Cancelled::Published
            }
            _ => Cancelled::Unknown,
        })
    }
}

fn read(value: Value) -> Result<Accepted, StoreError> {
    let mut row = array(value)?.into_iter();
    let mut next = || row.next().unwrap_or(Value::Nil);
    Ok(match int(&next())? {
        1 => Accepted::Delayed { due_ms: count(&next())?, accepted_ms: count(&next())? },
        2 => Accepted::NoRoom,
        _ => read_duplicate(next)?,
    })
}

/// A score that is a time: Redis writes it as a number that may be long.
pub(crate) fn milliseconds(score: Value) -> Result<u64, StoreError> {
    let written = text(score)?;
    match written.parse::<f64>() {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a time in milliseconds")]
        Ok(ms) if ms >= 0.0 => Ok(ms as u64),
        _ => Err(StoreError::Reply(format!("a due time: {written:?}"))),
    }
}
