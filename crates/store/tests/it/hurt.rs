//! Keys that hands deleted or made something else: one subscription's stop no other's, and nothing is doubled.

use std::time::Duration;

use super::kit::*;
use postroad_model::{
    delivery::{DeadReason, Place},
    message::Priority,
    names::ChannelName,
    subscription::Subscription,
};
use postroad_store::{ChainLink, Placed, Room, StreamId};

fn brief() -> Terms<'static> {
    Terms { lives_ms: Some(1), ..Terms::default() }
}

fn bounded(most: u64) -> Terms<'static> {
    Terms { max_length: Some(most), ..Terms::default() }
}

async fn ruin(road: &Road, key: &str) {
    road.redis(&["DEL", key]).await;
    road.redis(&["SET", key, "junk"]).await;
}

async fn promote(road: &Road) -> Result<(), String> {
    tokio::time::sleep(Duration::from_millis(5)).await;
    let mut answers = road.store.promote("w-1", &[0], TRACE).await.unwrap();
    answers.pop().unwrap().map(drop).map_err(|error| error.to_string())
}

#[tokio::test]
async fn an_expiry_that_cannot_be_read_stops_no_timers() {
    let mut road = Road::new().await;
    let ill = road.subscribe_in(0, |_| {}).await;
    let well = road.subscribe_in(0, |_| {}).await;
    ruin(&road, &road.lane_key(&ill, &format!("expiry:{}", ill.id))).await;
    road.queue_as(&ill, &[("x", brief())]).await;
    road.queue(&well, &["b"]).await;
    let leases = road.take("w-1", &well).await.leases;
    let lease = leases.into_iter().find(|lease| lease.subscription == well.id).unwrap();
    road.settle("w-1", vec![put(lease, Place::Later { delay_ms: 1 })]).await;
    promote(&road).await.unwrap();
    assert_eq!(road.lying(&well, "again").await, ["b"]);
}

#[tokio::test]
async fn a_queue_that_is_none_stops_no_timers() {
    let mut road = Road::new().await;
    let ill = road.subscribe_in(0, |_| {}).await;
    let well = road.subscribe_in(0, |_| {}).await;
    road.queue_as(&ill, &[("x", brief())]).await;
    road.queue_as(&well, &[("b", brief())]).await;
    ruin(&road, &road.work_key(&ill)).await;
    promote(&road).await.unwrap();
    assert_eq!(road.dead(&well).await, [("b".to_owned(), "expired".to_owned())]);
}

#[tokio::test]
async fn locks_that_cannot_be_read_stop_no_deliveries() {
    let mut road = Road::new().await;
    let well = road.subscribe_in(0, |_| {}).await;
    let ill = road.subscribe_in(0, |sub| sub.ordered = true).await;
    ruin(&road, &road.lane_key(&ill, &format!("locks:{}", ill.id))).await;
    road.queue(&well, &["b"]).await;
    road.queue_as(&ill, &[("x", keyed("aa")), ("y", keyed("aa"))]).await;
    let room = Room { free: 100, spare: 100, quantum: 100, quantum_bytes: 1 << 20, ..Room::UNBOUNDED };
    let leases = road.take_in("w-1", 0, room).await.leases;
    let mut taken = ids(&leases);
    taken.sort();
    assert_eq!(taken, ["b", "x", "y"], "without locks there is no order, but deliveries");
    for lease in leases {
        road.settle("w-1", vec![put(lease, Place::Settled)]).await;
    }
    for sub in [&well, &ill] {
        assert_eq!(road.length(&road.work_key(sub)).await, 0);
        road.sweep("w-1", sub, &["w-1"]).await;
    }
}

#[tokio::test]
async fn locks_that_are_gone_hold_nothing_for_ever() {
    let mut road = Road::new().await;
    let mut sub: Subscription = road.subscribe(|sub| sub.ordered = true).await;
    road.queue_as(&sub, &[("a", keyed("aa")), ("b", keyed("aa"))]).await;
    let lease = road.take_one("w-1", &sub).await;
    assert_eq!(road.lying(&sub, "held").await, ["b"]);
    road.redis(&["DEL", &road.lane_key(&sub, &format!("locks:{}", sub.id))]).await;
    road.change(&mut sub, |sub| sub.ordered = false).await;
    road.outcome("w-1", &sub, lease, &answered(200)).await;
    for _ in 0..3 {
        road.sweep("w-1", &sub, &["w-1"]).await;
    }
    assert_eq!(ids(&road.take("w-1", &sub).await.leases), ["b"]);
    road.check().await;
}

#[tokio::test]
async fn a_place_in_line_that_is_gone_holds_nothing_for_ever() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|sub| sub.ordered = true).await;
    let rows = [("a", keyed("aa")), ("b", keyed("aa")), ("c", keyed("bb")), ("d", keyed("bb"))];
    road.queue_as(&sub, &rows).await;
    let leases = road.take("w-1", &sub).await.leases;
    assert_eq!(road.lying(&sub, "held").await, ["b", "d"]);
    let held = road.lane_key(&sub, &format!("held:{}", sub.id));
    let first = road.texts(&["ZRANGE", &held, "0", "0"]).await.remove(0);
    road.redis(&["ZREM", &held, &first]).await;
    road.outcome("w-1", &sub, leases.into_iter().next().unwrap(), &answered(200)).await;
    for _ in 0..3 {
        road.sweep_lease("w-1", &sub, Duration::from_secs(60), &["w-1"]).await;
    }
    assert_eq!(road.lying(&sub, "held").await, ["d"]);
    assert_eq!(ids(&road.take("w-1", &sub).await.leases), ["b"]);
    road.check().await;
}

