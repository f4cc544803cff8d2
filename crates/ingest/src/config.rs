//! The API's configuration.

use std::{net::SocketAddr, time::Duration};

use anyhow::ensure;
use postroad_api::auth::{AUTH_DOCS, AuthSection};
use postroad_daemon::{
    common::Common,
    config::{Configuration, Docs, Schema},
};
use postroad_member::config::{BASE_DOCS, Base, EGRESS_DOCS, EgressSection, schema};
use postroad_model::{egress::EgressPolicy, subscription::RetryPolicy};
use postroad_store::{DelayLimits, LaneLimits};
use serde::{Deserialize, Serialize};

/// Everything that the API can be told.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// What every daemon has.
    #[serde(flatten)]
    pub base: Base,
    /// `[auth]`
    pub auth: AuthSection,
    /// `[egress]`
    pub egress: EgressSection,
    /// `[ingest]`
    pub ingest: IngestSection,
}

/// `[ingest]`, as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngestSection {
    /// The most bytes of a payload.
    pub max_message_bytes: usize,
    /// Payloads above this are compressed in Redis.
    pub compress_above_bytes: usize,
    /// How long a publish may wait for a Redis that is away.
    pub patience_ms: u64,
    /// Publishing is refused when Redis uses this much of its memory.
    pub max_memory_percent: u8,
    /// The most subscriptions of one tenant.
    pub max_subscriptions: u64,
    /// The most channels that one tenant may configure.
    pub max_channels: u64,
    /// Retries of subscriptions that say nothing about them.
    pub max_retries: u32,
    /// Their delay.
    pub retry_delay_seconds: u64,
    /// The most event types that one tenant may register.
    pub max_event_types: u64,
    /// The most calls that wait at a time: for a command's answer, or for something to pull.
    pub max_waits: usize,
    /// The most streams of notifications that are open at a time.
    pub max_streams: usize,
    /// The most messages that may wait in one partition to become due.
    pub max_delayed: u64,
    /// The most bytes of them.
    pub max_delayed_bytes: u64,
    /// The most open replay jobs of one tenant, of any kind.
    pub max_open_replays: u64,
}

impl Default for IngestSection {
    fn default() -> Self {
        let RetryPolicy { max_retries, retry_delay_ms, .. } = RetryPolicy::default();
        Self {
            max_message_bytes: 256 << 10,
            compress_above_bytes: 16 << 10,
            patience_ms: 2_000,
            max_memory_percent: 80,
            max_subscriptions: 100_000,
            max_channels: 10_000,
            max_retries,
            retry_delay_seconds: retry_delay_ms / 1_000,
            max_event_types: 1_000,
            max_waits: 1_000,
            max_streams: 1_000,
            max_delayed: DelayLimits::default().messages,
            max_delayed_bytes: DelayLimits::default().bytes,
            max_open_replays: 100,
        }
    }
}

/// What each key does, for the reference page.
pub const DOCS: Docs = &[
    ("ingest.max_message_bytes", "the most bytes of a message's payload, decoded; at most 16 MiB"),
    ("ingest.compress_above_bytes", "payloads of more bytes are compressed in Redis"),
    (
        "ingest.patience_ms",
        "milliseconds that a publish may wait for a Redis that is away before it is answered with 503",
    ),
    (
        "ingest.max_memory_percent",
        "publishing is refused with 503 while Redis uses this much of its `maxmemory`, so that what was accepted has room to get through; 1 to 100",
    ),
    ("ingest.max_subscriptions", "the most subscriptions that one tenant may have"),
    ("ingest.max_channels", "the most channels that one tenant may configure with `PUT /v1/channels/{name}`"),
    ("ingest.max_retries", "retries of subscriptions that say nothing about them"),
    (
        "ingest.retry_delay_seconds",
        "seconds before the first retry of subscriptions that say nothing about it",
    ),
    ("ingest.max_event_types", "the most event types that one tenant may register"),
    (
        "ingest.max_waits",
        "the most calls with `?wait` that one instance keeps waiting for a command's answer at a time; further ones get 503",
    ),
    (
        "ingest.max_streams",
        "the most streams of notifications that one instance keeps open at a time; further ones get 503",
    ),
    (
        "ingest.max_delayed",
        "the most messages that may wait in one partition to become due; further ones are refused with 429",
    ),
    (
        "ingest.max_delayed_bytes",
        "the most bytes of messages that may wait in one partition to become due; further ones are refused with 429",
    ),
    (
        "ingest.max_open_replays",
        "the most replay jobs of one tenant that wait or run at a time when one of history is added",
    ),
];

