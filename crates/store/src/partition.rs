//! Moves of a partition: accept, claim, release, routed, trim.

use postroad_model::{
    id::MessageId,
    message::Message,
    names::{ChannelName, OrderingKey, Tenant},
};
use redis::Value;
use sha2::{Digest, Sha256};

use crate::{
    Store, StreamId,
    delayed::{Due, milliseconds},
    entry::Entry,
    error::StoreError,
    keys::Tag,
    reply::{array, bytes, count, int, odd, stream_id, text},
    script::{self, Call},
};

/// How deep a window of the id index may go: 1,024 small hashes, and eight times as many at each depth.
pub(crate) const ID_DEPTHS: u32 = 5;

/// What an id is found again by: tenant and id, and channel and ordering key where there is one, since ids
/// are unique within those.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdKey {
    /// A number from the digest: which of the index's small hashes.
    pub number: u32,
    /// The field in it.
    pub field: String,
}

impl IdKey {
    /// Digests a tenant and an id.
    pub fn new(tenant: &Tenant, id: &MessageId, line: Option<(&ChannelName, &OrderingKey)>) -> Self {
        let digest = Sha256::new()
            .chain_update(tenant.as_str())
            .chain_update([0])
            .chain_update(id.as_str())
            .finalize();
        let mut field = hex(&digest[..12]);
        if let Some((channel, key)) = line {
            field.push('/');
            field.push_str(&Self::line(channel, key));
        }
        Self { number: u32::from_be_bytes([0, digest[29], digest[30], digest[31]]), field }
    }

    /// A short name of a channel's ordering key.
    pub(crate) fn line(channel: &ChannelName, key: &OrderingKey) -> String {
        let digest = Sha256::new()
            .chain_update(channel.as_str())
            .chain_update([0])
            .chain_update(key.as_str())
            .finalize();
        hex(&digest[..8])
    }

    /// The hash in which it lies while it is not due, as the scripts name it.
    pub(crate) fn body_slot(&self) -> u32 {
        self.number % 1_024
    }

    /// What it is called among those that are not due.
    pub(crate) fn delayed_member(&self) -> String {
        format!("{}:{}", self.number, self.field)
    }

    /// The small hash at a depth, as the scripts name it.
    pub(crate) fn slot(&self, depth: u32) -> String {
        format!("{depth}:{}", self.number % (1_024 * 8_u32.pow(depth)))
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// One message on its way into a partition.
#[derive(Debug, Clone)]
pub struct Acceptance {
    /// What it is found again by.
    pub id: IdKey,
    /// Keep the id: for whoever repeats it, and for whoever asks for the message.
    pub remember: bool,
    /// The id may have been used before (its publisher chose it).
    pub check: bool,
    /// `<tenant>/<channel>`.
    pub channel: String,
    /// Bytes of the payload as it was published: for whoever counts.
    pub payload_bytes: usize,
    /// The entry.
    pub entry: Entry,
    /// When it is due, if not at once: then it is [`Store::delay`]'s, and its id is kept in any case.
    pub due: Option<Due>,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq)]
pub enum Accepted {
    /// It is stored.
    Stored {
        /// Its id in the partition's stream.
        at: StreamId,
        /// When, by Redis's clock, in milliseconds.
        accepted_ms: u64,
    },
    /// It is stored, and waits to become due.
    Delayed {
        /// When it is due, by Redis's clock, in milliseconds.
        due_ms: u64,
        /// When it was published, by Redis's clock, in milliseconds.
        accepted_ms: u64,
    },
    /// It is not stored: as much as may waits in its partition to become due.
    NoRoom,
    /// The id was there before; nothing was stored.
    Duplicate {
        /// The first one's id in the partition's stream; zero where that is not there yet, or was cancelled.
        at: StreamId,
        /// When the first one was accepted.
        accepted_ms: u64,
        /// The first one; `None` where the history has let it go.
        first: Option<Box<Message>>,
        /// When the first one is due, if it waits.
        due_ms: Option<u64>,
    },
}

/// What a router learns when it asks for a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claimed {
    /// It holds the partition still.
    Kept,
    /// It holds the partition now.
    New {
        /// The number of this ownership.
        epoch: u64,
        /// Everything up to here is in its queues.
        routed: StreamId,
        /// Per lane the highest id that was sent there.
        sent: Vec<(u16, StreamId)>,
    },
    /// Another holds it.
    Other {
        /// Its name; empty where nobody does.
        owner: String,
        /// Milliseconds since it was renewed.
        age_ms: i64,
    },
}

