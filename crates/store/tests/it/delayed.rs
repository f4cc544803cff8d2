//! delay, due, cancel: messages that wait for their time.

use super::kit::*;
use postroad_model::{
    id::MessageId,
    message::Priority,
    names::{ChannelName, OrderingKey, Tenant},
};
use postroad_store::{
    Acceptance, Accepted, Cancelled, DelayLimits, Due, Found, IdKey, MovedDue, StoreError, StreamId,
};

const HOUR: u64 = 3_600_000;

fn later(id: &str, due: Due) -> Acceptance {
    Acceptance { due: Some(due), ..acceptance(id, Priority::Normal) }
}

fn key(id: &str) -> IdKey {
    IdKey::new(&Tenant::single(), &MessageId::new(id).unwrap(), None)
}

async fn delay_with(
    road: &Road,
    messages: Vec<Acceptance>,
    limits: DelayLimits,
) -> Result<Vec<Accepted>, StoreError> {
    road.store.delay(&[(0, messages)], WINDOW, limits).await?.pop().unwrap()
}

async fn delay(road: &Road, messages: Vec<Acceptance>) -> Vec<Accepted> {
    delay_with(road, messages, DelayLimits::default()).await.unwrap()
}

async fn move_some(road: &Road, most: usize) -> Result<MovedDue, StoreError> {
    road.store.move_due(&[0], WINDOW, most).await?.pop().unwrap()
}

async fn move_due(road: &Road) -> MovedDue {
    move_some(road, 200).await.unwrap()
}

async fn cancel(road: &Road, id: &str) -> Cancelled {
    road.store.cancel_delayed(0, &key(id), WINDOW).await.unwrap()
}

/// Lets everything that waits be due.
async fn let_time_pass(road: &Road) {
    let set = road.partition_key(0, "delayed");
    for (at, member) in road.texts(&["ZRANGE", &set, "0", "-1"]).await.iter().enumerate() {
        road.redis(&["ZADD", &set, &(at + 1).to_string(), member]).await;
    }
}

/// The ids in ingress, in order.
async fn arrived(road: &Road) -> Vec<String> {
    let entries = road.store.history(0, StreamId::ZERO, END, 1_000).await.unwrap();
    entries.iter().map(|entry| entry.entry.decode().unwrap().id.to_string()).collect()
}

async fn waits(road: &Road) -> u64 {
    road.store.delayed(&[0]).await.unwrap().1[0].messages
}

async fn find(road: &Road, id: &str) -> Vec<Found> {
    let id = MessageId::new(id).unwrap();
    road.store.find_message(&Tenant::single(), &id, WINDOW, road.now().await).await.unwrap()
}

/// Ids whose home is partition 0, where these tests put everything.
fn home_ids(count: usize) -> Vec<String> {
    let home = |id: &String| LAYOUT.partition_of_id(&Tenant::single(), &MessageId::new(id).unwrap()) == 0;
    (0..).map(|n| format!("home-{n}")).filter(home).take(count).collect()
}

#[tokio::test]
async fn a_message_waits_becomes_due_and_is_then_like_any_other() {
    let road = Road::new().await;
    let id = &home_ids(1)[0];
    let before = road.now().await;
    let stored = delay(&road, vec![later(id, Due::After(HOUR))]).await.remove(0);
    let Accepted::Delayed { due_ms, accepted_ms } = stored else { panic!("{stored:?}") };
    assert!((before..before + 5_000).contains(&accepted_ms) && due_ms == accepted_ms + HOUR);
    let (now, waiting) = road.store.delayed(&[0, 1]).await.unwrap();
    assert!(now >= accepted_ms);
    assert_eq!((waiting[0].messages, waiting[0].first_due_ms), (1, Some(due_ms)));
    assert_eq!((waiting[1].messages, waiting[1].first_due_ms), (0, None));
    assert_eq!(road.store.active_channels(&Tenant::single(), before).await.unwrap(), ["orders"]);

    let found = find(&road, id).await.remove(0);
    assert_eq!((found.partition, found.at, found.due_ms), (0, StreamId::ZERO, Some(due_ms)));
    assert_eq!((found.accepted_ms, found.routed, found.is_cancelled()), (accepted_ms, false, false));
    assert_eq!(found.message.unwrap().id.as_str(), id);
    assert_eq!(move_due(&road).await, MovedDue::default(), "before its time nothing moves");
    assert!(arrived(&road).await.is_empty());
    road.check().await;

    let_time_pass(&road).await;
    assert_eq!(move_due(&road).await, MovedDue { moved: 1, left: 0 });
    assert_eq!(move_due(&road).await, MovedDue::default(), "it moves once");
    let entry = road.store.history(0, StreamId::ZERO, END, 9).await.unwrap().remove(0);
    assert!(entry.accepted_ms >= accepted_ms, "its life begins when it is due");
    let found = find(&road, id).await.remove(0);
    assert_eq!((found.at, found.due_ms, found.accepted_ms), (entry.id, None, accepted_ms));
    assert_eq!((waits(&road).await, arrived(&road).await), (0, vec![id.clone()]));
    road.check().await;
}

