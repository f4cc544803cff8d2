//! settle: outcomes into places, by whoever holds the lease.

use super::kit::*;
use postroad_model::{
    delivery::{DeadReason, Outcome, Place},
    subscription::{Status, Subscription},
};
use postroad_store::{Lease, Settlement, StreamId, trace::Lies};

const LATER: Place = Place::Later { delay_ms: 60_000 };
const DEAD: Place = Place::Dead(DeadReason::Rejected);

/// A subscription with one delivery, taken by w-1.
async fn held(road: &mut Road) -> (Subscription, Lease, StreamId) {
    let sub = road.subscribe(|_| {}).await;
    let ids = road.queue(&sub, &[&format!("for-{}", sub.id)]).await;
    let lease = road.take_one("w-1", &sub).await;
    (sub, lease, ids[0])
}

async fn dead(road: &Road, sub: &Subscription) -> usize {
    road.store.dead_letters(&sub.id, StreamId::ZERO, None, 1_000).await.unwrap().len()
}

/// Each place, and the same flight sent again: what was done is late the second time and changes nothing.
#[tokio::test]
async fn each_verdict_moves_once() {
    let table: [(Place, &[&str], usize, Lies); 5] = [
        (Place::Settled, &[], 0, Lies::Gone),
        (Place::AwaitingAck, &["ack"], 0, Lies::AwaitingAck(0)),
        (LATER, &["later"], 0, Lies::Scheduled(0)),
        (Place::Again, &["again"], 0, Lies::Waiting),
        (DEAD, &[], 1, Lies::Gone),
    ];
    for (place, lies, buried, located) in table {
        let road = &mut Road::new().await;
        let (sub, lease, at_ingress) = held(road).await;
        let lane = lease.lane;
        let flight = [(lane, vec![put(lease, place)])];
        for (round, stale) in [0, 1, 1].into_iter().enumerate() {
            assert_eq!(road.settle_lane("w-1", &flight).await.stale, stale, "{place:?}, round {round}");
            let expected: Vec<_> = lies.iter().map(|place| at(place, 1)).collect();
            assert_eq!(road.places(&sub).await, expected, "{place:?}, round {round}");
            assert_eq!(dead(road, &sub).await, buried, "{place:?}");
            let queued = u64::try_from(lies.len()).unwrap();
            assert_eq!(road.state(&sub).await.queued, queued, "{place:?}");
            road.check().await;
        }
        let trace = road.store.locate(0, at_ingress).await.unwrap().remove(0);
        assert_eq!(trace.dead_reason(sub.id.as_str()).is_some(), place == DEAD, "told without an attempt");
        let now = road.now().await;
        match (&trace.located[0].lies, located) {
            (Lies::AwaitingAck(due), Lies::AwaitingAck(_)) => assert!((now..=now + 30_000).contains(due)),
            (Lies::Scheduled(due), Lies::Scheduled(_)) => assert!((now..=now + 60_000).contains(due)),
            (there, expected) => assert_eq!(*there, expected, "{place:?}"),
        }
    }
}

#[tokio::test]
async fn only_the_holder_of_the_lease_moves_a_failure() {
    for place in [Place::AwaitingAck, LATER, Place::Again, DEAD] {
        let road = &mut Road::new().await;
        let (sub, lease, _) = held(road).await;
        let flight = [(lease.lane, vec![put(lease, place)])];
        assert_eq!(road.settle_lane("w-2", &flight).await.stale, 1, "{place:?}: another worker");
        assert_eq!(road.places(&sub).await, [at("w-1", 1)]);
        // The same worker took it again meanwhile: the first lease is not the second.
        let lost = road.sweep("w-1", &sub, &["w-1"]).await.lost.remove(0);
        assert_eq!(lost.number, 2);
        assert_eq!(road.settle_lane("w-1", &flight).await.stale, 1, "{place:?}: an older lease");
        assert_eq!((road.places(&sub).await, dead(road, &sub).await), (vec![at("w-1", 1)], 0));
        assert_eq!(road.settle("w-1", vec![put(lost, place)]).await.stale, 0);
        road.check().await;
    }
}

