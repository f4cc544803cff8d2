//! replay and purge: dead letters back into their queue, or gone.

use std::collections::BTreeSet;

use super::kit::*;
use postroad_model::{
    delivery::{DeadReason, Place},
    subscription::Subscription,
};
use postroad_store::{DeadLetter, DeadLetterId, LaneLimits, ReplayState, Replayed, StreamId, trace::Line};

const REJECTED: Place = Place::Dead(DeadReason::Rejected);

/// A subscription with so many dead letters.
async fn buried(road: &mut Road, count: usize) -> (Subscription, Vec<StreamId>) {
    let sub = road.subscribe(|sub| sub.prefetch_count = 1_000).await;
    let names: Vec<String> = (0..count).map(|n| format!("d{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    // Ids of messages that were used before are not accepted again.
    road.redis(&[
        "EVAL",
        "for _, k in ipairs(redis.call('KEYS', '*ids:*')) do redis.call('DEL', k) end",
        "0",
    ])
    .await;
    road.queue(&sub, &names).await;
    let leases = road.take_some("w-1", &sub, count).await.leases;
    road.settle("w-1", leases.into_iter().map(|lease| put(lease, REJECTED)).collect()).await;
    let entries = letters(road, &sub).await.iter().map(|letter| letter.id.entry).collect();
    (sub, entries)
}

async fn letters(road: &Road, sub: &Subscription) -> Vec<DeadLetter> {
    road.store.dead_letters(&sub.id, StreamId::ZERO, None, 10_000).await.unwrap()
}

async fn replay(road: &Road, sub: &Subscription, bound: u64, entries: &[StreamId]) -> Replayed {
    road.store.replay_dead(&sub.id, "job_1", bound, TRACE, entries).await.unwrap()
}

fn done(moved: u64) -> Replayed {
    Replayed { moved, state: ReplayState::Done }
}

#[tokio::test]
async fn a_replay_goes_on_where_it_was_and_counts_once() {
    let mut road = Road::new().await;
    let (sub, entries) = buried(&mut road, 5).await;
    assert_eq!(replay(&road, &sub, 100, &entries[..2]).await, done(2));
    road.check().await;
    // Killed before it knew: the same again, and the rest.
    assert_eq!(replay(&road, &sub, 100, &entries[..3]).await, done(1));
    assert_eq!(replay(&road, &sub, 100, &entries).await, done(2));
    assert_eq!(replay(&road, &sub, 100, &entries).await, done(0));
    assert_eq!(replay(&road, &sub, 100, &[]).await, done(0));
    assert_eq!(road.store.job_moved("job_1").await.unwrap(), 5);
    assert!(road.store.dead_subscriptions().await.unwrap().is_empty());
    road.check().await;
    let leases = road.take("w-1", &sub).await.leases;
    let names: Vec<String> =
        leases.iter().map(|lease| lease.entry.decode().unwrap().id.to_string()).collect();
    assert_eq!(names, ["d0", "d1", "d2", "d3", "d4"]);
    assert!(leases.iter().all(|lease| lease.tries.is_empty() && lease.number == 1));
    road.store.forget_job_counts("job_1").await.unwrap();
    assert_eq!(road.store.job_moved("job_1").await.unwrap(), 0);
}

#[tokio::test]
async fn a_replay_stands_in_the_trace() {
    let mut road = Road::new().await;
    let (sub, entries) = buried(&mut road, 1).await;
    let reference = letters(&road, &sub).await.remove(0);
    replay(&road, &sub, 100, &entries).await;
    let lease = road.take_one("w-1", &sub).await;
    let at_ingress: StreamId = lease.reference.strip_prefix("0:").unwrap().parse().unwrap();
    let trace = road.store.locate(0, at_ingress).await.unwrap().remove(0);
    assert!(trace.lines.iter().any(|line| matches!(line, Line::Replayed { job, .. } if job == "job_1")));
    assert_eq!(trace.located.len(), 2, "once per time that it was queued; the last one counts");
    assert_eq!(lease.accepted_ms, reference.accepted_ms);
}

#[tokio::test]
async fn a_queue_takes_as_much_as_it_may_hold() {
    let mut road = Road::new().await;
    let (sub, entries) = buried(&mut road, 6).await;
    let full = |moved| Replayed { moved, state: ReplayState::Full };
    assert_eq!(replay(&road, &sub, 2, &entries).await, full(2));
    assert_eq!(replay(&road, &sub, 2, &entries).await, full(0));
    road.redis(&["HSET", &road.sub_key(&sub), "max_entries", "3"]).await;
    assert_eq!(replay(&road, &sub, 100, &entries).await, full(1), "the queue's own bound counts too");
    road.redis(&["HSET", &road.sub_key(&sub), "max_entries", "100"]).await;
    let bytes = road.number(&["HGET", &road.sub_key(&sub), "bytes"]).await;
    let room = (bytes / 3 * 4 + 10).to_string();
    road.redis(&["HSET", &road.sub_key(&sub), "max_bytes", &room]).await;
    assert_eq!(replay(&road, &sub, 100, &entries).await, full(1));
    road.check().await;
    // However small the bound, an empty queue takes one.
    for lease in road.take("w-1", &sub).await.leases {
        road.settle("w-1", vec![put(lease, Place::Settled)]).await;
    }
    road.redis(&["HSET", &road.sub_key(&sub), "max_bytes", "1"]).await;
    assert_eq!(replay(&road, &sub, 100, &entries).await, full(1));
    road.check().await;
}

#[tokio::test]
async fn who_is_gone_or_unknown_gets_nothing_back() {
    let mut road = Road::new().await;
    let (sub, entries) = buried(&mut road, 2).await;
    road.redis(&["DEL", &road.sub_key(&sub)]).await;
    let unknown = Replayed { moved: 0, state: ReplayState::Unknown };
    assert_eq!(replay(&road, &sub, 100, &entries).await, unknown);
    assert_eq!(letters(&road, &sub).await.len(), 2);
    let there = road.store.subscription(&sub.id).await.unwrap().unwrap();
    road.store.apply(&sub, there.change, LaneLimits::default()).await.unwrap();
    assert_eq!(replay(&road, &sub, 100, &entries[..1]).await, done(1));
    road.cancel(&sub).await;
    let gone = Replayed { moved: 0, state: ReplayState::Gone };
    assert_eq!(replay(&road, &sub, 100, &entries).await, gone);
    assert!(letters(&road, &sub).await.is_empty());
}

/// Only the runner that opened the lane last moves anything.
#[tokio::test]
async fn a_runner_that_was_overtaken_moves_nothing() {
    let mut road = Road::new().await;
    let (sub, entries) = buried(&mut road, 4).await;
    let by = async |name: &str, entries: &[StreamId]| {
        road.store.replay_dead(&sub.id, name, 100, TRACE, entries).await.unwrap()
    };
    let lost = Replayed { moved: 0, state: ReplayState::Lost };
    assert_eq!(by("job_1@1", &entries).await, lost, "nobody opened the lane");
    assert_eq!(road.store.open_job("job_1@1").await.unwrap(), 0);
    assert_eq!(by("job_1@1", &entries[..1]).await, done(1));
    assert_eq!(road.store.open_job("job_1@2").await.unwrap(), 1, "what the one before moved is known");
    assert_eq!(by("job_1@1", &entries).await, lost);
    assert_eq!(road.store.open_job("job_1@1").await.unwrap(), 1, "too late");
    assert_eq!(by("job_1@1", &entries).await, lost);
    assert_eq!(by("job_1@2", &entries[..3]).await, done(2));
    assert_eq!(road.store.open_job("job_1@10").await.unwrap(), 3, "epochs are numbers");
    assert_eq!(by("job_1@2", &entries).await, lost);
    assert_eq!(by("job_1@10", &entries).await, done(1));
    assert_eq!(road.store.job_moved("job_1").await.unwrap(), 4);
    road.check().await;
}

#[tokio::test]
async fn junk_among_dead_letters_is_shown_and_goes_where_it_can() {
    let mut road = Road::new().await;
    let (sub, _) = buried(&mut road, 1).await;
    let key = road.lane_key(&sub, &format!("dead:{}", sub.id));
    for fields in [
        ["what", "is this", "rank", "9"],
        ["m", "no entry", "rank", "../x"],
        ["m", "", "reason", "moonlight"],
        ["rank", "3", "tries", "junk"],
    ] {
        road.redis(&[&["XADD", key.as_str(), "*"][..], &fields].concat()).await;
    }
    let all = letters(&road, &sub).await;
    assert_eq!(all.len(), 5);
    assert_eq!(all[1].strange, [(b"what".to_vec(), "is this".into())]);
    assert_eq!((all[3].reason, all[4].tries.is_empty(), all[4].died_ms), (None, true, 0));
    let entries: Vec<StreamId> = all.iter().map(|letter| letter.id.entry).collect();
    assert_eq!(replay(&road, &sub, 100, &entries).await, done(5));
    road.check().await;
    let leases = road.take("w-1", &sub).await.leases;
    let ranks: BTreeSet<u8> = leases.iter().map(|lease| lease.rank).collect();
    assert_eq!((leases.len(), ranks), (5, [1, 3].into()));
}

#[tokio::test]
async fn purging_takes_what_is_named() {
    let mut road = Road::new().await;
    let (sub, entries) = buried(&mut road, 4).await;
    let purge = async |entries: &[StreamId]| road.store.purge_dead(&sub.id, entries).await.unwrap();
    assert_eq!(purge(&[]).await, 0);
    assert_eq!(purge(&[sid("1-1"), entries[1]]).await, 1);
    assert_eq!(purge(&[entries[1]]).await, 0);
    assert_eq!(letters(&road, &sub).await.len(), 3);
    road.check().await;
    assert_eq!(purge(&entries).await, 3);
    road.check().await;
    assert!(road.store.dead_queues().await.unwrap().is_empty());
    assert_eq!(replay(&road, &sub, 100, &entries).await, done(0));
    let nobody = subscription();
    assert_eq!(road.store.purge_dead(&nobody.id, &entries).await.unwrap(), 0);
    road.check().await;
}

#[tokio::test]
async fn dead_letters_are_paged_both_ways() {
    let mut road = Road::new().await;
    let (sub, entries) = buried(&mut road, 5).await;
    let (other, _) = buried(&mut road, 2).await;
    let store = &road.store;
    let ids =
        |letters: Vec<DeadLetter>| letters.into_iter().map(|letter| letter.id.entry).collect::<Vec<_>>();
    let page = store.dead_letters(&sub.id, entries[0], Some(entries[3]), 2).await.unwrap();
    assert_eq!(ids(page), entries[1..3]);
    let page = store.newest_dead_letters(&sub.id, None, 2).await.unwrap();
    assert_eq!(ids(page), [entries[4], entries[3]]);
    let page = store.newest_dead_letters(&sub.id, Some(entries[1]), 9).await.unwrap();
    assert_eq!(ids(page), [entries[0]]);
    let id = DeadLetterId { subscription: sub.id.clone(), entry: entries[2] };
    let letter = store.dead_letter(&id).await.unwrap().unwrap();
    assert_eq!((letter.id.clone(), letter.reason), (id.clone(), Some(DeadReason::Rejected)));
    assert!(letter.died_ms > 0 && letter.strange.is_empty());
    assert!(store.dead_letter(&DeadLetterId { entry: sid("1-1"), ..id }).await.unwrap().is_none());
    let nobody = subscription();
    assert_eq!(
        store.count_dead(&[sub.id.clone(), nobody.id.clone(), other.id.clone()]).await.unwrap(),
        [5, 0, 2]
    );
    let queues = store.dead_queues().await.unwrap();
    assert_eq!(queues.len(), 2);
    let queue = queues.iter().find(|queue| queue.subscription == sub.id).unwrap();
    assert_eq!((queue.count, queue.newest), (5, entries[4]));
    assert!(queue.oldest_ms <= queue.newest_ms && queue.oldest_ms > 0);
    assert!(store.dead_queues_of(&[nobody.id]).await.unwrap().is_empty());
}

/// At its bound the oldest dead letter goes, and is counted.
#[tokio::test]
async fn dead_letters_have_a_bound() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    let key = road.lane_key(&sub, &format!("dead:{}", sub.id));
    let fill = "for n = 1, 100000 do redis.call('XADD', KEYS[1], '1-' .. n, 'm', '') end";
    road.redis(&["EVAL", fill, "1", &key]).await;
    road.queue(&sub, &["a", "b"]).await;
    let leases = road.take("w-1", &sub).await.leases;
    road.settle("w-1", leases.into_iter().map(|lease| put(lease, REJECTED)).collect()).await;
    assert_eq!(road.length(&key).await, 100_000);
    assert_eq!(road.number(&["HGET", &road.sub_key(&sub), "dead_dropped"]).await, 2);
    let newest = road.store.newest_dead_letters(&sub.id, None, 1).await.unwrap().remove(0);
    assert_eq!(newest.entry.decode().unwrap().id.as_str(), "b");
}
