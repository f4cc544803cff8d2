//! pull, outstanding, extend: deliveries of a subscription that has no callback.

use std::time::Duration;

use super::kit::*;
use postroad_model::{
    delivery::{Health, Outcome, Place, judge},
    id::MessageId,
    message::Priority,
    subscription::{Status, Subscription},
};
use postroad_store::{AWAITING, Outstanding, Pulled, Settlement, StreamId, trace::Lies};

const SOON: Duration = Duration::from_secs(30);

async fn pulled(road: &Road) -> Subscription {
    road.subscribe(|sub| (sub.callback_url, sub.auto_ack) = (None, false)).await
}

async fn pull(road: &Road, sub: &Subscription, most: usize) -> Pulled {
    road.store.pull(&sub.id, most, 1 << 20, SOON, TRACE).await.unwrap()
}

async fn look(road: &Road, sub: &Subscription, id: &str, at: Option<StreamId>) -> Outstanding {
    let message = MessageId::new(id).unwrap();
    let asked = [(at.map(|at| (0, at)), message)];
    road.store.outstanding(&sub.id, &asked).await.unwrap().unwrap().remove(0)
}

#[tokio::test]
async fn what_is_pulled_awaits_its_acknowledgment() {
    let mut road = Road::new().await;
    let sub = pulled(&road).await;
    assert!(pull(&road, &sub, 10).await.leases.is_empty());
    let at = road.queue(&sub, &["a", "b", "c"]).await;
    let first = pull(&road, &sub, 2).await;
    assert_eq!((first.status.as_str(), ids(&first.leases)), ("pull", vec!["a".to_owned(), "b".to_owned()]));
    assert_eq!(road.places(&sub).await, [at_ack(2)]);
    road.check().await;
    assert_eq!(ids(&pull(&road, &sub, 10).await.leases), ["c"]);
    assert!(pull(&road, &sub, 10).await.leases.is_empty(), "all are out");
    let lies: Vec<Lies> =
        road.store.locate(0, at[0]).await.unwrap()[0].located.iter().map(|row| row.lies.clone()).collect();
    assert!(matches!(lies[..], [Lies::AwaitingAck(due)] if due > 0), "{lies:?}");
    for lease in first.leases {
        let settled = road.settle(AWAITING, vec![put(lease, Place::Settled)]).await;
        assert_eq!(settled.stale, 0);
    }
    assert_eq!(road.lying(&sub, AWAITING).await, ["c"]);
    let timers = road.texts(&["ZRANGE", &road.lane_key(&sub, "timers"), "0", "-1"]).await;
    assert_eq!(timers.len(), 1, "what was acknowledged leaves no timer: {timers:?}");
    road.check().await;
    // Nobody takes it for a worker's.
    let swept = road.sweep("w-1", &sub, &["w-1"]).await;
    assert!(swept.lost.is_empty() && swept.rearmed == 0);
}

fn at_ack(count: i64) -> (String, i64) {
    at(AWAITING, count)
}

#[tokio::test]
async fn no_token_is_made_for_it_and_its_puller_is_woken() {
    let mut road = Road::new().await;
    let sub = pulled(&road).await;
    road.queue(&sub, &["a"]).await;
    assert_eq!(road.length(&road.lane_key(&sub, "ready")).await, 0);
    assert!(road.take("w-1", &sub).await.leases.is_empty());
    road.check().await;
}

#[tokio::test]
async fn only_so_many_are_out_at_a_time() {
    let mut road = Road::new().await;
    let sub =
        road.subscribe(|sub| (sub.callback_url, sub.auto_ack, sub.prefetch_count) = (None, false, 3)).await;
    road.fill(&[&sub], 10).await;
    assert_eq!(pull(&road, &sub, 2).await.leases.len(), 2);
    let mut rest = pull(&road, &sub, 100).await.leases;
    assert_eq!(rest.len(), 1);
    road.settle(AWAITING, vec![put(rest.remove(0), Place::Settled)]).await;
    assert_eq!(pull(&road, &sub, 100).await.leases.len(), 1);
    // By bytes, but always one.
    let few = road.store.pull(&sub.id, 100, 1, SOON, TRACE).await.unwrap();
    assert!(few.leases.is_empty(), "no credit");
    road.check().await;
}