#[tokio::test]
async fn a_late_success_settles_wherever_the_delivery_lies() {
    for place in [Place::AwaitingAck, LATER, Place::Again] {
        let road = &mut Road::new().await;
        let (sub, lease, _) = held(road).await;
        let lost = road.sweep("w-2", &sub, &["w-2"]).await.lost.remove(0);
        road.settle("w-2", vec![put(lost, place)]).await;
        assert_eq!(road.settle("w-1", vec![put(lease, Place::Settled)]).await.stale, 0, "{place:?}");
        assert_eq!(road.state(&sub).await.queued, 0, "{place:?}");
        road.check().await;
        // Its timer finds nothing.
        let promoted = road.promote_early("w-2", &sub).await;
        assert!(promoted.missed.is_empty());
        assert!(road.take("w-2", &sub).await.leases.is_empty());
    }
}

/// A late success knows nothing of the tries since: they go all the same.
#[tokio::test]
async fn a_late_success_leaves_no_tries() {
    let road = &mut Road::new().await;
    let (sub, lease, _) = held(road).await;
    road.queue(&sub, &["another"]).await;
    let lost = road.sweep("w-2", &sub, &["w-2"]).await.lost.remove(0);
    assert_eq!(lost.id, lease.id);
    road.outcome("w-2", &sub, lost, &Outcome::WorkerLost).await;
    road.outcome("w-1", &sub, lease, &answered(200)).await;
    assert_eq!(road.number(&["EXISTS", &road.lane_key(&sub, &format!("tries:{}", sub.id))]).await, 0);
    road.check().await;
}

#[tokio::test]
async fn a_delivery_that_was_buried_stays_buried() {
    let road = &mut Road::new().await;
    let (sub, lease, _) = held(road).await;
    let lost = road.sweep("w-2", &sub, &["w-2"]).await.lost.remove(0);
    road.settle("w-2", vec![put(lost, DEAD)]).await;
    let flight = |place, lease: Lease| vec![put(lease, place)];
    assert_eq!(road.settle("w-1", flight(Place::Settled, lease)).await.stale, 1);
    assert_eq!(dead(road, &sub).await, 1);
    road.check().await;
}

#[tokio::test]
async fn what_was_cancelled_or_never_known_is_late() {
    for place in [Place::Settled, LATER, DEAD] {
        let road = &mut Road::new().await;
        let (sub, lease, _) = held(road).await;
        road.cancel(&sub).await;
        assert_eq!(road.settle("w-1", vec![put(lease, place)]).await.stale, 1, "{place:?}");
        assert_eq!((road.state(&sub).await.queued, dead(road, &sub).await), (0, 0));
        let status = road.redis(&["HGET", &road.sub_key(&sub), "status"]).await.text();
        assert_eq!(status.as_deref(), Some("cancelled"));

        let (sub, lease, _) = held(road).await;
        road.redis(&["FLUSHALL"]).await;
        assert_eq!(road.settle("w-1", vec![put(lease, place)]).await.stale, 1, "{place:?}");
        assert_eq!(road.number(&["EXISTS", &road.sub_key(&sub)]).await, 0);
    }
}

#[tokio::test]
async fn an_empty_flight_settles_nothing() {
    let road = Road::new().await;
    assert!(road.store.settle("w-1", &[], CIRCUIT, TRACE).await.unwrap().is_empty());
    let settled = road.settle_lane("w-1", &[(0, vec![])]).await;
    assert_eq!((settled.stale, settled.next_due, settled.ready), (0, None, false));
}

#[tokio::test]
async fn a_flight_of_several_subscriptions_is_summed_for_each() {
    let mut road = Road::new().await;
    let (a, b) = (road.subscribe_in(0, |_| {}).await, road.subscribe_in(0, |_| {}).await);
    road.fill(&[&a, &b], 4).await;
    let mut flight: Vec<Settlement> = Vec::new();
    for (n, lease) in road.take("w-1", &a).await.leases.into_iter().enumerate() {
        let sub = if lease.subscription == a.id { &a } else { &b };
        let status = if sub.id == b.id && n % 2 == 0 { 500 } else { 200 };
        flight.push(settlement(sub, lease, &answered(status)));
    }
    assert_eq!(flight.len(), 8);
    let settled = road.settle("w-1", flight).await;
    assert!(settled.next_due.unwrap().as_millis() <= 50 && !settled.ready);
    let (of_a, of_b) = (road.state(&a).await, road.state(&b).await);
    assert_eq!((of_a.delivered, of_a.failed, of_a.queued), (4, 0, 0));
    assert_eq!((of_b.delivered, of_b.failed, of_b.queued), (2, 2, 2));
    assert!(of_a.active_ms.is_some());
    road.check().await;
}

