//! subscribe: records, and the stream of their changes.

use std::collections::BTreeSet;

use super::kit::*;
use postroad_model::names::Tenant;
use postroad_store::{Change, LaneLimits, StoreError, StreamId, keys::Tag};

const LIMITS: LaneLimits = LaneLimits { entries: 9, bytes: 9_999 };

#[tokio::test]
async fn a_record_is_made_changed_and_removed_by_whoever_saw_it() {
    let road = Road::new().await;
    let store = &road.store;
    let mut sub = subscription();
    let first = store.put_subscription(&sub, None, 9, LIMITS).await.unwrap();
    let conflict =
        |error: StoreError| assert!(matches!(&error, StoreError::Conflict(id) if *id == sub.id.to_string()));
    conflict(store.put_subscription(&sub, None, 9, LIMITS).await.unwrap_err());
    conflict(store.put_subscription(&sub, Some(sid("1-1")), 9, LIMITS).await.unwrap_err());
    conflict(store.cancel_subscription(&sub.id, &sub.tenant, sid("1-1")).await.unwrap_err());
    sub.prefetch_count = 77;
    let second = store.put_subscription(&sub, Some(first), 9, LIMITS).await.unwrap();
    assert!(second > first);
    assert!(store.put_subscription(&sub, Some(first), 9, LIMITS).await.is_err(), "somebody was faster");
    let there = store.subscription(&sub.id).await.unwrap().unwrap();
    assert_eq!((there.change, there.subscription.prefetch_count), (second, 77));
    store.cancel_subscription(&sub.id, &sub.tenant, second).await.unwrap();
    assert!(store.subscription(&sub.id).await.unwrap().is_none());
    let again = store.cancel_subscription(&sub.id, &sub.tenant, second).await.unwrap_err();
    assert!(matches!(again, StoreError::Conflict(_)));
    assert_eq!(store.count_subscriptions(&sub.tenant).await.unwrap(), 0);

    let (changes, version) = store.changes(StreamId::ZERO).await.unwrap().unwrap();
    assert_eq!(changes.len(), 3, "refusals are no changes");
    let told: Vec<u32> = changes
        .iter()
        .filter_map(|change| match change {
            Change::Put(put) => Some(put.subscription.prefetch_count),
            _ => None,
        })
        .collect();
    assert_eq!(told, [4, 77]);
    assert!(matches!(&changes[2], Change::Cancelled(id) if *id == sub.id));
    let (nothing, same) = store.changes(version).await.unwrap().unwrap();
    assert!(nothing.is_empty() && same == version);
}

#[tokio::test]
async fn a_tenant_has_so_many_and_others_do_not_count() {
    let road = Road::new().await;
    let store = &road.store;
    let subs: Vec<_> = (0..4).map(|_| subscription()).collect();
    let mut changes = Vec::new();
    for sub in &subs[..2] {
        changes.push(store.put_subscription(sub, None, 2, LIMITS).await.unwrap());
    }
    let full = store.put_subscription(&subs[2], None, 2, LIMITS).await.unwrap_err();
    assert!(matches!(full, StoreError::TooMany(2)) && !full.is_transient());
    let mut foreign = subs[3].clone();
    foreign.tenant = Tenant::new("other").unwrap();
    store.put_subscription(&foreign, None, 2, LIMITS).await.unwrap();
    // At the bound a change of what is there still goes.
    store.put_subscription(&subs[0], Some(changes[0]), 2, LIMITS).await.unwrap();
    store.cancel_subscription(&subs[1].id, &subs[1].tenant, changes[1]).await.unwrap();
    store.put_subscription(&subs[2], None, 2, LIMITS).await.unwrap();
    let names = async |tenant: &Tenant| -> Vec<String> {
        let page = store.subscriptions(tenant, None, 10).await.unwrap();
        page.into_iter().map(|there| there.subscription.id.to_string()).collect()
    };
    let mut own = [subs[0].id.to_string(), subs[2].id.to_string()];
    own.sort();
    assert_eq!(names(&Tenant::single()).await, own);
    assert_eq!(names(&foreign.tenant).await, [foreign.id.to_string()]);
}

#[tokio::test]
async fn subscriptions_are_listed_by_page() {
    let road = Road::new().await;
    let mut all = BTreeSet::new();
    for _ in 0..7 {
        all.insert(road.subscribe(|_| {}).await.id.to_string());
    }
    let tenant = Tenant::single();
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = road.store.subscriptions(&tenant, after.as_deref(), 3).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.subscription.id.to_string());
        seen.extend(page.into_iter().map(|there| there.subscription.id.to_string()));
    }
    assert_eq!(seen, all.into_iter().collect::<Vec<_>>());
    assert!(road.store.records(&[]).await.unwrap().is_empty());
    assert!(road.store.subscription(&subscription().id).await.unwrap().is_none());
}

#[tokio::test]
async fn a_snapshot_and_the_changes_behind_it_are_everything() {
    let road = Road::new().await;
    let (all, version) = road.store.snapshot().await.unwrap();
    assert!(all.is_empty() && version == StreamId::ZERO);
    let mut ids = BTreeSet::new();
    for _ in 0..30 {
        ids.insert(road.subscribe(|_| {}).await.id);
    }
    let (all, version) = road.store.snapshot().await.unwrap();
    assert_eq!(all.iter().map(|there| there.subscription.id.clone()).collect::<BTreeSet<_>>(), ids);
    assert!(all.iter().any(|there| there.change == version));
    let later = road.subscribe(|_| {}).await;
    let (changes, _) = road.store.changes(version).await.unwrap().unwrap();
    assert!(matches!(&changes[..], [Change::Put(put)] if put.subscription.id == later.id));
}

