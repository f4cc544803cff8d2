//! `native`: `MessageDelivery` as JSON.

use postroad_model::message_delivery;

use super::Sending;
use crate::targets::Target;

/// The media type of a delivery, and of a batch of them.
pub(super) const ONE: &str = "application/json";

/// A delivery, with the payload byte for byte as it was published.
pub(super) fn delivery(target: &Target, Sending { message, attempt }: Sending<'_>, now_ms: u64) -> Vec<u8> {
    let mut body = Vec::new();
    message_delivery::write(&mut body, &target.subscription, message, attempt, now_ms);
    body
}
