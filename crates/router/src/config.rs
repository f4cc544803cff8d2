//! The router's configuration.

use std::{net::SocketAddr, time::Duration};

use anyhow::ensure;
use postroad_daemon::{
    common::{COMMON_DOCS, Common},
    config::{Configuration, Docs, Schema, Setting},
};
use postroad_store::{
    LaneLimits, Store,
    config::{
        DOCS as STORE_DOCS, HistorySection, LayoutSection, QueueSection, RedisSection, reference_variables,
    },
};
use serde::{Deserialize, Serialize};

/// Everything that a router can be told.
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
    /// `[router]`
    pub router: RouterSection,
}

impl Configuration for Config {
    const SCHEMA: Schema = Schema {
        docs: &[COMMON_DOCS, STORE_DOCS, DOCS],
        foreign: &["ingest", "worker", "reprocessor", "auth", "jwt", "egress"],
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
        self.common.listen.map_or_else(|| ([0, 0, 0, 0], 9101).into(), |listen| listen.0)
    }

    fn check(&self) -> anyhow::Result<()> {
        self.layout.checked()?;
        self.checked().map(drop)
    }
}

impl Config {
    /// The store that is configured; nothing is connected yet.
    pub fn store(&self) -> anyhow::Result<Store> {
        Ok(Store::new(self.redis.link(), &self.common.environment, self.layout.checked()?)?)
    }

    /// Checks the bounds.
    pub fn checked(&self) -> anyhow::Result<RouterConfig> {
        let RouterSection { lease_ms, max_held } = self.router;
        ensure!((300..=60_000).contains(&lease_ms), "router.lease_ms = {lease_ms} must be 300 to 60000");
        ensure!(max_held > 0, "router.max_held = 0 must be at least 1");
        let lease = Duration::from_millis(lease_ms);
        Ok(RouterConfig {
            lease,
            tick: lease / 6,
            max_held,
            retention: Duration::from_secs(self.history.retention_seconds.max(1)),
            limits: self.queue.limits(),
        })
    }
}

/// `[router]`, as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterSection {
    /// Milliseconds after which a partition whose owner is silent may be taken over.
    pub lease_ms: u64,
    /// Entries of one partition that may wait for a lane that does not answer.
    pub max_held: usize,
}

impl Default for RouterSection {
    fn default() -> Self {
        Self { lease_ms: 3_000, max_held: 10_000 }
    }
}

/// Checked.
#[derive(Debug, Clone)]
pub struct RouterConfig {
    /// After this an owner that is silent may be replaced.
    pub lease: Duration,
    /// How often ownership is renewed and the others are heard.
    pub tick: Duration,
    /// Entries of one partition that may wait for a lane that does not answer.
    pub max_held: usize,
    /// How long history and traces are kept.
    pub retention: Duration,
    /// The bounds of a subscription's queue, for settings that a lane lacks.
    pub limits: LaneLimits,
}

/// What each key does, for the reference page.
pub const DOCS: Docs = &[
    (
        "router.lease_ms",
        "Milliseconds after which a partition whose owner is silent may be taken over, 300 to 60,000",
    ),
    (
        "router.max_held",
        "Entries of one partition that may wait for a lane that does not answer, before the partition pauses",
    ),
];
