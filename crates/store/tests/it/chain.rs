//! enqueue: the chain of marks, and what goes into the queues with it.

use std::collections::BTreeMap;

use super::kit::*;
use postroad_model::{
    delivery::DeadReason,
    id::SubscriptionId,
    message::Priority,
    subscription::{Status, Subscription},
};
use postroad_store::{
    ChainLink, LaneLimits, Linked, Placed, StoreError, StreamId,
    entry::{Accepted, Entry},
    trace::Lies,
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

/// An entry of ingress with this id.
fn entry(id: StreamId) -> Accepted {
    let entry = Entry::encode(&message(&format!("m-{id}"), Priority::Normal), usize::MAX);
    Accepted { id, accepted_ms: 7, entry, first: None }
}

fn entries(ids: &[&str]) -> Vec<Accepted> {
    ids.iter().map(|id| entry(sid(id))).collect()
}

fn link<'a>(prev: &str, last: &str, entries: &'a [Accepted], to: &[&SubscriptionId]) -> ChainLink<'a> {
    let entries = entries.iter().map(|accepted| place(accepted, to, Priority::Normal)).collect();
    ChainLink { partition: 0, prev: sid(prev), last: sid(last), entries }
}

/// The references of what lies in a queue, in order.
async fn queued(road: &Road, sub: &Subscription) -> Vec<String> {
    let rows = road.redis(&["XRANGE", &road.work_key(sub), "-", "+"]).await;
    rows.items().iter().map(|row| row.items()[1].items()[5].text().unwrap()).collect()
}

async fn mark(road: &Road, sub: &Subscription) -> Option<String> {
    road.redis(&["HGET", &road.lane_key(sub, "marks"), "0"]).await.text()
}

