//! Does this subscription want this message?
//!
//! It does when all that it names matches: its channel or channel pattern, then `routing_key`,
//! `header_match` and `filter_criteria`, each of which matches everything where it is absent.
//!
//! | channel type | `routing_key` |
//! |---|---|
//! | `topic` | an AMQP topic pattern ([`TopicPattern`]) |
//! | `direct` | the same text |
//! | `fanout`, `headers` | not looked at, as in RabbitMQ |
//!
//! A message without a routing key has the empty one. `header_match` is honoured on every channel: being
//! what `headers` channels are for, it narrows the others. This is the definition; the router's index has
//! to agree with it.

mod header_match;
mod sentence;

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use self::{
    header_match::{Condition, HeaderMatch, MAX_HEADERS, MAX_VALUE_BYTES, canonical},
    sentence::sentence,
};
use crate::{
    filter::Filter,
    message::{Payload, PayloadKind},
    names::{ChannelName, Tenant},
    subscription::{Channels, Selector, Subscription},
    topic::TopicPattern,
};

/// How a channel's messages find their subscriptions: what `routing_key` means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum ChannelType {
    /// By AMQP topic patterns.
    #[default]
    Topic,
    /// By equality.
    Direct,
    /// All of them.
    Fanout,
    /// By headers alone.
    Headers,
}

impl FromStr for ChannelType {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Topic, Self::Direct, Self::Fanout, Self::Headers]
            .into_iter()
            .find(|known| known.as_str() == text)
            .ok_or_else(|| format!("{text:?} is no channel type; topic, direct, fanout and headers are"))
    }
}

impl ChannelType {
    /// As the API writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Topic => "topic",
            Self::Direct => "direct",
            Self::Fanout => "fanout",
            Self::Headers => "headers",
        }
    }
}

/// What matching looks at in a message, published or only thought of.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// The tenant it lives in.
    pub tenant: &'a Tenant,
    /// The channel it was published on.
    pub channel: &'a ChannelName,
    /// That channel's type.
    pub channel_type: ChannelType,
    /// Its routing key.
    pub routing_key: Option<&'a str>,
    /// Its headers, from its metadata.
    pub headers: &'a Map<String, Value>,
    /// Its payload, where filters can look at it; see [`json_view`].
    pub payload: Option<&'a [u8]>,
}

/// The condition that kept a message from a subscription: the first one that did not match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Mismatch {
    /// It is on another channel.
    Channel,
    /// Its channel's name does not match.
    ChannelPattern,
    /// Its routing key does not match.
    RoutingKey,
    /// Its headers do not match.
    HeaderMatch,
    /// Its payload does not match.
    FilterCriteria,
}

impl Mismatch {
    /// As the API writes it: the name of the field in the subscription.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Channel => "channel",
            Self::ChannelPattern => "channel_pattern",
            Self::RoutingKey => "routing_key",
            Self::HeaderMatch => "header_match",
            Self::FilterCriteria => "filter_criteria",
        }
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether a message is wanted. Whose it is, is not looked at; see [`wants`].
pub fn matches(selector: &Selector, candidate: &Candidate<'_>) -> bool {
    explain(selector, candidate).is_ok()
}

/// The same, naming the first condition that does not match, in the order in which [`Mismatch`] lists them.
pub fn explain(selector: &Selector, candidate: &Candidate<'_>) -> Result<(), Mismatch> {
    explain_with(selector, candidate, |filter| {
        candidate.payload.is_some_and(|payload| filter.matches(payload))
    })
}

/// The same for whoever asks for many selectors and has read the payload once: `filter_holds` says whether it
/// satisfies a filter, and the candidate's own is not looked at.
pub fn explain_with(
    selector: &Selector,
    candidate: &Candidate<'_>,
    filter_holds: impl FnOnce(&Filter) -> bool,
) -> Result<(), Mismatch> {
    let require = |holds: bool, otherwise| if holds { Ok(()) } else { Err(otherwise) };
    let (holds, otherwise) = match &selector.channels {
        Channels::Channel(name) => (name == candidate.channel, Mismatch::Channel),
        Channels::Pattern(glob) => (glob.matches(candidate.channel.as_str()), Mismatch::ChannelPattern),
    };
    require(holds, otherwise)?;
    if let Some(pattern) = &selector.routing_key {
        let key = candidate.routing_key.unwrap_or_default();
        require(routing_key_matches(pattern, candidate.channel_type, key), Mismatch::RoutingKey)?;
    }
    if let Some(header_match) = &selector.header_match {
        require(header_match.matches(candidate.headers), Mismatch::HeaderMatch)?;
    }
    if let Some(filter) = &selector.filter_criteria {
        require(filter_holds(filter), Mismatch::FilterCriteria)?;
    }
    Ok(())
}

/// Whether a subscription gets a message: it is the same tenant's, and [`matches()`] it.
pub fn wants(subscription: &Subscription, candidate: &Candidate<'_>) -> bool {
    subscription.tenant == *candidate.tenant && matches(&subscription.selector, candidate)
}

/// Whether a routing key matches, by the type of the channel.
pub fn routing_key_matches(pattern: &TopicPattern, channel_type: ChannelType, key: &str) -> bool {
    match channel_type {
        ChannelType::Topic => pattern.matches(key),
        ChannelType::Direct => pattern.as_str() == key,
        ChannelType::Fanout | ChannelType::Headers => true,
    }
}