/// Each change names the one before it.
#[tokio::test]
async fn lost_changes_are_noticed() {
    let road = Road::new().await;
    let changes = road.keys.key(Tag::Ctl, "changes");
    let version = async |since| road.store.changes(since).await.unwrap().map(|(_, version)| version);
    assert_eq!(road.store.newest_change().await.unwrap(), StreamId::ZERO);
    let mut versions = vec![StreamId::ZERO];
    for _ in 0..4 {
        road.subscribe(|_| {}).await;
        versions.push(road.store.newest_change().await.unwrap());
    }
    for since in &versions {
        assert_eq!(version(*since).await, Some(versions[4]));
    }
    road.redis(&["XDEL", &changes, &versions[2].to_string()]).await;
    for (since, whole) in versions.iter().zip([false, false, true, true, true]) {
        assert_eq!(version(*since).await.is_some(), whole, "{since}");
    }
    road.redis(&["XTRIM", &changes, "MAXLEN", "0"]).await;
    assert_eq!(road.store.newest_change().await.unwrap(), versions[4], "what is let go was there");
    road.subscribe(|_| {}).await;
    assert!(version(versions[3]).await.is_none() && version(versions[4]).await.is_some());
    road.redis(&["DEL", &changes]).await;
    assert_eq!(road.store.newest_change().await.unwrap(), StreamId::ZERO);
    road.subscribe(|_| {}).await;
    assert!(version(versions[4]).await.is_none(), "another stream");
}

#[tokio::test]
async fn old_changes_go_with_new_ones() {
    let road = Road::new().await;
    let changes = road.keys.key(Tag::Ctl, "changes");
    let young = road.now().await - 3_500_000;
    let fill = "for n = 1, 300 do redis.call('XADD', KEYS[1], ARGV[1] .. '-' .. n, 'kind', 'x') end";
    road.redis(&["EVAL", fill, "1", &changes, &(young - 200_000).to_string()]).await;
    road.redis(&["EVAL", fill, "1", &changes, &young.to_string()]).await;
    road.subscribe(|_| {}).await;
    let left = road.length(&changes).await;
    assert!((301..=401).contains(&left), "{left}");
}

/// Whoever made a change was killed before its lane had it.
#[tokio::test]
async fn changes_that_were_left_reach_their_lane() {
    let mut road = Road::new().await;
    let unapplied = road.keys.key(Tag::Ctl, "unapplied");
    let (made, cancelled) = (road.subscribe_in(0, |_| {}).await, road.subscribe_in(0, |_| {}).await);
    let later = StreamId { ms: road.now().await + 1, seq: 0 };
    let change = road.store.subscription(&made.id).await.unwrap().unwrap().change;
    let left = [
        "junk".to_owned(),
        "no id! 1-0".to_owned(),
        format!("{} x", made.id),
        format!("{} {change}", made.id),
        format!("{} {later}", cancelled.id),
    ];
    assert_eq!(road.number(&["ZCARD", &unapplied]).await, 0, "what is applied is not left");
    road.redis(&["DEL", &road.sub_key(&made)]).await;
    road.redis(&["HDEL", &road.keys.key(Tag::Ctl, "subs"), cancelled.id.as_str()]).await;
    for row in &left {
        road.redis(&["ZADD", &unapplied, "1", row]).await;
    }
    road.redis(&["ZADD", &unapplied, &road.now().await.to_string(), "just now"]).await;
    for count in [5, 0] {
        assert_eq!(road.store.apply_left(LIMITS).await.unwrap(), count);
        assert_eq!(
            road.texts(&["ZRANGE", &unapplied, "0", "-1"]).await,
            ["just now"],
            "it may still be on its way"
        );
        assert_eq!(road.state(&made).await.status, "active");
        assert_eq!(road.state(&cancelled).await.status, "cancelled");
    }
    road.fill(&[&made, &cancelled], 2).await;
    assert_eq!((road.state(&made).await.queued, road.state(&cancelled).await.queued), (2, 0));
}

#[tokio::test]
async fn changes_that_cannot_be_read_are_told_and_passed_over() {
    let road = Road::new().await;
    let changes = road.keys.key(Tag::Ctl, "changes");
    for fields in [
        vec!["x", "y"],
        vec!["kind", "moon-phase", "id", "1"],
        vec!["kind", "subscription", "id", "sub_1", "record", "{"],
        vec!["kind", "subscription", "id", "not an id", "record", ""],
    ] {
        road.redis(&[&["XADD", changes.as_str(), "*"][..], &fields].concat()).await;
    }
    let sub = road.subscribe(|_| {}).await;
    let (read, _) = road.store.changes(StreamId::ZERO).await.unwrap().unwrap();
    assert_eq!(read.len(), 5);
    assert!(
        read[..4].iter().all(|change| matches!(change, Change::Unknown { reason, .. } if !reason.is_empty()))
    );
    assert!(matches!(&read[4], Change::Put(put) if put.subscription.id == sub.id));
}

#[tokio::test]
async fn half_a_record_is_none() {
    let road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    road.redis(&["HDEL", &road.keys.key(Tag::Ctl, "changed"), sub.id.as_str()]).await;
    assert!(road.store.subscription(&sub.id).await.unwrap().is_none());
    road.redis(&["HSET", &road.keys.key(Tag::Ctl, "subs"), sub.id.as_str(), "no json"]).await;
    let error = road.store.subscription(&sub.id).await.unwrap_err();
    assert!(matches!(error, StoreError::Reply(_)), "{error}");
}
