//! enqueue: entries into the work queues of a lane, as links of their partitions' chains.

use postroad_model::{
    id::SubscriptionId,
    names::{ChannelName, OrderingKey, Tenant},
};
use redis::{Pipeline, Value};

use crate::{
    IdKey, Store, StreamId,
    entry::{Accepted, Entry},
    error::StoreError,
    keys::{self, Tag},
    link::checked,
    reply::{array, bytes, short, stream_id, text},
    script::{self, Call},
};

/// The next link of one partition's chain in one lane.
#[derive(Debug, Clone)]
pub struct Link<'a> {
    /// The partition.
    pub partition: u16,
    /// The last id that was sent from it to this lane.
    pub prev: StreamId,
    /// The last id of this link: of its last entry, or of the last entry considered for this lane.
    pub last: StreamId,
    /// The entries, by rising id, all above `prev`.
    pub entries: Vec<Placed<'a>>,
}

/// One entry for subscriptions of one lane.
#[derive(Debug, Clone)]
pub struct Placed<'a> {
    /// The entry as it was accepted.
    pub accepted: &'a Accepted,
    /// Whether the message keeps a history (`persistent`).
    pub keep: bool,
    /// The rank of its priority; an ordered subscription knows none.
    pub rank: u8,
    /// When it expires, by Redis's clock in milliseconds.
    pub expires_ms: Option<u64>,
    /// What its order is kept by; see [`line_of`].
    pub line: Option<String>,
    /// The most that may wait in a queue before its oldest goes (`x-max-length` with `drop-head`).
    pub max_length: Option<u64>,
    /// The subscriptions that it goes to.
    pub to: Vec<SubscriptionId>,
}

/// What became of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Linked {
    /// The entries are queued.
    Ok,
    /// They were before.
    Duplicate,
    /// The lane has not got everything before this link: send again what lies behind the mark.
    Gap(StreamId),
}

/// A lane's answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Enqueued {
    /// Per link, in order.
    pub links: Vec<Linked>,
    /// Subscriptions whose settings the lane lacks.
    pub unknown: Vec<String>,
    /// Queues that Redis refused (a key of another type lies there).
    pub broken: Vec<String>,
    /// Whose messages went to dead letters, and of which channels.
    pub dead: Vec<(Tenant, ChannelName)>,
}

impl Store {
    /// enqueue: links for several lanes in one flight. `trace_ms` is how long traces are kept.
    pub async fn enqueue(
        &self,
        lanes: &[(u16, Vec<Link<'_>>)],
        trace_ms: u64,
    ) -> Result<Vec<Result<Enqueued, StoreError>>, StoreError> {
        let calls: Vec<Call> = lanes
            .iter()
            .map(|(lane, links)| {
                let mut call = Call::new(&script::ENQUEUE, &self.keys, Tag::Lane(*lane));
                call.arg(trace_ms);
                for link in links {
                    write_link(&mut call, link);
                }
                call
            })
            .collect();
        let answers = script::fly(&self.link, &calls).await?;
        Ok(answers.into_iter().map(|answer| read(answer?)).collect())
    }
}

impl Store {
    /// How far lanes have taken partitions, in the order asked for; zero where nothing was. Also while Redis
    /// is full.
    pub async fn marks(
        &self,
        lanes: &[(u16, Vec<u16>)],
    ) -> Result<Vec<Result<Vec<StreamId>, StoreError>>, StoreError> {
        let mut pipeline = Pipeline::with_capacity(lanes.len());
        for (lane, partitions) in lanes {
            pipeline.cmd("HMGET").arg(self.keys.key(Tag::Lane(*lane), keys::MARKS)).arg(partitions);
        }
        let answers = self.link.pipeline(&pipeline).await?;
        let mark = |value| match value {
            Value::Nil => Ok(StreamId::ZERO),
            value => stream_id(value),
        };
        Ok(answers
            .into_iter()
            .map(|answer| array(checked(answer)?)?.into_iter().map(mark).collect())
            .collect())
    }
}

/// A short name of a channel's ordering key: messages of one keep their order.
pub fn line_of(channel: &ChannelName, key: &OrderingKey) -> String {
    IdKey::line(channel, key)
}

/// What is said of an entry beside its text: most have nothing but their history.
fn terms(placed: &Placed<'_>) -> String {
    use std::fmt::Write;
    let mut text = if placed.keep { "1" } else { "0" }.to_owned();
    // Writing to a string does not fail.
    if let Some(first) = placed.accepted.first.filter(|_| placed.keep) {
        let _ = write!(text, " h={first}");
    }
    if let Some(at) = placed.expires_ms {
        let _ = write!(text, " x={at}");
    }
    if let Some(line) = &placed.line {
        let _ = write!(text, " k={line}");
    }
    if let Some(most) = placed.max_length {
        let _ = write!(text, " n={most}");
    }
    text
}

fn write_link(call: &mut Call, link: &Link<'_>) {
    call.arg(link.partition).arg(link.prev.to_string()).arg(link.last.to_string()).arg(link.entries.len());
    for placed in &link.entries {
        let accepted = placed.accepted;
        call.arg(accepted.id.to_string())
            .arg(&accepted.entry.record[..])
            .arg(accepted.accepted_ms)
            .arg(terms(placed))
            .arg(placed.to.len());
        for subscription in &placed.to {
            call.arg(subscription.as_str()).arg(placed.rank);
        }
    }
}

fn read(value: Value) -> Result<Enqueued, StoreError> {
    let mut parts = array(value)?.into_iter();
    let (Some(links), Some(unknown), Some(broken), Some(dead)) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(short("enqueue"));
    };
    let links = array(links)?
        .into_iter()
        .map(|link| {
            Ok(match text(link)?.as_str() {
                "OK" => Linked::Ok,
                "DUP" => Linked::Duplicate,
                mark => Linked::Gap(mark.parse().map_err(StoreError::Reply)?),
            })
        })
        .collect::<Result<_, StoreError>>()?;
    let texts = |value| array(value)?.into_iter().map(text).collect::<Result<Vec<_>, _>>();
    Ok(Enqueued { links, unknown: texts(unknown)?, broken: texts(broken)?, dead: read_dead(dead)? })
}

/// Whose messages they are, and of which channels; what cannot be read is of none.
pub(crate) fn read_dead(heads: Value) -> Result<Vec<(Tenant, ChannelName)>, StoreError> {
    let heads = array(heads)?.into_iter().map(bytes).collect::<Result<Vec<_>, _>>()?;
    Ok(heads.iter().filter_map(Entry::channel_of).collect())
}
