//! Order: one delivery of an ordering key at a time, in the order of acceptance, also across retries.

use std::time::Duration;

use super::kit::*;
use postroad_model::{
    delivery::{DeadReason, Outcome, Place},
    message::Priority,
    subscription::Subscription,
};
use postroad_store::Lease;

async fn ordered(road: &Road) -> Subscription {
    road.subscribe(|sub| {
        sub.ordered = true;
        sub.prefetch_count = 100;
        sub.retry.max_retries = 1;
        sub.retry.retry_delay_ms = 0;
    })
    .await
}

/// Takes until nothing more comes.
async fn take_all(road: &Road, worker: &str, sub: &Subscription) -> Vec<Lease> {
    let mut all = Vec::new();
    for _ in 0..10 {
        all.extend(road.take(worker, sub).await.leases);
    }
    all
}

#[tokio::test]
async fn of_each_key_one_is_out() {
    let mut road = Road::new().await;
    let sub = ordered(&road).await;
    let rows: Vec<(String, &str)> =
        (0..9).map(|n| (format!("{}{n}", ["a", "b", "c"][n % 3]), ["aa", "bb", ""][n % 3])).collect();
    let table: Vec<(&str, Terms<'_>)> = rows
        .iter()
        .map(|(id, key)| (id.as_str(), if key.is_empty() { Terms::default() } else { keyed(key) }))
        .collect();
    road.queue_as(&sub, &table).await;
    let first = take_all(&road, "w-1", &sub).await;
    assert_eq!(ids(&first), ["a0", "b1", "c2", "c5", "c8"], "what has no key waits for nobody");
    assert_eq!(road.lying(&sub, "held").await, ["a3", "b4", "a6", "b7"]);
    road.check().await;
    let mut seen = Vec::new();
    let mut out = first;
    while !out.is_empty() {
        seen.extend(ids(&out));
        for lease in out {
            road.outcome("w-1", &sub, lease, &answered(200)).await;
            road.check().await;
        }
        out = take_all(&road, "w-2", &sub).await;
    }
    for key in ["a", "b"] {
        let of_key: Vec<&String> = seen.iter().filter(|id| id.starts_with(key)).collect();
        assert!(of_key.is_sorted() && of_key.len() == 3, "{seen:?}");
    }
    assert_eq!(road.state(&sub).await.queued, 0);
    let locks = road.number(&["EXISTS", &road.lane_key(&sub, &format!("locks:{}", sub.id))]).await;
    assert_eq!(locks, 0);
}

#[tokio::test]
async fn a_retry_keeps_its_key_and_another_key_goes_on() {
    let mut road = Road::new().await;
    let sub = ordered(&road).await;
    road.queue_as(
        &sub,
        &[("a1", keyed("aa")), ("a2", keyed("aa")), ("b1", keyed("bb")), ("b2", keyed("bb"))],
    )
    .await;
    let mut out = take_all(&road, "w-1", &sub).await;
    assert_eq!(ids(&out), ["a1", "b1"]);
    let (b1, a1) = (out.pop().unwrap(), out.pop().unwrap());
    road.settle("w-1", vec![put(a1, Place::Later { delay_ms: 60_000 })]).await;
    road.outcome("w-1", &sub, b1, &answered(200)).await;
    let b2 = road.take_one("w-1", &sub).await;
    assert_eq!(ids(std::slice::from_ref(&b2)), ["b2"]);
    assert_eq!(road.lying(&sub, "held").await, ["a2"]);
    road.check().await;
    // Its retry comes, alone.
    road.promote_early("w-1", &sub).await;
    let a1 = road.take_one("w-2", &sub).await;
    assert_eq!(ids(std::slice::from_ref(&a1)), ["a1"]);
    road.outcome("w-2", &sub, a1, &answered(200)).await;
    assert_eq!(ids(&take_all(&road, "w-2", &sub).await), ["a2"]);
    road.check().await;
}

/// However a delivery leaves its queue, the next of its key may go.
#[tokio::test]
async fn whatever_becomes_of_the_first_the_next_may_go() {
    let mut road = Road::new().await;
    for (case, place) in [
        ("settled", Place::Settled),
        ("dead", Place::Dead(DeadReason::Rejected)),
        ("exhausted", Place::Dead(DeadReason::RetriesExhausted)),
    ] {
        let sub = ordered(&road).await;
        let [one, two] = [1, 2].map(|n| format!("{case}-{n}"));
        road.queue_as(&sub, &[(&one, keyed("aa")), (&two, keyed("aa"))]).await;
        let first = road.take_one("w-1", &sub).await;
        assert!(road.take("w-1", &sub).await.leases.is_empty(), "{case}");
        road.settle("w-1", vec![put(first, place)]).await;
        road.check().await;
        let next = take_all(&road, "w-1", &sub).await;
        assert_eq!(ids(&next), [two], "{case}");
        road.settle("w-1", next.into_iter().map(|lease| put(lease, Place::Settled)).collect()).await;
        road.check().await;
    }
}

#[tokio::test]
async fn of_what_was_lost_the_key_is_kept() {
    let mut road = Road::new().await;
    let sub = ordered(&road).await;
    road.queue_as(&sub, &[("a1", keyed("aa")), ("a2", keyed("aa"))]).await;
    let _lost = road.take_one("w-gone", &sub).await;
    assert!(road.take("w-1", &sub).await.leases.is_empty());
    let swept = road.sweep("w-1", &sub, &["w-1"]).await;
    assert_eq!(ids(&swept.lost), ["a1"]);
    assert_eq!(swept.rearmed, 0, "nothing was out of order");
    for lease in swept.lost {
        road.outcome("w-1", &sub, lease, &Outcome::WorkerLost).await;
    }
    assert_eq!(ids(&take_all(&road, "w-1", &sub).await), ["a1"]);
    road.check().await;
}

#[tokio::test]
async fn settled_late_and_twice_passes_the_key_on_once() {
    let mut road = Road::new().await;
    let sub = ordered(&road).await;
    road.queue_as(&sub, &[("a1", keyed("aa")), ("a2", keyed("aa")), ("a3", keyed("aa"))]).await;
    let late = road.take_one("w-1", &sub).await;
    assert!(road.take("w-1", &sub).await.leases.is_empty());
    let flight = [(late.lane, vec![settlement(&sub, late, &answered(200))])];
    for _ in 0..3 {
        road.settle_lane("w-1", &flight).await;
        road.check().await;
    }
    assert_eq!(ids(&take_all(&road, "w-1", &sub).await), ["a2"]);
    road.settle_lane("w-1", &flight).await;
    assert!(take_all(&road, "w-1", &sub).await.is_empty(), "a2 is out still");
    road.check().await;
}

/// What is held can be settled from outside: an acknowledgment settles wherever the delivery lies.
#[tokio::test]
async fn what_is_held_leaves_the_line_when_it_is_settled() {
    let mut road = Road::new().await;
    let sub = ordered(&road).await;
    let at = road.queue_as(&sub, &[("a1", keyed("aa")), ("a2", keyed("aa")), ("a3", keyed("aa"))]).await;
    let first = take_all(&road, "w-1", &sub).await;
    let message = postroad_model::id::MessageId::new("a2").unwrap();
    let rows = road.store.outstanding(&sub.id, &[(Some((0, at[1])), message)]).await.unwrap().unwrap();
    let (held, place) = rows.into_iter().next().unwrap().held.unwrap();
    assert_eq!(place, "held");
    road.settle("ack", vec![put(held, Place::Settled)]).await;
    road.check().await;
    for lease in first {
        road.outcome("w-1", &sub, lease, &answered(200)).await;
    }
    assert_eq!(ids(&take_all(&road, "w-1", &sub).await), ["a3"]);
    road.check().await;
}

#[tokio::test]
async fn order_knows_no_priority() {
    let mut road = Road::new().await;
    let sub = ordered(&road).await;
    let urgent = Terms { priority: Priority::Critical, ..keyed("aa") };
    road.queue_as(&sub, &[("low", Terms { priority: Priority::Low, ..keyed("aa") }), ("urgent", urgent)])
        .await;
    let mut seen = Vec::new();
    for _ in 0..2 {
        let lease = road.take_one("w-1", &sub).await;
        seen.extend(ids(std::slice::from_ref(&lease)));
        road.outcome("w-1", &sub, lease, &answered(200)).await;
    }
    assert_eq!(seen, ["low", "urgent"]);
    road.check().await;
}

#[tokio::test]
async fn what_was_deleted_by_hand_holds_nobody_up() {
    let mut road = Road::new().await;
    for case in ["entry", "locks", "held"] {
        let sub = ordered(&road).await;
        let names = [1, 2, 3].map(|n| format!("{case}-{n}"));
        let rows = names.each_ref().map(|name| (name.as_str(), keyed("aa")));
        road.queue_as(&sub, &rows).await;
        let first = road.take_one("w-1", &sub).await;
        assert!(road.take("w-1", &sub).await.leases.is_empty());
        let key = road.work_key(&sub);
        match case {
            "entry" => road.redis(&["XDEL", &key, &first.id.to_string()]).await,
            _ => road.redis(&["DEL", &road.lane_key(&sub, &format!("{case}:{}", sub.id))]).await,
        };
        if case != "entry" {
            road.outcome("w-1", &sub, first, &answered(200)).await;
        }
        for _ in 0..3 {
            road.sweep_lease("w-1", &sub, Duration::from_secs(60), &["w-1"]).await;
        }
        let mut seen = Vec::new();
        for _ in 0..4 {
            for lease in take_all(&road, "w-1", &sub).await {
                seen.extend(ids(std::slice::from_ref(&lease)));
                road.outcome("w-1", &sub, lease, &answered(200)).await;
            }
            road.sweep_lease("w-1", &sub, Duration::from_secs(60), &["w-1"]).await;
        }
        assert_eq!(seen, names[1..], "{case}");
        road.check().await;
        road.cancel(&sub).await;
    }
}

#[tokio::test]
async fn without_order_any_more_nobody_waits_for_long() {
    let mut road = Road::new().await;
    let mut sub = ordered(&road).await;
    road.queue_as(&sub, &[("a1", keyed("aa")), ("a2", keyed("aa")), ("a3", keyed("aa"))]).await;
    let first = road.take_one("w-1", &sub).await;
    assert!(road.take("w-1", &sub).await.leases.is_empty());
    road.change(&mut sub, |sub| sub.ordered = false).await;
    road.queue_as(&sub, &[("a4", keyed("aa")), ("a5", keyed("aa"))]).await;
    assert_eq!(ids(&take_all(&road, "w-1", &sub).await), ["a4", "a5"]);
    road.outcome("w-1", &sub, first, &answered(200)).await;
    for expected in ["a2", "a3"] {
        let lease = road.take_one("w-1", &sub).await;
        assert_eq!(ids(std::slice::from_ref(&lease)), [expected]);
        road.outcome("w-1", &sub, lease, &answered(200)).await;
    }
    road.sweep_lease("w-1", &sub, Duration::from_secs(60), &["w-1"]).await;
    let field = road.redis(&["HGET", &road.sub_key(&sub), "ordered"]).await;
    assert_eq!(field.text(), None);
}

#[tokio::test]
async fn a_dead_letter_that_is_replayed_takes_its_place_in_line() {
    let mut road = Road::new().await;
    let sub = ordered(&road).await;
    road.queue_as(&sub, &[("a1", keyed("aa"))]).await;
    let lease = road.take_one("w-1", &sub).await;
    road.settle("w-1", vec![put(lease, Place::Dead(DeadReason::Rejected))]).await;
    road.queue_as(&sub, &[("a2", keyed("aa"))]).await;
    let second = road.take_one("w-1", &sub).await;
    let dead = road.store.dead_letters(&sub.id, sid("0-0"), None, 10).await.unwrap();
    let letters: Vec<_> = dead.iter().map(|letter| letter.id.entry).collect();
    road.store.replay_dead(&sub.id, "job", 100, TRACE, &letters).await.unwrap();
    assert!(take_all(&road, "w-1", &sub).await.is_empty(), "it waits behind the one that is out");
    road.check().await;
    road.outcome("w-1", &sub, second, &answered(200)).await;
    assert_eq!(ids(&take_all(&road, "w-1", &sub).await), ["a1"]);
    road.check().await;
}

/// Four workers, many keys, failures: of each key the deliveries settle in the order of acceptance.
#[tokio::test]
async fn whatever_fails_order_is_kept() {
    let mut road = Road::new().await;
    let sub = road
        .subscribe(|sub| {
            sub.ordered = true;
            sub.retry.max_retries = 100;
            sub.retry.retry_delay_ms = 0;
        })
        .await;
    let rows: Vec<(String, String)> =
        (0..300).map(|n| (format!("m{n:04}"), format!("{:02x}", n % 7))).collect();
    let table: Vec<(&str, Terms<'_>)> = rows.iter().map(|(id, key)| (id.as_str(), keyed(key))).collect();
    road.queue_as(&sub, &table).await;
    let mut settled: Vec<String> = Vec::new();
    for round in 0_usize.. {
        assert!(round < 5_000, "only {} are through", settled.len());
        if settled.len() == rows.len() {
            break;
        }
        let worker = format!("w-{}", round % 4);
        let leases = road.take_some(&worker, &sub, 1 + round % 5).await.leases;
        for (at, lease) in leases.into_iter().enumerate() {
            let fails = (round * 7 + at * 3) % 5 == 0;
            if !fails {
                settled.extend(ids(std::slice::from_ref(&lease)));
            }
            let place = if fails { Place::Later { delay_ms: 0 } } else { Place::Settled };
            road.settle(&worker, vec![put(lease, place)]).await;
        }
        road.promote(&worker, &sub).await;
    }
    for key in 0..7 {
        let of_key: Vec<&String> =
            settled.iter().filter(|id| id[1..].parse::<usize>().unwrap() % 7 == key).collect();
        assert!(of_key.is_sorted(), "{of_key:?}");
    }
    road.check().await;
}
