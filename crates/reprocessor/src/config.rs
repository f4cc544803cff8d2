//! The reprocessor's configuration.

use std::{net::SocketAddr, time::Duration};

use anyhow::ensure;
use postroad_api::auth::{AUTH_DOCS, AuthSection};
use postroad_daemon::{
    common::Common,
    config::{Configuration, Docs, Schema},
};
use postroad_member::config::{BASE_DOCS, Base, schema};
use postroad_store::LaneLimits;
use serde::{Deserialize, Serialize};

/// Everything that a reprocessor can be told.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// What every daemon has.
    #[serde(flatten)]
    pub base: Base,
    /// `[auth]`
    pub auth: AuthSection,
    /// `[reprocessor]`
    pub reprocessor: ReprocessorSection,
}

/// `[reprocessor]`, as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReprocessorSection {
    /// How long a replay job stays with a reprocessor that is not heard of it again.
    pub lease_ms: u64,
    /// The most entries that a queue may hold after a replay into it.
    pub max_queued: u64,
    /// The most open replay jobs of one tenant.
    pub max_open_jobs: u64,
    /// The most calls that read through dead letters at a time.
    pub max_calls: usize,
    /// How many of a subscription's newest dead letters `GET /v1/dlq` looks at.
    pub sample: usize,
    /// History is not replayed while Redis uses this much of its memory.
    pub max_memory_percent: u8,
}

impl Default for ReprocessorSection {
    fn default() -> Self {
        Self {
            lease_ms: 15_000,
            max_queued: 10_000,
            max_open_jobs: 20,
            max_calls: 32,
            sample: 200,
            max_memory_percent: 80,
        }
    }
}

/// What each key does, for the reference page.
pub const DOCS: Docs = &[
    (
        "reprocessor.lease_ms",
        "milliseconds after which a replay job is taken from a reprocessor that is not heard of it again",
    ),
    (
        "reprocessor.max_queued",
        "the most entries that a queue may hold after a replay into it; at it, the replay waits for room",
    ),
    ("reprocessor.max_open_jobs", "the most replay jobs of one tenant that wait or run at a time"),
    (
        "reprocessor.max_calls",
        "the most calls that read through dead letters at a time; further ones are answered with 503",
    ),
    (
        "reprocessor.sample",
        "how many of a subscription's newest dead letters `GET /v1/dlq` looks at for channels and reasons",
    ),
    (
        "reprocessor.max_memory_percent",
        "history is not replayed while Redis uses this much of its `maxmemory`; 1 to 100",
    ),
];

impl Configuration for Config {
    const SCHEMA: Schema = schema(&[BASE_DOCS[0], BASE_DOCS[1], AUTH_DOCS, DOCS]);

    fn common(&self) -> &Common {
        &self.base.common
    }

    fn listen(&self) -> SocketAddr {
        self.base.listen(([127, 0, 0, 1], 8081))
    }

    fn check(&self) -> anyhow::Result<()> {
        self.base.layout.checked()?;
        self.auth.check(self.listen())?;
        self.checked().map(drop)
    }
}

/// Checked.
#[derive(Debug, Clone)]
pub struct ReprocessorConfig {
    /// How long a replay job stays with a reprocessor that is not heard of it again.
    pub lease: Duration,
    /// The most entries that a queue may hold after a replay into it.
    pub max_queued: u64,
    /// The most open replay jobs of one tenant.
    pub max_open_jobs: u64,
    /// The most calls that read through dead letters at a time.
    pub max_calls: usize,
    /// How many of a subscription's newest dead letters `GET /v1/dlq` looks at.
    pub sample: usize,
    /// History is not replayed while Redis uses this much of its memory.
    pub max_memory_percent: u8,
    /// How long traces are kept.
    pub retention: Duration,
    /// The bounds of a subscription's queue, for settings that a lane lacks.
    pub limits: LaneLimits,
}

impl Config {
    /// Checks the bounds.
    pub fn checked(&self) -> anyhow::Result<ReprocessorConfig> {
        let raw = &self.reprocessor;
        ensure!(
            (1_000..=3_600_000).contains(&raw.lease_ms),
            "reprocessor.lease_ms = {} must be 1000 to 3600000",
            raw.lease_ms
        );
        ensure!(
            raw.max_queued > 0,
            "reprocessor.max_queued = 0 must be at least 1: no replay could move anything"
        );
        ensure!(raw.max_open_jobs > 0, "reprocessor.max_open_jobs = 0 must be at least 1");
        ensure!(
            (1..=1_000).contains(&raw.max_calls),
            "reprocessor.max_calls = {} must be 1 to 1000",
            raw.max_calls
        );
        ensure!((1..=10_000).contains(&raw.sample), "reprocessor.sample = {} must be 1 to 10000", raw.sample);
        ensure!(
            (1..=100).contains(&raw.max_memory_percent),
            "reprocessor.max_memory_percent = {} must be 1 to 100",
            raw.max_memory_percent
        );
        Ok(ReprocessorConfig {
            lease: Duration::from_millis(raw.lease_ms),
            max_queued: raw.max_queued,
            max_open_jobs: raw.max_open_jobs,
            max_calls: raw.max_calls,
            sample: raw.sample,
            max_memory_percent: raw.max_memory_percent,
            retention: self.base.retention(),
            limits: self.base.limits(),
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

    #[test]
    fn bounds_are_named() {
        let mut config = Config::default();
        config.reprocessor.max_queued = 0;
        assert!(config.check().unwrap_err().to_string().contains("reprocessor.max_queued = 0"));
        config = Config::default();
        config.reprocessor.lease_ms = 10;
        assert!(config.check().unwrap_err().to_string().contains("reprocessor.lease_ms = 10"));
    }
}
