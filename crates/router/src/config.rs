//! The router's configuration.

use std::{net::SocketAddr, time::Duration};

use anyhow::ensure;
use postroad_daemon::{
    common::Common,
    config::{Configuration, Docs, Schema},
};
use postroad_member::config::{BASE_DOCS, Base, schema};
use postroad_store::LaneLimits;
use serde::{Deserialize, Serialize};

/// Everything that a router can be told.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// What every daemon has.
    #[serde(flatten)]
    pub base: Base,
    /// `[router]`
    pub router: RouterSection,
}

impl Configuration for Config {
    const SCHEMA: Schema = schema(&[BASE_DOCS[0], BASE_DOCS[1], DOCS]);

    fn common(&self) -> &Common {
        &self.base.common
    }

    fn listen(&self) -> SocketAddr {
        self.base.listen(([0, 0, 0, 0], 9101))
    }

    fn check(&self) -> anyhow::Result<()> {
        self.base.layout.checked()?;
        self.checked().map(drop)
    }
}

impl Config {
    /// Checks the bounds.
    pub fn checked(&self) -> anyhow::Result<RouterConfig> {
        let RouterSection { lease_ms, max_held } = self.router;
        ensure!((300..=60_000).contains(&lease_ms), "router.lease_ms = {lease_ms} must be 300 to 60000");
        ensure!(max_held > 0, "router.max_held = 0 must be at least 1");
        let max_memory_percent = self.base.history.max_memory_percent;
        ensure!(
            (1..=100).contains(&max_memory_percent),
            "history.max_memory_percent = {max_memory_percent} must be 1 to 100"
        );
        let lease = Duration::from_millis(lease_ms);
        Ok(RouterConfig {
            lease,
            tick: lease / 6,
            max_held,
            retention: self.base.retention(),
            max_memory_percent,
            limits: self.base.limits(),
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
    /// Above this much of Redis's memory, history is let go before its time.
    pub max_memory_percent: u8,
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
