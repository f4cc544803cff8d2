//! Finding a message by its id.

use bytes::Bytes;
use postroad_model::{id::MessageId, message::Message, names::Tenant};
use redis::{Pipeline, Value};

use crate::{
    IdKey, Store, StreamId,
    delayed::milliseconds,
    entry::Entry,
    error::StoreError,
    keys::{self, Tag},
    link::checked,
    partition::ID_DEPTHS,
    reply::{Fields, array, bytes, text},
};

/// A message that was found.
#[derive(Debug, Clone)]
pub struct Found {
    /// What it is found again by.
    pub key: IdKey,
    /// The partition that it was accepted in.
    pub partition: u16,
    /// Its id in the partition's stream; zero while it is not due, and where it was cancelled.
    pub at: StreamId,
    /// When it was published, by Redis's clock; for one that was cancelled, when that was.
    pub accepted_ms: u64,
    /// The message; `None` where the history has let it go.
    pub message: Option<Message>,
    /// Whether a router has been past it.
    pub routed: bool,
    /// When it is due, as long as it waits for that.
    pub due_ms: Option<u64>,
}

impl Found {
    /// Whether it was cancelled before it was due.
    pub fn is_cancelled(&self) -> bool {
        self.at == StreamId::ZERO && self.due_ms.is_none()
    }
}

/// Where the index says that a message lies.
struct Indexed {
    key: IdKey,
    partition: u16,
    at: StreamId,
    accepted_ms: u64,
}

impl Store {
    /// Finds a tenant's messages of an id: one, or one per ordering key. `window_ms` is how long ids are
    /// remembered, `now_ms` Redis's clock or near it.
    pub async fn find_message(
        &self,
        tenant: &Tenant,
        id: &MessageId,
        window_ms: u64,
        now_ms: u64,
    ) -> Result<Vec<Found>, StoreError> {
        let key = IdKey::new(tenant, id, None);
        let age = now_ms / window_ms;
        // A clock that differs a little must not miss the window that Redis is in.
        let ages: Vec<u64> = (age.saturating_sub(2)..=age + 1).collect();
        let indices: Vec<String> = ages
            .iter()
            .flat_map(|age| (0..ID_DEPTHS).map(move |depth| (age, depth)))
            .map(|(age, depth)| format!("{}{age}:{}", keys::IDS, key.slot(depth)))
            .collect();
        let bodies = format!("{}{}", keys::BODIES, key.body_slot());

        let home = self.layout.partition_of_id(tenant, id);
        let name = |partition: u16, name: &str| self.keys.key(Tag::Partition(partition), name);
        let mut exact = Pipeline::new();
        // What waits first: what becomes due between two looks is then found by the second.
        exact.cmd("HGET").arg(name(home, &bodies)).arg(&key.field);
        for index in &indices {
            exact.cmd("HGET").arg(name(home, index)).arg(&key.field);
        }
        let (mut delayed, mut indexed) = (Vec::new(), Vec::new());
        for (at, answer) in self.link.pipeline(&exact).await?.into_iter().enumerate() {
            match checked(answer)? {
                Value::Nil => {}
                body if at == 0 => delayed.push((home, key.clone(), bytes(body)?)),
                value => indexed.extend(place(home, key.clone(), &text(value)?)),
            }
        }
        if indexed.is_empty() && delayed.is_empty() {
            // With an ordering key the id does not tell the partition.
            let mut wide = Pipeline::new();
            let hashes: Vec<&String> = std::iter::once(&bodies).chain(&indices).collect();
            for partition in 0..self.layout.partitions {
                for hash in &hashes {
                    let (pattern, hash) = (format!("{}/*", key.field), name(partition, hash));
                    wide.cmd("HSCAN").arg(hash).arg(0).arg("MATCH").arg(pattern).arg("COUNT").arg(100_000);
                }
            }
            for (at, answer) in self.link.pipeline(&wide).await?.into_iter().enumerate() {
                let partition = u16::try_from(at / hashes.len()).unwrap_or_default();
                let mut pairs =
                    array(array(checked(answer)?)?.into_iter().nth(1).unwrap_or_default())?.into_iter();
                while let (Some(field), Some(value)) = (pairs.next(), pairs.next()) {
                    let key = IdKey { number: key.number, field: text(field)? };
                    if at % hashes.len() == 0 {
                        delayed.push((partition, key, bytes(value)?));
                    } else {
                        indexed.extend(place(partition, key, &text(value)?));
                    }
                }
            }
        }
        indexed.retain(|row| now_ms.saturating_sub(row.accepted_ms) < window_ms);
        let mut found = Vec::with_capacity(indexed.len() + delayed.len());
        for (partition, key, body) in delayed {
            if !indexed.iter().any(|row| row.partition == partition && row.key == key) {
                found.push(self.not_due(partition, key, body).await?);
            }
        }
        for row in indexed {
            found.push(self.found(row).await?);
        }
        Ok(found)
    }