/// What filters see of a payload: a JSON payload as it is; text and bytes if they begin like a JSON object,
/// white space aside. Whether they really are one, [`crate::filter::Event::parse`] finds out.
pub fn json_view(payload: &Payload) -> Option<&[u8]> {
    let begins_like_an_object = || payload.body.trim_ascii_start().first() == Some(&b'{');
    let visible = payload.kind == PayloadKind::Json || begins_like_an_object();
    visible.then_some(&*payload.body)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;

    use super::*;

    fn selector(fields: Value) -> Selector {
        serde_json::from_value(fields).unwrap()
    }

    fn object(value: Value) -> Map<String, Value> {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_first_condition_that_fails_is_named() {
        let table = [
            (json!({"channel": "orders"}), Ok(())),
            (json!({"channel": "order"}), Err(Mismatch::Channel)),
            (json!({"pattern": "ord*"}), Ok(())),
            (json!({"pattern": "x*", "routing_key": "nope"}), Err(Mismatch::ChannelPattern)),
            (json!({"channel": "orders", "routing_key": "a.*"}), Ok(())),
            (
                json!({"channel": "orders", "routing_key": "a", "header_match": {"k": "w"}}),
                Err(Mismatch::RoutingKey),
            ),
            (json!({"channel": "orders", "header_match": {"K": "v"}}), Ok(())),
            (
                json!({"channel": "orders", "header_match": {"k": "w"}, "filter_criteria": {"n": [2]}}),
                Err(Mismatch::HeaderMatch),
            ),
            (json!({"channel": "orders", "filter_criteria": {"n": [1]}}), Ok(())),
            (json!({"channel": "orders", "filter_criteria": {"n": [2]}}), Err(Mismatch::FilterCriteria)),
        ];
        let headers = object(json!({"k": "v"}));
        let candidate = Candidate {
            tenant: &Tenant::single(),
            channel: &ChannelName::new("orders").unwrap(),
            channel_type: ChannelType::Topic,
            routing_key: Some("a.b"),
            headers: &headers,
            payload: Some(br#"{"n":1}"#),
        };
        for (fields, expected) in table {
            let selector = selector(fields.clone());
            assert_eq!(explain(&selector, &candidate), expected, "{fields}");
            assert_eq!(matches(&selector, &candidate), expected.is_ok());
        }
        let filtered = selector(json!({"channel": "orders", "filter_criteria": {"n": [1]}}));
        assert!(!matches(&filtered, &Candidate { payload: None, ..candidate }));
    }

    #[test]
    fn the_channel_type_says_what_a_routing_key_is() {
        let table = [
            ("a.*", Some("a.b"), [true, false, true, true]),
            ("a.b", Some("a.b"), [true, true, true, true]),
            ("a.*", Some("a.*"), [true, true, true, true]),
            ("a.b", Some("a.c"), [false, false, true, true]),
            ("a.b", None, [false, false, true, true]),
            ("#", None, [true, false, true, true]),
            ("*", None, [false, false, true, true]),
            ("", None, [true, true, true, true]),
            ("", Some("a"), [false, false, true, true]),
        ];
        let types = [ChannelType::Topic, ChannelType::Direct, ChannelType::Fanout, ChannelType::Headers];
        for (pattern, routing_key, expected) in table {
            let selector = selector(json!({"channel": "c", "routing_key": pattern}));
            for (channel_type, expected) in types.into_iter().zip(expected) {
                let candidate = Candidate {
                    tenant: &Tenant::single(),
                    channel: &ChannelName::new("c").unwrap(),
                    channel_type,
                    routing_key,
                    headers: &Map::new(),
                    payload: None,
                };
                assert_eq!(
                    matches(&selector, &candidate),
                    expected,
                    "{pattern} {routing_key:?} {channel_type:?}"
                );
            }
        }
    }

    #[test]
    fn filters_see_what_looks_like_an_object() {
        let table = [
            (PayloadKind::Json, r#"{"a":1}"#, true),
            (PayloadKind::Text, " \n\t{\"a\":1}", true),
            (PayloadKind::Bytes, "{\"a\":1}", true),
            (PayloadKind::Text, "{no json", true),
            (PayloadKind::Text, "[1]", false),
            (PayloadKind::Text, "text", false),
            (PayloadKind::Bytes, "", false),
        ];
        for (kind, body, expected) in table {
            let payload = Payload { kind, body: Bytes::from_static(body.as_bytes()) };
            assert_eq!(json_view(&payload), expected.then_some(body.as_bytes()), "{kind:?} {body}");
        }
    }

    #[test]
    fn names_in_json_and_in_text_are_the_same() {
        for channel_type in
            [ChannelType::Topic, ChannelType::Direct, ChannelType::Fanout, ChannelType::Headers]
        {
            assert_eq!(json!(channel_type), json!(channel_type.as_str()));
            assert_eq!(channel_type.as_str().parse(), Ok(channel_type));
        }
        assert!("Topic".parse::<ChannelType>().unwrap_err().contains("fanout and headers are"));
        for mismatch in [
            Mismatch::Channel,
            Mismatch::ChannelPattern,
            Mismatch::RoutingKey,
            Mismatch::HeaderMatch,
            Mismatch::FilterCriteria,
        ] {
            assert_eq!(json!(mismatch), json!(mismatch.to_string()));
        }
    }

    #[test]
    fn a_selector_reads_back_as_it_was_written_and_refuses_nonsense() {
        let given = json!({
            "channel": "orders",
            "routing_key": "a.#",
            "header_match": {"x-match": "any", "Region": "eu", "n": null},
            "filter_criteria": {"a": [1, {"prefix": "x"}]},
        });
        assert_eq!(serde_json::to_value(selector(given.clone())).unwrap(), given);
        for bad in [
            json!({"channel": "orders", "routing_key": "#.#.#"}),
            json!({"channel": "orders", "header_match": {"x-match": "nonsense"}}),
            json!({"channel": "orders", "filter_criteria": {}}),
            json!({"pattern": ""}),
        ] {
            assert!(serde_json::from_value::<Selector>(bad.clone()).is_err(), "{bad}");
        }
    }
}
