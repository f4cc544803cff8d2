//! Thousands at once, and numbers that do not fit into 31, 32 or (barely) 53 bits.

use std::{collections::HashMap, time::Duration};

use super::kit::*;
use postroad_model::{
    delivery::{DeadReason, Place},
    id::SubscriptionId,
    message::Priority,
    subscription::Subscription,
};
use postroad_store::{
    ChainLink, LaneLimits, Lease, Linked, ReplayState, Room, Settlement, StreamId, Versioned,
    entry::{Accepted, Entry},
};

/// More than Lua can unpack.
const MANY: usize = 8_500;

fn room(n: usize) -> Room {
    Room { free: n, spare: n, quantum: n, quantum_bytes: 1 << 40, ..Room::UNBOUNDED }
}

/// A subscription with `count` deliveries at w-1.
async fn out(road: &mut Road, count: usize) -> (Subscription, Vec<Lease>) {
    let sub = road.subscribe(|sub| (sub.prefetch_count, sub.retry.max_retries) = (50_000, 9)).await;
    road.fill(&[&sub], count).await;
    let leases = road.take_in("w-1", LAYOUT.lane_of(&sub.id), room(count)).await.leases;
    assert_eq!(leases.len(), count);
    (sub, leases)
}

#[tokio::test]
async fn thousands_are_taken_failed_promoted_and_settled_in_one_flight_each() {
    let mut road = Road::new().await;
    let (sub, leases) = out(&mut road, MANY).await;
    let lane = LAYOUT.lane_of(&sub.id);
    let failed: Vec<Settlement> = leases
        .into_iter()
        .map(|lease| {
            let mut failed = settlement(&sub, lease, &answered(500));
            failed.verdict.place = Place::Again;
            failed
        })
        .collect();
    let circuit = postroad_store::Circuit { failures: 0, ..CIRCUIT };
    let settled = road.store.settle("w-1", &[(lane, failed)], circuit, TRACE).await.unwrap().remove(0);
    assert_eq!(settled.unwrap().stale, 0);
    road.check().await;
    let mut leases = Vec::new();
    while leases.len() < MANY {
        let taken = road.take_in("w-1", lane, room(MANY)).await;
        assert!(!taken.leases.is_empty(), "stuck at {}", leases.len());
        leases.extend(taken.leases);
    }
    assert!(leases.iter().all(|lease| lease.tries.progress.attempts == 1 && lease.number == 2));
    road.check().await;
    let flight = [(lane, leases.into_iter().map(|lease| put(lease, Place::Settled)).collect::<Vec<_>>())];
    assert_eq!(road.settle_lane("w-1", &flight).await.stale, 0);
    assert_eq!(road.settle_lane("w-1", &flight).await.stale, u64::try_from(MANY).unwrap());
    assert_eq!(road.number(&["EXISTS", &road.lane_key(&sub, &format!("tries:{}", sub.id))]).await, 0);
    assert_eq!(road.state(&sub).await.queued, 0);
    road.check().await;
}

#[tokio::test]
async fn thousands_die_and_are_replayed_and_purged_in_one_flight_each() {
    let mut road = Road::new().await;
    let (sub, leases) = out(&mut road, MANY).await;
    let dead = Place::Dead(DeadReason::Rejected);
    road.settle("w-1", leases.into_iter().map(|lease| put(lease, dead)).collect()).await;
    let letters = road.store.dead_letters(&sub.id, StreamId::ZERO, None, MANY).await.unwrap();
    let ids: Vec<StreamId> = letters.iter().map(|letter| letter.id.entry).collect();
    assert_eq!(ids.len(), MANY);
    road.check().await;
    let half = u64::try_from(MANY / 2).unwrap();
    let replayed = road.store.replay_dead(&sub.id, "job_1", half, TRACE, &ids).await.unwrap();
    assert_eq!((replayed.moved, replayed.state), (half, ReplayState::Full));
    road.check().await;
    let whole = u64::try_from(MANY).unwrap();
    assert_eq!(road.store.purge_dead(&sub.id, &ids).await.unwrap(), whole - half);
    assert_eq!(road.state(&sub).await.queued, half);
    road.check().await;
}

