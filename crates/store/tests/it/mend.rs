//! What is half done, repeated, too late or deleted, and how it comes right.

use super::kit::*;
use postroad_model::delivery::Outcome;
use postroad_store::{LaneLimits, StoreError, StreamId};

const LIMITS: LaneLimits = LaneLimits { entries: 1_000, bytes: 1 << 20 };

/// The key of a name under the control tag.
fn ctl(name: &str) -> String {
    format!("test:{{ctl}}:{name}")
}

#[tokio::test]
async fn what_does_not_count_says_nothing_of_the_subscriber() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    road.queue(&sub, &["a", "b", "c", "d"]).await;
    let late = road.take("w-1", &sub).await.leases;
    assert_eq!(road.sweep("w-2", &sub, &["w-2"]).await.lost.len(), 4, "they are another's now");
    let failures = late.into_iter().map(|lease| settlement(&sub, lease, &answered(500))).collect();
    assert_eq!(road.settle("w-1", failures).await.stale, 4);
    let state = road.state(&sub).await;
    assert_eq!((state.limit, state.failed, state.active_ms), (None, 0, None));
}

#[tokio::test]
async fn an_answer_that_is_settled_again_counts_once() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    road.queue(&sub, &["a", "b"]).await;
    let mut leases = road.take("w-1", &sub).await.leases;
    let lane = LAYOUT.lane_of(&sub.id);
    let good = [(lane, vec![settlement(&sub, leases.remove(0), &answered(200))])];
    for _ in 0..2 {
        road.settle_lane("w-1", &good).await;
        assert_eq!(road.state(&sub).await.delivered, 1);
    }
    let gone = [(lane, vec![settlement(&sub, leases.remove(0), &answered(410))])];
    assert!(road.settle_lane("w-1", &gone).await.disabled.is_empty());
    // As if the reply was lost, and the flight went again a minute later.
    let long_ago = (road.now().await - 61_000).to_string();
    road.redis(&["HSET", &road.sub_key(&sub), "gone", &long_ago]).await;
    assert!(road.settle_lane("w-1", &gone).await.disabled.is_empty());
    assert_eq!(road.state(&sub).await.status, "active");
}

#[tokio::test]
async fn a_change_that_did_not_reach_its_lane_is_brought_there() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    let other = road.subscribe(|_| {}).await;
    assert_eq!(road.number(&["ZCARD", &ctl("unapplied")]).await, 0, "what is applied is noted");
    let change = road.store.subscription(&sub.id).await.unwrap().unwrap().change;
    road.redis(&["DEL", &road.sub_key(&sub)]).await;
    road.redis(&["ZADD", &ctl("unapplied"), "1", &format!("{} {change}", sub.id), "1", "junk"]).await;
    assert_eq!(road.store.apply_left(LIMITS).await.unwrap(), 2);
    assert_eq!(road.state(&sub).await.status, "active");
    assert_eq!(road.store.apply_left(LIMITS).await.unwrap(), 0);

    // A cancellation of which only the record has heard.
    road.queue(&other, &["a"]).await;
    road.redis(&["HDEL", &ctl("subs"), other.id.as_str()]).await;
    road.redis(&["HDEL", &ctl("changed"), other.id.as_str()]).await;
    road.redis(&["ZADD", &ctl("unapplied"), "1", &format!("{} 9999999999999-0", other.id)]).await;
    assert_eq!(road.store.apply_left(LIMITS).await.unwrap(), 1);
    assert_eq!(road.number(&["EXISTS", &road.work_key(&other)]).await, 0);
    assert_eq!(road.state(&other).await.status, "cancelled");
}

#[tokio::test]
async fn an_epoch_never_comes_back() {
    let road = Road::new().await;
    let before = road.own("r-1", 0).await;
    road.redis(&["FLUSHALL"]).await;
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    assert!(road.own("r-1", 0).await > before);
}

#[tokio::test]
async fn ids_go_on_rising_where_a_stream_was_deleted() {
    let road = Road::new().await;
    road.accept(&["a"]).await;
    let mut last = road.store.history(0, StreamId::ZERO, END, 1).await.unwrap().remove(0).id;
    for id in ["b", "c"] {
        road.redis(&["DEL", &road.partition_key(0, "ingress")]).await;
        road.accept(&[id]).await;
        let next = road.store.history(0, StreamId::ZERO, END, 1).await.unwrap().remove(0).id;
        assert!(next > last, "{next} is not above {last}");
        last = next;
    }
}

#[tokio::test]
async fn a_record_that_cannot_be_read_keeps_nothing_back() {
    let road = Road::new().await;
    let (odd, sound) = (road.subscribe(|_| {}).await, road.subscribe(|_| {}).await);
    road.redis(&["HSET", &ctl("subs"), odd.id.as_str(), "{\"of\":\"a newer release\"}"]).await;
    road.redis(&["HSET", &ctl("changed"), "no id at all", "1-1"]).await;
    let (all, _) = road.store.snapshot().await.unwrap();
    assert_eq!(all.iter().map(|known| &known.subscription.id).collect::<Vec<_>>(), [&sound.id]);
    let error = road.store.subscription(&odd.id).await.unwrap_err();
    assert!(matches!(error, StoreError::Reply(_)), "unreadable is not cancelled: {error}");
}

#[tokio::test]
async fn what_is_put_aside_again_lies_there_once() {
    let road = Road::new().await;
    road.accept(&["a", "b"]).await;
    for entry in road.store.history(0, StreamId::ZERO, END, 9).await.unwrap() {
        for _ in 0..2 {
            road.store.quarantine(0, &entry, "for a test").await.unwrap();
        }
    }
    assert_eq!(road.length(&road.partition_key(0, "dead")).await, 2);
}

#[tokio::test]
async fn an_attempt_that_hears_nothing_is_no_answer() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    road.queue(&sub, &["a"]).await;
    let lease = road.take_one("w-1", &sub).await;
    road.outcome("w-1", &sub, lease, &Outcome::WorkerLost).await;
    assert_eq!(road.state(&sub).await.failed, 0);
}