#[tokio::test]
async fn bytes_bound_it_and_one_always_comes() {
    let mut road = Road::new().await;
    let sub = pulled(&road).await;
    road.fill(&[&sub], 10).await;
    let size = usize::try_from(road.state(&sub).await.queued).unwrap();
    assert_eq!(size, 10);
    assert_eq!(road.store.pull(&sub.id, 100, 1, SOON, TRACE).await.unwrap().leases.len(), 1);
    road.check().await;
}

#[tokio::test]
async fn who_is_paused_unknown_or_pushed_to_gets_nothing() {
    let mut road = Road::new().await;
    let mut sub = pulled(&road).await;
    road.queue(&sub, &["a"]).await;
    road.change(&mut sub, |sub| sub.status = Status::Paused).await;
    assert_eq!(
        (pull(&road, &sub, 1).await.status.as_str(), pull(&road, &sub, 1).await.leases.len()),
        ("paused", 0)
    );
    road.change(&mut sub, |sub| sub.status = Status::Active).await;
    assert_eq!(pull(&road, &sub, 1).await.leases.len(), 1);
    let pushed = road.subscribe(|_| {}).await;
    assert_eq!(pull(&road, &pushed, 1).await.status, "active");
    road.cancel(&sub).await;
    assert_eq!(pull(&road, &sub, 1).await.status, "cancelled");
    let asked = [(None, MessageId::new("a").unwrap())];
    assert!(road.store.outstanding(&sub.id, &asked).await.unwrap().is_none());
    assert_eq!(pull(&road, &subscription(), 1).await.status, "");
    road.check().await;
}

#[tokio::test]
async fn an_acknowledgment_that_does_not_come_is_missed_once() {
    let mut road = Road::new().await;
    let sub = pulled(&road).await;
    road.queue(&sub, &["a"]).await;
    let lease = pull(&road, &sub, 1).await.leases.remove(0);
    let mut missed = road.promote_early("w-1", &sub).await.missed;
    assert_eq!(ids(&missed), ["a"]);
    let verdict = judge(&sub.retry, false, missed[0].tries.progress, &Outcome::AckMissed, 0.0);
    let missed = Settlement { verdict, ..put(missed.remove(0), Place::Again) };
    road.settle("w-1", vec![missed]).await;
    // Whoever had it says no too late.
    let settled = road.settle(AWAITING, vec![put(lease, Place::Again)]).await;
    assert_eq!(settled.stale, 1);
    road.promote_early("w-1", &sub).await;
    let again = pull(&road, &sub, 1).await.leases.remove(0);
    assert_eq!(again.tries.progress.attempts, 1);
    road.check().await;
}

#[tokio::test]
async fn more_time_can_be_had_while_it_is_awaited() {
    let mut road = Road::new().await;
    let sub = pulled(&road).await;
    road.queue(&sub, &["a", "b"]).await;
    let leases = pull(&road, &sub, 1).await.leases;
    let of = [(leases[0].rank, leases[0].id), (1, sid("7-7"))];
    assert_eq!(road.store.extend(&sub.id, Duration::from_secs(600), &of).await.unwrap(), [true, false]);
    let timers = road.texts(&["ZRANGE", &road.lane_key(&sub, "timers"), "0", "-1", "WITHSCORES"]).await;
    let due: u64 = timers[1].parse().unwrap();
    assert!(due > road.now().await + 590_000);
    road.settle(AWAITING, leases.into_iter().map(|lease| put(lease, Place::Settled)).collect()).await;
    assert_eq!(road.store.extend(&sub.id, SOON, &of).await.unwrap(), [false, false]);
    road.check().await;
}