/// All of a subscription's deliveries were at a worker that is gone, and thousands more wait for their retries.
#[tokio::test]
async fn thousands_of_pending_entries_are_swept() {
    let mut road = Road::new().await;
    let (sub, mut leases) = out(&mut road, 2 * MANY).await;
    let later = leases.split_off(MANY);
    let later = later.into_iter().map(|lease| put(lease, Place::Later { delay_ms: 600_000 })).collect();
    road.settle("w-1", later).await;
    // A lease longer than the sweep itself takes: what is taken over in it is not lost again.
    let lease = Duration::from_millis(800);
    tokio::time::sleep(lease).await;
    let lost = road.sweep_lease("w-2", &sub, lease, &["w-2"]).await.lost;
    assert!(lost.len() == MANY && lost.iter().all(|lease| lease.number == 2), "{}", lost.len());
    road.settle("w-2", lost.into_iter().map(|lease| put(lease, Place::Again)).collect()).await;
    let many = i64::try_from(MANY).unwrap();
    assert_eq!(road.places(&sub).await, [at("again", many), at("later", many)]);
    road.check().await;
}

#[tokio::test]
async fn thousands_are_given_back_at_once() {
    let mut road = Road::new().await;
    // More than one page of pending entries, the known ones in front.
    let (sub, leases) = out(&mut road, 12_000).await;
    let lane = LAYOUT.lane_of(&sub.id);
    let handles: Vec<String> = leases.iter().take(10_500).map(Lease::handle).collect();
    let known = HashMap::from([(lane, handles)]);
    assert_eq!(road.store.disown("w-1", &[lane], &known).await.unwrap(), 1_500);
    assert_eq!(road.store.disown("w-1", &[lane], &known).await.unwrap(), 0);
    assert_eq!(road.places(&sub).await, [at("again", 1_500), at("w-1", 10_500)]);
    assert_eq!(road.store.disown("w-1", &[lane], &HashMap::new()).await.unwrap(), 10_500);
    road.check().await;
}

#[tokio::test]
async fn thousands_of_entries_vanish_from_under_their_group() {
    let mut road = Road::new().await;
    let (sub, _) = out(&mut road, MANY).await;
    road.redis(&["XTRIM", &road.work_key(&sub), "MAXLEN", "0"]).await;
    road.redis(&["HSET", &road.sub_key(&sub), "bytes", "0"]).await;
    let hour = Duration::from_secs(3_600);
    let mut missing = 0;
    for _ in 0..10 {
        missing += road.sweep_lease("w-2", &sub, hour, &["w-2"]).await.missing;
    }
    assert_eq!(missing, u64::try_from(MANY).unwrap());
    road.check().await;
}

#[tokio::test]
async fn one_message_goes_to_thousands() {
    let mut road = Road::new().await;
    let mut subs = Vec::new();
    for _ in 0..1_500 {
        let mut sub = subscription();
        while LAYOUT.lane_of(&sub.id) != 0 {
            sub = subscription();
        }
        road.store.apply(&sub, sid("1-1"), LaneLimits::default()).await.unwrap();
        subs.push(sub);
    }
    let to: Vec<&Subscription> = subs.iter().collect();
    road.fill(&to, 6).await;
    assert_eq!(road.length(&road.lane_key(&subs[0], "ready")).await, 1_500);
    let states = road.store.states(&subs.iter().map(|sub| sub.id.clone()).collect::<Vec<_>>()).await.unwrap();
    assert!(states.iter().all(|state| state.queued == 6));
    let unknown: Vec<Option<Versioned>> =
        road.store.records(&subs.iter().map(|sub| sub.id.clone()).collect::<Vec<_>>()).await.unwrap();
    assert_eq!(unknown.iter().flatten().count(), 0);
}

