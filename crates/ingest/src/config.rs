//! The API's configuration.

use std::{net::SocketAddr, time::Duration};

use anyhow::ensure;
use postroad_api::auth::{AUTH_DOCS, AuthSection};
use postroad_daemon::{
    common::{COMMON_DOCS, Common},
    config::{Configuration, Docs, Schema, Setting},
};
use postroad_model::{egress::EgressPolicy, subscription::RetryPolicy};
use postroad_store::{
    LaneLimits, Store,
    config::{
        DOCS as STORE_DOCS, HistorySection, LayoutSection, QueueSection, RedisSection, reference_variables,
    },
};
use serde::{Deserialize, Serialize};

/// Everything that the API can be told.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// What every daemon has.
    #[serde(flatten)]
    pub common: Common,
    /// `[redis]`
    pub redis: RedisSection,
    /// `[layout]`
    pub layout: LayoutSection,
    /// `[history]`
    pub history: HistorySection,
    /// `[queue]`
    pub queue: QueueSection,
    /// `[auth]`
    pub auth: AuthSection,
    /// `[egress]`
    pub egress: EgressSection,
    /// `[ingest]`
    pub ingest: IngestSection,
}

/// `[egress]`: which addresses may be called besides the public Internet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EgressSection {
    /// CIDRs.
    pub allow: Vec<String>,
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
    /// The most subscriptions of one tenant.
    pub max_subscriptions: u64,
    /// Retries of subscriptions that say nothing about them.
    pub max_retries: u32,
    /// Their delay.
    pub retry_delay_seconds: u64,
}

impl Default for IngestSection {
    fn default() -> Self {
        let RetryPolicy { max_retries, retry_delay_ms, .. } = RetryPolicy::default();
        Self {
            max_message_bytes: 256 << 10,
            compress_above_bytes: 16 << 10,
            patience_ms: 2_000,
            max_subscriptions: 100_000,
            max_retries,
            retry_delay_seconds: retry_delay_ms / 1_000,
        }
    }
}

/// What each key does, for the reference page.
pub const DOCS: Docs = &[
    (
        "egress.allow",
        "CIDRs that callbacks may lead to besides the public Internet, such as `10.2.0.0/16`; comma-separated in the environment",
    ),
    ("ingest.max_message_bytes", "the most bytes of a message's payload, decoded; at most 16 MiB"),
    ("ingest.compress_above_bytes", "payloads of more bytes are compressed in Redis"),
    (
        "ingest.patience_ms",
        "milliseconds that a publish may wait for a Redis that is away before it is answered with 503",
    ),
    ("ingest.max_subscriptions", "the most subscriptions that one tenant may have"),
    ("ingest.max_retries", "retries of subscriptions that say nothing about them"),
    (
        "ingest.retry_delay_seconds",
        "seconds before the first retry of subscriptions that say nothing about it",
    ),
];

impl Configuration for Config {
    const SCHEMA: Schema = Schema {
        docs: &[COMMON_DOCS, STORE_DOCS, AUTH_DOCS, DOCS],
        foreign: &["router", "worker", "reprocessor"],
        derived: Some(|environment| {
            reference_variables(|name| environment.get(name).map(str::to_owned))
                .into_iter()
                .map(|(names, key, value)| Setting::environment(names, key, value))
                .collect()
        }),
        ..Schema::NONE
    };

    fn common(&self) -> &Common {
        &self.common
    }

    fn listen(&self) -> SocketAddr {
        self.common.listen.map_or_else(|| ([127, 0, 0, 1], 8080).into(), |listen| listen.0)
    }

    fn check(&self) -> anyhow::Result<()> {
        self.layout.checked()?;
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
    /// The most subscriptions of one tenant.
    pub max_subscriptions: u64,
    /// The retry policy of subscriptions that say nothing about it.
    pub retry: RetryPolicy,
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
    /// The store that is configured; nothing is connected yet.
    pub fn store(&self) -> anyhow::Result<Store> {
        Ok(Store::new(self.redis.link(), &self.common.environment, self.layout.checked()?)?)
    }

    /// Checks the bounds.
    pub fn checked(&self) -> anyhow::Result<IngestConfig> {
        let raw = &self.ingest;
        ensure!(
            (1..=16 << 20).contains(&raw.max_message_bytes),
            "ingest.max_message_bytes = {} must be 1 to 16777216",
            raw.max_message_bytes
        );
        ensure!(
            raw.max_retries <= RetryPolicy::MAX_RETRIES,
            "ingest.max_retries = {} must be at most {}",
            raw.max_retries,
            RetryPolicy::MAX_RETRIES
        );
        let egress = EgressPolicy::parse(&self.egress.allow)
            .map_err(|error| anyhow::anyhow!("egress.allow: {error}"))?;
        Ok(IngestConfig {
            max_message_bytes: raw.max_message_bytes,
            compress_above_bytes: raw.compress_above_bytes,
            patience: Duration::from_millis(raw.patience_ms),
            max_subscriptions: raw.max_subscriptions,
            retry: RetryPolicy {
                max_retries: raw.max_retries,
                retry_delay_ms: raw.retry_delay_seconds.saturating_mul(1_000),
                ..RetryPolicy::default()
            },
            retention: Duration::from_secs(self.history.retention_seconds.max(1)),
            limits: self.queue.limits(),
            egress,
            environment: self.common.environment.clone(),
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
