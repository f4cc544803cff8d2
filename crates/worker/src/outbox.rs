//! What must leave a lane: here, subscriptions that were disabled.
//!
//! The script that disables a subscription in its lane leaves a note in the lane's outbox. Any worker
//! carries it out: the record is changed, `subscription.disabled` is published on `postroad.events`, and the
//! note goes. Each step may be repeated: the change is made only while the record still says active, and the
//! event's id comes from the note.

use std::sync::Arc;

use bytes::Bytes;
use postroad_model::{
    id::{MessageId, SubscriptionId},
    message::{Message, Metadata, Payload, PayloadKind, Priority},
    names::{ChannelName, NameError, RoutingKey, ServiceName},
    subscription::{Status, Subscription},
    time::Time,
};
use postroad_store::{Acceptance, IdKey, OutboxEntry, StoreError, entry::Entry};
use serde_json::json;
use tracing::{error, warn};

use crate::shared::Shared;

/// The channel on which Postroad tells of itself.
const EVENTS: &str = "postroad.events";

/// Carries out what lies in the outboxes of lanes.
pub async fn empty(shared: &Shared, lanes: &[u16]) -> Result<(), StoreError> {
    for entry in shared.store.outbox(lanes).await? {
        if entry.kind == "disabled" {
            disabled(shared, &entry).await?;
        } else {
            error!(lane = entry.lane, kind = entry.kind, "dropped an outbox entry of unknown kind");
        }
        shared.store.outbox_done(&entry).await?;
    }
    Ok(())
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
    };
    let window_ms = u64::try_from(shared.config.retention.as_millis()).unwrap_or(u64::MAX);
    let mut answers = shared.store.accept(&[(partition, vec![acceptance])], window_ms).await?;
    answers.pop().unwrap_or(Ok(Vec::new())).map(drop)
}
