//! Finding a message by its id.

use postroad_model::{id::MessageId, message::Message, names::Tenant};
use redis::{Pipeline, Value};

use crate::{
    IdKey, Store, StreamId,
    entry::Accepted,
    error::StoreError,
    keys::{self, Tag},
    link::checked,
    partition::ID_DEPTHS,
    reply::{array, text},
};

/// A message that was found.
#[derive(Debug, Clone)]
pub struct Found {
    /// The partition that it was accepted in.
    pub partition: u16,
    /// Its id in the partition's stream.
    pub at: StreamId,
    /// When it was accepted, by Redis's clock.
    pub accepted_ms: u64,
    /// The message; `None` where the history has let it go.
    pub message: Option<Message>,
    /// Whether a router has been past it.
    pub routed: bool,
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

        let home = self.layout.partition_of_id(tenant, id);
        let mut exact = Pipeline::new();
        for index in &indices {
            exact.cmd("HGET").arg(self.keys.key(Tag::Partition(home), index)).arg(&key.field);
        }
        let mut places = Vec::new();
        for answer in self.link.pipeline(&exact).await? {
            places.extend(place(home, &text(checked(answer)?)?));
        }
        if places.is_empty() {
            // With an ordering key the id does not tell the partition.
            let mut wide = Pipeline::new();
            for partition in 0..self.layout.partitions {
                for index in &indices {
                    let pattern = format!("{}/*", key.field);
                    let index = self.keys.key(Tag::Partition(partition), index);
                    wide.cmd("HSCAN").arg(index).arg(0).arg("MATCH").arg(pattern).arg("COUNT").arg(100_000);
                }
            }
            for (at, answer) in self.link.pipeline(&wide).await?.into_iter().enumerate() {
                let partition = u16::try_from(at / indices.len()).unwrap_or_default();
                let pairs = array(array(checked(answer)?)?.into_iter().nth(1).unwrap_or_default())?;
                for value in pairs.into_iter().skip(1).step_by(2) {
                    places.extend(place(partition, &text(value)?));
                }
            }
        }
        let mut found = Vec::with_capacity(places.len());
        for (partition, at, accepted_ms) in places {
            if now_ms.saturating_sub(accepted_ms) < window_ms {
                found.push(self.found(partition, at, accepted_ms).await?);
            }
        }
        Ok(found)
    }

    async fn found(&self, partition: u16, at: StreamId, accepted_ms: u64) -> Result<Found, StoreError> {
        let before =
            at.seq.checked_sub(1).map_or(StreamId { ms: at.ms.saturating_sub(1), seq: u64::MAX }, |seq| {
                StreamId { ms: at.ms, seq }
            });
        let message = match self.history(partition, before, at, 1).await?.pop() {
            Some(Accepted { entry, .. }) => entry.decode().ok(),
            None => None,
        };
        Ok(Found { partition, at, accepted_ms, message, routed: self.routed_upto(partition).await? >= at })
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

fn place(partition: u16, value: &str) -> Option<(u16, StreamId, u64)> {
    let (id, at) = value.split_once(' ')?;
    Some((partition, id.parse().ok()?, at.parse().ok()?))
}