#[tokio::test]
async fn a_delivery_is_found_wherever_it_lies() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    let at = road.queue(&sub, &["a"]).await[0];
    let found = look(&road, &sub, "a", Some(at)).await;
    assert_eq!((found.lies, found.held.unwrap().1.as_str()), (Lies::Waiting, "waiting"));
    let lease = road.take_one("w-1", &sub).await;
    let found = look(&road, &sub, "a", Some(at)).await;
    let (held, place) = found.held.unwrap();
    assert_eq!((place.as_str(), held.number, held.id), ("w-1", lease.number, lease.id));
    assert_eq!(held.entry, lease.entry);
    for (place, name) in [
        (Place::Later { delay_ms: 60_000 }, "later"),
        (Place::AwaitingAck, AWAITING),
        (Place::Again, "again"),
    ] {
        let lease = match look(&road, &sub, "a", Some(at)).await.held.unwrap() {
            (lease, holder) if holder == "w-1" => lease,
            _ => {
                road.promote_early("w-2", &sub).await;
                let missed = look(&road, &sub, "a", Some(at)).await.held.unwrap();
                if missed.1 == "again" {
                    road.take_one("w-1", &sub).await
                } else {
                    road.settle(&missed.1, vec![put(missed.0, Place::Again)]).await;
                    road.take_one("w-1", &sub).await
                }
            }
        };
        road.settle("w-1", vec![put(lease, place)]).await;
        let found = look(&road, &sub, "a", Some(at)).await;
        assert_eq!(found.held.unwrap().1, name);
    }
    let lease = road.take_one("w-1", &sub).await;
    road.outcome("w-1", &sub, lease, &answered(200)).await;
    let found = look(&road, &sub, "a", Some(at)).await;
    assert!(found.lies == Lies::Gone && found.held.is_none() && !found.trace.lines.is_empty());
    road.check().await;
}

#[tokio::test]
async fn one_without_a_history_is_found_by_what_it_says() {
    let mut road = Road::new().await;
    let sub = pulled(&road).await;
    road.accept_all(0, vec![acceptance("x", Priority::Normal), acceptance("y", Priority::Normal)])
        .await
        .unwrap();
    let entries = road.store.history(0, StreamId::ZERO, END, 10).await.unwrap();
    let placed = entries
        .iter()
        .map(|entry| postroad_store::Placed { keep: false, ..place(entry, &[&sub.id], Priority::Normal) })
        .collect();
    road.send(LAYOUT.lane_of(&sub.id), 0, entries[1].id, placed).await;
    pull(&road, &sub, 10).await;
    let found = look(&road, &sub, "y", None).await;
    let (lease, place) = found.held.unwrap();
    assert_eq!((place.as_str(), ids(std::slice::from_ref(&lease))), (AWAITING, vec!["y".to_owned()]));
    assert!(look(&road, &sub, "z", None).await.held.is_none());
    let verdict =
        postroad_model::delivery::Verdict { health: Health::Good, ..put(lease, Place::Settled).verdict };
    assert_eq!(verdict.health, Health::Good);
    road.check().await;
}

#[tokio::test]
async fn order_and_rate_hold_for_pullers_too() {
    let mut road = Road::new().await;
    let sub = road
        .subscribe(|sub| {
            (sub.callback_url, sub.auto_ack, sub.ordered, sub.rate_limit) = (None, false, true, Some(1));
        })
        .await;
    road.queue_as(&sub, &[("a1", keyed("aa")), ("a2", keyed("aa")), ("b1", keyed("bb"))]).await;
    let first = pull(&road, &sub, 10).await;
    assert_eq!(ids(&first.leases), ["a1"]);
    let second = pull(&road, &sub, 10).await;
    assert!(second.leases.is_empty() && second.wait.unwrap() <= Duration::from_millis(1_001), "{second:?}");
    road.check().await;
    road.redis(&["HSET", &road.sub_key(&sub), "tat", "0"]).await;
    assert_eq!(ids(&pull(&road, &sub, 2).await.leases), ["b1"], "a2 is held, and passed by");
    assert_eq!(road.lying(&sub, "held").await, ["a2"]);
    road.check().await;
}

