//! Redis without its scripts, full, away, and back with less than it had.

use std::{collections::HashMap, time::Duration};

use super::kit::*;
use postroad_model::{
    delivery::{Outcome, Place},
    message::Priority,
    names::Tenant,
    subscription::Status,
};
use postroad_store::{
    Accepted, ChainLink, JobState, LaneLimits, LinkConfig, Linked, Routed, Store, StoreError, StreamId,
};
use postroad_testkit::redis::PrivateRedis;

fn stored(accepted: &Accepted) -> StreamId {
    match accepted {
        Accepted::Stored { at, .. } => *at,
        _ => panic!("{accepted:?}"),
    }
}

/// Every move, each meeting a server that has forgotten its script.
#[tokio::test]
async fn scripts_may_be_forgotten_between_any_two_calls() {
    let mut road = Road::new().await;
    let store = road.store.clone();
    let flush = async || {
        PrivateRedis::command(&road.redis, &["SCRIPT", "FLUSH"]).await.unwrap();
    };
    flush().await;
    let mut sub = subscription();
    store.put_subscription(&sub, None, 9, LaneLimits::default()).await.unwrap();
    flush().await;
    store.announce("w-1", "{}").await.unwrap();
    flush().await;
    let epoch = road.own("r-1", 0).await;
    for round in 0..2 {
        flush().await;
        let flight = [0, 1].map(|partition| (partition, vec![acceptance("a", Priority::Normal)]));
        let answers = store.accept(&flight, WINDOW).await.unwrap();
        let duplicate = |answer: &Result<Vec<Accepted>, StoreError>| {
            matches!(answer.as_ref().unwrap()[0], Accepted::Duplicate { .. })
        };
        assert!(answers.iter().all(|answer| duplicate(answer) == (round == 1)));
    }
    let entry = store.history(0, StreamId::ZERO, END, 1).await.unwrap().remove(0);
    let lane = LAYOUT.lane_of(&sub.id);
    for (partition, answer) in [(0, Linked::Ok), (0, Linked::Duplicate), (7, Linked::Ok)] {
        flush().await;
        let placed = vec![place(&entry, &[&sub.id], Priority::Normal)];
        let link = ChainLink { partition, prev: StreamId::ZERO, last: entry.id, entries: placed };
        assert_eq!(road.enqueue(lane, link).await.unwrap().links, [answer]);
    }
    flush().await;
    let routed = Routed { partition: 0, epoch, upto: entry.id, sent: vec![(lane, entry.id)] };
    assert!(*store.routed("r-1", &[routed]).await.unwrap()[0].as_ref().unwrap());
    flush().await;
    assert_eq!(store.trim("r-1", 0, epoch, entry.id, 0).await.unwrap(), Some(0));
    flush().await;
    let mut leases = road.take("w-1", &sub).await.leases;
    assert_eq!(leases.len(), 2);
    flush().await;
    road.settle(
        "w-1",
        vec![put(leases.remove(0), Place::Dead(postroad_model::delivery::DeadReason::Rejected))],
    )
    .await;
    flush().await;
    assert_eq!(road.sweep("w-2", &sub, &["w-2"]).await.lost.len(), 1);
    flush().await;
    assert_eq!(store.disown("w-2", &[0, 1], &HashMap::new()).await.unwrap(), 1);
    flush().await;
    let lease = road.take_one("w-1", &sub).await;
    road.settle("w-1", vec![put(lease, Place::Later { delay_ms: 0 })]).await;
    flush().await;
    assert_eq!(road.promote("w-1", &sub).await.handled, 1);
    flush().await;
    assert_eq!(store.locate(0, entry.id).await.unwrap().len(), 1);
    flush().await;
    store.make_job("job_1", &Tenant::single(), "{}", "", Some("r-1"), 9).await.unwrap();
    flush().await;
    let mine = store.take_job("job_1", "r-1", 60_000).await.unwrap().unwrap();
    flush().await;
    store.open_job(&mine).await.unwrap();
    let letters = store.dead_letters(&sub.id, StreamId::ZERO, None, 9).await.unwrap();
    let ids: Vec<StreamId> = letters.iter().map(|letter| letter.id.entry).collect();
    flush().await;
    assert_eq!(store.replay_dead(&sub.id, &mine, 9, TRACE, &ids).await.unwrap().moved, 1);
    flush().await;
    assert_eq!(store.purge_dead(&sub.id, &ids).await.unwrap(), 0);
    flush().await;
    assert!(store.save_job("job_1", "r-1", JobState::Done, "", "").await.unwrap());
    flush().await;
    store.end_job("job_1").await.unwrap();
    road.check().await;
    flush().await;
    assert!(store.release("r-1", 0, epoch).await.unwrap());
    flush().await;
    road.change(&mut sub, |sub| sub.prefetch_count = 1).await;
    flush().await;
    road.cancel(&sub).await;
    road.fill(&[&sub], 1).await;
    assert_eq!(road.state(&sub).await.queued, 0);
}