/// A wish to hold a partition.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The partition.
    pub partition: u16,
    /// The ownership held, if any.
    pub epoch: Option<u64>,
    /// Take it over if it is free.
    pub take: bool,
}

impl Store {
    /// accept: a flight of messages, by partition, due at once. Each partition's are stored together or not at
    /// all. `window_ms` is how long ids are remembered.
    pub async fn accept(
        &self,
        flight: &[(u16, Vec<Acceptance>)],
        window_ms: u64,
    ) -> Result<Vec<Result<Vec<Accepted>, StoreError>>, StoreError> {
        let line = self.link.line().await?;
        let calls: Vec<Call> = flight
            .iter()
            .map(|(partition, messages)| {
                let mut call = Call::new(&script::ACCEPT, &self.keys, Tag::Partition(*partition));
                call.arg(window_ms).arg(line.run_id());
                for message in messages {
                    call.arg(message.id.number)
                        .arg(&message.id.field)
                        .arg(u8::from(message.remember))
                        .arg(u8::from(message.check))
                        .arg(&message.channel)
                        .arg(&message.entry.record[..]);
                }
                call
            })
            .collect();
        let answers = script::fly_on(&self.link, &line, &calls).await?;
        Ok(answers
            .into_iter()
            .map(|answer| array(answer?)?.into_iter().map(read_accepted).collect())
            .collect())
    }

    /// claim: takes or renews partitions.
    pub async fn claim(
        &self,
        me: &str,
        lease_ms: u64,
        claims: &[Claim],
    ) -> Result<Vec<Result<Claimed, StoreError>>, StoreError> {
        let calls: Vec<Call> = claims
            .iter()
            .map(|claim| {
                let mut call = Call::new(&script::CLAIM, &self.keys, Tag::Partition(claim.partition));
                let epoch = claim.epoch.map_or_else(String::new, |epoch| epoch.to_string());
                call.arg(me).arg(lease_ms).arg(u8::from(claim.take)).arg(epoch);
                call
            })
            .collect();
        let answers = script::fly(&self.link, &calls).await?;
        Ok(answers.into_iter().map(|answer| read_claimed(answer?, self.layout.lanes)).collect())
    }

    /// release: gives a partition up.
    pub async fn release(&self, me: &str, partition: u16, epoch: u64) -> Result<bool, StoreError> {
        let mut call = Call::new(&script::RELEASE, &self.keys, Tag::Partition(partition));
        call.arg(me).arg(epoch);
        Ok(int(&script::call(&self.link, call).await?)? == 1)
    }

    /// routed: remembers how far partitions are routed. `false` for those that are no longer mine.
    pub async fn routed(
        &self,
        me: &str,
        routed: &[Routed],
    ) -> Result<Vec<Result<bool, StoreError>>, StoreError> {
        let calls: Vec<Call> = routed
            .iter()
            .map(|row| {
                let mut call = Call::new(&script::ROUTED, &self.keys, Tag::Partition(row.partition));
                call.arg(me).arg(row.epoch).arg(row.upto.to_string());
                for (lane, id) in &row.sent {
                    call.arg(*lane).arg(id.to_string());
                }
                call
            })
            .collect();
        let answers = script::fly(&self.link, &calls).await?;
        Ok(answers.into_iter().map(|answer| Ok(int(&answer?)? == 1)).collect())
    }

