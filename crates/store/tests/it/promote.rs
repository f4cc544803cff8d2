//! promote: timers that are due.

use std::time::Duration;

use super::kit::*;
use postroad_model::delivery::{Outcome, Place};
use postroad_store::Settlement;

/// Never early, never later than the first look after it: compared by Redis's own clock.
#[tokio::test]
async fn a_delivery_is_due_at_its_millisecond() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|sub| sub.prefetch_count = 50).await;
    road.fill(&[&sub], 10).await;
    for lease in road.take("w-1", &sub).await.leases {
        let settled = road.settle("w-1", vec![put(lease, Place::Later { delay_ms: 15 })]).await;
        assert!(settled.next_due.unwrap() <= Duration::from_millis(15));
        let scores = road.texts(&["ZRANGE", &road.lane_key(&sub, "timers"), "0", "-1", "WITHSCORES"]).await;
        let due: u64 = scores[1].parse().unwrap();
        loop {
            let before = road.now().await;
            let promoted = road.promote("w-1", &sub).await;
            let after = road.now().await;
            if promoted.handled == 1 {
                assert!(after >= due, "{} ms early", due - after);
                assert_eq!(promoted.next_due, None);
                break;
            }
            assert!(before < due, "{} ms late", before - due);
            let left = promoted.next_due.unwrap();
            assert!(left > Duration::ZERO && left <= Duration::from_millis(due - before), "{left:?}");
        }
    }
    assert_eq!(road.places(&sub).await, [at("again", 10)]);
    road.check().await;
}

#[tokio::test]
async fn nothing_due_is_nothing_done() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    for _ in 0..2 {
        let promoted = road.promote("w-1", &sub).await;
        assert_eq!((promoted.handled, promoted.next_due), (0, None));
    }
    road.fill(&[&sub], 1).await;
    let lease = road.take_one("w-1", &sub).await;
    road.settle("w-1", vec![put(lease, Place::Later { delay_ms: 3_000_000_000 })]).await;
    let promoted = road.promote("w-1", &sub).await;
    let left = promoted.next_due.unwrap().as_millis();
    assert_eq!(promoted.handled, 0);
    assert!((2_999_900_000..=3_000_000_000).contains(&left), "{left}");
    assert!(road.store.promote("w-1", &[], 1).await.unwrap().is_empty());
    road.check().await;
}

#[tokio::test]
async fn many_due_at_once_go_in_steps_and_two_workers_do_not_double_them() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|sub| sub.prefetch_count = 1_000).await;
    road.fill(&[&sub], 500).await;
    let leases = road.take_some("w-1", &sub, 1_000).await.leases;
    let later: Vec<Settlement> =
        leases.into_iter().map(|lease| put(lease, Place::Later { delay_ms: 0 })).collect();
    road.settle("w-1", later).await;
    let first = road.promote("w-1", &sub).await;
    assert_eq!((first.handled, first.next_due), (200, Some(Duration::ZERO)));
    assert_eq!(road.places(&sub).await, [at("again", 200), at("later", 300)]);
    road.check().await;
    let (a, b, c) =
        tokio::join!(road.promote("w-1", &sub), road.promote("w-2", &sub), road.promote("w-3", &sub));
    assert_eq!(a.handled + b.handled + c.handled, 300);
    assert_eq!(road.take_some("w-2", &sub, 1_000).await.leases.len(), 500);
    road.check().await;
}

#[tokio::test]
async fn a_missed_acknowledgment_is_somebodys_to_judge() {
    let mut road = Road::new().await;
    let sub =
        road.subscribe(|sub| (sub.auto_ack, sub.ack_timeout, sub.retry.max_retries) = (false, 30, 1)).await;
    road.queue(&sub, &["a"]).await;
    let lease = road.take_one("w-1", &sub).await;
    road.outcome("w-1", &sub, lease, &answered(200)).await;
    assert_eq!(road.promote("w-2", &sub).await.handled, 0, "half a minute is not over");
    let mut missed = road.promote_early("w-2", &sub).await.missed;
    assert!(road.promote_early("w-3", &sub).await.missed.is_empty(), "only once");
    let lease = missed.pop().unwrap();
    assert_eq!((lease.number, lease.entry.decode().unwrap().id.as_str()), (2, "a"));
    assert_eq!(road.places(&sub).await, [at("w-2", 1)]);
    road.check().await;
    road.outcome("w-2", &sub, lease, &Outcome::AckMissed).await;
    road.promote_early("w-2", &sub).await;
    let lease = road.take_one("w-1", &sub).await;
    assert_eq!((lease.tries.progress.attempts, lease.number), (1, 3));
    road.outcome("w-1", &sub, lease, &answered(200)).await;
    let lease = road.promote_early("w-2", &sub).await.missed.remove(0);
    assert_eq!(lease.tries.progress.attempts, 1);
    road.outcome("w-2", &sub, lease, &Outcome::AckMissed).await;
    assert_eq!((road.state(&sub).await.queued, road.state(&sub).await.dead), (0, 1));
    road.check().await;
}

