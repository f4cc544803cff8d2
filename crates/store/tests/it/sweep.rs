//! sweep and disown: what crashes, lost replies and careless hands leave lying.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use super::kit::*;
use postroad_model::{
    delivery::{Outcome, Place},
    subscription::Subscription,
};
use postroad_store::{LaneLimits, Swept};

const HOUR: Duration = Duration::from_secs(3_600);
const LATER: Place = Place::Later { delay_ms: 600_000 };

fn healthy(swept: &Swept) {
    assert!(swept.lost.is_empty() && swept.unknown.is_empty(), "{swept:?}");
    assert_eq!((swept.rearmed, swept.missing), (0, 0));
}

async fn consumers(road: &Road, sub: &Subscription) -> BTreeSet<String> {
    let rows = road.redis(&["XINFO", "CONSUMERS", &road.work_key(sub), "g"]).await;
    rows.items().iter().map(|row| row.items()[1].text().unwrap()).collect()
}

#[tokio::test]
async fn a_healthy_lane_is_left_as_it_is() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|sub| sub.prefetch_count = 3).await;
    healthy(&road.sweep_lease("w-2", &sub, HOUR, &["w-1", "w-2"]).await);
    road.fill(&[&sub], 6).await;
    let mut leases = road.take("w-1", &sub).await.leases;
    road.settle("w-1", vec![put(leases.remove(0), LATER)]).await;
    road.settle("w-1", vec![put(leases.remove(0), Place::AwaitingAck)]).await;
    let places = road.places(&sub).await;
    for _ in 0..2 {
        healthy(&road.sweep_lease("w-2", &sub, HOUR, &["w-1", "w-2"]).await);
        assert_eq!(road.places(&sub).await, places);
        road.check().await;
    }
}

#[tokio::test]
async fn only_leases_that_ran_out_are_lost() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    road.fill(&[&sub], 2).await;
    let old = road.take_some("w-1", &sub, 1).await.leases.remove(0);
    tokio::time::sleep(Duration::from_millis(300)).await;
    road.take_some("w-1", &sub, 1).await;
    let swept = road.sweep_lease("w-2", &sub, Duration::from_millis(250), &["w-1", "w-2"]).await;
    let lost = swept.lost.into_iter().next().unwrap();
    assert_eq!((lost.id, lost.number), (old.id, 2));
    assert_eq!(road.places(&sub).await, [at("w-1", 1), at("w-2", 1)]);
    let swept = road.sweep_lease("w-3", &sub, Duration::from_millis(250), &["w-1", "w-3"]).await;
    assert!(swept.lost.iter().all(|lease| lease.id != old.id), "it is w-2's now");
    road.outcome("w-2", &sub, lost, &Outcome::WorkerLost).await;
    road.check().await;
}

#[tokio::test]
async fn a_lost_delivery_keeps_what_it_has_been_through() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|sub| sub.retry.max_retries = 5).await;
    road.fill(&[&sub], 1).await;
    let lease = road.take_one("w-1", &sub).await;
    road.outcome("w-1", &sub, lease, &answered(500)).await;
    road.promote_early("w-1", &sub).await;
    road.take_one("w-1", &sub).await;
    for reclaims in 0..5 {
        let lost = road.sweep("w-2", &sub, &["w-2"]).await.lost.remove(0);
        assert_eq!((lost.tries.progress.attempts, lost.tries.progress.reclaims), (1, reclaims));
        road.outcome("w-2", &sub, lost, &Outcome::WorkerLost).await;
        road.take("w-1", &sub).await;
        road.check().await;
    }
    let dead = road.store.dead_letters(&sub.id, sid("0-0"), None, 9).await.unwrap();
    assert_eq!(dead[0].reason.unwrap().as_str(), "worker_lost");
}

#[tokio::test]
async fn lost_tokens_are_made_anew_and_counted() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    road.fill(&[&sub], 2).await;
    let ready = road.lane_key(&sub, "ready");
    for delete in [vec!["DEL", &ready], vec!["XTRIM", &ready, "MAXLEN", "0"]] {
        road.redis(&delete).await;
        assert!(road.take("w-1", &sub).await.leases.is_empty());
        let swept = road.sweep_lease("w-1", &sub, HOUR, &["w-1"]).await;
        assert_eq!(swept.rearmed, 1);
        road.check().await;
        healthy(&road.sweep_lease("w-1", &sub, HOUR, &["w-1"]).await);
    }
    assert_eq!(road.take("w-1", &sub).await.leases.len(), 2);
    // The field without a token that nobody needs is mended too, and is no token lost.
    road.redis(&["HSET", &road.sub_key(&sub), "token", "1-1"]).await;
    healthy(&road.sweep_lease("w-1", &sub, HOUR, &["w-1"]).await);
    road.check().await;
}

