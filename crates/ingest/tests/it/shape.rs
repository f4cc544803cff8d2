//! What the reference documents say of answers, as data: each model's fields and their types.

#![allow(unreachable_pub, reason = "all of it is for the tests beside it")]

use serde_json::Value;

use crate::kit::is_time;

/// What a field holds.
#[derive(Debug, Clone, Copy)]
pub enum Is {
    /// `str`.
    Text,
    /// `datetime`: RFC 3339 in UTC.
    Time,
    /// `bool`.
    Flag,
    /// `int`: also spelled as one.
    Whole,
    /// `float`: any number.
    Number,
    /// `Dict[str, Any]`, `Dict[str, str]`, `jsonb`.
    Map,
    /// A text that is one of these.
    Word(&'static [&'static str]),
    /// A number and its unit, such as `5ms`, `99.9%`, `500MB`.
    Measure(&'static [&'static str]),
    /// `Union[Dict[str, Any], str]`.
    Payload,
    /// `Optional[…]`: there, and null where there is none.
    Maybe(&'static Is),
    /// `List[…]`, with something in it.
    List(&'static Is),
    /// One of the models below.
    A(Model),
}

/// Fields and what they hold.
pub type Model = &'static [(&'static str, Is)];

use Is::{A, Flag, List, Map, Maybe, Measure, Number, Payload, Text, Time, Whole, Word};

const TEXT: Is = Maybe(&Text);
const SOMETIME: Is = Maybe(&Time);
const COUNT: Is = Maybe(&Whole);

// ---- The messaging service.

pub const MESSAGE_METADATA: Model = &[
    ("message_id", Text),
    ("correlation_id", TEXT),
    ("reply_to", TEXT),
    ("content_type", Text),
    ("content_encoding", TEXT),
    ("priority", Word(&["low", "normal", "high", "critical"])),
    ("ttl", COUNT),
    ("timestamp", Time),
    ("headers", Map),
];

pub const PUBLISH_MESSAGE_RESPONSE: Model = &[
    ("success", Flag),
    ("message_id", Text),
    ("channel", Text),
    ("timestamp", Time),
    ("correlation_id", Text),
    ("error", TEXT),
];

pub const BULK_PUBLISH_RESPONSE: Model = &[
    ("success", Flag),
    ("published_count", Whole),
    ("failed_count", Whole),
    ("results", List(&A(PUBLISH_MESSAGE_RESPONSE))),
];

const SUBSCRIPTION_STATUS: Is = Word(&["active", "paused", "disabled", "cancelled"]);

pub const SUBSCRIPTION_RESPONSE: Model = &[
    ("success", Flag),
    ("subscription_id", Text),
    ("channel", TEXT),
    ("channel_pattern", TEXT),
    ("service_name", Text),
    ("status", SUBSCRIPTION_STATUS),
    ("created_at", Time),
    ("error", TEXT),
];

pub const SUBSCRIPTION_INFO: Model = &[
    ("subscription_id", Text),
    ("channel_pattern", Text),
    ("service_name", Text),
    ("status", SUBSCRIPTION_STATUS),
    ("callback_url", TEXT),
    ("max_delivery_attempts", Whole),
    ("ack_timeout", Whole),
    ("batch_size", Whole),
    ("auto_ack", Flag),
    ("created_at", Time),
    ("last_activity", SOMETIME),
    ("message_count", Whole),
    ("error_count", Whole),
];

pub const MESSAGE_DELIVERY: Model = &[
    ("message_id", Text),
    ("subscription_id", Text),
    ("channel", Text),
    ("payload", Payload),
    ("metadata", A(MESSAGE_METADATA)),
    ("delivery_attempt", Whole),
    ("max_attempts", Whole),
    ("delivered_at", Time),
];

pub const CHANNEL_INFO: Model = &[
    ("name", Text),
    ("subscriber_count", Whole),
    ("message_count", Whole),
    ("last_activity", SOMETIME),
    ("created_at", Time),
];

pub const CHANNEL_STATS: Model = &[
    ("name", Text),
    ("messages_published", Whole),
    ("messages_delivered", Whole),
    ("messages_failed", Whole),
    ("active_subscriptions", Whole),
    ("avg_delivery_time", Number),
    ("last_24h_activity", Whole),
];

pub const EVENT_RESPONSE: Model = &[
    ("success", Flag),
    ("event_id", Text),
    ("event_type", Text),
    ("published_at", Time),
    ("channels", List(&Text)),
    ("error", TEXT),
];

pub const COMMAND_RECEIPT: Model = &[
    ("success", Flag),
    ("command_id", Text),
    ("timestamp", Time),
    ("correlation_id", Text),
    ("error", TEXT),
];

