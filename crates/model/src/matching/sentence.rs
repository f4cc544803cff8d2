//! Why a message is wanted or not, in words for people.

use super::{Candidate, ChannelType, HeaderMatch, Mismatch};
use crate::subscription::{Channels, Selector};

/// The longest part of a pattern or a value that is repeated, in characters.
const SHOWN: usize = 80;

/// One sentence without a full stop on what [`explain`](super::explain) found.
pub fn sentence(selector: &Selector, candidate: &Candidate<'_>, found: Result<(), Mismatch>) -> String {
    let channel = candidate.channel;
    match found {
        Ok(()) => matched(selector, candidate.channel_type),
        Err(Mismatch::Channel) => {
            format!("it listens to channel {}, and the message is on {channel:?}", named(selector))
        }
        Err(Mismatch::ChannelPattern) => {
            format!("channel_pattern {} does not match the channel {channel:?}", named(selector))
        }
        Err(Mismatch::RoutingKey) => {
            let wanted = selector.routing_key.as_ref().map_or("", |pattern| pattern.as_str());
            let (wanted, key) = (quoted(wanted), quoted(candidate.routing_key.unwrap_or_default()));
            match candidate.channel_type {
                ChannelType::Direct => {
                    format!("routing_key {wanted} is not {key}: on a direct channel both must be the same")
                }
                _ => format!("routing_key {wanted}, read as a topic pattern, does not match {key}"),
            }
        }
        Err(Mismatch::HeaderMatch) => {
            selector.header_match.as_ref().map_or_else(String::new, |wanted| header(wanted, candidate))
        }
        Err(Mismatch::FilterCriteria) if candidate.payload.is_none() => {
            "filter_criteria looks at JSON objects, and the payload is none".to_owned()
        }
        Err(Mismatch::FilterCriteria) => "filter_criteria does not match the payload".to_owned(),
    }
}

fn matched(selector: &Selector, channel_type: ChannelType) -> String {
    let ignored = matches!(channel_type, ChannelType::Fanout | ChannelType::Headers);
    let mut names = vec![match selector.channels {
        Channels::Channel(_) => "channel",
        Channels::Pattern(_) => "channel_pattern",
    }];
    names.extend(selector.routing_key.as_ref().filter(|_| !ignored).map(|_| "routing_key"));
    names.extend(selector.header_match.as_ref().map(|_| "header_match"));
    names.extend(selector.filter_criteria.as_ref().map(|_| "filter_criteria"));
    let mut sentence = format!("everything that it names matches: {}", names.join(", "));
    if ignored && selector.routing_key.is_some() {
        sentence.push_str(&format!("; routing_key is not looked at on a {} channel", channel_type.as_str()));
    }
    sentence
}

/// Which header is not as it should be.
fn header(wanted: &HeaderMatch, candidate: &Candidate<'_>) -> String {
    if !wanted.needs_all() {
        return "none of the headers that header_match considers is as it asks".to_owned();
    }
    let Some(wrong) = wanted.conditions().iter().find(|condition| !condition.holds(candidate.headers)) else {
        return String::new();
    };
    match &wrong.value {
        None => format!("header_match asks for a header {}, and there is none", quoted(&wrong.name)),
        Some(value) => {
            format!("header {} is not {}, as header_match asks", quoted(&wrong.name), quoted(value))
        }
    }
}

fn named(selector: &Selector) -> String {
    quoted(match &selector.channels {
        Channels::Channel(name) => name.as_str(),
        Channels::Pattern(glob) => glob.as_str(),
    })
}

fn quoted(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value, json};

    use super::*;
    use crate::{
        matching::explain,
        names::{ChannelName, Tenant},
    };

    #[test]
    fn a_sentence_says_what_decided() {
        let table = [
            (
                json!({"channel": "news"}),
                "topic",
                r#"it listens to channel "news", and the message is on "orders""#,
            ),
            (
                json!({"pattern": "n*"}),
                "topic",
                r#"channel_pattern "n*" does not match the channel "orders""#,
            ),
            (
                json!({"channel": "orders", "routing_key": "b.#"}),
                "topic",
                r#"routing_key "b.#", read as a topic pattern, does not match "a.b""#,
            ),
            (
                json!({"channel": "orders", "routing_key": "a.*"}),
                "direct",
                r#"routing_key "a.*" is not "a.b": on a direct channel both must be the same"#,
            ),
            (
                json!({"pattern": "o*", "routing_key": "b", "header_match": {"kind": "new"}}),
                "headers",
                "everything that it names matches: channel_pattern, header_match; routing_key is not looked at on a headers channel",
            ),
            (
                json!({"channel": "orders", "header_match": {"kind": "new", "size": 7}}),
                "topic",
                r#"header "size" is not "7", as header_match asks"#,
            ),
            (
                json!({"channel": "orders", "header_match": {"size": null}}),
                "topic",
                r#"header_match asks for a header "size", and there is none"#,
            ),
            (
                json!({"channel": "orders", "header_match": {"x-match": "any", "size": null}}),
                "topic",
                "none of the headers that header_match considers is as it asks",
            ),
            (
                json!({"channel": "orders", "filter_criteria": {"n": [2]}}),
                "topic",
                "filter_criteria does not match the payload",
            ),
            (
                json!({"channel": "orders", "routing_key": "a.*", "filter_criteria": {"n": [1]}}),
                "topic",
                "everything that it names matches: channel, routing_key, filter_criteria",
            ),
            (
                json!({"channel": "orders", "routing_key": "ä".repeat(100)}),
                "topic",
                &format!(
                    "routing_key {:?}…, read as a topic pattern, does not match \"a.b\"",
                    "ä".repeat(80)
                ),
            ),
        ];
        let headers: Map<String, Value> = serde_json::from_value(json!({"kind": "new"})).unwrap();
        for (fields, channel_type, expected) in table {
            let selector: Selector = serde_json::from_value(fields.clone()).unwrap();
            let candidate = Candidate {
                tenant: &Tenant::single(),
                channel: &ChannelName::new("orders").unwrap(),
                channel_type: serde_json::from_value(json!(channel_type)).unwrap(),
                routing_key: Some("a.b"),
                headers: &headers,
                payload: Some(br#"{"n":1}"#),
            };
            assert_eq!(sentence(&selector, &candidate, explain(&selector, &candidate)), expected, "{fields}");
            if selector.filter_criteria.is_some() {
                let candidate = Candidate { payload: None, ..candidate };
                let said = sentence(&selector, &candidate, explain(&selector, &candidate));
                assert_eq!(said, "filter_criteria looks at JSON objects, and the payload is none");
            }
        }
    }
}
