//! The worker's configuration.

use std::{net::SocketAddr, time::Duration};

use anyhow::ensure;
use postroad_daemon::{
    common::Common,
    config::{Configuration, Docs, Schema},
};
use postroad_member::config::{BASE_DOCS, Base, EGRESS_DOCS, EgressSection, schema};
use postroad_model::egress::EgressPolicy;
use postroad_store::{Circuit, LaneLimits};
use serde::{Deserialize, Serialize};

/// Everything that a worker can be told.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// What every daemon has.
    #[serde(flatten)]
    pub base: Base,
    /// `[egress]`
    pub egress: EgressSection,
    /// `[worker]`
    pub worker: WorkerSection,
}

/// `[worker]`, as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerSection {
    /// The most deliveries taken and not settled.
    pub max_in_flight: usize,
    /// No more is taken while so many bytes are taken and not settled.
    pub max_in_flight_bytes: usize,
    /// The most deliveries of one subscription in one take.
    pub quantum: usize,
    /// The most bytes of one subscription in one take.
    pub quantum_bytes: usize,
    /// How long a delivery may stay with a worker that is not heard of it again.
    pub lease_ms: u64,
    /// How long connecting to a subscriber may take.
    pub connect_timeout_ms: u64,
    /// How long a whole request may take, connecting and the answer included.
    pub request_timeout_ms: u64,
    /// How often lost workers and lost tokens are looked for.
    pub sweep_ms: u64,
    /// Failures in a row that open a subscription's circuit.
    pub circuit_failures: u32,
    /// For which they must have lasted.
    pub circuit_after_ms: u64,
    /// How long a circuit opens at first.
    pub circuit_open_ms: u64,
    /// How long it opens at most.
    pub circuit_open_max_ms: u64,
}

impl Default for WorkerSection {
    fn default() -> Self {
        Self {
            max_in_flight: 512,
            max_in_flight_bytes: 256 << 20,
            quantum: 64,
            quantum_bytes: 1 << 20,
            lease_ms: 30_000,
            connect_timeout_ms: 5_000,
            request_timeout_ms: 15_000,
            sweep_ms: 5_000,
            circuit_failures: 10,
            circuit_after_ms: 30_000,
            circuit_open_ms: 5_000,
            circuit_open_max_ms: 300_000,
        }
    }
}

/// What each key does, for the reference page.
pub const DOCS: Docs = &[
    ("worker.max_in_flight", "the most deliveries that this worker has taken and not settled"),
    (
        "worker.max_in_flight_bytes",
        "no more deliveries are taken while those taken and not settled have so many bytes in Redis",
    ),
    (
        "worker.quantum",
        "the most deliveries of one subscription in one take, before the next one has its turn",
    ),
    ("worker.quantum_bytes", "the most bytes of one subscription in one take"),
    (
        "worker.lease_ms",
        "milliseconds after which a delivery is taken from a worker that is not heard of it again; must exceed `worker.request_timeout_ms` by 4 seconds or by half, whichever is less",
    ),
    ("worker.connect_timeout_ms", "milliseconds that connecting to a subscriber may take"),
    (
        "worker.request_timeout_ms",
        "milliseconds that a request may take, connecting and the whole answer included",
    ),
    ("worker.sweep_ms", "milliseconds between looks for lost workers and lost tokens"),
    ("worker.circuit_failures", "failures in a row that open a subscription's circuit; 0: none do"),
    ("worker.circuit_after_ms", "milliseconds for which those failures must have lasted"),
    (
        "worker.circuit_open_ms",
        "milliseconds for which a circuit opens at first; doubled with each probe that fails",
    ),
    ("worker.circuit_open_max_ms", "milliseconds for which a circuit opens at most"),
];

impl Configuration for Config {
    const SCHEMA: Schema = schema(&[BASE_DOCS[0], BASE_DOCS[1], EGRESS_DOCS, DOCS]);

    fn common(&self) -> &Common {
        &self.base.common
    }

    fn listen(&self) -> SocketAddr {
        self.base.listen(([0, 0, 0, 0], 9102))
    }

    fn check(&self) -> anyhow::Result<()> {
        self.base.layout.checked()?;
        self.checked().map(drop)
    }
}