pub const HEALTH_RESPONSE: Model = &[
    ("status", Text),
    ("timestamp", Time),
    ("redis_connected", Flag),
    ("active_subscriptions", Whole),
    ("active_channels", Whole),
    ("uptime_seconds", Number),
    ("version", Text),
    ("environment", Text),
    ("service_name", Text),
    ("error", TEXT),
    ("correlation_id", Text),
];

pub const METRICS_RESPONSE: Model = &[
    ("service_name", Text),
    ("timestamp", Time),
    ("total_messages_published", Whole),
    ("total_messages_delivered", Whole),
    ("total_messages_failed", Whole),
    ("active_subscriptions", Whole),
    ("active_channels", Whole),
    ("redis_memory_usage", COUNT),
    ("avg_message_size", Number),
    ("messages_per_second", Number),
    ("error_rate", Number),
];

pub const ERROR_RESPONSE: Model = &[
    ("error", Text),
    ("error_code", TEXT),
    ("timestamp", Time),
    ("request_id", TEXT),
    ("details", Maybe(&Map)),
];

// ---- The message queue service.

pub const QUEUE_PUBLISHED: Model = &[
    ("message_id", Text),
    ("queue", Text),
    ("routing_key", Text),
    ("published", Flag),
    ("published_at", Time),
    ("ttl", Whole),
    ("persistent", Flag),
];

pub const QUEUE_SUBSCRIBED: Model = &[
    ("subscription_id", Text),
    ("queue", Text),
    ("routing_key", Text),
    ("callback_url", Text),
    ("status", Word(&["active"])),
    ("created_at", Time),
    ("retry_policy", A(&[("max_retries", Whole), ("retry_delay", Whole), ("backoff_multiplier", Whole)])),
    ("dead_letter_queue", Text),
    ("prefetch_count", Whole),
];

const MS: Is = Measure(&["ms"]);

const STATISTICS: Model = &[
    ("messages_published", Whole),
    ("messages_consumed", Whole),
    ("messages_acknowledged", Whole),
    ("messages_rejected", Whole),
    ("messages_redelivered", Whole),
];

const PERFORMANCE: Model =
    &[("average_publish_time", MS), ("average_consume_time", MS), ("throughput_per_second", Number)];

pub const QUEUE_STATUS: Model = &[
    ("queue", Text),
    ("status", Word(&["active", "inactive"])),
    ("message_count", Whole),
    ("consumer_count", Whole),
    ("durable", Flag),
    ("auto_delete", Flag),
    ("exclusive", Flag),
    ("arguments", A(&[("x-message-ttl", Whole), ("x-max-length", Whole)])),
    ("statistics", A(STATISTICS)),
    ("performance", A(PERFORMANCE)),
    ("created_at", Time),
    ("last_updated", Time),
];

pub const QUEUE_MESSAGE: Model = &[
    ("message_id", Text),
    ("queue", Text),
    ("routing_key", Text),
    ("message", Map),
    ("headers", A(&[("content_type", Text), ("priority", Text), ("retry_count", Whole)])),
    ("status", Text),
    ("published_at", Time),
    ("consumed_at", SOMETIME),
    ("acknowledged_at", SOMETIME),
    ("ttl", Whole),
    ("persistent", Flag),
    ("retry_count", Whole),
    ("redelivery_count", Whole),
];

pub const QUEUE_ACKNOWLEDGED: Model = &[
    ("message_id", Text),
    ("acknowledged", Flag),
    ("acknowledged_at", Time),
    ("acknowledged_by", Text),
    ("processing_time", Whole),
    ("success", Flag),
    ("notes", Text),
];

pub const QUEUE_REJECTED: Model = &[
    ("message_id", Text),
    ("rejected", Flag),
    ("rejected_at", Time),
    ("rejected_by", Text),
    ("reason", Text),
    ("requeued", Flag),
    ("retry_count", Whole),
];

const QUEUE_ROW: Model = &[
    ("queue", Text),
    ("message_count", Whole),
    ("consumer_count", Whole),
    ("messages_published", Whole),
    ("messages_consumed", Whole),
    ("messages_acknowledged", Whole),
    ("messages_rejected", Whole),
    ("messages_redelivered", Whole),
    ("average_publish_time", MS),
    ("average_consume_time", MS),
    ("throughput_per_second", Number),
];

