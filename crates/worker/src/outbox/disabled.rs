//! A subscription that its lane disabled: its record is changed, and `subscription.disabled` is published on
//! `postroad.events`. The change is made only while the record still says active.

use std::sync::Arc;

use bytes::Bytes;
use postroad_model::{
    id::{MessageId, SubscriptionId},
    message::{Message, Metadata, Payload, PayloadKind, Priority},
    names::{ChannelName, NameError, RoutingKey, ServiceName},
    subscription::{Status, Subscription},
    time::Time,
};
use postroad_store::{OutboxEntry, StoreError};
use serde_json::json;
use tracing::{error, warn};

use super::publish;
use crate::shared::Shared;

/// The channel on which Postroad tells of itself.
const EVENTS: &str = "postroad.events";

pub(super) async fn tell(shared: &Shared, entry: &OutboxEntry) -> Result<(), StoreError> {
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
        expires_after_ms: None,
        generation: 0,
        targets: Arc::from([]),
        test: false,
        trace: None,
        metadata,
        payload: Payload { kind: PayloadKind::Json, body: Bytes::from(payload.to_string()) },
    })
}
