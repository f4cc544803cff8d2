//! A channel as somebody configured it.
//!
//! A channel needs no settings: it appears on first use, with the defaults. What is configured is kept as
//! [`ChannelSettings`] under the channel's name, and holds for what is published from then on.

mod arguments;

use serde::{Deserialize, Serialize};

pub use self::arguments::{ArgumentError, Arguments, MAX_ARGUMENTS, MAX_ARGUMENTS_BYTES, Overflow};
use crate::{
    matching::ChannelType,
    names::{ChannelName, Tenant},
    time::Time,
};

/// A channel's settings. Their record in Redis is this, as JSON: fields are added with a default, and never
/// renamed or dropped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChannelSettings {
    /// The tenant it lives in.
    pub tenant: Tenant,
    /// Its name.
    pub name: ChannelName,
    /// How its messages find their subscriptions.
    #[serde(rename = "type", default)]
    pub channel_type: ChannelType,
    /// `false`: its messages are treated as `persistent: false`.
    #[serde(default = "yes")]
    pub durable: bool,
    /// Whether the settings go with the last subscription that names the channel.
    #[serde(default)]
    pub auto_delete: bool,
    /// Whether the subscriptions that name the channel must be one service's.
    #[serde(default)]
    pub exclusive: bool,
    /// Its arguments.
    #[serde(default)]
    pub arguments: Arguments,
    /// When it was first configured.
    pub created_at: Time,
    /// When it was last configured.
    pub updated_at: Time,
}

fn yes() -> bool {
    true
}

impl ChannelSettings {
    /// What holds for a channel that nobody configured.
    pub fn defaults(tenant: Tenant, name: ChannelName) -> Self {
        Self {
            tenant,
            name,
            channel_type: ChannelType::default(),
            durable: true,
            auto_delete: false,
            exclusive: false,
            arguments: Arguments::default(),
            created_at: Time::default(),
            updated_at: Time::default(),
        }
    }

    /// The time to live that the channel gives its messages, in milliseconds: `x-message-ttl`.
    pub fn message_ttl_ms(&self) -> Option<u64> {
        self.arguments.message_ttl_ms()
    }

    /// How many deliveries may wait in each matching subscription's queue: `x-max-length`.
    pub fn max_length(&self) -> Option<u64> {
        self.arguments.max_length()
    }

    /// The most that may wait in a queue before its oldest goes, where that is how it overflows.
    pub fn drop_bound(&self) -> Option<u64> {
        self.max_length().filter(|_| self.publish_bound().is_none())
    }

    /// The same where publishing is refused at that bound, rather than the oldest let go.
    pub fn publish_bound(&self) -> Option<u64> {
        self.max_length().filter(|_| self.arguments.overflow() == Overflow::RejectPublish)
    }

    /// A message's lifetime after its acceptance, in milliseconds: the smaller of what its publisher asked for
    /// and what the channel gives.
    pub fn lifetime_ms(&self, asked_ms: Option<u64>) -> Option<u64> {
        [asked_ms, self.message_ttl_ms()].into_iter().flatten().min()
    }

    /// Whether messages with this wish are kept in the history.
    pub fn keeps(&self, persistent: bool) -> bool {
        persistent && self.durable
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn settings(change: &serde_json::Value) -> ChannelSettings {
        let mut record = json!({
            "tenant": "default", "name": "orders",
            "created_at": "2026-01-01T00:00:00.000Z", "updated_at": "2026-01-02T00:00:00.000Z",
        });
        for (name, value) in change.as_object().unwrap() {
            record[name] = value.clone();
        }
        serde_json::from_value(record).unwrap()
    }

    #[test]
    fn a_record_without_its_members_is_the_default() {
        let (tenant, name) = (Tenant::single(), ChannelName::new("orders").unwrap());
        let read = settings(&json!({}));
        let (created_at, updated_at) = (read.created_at, read.updated_at);
        let defaults = ChannelSettings { created_at, updated_at, ..ChannelSettings::defaults(tenant, name) };
        assert_eq!(read, defaults);
        assert_eq!(
            serde_json::to_value(&read).unwrap(),
            json!({
                "tenant": "default", "name": "orders", "type": "topic", "durable": true, "auto_delete": false,
                "exclusive": false, "arguments": {},
                "created_at": "2026-01-01T00:00:00.000Z", "updated_at": "2026-01-02T00:00:00.000Z",
            })
        );
    }

    #[test]
    fn a_record_reads_back_and_its_future_members_are_passed_over() {
        let given = settings(&json!({
            "type": "headers", "durable": false, "auto_delete": true, "exclusive": true, "shiny": [1],
            "arguments": {"x-message-ttl": 5, "owner": "billing", "x-queue-mode": "lazy"},
        }));
        assert_eq!((given.channel_type, given.durable), (ChannelType::Headers, false));
        assert_eq!(given.message_ttl_ms(), Some(5), "what a later release added is no reason to forget");
        let text = serde_json::to_string(&given).unwrap();
        assert_eq!(serde_json::from_str::<ChannelSettings>(&text).unwrap(), given);
    }

    #[test]
    fn the_smaller_lifetime_counts() {
        for (channel, asked, expected) in [
            (None, None, None),
            (None, Some(7), Some(7)),
            (Some(5), None, Some(5)),
            (Some(5), Some(7), Some(5)),
            (Some(9), Some(7), Some(7)),
        ] {
            let arguments = channel.map_or(json!({}), |ms| json!({ "x-message-ttl": ms }));
            assert_eq!(settings(&json!({ "arguments": arguments })).lifetime_ms(asked), expected);
        }
    }

    #[test]
    fn publishing_is_bounded_only_where_that_was_asked_for() {
        for (arguments, expected) in [
            (json!({}), None),
            (json!({"x-max-length": 3}), None),
            (json!({"x-max-length": 3, "x-overflow": "drop-head"}), None),
            (json!({"x-overflow": "reject-publish"}), None),
            (json!({"x-max-length": 3, "x-overflow": "reject-publish"}), Some(3)),
        ] {
            assert_eq!(settings(&json!({ "arguments": arguments })).publish_bound(), expected, "{arguments}");
        }
    }

    #[test]
    fn only_what_is_durable_and_persistent_is_kept() {
        for (durable, persistent) in [(true, true), (true, false), (false, true), (false, false)] {
            let kept = settings(&json!({ "durable": durable })).keeps(persistent);
            assert_eq!(kept, durable && persistent);
        }
    }
}