/// A flight whose answer was lost is sent again: its bytes left the queue once.
#[tokio::test]
async fn a_repeated_success_is_counted_off_once() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    road.fill(&[&sub], 4).await;
    let mut leases = road.take("w-1", &sub).await.leases;
    let rest = leases.split_off(2);
    let (lane, size) = (rest[0].lane, rest[0].entry.size());
    let flight = [(lane, leases.into_iter().map(|lease| put(lease, Place::Settled)).collect::<Vec<_>>())];
    for stale in [0, 2, 2] {
        assert_eq!(road.settle_lane("w-1", &flight).await.stale, stale);
        let bytes = road.number(&["HGET", &road.sub_key(&sub), "bytes"]).await;
        assert_eq!(usize::try_from(bytes).unwrap(), 2 * size);
        road.check().await;
    }
    // One of them new, one of them old.
    let [(_, mut again)] = flight;
    again.truncate(1);
    again.extend(rest.into_iter().take(1).map(|lease| put(lease, Place::Settled)));
    assert_eq!(road.settle("w-1", again).await.stale, 1);
    road.check().await;
}

#[tokio::test]
async fn a_place_that_gets_free_makes_a_token() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|sub| sub.prefetch_count = 1).await;
    road.fill(&[&sub], 2).await;
    let lease = road.take_one("w-1", &sub).await;
    assert!(road.outcome("w-1", &sub, lease, &answered(200)).await.ready);
    let lease = road.take_one("w-1", &sub).await;
    assert!(!road.outcome("w-1", &sub, lease, &answered(200)).await.ready);
}

/// What awaits its acknowledgment is out: it counts against the credit until it is settled.
#[tokio::test]
async fn what_awaits_its_acknowledgment_takes_credit() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|sub| (sub.prefetch_count, sub.auto_ack) = (1, false)).await;
    road.fill(&[&sub], 2).await;
    let lease = road.take_one("w-1", &sub).await;
    let settled = road.outcome("w-1", &sub, lease, &answered(200)).await;
    assert!(!settled.ready && settled.next_due.unwrap().as_secs() >= 29);
    assert!(road.take("w-1", &sub).await.leases.is_empty());
    let missed = road.promote_early("w-2", &sub).await.missed.remove(0);
    road.outcome("w-2", &sub, missed, &Outcome::AckMissed).await;
    assert_eq!(road.take("w-1", &sub).await.leases.len(), 1, "scheduled, it leaves room");
    road.check().await;
}

#[tokio::test]
async fn tries_grow_attempt_by_attempt_and_go_with_the_delivery() {
    let road = &mut Road::new().await;
    let (sub, lease, at_ingress) = {
        let sub = road.subscribe(|sub| sub.retry.max_retries = 5).await;
        let ids = road.queue(&sub, &["a"]).await;
        (sub.clone(), road.take_one("w-1", &sub).await, ids[0])
    };
    let tries = road.lane_key(&sub, &format!("tries:{}", sub.id));
    road.outcome("w-1", &sub, lease, &answered(500)).await;
    road.promote_early("w-1", &sub).await;
    let lease = road.take_one("w-1", &sub).await;
    assert_eq!((lease.tries.progress.attempts, lease.tries.attempts.len(), lease.number), (1, 1, 2));
    road.outcome("w-1", &sub, lease, &answered(503)).await;
    road.promote_early("w-1", &sub).await;
    let lease = road.take_one("w-1", &sub).await;
    let statuses: Vec<_> = lease.tries.attempts.iter().map(|attempt| attempt.status).collect();
    assert_eq!(statuses, [Some(500), Some(503)]);
    assert_eq!(road.number(&["HLEN", &tries]).await, 1);
    road.outcome("w-1", &sub, lease, &answered(200)).await;
    assert_eq!(road.number(&["EXISTS", &tries]).await, 0);
    let trace = road.store.locate(0, at_ingress).await.unwrap().remove(0);
    assert_eq!(trace.lines.len(), 4, "queued, failed, failed, done: {trace:?}");
    assert_eq!(trace.dead_reason(sub.id.as_str()), None);
    road.check().await;
}

