//! What a service asked to be sent, where to and how.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    filter::Filter,
    glob::Glob,
    id::SubscriptionId,
    matching::HeaderMatch,
    names::{ChannelName, ServiceName, Tenant},
    signature::Secret,
    time::Time,
    topic::TopicPattern,
};

/// Whether a subscription gets its deliveries now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = SubscriptionStatus))]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Deliveries flow.
    Active,
    /// Paused by someone: what arrives is parked.
    Paused,
    /// Disabled by Postroad, with a reason: what arrives is parked.
    Disabled,
}

impl Status {
    /// As the API and the lanes write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Disabled => "disabled",
        }
    }
}

/// Which channels a subscription listens to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Channels {
    /// One, by name.
    Channel(ChannelName),
    /// All that a glob matches, read as Redis PSUBSCRIBE reads it.
    Pattern(Glob),
}

/// What a subscription wants: everything named here must match.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Selector {
    /// The channels.
    #[serde(flatten)]
    pub channels: Channels,
    /// Read as the message's channel type says: a topic pattern by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routing_key: Option<TopicPattern>,
    /// Headers to compare, whatever the channel's type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header_match: Option<HeaderMatch>,
    /// An event pattern over the payload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter_criteria: Option<Filter>,
}

/// When to try again after a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// Retries after the first attempt, 0 to 100.
    pub max_retries: u32,
    /// Milliseconds before the first retry.
    pub retry_delay_ms: u64,
    /// What the delay is multiplied by before each further retry, 1 to 100.
    pub backoff_multiplier: f64,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { max_retries: 3, retry_delay_ms: 60_000, backoff_multiplier: 2.0 }
    }
}

impl RetryPolicy {
    /// The most retries that can be asked for.
    pub const MAX_RETRIES: u32 = 100;
    /// The longest delay before a retry, jitter aside.
    pub const CEILING_MS: u64 = 3_600_000;

    /// How often a delivery is attempted in all.
    pub fn max_attempts(&self) -> u32 {
        self.max_retries + 1
    }

    /// Milliseconds before retry `retry` (from 1), without jitter: the delay times the multiplier to the
    /// power of `retry` - 1, at most an hour.
    pub fn delay_ms(&self, retry: u32) -> u64 {
        let power = i32::try_from(retry.saturating_sub(1)).unwrap_or(i32::MAX);
        let base = f64::from(u32::try_from(self.retry_delay_ms).unwrap_or(u32::MAX));
        let delay = base * self.backoff_multiplier.powi(power);
        let ceiling = f64::from(u32::try_from(Self::CEILING_MS).unwrap_or(u32::MAX));
        if delay >= ceiling { Self::CEILING_MS } else { crate::delivery::millis(delay) }
    }
}

/// How a delivery is put into a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = SubscriptionFormat))]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// `MessageDelivery` as JSON; several as `{"deliveries": […]}`.
    #[default]
    Native,
    /// CloudEvents 1.0, structured; several in CloudEvents' batch format.
    Cloudevents,
    /// CloudEvents 1.0, binary: the payload as the body, attributes as headers.
    CloudeventsBinary,
    /// The payload as the body, as it was published.
    Raw,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 4] = [Self::Native, Self::Cloudevents, Self::CloudeventsBinary, Self::Raw];

    /// As the API writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Cloudevents => "cloudevents",
            Self::CloudeventsBinary => "cloudevents-binary",
            Self::Raw => "raw",
        }
    }

    /// Whether several deliveries fit into one request.
    pub fn batches(self) -> bool {
        matches!(self, Self::Native | Self::Cloudevents)
    }
}

impl FromStr for Format {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|format| format.as_str() == text).ok_or_else(|| {
            format!("format = {text:?} is none; native, cloudevents, cloudevents-binary and raw are")
        })
    }
}

/// A subscription, whole. Its record in Redis is this, as JSON: fields are added with a default, and
/// never renamed or dropped.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Subscription {
    /// Its id.
    pub id: SubscriptionId,
    /// The tenant it lives in.
    pub tenant: Tenant,
    /// The service it belongs to.
    pub service_name: ServiceName,
    /// What it wants.
    #[serde(flatten)]
    pub selector: Selector,
    /// Where deliveries go; none for a pull subscription.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub callback_url: Option<String>,
    /// Headers to send with each delivery. Their values are secrets.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// What deliveries are signed with: the current secret first.
    pub secrets: Vec<Secret>,
    /// When to try again.
    pub retry: RetryPolicy,
    /// Whether a 2xx also acknowledges.
    pub auto_ack: bool,
    /// Seconds within which an unacknowledged delivery must be acknowledged.
    pub ack_timeout: u64,
    /// The most deliveries in one request.
    pub batch_size: u32,
    /// The most unacknowledged deliveries at a time, over all workers.
    pub prefetch_count: u32,
    /// Deliveries a second; none: as fast as it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<u32>,
    /// Whether messages of one ordering key keep their order.
    #[serde(default)]
    pub ordered: bool,
    /// How a delivery is put into a request.
    #[serde(default)]
    pub format: Format,
    /// The channel on which copies of dead letters are published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letter_queue: Option<ChannelName>,
    /// Whether deliveries flow.
    pub status: Status,
    /// Why they do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_reason: Option<String>,
    /// When it was created.
    pub created_at: Time,
    /// When it was last changed.
    pub updated_at: Time,
}