#[tokio::test]
async fn they_leave_in_the_order_in_which_they_are_due_and_no_more_than_asked() {
    let road = Road::new().await;
    let now = road.now().await;
    let flight = [("c", now - 10), ("a", now - 30), ("never", now + HOUR), ("b", now - 20), ("d", now - 5)];
    delay(&road, flight.iter().map(|(id, at)| later(id, Due::At(*at))).collect()).await;
    assert_eq!(road.store.overdue(&[0, 1], now, 15).await.unwrap(), 2);
    assert_eq!(move_some(&road, 3).await.unwrap(), MovedDue { moved: 3, left: 1 });
    assert_eq!(arrived(&road).await, ["a", "b", "c"]);
    assert_eq!(move_some(&road, 3).await.unwrap(), MovedDue { moved: 1, left: 0 });
    assert_eq!((arrived(&road).await.len(), waits(&road).await), (4, 1));
    road.check().await;
}

#[tokio::test]
async fn one_call_moves_no_more_than_so_many_bytes() {
    let road = Road::new().await;
    let record = bytes::Bytes::from(vec![b'x'; 1 << 20]);
    let large = |n: usize| {
        let message = later(&format!("large-{n}"), Due::At(1));
        Acceptance { entry: postroad_store::entry::Entry { record: record.clone() }, ..message }
    };
    delay(&road, (0..10).map(large).collect()).await;
    let moved = move_due(&road).await;
    assert_eq!((moved.moved, moved.left), (4, 6));
}

#[tokio::test]
async fn an_id_is_used_while_it_waits_and_after() {
    let road = Road::new().await;
    let stored = delay(&road, vec![later("a", Due::After(HOUR)), later("a", Due::After(1))]).await;
    let Accepted::Delayed { due_ms, accepted_ms } = stored[0] else { panic!("{stored:?}") };
    let is_first = |accepted: &Accepted, at: StreamId, due: Option<u64>| {
        matches!(accepted, Accepted::Duplicate { at: same, accepted_ms: then, first: Some(first), due_ms }
            if *same == at && *then == accepted_ms && first.id.as_str() == "a" && *due_ms == due)
    };
    let again = delay(&road, vec![later("a", Due::After(HOUR))]).await.remove(0);
    let at_once = road.accept(&["a"]).await.remove(0);
    for seen in [&stored[1], &again, &at_once] {
        assert!(is_first(seen, StreamId::ZERO, Some(due_ms)), "{seen:?}");
    }
    // However long it waits: where the index has forgotten, what waits is found itself.
    assert!(road.texts(&["KEYS", "*ids:*"]).await.is_empty());

    let_time_pass(&road).await;
    move_due(&road).await;
    let at = road.store.history(0, StreamId::ZERO, END, 9).await.unwrap()[0].id;
    let again = delay(&road, vec![later("a", Due::After(HOUR))]).await.remove(0);
    let at_once = road.accept(&["a"]).await.remove(0);
    for seen in [again, at_once] {
        assert!(is_first(&seen, at, None), "{seen:?}");
    }
    // And what came at once is not delayed afterwards.
    road.accept(&["b"]).await;
    let again = delay(&road, vec![later("b", Due::After(1))]).await.remove(0);
    assert!(matches!(again, Accepted::Duplicate { due_ms: None, .. }), "{again:?}");
    assert_eq!(waits(&road).await, 0);
}

#[tokio::test]
async fn what_is_cancelled_never_comes_and_keeps_its_id() {
    let road = Road::new().await;
    let ids = home_ids(2);
    let (id, other) = (&ids[0], &ids[1]);
    assert_eq!(cancel(&road, id).await, Cancelled::Unknown);
    delay(&road, vec![later(id, Due::At(HOUR)), later(other, Due::At(HOUR))]).await;
    let now = road.now().await;
    let Cancelled::Now { at_ms, due_ms: Some(HOUR) } = cancel(&road, id).await else { panic!() };
    assert!((now..now + 5_000).contains(&at_ms));
    assert_eq!(cancel(&road, id).await, Cancelled::Before { at_ms });
    road.check().await;
    let_time_pass(&road).await;
    assert_eq!(move_due(&road).await.moved, 1);
    assert_eq!(arrived(&road).await, [other.as_str()]);
    assert_eq!(cancel(&road, other).await, Cancelled::Published);
    assert_eq!(cancel(&road, id).await, Cancelled::Before { at_ms });

    let found = find(&road, id).await.remove(0);
    assert!(found.is_cancelled() && found.message.is_none() && found.accepted_ms == at_ms);
    for seen in
        [road.accept(&[id]).await.remove(0), delay(&road, vec![later(id, Due::After(1))]).await.remove(0)]
    {
        assert!(
            matches!(seen, Accepted::Duplicate { at: StreamId::ZERO, first: None, due_ms: None, .. }),
            "a publish that comes late brings nothing back: {seen:?}"
        );
    }
    assert_eq!(arrived(&road).await.len(), 1);
    road.check().await;
}

