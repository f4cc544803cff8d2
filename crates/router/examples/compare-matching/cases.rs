//! The pairs that are compared.

use std::sync::Arc;

use bytes::Bytes;
use postroad_model::{
    glob::Glob,
    id::MessageId,
    matching::{ChannelType, HeaderMatch},
    message::{Message, Metadata, Payload, PayloadKind, Priority},
    names::{ChannelName, RoutingKey, ServiceName, Tenant},
    subscription::Subscription,
    time::Time,
    topic::TopicPattern,
};
use serde_json::{Map, Value, json};

use crate::random::Random;

/// Subscriptions of one kind, each of which is asked about each of the messages.
pub(crate) struct Set {
    pub(crate) name: &'static str,
    /// Whose answers count.
    pub(crate) against: &'static str,
    pub(crate) channel_type: ChannelType,
    pub(crate) subscriptions: Vec<Arc<Subscription>>,
    pub(crate) messages: Vec<Message>,
}

/// So many subscriptions has a set.
const SUBSCRIPTIONS: u64 = 250;

/// What has its equal in RabbitMQ.
pub(crate) fn exchanges(random: &mut Random, pairs: u64) -> Vec<Set> {
    use ChannelType::{Direct, Fanout, Headers, Topic};
    let kinds = [
        ("topic", Topic, None),
        ("direct", Direct, None),
        ("fanout", Fanout, None),
        ("headers all", Headers, Some("all")),
        ("headers any", Headers, Some("any")),
        ("headers all-with-x", Headers, Some("all-with-x")),
        ("headers any-with-x", Headers, Some("any-with-x")),
        ("headers by default", Headers, Some("")),
    ];
    kinds
        .into_iter()
        .map(|(name, channel_type, mode)| {
            set((name, "RabbitMQ"), channel_type, pairs, random, |random| {
                let mut selector = json!({ "channel": "c", "routing_key": pattern(random) });
                if let Some(mode) = mode {
                    selector["header_match"] = json!(wanted(random, mode));
                }
                let headers = if mode.is_some() { sent(random) } else { Map::new() };
                (selector, message("c", &key(random), headers))
            })
        })
        .collect()
}

/// What Redis has to say about.
pub(crate) fn patterns(random: &mut Random, pairs: u64) -> Set {
    set(("channel_pattern", "Redis"), ChannelType::Fanout, pairs, random, |random| {
        (json!({ "pattern": glob(random) }), message(&channel(random), "", Map::new()))
    })
}

fn set(
    (name, against): (&'static str, &'static str),
    channel_type: ChannelType,
    pairs: u64,
    random: &mut Random,
    mut pair: impl FnMut(&mut Random) -> (Value, Message),
) -> Set {
    let subscriptions =
        (0..SUBSCRIPTIONS).map(|n| subscription(&format!("sub_{n}"), &pair(random).0)).collect();
    let messages = (0..pairs.div_ceil(SUBSCRIPTIONS)).map(|_| pair(random).1).collect();
    Set { name, against, channel_type, subscriptions, messages }
}

fn subscription(id: &str, selector: &Value) -> Arc<Subscription> {
    let mut whole = json!({
        "id": id, "tenant": Tenant::single(), "service_name": "s", "secrets": [],
        "retry": {"max_retries": 0, "retry_delay_ms": 0, "backoff_multiplier": 1.0},
        "auto_ack": true, "ack_timeout": 30, "batch_size": 1, "prefetch_count": 1, "status": "active",
        "created_at": Time::default(), "updated_at": Time::default(),
    });
    for (name, value) in selector.as_object().into_iter().flatten() {
        whole[name] = value.clone();
    }
    Arc::new(serde_json::from_value(whole).expect("a selector that was checked"))
}