/// What brings more in is refused whole; what drains goes on.
#[tokio::test]
async fn a_full_redis_still_drains() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|sub| sub.retry.max_retries = 0).await;
    road.queue(&sub, &["a", "b", "c", "d"]).await;
    let entry = road.store.history(0, StreamId::ZERO, END, 1).await.unwrap().remove(0);
    let lane = LAYOUT.lane_of(&sub.id);
    // Known to the server and not: both are refused alike.
    for flush in [false, true] {
        road.redis(&["CONFIG", "SET", "maxmemory", "0"]).await;
        if flush {
            road.redis(&["SCRIPT", "FLUSH"]).await;
        }
        let before = road.redis(&["DEBUG", "DIGEST"]).await;
        road.redis(&["CONFIG", "SET", "maxmemory", "1"]).await;
        let full = |error: StoreError| {
            assert!(matches!(error, StoreError::Full(_)) && error.is_transient(), "{error}");
        };
        full(road.accept_all(0, vec![acceptance("e", Priority::Normal)]).await.unwrap_err());
        full(road.accept_all(1, vec![acceptance("e", Priority::Normal)]).await.unwrap_err());
        let placed = vec![place(&entry, &[&sub.id], Priority::Normal)];
        let link = ChainLink { partition: 3, prev: StreamId::ZERO, last: entry.id, entries: placed };
        full(road.enqueue(lane, link).await.unwrap_err());
        assert_eq!(road.redis(&["DEBUG", "DIGEST"]).await, before, "nothing changed");
    }
    let mut leases = road.take("w-1", &sub).await.leases;
    assert_eq!(leases.len(), 4);
    road.outcome("w-1", &sub, leases.remove(0), &answered(200)).await;
    road.outcome("w-1", &sub, leases.remove(0), &answered(500)).await;
    road.settle("w-1", vec![put(leases.remove(0), Place::Later { delay_ms: 0 })]).await;
    assert_eq!(road.promote("w-1", &sub).await.handled, 1);
    assert_eq!(road.sweep("w-2", &sub, &["w-2"]).await.lost.len(), 1);
    let letters = road.store.dead_letters(&sub.id, StreamId::ZERO, None, 9).await.unwrap();
    let replayed = road.store.replay_dead(&sub.id, "job_1", 9, TRACE, &[letters[0].id.entry]).await.unwrap();
    assert_eq!(replayed.moved, 1);
    let epoch = road.own("r-1", 0).await;
    let routed = Routed { partition: 0, epoch, upto: entry.id, sent: vec![] };
    assert!(*road.store.routed("r-1", &[routed]).await.unwrap()[0].as_ref().unwrap());
    assert_eq!(road.store.trim("r-1", 0, epoch, entry.id, 0).await.unwrap(), Some(0));
    road.store.announce("w-1", "{}").await.unwrap();
    // Whoever must pause or cancel to get out of it can.
    let mut new = road.subscribe(|_| {}).await;
    road.change(&mut new, |sub| sub.status = Status::Paused).await;
    road.cancel(&new).await;
    assert_eq!(road.take("w-1", &sub).await.leases.len(), 2);
    road.check().await;
    road.redis(&["CONFIG", "SET", "maxmemory", "0"]).await;
    stored(&road.accept(&["e"]).await[0]);
}

