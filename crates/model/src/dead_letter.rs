//! Copies of dead letters, as RabbitMQ's dead-letter exchanges make them.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::{
    delivery::DeadReason,
    id::{MessageId, SubscriptionId},
    message::{Message, Metadata},
    names::ChannelName,
    time::Time,
};

/// How a delivery died.
#[derive(Debug, Clone)]
pub struct Death {
    /// The subscription whose delivery it was.
    pub subscription: SubscriptionId,
    /// Why.
    pub reason: DeadReason,
    /// When, by Redis's clock.
    pub at: Time,
    /// The dead letter's id among its subscription's: the copy's id comes from it.
    pub letter: String,
}

/// The most entries of `x-death`; the oldest go.
const MOST_DEATHS: usize = 32;

/// The copy of a dead letter that is published on `channel`, with RabbitMQ's headers: `x-death` (newest first, one
/// entry per queue and reason, with a count), `x-first-death-*`, `x-last-death-*`. Its time to live is over: it has
/// none.
///
/// `None` where it goes in circles: it died of this subscription before, and nobody rejected it on the way.
pub fn copy_of(message: &Message, channel: &ChannelName, death: &Death) -> Option<Message> {
    let mut headers = message.metadata.headers.clone();
    let reason = word(death.reason);
    let mut deaths = match headers.remove("x-death") {
        Some(Value::Array(deaths)) => deaths,
        _ => Vec::new(),
    };
    let is = |entry: &Value, name: &str, text: &str| entry[name].as_str() == Some(text);
    let queue = death.subscription.as_str();
    // The circle is what has happened since it was here last, that death included.
    if let Some(here) = deaths.iter().position(|entry| is(entry, "queue", queue)) {
        let was_rejected =
            reason == "rejected" || deaths[..=here].iter().any(|entry| is(entry, "reason", "rejected"));
        if !was_rejected {
            return None;
        }
    }
    let known = deaths.iter().position(|entry| is(entry, "queue", queue) && is(entry, "reason", reason));
    let mut newest = known.map_or_else(|| first_death(message, death), |at| deaths.remove(at));
    newest["count"] = json!(newest["count"].as_u64().unwrap_or(0).saturating_add(1));
    deaths.insert(0, newest);
    deaths.truncate(MOST_DEATHS);
    mark(&mut headers, "first", message, death, false);
    mark(&mut headers, "last", message, death, true);
    headers.entry("x-original-message-id").or_insert_with(|| json!(message.id));
    headers.insert("x-death".to_owned(), Value::Array(deaths));

    let id = MessageId::new(&format!("dlq_{queue}_{}", death.letter)).ok()?;
    let metadata = Metadata {
        message_id: id.clone(),
        ttl: None,
        timestamp: death.at,
        headers,
        ..message.metadata.clone()
    };
    Some(Message {
        id,
        channel: channel.clone(),
        persistent: true,
        expires_after_ms: None,
        generation: 0,
        targets: Arc::from([]),
        test: false,
        metadata,
        ..message.clone()
    })
}

fn first_death(message: &Message, death: &Death) -> Value {
    let mut entry = json!({
        "queue": death.subscription,
        "reason": word(death.reason),
        "count": 0,
        "time": death.at,
        "exchange": message.channel,
        "routing-keys": [message.routing_key.as_ref().map_or("", |key| key.as_str())],
    });
    if let Some(ttl) = message.metadata.ttl {
        entry["original-expiration"] = json!(ttl.saturating_mul(1_000).to_string());
    }
    entry
}

fn mark(headers: &mut Map<String, Value>, which: &str, message: &Message, death: &Death, anew: bool) {
    for (what, value) in [
        ("queue", json!(death.subscription)),
        ("reason", json!(word(death.reason))),
        ("exchange", json!(message.channel)),
    ] {
        let name = format!("x-{which}-death-{what}");
        if anew || !headers.contains_key(&name) {
            headers.insert(name, value);
        }
    }
}

