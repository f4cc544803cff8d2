//! take: tokens into deliveries in flight.

use super::kit::*;
use postroad_model::{
    delivery::{Outcome, Place},
    message::Priority,
    subscription::Status,
};
use postroad_store::{Room, entry::EntryError};

const WIDE: Room =
    Room { free: 1_000, spare: 1_000, quantum: 1_000, quantum_bytes: 1 << 30, ..Room::UNBOUNDED };

async fn tokens(road: &Road, lane: u16) -> i64 {
    road.length(&road.keys.key(postroad_store::keys::Tag::Lane(lane), "ready")).await
}

#[tokio::test]
async fn nothing_to_take_is_nothing_taken() {
    let road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    let taken = road.take("w-1", &sub).await;
    assert!(taken.leases.is_empty() && !taken.left && taken.passed.is_none());
    assert!(road.store.take("w-1", &[]).await.unwrap().is_empty());
    road.check().await;
}

#[tokio::test]
async fn a_quantum_bounds_entries_and_bytes_and_the_token_goes_to_the_tail() {
    let mut road = Road::new().await;
    let (a, b) = (
        road.subscribe_in(0, |sub| sub.prefetch_count = 100).await,
        road.subscribe_in(0, |sub| sub.prefetch_count = 100).await,
    );
    road.fill(&[&a], 10).await;
    road.fill(&[&b], 2).await;
    let size = road.take_in("w-1", 0, Room { free: 1, spare: 1, ..WIDE }).await.leases[0].entry.size();
    let taken = road.take_in("w-1", 0, Room { quantum: 3, ..WIDE }).await;
    let of = |id: &str| taken.leases.iter().filter(|lease| lease.subscription.as_str() == id).count();
    assert_eq!((of(b.id.as_str()), of(a.id.as_str())), (2, 3), "everyone has a turn: {taken:?}");
    assert!(taken.left, "work and credit are left");
    let taken = road.take_in("w-1", 0, Room { quantum_bytes: 2 * size, ..WIDE }).await;
    assert_eq!(taken.leases.len(), 2, "by the average size of what lies there");
    let taken = road.take_in("w-1", 0, Room { quantum_bytes: 1, ..WIDE }).await;
    assert_eq!(taken.leases.len(), 1, "one always goes");
    road.check().await;
    let taken = road.take_in("w-1", 0, WIDE).await;
    assert_eq!((taken.leases.len(), taken.left), (3, false));
    assert_eq!(tokens(&road, 0).await, 0, "no work, no token");
    road.check().await;
}

/// Places that are kept for others: of what a worker holds already it gets only what is spare.
#[tokio::test]
async fn a_worker_that_holds_enough_passes_a_token_over() {
    let mut road = Road::new().await;
    let sub = road.subscribe_in(0, |_| {}).await;
    road.fill(&[&sub], 4).await;
    let none_spare = Room { spare: 0, ..WIDE };
    let taken = road.take_in("w-1", 0, none_spare).await;
    assert_eq!(taken.leases.len(), 1, "of whom it holds nothing it may have one");
    let taken = road.take_in("w-1", 0, none_spare).await;
    assert!(taken.leases.is_empty() && taken.left && taken.passed.is_some(), "{taken:?}");
    assert_eq!(road.take_in("w-1", 0, none_spare).await.passed, taken.passed, "the token lies where it lay");
    road.check().await;
    assert_eq!(road.take_in("w-2", 0, none_spare).await.leases.len(), 1, "another one may");
    assert_eq!(road.take_in("w-1", 0, Room { spare: 1, ..WIDE }).await.leases.len(), 1);
    let taken = road.take_in("w-1", 0, Room { free: 0, spare: 0, ..WIDE }).await;
    assert!(taken.leases.is_empty() && taken.left);
    road.check().await;
}

#[tokio::test]
async fn what_is_due_again_goes_before_what_is_new() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|sub| sub.prefetch_count = 2).await;
    road.queue(&sub, &["a", "b", "c"]).await;
    for lease in road.take("w-1", &sub).await.leases {
        road.outcome("w-1", &sub, lease, &Outcome::Unsent).await;
    }
    let taken = road.take("w-2", &sub).await;
    let names: Vec<String> =
        taken.leases.iter().map(|lease| lease.entry.decode().unwrap().id.to_string()).collect();
    assert_eq!(names, ["a", "b"]);
    assert!(taken.leases.iter().all(|lease| lease.number == 2));
    road.check().await;
}

