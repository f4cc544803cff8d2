//! What is lost again and again, and what is only believed to be: suspects, full pages, the sweeper's own.

use std::time::Duration;

use super::kit::*;
use postroad_model::{
    delivery::{Outcome, Place, Progress},
    subscription::Subscription,
};
use postroad_store::{Lease, Room, StreamId};

const HOUR: Duration = Duration::from_secs(3_600);
const WIDE: Room =
    Room { free: 5_000, spare: 5_000, quantum: 5_000, quantum_bytes: 1 << 30, ..Room::UNBOUNDED };
const NO_SUSPECT: Room = Room { suspects: 0, ..WIDE };

/// Lets everything that waits for a subscription be lost so often.
async fn lose(road: &Road, sub: &Subscription, times: u32) {
    for _ in 0..times {
        road.take("w-dead", sub).await;
        for lost in road.sweep("w-9", sub, &["w-9"]).await.lost {
            road.outcome("w-9", sub, lost, &Outcome::WorkerLost).await;
        }
    }
}

fn suspects(leases: &[Lease]) -> usize {
    leases.iter().filter(|lease| lease.tries.progress.runs_alone()).count()
}

#[tokio::test]
async fn a_worker_gets_as_many_suspects_as_it_asks_for_and_all_others() {
    let mut road = Road::new().await;
    let sub = road.subscribe_in(0, |sub| sub.prefetch_count = 100).await;
    road.fill(&[&sub], 5).await;
    lose(&road, &sub, Progress::ALONE_AFTER).await;
    road.fill(&[&sub], 3).await;
    let taken = road.take_in("w-1", 0, Room { suspects: 1, ..WIDE }).await;
    assert_eq!((taken.leases.len(), suspects(&taken.leases), taken.put_off), (4, 1, 4));
    // The others are with nobody, each behind a timer of its own.
    assert_eq!(road.places(&sub).await, [at("later", 4), at("w-1", 4)]);
    road.check().await;
    let taken = road.take_in("w-1", 0, NO_SUSPECT).await;
    assert_eq!((taken.leases.len(), taken.left), (0, false), "no token without work");

    road.promote_early("w-1", &sub).await;
    let taken = road.take_in("w-1", 0, NO_SUSPECT).await;
    assert_eq!((taken.leases.len(), taken.put_off, taken.left), (0, 4, false));
    road.check().await;
    road.promote_early("w-1", &sub).await;
    let taken = road.take_in("w-2", 0, Room { suspects: 1, ..WIDE }).await;
    assert_eq!((taken.leases.len(), taken.put_off), (1, 3), "another worker has its own");
    road.check().await;
}

#[tokio::test]
async fn tokens_behind_those_that_were_passed_over_are_found() {
    let mut road = Road::new().await;
    let mut subs = Vec::new();
    for _ in 0..70 {
        subs.push(road.subscribe_in(0, |_| {}).await);
    }
    let all: Vec<_> = subs.iter().collect();
    road.fill(&all, 2).await;
    // One of each, and there is no more room for any of them.
    while road.take_in("w-1", 0, Room { quantum: 1, spare: 0, ..WIDE }).await.passed.is_none() {}
    let late = road.subscribe_in(0, |_| {}).await;
    road.fill(&[&late], 1).await;
    let none_spare = Room { spare: 0, ..WIDE };
    let first = road.take_in("w-1", 0, none_spare).await;
    let upto = first.passed.unwrap();
    assert!(first.leases.is_empty(), "64 tokens lie before it");
    let second = road.take_in("w-1", 0, Room { behind: upto, ..none_spare }).await;
    assert_eq!((second.leases.len(), second.passed.is_some_and(|id| id > upto)), (1, true));
    assert_eq!(second.leases[0].subscription, late.id);
    // From the beginning again, once there is room.
    assert_eq!(road.take_in("w-1", 0, Room { behind: StreamId::ZERO, ..WIDE }).await.leases.len(), 64);
    road.check().await;
}

#[tokio::test]
async fn a_token_that_was_put_back_with_no_room_left_needs_no_second_look() {
    let mut road = Road::new().await;
    let sub = road.subscribe_in(0, |sub| sub.prefetch_count = 100).await;
    road.fill(&[&sub], 10).await;
    let taken = road.take_in("w-1", 0, Room { spare: 4, ..WIDE }).await;
    assert_eq!((taken.leases.len(), taken.left, taken.passed.is_some()), (4, true, true));
    let behind = Room { spare: 4, behind: taken.passed.unwrap(), ..WIDE };
    assert!(road.take_in("w-1", 0, behind).await.leases.is_empty());
    // While there is room it is not passed over.
    let taken = road.take_in("w-1", 0, Room { quantum: 2, spare: 4, ..WIDE }).await;
    assert_eq!((taken.leases.len(), taken.left, taken.passed), (2, true, None));
    road.check().await;
}