#[tokio::test]
async fn lost_timers_are_set_anew() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    road.fill(&[&sub], 3).await;
    let mut leases = road.take("w-1", &sub).await.leases;
    road.settle("w-1", vec![put(leases.remove(0), LATER)]).await;
    road.settle("w-1", vec![put(leases.remove(0), Place::AwaitingAck)]).await;
    road.redis(&["DEL", &road.lane_key(&sub, "timers")]).await;
    assert_eq!(road.sweep_lease("w-1", &sub, HOUR, &["w-1"]).await.rearmed, 2);
    road.check().await;
    let promoted = road.promote("w-1", &sub).await;
    assert_eq!((promoted.handled, promoted.missed.len()), (2, 1));
    road.check().await;
}

#[tokio::test]
async fn a_hold_or_an_open_circuit_without_its_timer_ends_all_the_same() {
    let mut road = Road::new().await;
    let held = road.subscribe_in(0, |_| {}).await;
    let open = road.subscribe_in(0, |_| {}).await;
    road.fill(&[&held, &open], 2).await;
    let till = road.now().await + 150;
    road.redis(&["HSET", &road.sub_key(&held), "hold", &till.to_string()]).await;
    road.redis(&["HSET", &road.sub_key(&open), "limit", "0"]).await;
    road.redis(&["DEL", &road.lane_key(&held, "ready")]).await;
    healthy(&road.sweep_lease("w-1", &held, HOUR, &["w-1"]).await);
    road.check().await;
    road.promote("w-1", &open).await;
    assert_eq!(road.take("w-1", &open).await.leases.len(), 1, "the probe");
    tokio::time::sleep(Duration::from_millis(160)).await;
    assert_eq!(road.promote("w-1", &held).await.handled, 1);
    assert_eq!(road.take("w-1", &held).await.leases.len(), 2);
    road.check().await;
}

#[tokio::test]
async fn entries_that_vanished_are_let_go_and_hide_nothing() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    let key = road.work_key(&sub);
    // Some are in flight, and the stream is emptied under them.
    road.fill(&[&sub], 4).await;
    assert_eq!(road.take("w-1", &sub).await.leases.len(), 4);
    road.redis(&["XTRIM", &key, "MAXLEN", "0"]).await;
    let swept = road.sweep_lease("w-2", &sub, HOUR, &["w-1", "w-2"]).await;
    assert_eq!(swept.missing, 4);
    assert!(road.places(&sub).await.is_empty());
    road.redis(&["HSET", &road.sub_key(&sub), "bytes", "0"]).await;

    // As many vanished as wait: the counts alone would say that nothing waits.
    road.fill(&[&sub], 4).await;
    assert_eq!(road.take("w-1", &sub).await.leases.len(), 4);
    for row in road.redis(&["XRANGE", &key, "-", "+"]).await.items() {
        road.redis(&["XDEL", &key, &row.items()[0].text().unwrap()]).await;
    }
    road.redis(&["HSET", &road.sub_key(&sub), "bytes", "0"]).await;
    road.fill(&[&sub], 4).await;
    let swept = road.sweep_lease("w-2", &sub, HOUR, &["w-1", "w-2"]).await;
    assert_eq!(swept.missing, 4);
    assert_eq!(road.take("w-2", &sub).await.leases.len(), 4);
    road.check().await;
    healthy(&road.sweep_lease("w-2", &sub, HOUR, &["w-1", "w-2"]).await);
}

#[tokio::test]
async fn a_queue_that_was_deleted_is_let_go_whole() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    road.fill(&[&sub], 4).await;
    let mut leases = road.take_some("w-1", &sub, 2).await.leases;
    road.outcome("w-1", &sub, leases.remove(1), &answered(500)).await;
    let lease = leases.remove(0);
    let tries = road.lane_key(&sub, &format!("tries:{}", sub.id));
    assert_eq!(road.number(&["HLEN", &tries]).await, 1);
    road.redis(&["DEL", &road.work_key(&sub)]).await;
    healthy(&road.sweep_lease("w-2", &sub, HOUR, &["w-2"]).await);
    assert_eq!(road.texts(&["SMEMBERS", &road.lane_key(&sub, "live")]).await, [""; 0]);
    assert_eq!(road.number(&["EXISTS", &tries]).await, 0);
    assert_eq!(road.outcome("w-1", &sub, lease, &answered(200)).await.stale, 1);
    road.fill(&[&sub], 2).await;
    assert_eq!(road.take("w-1", &sub).await.leases.len(), 2);
    road.check().await;
}

