//! Moves of a delivery that workers make: take, settle, promote, sweep, disown. What is pulled: see `pull`.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use postroad_model::{
    delivery::{Attempt, Health, Hold, Place, Progress, Verdict},
    id::SubscriptionId,
    names::{ChannelName, Tenant},
    time::millis,
};
use redis::Value;

use crate::{
    Store, StreamId,
    enqueue::read_dead,
    error::StoreError,
    keys::Tag,
    lease::{Lease, read_leases},
    reply::{array, count, int, short, text},
    script::{self, Call},
    trace,
};

/// How much one `take` may hand out.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// Free places at this worker.
    pub free: usize,
    /// Of those, places that any subscription may take; the rest is kept for subscriptions of which this
    /// worker holds nothing.
    pub spare: usize,
    /// The most entries of one subscription at a time.
    pub quantum: usize,
    /// The most bytes of one subscription at a time, by the average size of what it waits for.
    pub quantum_bytes: usize,
    /// About how many bytes in all.
    pub bytes: usize,
    /// How many suspects ([`Progress::runs_alone`]); others are put off.
    pub suspects: usize,
    /// Behind which token to begin; [`StreamId::ZERO`] at the first.
    pub behind: StreamId,
}

impl Room {
    /// No places, and no other bounds: what to begin with.
    pub const UNBOUNDED: Self = Self {
        free: 0,
        spare: 0,
        quantum: usize::MAX >> 12,
        quantum_bytes: usize::MAX >> 12,
        bytes: usize::MAX >> 12,
        suspects: usize::MAX >> 12,
        behind: StreamId::ZERO,
    };
}

/// What a `take` brought.
#[derive(Debug, Default)]
pub struct Taken {
    /// The deliveries.
    pub leases: Vec<Lease>,
    /// Tokens are left: the lane is worth another look.
    pub left: bool,
    /// The last token that was passed over because this worker holds enough of its subscription.
    pub passed: Option<StreamId>,
    /// Suspects that were put off for a moment.
    pub put_off: u64,
    /// When a rate allows more, where one limits now.
    pub wait: Option<Duration>,
}

/// What became of a lease.
#[derive(Debug)]
pub struct Settlement {
    /// The lease; gone with this.
    pub lease: Lease,
    /// Where the delivery goes.
    pub verdict: Verdict,
    /// The attempt that led there; none where nothing was attempted.
    pub attempt: Option<Attempt>,
    /// How long an acknowledgment is awaited, where that is where it goes.
    pub ack_timeout: Duration,
}

/// When a subscription's circuit opens, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Circuit {
    /// Failures in a row; 0 never opens it.
    pub failures: u32,
    /// For which they must have lasted.
    pub lasting: Duration,
    /// The first opening; doubled with each probe that fails.
    pub open: Duration,
    /// The longest opening.
    pub open_max: Duration,
}

/// A lane's answer to settlements.
#[derive(Debug, Clone, Default)]
pub struct Settled {
    /// Outcomes that came too late to count.
    pub stale: u64,
    /// When the lane's next timer is due.
    pub next_due: Option<Duration>,
    /// Subscriptions that a second 410 disabled.
    pub disabled: Vec<String>,
    /// Tokens lie ready in the lane.
    pub ready: bool,
    /// Notes lie in the lane's outbox.
    pub notes: bool,
}

/// What `promote` did.
#[derive(Debug, Default)]
pub struct Promoted {
    /// Timers handled.
    pub handled: u64,
    /// When the lane's next timer is due.
    pub next_due: Option<Duration>,
    /// Deliveries whose acknowledgment did not come; to be judged and settled.
    pub missed: Vec<Lease>,
    /// Notes lie in the lane's outbox.
    pub notes: bool,
    /// Whose messages have expired, and of which channels.
    pub dead: Vec<(Tenant, ChannelName)>,
}

/// What `sweep` found.
#[derive(Debug, Default)]
pub struct Swept {
    /// Where to go on; `None` when through.
    pub cursor: Option<u64>,
    /// Deliveries whose worker is lost; to be judged and settled.
    pub lost: Vec<Lease>,
    /// Tokens and timers that were missing: 0 in health.
    pub rearmed: u64,
    /// Entries that vanished from under their group: 0 in health.
    pub missing: u64,
    /// Subscriptions whose settings the lane lacks.
    pub unknown: Vec<String>,
}

