//! Traces: what a message's deliveries have been through in a lane, and where they lie now.
//!
//! A trace is a string per message and lane to which the moves append lines:
//!
//! * `q <subscription> <rank> <entry> <ms>`: queued;
//! * `a <subscription> <place> <attempt as JSON>`: attempted; the place is `s` settled, `k` awaiting its
//!   acknowledgment, `l` scheduled, `a` due again, `d=<reason>` dead;
//! * `d <subscription> <reason> <ms>`: dead without an attempt;
//! * `r <subscription> <job> <ms>`: replayed from the dead letters;
//! * `p <subscription> <ms>`: handed out to whoever pulled it.
//!
//! It is history only: what a delivery's state is, the place says where it lies.

use postroad_model::{
    delivery::{Attempt, DeadReason, Place},
    id::SubscriptionId,
};
use redis::Value;

use crate::{
    Store, StreamId,
    error::StoreError,
    keys::Tag,
    reply::{array, text},
    script::{self, Call},
};

/// One line of a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// Put into a queue.
    Queued {
        /// The subscription.
        subscription: String,
        /// When, by Redis's clock.
        at_ms: u64,
    },
    /// Attempted.
    Attempted {
        /// The subscription.
        subscription: String,
        /// `s`, `k`, `l`, `a` or `d=<reason>`.
        place: String,
        /// The attempt.
        attempt: Attempt,
    },
    /// Dead without an attempt.
    Dead {
        /// The subscription.
        subscription: String,
        /// Why.
        reason: String,
        /// When, by Redis's clock.
        at_ms: u64,
    },
    /// Replayed from the dead letters.
    Replayed {
        /// The subscription.
        subscription: String,
        /// The job.
        job: String,
        /// When, by Redis's clock.
        at_ms: u64,
    },
    /// Handed out to whoever pulled it.
    Pulled {
        /// The subscription.
        subscription: String,
        /// When, by Redis's clock.
        at_ms: u64,
    },
}

impl Line {
    /// The subscription that it is about.
    pub fn subscription(&self) -> &str {
        match self {
            Self::Queued { subscription, .. }
            | Self::Attempted { subscription, .. }
            | Self::Dead { subscription, .. }
            | Self::Replayed { subscription, .. }
            | Self::Pulled { subscription, .. } => subscription,
        }
    }

    fn parse(line: &str) -> Option<Self> {
        let mut parts = line.splitn(4, ' ');
        let kind = parts.next()?;
        let subscription = parts.next()?.to_owned();
        Some(match kind {
            "q" => {
                let _rank = parts.next()?;
                let at_ms = parts.next()?.split_once(' ')?.1.parse().ok()?;
                Self::Queued { subscription, at_ms }
            }
            "a" => Self::Attempted {
                subscription,
                place: parts.next()?.to_owned(),
                attempt: serde_json::from_str(parts.next()?).ok()?,
            },
            "d" => {
                let reason = parts.next()?.to_owned();
                Self::Dead { subscription, reason, at_ms: parts.next()?.parse().ok()? }
            }
            "r" => {
                let job = parts.next()?.to_owned();
                Self::Replayed { subscription, job, at_ms: parts.next()?.parse().ok()? }
            }
            "p" => Self::Pulled { subscription, at_ms: parts.next()?.parse().ok()? },
            _ => return None,
        })
    }
}

/// The line of an attempt, with its newline.
pub(crate) fn attempt_line(subscription: &SubscriptionId, place: Place, attempt: &Attempt) -> String {
    let place = match place {
        Place::Settled => "s".to_owned(),
        Place::AwaitingAck => "k".to_owned(),
        Place::Later { .. } => "l".to_owned(),
        Place::Again => "a".to_owned(),
        Place::Dead(reason) => format!("d={}", reason.as_str()),
    };
    format!("a {subscription} {place} {}\n", serde_json::to_string(attempt).unwrap_or_default())
}

/// Where a delivery lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lies {
    /// In its queue, to be taken.
    Waiting,
    /// At this worker.
    InFlight(String),
    /// Awaiting its acknowledgment, until then (by Redis's clock).
    AwaitingAck(u64),
    /// Scheduled for then (by Redis's clock).
    Scheduled(u64),
    /// In no queue any more: the trace says why.
    Gone,
}

/// A delivery of a message in one lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// The subscription.
    pub subscription: String,
    /// The rank of the queue.
    pub rank: String,
    /// The entry in the queue.
    pub entry: StreamId,
    /// Where it lies.
    pub lies: Lies,
}

/// What one lane knows of a message.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    /// What happened, in order.
    pub lines: Vec<Line>,
    /// Where its deliveries lie. A delivery that was replayed is here once per time it was queued; the
    /// last one counts.
    pub located: Vec<Located>,
}

