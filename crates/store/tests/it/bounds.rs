//! What ends a wait in a queue: a time to live, and a queue's greatest length.

use std::time::Duration;

use super::kit::*;
use postroad_model::{
    delivery::Place,
    message::Priority,
    subscription::{Status, Subscription},
};
use postroad_store::trace::Lies;

fn brief() -> Terms<'static> {
    Terms { lives_ms: Some(1), ..Terms::default() }
}

fn long() -> Terms<'static> {
    Terms { lives_ms: Some(3_600_000), ..Terms::default() }
}

fn dead(rows: &[(&str, &str)]) -> Vec<(String, String)> {
    rows.iter().map(|(id, reason)| ((*id).to_owned(), (*reason).to_owned())).collect()
}

async fn expire(road: &Road, sub: &Subscription) -> usize {
    tokio::time::sleep(Duration::from_millis(3)).await;
    let dead = road.promote("w-1", sub).await.dead;
    assert!(
        dead.iter().all(|(tenant, channel)| (tenant.as_str(), channel.as_str()) == ("default", "orders"))
    );
    dead.len()
}

#[tokio::test]
async fn what_waits_too_long_is_dead_and_the_rest_is_not() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    let at = road.queue_as(&sub, &[("brief", brief()), ("long", long()), ("ever", Terms::default())]).await;
    assert_eq!(expire(&road, &sub).await, 1);
    assert_eq!(road.dead(&sub).await, dead(&[("brief", "expired")]));
    assert_eq!(road.lying(&sub, "waiting").await, ["long", "ever"]);
    road.check().await;
    let traces = road.store.locate(0, at[0]).await.unwrap();
    assert_eq!(traces[0].dead_reason(sub.id.as_str()).unwrap().as_str(), "expired");
    assert_eq!(traces[0].located[0].lies, Lies::Gone);
    // The next timer is the next one's that expires.
    let timers = road.texts(&["ZRANGE", &road.lane_key(&sub, "timers"), "0", "-1"]).await;
    assert_eq!(timers, [format!("expire:{}", sub.id)]);
    for lease in road.take("w-1", &sub).await.leases {
        road.outcome("w-1", &sub, lease, &answered(200)).await;
    }
    road.promote_early("w-1", &sub).await;
    assert_eq!(road.number(&["ZCARD", &road.lane_key(&sub, "timers")]).await, 0);
    assert_eq!(road.redis(&["HGET", &road.sub_key(&sub), "expiring"]).await.text(), None);
    road.check().await;
}

#[tokio::test]
async fn it_expires_wherever_it_waits_and_not_while_it_is_out() {
    let mut road = Road::new().await;
    for (id, place, is_dead) in [
        ("later", Some(Place::Later { delay_ms: 60_000 }), true),
        ("again", Some(Place::Again), true),
        ("ack", Some(Place::AwaitingAck), false),
        ("out", None, false),
    ] {
        let sub = road.subscribe(|_| {}).await;
        road.queue_as(&sub, &[(id, brief())]).await;
        let lease = road.take_one("w-1", &sub).await;
        assert!(lease.expires_ms.is_some());
        if let Some(place) = place {
            road.settle("w-1", vec![put(lease, place)]).await;
        }
        expire(&road, &sub).await;
        let expected = if is_dead { dead(&[(id, "expired")]) } else { Vec::new() };
        assert_eq!(road.dead(&sub).await, expected, "{id}");
        road.check().await;
    }
}

#[tokio::test]
async fn what_is_paused_expires_too() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|sub| sub.status = Status::Paused).await;
    road.queue_as(&sub, &[("brief", brief())]).await;
    expire(&road, &sub).await;
    assert_eq!(road.dead(&sub).await, dead(&[("brief", "expired")]));
    road.check().await;
}

#[tokio::test]
async fn replayed_it_lives_for_ever() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    road.queue_as(&sub, &[("brief", brief())]).await;
    expire(&road, &sub).await;
    let letters: Vec<_> = road
        .store
        .dead_letters(&sub.id, sid("0-0"), None, 10)
        .await
        .unwrap()
        .iter()
        .map(|letter| letter.id.entry)
        .collect();
    road.store.replay_dead(&sub.id, "job", 100, TRACE, &letters).await.unwrap();
    expire(&road, &sub).await;
    let lease = road.take_one("w-1", &sub).await;
    assert_eq!(lease.expires_ms, None);
    road.check().await;
}

#[tokio::test]
async fn a_timer_that_was_deleted_is_made_anew() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    road.queue_as(&sub, &[("brief", brief())]).await;
    road.redis(&["DEL", &road.lane_key(&sub, "timers")]).await;
    road.sweep("w-1", &sub, &["w-1"]).await;
    expire(&road, &sub).await;
    assert_eq!(road.dead(&sub).await, dead(&[("brief", "expired")]));
    road.check().await;
}

#[tokio::test]
async fn many_that_expire_together_go_in_steps() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    let ids: Vec<String> = (0..450).map(|n| format!("m{n}")).collect();
    let rows: Vec<(&str, Terms<'_>)> = ids.iter().map(|id| (id.as_str(), brief())).collect();
    road.queue_as(&sub, &rows).await;
    for expected in [200, 400, 450] {
        expire(&road, &sub).await;
        assert_eq!(road.dead(&sub).await.len(), expected);
        road.check().await;
    }
}

fn at_most(n: u64) -> Terms<'static> {
    Terms { max_length: Some(n), ..Terms::default() }
}