impl Store {
    /// take: deliveries from several lanes in one flight.
    pub async fn take(
        &self,
        me: &str,
        lanes: &[(u16, Room)],
    ) -> Result<Vec<Result<Taken, StoreError>>, StoreError> {
        const TOKENS: usize = 64;
        let since = Instant::now();
        let calls: Vec<Call> = lanes
            .iter()
            .map(|(lane, room)| {
                let mut call = Call::new(&script::TAKE, &self.keys, Tag::Lane(*lane));
                call.arg(me)
                    .arg(room.free)
                    .arg(room.spare)
                    .arg(room.quantum)
                    .arg(room.quantum_bytes)
                    .arg(TOKENS)
                    .arg(if room.behind == StreamId::ZERO {
                        "-".to_owned()
                    } else {
                        format!("({}", room.behind)
                    })
                    .arg(room.bytes)
                    .arg(room.suspects)
                    .arg(Progress::ALONE_AFTER);
                call
            })
            .collect();
        let answers = script::fly(&self.link, &calls).await?;
        Ok(answers
            .into_iter()
            .zip(lanes)
            .map(|(answer, (lane, _))| read_taken(*lane, since, answer?))
            .collect())
    }

    /// settle: what became of leases, by lane, in one flight.
    pub async fn settle(
        &self,
        me: &str,
        lanes: &[(u16, Vec<Settlement>)],
        circuit: Circuit,
        trace_ms: u64,
    ) -> Result<Vec<Result<Settled, StoreError>>, StoreError> {
        let calls: Vec<Call> = lanes
            .iter()
            .map(|(lane, settlements)| {
                let mut call = Call::new(&script::SETTLE, &self.keys, Tag::Lane(*lane));
                call.arg(me)
                    .arg(trace_ms)
                    .arg(circuit.failures)
                    .arg(millis(circuit.lasting))
                    .arg(millis(circuit.open))
                    .arg(millis(circuit.open_max));
                write_settlements(&mut call, settlements);
                call
            })
            .collect();
        let answers = script::fly(&self.link, &calls).await?;
        Ok(answers.into_iter().map(|answer| read_settled(answer?)).collect())
    }

    /// promote: due timers of lanes. `trace_ms` is how long traces are kept.
    pub async fn promote(
        &self,
        me: &str,
        lanes: &[u16],
        trace_ms: u64,
    ) -> Result<Vec<Result<Promoted, StoreError>>, StoreError> {
        const MOST: usize = 200;
        let since = Instant::now();
        let calls: Vec<Call> = lanes
            .iter()
            .map(|lane| {
                let mut call = Call::new(&script::PROMOTE, &self.keys, Tag::Lane(*lane));
                call.arg(me).arg(MOST).arg(trace_ms);
                call
            })
            .collect();
        let answers = script::fly(&self.link, &calls).await?;
        Ok(answers
            .into_iter()
            .zip(lanes)
            .map(|(answer, lane)| read_promoted(*lane, since, answer?))
            .collect())
    }

    /// sweep: a page of a lane's live subscriptions. Of what I hold I have lost only what I do not know of
    /// (see [`Lease::handle`]).
    pub async fn sweep(
        &self,
        me: &str,
        lease: Duration,
        lane: u16,
        cursor: u64,
        workers: &[String],
        known: &[String],
    ) -> Result<Swept, StoreError> {
        const PAGE: usize = 50;
        let since = Instant::now();
        let mut call = Call::new(&script::SWEEP, &self.keys, Tag::Lane(lane));
        call.arg(me).arg(millis(lease)).arg(cursor).arg(PAGE).arg(workers.len()).arg(workers).arg(known);
        let mut parts = array(script::call(&self.link, call).await?)?.into_iter();
        let mut next = || parts.next().ok_or_else(|| short("sweep"));
        let next_page: u64 = count(&next()?)?;
        let mut swept = Swept {
            cursor: (next_page != 0).then_some(next_page),
            lost: read_leases(lane, since, next()?)?,
            rearmed: count(&next()?)?,
            missing: count(&next()?)?,
            unknown: array(next()?)?.into_iter().map(text).collect::<Result<_, _>>()?,
        };
        if count(&next()?)? > 0 {
            swept.cursor = Some(cursor);
        }
        Ok(swept)
    }