#[tokio::test]
async fn names_of_workers_that_are_gone_are_forgotten() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|sub| sub.prefetch_count = 10).await;
    road.fill(&[&sub], 8).await;
    let mut done = Vec::new();
    for name in ["w-1", "w-2", "w-3"] {
        done.extend(road.take_some(name, &sub, 1).await.leases);
    }
    let holds = done.pop().unwrap();
    for lease in done {
        road.settle("w-9", vec![put(lease, Place::Settled)]).await;
    }
    road.settle("w-3", vec![put(holds, LATER)]).await;
    road.take_some("w-4", &sub, 1).await;
    road.sweep_lease("w-2", &sub, HOUR, &["w-2"]).await;
    let left = consumers(&road, &sub).await;
    // w-2 lives, w-4 holds something, places are no workers.
    assert_eq!(left, ["w-2", "w-4", "later"].map(str::to_owned).into());
    road.check().await;
}

/// What a consumer held that somebody deleted by hand belongs to nobody: it must neither be forgotten nor keep
/// workers busy with a token that buys nothing.
#[tokio::test]
async fn entries_of_a_deleted_consumer_come_back() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|sub| sub.prefetch_count = 10).await;
    road.fill(&[&sub], 6).await;
    let held = road.take_some("w-1", &sub, 4).await.leases;
    road.redis(&["XGROUP", "DELCONSUMER", &road.work_key(&sub), "g", "w-1"]).await;
    assert_eq!(road.take("w-2", &sub).await.leases.len(), 2, "what waited");
    let taken = road.take("w-2", &sub).await;
    assert!(taken.leases.is_empty() && !taken.left, "{taken:?}");
    let swept = road.sweep_lease("w-2", &sub, HOUR, &["w-2"]).await;
    assert!(swept.rearmed >= 4, "{swept:?}");
    road.check().await;
    let taken = road.take("w-2", &sub).await.leases;
    assert_eq!(taken.len(), 4);
    healthy(&road.sweep_lease("w-2", &sub, HOUR, &["w-2"]).await);
    // Whoever had them before may still succeed.
    let mut held = held.into_iter();
    assert_eq!(road.settle("w-1", vec![put(held.next().unwrap(), Place::Settled)]).await.stale, 0);
    assert_eq!(road.settle("w-1", vec![put(held.next().unwrap(), LATER)]).await.stale, 1);
    road.check().await;
}

#[tokio::test]
async fn an_empty_queue_is_no_longer_live() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    road.fill(&[&sub], 1).await;
    let live = road.lane_key(&sub, "live");
    let lease = road.take_one("w-1", &sub).await;
    road.sweep_lease("w-1", &sub, HOUR, &["w-1"]).await;
    assert_eq!(road.number(&["SCARD", &live]).await, 1);
    road.outcome("w-1", &sub, lease, &answered(200)).await;
    healthy(&road.sweep_lease("w-1", &sub, HOUR, &["w-1"]).await);
    assert_eq!(road.number(&["SCARD", &live]).await, 0);
    road.fill(&[&sub], 1).await;
    assert_eq!(road.number(&["SCARD", &live]).await, 1);
    // Cancelled, it is none either, whatever the set says.
    road.cancel(&sub).await;
    road.redis(&["SADD", &live, sub.id.as_str(), "sub_nobody"]).await;
    let swept = road.sweep_lease("w-1", &sub, HOUR, &["w-1"]).await;
    assert_eq!((swept.unknown, road.number(&["SCARD", &live]).await), (vec!["sub_nobody".to_owned()], 0));
}

/// A lane that lost a subscription's settings says so, and has its queue again once it is told.
#[tokio::test]
async fn settings_that_are_lost_are_asked_for_and_nothing_is_left_behind() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    road.queue(&sub, &["a", "b"]).await;
    road.queue_ranked(&sub, &["c"], postroad_model::message::Priority::Critical).await;
    road.redis(&["DEL", &road.sub_key(&sub)]).await;
    assert!(road.take("w-1", &sub).await.leases.is_empty());
    let swept = road.sweep_lease("w-1", &sub, HOUR, &["w-1"]).await;
    assert_eq!(swept.unknown, [sub.id.to_string()]);
    let there = road.store.subscription(&sub.id).await.unwrap().unwrap();
    road.store.apply(&there.subscription, there.change, LaneLimits::default()).await.unwrap();
    road.sweep_lease("w-1", &sub, HOUR, &["w-1"]).await;
    assert_eq!(road.take("w-1", &sub).await.leases.len(), 3);
}

