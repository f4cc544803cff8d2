//! Jobs that replay history: what they are to do, and what their runner has to say. Records that daemons of several
//! releases read: members are added with a default, and never renamed.

use postroad_model::{
    id::{MessageId, SubscriptionId},
    names::Tenant,
    time::Time,
};
use redis::Value;
use serde::{Deserialize, Serialize};

use crate::{
    Store, StreamId,
    error::StoreError,
    keys::{self, Tag},
    reply::{array, stream_id, text},
};

/// The kind of these jobs, as their records say.
const KIND: &str = "history";

/// What a job is to deliver again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HistoryReplay {
    kind: String,
    /// What is delivered again, and to whom.
    pub source: Source,
    /// Messages a second; none: as fast as it goes.
    #[serde(default)]
    pub rate: Option<f64>,
    /// The most messages.
    #[serde(default)]
    pub limit: Option<u64>,
}

/// What is delivered again, and to whom.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// One message.
    Message {
        /// Its id.
        id: MessageId,
        /// The partition that it lies in.
        partition: u16,
        /// Its id in that partition's stream.
        at: StreamId,
        /// To these; none: to every subscription that matches it when the job runs.
        #[serde(default)]
        subscriptions: Option<Vec<SubscriptionId>>,
    },
    /// What one subscription matches of a time, to it alone.
    Range {
        /// The subscription.
        subscription: SubscriptionId,
        /// From when, by when they were accepted.
        from: Time,
        /// Until when; not included.
        to: Time,
    },
}

/// What a runner has to say of its job. Of the members that other jobs' notes have too, the types are theirs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HistoryNote {
    /// Messages looked at.
    #[serde(default)]
    pub scanned: u64,
    /// Deliveries that were named and could not be made: their subscription is gone.
    #[serde(default)]
    pub skipped: u64,
    /// What it waits for, if it does.
    #[serde(default)]
    pub waits_for: Option<String>,
    /// Why it failed.
    #[serde(default)]
    pub error: Option<String>,
}

impl HistoryReplay {
    /// What a job is to do.
    pub fn new(source: Source, rate: Option<f64>, limit: Option<u64>) -> Self {
        Self { kind: KIND.to_owned(), source, rate, limit }
    }

    /// Reads a record's; `None` for a job of another kind.
    pub fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok().filter(|replay: &Self| replay.kind == KIND)
    }
}

impl Store {
    /// Makes a job that replays history, for whichever reprocessor takes it. What is accepted from now on is not
    /// replayed by it. `Some` says how many open jobs the tenant has, if that is `most_open` already: then nothing
    /// was made.
    pub async fn make_history_job(
        &self,
        id: &str,
        tenant: &Tenant,
        replay: &HistoryReplay,
        most_open: u64,
    ) -> Result<Option<u64>, StoreError> {
        let plan = match replay.source {
            Source::Message { .. } => Vec::new(),
            Source::Range { .. } => self.newest_accepted().await?,
        };
        let write = |error: serde_json::Error| StoreError::Refused(error.to_string());
        let spec = serde_json::to_string(replay).map_err(write)?;
        let plan = serde_json::to_string(&plan).map_err(write)?;
        self.make_job(id, tenant, &spec, &plan, None, most_open).await
    }

    /// An id in each partition's stream behind all that is there and before all that is to come.
    async fn newest_accepted(&self) -> Result<Vec<StreamId>, StoreError> {
        let mut newest = Vec::with_capacity(usize::from(self.layout.partitions));
        for partition in 0..self.layout.partitions {
            let mut command = redis::cmd("XINFO");
            command.arg("STREAM").arg(self.keys.key(Tag::Partition(partition), keys::INGRESS));
            let info = match self.link.command(&command).await {
                Ok(info) => array(info)?,
                // Nothing was ever accepted there.
                Err(StoreError::Refused(_)) => Vec::new(),
                Err(error) => return Err(error),
            };
            let mut pairs = info.into_iter();
            let mut last = StreamId::ZERO;
            while let (Some(name), Some(value)) = (pairs.next(), pairs.next()) {
                if matches!(&name, Value::BulkString(_) | Value::SimpleString(_))
                    && text(name)? == "last-generated-id"
                {
                    last = stream_id(value)?;
                }
            }
            newest.push(last);
        }
        Ok(newest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_read_back_and_other_kinds_are_left_alone() {
        let sources = [
            Source::Message {
                id: MessageId::new("m").unwrap(),
                partition: 3,
                at: "17-3".parse().unwrap(),
                subscriptions: Some(vec![SubscriptionId::new("sub_1").unwrap()]),
            },
            Source::Range {
                subscription: SubscriptionId::new("sub_1").unwrap(),
                from: Time::from_millis(5),
                to: Time::from_millis(9),
            },
        ];
        for source in sources {
            let replay = HistoryReplay::new(source, Some(0.5), Some(7));
            let text = serde_json::to_string(&replay).unwrap();
            assert_eq!(HistoryReplay::read(&text), Some(replay), "{text}");
        }
        let golden = r#"{"kind":"history","source":{"message":{"id":"m","partition":0,"at":"1-0"}}}"#;
        let replay = HistoryReplay::read(golden).unwrap();
        assert!(
            matches!(replay.source, Source::Message { subscriptions: None, .. }) && replay.limit.is_none()
        );
        for other in [r#"{"kind":"dead_letters","filter":{},"letters":1}"#, "", "{}"] {
            assert_eq!(HistoryReplay::read(other), None);
        }
        assert_eq!(serde_json::from_str::<HistoryNote>("{}").unwrap(), HistoryNote::default());
    }
}