/// The default of `ack_timeout`, in seconds.
pub const DEFAULT_ACK_TIMEOUT: u64 = 30;
/// The longest `ack_timeout`, in seconds: half a day.
pub const MAX_ACK_TIMEOUT: u64 = 43_200;
/// The default of `prefetch_count`.
pub const DEFAULT_PREFETCH: u32 = 32;
/// The default of `prefetch_count` of a pull subscription, which takes many at a time.
pub const DEFAULT_PULL_PREFETCH: u32 = 1_000;
/// The most unacknowledged deliveries at a time that may be asked for.
pub const MAX_PREFETCH: u32 = 10_000;
/// The most deliveries in one request that may be asked for.
pub const MAX_BATCH: u32 = 1_000;
/// The most deliveries a second that may be asked for; who wants more wants no limit.
pub const MAX_RATE: u32 = 100_000;

impl Subscription {
    /// What `SubscriptionInfo` shows as `channel_pattern`: the pattern, or the channel's name.
    pub fn channel_pattern(&self) -> &str {
        match &self.selector.channels {
            Channels::Channel(name) => name.as_str(),
            Channels::Pattern(glob) => glob.as_str(),
        }
    }

    /// Whether its deliveries are pulled, because there is nowhere to send them.
    pub fn is_pull(&self) -> bool {
        self.callback_url.is_none()
    }
}

/// Callback headers and secrets stay out of logs.
impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("id", &self.id)
            .field("tenant", &self.tenant)
            .field("service_name", &self.service_name)
            .field("selector", &self.selector)
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record as the first release wrote it, with a secret in every place that may hold one.
    const RECORD: &str = r#"{"id":"sub_1","tenant":"default","service_name":"billing","channel":"orders",
        "callback_url":"https://billing.example.com/in","headers":{"x-api-key":"hush"},
        "secrets":[{"value":"whsec_aHVzaGh1c2hodXNoaHVzaGh1c2hodXNoaHVzaA==","created_at":"2026-01-01T00:00:00Z",
        "expires_at":null}],"retry":{"max_retries":3,"retry_delay_ms":60000,"backoff_multiplier":2.0},
        "auto_ack":true,"ack_timeout":30,"batch_size":1,"prefetch_count":32,"status":"active",
        "created_at":"2026-01-01T00:00:00Z","updated_at":"2026-01-01T00:00:00Z"}"#;

    #[test]
    fn a_record_without_later_members_is_read() {
        let subscription: Subscription = serde_json::from_str(RECORD).unwrap();
        assert_eq!((subscription.ordered, subscription.rate_limit), (false, None));
        assert_eq!((subscription.format, subscription.dead_letter_queue.as_ref()), (Format::Native, None));
        assert_eq!(subscription.channel_pattern(), "orders");
        let again = serde_json::to_string(&subscription).unwrap();
        assert_eq!(serde_json::from_str::<Subscription>(&again).unwrap(), subscription);
        let pattern = RECORD.replace(r#""channel":"orders""#, r#""pattern":"orders.*""#);
        let subscription: Subscription = serde_json::from_str(&pattern).unwrap();
        assert_eq!(subscription.channel_pattern(), "orders.*");
    }

    #[test]
    fn logs_show_neither_secrets_nor_headers() {
        let subscription: Subscription = serde_json::from_str(RECORD).unwrap();
        let shown = format!("{subscription:?}");
        assert!(shown.contains("sub_1") && shown.contains("billing"), "{shown}");
        for secret in ["hush", "whsec", "aHVz", "x-api-key"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }

    #[test]
    fn formats_are_written_as_they_are_stored() {
        for format in Format::ALL {
            assert_eq!(serde_json::to_value(format).unwrap(), format.as_str());
            assert_eq!(format.as_str().parse(), Ok(format));
        }
        assert!("xml".parse::<Format>().unwrap_err().contains("\"xml\""));
        assert!(Format::Native.batches() && !Format::Raw.batches());
    }

    #[test]
    fn the_default_policy_tries_four_times() {
        assert_eq!(RetryPolicy::default().max_attempts(), 4);
    }

    #[test]
    fn delays_grow_to_the_ceiling() {
        let policy = RetryPolicy { max_retries: 20, retry_delay_ms: 60_000, backoff_multiplier: 2.0 };
        assert_eq!(policy.delay_ms(1), 60_000);
        assert_eq!(policy.delay_ms(2), 120_000);
        assert_eq!(policy.delay_ms(3), 240_000);
        assert_eq!(policy.delay_ms(20), RetryPolicy::CEILING_MS);
        assert_eq!(policy.delay_ms(u32::MAX), RetryPolicy::CEILING_MS);
        assert_eq!(policy.max_attempts(), 21);
    }

    #[test]
    fn a_multiplier_of_one_keeps_the_delay() {
        let policy = RetryPolicy { max_retries: 3, retry_delay_ms: 1_500, backoff_multiplier: 1.0 };
        assert_eq!((1..=3).map(|n| policy.delay_ms(n)).collect::<Vec<_>>(), [1_500; 3]);
    }

    #[test]
    fn no_delay_stays_no_delay() {
        let policy = RetryPolicy { max_retries: 3, retry_delay_ms: 0, backoff_multiplier: 100.0 };
        assert_eq!(policy.delay_ms(3), 0);
    }
}