    /// trim: lets go of history older than `keep_ms` that lies below `upto`, at most about [`TRIM_MOST`] entries.
    /// How many went;
    /// `None` if the partition is no longer mine.
    pub async fn trim(
        &self,
        me: &str,
        partition: u16,
        epoch: u64,
        upto: StreamId,
        keep_ms: u64,
    ) -> Result<Option<u64>, StoreError> {
        let mut call = Call::new(&script::TRIM, &self.keys, Tag::Partition(partition));
        call.arg(me).arg(epoch).arg(upto.to_string()).arg(keep_ms).arg(TRIM_MOST);
        Ok(u64::try_from(int(&script::call(&self.link, call).await?)?).ok())
    }
}

/// The most entries of history that one call lets go; as many say that there may be more.
pub const TRIM_MOST: u64 = 10_000;

/// How far a partition is routed.
#[derive(Debug, Clone)]
pub struct Routed {
    /// The partition.
    pub partition: u16,
    /// The ownership under which it was routed.
    pub epoch: u64,
    /// Everything up to here is in its queues.
    pub upto: StreamId,
    /// Lanes that got something since last time, and the highest id that each got.
    pub sent: Vec<(u16, StreamId)>,
}

fn read_accepted(value: Value) -> Result<Accepted, StoreError> {
    let mut row = array(value)?.into_iter();
    let mut next = || row.next().unwrap_or(Value::Nil);
    Ok(match int(&next())? {
        1 => Accepted::Stored { at: stream_id(next())?, accepted_ms: count(&next())? },
        _ => read_duplicate(next)?,
    })
}

/// What follows the 0 of a row about an id that was used before.
pub(crate) fn read_duplicate(mut next: impl FnMut() -> Value) -> Result<Accepted, StoreError> {
    let at = stream_id(next())?;
    let accepted_ms = count(&next())?;
    let record = bytes(next())?;
    let due_ms = milliseconds(next()).ok();
    Ok(Accepted::Duplicate { at, accepted_ms, first: Entry { record }.decode().ok().map(Box::new), due_ms })
}

fn read_claimed(value: Value, lanes: u16) -> Result<Claimed, StoreError> {
    let shown = value.clone();
    let mut row = array(value)?.into_iter();
    let mut next = || row.next().unwrap_or(Value::Nil);
    match int(&next())? {
        1 => Ok(Claimed::Kept),
        2 => {
            let epoch = count(&next())?;
            let routed = stream_id(next())?;
            let mut sent = Vec::new();
            let mut pairs = array(next())?.into_iter();
            while let (Some(lane), Some(id)) = (pairs.next(), pairs.next()) {
                // What was put there by hand tells of no lane: it must not keep the partition from its owner.
                let lane = text(lane)?.parse().ok().filter(|lane| *lane < lanes);
                if let (Some(lane), Ok(id)) = (lane, stream_id(id)) {
                    sent.push((lane, id));
                }
            }
            Ok(Claimed::New { epoch, routed, sent })
        }
        0 => Ok(Claimed::Other { owner: text(next())?, age_ms: int(&next())? }),
        _ => Err(odd("claim", &shown)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_by_tenant_id_and_line() {
        let id = MessageId::new("order-1").unwrap();
        let (a, b) = (Tenant::new("a").unwrap(), Tenant::new("b").unwrap());
        let plain = IdKey::new(&a, &id, None);
        assert_eq!(plain, IdKey::new(&a, &id, None));
        assert_ne!(plain, IdKey::new(&b, &id, None));
        let channel = ChannelName::new("orders").unwrap();
        let key = OrderingKey::new("k").unwrap();
        let keyed = IdKey::new(&a, &id, Some((&channel, &key)));
        assert_eq!(keyed.number, plain.number);
        assert!(plain.slot(0).starts_with("0:") && plain.slot(4).starts_with("4:"));
        assert!(keyed.field.starts_with(&format!("{}/", plain.field)));
    }
}
