//! What must leave a lane: here, subscriptions that were disabled.
//!
//! The script that disables a subscription in its lane leaves a note in the lane's outbox. Any worker
//! carries it out: the record is changed, `subscription.disabled` is published on `postroad.events`, and the
//! note goes. Each step may be repeated: the change is made only while the record still says active, and the
//! event's id comes from the note.

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;
use postroad_model::{
    id::{MessageId, SubscriptionId},
    message::{Message, Metadata, Payload, PayloadKind, Priority},
    names::{ChannelName, NameError, RoutingKey, ServiceName},
    subscription::{Status, Subscription},
    time::{Time, millis},
};
use postroad_store::{Acceptance, IdKey, OutboxEntry, StoreError, StreamId, entry::Entry};
use serde_json::json;
use tracing::{debug, error, warn};

use crate::shared::Shared;

/// The channel on which Postroad tells of itself.
const EVENTS: &str = "postroad.events";

/// Carries out what lies in the outboxes of lanes. A note that cannot be carried out stays and keeps no other;
/// `ill` is what was told of already.
pub async fn empty(
    shared: &Shared,
    lanes: &[u16],
    ill: &mut HashSet<(u16, StreamId)>,
) -> Result<(), StoreError> {
    for entry in notes(shared, lanes).await? {
        let note = (entry.lane, entry.id);
        match carry_out(shared, &entry).await {
            Ok(()) => {
                ill.remove(&note);
            }
            Err(error) if error.is_transient() => return Err(error),
            // Its owner changed the subscription just now.
            Err(StoreError::Conflict(_)) => {}
            Err(error) => {
                if ill.insert(note) {
                    error!(lane = entry.lane, note = %entry.id, %error, "could not carry out an outbox entry");
                }
            }
        }
    }
    Ok(())
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
    if entry.kind == "disabled" {
        disabled(shared, entry).await?;
    } else {
        error!(lane = entry.lane, kind = entry.kind, "dropped an outbox entry of unknown kind");
    }
    shared.store.outbox_done(entry).await
}

async fn disabled(shared: &Shared, entry: &OutboxEntry) -> Result<(), StoreError> {
    let Ok(id) = SubscriptionId::new(&entry.subscription) else { return Ok(()) };
    let Some(known) = shared.store.subscription(&id).await? else { return Ok(()) };
    let mut subscription = known.subscription;
    // Changed since by its owner: that change stands.
    if subscription.status == Status::Active && subscription.updated_at.as_millis() <= entry.at_ms {
        subscription.status = Status::Disabled;
        subscription.status_reason = Some(entry.reason.clone());
        subscription.updated_at = Time::from_millis(entry.at_ms);
        let limits = shared.config.limits;
        shared.store.put_subscription(&subscription, Some(known.change), u64::MAX, limits).await?;
        warn!(subscription.id = %id, reason = entry.reason, "disabled a subscription");
    }
    match event(&subscription, entry) {
        Ok(message) => publish(shared, &message).await,
        Err(error) => {
            error!(%error, "could not make an event of a disabled subscription");
            Ok(())
        }
    }
}

fn event(subscription: &Subscription, entry: &OutboxEntry) -> Result<Message, NameError> {
    let id = MessageId::new(&format!("evt_disabled_{}_{}", subscription.id, entry.id))?;
    let at = Time::from_millis(entry.at_ms);
    let payload = json!({
        "event_type": "subscription.disabled",
        "subscription_id": subscription.id,
        "service_name": subscription.service_name,
        "reason": entry.reason,
        "disabled_at": at,
    });
    let metadata = Metadata {
        message_id: id.clone(),
        correlation_id: Some(id.to_string()),
        reply_to: None,
        content_type: "application/json".into(),
        content_encoding: None,
        priority: Priority::Normal,
        ttl: None,
        timestamp: at,
        headers: serde_json::Map::new(),
    };
    Ok(Message {
        tenant: subscription.tenant.clone(),
        id,
        channel: ChannelName::new(EVENTS)?,
        routing_key: Some(RoutingKey::new("subscription.disabled")?),
        ordering_key: None,
        service: ServiceName::new("postroad")?,
        priority: Priority::Normal,
        persistent: true,
        generation: 0,
        targets: Arc::from([]),
        trace: None,
        metadata,
        payload: Payload { kind: PayloadKind::Json, body: Bytes::from(payload.to_string()) },
    })
}

async fn publish(shared: &Shared, message: &Message) -> Result<(), StoreError> {
    let partition = shared.store.layout().partition_of(&message.tenant, &message.channel, &message.id, None);
    let acceptance = Acceptance {
        id: IdKey::new(&message.tenant, &message.id, None),
        remember: true,
        check: true,
        channel: format!("{}/{}", message.tenant, message.channel),
        entry: Entry::encode(message, usize::MAX),
        due: None,
    };
    let window_ms = millis(shared.config.retention);
    let mut answers = shared.store.accept(&[(partition, vec![acceptance])], window_ms).await?;
    answers.pop().unwrap_or(Ok(Vec::new())).map(drop)
}