/// Prev, last, the ids in between; the answer; the mark and the queue after it.
type Step =
    (&'static str, &'static str, &'static [&'static str], Linked, &'static str, &'static [&'static str]);

#[tokio::test]
async fn links_in_every_order() {
    let gap = |id: &str| Linked::Gap(sid(id));
    let steps: &[Step] = &[
        ("4-0", "5-0", &["5-0"], gap("0-0"), "", &[]),
        ("0-0", "0-0", &[], Linked::Duplicate, "", &[]),
        ("0-0", "2-0", &["1-0", "2-0"], Linked::Ok, "2-0", &["1-0", "2-0"]),
        ("0-0", "2-0", &["1-0", "2-0"], Linked::Duplicate, "2-0", &["1-0", "2-0"]),
        ("2-0", "2-0", &[], Linked::Duplicate, "2-0", &["1-0", "2-0"]),
        ("2-1", "2-1", &[], gap("2-0"), "2-0", &["1-0", "2-0"]),
        ("3-0", "9-0", &["9-0"], gap("2-0"), "2-0", &["1-0", "2-0"]),
        // A link that overlaps adds what is new.
        ("1-0", "4-0", &["2-0", "3-0"], Linked::Ok, "4-0", &["1-0", "2-0", "3-0"]),
        // Nothing matched, and the lane is told how far it is.
        ("4-0", "8-0", &[], Linked::Ok, "8-0", &["1-0", "2-0", "3-0"]),
        ("4-0", "6-0", &["5-0", "6-0"], Linked::Duplicate, "8-0", &["1-0", "2-0", "3-0"]),
        // Ids are numbers, not texts.
        ("8-0", "8-9", &["8-9"], Linked::Ok, "8-9", &["1-0", "2-0", "3-0", "8-9"]),
        ("8-9", "8-10", &["8-10"], Linked::Ok, "8-10", &["1-0", "2-0", "3-0", "8-9", "8-10"]),
        ("8-9", "8-9", &[], Linked::Duplicate, "8-10", &["1-0", "2-0", "3-0", "8-9", "8-10"]),
        ("8-10", "10-0", &["10-0"], Linked::Ok, "10-0", &["1-0", "2-0", "3-0", "8-9", "8-10", "10-0"]),
        ("9-0", "9-9", &["9-9"], Linked::Duplicate, "10-0", &["1-0", "2-0", "3-0", "8-9", "8-10", "10-0"]),
    ];
    let road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    let lane = LAYOUT.lane_of(&sub.id);
    for (at, (prev, last, ids, answer, mark_after, after)) in steps.iter().enumerate() {
        let entries = entries(ids);
        let reply = road.enqueue(lane, link(prev, last, &entries, &[&sub.id])).await.unwrap();
        assert_eq!(reply.links, [*answer], "step {at}");
        assert_eq!(mark(&road, &sub).await.unwrap_or_default(), *mark_after, "step {at}");
        let expected: Vec<String> = after.iter().map(|id| format!("0:{id}")).collect();
        assert_eq!(queued(&road, &sub).await, expected, "step {at}");
        road.check().await;
    }
}

#[tokio::test]
async fn each_partition_has_its_chain_and_a_flight_is_answered_link_by_link() {
    let road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    let lane = LAYOUT.lane_of(&sub.id);
    let some = entries(&["1-0", "2-0"]);
    let in_partition = |partition, prev, last| ChainLink { partition, ..link(prev, last, &some, &[&sub.id]) };
    let links = vec![
        in_partition(3, "0-0", "2-0"),
        in_partition(4, "1-0", "2-0"),
        in_partition(3, "0-0", "2-0"),
        in_partition(5, "0-0", "2-0"),
    ];
    let reply = road.store.enqueue(&[(lane, links)], TRACE).await.unwrap().remove(0).unwrap();
    let gap = Linked::Gap(StreamId::ZERO);
    assert_eq!(reply.links, [Linked::Ok, gap, Linked::Duplicate, Linked::Ok]);
    assert_eq!(queued(&road, &sub).await, ["3:1-0", "3:2-0", "5:1-0", "5:2-0"]);
    let marks = road.texts(&["HGETALL", &road.lane_key(&sub, "marks")]).await;
    assert_eq!(marks.len(), 4, "{marks:?}");
    assert!(road.store.enqueue(&[], TRACE).await.unwrap().is_empty());
    let reply = road.store.enqueue(&[(lane, vec![])], TRACE).await.unwrap().remove(0).unwrap();
    assert_eq!(reply, postroad_store::Enqueued::default());
}

#[tokio::test]
async fn an_entry_goes_to_each_of_its_subscriptions_by_its_rank() {
    let road = Road::new().await;
    let (a, b) = (road.subscribe_in(0, |_| {}).await, road.subscribe_in(0, |_| {}).await);
    let some = entries(&["1-0", "2-0", "3-0"]);
    let placed = vec![
        place(&some[0], &[&a.id, &b.id], Priority::Normal),
        place(&some[1], &[&b.id], Priority::Critical),
        Placed { keep: false, ..place(&some[2], &[&a.id], Priority::Low) },
    ];
    let link = ChainLink { partition: 0, prev: StreamId::ZERO, last: sid("3-0"), entries: placed };
    road.enqueue(0, link).await.unwrap();
    let lengths = async |sub: &Subscription| {
        let mut lengths = Vec::new();
        for rank in 0..4 {
            lengths.push(road.length(&road.lane_key(sub, &format!("work:{}:{rank}", sub.id))).await);
        }
        lengths
    };
    let rank = |priority: Priority| usize::from(priority.rank());
    let (of_a, of_b) = (lengths(&a).await, lengths(&b).await);
    assert_eq!((of_a[rank(Priority::Normal)], of_a[rank(Priority::Low)]), (1, 1));
    assert_eq!((of_b[rank(Priority::Normal)], of_b[rank(Priority::Critical)]), (1, 1));
    assert_eq!(of_a.iter().sum::<i64>() + of_b.iter().sum::<i64>(), 4);
    let ranks = road.redis(&["HGET", &road.sub_key(&b), "ranks"]).await.text().unwrap();
    assert_eq!(
        ranks,
        format!("{}{}", Priority::Critical.rank(), Priority::Normal.rank()),
        "the urgent first"
    );

    let traces = road.store.locate(0, sid("1-0")).await.unwrap();
    assert_eq!(traces[0].located.len(), 2);
    assert!(traces[0].located.iter().all(|located| located.lies == Lies::Waiting));
    let left = road.number(&["PTTL", &road.lane_key(&a, "trace:0:1-0")]).await;
    assert!(left > 0 && left <= i64::try_from(TRACE).unwrap());
    assert!(road.store.locate(0, sid("3-0")).await.unwrap().is_empty(), "without a history");
    assert!(road.store.locate(0, sid("9-0")).await.unwrap().is_empty());
    assert_eq!(road.length(&road.lane_key(&a, "ready")).await, 2, "a token each");
    road.check().await;
}

#[tokio::test]
async fn a_subscription_that_the_lane_does_not_know_waits_for_its_settings() {
    let road = Road::new().await;
    let sub = subscription();
    let lane = LAYOUT.lane_of(&sub.id);
    let some = entries(&["1-0"]);
    for (prev, last) in [("0-0", "1-0"), ("1-0", "2-0")] {
        let some = entries(&[last]);
        let reply = road.enqueue(lane, link(prev, last, &some, &[&sub.id])).await.unwrap();
        assert_eq!(
            (reply.links.as_slice(), reply.unknown),
            ([Linked::Ok].as_slice(), vec![sub.id.to_string()])
        );
    }
    drop(some);
    assert!(road.take("w-1", &sub).await.leases.is_empty());
    assert!(road.store.apply(&sub, sid("5-0"), LaneLimits::default()).await.unwrap());
    assert_eq!(road.take("w-1", &sub).await.leases.len(), 2);
    road.check().await;
}

#[tokio::test]
async fn what_is_paused_fills_and_what_is_cancelled_does_not() {
    let mut road = Road::new().await;
    let mut paused = road.subscribe_in(0, |_| {}).await;
    let cancelled = road.subscribe_in(0, |_| {}).await;
    road.change(&mut paused, |sub| sub.status = Status::Paused).await;
    road.cancel(&cancelled).await;
    road.fill(&[&paused, &cancelled], 3).await;
    assert_eq!((road.state(&paused).await.queued, road.state(&cancelled).await.queued), (3, 0));
    assert_eq!(road.length(&road.lane_key(&paused, "ready")).await, 0);
    assert_eq!(road.number(&["EXISTS", &road.work_key(&cancelled)]).await, 0);
    road.check().await;
}

/// A full queue's messages go to the dead letters, and those of others do not wait for it.
#[tokio::test]
async fn a_full_queue_buries_what_comes_above_its_bounds() {
    let road = Road::new().await;
    let other = road.subscribe_in(0, |_| {}).await;
    let some = entries(&["1-0", "2-0", "3-0"]);
    let size = u64::try_from(some[0].entry.size()).unwrap();
    let bounds = [
        LaneLimits { entries: 2, bytes: u64::MAX },
        LaneLimits { entries: u64::MAX, bytes: 2 * size + size / 2 },
    ];
    for (partition, bound) in [0_u16, 1].into_iter().zip(bounds) {
        let mut sub = subscription();
        while LAYOUT.lane_of(&sub.id) != 0 {
            sub = subscription();
        }
        road.store.put_subscription(&sub, None, 100, bound).await.unwrap();
        let to = [&sub.id, &other.id];
        let chain = ChainLink { partition, ..link("0-0", "3-0", &some, &to) };
        assert_eq!(road.enqueue(0, chain.clone()).await.unwrap().links, [Linked::Ok]);
        assert_eq!(road.enqueue(0, chain).await.unwrap().links, [Linked::Duplicate]);
        let state = road.state(&sub).await;
        assert_eq!((state.queued, state.dead), (2, 1), "{bound:?}");
        let dead = road.store.dead_letters(&sub.id, StreamId::ZERO, None, 10).await.unwrap().remove(0);
        assert_eq!(dead.reason, Some(DeadReason::QueueFull));
        assert_eq!(dead.entry.decode().unwrap().id.as_str(), "m-3-0");
        assert_eq!((dead.accepted_ms, dead.tries.is_empty()), (7, true));
        let trace = road.store.locate(partition, sid("3-0")).await.unwrap().remove(0);
        assert_eq!(trace.dead_reason(sub.id.as_str()), Some(DeadReason::QueueFull));
        assert_eq!(trace.located.len(), 1, "the other one's delivery");
    }
    assert_eq!(road.state(&other).await.queued, 6);
    road.check().await;
}

/// A key of another type where a queue should lie costs that queue its entries, and says so. It must neither
/// stop the lane nor double what others get when the flight is sent again.
#[tokio::test]
async fn a_broken_queue_breaks_no_other() {
    let road = Road::new().await;
    let (sub, other) = (road.subscribe_in(0, |_| {}).await, road.subscribe_in(0, |_| {}).await);
    let to = [&other.id, &sub.id];
    road.redis(&["SET", &road.work_key(&sub), "junk"]).await;
    for (prev, last) in [("0-0", "1-0"), ("1-0", "2-0")] {
        let some = entries(&[last]);
        let reply = road.enqueue(0, link(prev, last, &some, &to)).await.unwrap();
        assert_eq!((reply.links, reply.broken), (vec![Linked::Ok], vec![road.work_key(&sub)]), "{last}");
    }
    assert_eq!(queued(&road, &other).await, ["0:1-0", "0:2-0"]);
    assert_eq!(road.take("w-1", &other).await.leases.len(), 2);

    // The same for dead letters.
    road.redis(&["DEL", &road.work_key(&sub)]).await;
    road.redis(&["HSET", &road.sub_key(&sub), "max_entries", "0"]).await;
    let dead = road.lane_key(&sub, &format!("dead:{}", sub.id));
    road.redis(&["SET", &dead, "junk"]).await;
    let some = entries(&["3-0"]);
    let reply = road.enqueue(0, link("2-0", "3-0", &some, &to)).await.unwrap();
    assert_eq!((reply.links, reply.broken), (vec![Linked::Ok], vec![dead]));
    assert_eq!(queued(&road, &other).await.len(), 3);
}

#[tokio::test]
async fn marks_are_read_for_whom_they_are_asked() {
    let mut road = Road::new().await;
    let (a, b) = (road.subscribe_in(0, |_| {}).await, road.subscribe_in(1, |_| {}).await);
    road.fill(&[&a], 3).await;
    road.fill(&[&b], 5).await;
    let asked = [(1, vec![1, 0]), (0, vec![1])];
    let marks: Vec<Vec<StreamId>> =
        road.store.marks(&asked).await.unwrap().into_iter().map(Result::unwrap).collect();
    assert_eq!(marks, [vec![sid("5-0"), StreamId::ZERO], vec![sid("3-0")]]);
    assert!(road.store.marks(&[]).await.unwrap().is_empty());
    road.redis(&["HSET", &road.lane_key(&a, "marks"), "1", "junk"]).await;
    let answers = road.store.marks(&asked).await.unwrap();
    assert!(answers[0].is_ok() && matches!(answers[1], Err(StoreError::Reply(_))));
}

#[tokio::test]
async fn a_mark_that_is_none_stops_the_lane_before_anything_is_added() {
    let road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    road.redis(&["HSET", &road.lane_key(&sub, "marks"), "0", "junk"]).await;
    let some = entries(&["1-0"]);
    let error =
        road.enqueue(LAYOUT.lane_of(&sub.id), link("0-0", "1-0", &some, &[&sub.id])).await.unwrap_err();
    assert!(matches!(error, StoreError::Refused(_)) && !error.is_transient(), "{error}");
    assert!(queued(&road, &sub).await.is_empty());
}

/// What one router sends: from where to where in the log of one partition, to one lane.
#[derive(Debug, Clone)]
struct Flight {
    lane: u16,
    links: Vec<(u16, usize, usize)>,
}

const PARTITIONS: u16 = 2;
const LOG: usize = 8;

/// Flights of routers that are behind, ahead, frozen and repeated: any stretch of the log in any order.
fn flights() -> impl Strategy<Value = Vec<Flight>> {
    let stretch = (0..PARTITIONS, 0..=LOG, 0..=LOG).prop_map(|(p, a, b)| (p, a.min(b), a.max(b)));
    let flight =
        (0..2_u16, prop::collection::vec(stretch, 1..3)).prop_map(|(lane, links)| Flight { lane, links });
    prop::collection::vec(flight, 1..14)
}

/// Which of three subscriptions each message goes to.
fn matching() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let log = || prop::collection::vec(0..8_u8, LOG);
    prop::collection::vec(log(), usize::from(PARTITIONS))
}

