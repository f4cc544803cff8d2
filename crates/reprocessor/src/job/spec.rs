//! What lies in a job's record: its orders, where it goes, how far it came, what there is to say.

use postroad_model::id::SubscriptionId;
use postroad_store::{HistoryReplay, StreamId};
use serde::{Deserialize, Serialize, de};

use crate::{error::Error, filter::Wanted};

/// What a job is to do. Written once, and read by whoever runs it, perhaps of another release: members are
/// added with a default, and never renamed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    /// What kind of job it is: other kinds lie in the same list.
    pub kind: String,
    /// Which dead letters.
    pub filter: Wanted,
    /// Letters a second; none: as fast as it goes.
    #[serde(default)]
    pub rate: Option<f64>,
    /// The most letters.
    #[serde(default)]
    pub limit: Option<u64>,
    /// How many letters there were to look through when it was made.
    pub letters: u64,
}

/// The kind of these jobs.
pub(super) const KIND: &str = "dead_letters";
/// Letters a second that can be asked for.
const RATES: std::ops::RangeInclusive<f64> = 0.01..=1_000_000.0;

impl Spec {
    /// Checks what was asked for.
    pub fn new(filter: Wanted, rate: Option<f64>, limit: Option<u64>) -> Result<Self, Error> {
        if let Some(rate) = rate.filter(|rate| !RATES.contains(rate)) {
            let problem =
                format!("rate = {rate} must be {} to {} letters a second", RATES.start(), RATES.end());
            return Err(Error::field("rate", problem));
        }
        check_limit(limit)?;
        Ok(Self { kind: KIND.to_owned(), filter, rate, limit, letters: 0 })
    }

    /// Reads a record's; `None` for a job of another kind.
    pub fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok().filter(|spec: &Self| spec.kind == KIND)
    }
}

/// What a job of any kind that is run here is to do.
pub(super) enum Order {
    /// Dead letters back into their queues.
    DeadLetters(Spec),
    /// History to subscriptions once more.
    History(HistoryReplay),
}

impl Order {
    /// Reads a record's; `None` for a job of a kind that this release does not know.
    pub(super) fn read(text: &str) -> Option<Self> {
        Spec::read(text).map(Self::DeadLetters).or_else(|| HistoryReplay::read(text).map(Self::History))
    }
}

/// Refuses a limit that would move nothing.
pub(super) fn check_limit(limit: Option<u64>) -> Result<(), Error> {
    match limit {
        Some(0) => {
            Err(Error::field("limit", "limit = 0 would move nothing; leave it out to move all that matches"))
        }
        _ => Ok(()),
    }
}

/// An entry's id, as a record writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct At(pub(super) StreamId);

impl Serialize for At {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for At {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map(Self).map_err(de::Error::custom)
    }
}

/// The subscriptions that a job goes through, each with the last letter that it may move.
pub(super) type Plan = Vec<(SubscriptionId, At)>;

/// How far a job came in one subscription: its place in the plan, and behind which letter it goes on.
pub(super) type Point = (usize, At);

/// How far a job came.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Cursor {
    /// The first subscription of the plan that was not begun.
    pub(super) next: usize,
    /// Those that were begun and not finished.
    pub(super) begun: Vec<Point>,
}

/// What a job's runner has to say.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Note {
    /// Letters looked at.
    #[serde(default)]
    pub(super) scanned: u64,
    /// Letters that matched and were not moved: their subscription was cancelled, or they were gone by then.
    #[serde(default)]
    pub(super) skipped: u64,
    /// Subscriptions whose queues are full.
    #[serde(default)]
    pub(super) waiting_for: Vec<SubscriptionId>,
    /// Why it failed.
    #[serde(default)]
    pub(super) error: Option<String>,
}

/// A record's text; nothing in these types fails to serialise.
pub(super) fn write(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_read_back_and_other_kinds_are_left_alone() {
        let spec = Spec::new(Wanted::default(), Some(0.5), Some(7)).unwrap();
        assert_eq!(Spec::read(&write(&spec)), Some(spec));
        assert_eq!(Spec::read(r#"{"kind":"history","filter":{},"letters":1}"#), None);
        let plan: Plan = vec![(SubscriptionId::new("sub_1").unwrap(), At("17-3".parse().unwrap()))];
        assert_eq!(write(&plan), r#"[["sub_1","17-3"]]"#);
        assert_eq!(serde_json::from_str::<Plan>(&write(&plan)).unwrap(), plan);
    }

    #[test]
    fn rates_and_limits_have_bounds() {
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY, 2e6] {
            assert!(Spec::new(Wanted::default(), Some(rate), None).unwrap_err().to_string().contains("rate"));
        }
        assert!(Spec::new(Wanted::default(), None, Some(0)).unwrap_err().to_string().contains("limit"));
    }
}
