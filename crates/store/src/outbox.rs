//! What must leave a lane as a message or a change of settings: left in the lane's outbox by the script that
//! causes it, carried out by any worker.

use crate::{
    Store, StreamId,
    error::StoreError,
    keys::{self, Tag},
    link::checked,
    reply::{Fields, array, stream_id},
};

/// Something that must leave a lane as a message or a change of settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxEntry {
    /// The lane.
    pub lane: u16,
    /// Its id in the outbox.
    pub id: StreamId,
    /// What it is: `disabled`, or `dead`.
    pub kind: String,
    /// The subscription that it is about.
    pub subscription: String,
    /// Why it happened.
    pub reason: String,
    /// When, by Redis's clock.
    pub at_ms: u64,
    /// Of a `dead` one, the dead letter of which a copy goes to a channel.
    pub copy: Option<DeadCopy>,
}

/// A copy of a dead letter, for the channel that its subscription names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadCopy {
    /// The channel.
    pub channel: String,
    /// The dead letter's id among its subscription's.
    pub dead: StreamId,
}

impl Store {
    /// The most notes of one lane that one look brings.
    pub const OUTBOX_MOST: usize = 100;

    /// What lies in the outboxes of lanes, of each after an id (zero: from its beginning), and at most
    /// [`Store::OUTBOX_MOST`].
    pub async fn outbox(&self, lanes: &[(u16, StreamId)]) -> Result<Vec<OutboxEntry>, StoreError> {
        let mut pipeline = redis::Pipeline::with_capacity(lanes.len());
        for (lane, after) in lanes {
            pipeline
                .cmd("XRANGE")
                .arg(self.keys.key(Tag::Lane(*lane), keys::OUTBOX))
                .arg(format!("({after}"))
                .arg("+")
                .arg("COUNT")
                .arg(Self::OUTBOX_MOST);
        }
        let mut found = Vec::new();
        for ((lane, _), answer) in lanes.iter().zip(self.link.pipeline(&pipeline).await?) {
            for row in array(checked(answer)?)? {
                let mut row = array(row)?.into_iter();
                let id = stream_id(row.next().unwrap_or_default())?;
                let mut fields = Fields::read(row.next().unwrap_or_default())?;
                let kind = fields.take_text("kind");
                let copy = (kind == "dead").then(|| DeadCopy {
                    channel: fields.take_text("dlq"),
                    dead: fields.take_text("dead").parse().unwrap_or_default(),
                });
                found.push(OutboxEntry {
                    lane: *lane,
                    id,
                    kind,
                    copy,
                    subscription: fields.take_text("sub"),
                    reason: fields.take_text("reason"),
                    at_ms: fields.take_number("at"),
                });
            }
        }
        Ok(found)
    }

    /// Takes an entry out of its outbox: what it asks for is done.
    pub async fn outbox_done(&self, entry: &OutboxEntry) -> Result<(), StoreError> {
        let mut command = redis::cmd("XDEL");
        command.arg(self.keys.key(Tag::Lane(entry.lane), keys::OUTBOX)).arg(entry.id.to_string());
        self.link.command(&command).await.map(drop)
    }
}
