//! `MessageDelivery`: what a subscriber gets in the `native` format, pushed or pulled.

use std::io::Write;

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::{
    message::{Message, PayloadKind},
    names::{OrderingKey, RoutingKey},
    subscription::Subscription,
    time::Time,
};

/// Appends a delivery as JSON, with the payload byte for byte as it was published. `attempt` counts from 1;
/// `now_ms` is the clock of whoever delivers.
pub fn write(body: &mut Vec<u8>, subscription: &Subscription, message: &Message, attempt: u32, now_ms: u64) {
    let payload = &message.payload.body;
    body.reserve(payload.len() + 800);
    // Writing to a vector does not fail; ids and channel names hold nothing that JSON would escape.
    let _ = write!(
        body,
        r#"{{"message_id":"{}","subscription_id":"{}","channel":"{}","payload":"#,
        message.id, subscription.id, message.channel
    );
    match message.payload.kind {
        PayloadKind::Json => body.extend_from_slice(payload),
        PayloadKind::Text => {
            let _ = serde_json::to_writer(&mut *body, &String::from_utf8_lossy(payload));
        }
        PayloadKind::Bytes => {
            let _ = write!(body, "\"{}\"", STANDARD.encode(payload));
        }
    }
    body.extend_from_slice(br#","metadata":"#);
    let _ = serde_json::to_writer(&mut *body, &message.metadata);
    let _ = write!(
        body,
        r#","delivery_attempt":{attempt},"max_attempts":{},"delivered_at":"{}""#,
        subscription.retry.max_attempts(),
        Time::from_millis(now_ms)
    );
    for (name, key) in [
        ("routing_key", message.routing_key.as_ref().map(RoutingKey::as_str)),
        ("ordering_key", message.ordering_key.as_ref().map(OrderingKey::as_str)),
    ] {
        if let Some(key) = key {
            let _ = write!(body, r#","{name}":"#);
            let _ = serde_json::to_writer(&mut *body, key);
        }
    }
    body.push(b'}');
}
