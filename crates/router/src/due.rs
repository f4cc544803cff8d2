//! due: messages that waited for their time enter ingress, in the partitions held.
//!
//! One look for all of them each time that one is due, and every half second for those that came meanwhile. What is
//! moved wakes whoever reads ingress. Nothing here guards against another router that moves the same: the script
//! does, and a second move finds nothing.

use std::{sync::Arc, time::Duration};

use postroad_daemon::stop::Stop;
use postroad_model::time::millis;
use postroad_store::{Store, StoreError};
use tracing::{info, warn};

use crate::{config::RouterConfig, metrics::Metrics, ownership::Holdings};

/// How often it is looked at least: a message that comes with less than that to wait is late by that at most.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The most messages that one script moves, so that none runs for long.
const MOST: usize = 200;
/// What is late by more is overdue.
const OVERDUE_MS: u64 = 1_000;

/// Whoever moves.
pub struct Mover {
    store: Store,
    /// How long the ids of what is moved are remembered.
    window_ms: u64,
    holdings: Arc<Holdings>,
    metrics: Metrics,
    is_ill: bool,
}

impl Mover {
    /// One for what a router holds.
    pub fn new(store: Store, config: &RouterConfig, holdings: Arc<Holdings>, metrics: Metrics) -> Self {
        Self { store, window_ms: millis(config.retention), holdings, metrics, is_ill: false }
    }

    /// Moves what is due until it is told to stop.
    pub async fn run(mut self, stop: Stop) {
        loop {
            let round = self.round().await;
            self.note(&round);
            let wait = round.unwrap_or(LOOK_EVERY);
            if !stop.sleep(wait).await {
                return;
            }
        }
    }

    /// Looks once, and moves what is due: how long until there is reason to look again.
    pub async fn round(&self) -> Result<Duration, StoreError> {
        let held: Vec<u16> = self.holdings.all().into_keys().collect();
        if held.is_empty() {
            self.metrics.delayed.set(0);
            self.metrics.overdue.set(0);
            return Ok(LOOK_EVERY);
        }
        let (now_ms, waiting) = self.store.delayed(&held).await?;
        let messages: u64 = waiting.iter().map(|waiting| waiting.messages).sum();
        self.metrics.delayed.set(i64::try_from(messages).unwrap_or(i64::MAX));
        let due: Vec<u16> = held
            .iter()
            .zip(&waiting)
            .filter(|(_, waiting)| waiting.first_due_ms.is_some_and(|first| first <= now_ms))
            .map(|(partition, _)| *partition)
            .collect();
        if due.is_empty() {
            self.metrics.overdue.set(0);
            let first = waiting.iter().filter_map(|waiting| waiting.first_due_ms).min();
            let left = first.map_or(LOOK_EVERY, |first| Duration::from_millis(first - now_ms));
            return Ok(left.min(LOOK_EVERY));
        }
        let mut failed = None;
        let mut has_more = false;
        for answer in self.store.move_due(&due, self.window_ms, MOST).await? {
            match answer {
                Ok(moved) => {
                    self.metrics.due.inc_by(moved.moved);
                    has_more |= moved.left > 0 && moved.moved > 0;
                }
                Err(error) => failed = Some(error),
            }
        }
        let overdue = self.store.overdue(&due, now_ms, OVERDUE_MS).await?;
        self.metrics.overdue.set(i64::try_from(overdue).unwrap_or(i64::MAX));
        match failed {
            Some(error) if !has_more => Err(error),
            // There is more, or something may be due before the half second is over: look at once.
            _ => Ok(Duration::ZERO),
        }
    }

    /// Says when moving begins to fail, and when it goes on.
    fn note(&mut self, round: &Result<Duration, StoreError>) {
        match round {
            Err(error) if !self.is_ill => {
                warn!(%error, "cannot move what is due; it waits where it is");
            }
            Ok(_) if self.is_ill => info!("what is due is moved again"),
            Ok(_) | Err(_) => {}
        }
        self.is_ill = round.is_err();
    }
}
