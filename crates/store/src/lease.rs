//! What a worker holds of a delivery, and what it has been through.

use std::time::Instant;

use postroad_model::{
    delivery::{Attempt, Progress},
    id::SubscriptionId,
};
use redis::Value;

use crate::{
    StreamId,
    entry::Entry,
    error::StoreError,
    reply::{Fields, array, bytes, count, odd, stream_id, text},
};

/// A delivery in flight at one worker. Whoever has the value may settle it, once: settling takes it away.
/// Dropping it loses nothing: the entry is reclaimed when its lease runs out.
#[derive(Debug)]
pub struct Lease {
    /// Where its queue lies.
    pub lane: u16,
    /// The subscription.
    pub subscription: SubscriptionId,
    /// The newest change of the subscription's settings that the lane knows.
    pub change: StreamId,
    /// The rank of the queue.
    pub rank: u8,
    /// The entry in the queue.
    pub id: StreamId,
    /// How often the entry was handed out, this time included: tells this lease from an earlier one.
    pub number: u64,
    /// What it has been through.
    pub tries: Tries,
    /// The message.
    pub entry: Entry,
    /// When the message was accepted, by Redis's clock.
    pub accepted_ms: u64,
    /// When it expires, by Redis's clock in milliseconds.
    pub expires_ms: Option<u64>,
    /// Where its trace lies; empty without a history.
    pub reference: String,
    /// When it was asked for: its lease began no earlier.
    pub since: Instant,
}

impl Lease {
    /// What `disown` knows it by.
    pub fn handle(&self) -> String {
        format!("{}:{}:{}", self.subscription, self.rank, self.id)
    }
}

/// Progress and attempts of a delivery, as they lie beside its queue once it has failed.
///
/// Written as a line `<attempts> <reclaims>` and then one line of JSON per attempt.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tries {
    /// How far it has come.
    pub progress: Progress,
    /// Its attempts, oldest first.
    pub attempts: Vec<Attempt>,
}

impl Tries {
    /// Reads what [`Tries::write`] wrote. What cannot be read counts as never tried.
    pub fn read(text: &str) -> Self {
        let mut lines = text.lines();
        let Some((attempts, reclaims)) = lines.next().and_then(|line| line.split_once(' ')) else {
            return Self::default();
        };
        let number = |text: &str| text.parse().unwrap_or(0);
        Self {
            progress: Progress { attempts: number(attempts), reclaims: number(reclaims) },
            attempts: lines.filter_map(|line| serde_json::from_str(line).ok()).collect(),
        }
    }

    /// Writes them.
    pub fn write(&self) -> String {
        let mut text = format!("{} {}", self.progress.attempts, self.progress.reclaims);
        for attempt in &self.attempts {
            text.push('\n');
            text.push_str(&serde_json::to_string(attempt).unwrap_or_default());
        }
        text
    }

    /// Whether there is anything to remember.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Leases as `take`, `promote` and `sweep` reply them: per subscription `{ id, change, entries }`.
pub(crate) fn read_leases(lane: u16, since: Instant, value: Value) -> Result<Vec<Lease>, StoreError> {
    let mut leases = Vec::new();
    for row in array(value)? {
        let mut row = array(row)?.into_iter();
        let (Some(id), Some(change), Some(entries)) = (row.next(), row.next(), row.next()) else {
            return Err(odd("a subscription's entries", &Value::Nil));
        };
        let subscription =
            SubscriptionId::new(&text(id)?).map_err(|error| StoreError::Reply(error.to_string()))?;
        let change = stream_id(change)?;
        for entry in array(entries)? {
            leases.push(read_lease(lane, since, subscription.clone(), change, entry)?);
        }
    }
    Ok(leases)
}

pub(crate) fn read_lease(
    lane: u16,
    since: Instant,
    subscription: SubscriptionId,
    change: StreamId,
    row: Value,
) -> Result<Lease, StoreError> {
    let mut row = array(row)?.into_iter();
    let mut next = || row.next().unwrap_or(Value::Nil);
    let rank = u8::try_from(count(&next())?).map_err(|_| StoreError::Reply("rank".into()))?;
    let id = stream_id(next())?;
    let number = count(&next())?;
    // One delivery with bytes of another kind beside it must not keep back all that were taken with it.
    let tries = Tries::read(&String::from_utf8_lossy(&bytes(next())?));
    let mut fields = Fields::read(next())?;
    Ok(Lease {
        lane,
        subscription,
        change,
        rank,
        id,
        number,
        tries,
        entry: fields.entry(),
        accepted_ms: fields.take_number("t"),
        expires_ms: Some(fields.take_number("x")).filter(|at| *at > 0),
        reference: fields.take_text("ref"),
        since,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_survive() {
        let attempt = Attempt {
            number: 1,
            started_at_ms: 5,
            duration_ms: 7,
            status: Some(500),
            error: Some("line one\nline two".into()),
            response: Some("no \"thanks\"".into()),
        };
        let tries = Tries {
            progress: Progress { attempts: 1, reclaims: 2 },
            attempts: vec![attempt.clone(), attempt],
        };
        assert_eq!(Tries::read(&tries.write()), tries);
        assert!(Tries::read("").is_empty());
        assert!(Tries::read("junk").is_empty());
        assert_eq!(Tries::read("3 1\nnot json").progress, Progress { attempts: 3, reclaims: 1 });
    }
}
