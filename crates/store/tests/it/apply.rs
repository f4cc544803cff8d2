//! apply: settings into their lane.

use super::kit::*;
use postroad_model::subscription::Status;
use postroad_store::LaneLimits;

#[tokio::test]
async fn an_older_change_never_overwrites_a_newer_one() {
    let road = Road::new().await;
    let mut sub = subscription();
    let limits = LaneLimits::default();
    let apply = async |sub: &postroad_model::subscription::Subscription, change: &str| {
        road.store.apply(sub, sid(change), limits).await.unwrap()
    };
    assert_eq!(road.store.settings(std::slice::from_ref(&sub.id)).await.unwrap().remove(0).unwrap(), None);
    // Numbers, not texts.
    for (change, prefetch, applied) in [
        ("9-0", 1, true),
        ("9-0", 2, false),
        ("10-0", 3, true),
        ("9-9", 4, false),
        ("10-9", 5, true),
        ("10-10", 6, true),
        ("10-9", 7, false),
    ] {
        let before = road.store.settings(std::slice::from_ref(&sub.id)).await.unwrap().remove(0).unwrap();
        sub.prefetch_count = prefetch;
        assert_eq!(apply(&sub, change).await, applied, "{change}");
        let there = road.store.settings(std::slice::from_ref(&sub.id)).await.unwrap().remove(0).unwrap();
        assert_eq!(there, if applied { Some(sub.clone()) } else { before }, "{change}");
    }
    assert!(road.store.settings(&[]).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_tombstone_stays_and_nothing_older_lives_behind_it() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    road.fill(&[&sub], 3).await;
    let lease = road.take_some("w-1", &sub, 1).await.leases.remove(0);
    road.outcome("w-1", &sub, lease, &answered(500)).await;
    let change = road.store.subscription(&sub.id).await.unwrap().unwrap().change;
    road.cancel(&sub).await;
    road.take("w-1", &sub).await;
    road.promote_early("w-1", &sub).await;
    let prefix = road.lane_key(&sub, "*");
    let mut left = road.texts(&["KEYS", &prefix]).await;
    left.sort();
    // The lane's own streams, and a tombstone that will go by itself.
    let expected = [road.lane_key(&sub, "marks"), road.lane_key(&sub, "ready"), road.sub_key(&sub)];
    assert_eq!((left, road.length(&expected[1]).await), (expected.to_vec(), 0));
    let ttl = road.number(&["PTTL", &road.sub_key(&sub)]).await;
    assert!(ttl > 86_400_000, "{ttl}");
    for _ in 0..2 {
        assert!(!road.store.apply(&sub, change, LaneLimits::default()).await.unwrap());
        road.store.apply_cancelled(&sub.id, change).await.unwrap();
        assert_eq!(road.state(&sub).await.status, "cancelled");
    }
    road.fill(&[&sub], 3).await;
    assert_eq!(road.state(&sub).await.queued, 0);
    road.check().await;
}

#[tokio::test]
async fn whoever_is_made_again_behind_a_tombstone_stays() {
    let road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    road.cancel(&sub).await;
    road.store.put_subscription(&sub, None, 9, LaneLimits::default()).await.unwrap();
    assert_eq!(road.number(&["PTTL", &road.sub_key(&sub)]).await, -1);
    assert_eq!(road.state(&sub).await.status, "active");
}

/// What was out when the subscription was paused comes back to a queue that starts with one.
#[tokio::test]
async fn coming_back_forgets_what_braked_before() {
    let mut road = Road::new().await;
    let mut sub = road.subscribe(|_| {}).await;
    road.fill(&[&sub], 4).await;
    let key = road.sub_key(&sub);
    for status in [Status::Paused, Status::Disabled] {
        road.change(&mut sub, |sub| sub.status = status).await;
        let brakes = ["gone", "hold", "streak", "streak_from", "opened", "window", "good", "bad"];
        for name in brakes {
            road.redis(&["HSET", &key, name, "99999999999999", "limit", "0"]).await;
        }
        assert!(road.take("w-1", &sub).await.leases.is_empty());
        road.change(&mut sub, |sub| sub.status = Status::Active).await;
        for name in brakes {
            assert_eq!(road.number(&["HEXISTS", &key, name]).await, 0, "{name}");
        }
        assert_eq!(road.state(&sub).await.limit, Some(1));
        assert_eq!(road.take("w-1", &sub).await.leases.len(), 1);
        road.check().await;
        road.sweep("w-2", &sub, &[]).await;
        road.store.disown("w-2", &[0, 1], &std::collections::HashMap::new()).await.unwrap();
    }
    // A change of something else keeps the brakes.
    road.redis(&["HSET", &key, "limit", "2"]).await;
    road.change(&mut sub, |sub| sub.ack_timeout = 7).await;
    assert_eq!(road.state(&sub).await.limit, Some(2));
    road.check().await;
}

#[tokio::test]
async fn a_pull_subscription_has_no_token() {
    let mut road = Road::new().await;
    let mut sub = road.subscribe(|sub| sub.callback_url = None).await;
    road.fill(&[&sub], 2).await;
    assert_eq!(road.state(&sub).await.status, "pull");
    assert_eq!(road.length(&road.lane_key(&sub, "ready")).await, 0);
    road.change(&mut sub, |sub| sub.callback_url = Some("http://127.0.0.1:1/".into())).await;
    assert_eq!(road.take("w-1", &sub).await.leases.len(), 2);
    road.check().await;
}

#[tokio::test]
async fn settings_that_cannot_be_read_are_an_error() {
    let road = Road::new().await;
    let (sub, sound) = (road.subscribe(|_| {}).await, road.subscribe(|_| {}).await);
    road.redis(&["HSET", &road.sub_key(&sub), "settings", "{"]).await;
    let mut read = road.store.settings(&[sub.id, sound.id.clone()]).await.unwrap();
    assert_eq!(read.pop().unwrap().unwrap(), Some(sound), "the others are read");
    let error = read.remove(0).unwrap_err();
    assert!(!error.is_transient() && error.to_string().contains("record"), "{error}");
}

#[tokio::test]
async fn figures_of_the_unknown_are_empty() {
    let road = Road::new().await;
    assert_eq!(road.state(&subscription()).await, postroad_store::SubscriptionState::default());
    assert!(road.store.states(&[]).await.unwrap().is_empty());
}
