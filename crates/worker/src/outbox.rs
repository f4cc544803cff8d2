//! What must leave a lane: news of subscriptions that were disabled, copies of dead letters.
//!
//! The script that causes it leaves a note in the lane's outbox. Any worker carries it out, and the note goes. Each
//! step may be repeated: what is published has an id that comes from its cause.

mod dead_letter;
mod disabled;

use std::{
    collections::{BTreeSet, HashSet},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use postroad_model::{message::Message, time::millis};
use postroad_store::{Acceptance, Accepted, IdKey, OutboxEntry, Store, StoreError, StreamId, entry::Entry};
use tokio::sync::Notify;
use tracing::{debug, error};

use crate::{figures, shared::Shared};

/// The lanes whose outboxes are known to hold something: promoting and settling say so.
#[derive(Default)]
pub struct Outboxes {
    lanes: Mutex<BTreeSet<u16>>,
    noted: Notify,
}

impl Outboxes {
    /// Something lies in that lane's.
    pub fn note(&self, lane: u16) {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner).insert(lane);
        self.noted.notify_one();
    }

    async fn next(&self) -> Vec<u16> {
        loop {
            let lanes = std::mem::take(&mut *self.lanes.lock().unwrap_or_else(PoisonError::into_inner));
            if !lanes.is_empty() {
                return lanes.into_iter().collect();
            }
            self.noted.notified().await;
        }
    }
}

/// How long notes are left that could not be carried out.
const PAUSE: Duration = Duration::from_secs(1);

/// Carries out what lies in outboxes. A note that cannot be carried out stays, is told of once, and keeps no
/// other.
pub async fn empty_forever(shared: Shared) {
    let mut ill = HashSet::new();
    loop {
        let lanes = shared.outbox.next().await;
        match empty(&shared, &lanes, &mut ill).await {
            // More than one look brings.
            Ok(Emptied { all: true, left: false }) => {
                lanes.into_iter().for_each(|lane| shared.outbox.note(lane));
            }
            Ok(Emptied { left: false, .. }) => {}
            // Promoting tells of them again.
            Ok(_) => tokio::time::sleep(PAUSE).await,
            Err(error) => {
                shared.outage.failed(&error);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// How emptying went.
struct Emptied {
    /// As many notes came as one look brings: there may be more.
    all: bool,
    /// Some could not be carried out.
    left: bool,
}

async fn empty(
    shared: &Shared,
    lanes: &[u16],
    ill: &mut HashSet<(u16, StreamId)>,
) -> Result<Emptied, StoreError> {
    let notes = notes(shared, lanes).await?;
    let mut emptied = Emptied { all: notes.len() >= Store::OUTBOX_MOST, left: false };
    for entry in notes {
        let note = (entry.lane, entry.id);
        match carry_out(shared, &entry).await {
            Ok(()) => {
                ill.remove(&note);
            }
            Err(error) if error.is_transient() => return Err(error),
            // Its owner changed the subscription just now.
            Err(StoreError::Conflict(_)) => emptied.left = true,
            Err(error) => {
                emptied.left = true;
                if ill.insert(note) {
                    error!(lane = entry.lane, note = %entry.id, %error, "could not carry out an outbox entry");
                }
            }
        }
    }
    Ok(emptied)
}

/// All lanes' at once; lane by lane where one has none that can be read.
async fn notes(shared: &Shared, lanes: &[u16]) -> Result<Vec<OutboxEntry>, StoreError> {
    match shared.store.outbox(lanes).await {
        Err(error) if !error.is_transient() => {}
        result => return result,
    }
    let mut all = Vec::new();
    for lane in lanes {
        match shared.store.outbox(&[*lane]).await {
            Ok(notes) => all.extend(notes),
            Err(error) if error.is_transient() => return Err(error),
            Err(error) => debug!(lane, %error, "cannot read an outbox"),
        }
    }
    Ok(all)
}

async fn carry_out(shared: &Shared, entry: &OutboxEntry) -> Result<(), StoreError> {
    match (entry.kind.as_str(), &entry.copy) {
        ("disabled", _) => disabled::tell(shared, entry).await?,
        ("dead", Some(copy)) => dead_letter::copy(shared, entry, copy).await?,
        (kind, _) => error!(lane = entry.lane, kind, "dropped an outbox entry of unknown kind"),
    }
    shared.store.outbox_done(entry).await
}

/// Accepts a message of Postroad's own. Its id comes from its cause, so it may be repeated.
async fn publish(shared: &Shared, message: &Message) -> Result<(), StoreError> {
    let partition = shared.store.layout().partition_of(&message.tenant, &message.channel, &message.id, None);
    let acceptance = Acceptance {
        id: IdKey::new(&message.tenant, &message.id, None),
        remember: true,
        check: true,
        channel: format!("{}/{}", message.tenant, message.channel),
        payload_bytes: message.payload.body.len(),
        entry: Entry::encode(message, usize::MAX),
        due: None,
    };
    let window_ms = millis(shared.config.retention);
    let began = Instant::now();
    let mut answers = shared.store.accept(&[(partition, vec![acceptance])], window_ms).await?;
    let accepted = answers.pop().unwrap_or(Ok(Vec::new()))?;
    if matches!(accepted[..], [Accepted::Stored { .. }]) {
        figures::published(shared, message, began.elapsed());
    }
    Ok(())
}
