//! accept: messages into a partition of ingress.

use super::kit::*;
use bytes::Bytes;
use postroad_model::{
    message::Priority,
    names::{ChannelName, OrderingKey, Tenant},
};
use postroad_store::{
    Acceptance, Accepted, ChainLink, IdKey, Linked, StoreError, StreamId, entry::Entry, keys::Tag,
};

fn stored(accepted: &Accepted) -> StreamId {
    match accepted {
        Accepted::Stored { at, .. } => *at,
        _ => panic!("{accepted:?}"),
    }
}

fn is_duplicate(accepted: &Accepted, of: StreamId) -> bool {
    matches!(accepted, Accepted::Duplicate { at, .. } if *at == of)
}

#[tokio::test]
async fn messages_lie_in_order_with_their_time_and_channel() {
    let road = Road::new().await;
    let before = road.now().await;
    let accepted = road.accept(&["a", "b", "c"]).await;
    let after = road.now().await;
    let ids: Vec<StreamId> = accepted.iter().map(stored).collect();
    assert!(ids.is_sorted() && ids[0] < ids[2]);
    for row in &accepted {
        assert!(
            matches!(row, Accepted::Stored { accepted_ms, .. } if (before..=after).contains(accepted_ms))
        );
    }
    let entries = road.store.history(0, StreamId::ZERO, END, 10).await.unwrap();
    assert_eq!(entries.iter().map(|entry| entry.id).collect::<Vec<_>>(), ids);
    let names: Vec<String> =
        entries.iter().map(|entry| entry.entry.decode().unwrap().id.to_string()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert!(entries.iter().all(|entry| (before..=after).contains(&entry.accepted_ms)));
    assert_eq!(road.store.active_channels(&Tenant::single(), before).await.unwrap(), ["orders"]);
    assert!(road.store.active_channels(&Tenant::single(), after + 1).await.unwrap().is_empty());
    assert!(road.store.active_channels(&Tenant::new("other").unwrap(), 0).await.unwrap().is_empty());
    assert_eq!(road.store.routed_upto(0).await.unwrap(), StreamId::ZERO, "the router's group is there");
}

#[tokio::test]
async fn a_repeated_flight_answers_with_the_first_and_stores_nothing() {
    let road = Road::new().await;
    let first = road.accept(&["a", "b"]).await;
    for _ in 0..2 {
        let again = road.accept(&["a", "b"]).await;
        for (first, again) in first.iter().zip(again) {
            let (
                Accepted::Stored { at, accepted_ms },
                Accepted::Duplicate { at: same, accepted_ms: then, first, due_ms: None },
            ) = (first, &again)
            else {
                panic!("{again:?}")
            };
            assert_eq!((at, accepted_ms), (same, then));
            assert!(["a", "b"].contains(&first.as_ref().unwrap().id.as_str()));
        }
    }
    assert_eq!(road.length(&road.partition_key(0, "ingress")).await, 2);
}

#[tokio::test]
async fn an_id_twice_in_one_flight_is_stored_once() {
    let road = Road::new().await;
    let accepted = road.accept(&["a", "b", "a"]).await;
    assert!(is_duplicate(&accepted[2], stored(&accepted[0])), "{accepted:?}");
    assert_eq!(road.length(&road.partition_key(0, "ingress")).await, 2);
}

#[tokio::test]
async fn ids_are_kept_and_looked_for_as_asked() {
    let road = Road::new().await;
    let forgotten = Acceptance { remember: false, ..acceptance("a", Priority::Normal) };
    let unchecked = Acceptance { check: false, ..acceptance("a", Priority::Normal) };
    let normal = acceptance("a", Priority::Normal);
    let one =
        async |message: &Acceptance| road.accept_all(0, vec![message.clone()]).await.unwrap().pop().unwrap();
    stored(&one(&forgotten).await);
    let kept = stored(&one(&normal).await);
    assert!(is_duplicate(&one(&normal).await, kept), "what was not to be kept was not kept, this was");
    let unasked = stored(&one(&unchecked).await);
    assert!(is_duplicate(&one(&normal).await, unasked), "the index knows the newest");
}

#[tokio::test]
async fn an_id_belongs_to_its_tenant_and_its_line() {
    let road = Road::new().await;
    let plain = acceptance("a", Priority::Normal);
    let id = message("a", Priority::Normal).id;
    let (orders, bills) = (ChannelName::new("orders").unwrap(), ChannelName::new("bills").unwrap());
    let key = |key: &str| OrderingKey::new(key).unwrap();
    let one = Tenant::single();
    let keys = [
        IdKey::new(&one, &id, None),
        IdKey::new(&Tenant::new("other").unwrap(), &id, None),
        IdKey::new(&one, &id, Some((&orders, &key("k")))),
        IdKey::new(&one, &id, Some((&orders, &key("l")))),
        IdKey::new(&one, &id, Some((&bills, &key("k")))),
    ];
    let flight: Vec<Acceptance> =
        keys.iter().map(|id| Acceptance { id: id.clone(), ..plain.clone() }).collect();
    let first: Vec<StreamId> = road.accept_all(0, flight.clone()).await.unwrap().iter().map(stored).collect();
    let again = road.accept_all(0, flight).await.unwrap();
    for (first, again) in first.into_iter().zip(again) {
        assert!(is_duplicate(&again, first));
    }
}

#[tokio::test]
async fn partitions_do_not_know_each_others_ids() {
    let road = Road::new().await;
    let flight: Vec<(u16, Vec<Acceptance>)> =
        [0, 1].map(|partition| (partition, vec![acceptance("a", Priority::Normal)])).into();
    let answers = road.store.accept(&flight, WINDOW).await.unwrap();
    assert_eq!(answers.len(), 2);
    for answer in answers {
        stored(&answer.unwrap()[0]);
    }
}

#[tokio::test]
async fn a_duplicate_without_its_first_message_is_still_one() {
    let road = Road::new().await;
    let at = stored(&road.accept(&["a"]).await[0]);
    road.redis(&["XDEL", &road.partition_key(0, "ingress"), &at.to_string()]).await;
    let again = road.accept(&["a"]).await.remove(0);
    assert!(matches!(again, Accepted::Duplicate { at: same, first: None, .. } if same == at));

    let junk = Acceptance {
        entry: Entry { record: Bytes::from_static(b"\xff no entry") },
        ..acceptance("b", Priority::Normal)
    };
    let at = stored(&road.accept_all(0, vec![junk.clone()]).await.unwrap()[0]);
    let again = road.accept_all(0, vec![junk]).await.unwrap().remove(0);
    assert!(matches!(again, Accepted::Duplicate { at: same, first: None, .. } if same == at));
}

#[tokio::test]
async fn nothing_is_accepted_as_nothing() {
    let road = Road::new().await;
    assert!(road.store.accept(&[], WINDOW).await.unwrap().is_empty());
    assert!(road.accept_all(0, vec![]).await.unwrap().is_empty());
    assert_eq!(road.length(&road.partition_key(0, "ingress")).await, 0);
}

/// A partition whose key holds something else refuses; the others of the flight are accepted.
#[tokio::test]
async fn a_broken_partition_breaks_no_other() {
    let road = Road::new().await;
    road.redis(&["SET", &road.partition_key(0, "ingress"), "junk"]).await;
    let flight: Vec<(u16, Vec<Acceptance>)> =
        [0, 1].map(|partition| (partition, vec![acceptance("a", Priority::Normal)])).into();
    let mut answers = road.store.accept(&flight, WINDOW).await.unwrap();
    stored(&answers.pop().unwrap().unwrap()[0]);
    let error = answers.pop().unwrap().unwrap_err();
    assert!(matches!(error, StoreError::Refused(_)) && !error.is_transient(), "{error}");
}

#[tokio::test]
async fn behind_another_server_ids_go_on_a_minute_ahead() {
    let road = Road::new().await;
    let first = stored(&road.accept(&["a"]).await[0]);
    let next = stored(&road.accept(&["b"]).await[0]);
    assert!(next.ms < first.ms + 30_000, "the same server goes on where it was");
    road.redis(&["HSET", &road.partition_key(0, "door"), "gate", "another server"]).await;
    let ahead = stored(&road.accept(&["c"]).await[0]);
    assert!(ahead.ms >= next.ms + 60_000, "{next} {ahead}");
    assert!(ahead < stored(&road.accept(&["d"]).await[0]));
    let run_id = road.redis(&["INFO", "server"]).await.info("run_id");
    let gate = road.redis(&["HGET", &road.partition_key(0, "door"), "gate"]).await.text();
    assert_eq!(gate, run_id);
}

/// Ids below a mark would be taken for sent and never be queued.
#[tokio::test]
async fn a_deleted_stream_goes_on_above_every_mark() {
    let road = Road::new().await;
    let first = stored(&road.accept(&["a"]).await[0]);
    let link = |last| ChainLink { partition: 0, prev: StreamId::ZERO, last, entries: vec![] };
    assert_eq!(road.enqueue(0, link(first)).await.unwrap().links, [Linked::Ok]);
    let epoch = road.own("r-1", 0).await;
    let routed = postroad_store::Routed { partition: 0, epoch, upto: first, sent: vec![(0, first)] };
    assert!(*road.store.routed("r-1", &[routed]).await.unwrap()[0].as_ref().unwrap());

    road.redis(&["DEL", &road.keys.key(Tag::Partition(0), "ingress")]).await;
    let next = stored(&road.accept(&["b"]).await[0]);
    assert!(next > first, "{next} lies below {first}");
    assert_eq!(road.enqueue(0, link(next)).await.unwrap().links, [Linked::Ok]);
}

/// Each server that this partition moved through took its ids a minute ahead.
#[tokio::test]
async fn a_deleted_stream_goes_on_above_however_far_ahead_it_was() {
    let road = Road::new().await;
    let mut last = StreamId::ZERO;
    for server in ["one", "two", "three"] {
        last = stored(&road.accept(&[server]).await[0]);
        road.redis(&["HSET", &road.partition_key(0, "door"), "gate", server]).await;
    }
    last = last.max(stored(&road.accept(&["here"]).await[0]));
    road.redis(&["DEL", &road.partition_key(0, "ingress")]).await;
    assert!(stored(&road.accept(&["a"]).await[0]) > last);
}