#[tokio::test]
async fn the_oldest_that_waits_makes_room() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    let at = road
        .queue_as(&sub, &[("a", at_most(2)), ("b", at_most(2)), ("c", at_most(2)), ("d", at_most(2))])
        .await;
    assert_eq!(road.lying(&sub, "waiting").await, ["c", "d"]);
    assert_eq!(road.dead(&sub).await, dead(&[("a", "maxlen"), ("b", "maxlen")]));
    let traces = road.store.locate(0, at[0]).await.unwrap();
    assert_eq!(traces[0].dead_reason(sub.id.as_str()).unwrap().as_str(), "maxlen");
    road.check().await;
}

#[tokio::test]
async fn who_had_to_go_is_told() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    let accepted = road.accept(&["a", "b", "c"]).await;
    assert_eq!(accepted.len(), 3);
    let entries = road.store.history(0, sid("0-0"), END, 10).await.unwrap();
    let placed = entries
        .iter()
        .map(|entry| postroad_store::Placed {
            max_length: Some(1),
            ..place(entry, &[&sub.id], Priority::Normal)
        })
        .collect();
    let reply = road.send(LAYOUT.lane_of(&sub.id), 0, entries[2].id, placed).await;
    let channels: Vec<&str> = reply.dead.iter().map(|(_, channel)| channel.as_str()).collect();
    assert_eq!(channels, ["orders", "orders"]);
}

#[tokio::test]
async fn what_is_out_is_not_counted_and_does_not_go() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    road.queue_as(&sub, &[("a", at_most(2)), ("b", at_most(2))]).await;
    let out = road.take("w-1", &sub).await.leases;
    road.queue_as(&sub, &[("c", at_most(2)), ("d", at_most(2))]).await;
    assert!(road.dead(&sub).await.is_empty());
    for lease in out {
        road.settle("w-1", vec![put(lease, Place::Later { delay_ms: 60_000 })]).await;
    }
    // What is scheduled waits again, and is the oldest.
    road.queue_as(&sub, &[("e", at_most(3))]).await;
    assert_eq!(road.dead(&sub).await, dead(&[("a", "maxlen"), ("b", "maxlen")]));
    assert_eq!(road.lying(&sub, "waiting").await, ["c", "d", "e"]);
    road.check().await;
}

#[tokio::test]
async fn the_least_urgent_goes_first() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    let of = |priority| Terms { priority, ..at_most(2) };
    road.queue_as(
        &sub,
        &[("urgent", of(Priority::Critical)), ("low", of(Priority::Low)), ("more", of(Priority::High))],
    )
    .await;
    assert_eq!(road.dead(&sub).await, dead(&[("low", "maxlen")]));
    road.queue_as(&sub, &[("last", of(Priority::Critical))]).await;
    assert_eq!(road.dead(&sub).await, dead(&[("low", "maxlen"), ("more", "maxlen")]));
    road.check().await;
}

#[tokio::test]
async fn the_lock_of_what_had_to_go_is_passed_on() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|sub| sub.ordered = true).await;
    road.queue_as(&sub, &[("a1", keyed("aa")), ("a2", keyed("aa"))]).await;
    let first = road.take_one("w-1", &sub).await;
    road.take("w-1", &sub).await;
    road.settle("w-1", vec![put(first, Place::Later { delay_ms: 60_000 })]).await;
    road.queue_as(&sub, &[("a3", Terms { max_length: Some(2), ..keyed("aa") })]).await;
    assert_eq!(road.dead(&sub).await, dead(&[("a1", "maxlen")]));
    road.check().await;
    assert_eq!(ids(&road.take("w-1", &sub).await.leases), ["a2"]);
    road.check().await;
}

#[tokio::test]
async fn a_long_queue_that_gets_a_short_bound_shrinks_in_steps() {
    let mut road = Road::new().await;
    let sub = road.subscribe_in(0, |_| {}).await;
    road.fill(&[&sub], 1_000).await;
    let bound = Terms { max_length: Some(10), ..Terms::default() };
    let mut before = road.length(&road.work_key(&sub)).await;
    for step in 0.. {
        road.queue_as(&sub, &[(format!("one{step}").as_str(), bound)]).await;
        let left = road.length(&road.work_key(&sub)).await;
        assert!(before + 1 - left <= 200, "{before} to {left}");
        if left == 10 {
            break;
        }
        assert!(left < before, "{before} to {left}");
        before = left;
    }
    road.check().await;
}

#[tokio::test]
async fn what_expires_together_is_buried_in_steps() {
    let mut road = Road::new().await;
    let mut subs = Vec::new();
    for round in 0..6 {
        let names: Vec<String> = (0..100).map(|n| format!("m{round}-{n}")).collect();
        let sub = road.subscribe_in(0, |sub| sub.status = Status::Paused).await;
        let rows: Vec<_> = names.iter().map(|name| (name.as_str(), brief())).collect();
        road.queue_as(&sub, &rows).await;
        subs.push(sub);
    }
    tokio::time::sleep(Duration::from_millis(5)).await;
    let mut buried = 0;
    while buried < 600 {
        let step = road.promote("w-1", &subs[0]).await.dead.len();
        assert!((1..=200).contains(&step), "{step}");
        buried += step;
    }
    for sub in &subs {
        assert_eq!((road.dead(sub).await.len(), road.length(&road.work_key(sub)).await), (100, 0));
    }
    road.check().await;
}
