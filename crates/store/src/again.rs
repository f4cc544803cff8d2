//! again: messages of history are accepted once more, for named subscriptions. The move of a replay of history.

use postroad_model::message::Message;
use redis::Value;
use sha2::{Digest, Sha256};

use crate::{
    IdKey, Store, StreamId,
    entry::{Accepted, Entry},
    error::StoreError,
    keys::{self, Tag},
    partition::hex,
    reader::read_entries,
    reply::{array, count, short, stream_id, text},
    script::{self, Call},
};

/// Payloads of more bytes are compressed.
const COMPRESS_ABOVE: usize = 16 << 10;

/// A message of history on its way into ingress once more.
#[derive(Debug, Clone)]
pub struct Again {
    /// The id that it first had in its partition's stream.
    pub first: StreamId,
    /// Which part of the job's work on it this is, where it takes several entries: the same work has the same name.
    pub part: String,
    /// The message, with the subscriptions that it goes to as its targets. Its generation is given by the store: one
    /// higher than that of any replay of it before.
    pub message: Message,
}

/// What became of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AcceptedAgain {
    /// Its generation; `None` where this job had added it before.
    pub generation: Option<u32>,
    /// Its id in the partition's stream.
    pub at: StreamId,
}

impl IdKey {
    /// What a job's work on a message is found again by.
    fn of_work(job: &str, again: &Again) -> Self {
        let digest = Sha256::new()
            .chain_update(b"replay\0")
            .chain_update(job)
            .chain_update([0])
            .chain_update(again.first.to_string())
            .chain_update([0])
            .chain_update(&again.part)
            .finalize();
        let number = u32::from_be_bytes([0, digest[29], digest[30], digest[31]]);
        Self { number, field: hex(&digest[..12]) }
    }
}

impl Store {
    /// again: messages of history into the partition that they lie in. `mine` is what [`Store::take_job`] gave the
    /// job's runner: `None` if the job is no longer its to run, and then nothing was added. May be repeated: what the
    /// job has added is not added again as long as ids are remembered (`window_ms`).
    pub async fn accept_again(
        &self,
        partition: u16,
        mine: &str,
        messages: &[Again],
        window_ms: u64,
    ) -> Result<Option<Vec<AcceptedAgain>>, StoreError> {
        let line = self.link.line().await?;
        let mut call = Call::new(&script::AGAIN, &self.keys, Tag::Partition(partition));
        call.arg(window_ms).arg(line.run_id()).arg(mine);
        let job = mine.split('@').next().unwrap_or_default();
        for again in messages {
            let key = IdKey::of_work(job, again);
            let (head, tail) = Entry::encode_unnumbered(&again.message, COMPRESS_ABOVE);
            call.arg(key.number)
                .arg(key.field)
                .arg(again.first.to_string())
                .arg(again.message.targets.len())
                .arg(&head[..])
                .arg(&tail[..]);
        }
        let answer = script::fly_on(&self.link, &line, &[call]).await?.pop().unwrap_or(Ok(Value::Nil))?;
        let mut parts = array(answer)?.into_iter();
        match text(parts.next().unwrap_or_default())?.as_str() {
            "OK" => array(parts.next().unwrap_or_default())?
                .into_iter()
                .map(read)
                .collect::<Result<_, _>>()
                .map(Some),
            "LOST" => Ok(None),
            _ => Err(short("again")),
        }
    }

    /// One entry of ingress, if history still has it.
    pub async fn entry_at(&self, partition: u16, at: StreamId) -> Result<Option<Accepted>, StoreError> {
        let mut command = redis::cmd("XRANGE");
        command
            .arg(self.keys.key(Tag::Partition(partition), keys::INGRESS))
            .arg(at.to_string())
            .arg(at.to_string());
        Ok(read_entries(self.link.command(&command).await?)?.pop())
    }
}

fn read(row: Value) -> Result<AcceptedAgain, StoreError> {
    let mut row = array(row)?.into_iter();
    let generation = count(&row.next().unwrap_or_default())?;
    let at = stream_id(row.next().unwrap_or_default())?;
    Ok(AcceptedAgain { generation: u32::try_from(generation).ok().filter(|generation| *generation > 0), at })
}