pub const QUEUE_METRICS: Model = &[
    (
        "overview",
        A(&[
            ("total_queues", Whole),
            ("total_messages", Whole),
            ("total_consumers", Whole),
            ("average_throughput", Number),
        ]),
    ),
    ("queue_metrics", List(&A(QUEUE_ROW))),
    (
        "performance",
        A(&[
            ("average_publish_time", MS),
            ("average_consume_time", MS),
            ("p95_publish_time", MS),
            ("p95_consume_time", MS),
            ("p99_publish_time", MS),
            ("p99_consume_time", MS),
        ]),
    ),
    (
        "error_rates",
        A(&[
            ("publish_errors", Number),
            ("consume_errors", Number),
            ("acknowledge_errors", Number),
            ("reject_errors", Number),
        ]),
    ),
    ("generated_at", Time),
];

const IN_USE: Model = &[("total", Whole), ("active", Whole), ("inactive", Whole)];
const SIZE: Is = Measure(&["MB", "GB"]);

pub const QUEUE_HEALTH: Model = &[
    ("status", Text),
    ("version", Text),
    ("uptime", Measure(&["%"])),
    (
        "broker",
        A(&[
            ("status", Text),
            ("type", Text),
            ("version", Text),
            ("memory_usage", SIZE),
            ("disk_usage", SIZE),
        ]),
    ),
    ("queues", A(IN_USE)),
    ("consumers", A(IN_USE)),
    ("performance", A(&[("average_publish_time", MS), ("average_consume_time", MS), ("error_rate", Number)])),
    ("last_updated", Time),
];

const FAULT: Model = &[("field", Text), ("issue", Text)];

/// 400.
pub const QUEUE_INVALID: Model =
    &[("error", Word(&["invalid_message"])), ("message", Text), ("details", A(FAULT))];

/// 404.
pub const QUEUE_NOT_FOUND: Model =
    &[("error", Word(&["queue_not_found"])), ("message", Text), ("details", A(&[("queue", Text)]))];

/// What is wrong with a body by its model, each with the path to it; nothing where it is one.
pub fn faults(body: &Value, model: Model) -> Vec<String> {
    let mut found = Vec::new();
    look(body, A(model), "", &mut found);
    found
}

fn look(value: &Value, is: Is, path: &str, found: &mut Vec<String>) {
    let text = value.as_str().unwrap_or_default();
    let holds = match is {
        Text => !text.is_empty(),
        Time => is_time(value),
        Flag => value.is_boolean(),
        Whole => value.is_i64() || value.is_u64(),
        Number => value.is_number(),
        Map => value.is_object(),
        Payload => value.is_object() || value.is_string(),
        Word(words) => words.contains(&text),
        Measure(units) => units
            .iter()
            .any(|unit| text.strip_suffix(unit).is_some_and(|number| number.parse::<f64>().is_ok())),
        Maybe(is) => {
            if !value.is_null() {
                look(value, *is, path, found);
            }
            true
        }
        List(is) => {
            for (at, value) in value.as_array().into_iter().flatten().enumerate() {
                look(value, *is, &format!("{path}[{at}]"), found);
            }
            value.as_array().is_some_and(|list| !list.is_empty())
        }
        A(model) => {
            for (name, is) in model {
                let path = format!("{path}.{name}");
                match value.get(name) {
                    Some(value) => look(value, *is, &path, found),
                    None => found.push(format!("{path} is missing")),
                }
            }
            value.is_object()
        }
    };
    if !holds {
        found.push(format!("{path} = {value} is no {is:?}"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_wrong_is_found() {
        const INNER: Model = &[("n", Whole)];
        const MODEL: Model = &[
            ("id", Text),
            ("at", Time),
            ("in", A(INNER)),
            ("all", List(&A(INNER))),
            ("took", MS),
            ("note", TEXT),
        ];
        let fine = json!({
            "id": "a", "at": "2024-01-15T12:30:00Z", "in": { "n": 1 }, "all": [{ "n": 1 }], "took": "4.5ms", "note": null,
            "more": true,
        });
        assert_eq!(faults(&fine, MODEL), Vec::<String>::new());
        for (name, value, fault) in [
            ("id", json!(1), ".id"),
            ("id", json!(""), ".id"),
            ("at", json!("yesterday"), ".at"),
            ("at", json!(null), ".at"),
            ("in", json!({}), ".in.n is missing"),
            ("in", json!({ "n": 1.0 }), ".in.n"),
            ("all", json!([]), ".all"),
            ("all", json!([{ "n": 1 }, { "n": "1" }]), ".all[1].n"),
            ("took", json!(4.5), ".took"),
            ("took", json!("4.5s"), ".took"),
            ("note", json!(0), ".note"),
        ] {
            let mut wrong = fine.clone();
            wrong[name] = value;
            let found = faults(&wrong, MODEL);
            assert!(found.len() == 1 && found[0].starts_with(fault), "{wrong}: {found:?}");
        }
        let mut without = fine;
        without.as_object_mut().unwrap().remove("note");
        assert_eq!(faults(&without, MODEL), [".note is missing"]);
    }
}