/// Ingress entries after the first, as one link of the chain for two subscriptions.
async fn link_again(
    road: &Road,
    all: &[postroad_store::entry::Accepted],
    to: &[(usize, &Subscription, Option<u64>)],
) -> bool {
    let entries: Vec<Placed<'_>> = to
        .iter()
        .map(|(at, sub, max_length)| Placed {
            max_length: *max_length,
            ..place(&all[*at], &[&sub.id], Priority::Normal)
        })
        .collect();
    let (prev, last) = (all[0].id, all[all.len() - 1].id);
    road.enqueue(0, ChainLink { partition: 0, prev, last, entries }).await.is_ok()
}

#[tokio::test]
async fn a_full_queue_that_was_deleted_takes_what_is_sent_once() {
    let mut road = Road::new().await;
    let sub = road.subscribe_in(0, |_| {}).await;
    road.queue_as(&sub, &[("a", bounded(2))]).await;
    road.redis(&["DEL", &road.work_key(&sub)]).await;
    road.accept(&["b", "c", "d"]).await;
    let all = road.store.history(0, StreamId::ZERO, END, 100).await.unwrap();
    let to = [(1, &sub, Some(2)), (2, &sub, Some(2)), (3, &sub, Some(2))];
    for _ in 0..2 {
        assert!(link_again(&road, &all, &to).await);
    }
    let mut there = ids(&road.take("w-1", &sub).await.leases);
    there.extend(road.dead(&sub).await.into_iter().map(|(id, _)| id));
    there.sort();
    assert_eq!(there, ["b", "c", "d"]);
}

#[tokio::test]
async fn a_group_that_was_deleted_doubles_nothing_for_others() {
    let mut road = Road::new().await;
    let sub = road.subscribe_in(0, |_| {}).await;
    let other = road.subscribe_in(0, |_| {}).await;
    // What came and went leaves an empty queue of its rank.
    road.queue_ranked(&sub, &["low"], Priority::Low).await;
    let lease = road.take_one("w-1", &sub).await;
    road.outcome("w-1", &sub, lease, &answered(200)).await;
    road.queue(&sub, &["a"]).await;
    let low = road.lane_key(&sub, &format!("work:{}:0", sub.id));
    road.redis(&["XGROUP", "DESTROY", &low, "g"]).await;
    road.accept(&["b", "c"]).await;
    let before = road.store.history(0, StreamId::ZERO, END, 100).await.unwrap();
    for _ in 0..5 {
        assert!(link_again(&road, &before[1..], &[(1, &other, None), (2, &sub, Some(1))]).await);
    }
    assert_eq!(road.lying(&other, "waiting").await, ["b"]);
    assert_eq!(road.lying(&sub, "waiting").await, ["c"]);
    assert_eq!(road.dead(&sub).await, [("a".to_owned(), "maxlen".to_owned())]);
}

#[tokio::test]
async fn what_could_not_be_buried_is_delivered() {
    let mut road = Road::new().await;
    let sub = road.subscribe_in(0, |_| {}).await;
    road.queue_as(&sub, &[("a", bounded(1))]).await;
    let dead = road.lane_key(&sub, &format!("dead:{}", sub.id));
    ruin(&road, &dead).await;
    road.queue_as(&sub, &[("b", bounded(1))]).await;
    assert_eq!(road.lying(&sub, "again").await, ["a"]);
    let mut there = ids(&road.take("w-1", &sub).await.leases);
    there.sort();
    assert_eq!(there, ["a", "b"]);
}

#[tokio::test]
async fn whoever_holds_what_he_should_not_is_found_by_a_sweep() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    road.queue(&sub, &["a"]).await;
    road.redis(&["XREADGROUP", "GROUP", "g", "someone", "STREAMS", &road.work_key(&sub), ">"]).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    for _ in 0..3 {
        road.sweep("w-1", &sub, &["w-1"]).await;
    }
    assert_eq!(ids(&road.take("w-1", &sub).await.leases), ["a"]);
    road.check().await;
}

#[tokio::test]
async fn without_an_outbox_a_death_is_one() {
    let mut road = Road::new().await;
    let graves = ChannelName::new("graves").unwrap();
    let sub = road.subscribe_in(0, |sub| sub.dead_letter_queue = Some(graves)).await;
    road.queue(&sub, &["a"]).await;
    ruin(&road, &road.lane_key(&sub, "outbox")).await;
    let lease = road.take_one("w-1", &sub).await;
    let flight = [(0, vec![put(lease, Place::Dead(DeadReason::Rejected))])];
    for _ in 0..3 {
        let _ = road.store.settle("w-1", &flight, CIRCUIT, TRACE).await.unwrap();
    }
    assert_eq!(road.dead(&sub).await, [("a".to_owned(), "rejected".to_owned())]);
    assert_eq!(road.length(&road.work_key(&sub)).await, 0);
}