#[tokio::test]
async fn bytes_bound_a_whole_take() {
    let mut road = Road::new().await;
    let (a, b) = (road.subscribe_in(0, |_| {}).await, road.subscribe_in(0, |_| {}).await);
    road.fill(&[&a, &b], 4).await;
    let size = road.take_in("w-1", 0, Room { free: 1, spare: 1, ..WIDE }).await.leases[0].entry.size();
    let taken = road.take_in("w-1", 0, Room { bytes: 2 * size, ..WIDE }).await;
    assert_eq!((taken.leases.len(), taken.left), (2, true), "{taken:?}");
    assert_eq!(road.take_in("w-1", 0, Room { bytes: 1, ..WIDE }).await.leases.len(), 1, "one always goes");
    road.check().await;
}

#[tokio::test]
async fn a_lost_workers_deliveries_are_all_found_at_once() {
    let mut road = Road::new().await;
    let sub = road.subscribe_in(0, |sub| sub.prefetch_count = 5_000).await;
    road.fill(&[&sub], 2_300).await;
    let mut held = 0;
    while held < 2_300 {
        held += road.take_in("w-1", 0, WIDE).await.leases.len();
    }
    // More than one reply should hold: the same page comes again.
    let first = road.store.sweep("w-2", Duration::ZERO, 0, 0, &["w-2".into()], &[]).await.unwrap();
    assert_eq!((first.lost.len(), first.cursor), (1_000, Some(0)));
    let rest = road.sweep("w-2", &sub, &["w-2"]).await;
    assert_eq!(rest.lost.iter().filter(|lease| lease.id > first.lost[999].id).count(), 1_300);
}

#[tokio::test]
async fn a_sweeper_knows_what_it_holds() {
    let mut road = Road::new().await;
    let sub = road.subscribe_in(0, |sub| sub.prefetch_count = 100).await;
    road.fill(&[&sub], 6).await;
    let mine = road.take_some("w-1", &sub, 3).await.leases;
    road.take_some("w-2", &sub, 2).await;
    road.take_some("w-1", &sub, 1).await;
    let known: Vec<String> = mine.iter().map(Lease::handle).collect();
    let living = ["w-1".to_owned(), "w-2".to_owned()];
    let swept = road.store.sweep("w-1", Duration::ZERO, 0, 0, &living, &known).await.unwrap();
    assert_eq!(swept.lost.len(), 3, "the other's, and the one that it does not know of");
    assert!(swept.lost.iter().all(|lease| !known.contains(&lease.handle())));
    let swept = road.store.sweep("w-3", Duration::ZERO, 0, 0, &living, &known).await.unwrap();
    assert_eq!(swept.lost.len(), 6, "to anyone else a lease that ran out is one");
    road.check().await;
}

#[tokio::test]
async fn good_timers_hide_no_missing_ones() {
    const COUNT: usize = 1_200;
    let mut road = Road::new().await;
    let sub = road.subscribe_in(0, |sub| sub.prefetch_count = 5_000).await;
    road.fill(&[&sub], COUNT).await;
    let mut put_aside = 0;
    while put_aside < COUNT {
        let leases = road.take_in("w-1", 0, WIDE).await.leases;
        put_aside += leases.len();
        let later = leases.into_iter().map(|lease| put(lease, Place::Later { delay_ms: 600_000 })).collect();
        road.settle("w-1", later).await;
    }
    let timers = road.lane_key(&sub, "timers");
    let name = |row: &postroad_testkit::redis::Reply| row.items()[0].text().unwrap();
    let rows = road.redis(&["XPENDING", &road.work_key(&sub), "g", "-", "+", "9999"]).await;
    let missing = [name(&rows.items()[40]), name(&rows.items()[COUNT - 1])];
    for id in &missing {
        road.redis(&["ZREM", &timers, &format!("later:{}:1:{id}", sub.id)]).await;
    }
    let mut rearmed = Vec::new();
    for _ in 0..4 {
        rearmed.push(road.sweep_lease("w-1", &sub, HOUR, &["w-1"]).await.rearmed);
    }
    assert_eq!(rearmed, [1, 0, 1, 0], "some at a time, and then from the beginning");
    road.check().await;
}