/// Ids that differ now in milliseconds, now in their sequence only.
fn log_id(position: usize) -> StreamId {
    let n = u64::try_from(position).unwrap();
    if n == 0 { StreamId::ZERO } else { StreamId { ms: 1_700_000_000_000 + n / 3, seq: 8 + n } }
}

#[test]
fn every_message_is_queued_once_whatever_routers_send() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let road = runtime.block_on(Road::new());
    let mut runner = TestRunner::new(Config { cases: 60, failure_persistence: None, ..Config::default() });
    runner
        .run(&(flights(), matching()), |(flights, matching)| {
            runtime.block_on(route(&road, &flights, &matching))
        })
        .unwrap_or_else(|error| panic!("{error}"));
}

async fn route(road: &Road, flights: &[Flight], matching: &[Vec<u8>]) -> Result<(), TestCaseError> {
    road.redis(&["FLUSHALL"]).await;
    let subs = [
        road.subscribe_in(0, |_| {}).await,
        road.subscribe_in(0, |_| {}).await,
        road.subscribe_in(1, |_| {}).await,
    ];
    let log: Vec<Accepted> = (1..=LOG).map(|position| entry(log_id(position))).collect();
    let wants = |partition: u16, position: usize, sub: usize| {
        matching[usize::from(partition)][position - 1] & (1 << sub) != 0
    };
    let chain = |lane: u16, partition: u16, from: usize, to: usize| {
        let entries = (from + 1..=to)
            .filter_map(|position| {
                let to: Vec<&SubscriptionId> = (0..subs.len())
                    .filter(|sub| LAYOUT.lane_of(&subs[*sub].id) == lane && wants(partition, position, *sub))
                    .map(|sub| &subs[sub].id)
                    .collect();
                (!to.is_empty()).then(|| place(&log[position - 1], &to, Priority::Normal))
            })
            .collect();
        ChainLink { partition, prev: log_id(from), last: log_id(to), entries }
    };
    let mut marks: BTreeMap<(u16, u16), usize> = BTreeMap::new();
    let honest = (0..2).flat_map(|lane| (0..PARTITIONS).map(move |partition| (lane, partition)));
    let fly = async |lane: u16, links: &[(u16, usize, usize)]| {
        let chains = links.iter().map(|(p, from, to)| chain(lane, *p, *from, *to)).collect();
        road.store.enqueue(&[(lane, chains)], TRACE).await.unwrap().remove(0).unwrap().links
    };
    for flight in flights {
        let answers = fly(flight.lane, &flight.links).await;
        for ((partition, from, to), answer) in flight.links.iter().zip(answers) {
            let mark = marks.entry((flight.lane, *partition)).or_default();
            let expected = if from > mark {
                Linked::Gap(log_id(*mark))
            } else if to <= mark {
                Linked::Duplicate
            } else {
                *mark = *to;
                Linked::Ok
            };
            prop_assert_eq!(answer, expected);
        }
    }
    for ((lane, partition), mark) in &marks {
        let key = road.keys.key(postroad_store::keys::Tag::Lane(*lane), "marks");
        let there = road.redis(&["HGET", &key, &partition.to_string()]).await.text();
        prop_assert_eq!(there.map_or(StreamId::ZERO, |id| sid(&id)), log_id(*mark));
    }
    // The owner brings every chain to its end.
    for (lane, partition) in honest {
        let from = marks.get(&(lane, partition)).copied().unwrap_or(0);
        fly(lane, &[(partition, from, LOG)]).await;
    }
    for (at, sub) in subs.iter().enumerate() {
        let refs = queued(road, sub).await;
        for partition in 0..PARTITIONS {
            let its: Vec<&String> =
                refs.iter().filter(|name| name.starts_with(&format!("{partition}:"))).collect();
            let expected: Vec<String> = (1..=LOG)
                .filter(|position| wants(partition, *position, at))
                .map(|position| format!("{partition}:{}", log_id(position)))
                .collect();
            prop_assert_eq!(its, expected.iter().collect::<Vec<_>>());
        }
    }
    road.check().await;
    Ok(())
}
