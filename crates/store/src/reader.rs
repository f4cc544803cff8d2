//! Waiting, without taking anything.
//!
//! Both readers use plain `XREAD` on a connection of their own. `XREAD` changes nothing in Redis, so a
//! reader that is frozen, cut off or late takes nothing away from anybody (decision 3).

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use redis::Value;

use crate::{
    Store, StreamId,
    entry::Accepted,
    error::StoreError,
    keys::{self, Tag},
    link::Blocking,
    reply::{Fields, array, stream_id, text},
};

/// New entries of some partitions.
pub struct IngressReader {
    connection: Blocking,
}

/// What was read of one partition.
#[derive(Debug)]
pub struct NewEntries {
    /// The partition.
    pub partition: u16,
    /// By rising id.
    pub entries: Vec<Accepted>,
}

impl Store {
    /// A reader for [`IngressReader::read`]. After an error it must be dropped.
    pub async fn ingress_reader(&self) -> Result<IngressReader, StoreError> {
        Ok(IngressReader { connection: self.link.blocking().await? })
    }

    /// A reader for [`ReadyReader::wait`]. After an error it must be dropped.
    pub async fn ready_reader(&self) -> Result<ReadyReader, StoreError> {
        let streams =
            (0..self.layout.lanes).map(|lane| self.keys.key(Tag::Lane(lane), keys::READY)).collect();
        Ok(ReadyReader { connection: self.link.blocking().await?, streams })
    }

    /// Entries of a partition in `(after, upto]`, at most `most`.
    pub async fn history(
        &self,
        partition: u16,
        after: StreamId,
        upto: StreamId,
        most: usize,
    ) -> Result<Vec<Accepted>, StoreError> {
        let mut command = redis::cmd("XRANGE");
        command
            .arg(self.keys.key(Tag::Partition(partition), keys::INGRESS))
            .arg(format!("({after}"))
            .arg(upto.to_string())
            .arg("COUNT")
            .arg(most);
        read_entries(self.link.command(&command).await?)
    }

    /// Puts aside an entry of ingress that nobody could decode, with its bytes.
    pub async fn quarantine(&self, partition: u16, entry: &Accepted, reason: &str) -> Result<(), StoreError> {
        const MOST: usize = 100_000;
        let mut command = redis::cmd("XADD");
        // Under the id that it had: who takes the partition over may meet it once more.
        command
            .arg(self.keys.key(Tag::Partition(partition), keys::QUARANTINE))
            .arg("MAXLEN")
            .arg("~")
            .arg(MOST)
            .arg(entry.id.to_string())
            .arg("reason")
            .arg(reason)
            .arg("ref")
            .arg(format!("{partition}:{}", entry.id))
            .arg("m")
            .arg(&entry.entry.record[..])
            .arg("t")
            .arg(entry.accepted_ms);
        match self.link.command(&command).await {
            Err(StoreError::Refused(reason)) if reason.contains("equal or smaller") => Ok(()),
            result => result.map(drop),
        }
    }
}

impl IngressReader {
    /// Waits at most `block` for entries behind the given positions; at most `most` per partition. Empty
    /// when none came.
    pub async fn read(
        &mut self,
        store: &Store,
        positions: &[(u16, StreamId)],
        most: usize,
        block: Duration,
    ) -> Result<Vec<NewEntries>, StoreError> {
        let streams: Vec<String> = positions
            .iter()
            .map(|(partition, _)| store.keys.key(Tag::Partition(*partition), keys::INGRESS))
            .collect();
        let mut command = redis::cmd("XREAD");
        command.arg("COUNT").arg(most).arg("BLOCK").arg(block.as_millis().max(1).to_string()).arg("STREAMS");
        command.arg(&streams);
        for (_, after) in positions {
            command.arg(after.to_string());
        }
        let mut found = Vec::new();
        for row in array(self.connection.command(&command, block).await?)? {
            let mut row = array(row)?.into_iter();
            let stream = text(row.next().unwrap_or_default())?;
            let entries = read_entries(row.next().unwrap_or_default())?;
            if let Some(at) = streams.iter().position(|known| *known == stream) {
                found.push(NewEntries { partition: positions[at].0, entries });
            }
        }
        Ok(found)
    }
}

pub(crate) fn read_entries(value: Value) -> Result<Vec<Accepted>, StoreError> {
    array(value)?
        .into_iter()
        .map(|row| {
            let mut row = array(row)?.into_iter();
            let id = stream_id(row.next().unwrap_or_default())?;
            let mut fields = Fields::read(row.next().unwrap_or_default())?;
            let mut entry = fields.entry();
            let accepted_ms = fields.take_number("t");
            let first = fields.take_text("o").parse().ok();
            if entry.record.is_empty() {
                // Whatever lies here, keep its bytes for whoever will look at it.
                entry.record = flatten(fields);
            }
            Ok(Accepted { id, accepted_ms, entry, first })
        })
        .collect()
}

fn flatten(fields: Fields) -> Bytes {
    let mut all = Vec::new();
    for (name, content) in fields.raw() {
        all.extend_from_slice(&name);
        all.push(b'=');
        all.extend_from_slice(&content);
        all.push(b'\n');
    }
    all.into()
}

/// Ready tokens of all lanes.
pub struct ReadyReader {
    connection: Blocking,
    streams: Vec<String>,
}

impl ReadyReader {
    /// Waits at most `block` for a token in any lane, behind `from` where a lane has an entry there;
    /// [`StreamId::LAST`] leaves a lane out. The lanes that have one; empty when none came. A token that lies
    /// there already counts.
    pub async fn wait(
        &mut self,
        store: &Store,
        from: &HashMap<u16, StreamId>,
        block: Duration,
    ) -> Result<Vec<u16>, StoreError> {
        let behind = |lane| from.get(&lane).copied().unwrap_or_default();
        // A stream that is none would fail the whole command.
        let lanes: Vec<u16> =
            (0..store.layout().lanes).filter(|lane| behind(*lane) != StreamId::LAST).collect();
        if lanes.is_empty() {
            tokio::time::sleep(block).await;
            return Ok(Vec::new());
        }
        let mut command = redis::cmd("XREAD");
        command.arg("COUNT").arg(1).arg("BLOCK").arg(block.as_millis().max(1).to_string()).arg("STREAMS");
        for lane in &lanes {
            command.arg(&self.streams[usize::from(*lane)]);
        }
        for lane in &lanes {
            command.arg(behind(*lane).to_string());
        }
        let mut found = Vec::new();
        for row in array(self.connection.command(&command, block).await?)? {
            let stream = text(array(row)?.into_iter().next().unwrap_or_default())?;
            if let Some(lane) = self.streams.iter().position(|known| *known == stream) {
                found.push(u16::try_from(lane).unwrap_or_default());
            }
        }
        Ok(found)
    }
}