/// The first of two that holds it may be frozen: its delivery is swept like any other.
#[tokio::test]
async fn whoever_judges_a_missed_one_may_be_lost_too() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|sub| sub.auto_ack = false).await;
    road.fill(&[&sub], 1).await;
    let lease = road.take_one("w-1", &sub).await;
    road.outcome("w-1", &sub, lease, &answered(200)).await;
    let frozen = road.promote_early("w-2", &sub).await.missed.remove(0);
    let lost = road.sweep("w-3", &sub, &["w-3"]).await.lost.remove(0);
    assert_eq!(lost.number, 3);
    assert_eq!(road.outcome("w-2", &sub, frozen, &Outcome::AckMissed).await.stale, 1);
    assert_eq!(road.outcome("w-3", &sub, lost, &Outcome::WorkerLost).await.stale, 0);
    assert_eq!(road.places(&sub).await, [at("again", 1)]);
    road.check().await;
}

#[tokio::test]
async fn timers_of_what_moved_on_and_junk_are_forgotten() {
    let mut road = Road::new().await;
    let sub = road.subscribe_in(0, |_| {}).await;
    let gone = road.subscribe_in(0, |_| {}).await;
    road.fill(&[&sub, &gone], 1).await;
    let timers = road.lane_key(&sub, "timers");
    let mut held = None;
    for lease in road.take("w-1", &sub).await.leases {
        let (id, entry) = (lease.subscription.clone(), lease.id);
        if id == gone.id {
            road.settle("w-1", vec![put(lease, Place::Later { delay_ms: 0 })]).await;
        } else {
            // It is in flight: neither of these is about it any more.
            for place in ["later", "ack"] {
                road.redis(&["ZADD", &timers, "1", &format!("{place}:{id}:1:{entry}")]).await;
            }
            held = Some(lease);
        }
    }
    road.cancel(&gone).await;
    let junk = [
        "",
        "junk",
        ":",
        "later",
        "later:",
        "later:x",
        "later:sub_0:1",
        "later:sub_0:9:1-0",
        "ack:sub_0:1:junk",
        "probe:nobody",
        "hold:nobody",
        "later:sub_0:1:1-0:more",
        "\u{1F4A9}:x:1:1-0",
    ];
    for timer in junk {
        road.redis(&["ZADD", &timers, "1", timer]).await;
    }
    let promoted = road.promote("w-2", &sub).await;
    assert_eq!(promoted.handled, u64::try_from(junk.len()).unwrap() + 3);
    assert!(promoted.missed.is_empty() && promoted.next_due.is_none());
    assert_eq!(road.places(&sub).await, [at("w-1", 1)]);
    assert_eq!(road.number(&["EXISTS", &road.lane_key(&sub, "sub:nobody")]).await, 0);
    assert_eq!(road.outcome("w-1", &sub, held.unwrap(), &answered(200)).await.stale, 0);
    road.check().await;
}

#[tokio::test]
async fn what_is_due_on_a_paused_subscription_waits_there() {
    let mut road = Road::new().await;
    let mut sub = road.subscribe(|_| {}).await;
    road.fill(&[&sub], 1).await;
    let lease = road.take_one("w-1", &sub).await;
    road.settle("w-1", vec![put(lease, Place::Later { delay_ms: 0 })]).await;
    road.change(&mut sub, |sub| sub.status = postroad_model::subscription::Status::Paused).await;
    assert_eq!(road.promote("w-1", &sub).await.handled, 1);
    assert!(road.take("w-1", &sub).await.leases.is_empty());
    assert_eq!(road.places(&sub).await, [at("again", 1)]);
    road.check().await;
}
