//! From time to time, and after Redis was away: do the lanes still have what they got? What they lack is sent again,
//! and what all of them have may leave history.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use postroad_model::time::millis;
use postroad_store::{StoreError, StreamId, TRIM_MOST};
use tracing::{info, warn};

use super::Router;
use crate::road::Road;

impl Router {
    /// Asks every lane whether it still has what it got, and lets go of history that all of them have.
    pub(super) async fn compare(&mut self) -> Result<(), StoreError> {
        self.compared = Instant::now();
        if let Some(catalog) = &mut self.catalog {
            catalog.check(&self.store).await?;
        }
        let left = self.store.apply_left(self.config.limits).await?;
        if left > 0 {
            info!(left, "brought changes into their lanes that whoever made them had not");
        }
        let before: Vec<(u16, StreamId)> =
            self.roads.iter().map(|(partition, road)| (*partition, road.routed())).collect();
        let unsure = self.look_for_gaps().await?;
        self.send().await?;
        self.roads.values_mut().for_each(Road::tell_again);
        let crowded = self.store.memory_used().await? * 100.0 >= f64::from(self.config.max_memory_percent);
        for (partition, routed) in before {
            if !unsure.contains(&partition) {
                self.settled.entry(partition).or_default().push((Instant::now(), routed));
            }
            self.trim(partition, crowded).await?;
        }
        Ok(())
    }

    /// Compares what lanes got with how far they say they are; what they lack is made ready to be sent again.
    /// The partitions of which some lane could not be asked.
    async fn look_for_gaps(&mut self) -> Result<BTreeSet<u16>, StoreError> {
        let mut unsure = BTreeSet::new();
        let mut lanes: BTreeMap<u16, Vec<u16>> = BTreeMap::new();
        for (partition, road) in &self.roads {
            for (lane, chain) in &road.chains {
                if !chain.is_idle() {
                    unsure.insert(*partition);
                } else if chain.prev > StreamId::ZERO {
                    lanes.entry(*lane).or_default().push(*partition);
                }
            }
        }
        let lanes: Vec<(u16, Vec<u16>)> = lanes.into_iter().collect();
        if lanes.is_empty() {
            return Ok(unsure);
        }
        let answers = self.store.marks(&lanes).await?;
        for ((lane, partitions), answer) in lanes.into_iter().zip(answers) {
            let Ok(marks) = answer else {
                unsure.extend(partitions);
                continue;
            };
            for (partition, mark) in partitions.into_iter().zip(marks) {
                let chain = self.roads.get(&partition).and_then(|road| road.chains.get(&lane));
                if chain.is_some_and(|chain| mark < chain.prev) {
                    self.refill(partition, lane, mark).await?;
                }
            }
        }
        Ok(unsure)
    }

    /// Lets go of history that every lane was found to have at least a minute after it got it: what is older
    /// than it is kept, and while Redis is crowded also what is younger, until it no longer is.
    async fn trim(&mut self, partition: u16, mut crowded: bool) -> Result<(), StoreError> {
        const AT_LEAST: Duration = Duration::from_secs(60);
        /// So that one partition does not keep the others waiting.
        const ROUNDS: usize = 20;
        let (Some(road), Some(settled)) = (self.roads.get(&partition), self.settled.get_mut(&partition))
        else {
            return Ok(());
        };
        let Some(at) = settled.iter().rposition(|(when, _)| when.elapsed() >= AT_LEAST) else {
            return Ok(());
        };
        let upto = settled[at].1;
        settled.drain(..at);
        let retention_ms = millis(self.config.retention);
        for _ in 0..ROUNDS {
            let keep_ms = if crowded { 0 } else { retention_ms };
            let Some(trimmed) = self.store.trim(&self.me, partition, road.epoch, upto, keep_ms).await? else {
                self.holdings.forget(partition);
                return Ok(());
            };
            self.metrics.trimmed.inc_by(trimmed);
            if trimmed < TRIM_MOST / 2 {
                return Ok(());
            }
            if crowded {
                let used = self.store.memory_used().await? * 100.0;
                crowded = used >= f64::from(self.config.max_memory_percent);
            }
        }
        Ok(())
    }

    /// A lane lost its tail: what it got before and lacks now is read and matched again.
    pub(super) async fn refill(
        &mut self,
        partition: u16,
        lane: u16,
        mark: StreamId,
    ) -> Result<(), StoreError> {
        const PAGE: usize = 500;
        let Some(upto) =
            self.roads.get(&partition).and_then(|road| road.chains.get(&lane)).map(|chain| chain.prev)
        else {
            return Ok(());
        };
        warn!(partition, lane, mark = %mark, upto = %upto, "a lane lacks entries that it had; sending them again");
        self.metrics.gaps.inc();
        let mut parcels = Vec::new();
        let mut after = mark;
        loop {
            let page = self.store.history(partition, after, upto, PAGE).await?;
            let Some(last) = page.last().map(|entry| entry.id) else { break };
            for accepted in page.into_iter().map(Arc::new) {
                // What does not decode was put aside when it was first met.
                if let Ok(message) = accepted.entry.decode() {
                    parcels.extend(
                        self.match_one(&accepted, &message)
                            .into_iter()
                            .filter(|(of, _)| *of == lane)
                            .map(|(_, parcel)| parcel),
                    );
                }
            }
            after = last;
        }
        if let Some(road) = self.roads.get_mut(&partition) {
            road.lost(lane, mark, parcels);
        }
        Ok(())
    }
}