impl Configuration for Config {
    const SCHEMA: Schema = schema(&[BASE_DOCS[0], BASE_DOCS[1], AUTH_DOCS, EGRESS_DOCS, DOCS]);

    fn common(&self) -> &Common {
        &self.base.common
    }

    fn listen(&self) -> SocketAddr {
        self.base.listen(([127, 0, 0, 1], 8080))
    }

    fn check(&self) -> anyhow::Result<()> {
        self.base.layout.checked()?;
        self.auth.check(self.listen())?;
        self.checked().map(drop)
    }
}

/// Checked.
#[derive(Debug, Clone)]
pub struct IngestConfig {
    /// The most bytes of a payload.
    pub max_message_bytes: usize,
    /// Payloads above this are compressed in Redis.
    pub compress_above_bytes: usize,
    /// How long a publish may wait for a Redis that is away.
    pub patience: Duration,
    /// Publishing is refused when Redis uses this much of its memory.
    pub max_memory_percent: u8,
    /// The most subscriptions of one tenant.
    pub max_subscriptions: u64,
    /// The most channels that one tenant may configure.
    pub max_channels: u64,
    /// The most event types that one tenant may register.
    pub max_event_types: u64,
    /// The most calls that wait at a time: for a command's answer, or for something to pull.
    pub max_waits: usize,
    /// The most streams of notifications that are open at a time.
    pub max_streams: usize,
    /// The retry policy of subscriptions that say nothing about it.
    pub retry: RetryPolicy,
    /// How much may wait in a partition to become due.
    pub delayed: DelayLimits,
    /// The most open replay jobs of one tenant.
    pub max_open_replays: u64,
    /// How long messages and ids are kept.
    pub retention: Duration,
    /// The bounds of a subscription's queue.
    pub limits: LaneLimits,
    /// Which addresses may be called.
    pub egress: EgressPolicy,
    /// The environment's name.
    pub environment: String,
}

impl Config {
    /// Checks the bounds.
    pub fn checked(&self) -> anyhow::Result<IngestConfig> {
        let raw = &self.ingest;
        ensure!(
            (1..=16 << 20).contains(&raw.max_message_bytes),
            "ingest.max_message_bytes = {} must be 1 to 16777216",
            raw.max_message_bytes
        );
        ensure!(
            (1..=100).contains(&raw.max_memory_percent),
            "ingest.max_memory_percent = {} must be 1 to 100",
            raw.max_memory_percent
        );
        ensure!(
            raw.patience_ms >= 100,
            "ingest.patience_ms = {} must be at least 100: storing a message takes its time",
            raw.patience_ms
        );
        ensure!(
            raw.max_retries <= RetryPolicy::MAX_RETRIES,
            "ingest.max_retries = {} must be at most {}",
            raw.max_retries,
            RetryPolicy::MAX_RETRIES
        );
        ensure!(raw.max_open_replays > 0, "ingest.max_open_replays = 0 must be at least 1");
        Ok(IngestConfig {
            max_message_bytes: raw.max_message_bytes,
            compress_above_bytes: raw.compress_above_bytes,
            patience: Duration::from_millis(raw.patience_ms),
            max_memory_percent: raw.max_memory_percent,
            max_subscriptions: raw.max_subscriptions,
            max_channels: raw.max_channels,
            max_event_types: raw.max_event_types,
            max_waits: raw.max_waits,
            max_streams: raw.max_streams,
            retry: RetryPolicy {
                max_retries: raw.max_retries,
                retry_delay_ms: raw.retry_delay_seconds.saturating_mul(1_000),
                ..RetryPolicy::default()
            },
            max_open_replays: raw.max_open_replays,
            delayed: DelayLimits { messages: raw.max_delayed, bytes: raw.max_delayed_bytes },
            retention: self.base.retention(),
            limits: self.base.limits(),
            egress: self.egress.policy()?,
            environment: self.base.common.environment.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postroad_daemon::config::assert_documented;

    #[test]
    fn every_key_is_documented_and_the_defaults_hold() {
        assert_documented::<Config>();
        Config::default().check().unwrap();
    }
}