#[tokio::test]
async fn a_lane_of_many_subscriptions_is_taken_in_turns() {
    let mut road = Road::new().await;
    let mut subs = Vec::new();
    for _ in 0..80 {
        subs.push(road.subscribe_in(0, |_| {}).await);
    }
    let all: Vec<_> = subs.iter().collect();
    road.fill(&all, 1).await;
    let first = road.take_in("w-1", 0, WIDE).await;
    assert_eq!((first.leases.len(), first.left), (64, true), "so many tokens at a time");
    let second = road.take_in("w-1", 0, WIDE).await;
    assert_eq!((second.leases.len(), second.left), (16, false));
    road.check().await;
}

#[tokio::test]
async fn tokens_that_nobody_counts_on_are_thrown_away() {
    let mut road = Road::new().await;
    let sub = road.subscribe_in(0, |sub| sub.prefetch_count = 1).await;
    let ready = road.lane_key(&sub, "ready");
    for junk in [["x", "y"], ["s", "sub_nobody"], ["s", sub.id.as_str()], ["s", "{l0}:*"], ["s", ""]] {
        road.redis(&["XADD", &ready, "*", junk[0], junk[1]]).await;
    }
    road.fill(&[&sub], 3).await;
    let taken = road.take_in("w-1", 0, WIDE).await;
    assert_eq!((taken.leases.len(), taken.left), (1, false));
    assert_eq!(tokens(&road, 0).await, 0);
    // While there is credit, a second token is thrown away too: there would be two for ever.
    let other = road.subscribe_in(0, |_| {}).await;
    road.redis(&["XADD", &ready, "*", "s", other.id.as_str()]).await;
    road.fill(&[&other], 4).await;
    let taken = road.take_in("w-1", 0, Room { quantum: 1, ..WIDE }).await;
    assert_eq!((taken.leases.len(), taken.left), (1, true));
    road.check().await;
    // Without credit it does not buy a second delivery.
    assert_eq!(road.take_in("w-1", 0, WIDE).await.leases.len(), 3);
    road.redis(&["XADD", &ready, "*", "s", sub.id.as_str()]).await;
    assert!(road.take_in("w-2", 0, WIDE).await.leases.is_empty());
    road.check().await;
}

#[tokio::test]
async fn a_token_of_what_has_stopped_meanwhile_buys_nothing() {
    let mut road = Road::new().await;
    let mut paused = road.subscribe_in(0, |_| {}).await;
    let mut pulled = road.subscribe_in(0, |_| {}).await;
    let cancelled = road.subscribe_in(0, |_| {}).await;
    let held = road.subscribe_in(0, |_| {}).await;
    road.fill(&[&paused, &pulled, &cancelled, &held], 2).await;
    assert_eq!(tokens(&road, 0).await, 4);
    road.change(&mut paused, |sub| sub.status = Status::Paused).await;
    road.change(&mut pulled, |sub| sub.callback_url = None).await;
    road.cancel(&cancelled).await;
    let till = road.now().await + 60_000;
    road.redis(&["HSET", &road.sub_key(&held), "hold", &till.to_string()]).await;
    let taken = road.take_in("w-1", 0, WIDE).await;
    assert!(taken.leases.is_empty() && !taken.left, "{taken:?}");
    assert_eq!(road.state(&paused).await.queued, 2, "it waits");
    road.check().await;
    road.change(&mut paused, |sub| sub.status = Status::Active).await;
    assert_eq!(road.take_in("w-1", 0, WIDE).await.leases.len(), 1);
    road.check().await;
}

#[tokio::test]
async fn a_lower_prefetch_holds_at_once_and_a_higher_one_lets_go() {
    let mut road = Road::new().await;
    let mut sub = road.subscribe(|sub| sub.prefetch_count = 2).await;
    road.fill(&[&sub], 10).await;
    let held = road.take("w-1", &sub).await.leases;
    assert_eq!(held.len(), 2);
    road.change(&mut sub, |sub| sub.prefetch_count = 1).await;
    for (lease, out) in held.into_iter().zip([0, 1]) {
        road.outcome("w-1", &sub, lease, &answered(200)).await;
        assert_eq!(road.take("w-1", &sub).await.leases.len(), out);
    }
    road.change(&mut sub, |sub| sub.prefetch_count = 5).await;
    assert_eq!(road.take("w-1", &sub).await.leases.len(), 4, "at once, without another message");
    road.check().await;
}

#[tokio::test]
async fn a_group_deleted_by_hand_lets_everything_wait_again() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    road.queue(&sub, &["a", "b", "c"]).await;
    let first = road.take_some("w-1", &sub, 1).await.leases.remove(0);
    road.redis(&["XGROUP", "DESTROY", &road.work_key(&sub), "g"]).await;
    let taken = road.take("w-2", &sub).await.leases;
    assert_eq!(taken.len(), 3, "nothing is skipped");
    // The success of whoever had it before settles it; the second one is late.
    assert_eq!(road.outcome("w-1", &sub, first, &answered(200)).await.stale, 0);
    let mut stale = 0;
    for lease in taken {
        stale += road.outcome("w-2", &sub, lease, &answered(200)).await.stale;
    }
    assert_eq!(stale, 1);
    assert_eq!(road.state(&sub).await.queued, 0);
    road.check().await;
}