/// A trace that ran out while its delivery waited is begun anew, and runs out too.
#[tokio::test]
async fn a_trace_that_ran_out_is_begun_anew() {
    let road = &mut Road::new().await;
    let (sub, lease, at_ingress) = held(road).await;
    let key = road.lane_key(&sub, &format!("trace:0:{at_ingress}"));
    road.redis(&["DEL", &key]).await;
    road.outcome("w-1", &sub, lease, &answered(200)).await;
    let left = road.number(&["PTTL", &key]).await;
    assert!(left > 0 && left <= i64::try_from(TRACE).unwrap(), "{left}");
    let trace = road.store.locate(0, at_ingress).await.unwrap().remove(0);
    assert_eq!((trace.lines.len(), trace.located.len()), (1, 0));
}

/// An entry that vanished is not buried, and does not stay pending for ever.
#[tokio::test]
async fn what_vanished_in_flight_leaves_nothing() {
    for place in [Place::Settled, DEAD, LATER, Place::Again] {
        let road = &mut Road::new().await;
        let (sub, lease, _) = held(road).await;
        road.redis(&["XDEL", &road.work_key(&sub), &lease.id.to_string()]).await;
        road.redis(&["HSET", &road.sub_key(&sub), "bytes", "0"]).await;
        assert_eq!(road.settle("w-1", vec![put(lease, place)]).await.stale, 0, "{place:?}");
        assert_eq!(dead(road, &sub).await, 0, "{place:?}");
        road.promote_early("w-1", &sub).await;
        road.sweep("w-1", &sub, &["w-1"]).await;
        assert!(road.places(&sub).await.is_empty(), "{place:?}");
        road.check().await;
    }
}

/// Settling is sent again until it is taken: what it meets must not make it fail for ever.
#[tokio::test]
async fn a_queue_that_became_something_else_stops_nobody() {
    let mut road = Road::new().await;
    let (sub, other) = (road.subscribe_in(0, |_| {}).await, road.subscribe_in(0, |_| {}).await);
    road.fill(&[&sub, &other], 3).await;
    let leases = road.take("w-1", &sub).await.leases;
    road.redis(&["SET", &road.work_key(&sub), "junk"]).await;
    let mut places = [Place::Settled, DEAD, LATER].into_iter().cycle();
    let flight = leases.into_iter().map(|lease| put(lease, places.next().unwrap())).collect();
    assert_eq!(road.settle("w-1", flight).await.stale, 3);
    assert_eq!((road.state(&other).await.delivered, dead(&road, &other).await), (0, 1));
    assert_eq!(road.places(&other).await, [at("later", 1)]);
}

/// An entry with more fields than Lua can pass on at once.
#[tokio::test]
async fn a_monstrous_entry_is_buried_without_its_tail() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    road.queue(&sub, &["a"]).await;
    let mut add = vec!["XADD".to_owned(), road.work_key(&sub), "*".to_owned(), "m".into(), "x".into()];
    add.extend((0..9_000).flat_map(|n| [format!("field {n}"), "v".to_owned()]));
    road.redis.command(&add).await.unwrap();
    road.redis(&["HINCRBY", &road.sub_key(&sub), "bytes", "1"]).await;
    let monster = road.take("w-1", &sub).await.leases.pop().unwrap();
    assert_eq!(road.settle("w-1", vec![put(monster, DEAD)]).await.stale, 0);
    let letter = road.store.dead_letters(&sub.id, StreamId::ZERO, None, 10).await.unwrap().remove(0);
    assert_eq!((&letter.entry.record[..], letter.reason), (&b"x"[..], Some(DeadReason::Rejected)));
    assert!(letter.strange.len() > 1_000);
    road.check().await;
}

#[tokio::test]
async fn settings_that_changed_meanwhile_do_not_matter_to_what_is_out() {
    let road = &mut Road::new().await;
    let (mut sub, lease, _) = held(road).await;
    let change = road.change(&mut sub, |sub| sub.status = Status::Paused).await;
    assert!(lease.change < change);
    assert_eq!(road.outcome("w-1", &sub, lease, &answered(200)).await.stale, 0);
    assert_eq!(road.state(&sub).await.delivered, 1);
    road.check().await;
}