/// Lua's numbers are doubles, and its texts of them begin with 1e+15 where they are long.
#[tokio::test]
async fn numbers_stay_whole() {
    let road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    let lane = LAYOUT.lane_of(&sub.id);
    let top = (1 << 53) - 1;
    let ids = [
        StreamId { ms: 1 << 31, seq: 0 },
        StreamId { ms: (1 << 31) + 1, seq: 4_294_967_296 },
        StreamId { ms: 99_999_999_999_999, seq: 0 },
        StreamId { ms: 100_000_000_000_000, seq: 1_000_000_000_000_000 },
        StreamId { ms: 1_000_000_000_000_000, seq: top - 1 },
        StreamId { ms: 1_000_000_000_000_000, seq: top },
        StreamId { ms: top, seq: top },
    ];
    let accepted_ms = 123_456_789_012_345;
    let record = Entry::encode(&message("big", Priority::Normal), usize::MAX);
    let mut prev = StreamId::ZERO;
    for id in ids {
        let accepted = Accepted { id, accepted_ms, entry: record.clone(), first: None };
        for answer in [Linked::Ok, Linked::Duplicate] {
            let entries = vec![place(&accepted, &[&sub.id], Priority::Normal)];
            let link = ChainLink { partition: 0, prev, last: id, entries };
            assert_eq!(road.enqueue(lane, link).await.unwrap().links, [answer], "{id}");
        }
        let mark = road.redis(&["HGET", &road.lane_key(&sub, "marks"), "0"]).await.text().unwrap();
        assert_eq!(mark, id.to_string());
        let gap = ChainLink { partition: 0, prev: END, last: END, entries: vec![] };
        assert_eq!(road.enqueue(lane, gap).await.unwrap().links, [Linked::Gap(id)]);
        assert_eq!(road.store.locate(0, id).await.unwrap()[0].located.len(), 1);
        prev = id;
    }
    let leases = road.take("w-1", &sub).await.leases;
    assert_eq!(leases.len(), 4);
    for (lease, id) in leases.into_iter().zip(ids) {
        assert_eq!((lease.accepted_ms, lease.reference.clone()), (accepted_ms, format!("0:{id}")));
        road.settle("w-1", vec![put(lease, Place::Later { delay_ms: 31_536_000_000_000 })]).await;
    }
    road.check().await;
    let key = road.sub_key(&sub);
    road.redis(&["HSET", &key, "bytes", "4503599627370496", "max_bytes", "9007199254740991"]).await;
    road.redis(&["HSET", &key, "delivered", "1000000000000000", "failed", "999999999999999"]).await;
    // By the average size of what lies there one goes at a time.
    for _ in 0..3 {
        let lease = road.take_one("w-1", &sub).await;
        road.outcome("w-1", &sub, lease, &answered(200)).await;
    }
    let state = road.state(&sub).await;
    assert_eq!((state.delivered, state.failed), (1_000_000_000_000_003, 999_999_999_999_999));
    let bytes = road.number(&["HGET", &key, "bytes"]).await;
    assert_eq!(bytes, 4_503_599_627_370_496 - 3 * i64::try_from(record.size()).unwrap());
    let missing: SubscriptionId = subscription().id;
    assert!(road.store.settings(&[missing]).await.unwrap().remove(0).unwrap().is_none());
}

#[tokio::test]
async fn bounds_beyond_every_number_bound_nothing() {
    let mut road = Road::new().await;
    let sub = subscription();
    let limits = LaneLimits { entries: u64::MAX, bytes: u64::MAX };
    road.store.put_subscription(&sub, None, u64::MAX, limits).await.unwrap();
    road.fill(&[&sub], 3).await;
    assert_eq!((road.state(&sub).await.queued, road.state(&sub).await.dead), (3, 0));
    road.check().await;
}

#[tokio::test]
async fn a_flight_of_thousands_is_accepted_and_answered_again() {
    let road = Road::new().await;
    let flight: Vec<_> = (0..5_000).map(|n| acceptance(&format!("m{n}"), Priority::Normal)).collect();
    let first = road.accept_all(0, flight.clone()).await.unwrap();
    let again = road.accept_all(0, flight).await.unwrap();
    let id = |accepted: &postroad_store::Accepted| match accepted {
        postroad_store::Accepted::Stored { at, .. } => (true, *at),
        postroad_store::Accepted::Duplicate { at, .. } => (false, *at),
        other => panic!("{other:?}"),
    };
    for (first, again) in first.iter().zip(&again) {
        assert_eq!((id(first).0, id(again)), (true, (false, id(first).1)));
    }
    assert_eq!(road.length(&road.partition_key(0, "ingress")).await, 5_000);
}