/// RabbitMQ's word for it.
fn word(reason: DeadReason) -> &'static str {
    match reason {
        DeadReason::Rejected => "rejected",
        DeadReason::Expired => "expired",
        DeadReason::Maxlen | DeadReason::QueueFull => "maxlen",
        DeadReason::RetriesExhausted | DeadReason::WorkerLost | DeadReason::Undecodable => "delivery_limit",
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        message::{Payload, PayloadKind, Priority},
        names::{RoutingKey, ServiceName, Tenant},
    };

    fn message() -> Message {
        let id = MessageId::new("order-1").unwrap();
        Message {
            tenant: Tenant::single(),
            id: id.clone(),
            channel: ChannelName::new("orders").unwrap(),
            routing_key: Some(RoutingKey::new("order.created").unwrap()),
            ordering_key: None,
            service: ServiceName::new("shop").unwrap(),
            priority: Priority::High,
            persistent: false,
            expires_after_ms: Some(7_000),
            generation: 2,
            targets: Arc::from([]),
            test: false,
            trace: None,
            metadata: Metadata {
                message_id: id,
                correlation_id: Some("c".into()),
                reply_to: None,
                content_type: "text/plain".into(),
                content_encoding: None,
                priority: Priority::High,
                ttl: Some(7),
                timestamp: Time::from_millis(1),
                headers: Map::from_iter([("own".to_owned(), json!(1))]),
            },
            payload: Payload { kind: PayloadKind::Text, body: Bytes::from_static(b"hello") },
        }
    }

    fn death(subscription: &str, reason: DeadReason, letter: &str) -> Death {
        let subscription = SubscriptionId::new(subscription).unwrap();
        Death { subscription, reason, at: Time::from_millis(1_000), letter: letter.into() }
    }

    fn dead() -> ChannelName {
        ChannelName::new("orders.dead").unwrap()
    }

    #[test]
    fn a_copy_says_where_it_died() {
        let copy = copy_of(&message(), &dead(), &death("sub_a", DeadReason::Expired, "5-0")).unwrap();
        assert_eq!((copy.id.as_str(), copy.channel.as_str()), ("dlq_sub_a_5-0", "orders.dead"));
        assert_eq!((copy.persistent, copy.generation, copy.metadata.ttl), (true, 0, None));
        assert_eq!(copy.expires_after_ms, None);
        assert_eq!((&copy.payload, copy.priority), (&message().payload, Priority::High));
        assert_eq!(copy.metadata.message_id, copy.id);
        assert_eq!(
            Value::Object(copy.metadata.headers),
            json!({
                "own": 1,
                "x-original-message-id": "order-1",
                "x-first-death-queue": "sub_a", "x-first-death-reason": "expired", "x-first-death-exchange": "orders",
                "x-last-death-queue": "sub_a", "x-last-death-reason": "expired", "x-last-death-exchange": "orders",
                "x-death": [{
                    "queue": "sub_a", "reason": "expired", "count": 1, "time": "1970-01-01T00:00:01.000Z",
                    "exchange": "orders", "routing-keys": ["order.created"], "original-expiration": "7000",
                }],
            })
        );
    }

    #[test]
    fn deaths_are_counted_newest_first_and_the_first_stays() {
        let first = copy_of(&message(), &dead(), &death("sub_a", DeadReason::Rejected, "1-0")).unwrap();
        let second = copy_of(&first, &dead(), &death("sub_b", DeadReason::Maxlen, "2-0")).unwrap();
        let third = copy_of(&second, &dead(), &death("sub_a", DeadReason::Rejected, "3-0")).unwrap();
        let headers = Value::Object(third.metadata.headers);
        let deaths: Vec<(&str, &str, u64)> = headers["x-death"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| {
                (
                    entry["queue"].as_str().unwrap(),
                    entry["reason"].as_str().unwrap(),
                    entry["count"].as_u64().unwrap(),
                )
            })
            .collect();
        assert_eq!(deaths, [("sub_a", "rejected", 2), ("sub_b", "maxlen", 1)]);
        assert_eq!(headers["x-first-death-queue"], "sub_a");
        assert_eq!(headers["x-last-death-queue"], "sub_a");
        assert_eq!(headers["x-original-message-id"], "order-1");
    }

    #[test]
    fn what_goes_in_circles_ends() {
        let once =
            copy_of(&message(), &dead(), &death("sub_a", DeadReason::RetriesExhausted, "1-0")).unwrap();
        let other = copy_of(&once, &dead(), &death("sub_b", DeadReason::Expired, "2-0")).unwrap();
        assert!(copy_of(&other, &dead(), &death("sub_a", DeadReason::RetriesExhausted, "3-0")).is_none());
        assert!(copy_of(&other, &dead(), &death("sub_a", DeadReason::Rejected, "3-0")).is_some());
        // What was rejected before the circle began does not keep it going.
        let rejected = copy_of(&message(), &dead(), &death("sub_c", DeadReason::Rejected, "1-0")).unwrap();
        let once = copy_of(&rejected, &dead(), &death("sub_a", DeadReason::Expired, "2-0")).unwrap();
        assert!(copy_of(&once, &dead(), &death("sub_a", DeadReason::Expired, "3-0")).is_none());
    }

    #[test]
    fn headers_of_others_do_no_harm() {
        for strange in [json!("x"), json!([1, "a", null, { "queue": 7 }]), json!({})] {
            let mut message = message();
            message.metadata.headers.insert("x-death".into(), strange);
            assert!(copy_of(&message, &dead(), &death("sub_a", DeadReason::Expired, "1-0")).is_some());
        }
    }

    #[test]
    fn there_is_a_bound() {
        let mut message = message();
        for n in 0..40 {
            let subscription = format!("sub_{n}");
            message = copy_of(&message, &dead(), &death(&subscription, DeadReason::Expired, "1-0")).unwrap();
        }
        assert_eq!(message.metadata.headers["x-death"].as_array().unwrap().len(), MOST_DEATHS);
    }
}
