//! What must leave a lane: news of subscriptions that were disabled, copies of dead letters.
//!
//! The script that causes it leaves a note in the lane's outbox. Any worker carries it out, and the note goes. Each
//! step may be repeated: what is published has an id that comes from its cause.

mod dead_letter;
mod disabled;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
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

/// What could not be carried out.
#[derive(Default)]
struct Left {
    /// Was told of.
    told: HashSet<(u16, StreamId)>,
    /// Behind which note a lane is looked at next: what is left must not hide what lies behind it.
    after: HashMap<u16, StreamId>,
}

/// Carries out what lies in outboxes. A note that cannot be carried out stays, is told of once, and keeps no
/// other.
pub async fn empty_forever(shared: Shared) {
    let mut left = Left::default();
    loop {
        let lanes = shared.outbox.next().await;
        match empty(&shared, &lanes, &mut left).await {
            Ok(true) => {}
            // Promoting tells of them again.
            Ok(false) => tokio::time::sleep(PAUSE).await,
            Err(error) => {
                shared.outage.failed(&error);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Whether all that was found could be carried out.
async fn empty(shared: &Shared, lanes: &[u16], left: &mut Left) -> Result<bool, StoreError> {
    let lanes: Vec<(u16, StreamId)> =
        lanes.iter().map(|lane| (*lane, left.after.get(lane).copied().unwrap_or_default())).collect();
    let mut found: BTreeMap<u16, Vec<OutboxEntry>> = BTreeMap::new();
    for entry in notes(shared, &lanes).await? {
        found.entry(entry.lane).or_default().push(entry);
    }
    let mut is_all_done = true;
    for (lane, _) in lanes {
        let entries = found.remove(&lane).unwrap_or_default();
        let last = entries.last().map(|entry| entry.id).filter(|_| entries.len() >= Store::OUTBOX_MOST);
        for entry in entries {
            is_all_done &= is_done(shared, &entry, left).await?;
        }
        // As many came as one look brings: there may be more.
        match last {
            Some(last) => {
                left.after.insert(lane, last);
                shared.outbox.note(lane);
            }
            None => drop(left.after.remove(&lane)),
        }
    }
    Ok(is_all_done)
}

async fn is_done(shared: &Shared, entry: &OutboxEntry, left: &mut Left) -> Result<bool, StoreError> {
    let note = (entry.lane, entry.id);
    match carry_out(shared, entry).await {
        Ok(()) => {
            left.told.remove(&note);
            Ok(true)
        }
        Err(error) if error.is_transient() => Err(error),
        // Its owner changed the subscription just now.
        Err(StoreError::Conflict(_)) => Ok(false),
        Err(error) => {
            if left.told.insert(note) {
                error!(lane = entry.lane, note = %entry.id, %error, "could not carry out an outbox entry");
            }
            Ok(false)
        }
    }
}

/// All lanes' at once; lane by lane where one has none that can be read.
async fn notes(shared: &Shared, lanes: &[(u16, StreamId)]) -> Result<Vec<OutboxEntry>, StoreError> {
    match shared.store.outbox(lanes).await {
        Err(error) if !error.is_transient() => {}
        result => return result,
    }
    let mut all = Vec::new();
    for lane in lanes {
        match shared.store.outbox(&[*lane]).await {
            Ok(notes) => all.extend(notes),
            Err(error) if error.is_transient() => return Err(error),
            Err(error) => debug!(lane = lane.0, %error, "cannot read an outbox"),
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