/// What Redis lost or somebody deleted from under the group must not hide what is there.
#[tokio::test]
async fn entries_that_are_gone_are_passed_over() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    road.queue(&sub, &["a", "b", "c"]).await;
    for lease in road.take_some("w-1", &sub, 2).await.leases {
        road.outcome("w-1", &sub, lease, &Outcome::Unsent).await;
    }
    let key = road.work_key(&sub);
    let first = road.redis(&["XRANGE", &key, "-", "+", "COUNT", "1"]).await.items()[0].items()[0].text();
    road.redis(&["XDEL", &key, &first.unwrap()]).await;
    let names: Vec<String> = road
        .take("w-1", &sub)
        .await
        .leases
        .iter()
        .map(|lease| lease.entry.decode().unwrap().id.to_string())
        .collect();
    assert_eq!(names.first().map(String::as_str), Some("b"));
    let swept = road.sweep_lease("w-1", &sub, std::time::Duration::from_secs(60), &["w-1"]).await;
    assert_eq!(swept.missing, 0, "the take let go of it");
    let rest = road.take("w-1", &sub).await.leases.len();
    assert_eq!(names.len() + rest, 2);
}

/// An entry of another shape is handed out as it is: the worker buries it, with its fields.
#[tokio::test]
async fn junk_in_a_queue_is_taken_and_buried_whole() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    road.queue(&sub, &["a"]).await;
    let key = road.work_key(&sub);
    road.redis(&["XADD", &key, "*", "what", "is this"]).await;
    road.redis(&["XADD", &key, "*", "m", "9 {}\n", "t", "never", "ref", ""]).await;
    road.redis(&["HINCRBY", &road.sub_key(&sub), "bytes", "5"]).await;
    let mut leases = road.take("w-1", &sub).await.leases;
    assert_eq!(leases.len(), 3);
    assert!(matches!(leases[2].entry.decode(), Err(EntryError::Newer(9))));
    assert_eq!((leases[2].accepted_ms, leases[2].reference.as_str()), (0, ""));
    let junk = leases.remove(1);
    assert!(junk.entry.decode().is_err());
    let bury = Place::Dead(postroad_model::delivery::DeadReason::Undecodable);
    let settled = road.settle("w-1", vec![put(junk, bury)]).await;
    assert_eq!(settled.stale, 0);
    let dead = road.store.dead_letters(&sub.id, sid("0-0"), None, 10).await.unwrap().remove(0);
    assert_eq!(dead.strange, [(b"what".to_vec(), "is this".into())]);
    assert_eq!(dead.reason.unwrap().as_str(), "undecodable");
    road.check().await;
}

#[tokio::test]
async fn tries_that_cannot_be_read_count_as_none() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    road.queue(&sub, &["a"]).await;
    let lease = road.take_one("w-1", &sub).await;
    let name = format!("{}:{}", lease.rank, lease.id);
    let key = road.lane_key(&sub, &format!("tries:{}", sub.id));
    road.outcome("w-1", &sub, lease, &Outcome::WorkerLost).await;
    for junk in [&b"\xff\xfe"[..], b"", b"1", b"x y\n{"] {
        road.redis.command(&[b"HSET", key.as_bytes(), name.as_bytes(), junk]).await.unwrap();
        let lease = road.take_one("w-1", &sub).await;
        assert!(lease.tries.is_empty(), "{junk:?}");
        road.settle("w-1", vec![put(lease, Place::Again)]).await;
    }
}

#[tokio::test]
async fn every_eighth_take_begins_at_the_bottom_and_fills_up_from_above() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|sub| sub.prefetch_count = 100).await;
    road.queue_ranked(&sub, &["low"], Priority::Low).await;
    let urgent: Vec<String> = (0..20).map(|n| format!("u{n}")).collect();
    let urgent: Vec<&str> = urgent.iter().map(String::as_str).collect();
    road.queue_ranked(&sub, &urgent, Priority::Critical).await;
    for turn in 1..=8 {
        let ranks: Vec<u8> =
            road.take_some("w-1", &sub, 2).await.leases.iter().map(|lease| lease.rank).collect();
        let expected = if turn == 8 {
            [Priority::Low.rank(), Priority::Critical.rank()]
        } else {
            [Priority::Critical.rank(); 2]
        };
        assert_eq!(ranks, expected, "turn {turn}");
    }
    road.check().await;
}
