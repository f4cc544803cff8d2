//! The readers: waiting that takes nothing.

use std::{collections::HashMap, time::Duration};

use super::kit::*;
use postroad_store::{Accepted, StoreError, StreamId, keys::Tag};

const SHORT: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_secs(5);

#[tokio::test]
async fn new_entries_are_read_by_any_number_of_routers() {
    let road = Road::new().await;
    let from = [(0, StreamId::ZERO), (1, StreamId::ZERO)];
    let mut one = road.store.ingress_reader().await.unwrap();
    let mut two = road.store.ingress_reader().await.unwrap();
    assert!(one.read(&road.store, &from, 10, SHORT).await.unwrap().is_empty());
    let waiting = one.read(&road.store, &from, 10, LONG);
    let (read, accepted) = tokio::join!(waiting, road.accept(&["a", "b", "c"]));
    let read = read.unwrap();
    assert_eq!((read.len(), read[0].partition, read[0].entries.len()), (1, 0, 3));
    let Accepted::Stored { at, accepted_ms } = accepted[1] else { panic!("not stored") };
    assert_eq!((read[0].entries[1].id, read[0].entries[1].accepted_ms), (at, accepted_ms));
    let again = two.read(&road.store, &from, 2, LONG).await.unwrap();
    assert_eq!(again[0].entries.len(), 2, "at most so many");
    let behind = two.read(&road.store, &[(0, at)], 10, LONG).await.unwrap();
    assert_eq!(behind[0].entries.len(), 1);
}

#[tokio::test]
async fn junk_in_ingress_keeps_its_bytes() {
    let road = Road::new().await;
    let ingress = road.partition_key(0, "ingress");
    road.redis(&["XADD", &ingress, "1-1", "what", "is", "this", "?"]).await;
    road.redis(&["XADD", &ingress, "1-2", "m", "no entry", "t", "never"]).await;
    let entries = road.store.history(0, StreamId::ZERO, END, 10).await.unwrap();
    assert_eq!(&entries[0].entry.record[..], b"what=is\nthis=?\n");
    assert_eq!((entries[0].accepted_ms, entries[1].accepted_ms), (0, 0));
    assert!(entries.iter().all(|entry| entry.entry.decode().is_err()));
    // Whoever takes the partition over may meet it once more.
    for _ in 0..2 {
        road.store.quarantine(0, &entries[0], "undecodable").await.unwrap();
    }
    let rows = road.redis(&["XRANGE", &road.partition_key(0, "dead"), "-", "+"]).await;
    assert_eq!(rows.items().len(), 1);
    let fields: Vec<String> =
        rows.items()[0].items()[1].items().iter().map(|field| field.text().unwrap()).collect();
    assert_eq!(fields, ["reason", "undecodable", "ref", "0:1-1", "m", "what=is\nthis=?\n", "t", "0"]);
    assert_eq!(road.store.history(0, sid("1-1"), sid("1-1"), 10).await.unwrap().len(), 0);
    assert_eq!(road.store.history(0, sid("1-1"), END, 1).await.unwrap()[0].id, sid("1-2"));
}

#[tokio::test]
async fn ready_lanes_wake_every_worker() {
    let mut road = Road::new().await;
    let sub = road.subscribe_in(1, |sub| sub.prefetch_count = 1).await;
    let mut reader = road.store.ready_reader().await.unwrap();
    let from = HashMap::new();
    let store = road.store.clone();
    assert!(reader.wait(&store, &from, SHORT).await.unwrap().is_empty());
    let subs = [&sub];
    let (woken, ()) = tokio::join!(reader.wait(&store, &from, LONG), road.fill(&subs, 2));
    assert_eq!(woken.unwrap(), [1]);
    assert_eq!(reader.wait(&store, &from, LONG).await.unwrap(), [1], "it lies there still");
    // Behind a token that it passed over there is nothing.
    let room = postroad_store::Room {
        free: 9,
        spare: 0,
        quantum: 9,
        quantum_bytes: 1 << 20,
        ..postroad_store::Room::UNBOUNDED
    };
    road.redis(&["HSET", &road.sub_key(&sub), "cap", "9"]).await;
    road.take_in("w-1", 1, room).await;
    let passed = road.take_in("w-1", 1, room).await.passed.unwrap();
    let behind = HashMap::from([(1, passed)]);
    assert!(reader.wait(&store, &behind, SHORT).await.unwrap().is_empty());
}

/// A stream that is deleted under a waiting reader, and a server that dies under it.
#[tokio::test]
async fn a_reader_that_is_cut_off_says_so() {
    let road = Road::new().await;
    road.redis(&["SET", &road.keys.key(Tag::Partition(1), "ingress"), "junk"]).await;
    let mut reader = road.store.ingress_reader().await.unwrap();
    let refused = reader.read(&road.store, &[(1, StreamId::ZERO)], 1, SHORT).await.unwrap_err();
    assert!(matches!(refused, StoreError::Refused(_)), "{refused}");
    let mut ready = road.store.ready_reader().await.unwrap();
    let (nobody, all) = (HashMap::new(), [(0, StreamId::ZERO)]);
    let kill = async {
        tokio::time::sleep(SHORT).await;
        road.redis.kill().unwrap();
    };
    let (read, waited, ()) =
        tokio::join!(reader.read(&road.store, &all, 1, LONG), ready.wait(&road.store, &nobody, LONG), kill);
    assert!(read.unwrap_err().is_transient() && waited.unwrap_err().is_transient());
    let error = road.store.ingress_reader().await.err().unwrap();
    assert!(error.is_transient() && road.store.ready_reader().await.is_err(), "{error}");
}