    /// One that waits.
    async fn not_due(&self, partition: u16, key: IdKey, body: Bytes) -> Result<Found, StoreError> {
        let mut command = redis::cmd("ZSCORE");
        command.arg(self.keys.key(Tag::Partition(partition), keys::DELAYED)).arg(key.delayed_member());
        let due_ms = milliseconds(self.link.command(&command).await?).ok();
        let line = body.iter().position(|byte| *byte == b'\n').unwrap_or(0);
        let published = body[..line].split(|byte| *byte == b' ').next().unwrap_or_default();
        let accepted_ms = String::from_utf8_lossy(published).parse().unwrap_or(0);
        let message = Entry { record: body.slice((line + 1).min(body.len())..) }.decode().ok();
        // It may have been moved since it was looked at: then it waited a moment ago, which is an answer too.
        let due_ms = Some(due_ms.unwrap_or(accepted_ms));
        Ok(Found { key, partition, at: StreamId::ZERO, accepted_ms, message, routed: false, due_ms })
    }

    async fn found(&self, row: Indexed) -> Result<Found, StoreError> {
        let Indexed { key, partition, at, accepted_ms } = row;
        let mut found = Found { key, partition, at, accepted_ms, message: None, routed: false, due_ms: None };
        if found.is_cancelled() {
            return Ok(found);
        }
        let mut command = redis::cmd("XRANGE");
        command
            .arg(self.keys.key(Tag::Partition(partition), keys::INGRESS))
            .arg(at.to_string())
            .arg(at.to_string());
        if let Some(entry) = array(self.link.command(&command).await?)?.pop() {
            let mut fields = Fields::read(array(entry)?.pop().unwrap_or_default())?;
            found.message = fields.entry().decode().ok();
            // One that waited was published before it came here.
            found.accepted_ms = fields.take_text("p").parse().unwrap_or(accepted_ms);
        }
        found.routed = self.routed_upto(partition).await? >= at;
        Ok(found)
    }

    /// Up to where a partition is routed.
    pub async fn routed_upto(&self, partition: u16) -> Result<StreamId, StoreError> {
        let mut command = redis::cmd("XINFO");
        command.arg("GROUPS").arg(self.keys.key(Tag::Partition(partition), keys::INGRESS));
        let groups = match self.link.command(&command).await {
            Ok(groups) => array(groups)?,
            Err(StoreError::Refused(_)) => return Ok(StreamId::ZERO),
            Err(error) => return Err(error),
        };
        for group in groups {
            let mut pairs = array(group)?.into_iter();
            while let (Some(name), Some(value)) = (pairs.next(), pairs.next()) {
                if text(name)? == "last-delivered-id" {
                    return crate::reply::stream_id(value);
                }
            }
        }
        Ok(StreamId::ZERO)
    }

    /// How many accepted messages of each partition no router has been past, and how long the oldest of
    /// them has waited, in milliseconds.
    pub async fn unrouted(&self, now_ms: u64) -> Result<Vec<(u64, u64)>, StoreError> {
        let mut rows = Vec::new();
        for partition in 0..self.layout.partitions {
            let upto = self.routed_upto(partition).await?;
            let newest = StreamId { ms: u64::MAX, seq: u64::MAX };
            let oldest = self.history(partition, upto, newest, 1).await?.pop();
            let waited = oldest.as_ref().map_or(0, |entry| now_ms.saturating_sub(entry.accepted_ms));
            let lag = if oldest.is_some() { self.lag(partition).await? } else { 0 };
            rows.push((lag, waited));
        }
        Ok(rows)
    }

    async fn lag(&self, partition: u16) -> Result<u64, StoreError> {
        let mut command = redis::cmd("XINFO");
        command.arg("GROUPS").arg(self.keys.key(Tag::Partition(partition), keys::INGRESS));
        for group in array(self.link.command(&command).await?)? {
            let mut pairs = array(group)?.into_iter();
            while let (Some(name), Some(value)) = (pairs.next(), pairs.next()) {
                if text(name)? == "lag" && !matches!(value, Value::Nil) {
                    return crate::reply::count(&value);
                }
            }
        }
        // Redis does not know: at least the one that waits.
        Ok(1)
    }
}

fn place(partition: u16, key: IdKey, value: &str) -> Option<Indexed> {
    let (id, at) = value.split_once(' ')?;
    Some(Indexed { key, partition, at: id.parse().ok()?, accepted_ms: at.parse().ok()? })
}
