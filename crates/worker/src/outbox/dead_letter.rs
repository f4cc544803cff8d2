//! A dead letter of a subscription that names a channel for them: a copy is published there.

use postroad_model::{
    dead_letter::{Death, copy_of},
    delivery::DeadReason,
    id::SubscriptionId,
    names::ChannelName,
    time::Time,
};
use postroad_store::{DeadCopy, OutboxEntry, StoreError};
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
    // The dead letter itself stays, with its bytes.
    let Ok(message) = copy.entry.decode() else { return Ok(()) };
    let death = Death { subscription, reason, at: Time::from_millis(entry.at_ms), letter: copy.dead.clone() };
    match copy_of(&message, &channel, &death) {
        Some(message) => publish(shared, &message).await,
        None => {
            debug!(message.id = %message.id, "a dead letter goes in circles; no copy of it");
            Ok(())
        }
    }
}