#[tokio::test]
async fn what_outlived_its_history_can_be_acknowledged() {
    let mut road = Road::new().await;
    let sub = pulled(&road).await;
    let at = road.queue(&sub, &["a"]).await;
    for key in road.texts(&["KEYS", "*trace:*"]).await {
        road.redis(&["DEL", &key]).await;
    }
    assert_eq!(pull(&road, &sub, 10).await.leases.len(), 1);
    for asked in [Some(at[0]), None] {
        let (lease, place) = look(&road, &sub, "a", asked).await.held.unwrap();
        assert_eq!((place.as_str(), ids(&[lease])), (AWAITING, vec!["a".to_owned()]));
    }
}

#[tokio::test]
async fn one_without_a_history_is_found_behind_a_long_queue() {
    let mut road = Road::new().await;
    let sub = pulled(&road).await;
    road.fill(&[&sub], 1).await;
    assert_eq!(pull(&road, &sub, 1).await.leases.len(), 1);
    let many: Vec<String> = (0..3_000).map(|n| format!("m{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    road.queue_ranked(&sub, &many, Priority::High).await;
    assert_eq!(look(&road, &sub, "filled", None).await.lies, Lies::AwaitingAck(0));
    // Of what is with nobody no one could speak.
    assert_eq!(look(&road, &sub, "m2999", None).await.lies, Lies::Gone);
}

#[tokio::test]
async fn an_acknowledgment_means_the_copy_that_was_handed_out() {
    let mut road = Road::new().await;
    let sub = pulled(&road).await;
    let at = road.queue(&sub, &["a"]).await;
    assert_eq!(pull(&road, &sub, 10).await.leases.len(), 1);
    // A replay: an entry of ingress that goes on with the first one's trace.
    let first = road.store.history(0, StreamId::ZERO, END, 10).await.unwrap().remove(0);
    let id = StreamId { ms: at[0].ms + 1, seq: 0 };
    let copy = postroad_store::entry::Accepted { id, first: Some(at[0]), ..first };
    let placed = vec![place(&copy, &[&sub.id], Priority::Normal)];
    let link = postroad_store::ChainLink { partition: 0, prev: at[0], last: id, entries: placed };
    road.enqueue(LAYOUT.lane_of(&sub.id), link).await.unwrap();
    assert_eq!(road.lying(&sub, "waiting").await, ["a"]);
    assert_eq!(look(&road, &sub, "a", Some(at[0])).await.lies, Lies::AwaitingAck(0));
}

#[tokio::test]
async fn what_has_expired_is_not_handed_out() {
    let mut road = Road::new().await;
    let sub = pulled(&road).await;
    let brief = Terms { lives_ms: Some(1), ..Terms::default() };
    road.queue_as(&sub, &[("a", brief), ("b", Terms::default())]).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    let got = pull(&road, &sub, 1).await;
    assert_eq!((ids(&got.leases), got.dead.len()), (vec!["b".to_owned()], 1));
    assert_eq!(road.dead(&sub).await, [("a".to_owned(), "expired".to_owned())]);
    road.check().await;
}

#[tokio::test]
async fn one_look_passes_by_so_many_and_no_more() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|sub| (sub.callback_url, sub.auto_ack, sub.ordered) = (None, false, true)).await;
    let names: Vec<String> = (0..1_000).map(|n| format!("m{n}")).collect();
    let rows: Vec<_> = names.iter().map(|name| (name.as_str(), keyed("aa"))).collect();
    road.queue_as(&sub, &rows).await;
    assert_eq!(ids(&pull(&road, &sub, 100).await.leases), ["m0"]);
    let held = road.lying(&sub, "held").await.len();
    assert!((256..256 + 64).contains(&held), "{held}");
    road.check().await;
}