/// Checked.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// The most deliveries taken and not settled.
    pub max_in_flight: usize,
    /// No more is taken while so many bytes are taken and not settled.
    pub max_in_flight_bytes: usize,
    /// The most deliveries of one subscription in one take.
    pub quantum: usize,
    /// The most bytes of one subscription in one take.
    pub quantum_bytes: usize,
    /// How long a delivery may stay with a worker that is not heard of it again.
    pub lease: Duration,
    /// A request begins no later than this after its lease: it could not be settled in time.
    pub latest_start: Duration,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long a whole request may take.
    pub request_timeout: Duration,
    /// How often lost workers and tokens are looked for.
    pub sweep: Duration,
    /// When a subscription's circuit opens, and for how long.
    pub circuit: Circuit,
    /// Which addresses may be called.
    pub egress: EgressPolicy,
    /// How long traces are kept.
    pub retention: Duration,
    /// The bounds of a subscription's queue, for settings that a lane lacks.
    pub limits: LaneLimits,
}

impl Config {
    /// Checks the bounds, and that no delivery can still be on its way when its lease runs out.
    pub fn checked(&self) -> anyhow::Result<WorkerConfig> {
        let raw = &self.worker;
        ensure!(raw.max_in_flight > 0, "worker.max_in_flight = 0 must be at least 1");
        ensure!(
            raw.max_in_flight <= 100_000,
            "worker.max_in_flight = {} must be at most 100000",
            raw.max_in_flight
        );
        ensure!(raw.max_in_flight_bytes > 0, "worker.max_in_flight_bytes = 0 must be at least 1");
        ensure!(
            raw.quantum > 0 && raw.quantum <= 1_000,
            "worker.quantum = {} must be 1 to 1000",
            raw.quantum
        );
        ensure!(raw.request_timeout_ms > 0, "worker.request_timeout_ms = 0 must be at least 1");
        let settling = (raw.request_timeout_ms / 2).min(4_000);
        ensure!(
            raw.lease_ms >= raw.request_timeout_ms + settling,
            "worker.lease_ms = {} is too short: a request may take worker.request_timeout_ms = {} and what is left, \
             at least {settling} ms, must do to settle it; two workers would hold one delivery",
            raw.lease_ms,
            raw.request_timeout_ms,
        );
        ensure!(raw.sweep_ms >= 50, "worker.sweep_ms = {} must be at least 50", raw.sweep_ms);
        let ms = Duration::from_millis;
        Ok(WorkerConfig {
            max_in_flight: raw.max_in_flight,
            max_in_flight_bytes: raw.max_in_flight_bytes,
            quantum: raw.quantum,
            quantum_bytes: raw.quantum_bytes,
            lease: ms(raw.lease_ms),
            latest_start: ms(raw.lease_ms - raw.request_timeout_ms - settling / 2),
            connect_timeout: ms(raw.connect_timeout_ms),
            request_timeout: ms(raw.request_timeout_ms),
            sweep: ms(raw.sweep_ms),
            circuit: Circuit {
                failures: raw.circuit_failures,
                lasting: ms(raw.circuit_after_ms),
                open: ms(raw.circuit_open_ms),
                open_max: ms(raw.circuit_open_max_ms),
            },
            egress: self.egress.policy()?,
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
    fn a_lease_shorter_than_the_work_is_refused() {
        let mut config = Config::default();
        config.worker.lease_ms = 15_000;
        let error = config.check().unwrap_err().to_string();
        assert!(
            error.contains("worker.lease_ms = 15000") && error.contains("worker.request_timeout_ms"),
            "{error}"
        );
        config.worker = WorkerSection { request_timeout_ms: 200, lease_ms: 300, ..WorkerSection::default() };
        assert_eq!(config.checked().unwrap().latest_start, Duration::from_millis(50));
        config.worker = WorkerSection::default();
        assert_eq!(config.checked().unwrap().latest_start, Duration::from_secs(13));
    }

    #[test]
    fn an_allow_list_that_is_none_is_refused() {
        let mut config = Config::default();
        config.egress.allow = vec!["everything".into()];
        let error = format!("{:#}", config.check().unwrap_err());
        assert!(error.contains("egress.allow") && error.contains("everything"), "{error}");
    }
}