    /// disown: gives back what I hold in lanes, except what I know of (see [`Lease::handle`]).
    pub async fn disown(
        &self,
        me: &str,
        lanes: &[u16],
        known: &HashMap<u16, Vec<String>>,
    ) -> Result<u64, StoreError> {
        let calls: Vec<Call> = lanes
            .iter()
            .map(|lane| {
                let mut call = Call::new(&script::DISOWN, &self.keys, Tag::Lane(*lane));
                call.arg(me).arg(known.get(lane).map_or(&[][..], Vec::as_slice));
                call
            })
            .collect();
        let mut given = 0;
        for answer in script::fly(&self.link, &calls).await? {
            given += count(&answer?)?;
        }
        Ok(given)
    }
}

pub(crate) fn due(ms: i64) -> Option<Duration> {
    u64::try_from(ms).ok().map(Duration::from_millis)
}

fn write_settlements(call: &mut Call, settlements: &[Settlement]) {
    let mut order: Vec<&SubscriptionId> = Vec::new();
    let mut groups: HashMap<&SubscriptionId, Vec<&Settlement>> = HashMap::new();
    for settlement in settlements {
        let id = &settlement.lease.subscription;
        let group = groups.entry(id).or_insert_with(|| {
            order.push(id);
            Vec::new()
        });
        group.push(settlement);
    }
    for id in order {
        let rows = &groups[id];
        call.arg(id.as_str()).arg(rows.len());
        for row in rows {
            write_settlement(call, row);
        }
    }
}

/// What an outcome says of the subscriber, if it counts.
fn said(verdict: &Verdict) -> String {
    let sign = match verdict.health {
        Health::Good => "+",
        Health::Bad => "-",
        Health::Unknown => "",
    };
    match verdict.hold {
        Hold::No | Hold::For { ms: 0 } => sign.to_owned(),
        Hold::For { ms } => format!("{sign}@{ms}"),
        Hold::Gone => format!("{sign}@gone"),
    }
}

fn write_settlement(call: &mut Call, settlement: &Settlement) {
    let lease = &settlement.lease;
    let (place, argument) = match settlement.verdict.place {
        Place::Settled => ("s", String::new()),
        Place::AwaitingAck => ("k", millis(settlement.ack_timeout).to_string()),
        Place::Later { delay_ms } => ("l", delay_ms.to_string()),
        Place::Again => ("a", String::new()),
        Place::Dead(reason) => ("d", reason.as_str().to_owned()),
    };
    let tries = match settlement.verdict.place {
        // Nothing to remember.
        Place::Settled => String::new(),
        _ => {
            let mut tries = lease.tries.clone();
            tries.progress = settlement.verdict.progress;
            tries.attempts.extend(settlement.attempt.clone());
            if tries.is_empty() { String::new() } else { tries.write() }
        }
    };
    let line = settlement
        .attempt
        .as_ref()
        .map(|attempt| trace::attempt_line(&lease.subscription, settlement.verdict.place, attempt))
        .unwrap_or_default();
    call.arg(lease.rank)
        .arg(lease.id.to_string())
        .arg(lease.number)
        .arg(lease.entry.size())
        .arg(&lease.reference)
        .arg(place)
        .arg(argument)
        .arg(tries)
        .arg(line)
        .arg(said(&settlement.verdict));
}

fn read_taken(lane: u16, since: Instant, value: Value) -> Result<Taken, StoreError> {
    let mut parts = array(value)?.into_iter();
    let (Some(leases), Some(left), Some(passed), Some(put_off), Some(wait)) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(short("take"));
    };
    Ok(Taken {
        leases: read_leases(lane, since, leases)?,
        left: int(&left)? > 0,
        passed: text(passed)?.parse().ok(),
        put_off: count(&put_off)?,
        wait: due(int(&wait)?),
    })
}

fn read_settled(value: Value) -> Result<Settled, StoreError> {
    let mut parts = array(value)?.into_iter();
    let (Some(stale), Some(next_due), Some(disabled), Some(ready), Some(notes)) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(short("settle"));
    };
    Ok(Settled {
        stale: count(&stale)?,
        next_due: due(int(&next_due)?),
        disabled: array(disabled)?.into_iter().map(text).collect::<Result<_, _>>()?,
        ready: int(&ready)? > 0,
        notes: int(&notes)? > 0,
    })
}

fn read_promoted(lane: u16, since: Instant, value: Value) -> Result<Promoted, StoreError> {
    let mut parts = array(value)?.into_iter();
    let (Some(handled), Some(next_due), Some(missed), Some(notes), Some(dead)) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(short("promote"));
    };
    Ok(Promoted {
        handled: count(&handled)?,
        next_due: due(int(&next_due)?),
        missed: read_leases(lane, since, missed)?,
        notes: int(&notes)? > 0,
        dead: read_dead(dead)?,
    })
}