fn message(channel: &str, key: &str, headers: Map<String, Value>) -> Message {
    let name = "names that were checked";
    let id = MessageId::new("m").expect(name);
    Message {
        tenant: Tenant::single(),
        id: id.clone(),
        channel: ChannelName::new(channel).expect(name),
        routing_key: Some(RoutingKey::new(key).expect(name)),
        ordering_key: None,
        service: ServiceName::new("s").expect(name),
        priority: Priority::Normal,
        persistent: true,
        expires_after_ms: None,
        generation: 0,
        test: false,
        targets: Arc::new([]),
        trace: None,
        metadata: Metadata {
            message_id: id,
            correlation_id: None,
            reply_to: None,
            content_type: String::new(),
            content_encoding: None,
            priority: Priority::Normal,
            ttl: None,
            timestamp: Time::default(),
            headers,
        },
        payload: Payload { kind: PayloadKind::Text, body: Bytes::new() },
    }
}

/// Words that often meet: letters, empty words, wildcards as words and inside of words.
fn words(random: &mut Random, from: &[&str]) -> String {
    let count = random.below(6);
    (0..count).map(|_| *random.pick(from)).collect::<Vec<_>>().join(".")
}

fn pattern(random: &mut Random) -> String {
    const FROM: [&str; 13] = ["a", "b", "a", "b", "ab", "", "*", "*", "#", "#", "a*", "##", "*#"];
    loop {
        let text = words(random, &FROM);
        if TopicPattern::new(&text).is_ok() {
            return text;
        }
    }
}

fn key(random: &mut Random) -> String {
    const FROM: [&str; 11] = ["a", "b", "a", "b", "ab", "", "*", "#", "a*", "##", "ä"];
    words(random, &FROM)
}

/// A header's name says its type.
fn header(random: &mut Random) -> (String, Value) {
    let name = *random.pick(&["a", "b", "n", "flag", "x-a", "x-n", "x"]);
    let value = match name {
        "n" | "x-n" => json!(random.below(2)),
        "flag" => json!(random.below(2) == 0),
        _ => json!(*random.pick(&["1", "2", ""])),
    };
    (name.to_owned(), value)
}

fn wanted(random: &mut Random, mode: &str) -> Map<String, Value> {
    loop {
        let count = random.below(4);
        let mut wanted: Map<String, Value> = (0..count).map(|_| header(random)).collect();
        for value in wanted.values_mut() {
            if random.below(5) == 0 {
                *value = Value::Null;
            }
        }
        if !mode.is_empty() {
            wanted.insert("x-match".into(), json!(mode));
        }
        if HeaderMatch::new(wanted.clone()).is_ok() {
            return wanted;
        }
    }
}

fn sent(random: &mut Random) -> Map<String, Value> {
    let count = random.below(6);
    let mut sent: Map<String, Value> = (0..count).map(|_| header(random)).collect();
    for value in sent.values_mut() {
        match random.below(12) {
            0 => *value = Value::Null,
            1 => *value = json!(["1"]),
            2 => *value = json!({ "a": "1" }),
            _ => {}
        }
    }
    sent
}

fn glob(random: &mut Random) -> String {
    const FROM: [&str; 24] = [
        "a", "b", "c", ".", "-", "a", "b", "*", "*", "?", "?", "**", "[ab]", "[^a]", "[a-c]", "[c-a]",
        "[^a-b]", "\\", "\\*", "[", "]", "^", "[]", "ä",
    ];
    loop {
        let count = 1 + random.below(7);
        let text: String = (0..count).map(|_| *random.pick(&FROM)).collect();
        if Glob::new(&text).is_ok() {
            return text;
        }
    }
}

fn channel(random: &mut Random) -> String {
    const FROM: [&str; 10] = ["a", "b", "c", "a", "b", ".", "-", "A", ":", "/"];
    loop {
        let count = 1 + random.below(6);
        let text: String = (0..count).map(|_| *random.pick(&FROM)).collect();
        if ChannelName::new(&text).is_ok() {
            return text;
        }
    }
}
