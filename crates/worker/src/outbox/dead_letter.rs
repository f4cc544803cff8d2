//! A dead letter of a subscription that names a channel for them: a copy is published there.

use postroad_model::{
    dead_letter::{Death, copy_of},
    delivery::DeadReason,
    id::SubscriptionId,
    names::ChannelName,
    time::Time,
};
use postroad_store::{DeadCopy, DeadLetterId, OutboxEntry, StoreError};
use tracing::{debug, error};

use super::publish;
use crate::shared::Shared;

pub(super) async fn copy(shared: &Shared, entry: &OutboxEntry, copy: &DeadCopy) -> Result<(), StoreError> {
    let (Ok(subscription), Ok(channel), Some(reason)) = (
        SubscriptionId::new(&entry.subscription),
        ChannelName::new(&copy.channel),
        DeadReason::parse(&entry.reason),
    ) else {
        error!(subscription = entry.subscription, "dropped a copy of a dead letter that cannot be read");
        return Ok(());
    };
    // Replayed or purged in this moment there is nothing to copy; what cannot be read stays, with its bytes.
    let id = DeadLetterId { subscription, entry: copy.dead };
    let letter = shared.store.dead_letter(&id).await?;
    let Some(Ok(message)) = letter.map(|letter| letter.entry.decode()) else { return Ok(()) };
    let letter = copy.dead.to_string();
    let at = Time::from_millis(entry.at_ms);
    let death = Death { subscription: id.subscription, reason, at, letter };
    match copy_of(&message, &channel, &death) {
        Some(message) => publish(shared, &message).await,
        None => {
            debug!(message.id = %message.id, "a dead letter goes in circles; no copy of it");
            Ok(())
        }
    }
}
