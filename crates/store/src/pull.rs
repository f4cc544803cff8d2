//! Moves of deliveries by those who pull and acknowledge: pull, outstanding, extend. What they come to is settled
//! as workers do it, in the name of whoever holds the delivery.

use std::time::{Duration, Instant};

use postroad_model::{
    id::{MessageId, SubscriptionId},
    names::{ChannelName, Tenant},
    time::millis,
};
use redis::Value;

use crate::{
    Lease, Store, StreamId,
    delivery::due,
    enqueue::read_dead,
    error::StoreError,
    keys::{self, Tag},
    lease::read_lease,
    reply::{array, int, short, stream_id, text},
    script::{self, Call},
    signals::Receiver,
    trace::{Lies, Trace},
};

/// The consumer that holds what awaits its acknowledgment.
pub const AWAITING: &str = "ack";

/// What a pull brought.
#[derive(Debug)]
pub struct Pulled {
    /// The subscription's status in its lane; empty where the lane does not know it.
    pub status: String,
    /// The deliveries.
    pub leases: Vec<Lease>,
    /// When a rate allows more, where one limits now.
    pub wait: Option<Duration>,
    /// Whose messages had expired, and of which channels.
    pub dead: Vec<(Tenant, ChannelName)>,
}

/// A delivery as an acknowledgment finds it.
#[derive(Debug)]
pub struct Outstanding {
    /// What happened to the message in this lane, and where this delivery lies.
    pub trace: Trace,
    /// Where it lies.
    pub lies: Lies,
    /// The delivery, and whose name it is held in; `None` where it is in no queue any more.
    pub held: Option<(Lease, String)>,
}

impl Store {
    /// pull: at most so many deliveries of a subscription; each is to be acknowledged within `ack_timeout`.
    pub async fn pull(
        &self,
        id: &SubscriptionId,
        most: usize,
        most_bytes: usize,
        ack_timeout: Duration,
        trace_ms: u64,
    ) -> Result<Pulled, StoreError> {
        let since = Instant::now();
        let lane = self.layout.lane_of(id);
        let mut call = Call::new(&script::PULL, &self.keys, Tag::Lane(lane));
        call.arg(id.as_str()).arg(most).arg(most_bytes).arg(millis(ack_timeout)).arg(trace_ms);
        let mut parts = array(script::call(&self.link, call).await?)?.into_iter();
        let mut next = || parts.next().ok_or_else(|| short("pull"));
        let status = text(next()?)?;
        let change = stream_id(next()?)?;
        let leases = array(next()?)?
            .into_iter()
            .map(|row| read_lease(lane, since, id.clone(), change, row))
            .collect::<Result<_, _>>()?;
        Ok(Pulled { status, leases, wait: due(int(&next()?)?), dead: read_dead(next()?)? })
    }

    /// Where one hears that there may be something to pull of a subscription.
    pub async fn pull_signal(&self, id: &SubscriptionId) -> Result<Receiver, StoreError> {
        let lane = Tag::Lane(self.layout.lane_of(id));
        self.signals().subscribe(lane, &format!("{}{id}", keys::PULL)).await
    }

    /// outstanding: deliveries of messages, each by where its message was accepted (none: it has no history), to
    /// one subscription, in the order asked for. `None` where the lane does not know the subscription.
    pub async fn outstanding(
        &self,
        id: &SubscriptionId,
        messages: &[(Option<(u16, StreamId)>, MessageId)],
    ) -> Result<Option<Vec<Outstanding>>, StoreError> {
        /// What has no history is looked for among so many.
        const SEARCHED: usize = 2_000;
        const SEARCHED_BYTES: usize = 16 << 20;
        let since = Instant::now();
        let lane = self.layout.lane_of(id);
        let mut call = Call::new(&script::OUTSTANDING, &self.keys, Tag::Lane(lane));
        call.arg(id.as_str()).arg(SEARCHED).arg(SEARCHED_BYTES);
        for (accepted, message) in messages {
            let reference = accepted.map(|(partition, at)| format!("{partition}:{at}")).unwrap_or_default();
            call.arg(reference).arg(message.as_str());
        }
        let mut parts = array(script::call(&self.link, call).await?)?.into_iter();
        let mut next = || parts.next().ok_or_else(|| short("outstanding"));
        let status = text(next()?)?;
        if status.is_empty() || status == "cancelled" {
            return Ok(None);
        }
        let change = stream_id(next()?)?;
        let rows = array(next()?)?;
        rows.into_iter()
            .map(|row| read_outstanding(lane, since, id, change, row))
            .collect::<Result<_, _>>()
            .map(Some)
    }

    /// extend: so much more time, from now, to acknowledge deliveries. `false` for those that do not await it.
    pub async fn extend(
        &self,
        id: &SubscriptionId,
        by: Duration,
        deliveries: &[(u8, StreamId)],
    ) -> Result<Vec<bool>, StoreError> {
        let mut call = Call::new(&script::EXTEND, &self.keys, Tag::Lane(self.layout.lane_of(id)));
        call.arg(id.as_str()).arg(millis(by));
        for (rank, entry) in deliveries {
            call.arg(*rank).arg(entry.to_string());
        }
        array(script::call(&self.link, call).await?)?.iter().map(|reply| Ok(int(reply)? == 1)).collect()
    }
}

fn read_outstanding(
    lane: u16,
    since: Instant,
    id: &SubscriptionId,
    change: StreamId,
    row: Value,
) -> Result<Outstanding, StoreError> {
    let mut row = array(row)?;
    if row.len() < 7 {
        return Err(short("outstanding"));
    }
    let place = text(row.remove(1))?;
    let trace = Trace { lines: Trace::read_lines(&text(row.remove(0))?), located: Vec::new() };
    let lies = match place.as_str() {
        "gone" => Lies::Gone,
        "waiting" | "again" | "held" => Lies::Waiting,
        AWAITING => Lies::AwaitingAck(0),
        "later" => Lies::Scheduled(0),
        _ => Lies::InFlight(place.clone()),
    };
    let held = match lies {
        Lies::Gone => None,
        _ => Some((read_lease(lane, since, id.clone(), change, Value::Array(row))?, place)),
    };
    Ok(Outstanding { trace, lies, held })
}
