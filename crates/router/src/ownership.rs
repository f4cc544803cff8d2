//! Which partitions this router holds.
//!
//! Every router says each tick that it lives, and hears who else does. The partitions are dealt out over
//! the sorted names of the living, so that all come to the same shares without talking. A partition is
//! taken when it is in this router's share and its owner has released it or been silent for a lease; it is
//! released when it has fallen into another's share. Redis decides, by a script and by its own clock; the
//! monotonic clock here only makes a router that was frozen stand down before Redis would have to refuse.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use postroad_model::time::millis;
use postroad_store::{Claim, Claimed, Store, StoreError, StreamId};
use tokio::sync::Notify;
use tracing::{info, warn};

use crate::config::RouterConfig;

/// How a router names itself among the living.
pub const KIND: &str = "router";

/// A partition that is held.
#[derive(Debug, Clone)]
pub struct Holding {
    /// The number of this ownership.
    pub epoch: u64,
    /// Up to where it was routed when it was taken.
    pub routed: StreamId,
    /// Per lane the highest id that had been sent there when it was taken.
    pub sent: Vec<(u16, StreamId)>,
    /// When it was last known to be ours: the time just before the request that said so.
    pub renewed: Instant,
}

/// What is held, shared between whoever renews it and whoever uses it.
#[derive(Default)]
pub struct Holdings {
    held: Mutex<BTreeMap<u16, Holding>>,
    /// Given up on purpose, until then: entries of a newer format lie there.
    shunned: Mutex<BTreeMap<u16, Instant>>,
    /// To be released once their last batch is through.
    leaving: Mutex<Vec<u16>>,
    changed: Notify,
}

impl Holdings {
    /// Everything that is held.
    pub fn all(&self) -> BTreeMap<u16, Holding> {
        self.lock().clone()
    }

    /// Whether a partition is surely still ours.
    pub fn is_fresh(&self, partition: u16, epoch: u64, config: &RouterConfig) -> bool {
        self.lock()
            .get(&partition)
            .is_some_and(|held| held.epoch == epoch && held.renewed.elapsed() < config.lease)
    }

    /// Forgets a partition: Redis said that it is another's.
    pub fn forget(&self, partition: u16) {
        self.lock().remove(&partition);
        self.changed.notify_one();
    }

    /// Gives a partition up for a while, so that a newer router has it.
    pub fn shun(&self, partition: u16, until: Instant) {
        self.shunned.lock().unwrap_or_else(PoisonError::into_inner).insert(partition, until);
    }

    /// What is to be released, once.
    pub fn take_leaving(&self) -> Vec<u16> {
        std::mem::take(&mut *self.leaving.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until what is held may have changed.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u16, Holding>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_shunned(&self, partition: u16) -> bool {
        let mut shunned = self.shunned.lock().unwrap_or_else(PoisonError::into_inner);
        shunned.retain(|_, until| *until > Instant::now());
        shunned.contains_key(&partition)
    }
}

/// The partitions in `me`'s share, among the living.
pub fn share(me: &str, living: &[String], partitions: u16) -> Vec<u16> {
    let mut names: Vec<&str> = living.iter().map(String::as_str).collect();
    if !names.contains(&me) {
        names.push(me);
    }
    names.sort_unstable();
    (0..partitions).filter(|partition| names[usize::from(*partition) % names.len()] == me).collect()
}

/// One round: renews what is held, takes what is free of this router's share. What has fallen into
/// another's share is marked, to be released once its last batch is through.
pub async fn round(
    store: &Store,
    me: &str,
    living: &[String],
    config: &RouterConfig,
    holdings: &Holdings,
) -> Result<(), StoreError> {
    let share = share(me, living, store.layout().partitions);
    let held = holdings.all();
    let claims: Vec<Claim> = (0..store.layout().partitions)
        .filter_map(|partition| {
            let epoch = held.get(&partition).map(|held| held.epoch);
            let take = share.contains(&partition) && !holdings.is_shunned(partition);
            (epoch.is_some() || take).then_some(Claim { partition, epoch, take })
        })
        .collect();
    let asked = Instant::now();
    let lease_ms = millis(config.lease);
    let answers = store.claim(me, lease_ms, &claims).await?;
    for (claim, answer) in claims.iter().zip(answers) {
        let partition = claim.partition;
        match answer {
            Ok(Claimed::Kept) => {
                if let Some(held) = holdings.lock().get_mut(&partition) {
                    held.renewed = asked;
                }
            }
            Ok(Claimed::New { epoch, routed, sent }) => {
                info!(partition, epoch, routed = %routed, "took a partition");
                holdings.lock().insert(partition, Holding { epoch, routed, sent, renewed: asked });
                holdings.changed.notify_one();
            }
            Ok(Claimed::Other { owner, .. }) => {
                if claim.epoch.is_some() {
                    info!(partition, owner, "a partition is another's now");
                    holdings.forget(partition);
                }
            }
            Err(error) => warn!(partition, %error, "could not ask for a partition"),
        }
    }
    let leaving: Vec<u16> = held.into_keys().filter(|partition| !share.contains(partition)).collect();
    if !leaving.is_empty() {
        *holdings.leaving.lock().unwrap_or_else(PoisonError::into_inner) = leaving;
        holdings.changed.notify_one();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn every_partition_is_in_exactly_one_share_and_shares_are_fair() {
        for living in
            [names(&["a"]), names(&["b", "a"]), names(&["c", "a", "b"]), names(&["a", "b", "c", "d", "e"])]
        {
            let mut all: Vec<u16> = Vec::new();
            for name in &living {
                let share = share(name, &living, 8);
                assert!((8 / living.len()..=8usize.div_ceil(living.len())).contains(&share.len()));
                all.extend(share);
            }
            all.sort_unstable();
            assert_eq!(all, (0..8).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_newcomer_counts_itself() {
        assert_eq!(share("b", &names(&["a"]), 4), [1, 3]);
    }
}