#[tokio::test]
async fn a_redis_that_is_away_is_waited_for() {
    let mut road = Road::on_disk().await;
    let sub = road.subscribe(|_| {}).await;
    road.queue(&sub, &["a", "b"]).await;
    let lease = road.take_some("w-1", &sub, 1).await.leases.remove(0);
    let flight = [(lease.lane, vec![settlement(&sub, lease, &Outcome::WorkerLost)])];
    road.redis.kill().unwrap();
    for _ in 0..2 {
        let error = road.store.accept(&[(0, vec![])], WINDOW).await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable(_)) && error.is_transient(), "{error}");
        assert!(road.store.settle("w-1", &flight, CIRCUIT, TRACE).await.unwrap_err().is_transient());
        assert!(road.store.living().await.unwrap_err().is_transient());
    }
    road.redis.restart().await.unwrap();
    // What was taken is still out, and is settled as if nothing had been.
    assert_eq!(road.settle_lane("w-1", &flight).await.stale, 0);
    assert_eq!(road.settle_lane("w-1", &flight).await.stale, 1);
    assert_eq!(road.take("w-1", &sub).await.leases.len(), 2);
    road.check().await;
}

#[tokio::test]
async fn a_redis_that_hangs_is_given_up_in_time() {
    let redis = PrivateRedis::start().await.unwrap();
    let config = LinkConfig { response_timeout: Duration::from_millis(100), ..LinkConfig::new(redis.url()) };
    let store = Store::new(config, "test", LAYOUT).unwrap();
    store.prepare().await.unwrap();
    redis.stop_signal().unwrap();
    assert!(store.living().await.unwrap_err().is_transient());
    redis.cont().unwrap();
    assert!(store.living().await.unwrap().members.is_empty(), "on a new connection");
}

/// A server that restarted goes on above every id that it gave out, even with its tail cut off.
#[tokio::test]
async fn ids_go_on_above_after_a_restart() {
    let road = Road::on_disk().await;
    let first = stored(&road.accept(&["a"]).await[0]);
    road.redis.kill().unwrap();
    road.redis.restart().await.unwrap();
    road.store.prepare_patiently().await.unwrap();
    let again = road.accept(&["a"]).await.remove(0);
    assert!(matches!(again, Accepted::Duplicate { at, .. } if at == first), "{again:?}");
    let next = stored(&road.accept(&["b"]).await[0]);
    assert!(next.ms >= first.ms + 60_000, "{first} {next}");
    assert!(stored(&road.accept(&["c"]).await[0]).ms < next.ms + 30_000, "once a server");
}

#[tokio::test]
async fn an_emptied_redis_is_a_new_one() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    road.queue(&sub, &["a"]).await;
    let lease = road.take_one("w-1", &sub).await;
    let last = road.store.history(0, StreamId::ZERO, END, 9).await.unwrap()[0].id;
    road.redis.kill().unwrap();
    road.redis.restart().await.unwrap();
    road.store.prepare_patiently().await.unwrap();
    assert_eq!(road.settle("w-1", vec![put(lease, Place::Settled)]).await.stale, 1);
    let next = stored(&road.accept(&["a"]).await[0]);
    assert!(next > last, "a lane on another server may know {last}, this one gives {next}");
    let gap = ChainLink { partition: 0, prev: last, last: next, entries: vec![] };
    let answer = road.enqueue(LAYOUT.lane_of(&sub.id), gap).await.unwrap().links;
    assert_eq!(answer, [Linked::Gap(StreamId::ZERO)], "the lane says what it lacks");
    assert_eq!(road.store.newest_change().await.unwrap(), StreamId::ZERO);
    road.check().await;
}

#[tokio::test]
async fn a_server_that_became_a_replica_is_left() {
    let road = Road::new().await;
    road.accept(&["a"]).await;
    road.redis(&["REPLICAOF", "127.0.0.1", "1"]).await;
    let error = road.accept_all(0, vec![acceptance("b", Priority::Normal)]).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    road.redis(&["REPLICAOF", "NO", "ONE"]).await;
    stored(&road.accept(&["b"]).await[0]);
}

#[tokio::test]
async fn a_wrong_password_is_no_reason_to_crash() {
    let redis = PrivateRedis::builder().password("right").start().await.unwrap();
    let url = redis.url().replace("right", "wrong");
    let store = Store::new(LinkConfig::new(url), "test", LAYOUT).unwrap();
    assert!(store.prepare().await.is_err());
}
