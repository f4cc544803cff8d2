//! Messages that are due, moved by real routers.

use std::collections::{BTreeMap, BTreeSet};

use postroad_model::subscription::Subscription;
use postroad_store::Due;
use postroad_testkit::wait::eventually;

use super::kit::*;

/// How late a message may come: half a second between two looks, and a second for a machine with much to do.
const LATE_MS: u64 = 1_500;

/// Delays so many messages a partition to the same time: the ids.
async fn delay(town: &Town, per_partition: usize, due: Due) -> BTreeSet<String> {
    let flight: Vec<(u16, Vec<_>)> = (0..4)
        .map(|partition| {
            let of = |n| acceptance(&message(&format!("m-{partition}-{n}")), Some(due));
            (partition, (0..per_partition).map(of).collect())
        })
        .collect();
    for answer in town.store.delay(&flight, WINDOW, postroad_store::DelayLimits::default()).await.unwrap() {
        answer.unwrap();
    }
    (0..4).flat_map(|partition| (0..per_partition).map(move |n| format!("m-{partition}-{n}"))).collect()
}

/// Waits until all are queued: when each was, by Redis's clock. None is there twice.
async fn all_queued(town: &Town, sub: &Subscription, ids: &BTreeSet<String>) -> BTreeMap<String, u64> {
    eventually(PATIENCE, "all to be queued", async || {
        let queued = town.queued(sub).await;
        if queued.len() < ids.len() { Err(format!("{} of {}", queued.len(), ids.len())) } else { Ok(()) }
    })
    .await
    .unwrap();
    let queued = town.queued(sub).await;
    assert_eq!(queued.len(), ids.len(), "none is there twice");
    let queued: BTreeMap<String, u64> =
        queued.into_iter().map(|(message, at)| (message.id.to_string(), at)).collect();
    assert!(queued.keys().eq(ids.iter()));
    queued
}

#[tokio::test]
async fn what_is_due_is_routed_soon_in_all_partitions_and_not_before() {
    let town = Town::new().await;
    let sub = town.subscribe(|_| {}).await;
    let router = town.router();
    let due_ms = town.now().await + 1_300;
    let ids = delay(&town, 50, Due::At(due_ms)).await;
    for at in all_queued(&town, &sub, &ids).await.into_values() {
        assert!((due_ms..due_ms + LATE_MS).contains(&at), "due at {due_ms}, queued at {at}");
    }
    router.stop().await;
}

/// More than one script moves, and later ones that come before those that wait.
#[tokio::test]
async fn many_that_are_due_at_once_all_come() {
    let town = Town::new().await;
    let sub = town.subscribe(|_| {}).await;
    let _router = town.router();
    delay(&town, 1, Due::After(600_000)).await;
    let flight = [(0, vec![acceptance(&message("soon"), Some(Due::After(100)))])];
    town.store.delay(&flight, WINDOW, postroad_store::DelayLimits::default()).await.unwrap();
    all_queued(&town, &sub, &BTreeSet::from(["soon".to_owned()])).await;
    let more: Vec<_> =
        (0..900).map(|n| acceptance(&message(&format!("many-{n}")), Some(Due::At(1)))).collect();
    let flight = [(2, more)];
    town.store.delay(&flight, WINDOW, postroad_store::DelayLimits::default()).await.unwrap();
    let mut ids: BTreeSet<String> = (0..900).map(|n| format!("many-{n}")).collect();
    ids.insert("soon".into());
    all_queued(&town, &sub, &ids).await;
    let (_, waiting) = town.store.delayed(&[0, 1, 2, 3]).await.unwrap();
    assert_eq!(waiting.iter().map(|waiting| waiting.messages).sum::<u64>(), 4, "the others wait on");
}

#[tokio::test]
async fn a_router_killed_while_they_wait_is_replaced_and_each_comes_once() {
    let town = Town::new().await;
    let sub = town.subscribe(|_| {}).await;
    let first = town.router();
    eventually(PATIENCE, "the first router to hold all", async || {
        let owned = town.redis.command(&["EVAL", OWNED, "0"]).await.unwrap().int().unwrap();
        if owned == 4 { Ok(()) } else { Err(owned) }
    })
    .await
    .unwrap();
    let due_ms = town.now().await + 400;
    let ids = delay(&town, 300, Due::At(due_ms)).await;
    // It is killed among the moves.
    eventually(PATIENCE, "the first to be moved", async || {
        let (_, waiting) = town.store.delayed(&[0, 1, 2, 3]).await.unwrap();
        let left: u64 = waiting.iter().map(|waiting| waiting.messages).sum();
        if left < 1_200 { Ok(()) } else { Err(left) }
    })
    .await
    .unwrap();
    drop(first);
    let _second = town.router();
    all_queued(&town, &sub, &ids).await;
}

const OWNED: &str = "
    local owned = 0
    for _, key in ipairs(redis.call('KEYS', '*}:owner')) do
      if redis.call('HEXISTS', key, 'name') == 1 then owned = owned + 1 end
    end
    return owned";
