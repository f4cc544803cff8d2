//! The keys that all daemons have, and those that some share.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context as _;
use postroad_daemon::{
    common::{COMMON_DOCS, Common},
    config::{Docs, Environment, Schema, Setting},
};
use postroad_model::egress::EgressPolicy;
use postroad_store::{
    LaneLimits, Store,
    config::{
        DOCS as STORE_DOCS, HistorySection, LayoutSection, QueueSection, RedisSection, reference_variables,
    },
};
use serde::{Deserialize, Serialize};

/// The keys that all daemons have; flatten it into a daemon's configuration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Base {
    /// What any process has.
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
}

/// What the keys of [`Base`] are for.
pub const BASE_DOCS: [Docs; 2] = [COMMON_DOCS, STORE_DOCS];

/// Every section that some daemon has: one file and one environment serve them all.
const SECTIONS: &[&str] = &["ingest", "router", "worker", "reprocessor", "auth", "jwt", "egress"];

/// A daemon's schema: `docs` for all its keys.
pub const fn schema(docs: &'static [Docs]) -> Schema {
    Schema { docs, foreign: SECTIONS, derived: Some(older_variables), ..Schema::NONE }
}

/// The variables of the older messaging library.
fn older_variables(environment: &Environment) -> Vec<Setting> {
    reference_variables(|name| environment.get(name).map(str::to_owned))
        .into_iter()
        .map(|(names, key, value)| Setting::environment(names, key, value))
        .collect()
}

impl Base {
    /// Where the daemon listens, if not at its default.
    pub fn listen(&self, default: impl Into<SocketAddr>) -> SocketAddr {
        self.common.listen.map_or_else(|| default.into(), |listen| listen.0)
    }

    /// The store that is configured; nothing is connected yet.
    pub fn store(&self) -> anyhow::Result<Store> {
        Ok(Store::new(self.redis.link(), &self.common.environment, self.layout.checked()?)?)
    }

    /// How long history, ids and traces are kept.
    pub fn retention(&self) -> Duration {
        Duration::from_secs(self.history.retention_seconds.max(1))
    }

    /// The bounds of a subscription's queue.
    pub fn limits(&self) -> LaneLimits {
        self.queue.limits()
    }
}

/// `[egress]`: which addresses may be called besides the public Internet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EgressSection {
    /// CIDRs.
    pub allow: Vec<String>,
}

/// What the keys of [`EgressSection`] are for.
pub const EGRESS_DOCS: Docs = &[(
    "egress.allow",
    "CIDRs that callbacks may lead to besides the public Internet, such as `10.2.0.0/16`; comma-separated in the environment",
)];

impl EgressSection {
    /// Reads the CIDRs.
    pub fn policy(&self) -> anyhow::Result<EgressPolicy> {
        EgressPolicy::parse(&self.allow).context("egress.allow")
    }
}