#[tokio::test]
async fn ids_under_ordering_keys_wait_apart_and_are_found() {
    let road = Road::new().await;
    let (tenant, id) = (Tenant::single(), MessageId::new("order-1").unwrap());
    let channel = ChannelName::new("orders").unwrap();
    let keys =
        ["k", "l"].map(|key| IdKey::new(&tenant, &id, Some((&channel, &OrderingKey::new(key).unwrap()))));
    let flight = keys.clone().map(|id| Acceptance { id, ..later("order-1", Due::After(HOUR)) });
    for stored in delay(&road, flight.to_vec()).await {
        assert!(matches!(stored, Accepted::Delayed { .. }), "{stored:?}");
    }
    let mut found: Vec<String> =
        find(&road, "order-1").await.into_iter().map(|found| found.key.field).collect();
    found.sort();
    let mut wanted = keys.clone().map(|key| key.field);
    wanted.sort();
    assert_eq!(found, wanted);
    let cancelled = road.store.cancel_delayed(0, &keys[0], WINDOW).await.unwrap();
    assert!(matches!(cancelled, Cancelled::Now { .. }));
    let found = find(&road, "order-1").await;
    assert_eq!(found.iter().filter(|found| found.is_cancelled()).count(), 1);
    assert_eq!(found.iter().filter(|found| found.due_ms.is_some()).count(), 1);
}

#[tokio::test]
async fn no_more_wait_than_may_by_number_and_by_bytes() {
    let road = Road::new().await;
    let few = DelayLimits { messages: 2, bytes: 1 << 20 };
    let flight = ["a", "b", "c", "a"].map(|id| later(id, Due::After(HOUR)));
    let stored = delay_with(&road, flight.to_vec(), few).await.unwrap();
    assert!(matches!(stored[..2], [Accepted::Delayed { .. }, Accepted::Delayed { .. }]), "{stored:?}");
    assert_eq!(stored[2], Accepted::NoRoom);
    assert!(matches!(stored[3], Accepted::Duplicate { .. }), "what is there is known at the bound too");
    cancel(&road, "a").await;
    let one = async |id, limits| {
        delay_with(&road, vec![later(id, Due::After(HOUR))], limits).await.unwrap().remove(0)
    };
    assert!(matches!(one("c", few).await, Accepted::Delayed { .. }), "there is room again");

    let bytes = road.number(&["HGET", &road.partition_key(0, "door"), "delayed"]).await;
    let bytes = u64::try_from(bytes).unwrap();
    let tight = DelayLimits { messages: 100, bytes: bytes + bytes / 4 };
    assert_eq!(one("d", tight).await, Accepted::NoRoom, "{bytes} bytes and half of one more");
    assert!(matches!(one("d", DelayLimits::default()).await, Accepted::Delayed { .. }));
    road.check().await;
    for id in ["b", "c", "d"] {
        cancel(&road, id).await;
    }
    assert_eq!(road.number(&["HEXISTS", &road.partition_key(0, "door"), "delayed"]).await, 0);
    road.check().await;
}