impl Trace {
    /// Why a delivery that is gone is dead; `None` if it is not.
    pub fn dead_reason(&self, subscription: &str) -> Option<DeadReason> {
        let last = self.lines.iter().rev().find(|line| line.subscription() == subscription)?;
        match last {
            Line::Dead { reason, .. } => DeadReason::parse(reason),
            Line::Attempted { place, .. } => DeadReason::parse(place.strip_prefix("d=")?),
            Line::Queued { .. } | Line::Replayed { .. } | Line::Pulled { .. } => None,
        }
    }

    pub(crate) fn read_lines(text: &str) -> Vec<Line> {
        text.lines().filter_map(Line::parse).collect()
    }
}

impl Store {
    /// locate: what every lane knows of a message, those that know nothing left out.
    pub async fn locate(&self, partition: u16, id: StreamId) -> Result<Vec<Trace>, StoreError> {
        self.locate_in(0..self.layout.lanes, partition, id).await
    }

    /// The same of one subscription's lane: `None` while it knows nothing.
    pub async fn locate_for(
        &self,
        subscription: &SubscriptionId,
        partition: u16,
        id: StreamId,
    ) -> Result<Option<Trace>, StoreError> {
        let lane = self.layout.lane_of(subscription);
        Ok(self.locate_in(std::iter::once(lane), partition, id).await?.pop())
    }

    async fn locate_in(
        &self,
        lanes: impl Iterator<Item = u16>,
        partition: u16,
        id: StreamId,
    ) -> Result<Vec<Trace>, StoreError> {
        let reference = format!("{partition}:{id}");
        let calls: Vec<Call> = lanes
            .map(|lane| {
                let mut call = Call::new(&script::LOCATE, &self.keys, Tag::Lane(lane));
                call.arg(&reference);
                call
            })
            .collect();
        let mut traces = Vec::new();
        for answer in script::fly(&self.link, &calls).await? {
            let trace = read(answer?)?;
            if !trace.lines.is_empty() {
                traces.push(trace);
            }
        }
        Ok(traces)
    }
}

fn read(value: Value) -> Result<Trace, StoreError> {
    let mut parts = array(value)?.into_iter();
    let lines = Trace::read_lines(&text(parts.next().unwrap_or_default())?);
    let mut located = Vec::new();
    for row in array(parts.next().unwrap_or_default())? {
        let mut row = array(row)?.into_iter().map(text);
        let mut next = || row.next().unwrap_or_else(|| Ok(String::new()));
        let (subscription, rank, entry) = (next()?, next()?, next()?.parse().map_err(StoreError::Reply)?);
        let place = next()?;
        let due = next()?.parse::<f64>().unwrap_or(0.0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a time in milliseconds")]
        let due = due.max(0.0) as u64;
        let lies = match place.as_str() {
            "gone" => Lies::Gone,
            "ack" => Lies::AwaitingAck(due),
            "later" => Lies::Scheduled(due),
            worker if worker.starts_with("w-") => Lies::InFlight(place),
            _ => Lies::Waiting,
        };
        located.push(Located { subscription, rank, entry, lies });
    }
    Ok(Trace { lines, located })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_read_back() {
        let attempt = Attempt {
            number: 2,
            started_at_ms: 10,
            duration_ms: 3,
            status: Some(503),
            error: Some("answered 503 Service Unavailable".into()),
            response: None,
        };
        let id = SubscriptionId::new("sub_1").unwrap();
        let line = attempt_line(&id, Place::Dead(DeadReason::RetriesExhausted), &attempt);
        let read = Line::parse(line.trim_end()).unwrap();
        assert_eq!(
            read,
            Line::Attempted { subscription: "sub_1".into(), place: "d=retries_exhausted".into(), attempt }
        );
        let trace = Trace { lines: vec![read], located: vec![] };
        assert_eq!(trace.dead_reason("sub_1"), Some(DeadReason::RetriesExhausted));
        assert_eq!(trace.dead_reason("sub_2"), None);
        assert_eq!(
            Line::parse("q sub_1 1 17-0 99"),
            Some(Line::Queued { subscription: "sub_1".into(), at_ms: 99 })
        );
        assert_eq!(
            Line::parse("r sub_1 job_1 99"),
            Some(Line::Replayed { subscription: "sub_1".into(), job: "job_1".into(), at_ms: 99 })
        );
        assert_eq!(Line::parse("p sub_1 99"), Some(Line::Pulled { subscription: "sub_1".into(), at_ms: 99 }));
        assert_eq!(
            Line::parse("d sub_1 queue_full 99"),
            Some(Line::Dead { subscription: "sub_1".into(), reason: "queue_full".into(), at_ms: 99 })
        );
        for bad in ["", "q", "x sub 1", "a sub_1 s {", "q sub_1 1 17-0"] {
            assert_eq!(Line::parse(bad), None, "{bad}");
        }
    }
}