#[tokio::test]
async fn every_live_subscription_is_looked_at_page_by_page() {
    let mut road = Road::new().await;
    let mut subs = Vec::new();
    for _ in 0..400 {
        subs.push(road.subscribe_in(0, |_| {}).await);
    }
    let all: Vec<_> = subs.iter().collect();
    road.fill(&all, 1).await;
    let room = postroad_store::Room {
        free: 999,
        spare: 999,
        quantum: 9,
        quantum_bytes: 1 << 20,
        ..postroad_store::Room::UNBOUNDED
    };
    let mut taken = 0;
    while taken < 400 {
        taken += road.take_in("w-1", 0, room).await.leases.len();
    }
    let mut pages = 0;
    let mut from = 0;
    let mut lost = BTreeSet::new();
    loop {
        let page = road.store.sweep("w-2", Duration::ZERO, 0, from, &["w-2".into()], &[]).await.unwrap();
        pages += 1;
        lost.extend(page.lost.into_iter().map(|lease| lease.subscription));
        match page.cursor {
            Some(cursor) => from = cursor,
            None => break,
        }
    }
    assert_eq!(lost.len(), 400);
    assert!((4..=20).contains(&pages), "{pages}");
    road.check().await;
}

#[tokio::test]
async fn a_queue_that_became_something_else_stops_no_sweep() {
    let mut road = Road::new().await;
    let (sub, other) = (road.subscribe_in(0, |_| {}).await, road.subscribe_in(0, |_| {}).await);
    road.fill(&[&sub, &other], 2).await;
    road.take("w-1", &sub).await;
    road.redis(&["SET", &road.work_key(&sub), "junk"]).await;
    let lost = road.sweep("w-2", &other, &["w-2"]).await.lost;
    assert_eq!(lost.len(), 2);
    assert_eq!(road.store.disown("w-2", &[0], &HashMap::new()).await.unwrap(), 2);
}

#[tokio::test]
async fn dead_letters_age_out_and_are_counted() {
    let road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    let dead = road.lane_key(&sub, &format!("dead:{}", sub.id));
    let now = road.now().await;
    let fill = "for n = 1, 300 do redis.call('XADD', KEYS[1], ARGV[1] + n .. '-0', 'm', 'x') end";
    road.redis(&["EVAL", fill, "1", &dead, &(now - 15 * 86_400_000).to_string()]).await;
    road.redis(&["SADD", &road.lane_key(&sub, "deads"), sub.id.as_str()]).await;
    road.redis(&["XADD", &dead, "*", "m", "young"]).await;
    healthy(&road.sweep_lease("w-1", &sub, HOUR, &["w-1"]).await);
    let left = road.state(&sub).await.dead;
    assert!((1..=101).contains(&left), "{left}");
    let dropped = road.number(&["HGET", &road.sub_key(&sub), "dead_dropped"]).await;
    assert_eq!(dropped + i64::try_from(left).unwrap(), 301);
    road.check().await;
    road.redis(&["XTRIM", &dead, "MAXLEN", "0"]).await;
    road.redis(&["DEL", &dead]).await;
    road.sweep_lease("w-1", &sub, HOUR, &["w-1"]).await;
    assert!(road.store.dead_subscriptions().await.unwrap().is_empty());
}

#[tokio::test]
async fn what_a_worker_does_not_know_of_is_given_back_at_once() {
    let mut road = Road::new().await;
    let (a, b) = (road.subscribe_in(0, |_| {}).await, road.subscribe_in(1, |_| {}).await);
    for sub in [&a, &b] {
        road.fill(&[sub], 4).await;
    }
    let known = road.take_some("w-1", &a, 2).await.leases;
    road.take_some("w-1", &a, 1).await;
    road.take_some("w-1", &b, 3).await;
    road.take_some("w-2", &b, 1).await;
    let handles = HashMap::from([(0, known.iter().map(postroad_store::Lease::handle).collect())]);
    assert_eq!(road.store.disown("w-1", &[0, 1], &handles).await.unwrap(), 4);
    assert_eq!(road.store.disown("w-1", &[0, 1], &handles).await.unwrap(), 0, "again");
    assert_eq!(road.places(&a).await, [at("again", 1), at("w-1", 2)]);
    assert_eq!(road.places(&b).await, [at("again", 3), at("w-2", 1)]);
    road.check().await;
    assert_eq!(road.take("w-3", &b).await.leases.len(), 3, "at once");
    // It stops: everything goes back, and what it still sends is late.
    assert_eq!(road.store.disown("w-1", &[0, 1], &HashMap::new()).await.unwrap(), 2);
    for lease in known {
        assert_eq!(road.settle("w-1", vec![put(lease, LATER)]).await.stale, 1);
    }
    assert_eq!(road.store.disown("w-1", &[], &HashMap::new()).await.unwrap(), 0);
    assert_eq!(road.store.disown("w-7", &[0, 1], &HashMap::new()).await.unwrap(), 0);
    road.check().await;
}