/// On a full Redis nothing comes and nothing moves, and nothing is lost; what is cancelled makes room.
#[tokio::test]
async fn a_full_redis_refuses_and_loses_nothing() {
    let road = Road::new().await;
    delay(&road, vec![later("a", Due::At(1)), later("b", Due::At(2))]).await;
    road.redis(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let refused = delay_with(&road, vec![later("c", Due::At(1))], DelayLimits::default()).await.unwrap_err();
    assert!(matches!(refused, StoreError::Full(_)), "{refused}");
    let refused = move_some(&road, 9).await.unwrap_err();
    assert!(matches!(refused, StoreError::Full(_)), "{refused}");
    assert!(matches!(cancel(&road, "b").await, Cancelled::Now { .. }));
    assert_eq!(waits(&road).await, 1);
    road.redis(&["CONFIG", "SET", "maxmemory", "0"]).await;
    assert_eq!(move_due(&road).await, MovedDue { moved: 1, left: 0 });
    assert_eq!(arrived(&road).await, ["a"]);
    road.check().await;
}

/// What becomes due is the first thing that a promoted server adds: its id must not lie below a mark.
#[tokio::test]
async fn what_is_due_passes_the_gate() {
    let road = Road::new().await;
    road.accept(&["before"]).await;
    let first = road.store.history(0, StreamId::ZERO, END, 9).await.unwrap()[0].id;
    delay(&road, vec![later("a", Due::At(1)), later("b", Due::At(2))]).await;
    road.redis(&["HSET", &road.partition_key(0, "door"), "gate", "another server"]).await;
    assert_eq!(move_due(&road).await.moved, 2);
    let entries = road.store.history(0, first, END, 9).await.unwrap();
    assert!(entries[0].id.ms >= first.ms + 60_000, "{} {first}", entries[0].id);
    assert!(entries[1].id.ms < entries[0].id.ms + 60_000, "and once");
    // Nothing due asks nothing of the gate.
    road.redis(&["HSET", &road.partition_key(0, "door"), "gate", "another server"]).await;
    move_due(&road).await;
    assert_eq!(
        road.redis(&["HGET", &road.partition_key(0, "door"), "gate"]).await.text().unwrap(),
        "another server"
    );
    // A partition whose stream is gone, or never was.
    delay(&road, vec![later("c", Due::At(1))]).await;
    road.redis(&["DEL", &road.partition_key(0, "ingress")]).await;
    assert_eq!(move_due(&road).await.moved, 1);
    assert_eq!(road.store.routed_upto(0).await.unwrap(), StreamId::ZERO, "the router's group is there");
    let last = road.store.history(0, StreamId::ZERO, END, 9).await.unwrap()[0].id;
    assert!(last > entries[1].id);
}

#[tokio::test]
async fn two_that_move_at_once_move_each_once() {
    let road = Road::new().await;
    let ids: Vec<String> = (0..300).map(|n| format!("m{n}")).collect();
    delay(&road, ids.iter().map(|id| later(id, Due::At(1))).collect()).await;
    let work = async || {
        let mut sum = 0;
        loop {
            let moved = move_some(&road, 7).await.unwrap();
            sum += moved.moved;
            if moved.left == 0 {
                return sum;
            }
        }
    };
    let (one, two) = tokio::join!(work(), work());
    assert_eq!(one + two, 300);
    let mut arrived = arrived(&road).await;
    arrived.sort();
    arrived.dedup();
    assert_eq!(arrived.len(), 300);
    road.check().await;
}

#[tokio::test]
async fn junk_keeps_nobody_waiting_and_keeps_its_bytes() {
    let road = Road::new().await;
    delay(&road, vec![later("a", Due::At(5))]).await;
    let (set, bodies) = (road.partition_key(0, "delayed"), road.partition_key(0, "delayed:7"));
    road.redis(&["ZADD", &set, "1", "junk"]).await;
    road.redis(&["ZADD", &set, "2", "7:without a body"]).await;
    road.redis(&["ZADD", &set, "3", "7:strange"]).await;
    road.redis(&["HSET", &bodies, "strange", "no body at all"]).await;
    assert_eq!(move_due(&road).await, MovedDue { moved: 2, left: 0 });
    let entries = road.store.history(0, StreamId::ZERO, END, 9).await.unwrap();
    assert_eq!(&entries[0].entry.record[..], b"no body at all", "for a router to put aside");
    assert_eq!(entries[1].entry.decode().unwrap().id.as_str(), "a");

    // A partition whose stream is none refuses, and what is due waits on.
    delay(&road, vec![later("b", Due::At(5))]).await;
    road.redis(&["SET", &road.partition_key(0, "ingress"), "junk"]).await;
    assert!(matches!(move_some(&road, 9).await.unwrap_err(), StoreError::Refused(_)));
    assert_eq!(waits(&road).await, 1);
    road.redis(&["DEL", &road.partition_key(0, "ingress")]).await;
    assert_eq!(move_due(&road).await.moved, 1);
}

#[tokio::test]
async fn scripts_may_be_forgotten_here_too() {
    let road = Road::new().await;
    let flush = async || road.redis(&["SCRIPT", "FLUSH"]).await;
    flush().await;
    delay(&road, vec![later("a", Due::At(1)), later("b", Due::At(2))]).await;
    flush().await;
    assert!(matches!(cancel(&road, "a").await, Cancelled::Now { .. }));
    flush().await;
    assert_eq!(move_due(&road).await.moved, 1);
}
