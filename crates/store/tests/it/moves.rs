//! Each move of a delivery inside its lane: before, move, after.

use super::kit::*;
use postroad_model::{delivery::Outcome, message::Priority, subscription::Status};
use postroad_store::{LaneLimits, StreamId, trace::Lies};

#[tokio::test]
async fn a_delivery_is_taken_once_and_settled() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    let ids = road.queue(&sub, &["a", "b"]).await;
    let mut taken = road.take("w-1", &sub).await;
    assert_eq!(taken.leases.len(), 2);
    assert!(road.take("w-2", &sub).await.leases.is_empty());
    assert_eq!(road.places(&sub).await, [("w-1".to_owned(), 2)]);
    let second = taken.leases.pop().unwrap();
    let first = taken.leases.pop().unwrap();
    assert_eq!(first.entry.decode().unwrap().id.as_str(), "a");
    assert_eq!(first.reference, format!("0:{}", ids[0]));

    let settled = road.outcome("w-1", &sub, first, &answered(200)).await;
    assert_eq!(settled.stale, 0);
    let settled = road.outcome("w-1", &sub, second, &answered(204)).await;
    assert_eq!(settled.stale, 0);
    assert_eq!(road.length(&road.lane_key(&sub, &format!("work:{}:1", sub.id))).await, 0);
    assert_eq!(road.length(&road.lane_key(&sub, "ready")).await, 0);
    let state = road.store.states(std::slice::from_ref(&sub.id)).await.unwrap().pop().unwrap();
    assert_eq!((state.delivered, state.failed, state.queued), (2, 0, 0));

    let traces = road.store.locate(0, ids[0]).await.unwrap();
    assert_eq!(traces.len(), 1);
    assert_eq!(traces[0].lines.len(), 2, "{traces:?}");
    assert_eq!(traces[0].located[0].lies, Lies::Gone);
}

#[tokio::test]
async fn a_failed_attempt_is_scheduled_promoted_and_buried() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    let ids = road.queue(&sub, &["a"]).await;
    let lease = road.take("w-1", &sub).await.leases.pop().unwrap();
    let settled = road.outcome("w-1", &sub, lease, &answered(500)).await;
    assert!(settled.next_due.unwrap().as_millis() <= 50);
    assert_eq!(road.places(&sub).await, [("later".to_owned(), 1)]);
    let trace = &road.store.locate(0, ids[0]).await.unwrap()[0];
    assert!(matches!(trace.located[0].lies, Lies::Scheduled(_)), "{trace:?}");
    assert!(road.take("w-1", &sub).await.leases.is_empty());

    tokio::time::sleep(std::time::Duration::from_millis(60)).await;
    let lane = LAYOUT.lane_of(&sub.id);
    let promoted = road.store.promote("w-1", &[lane], WINDOW).await.unwrap().pop().unwrap().unwrap();
    assert_eq!((promoted.handled, promoted.next_due), (1, None));
    assert_eq!(road.places(&sub).await, [("again".to_owned(), 1)]);

    let lease = road.take("w-2", &sub).await.leases.pop().unwrap();
    assert_eq!(lease.tries.progress.attempts, 1);
    assert_eq!(lease.tries.attempts.len(), 1);
    assert_eq!(lease.number, 2);
    road.outcome("w-2", &sub, lease, &answered(404)).await;
    assert!(road.places(&sub).await.is_empty());
    let dead = road.store.dead_letters(&sub.id, StreamId::ZERO, None, 10).await.unwrap();
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].tries.attempts.len(), 2);
    assert_eq!(dead[0].reason.unwrap().as_str(), "retries_exhausted");
    assert_eq!(dead[0].entry.decode().unwrap().id.as_str(), "a");
    let trace = &road.store.locate(0, ids[0]).await.unwrap()[0];
    assert_eq!(trace.dead_reason(sub.id.as_str()).unwrap().as_str(), "retries_exhausted");
}

#[tokio::test]
async fn a_dead_letter_goes_back_whole_and_once() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|sub| sub.retry.max_retries = 0).await;
    road.queue(&sub, &["a"]).await;
    let lease = road.take("w-1", &sub).await.leases.pop().unwrap();
    road.outcome("w-1", &sub, lease, &answered(500)).await;
    let queues = road.store.dead_queues().await.unwrap();
    assert_eq!((queues[0].subscription.clone(), queues[0].count), (sub.id.clone(), 1));
    let dead = road.store.dead_letters(&sub.id, StreamId::ZERO, None, 10).await.unwrap();
    let entries = [dead[0].id.entry];
    let replayed = road.store.replay_dead(&sub.id, "job_1", 100, TRACE, &entries).await.unwrap();
    assert_eq!(replayed.moved, 1);
    let again = road.store.replay_dead(&sub.id, "job_1", 100, TRACE, &entries).await.unwrap();
    assert_eq!(again.moved, 0);
    assert_eq!(road.store.job_moved("job_1").await.unwrap(), 1);
    assert!(road.store.dead_queues().await.unwrap().is_empty());
    let lease = road.take("w-1", &sub).await.leases.pop().unwrap();
    assert!(lease.tries.is_empty(), "a replay starts a fresh set of attempts");
    assert_eq!(road.outcome("w-1", &sub, lease, &answered(200)).await.stale, 0);
}

#[tokio::test]
async fn a_late_failure_changes_nothing_and_a_late_success_settles() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    road.queue(&sub, &["a", "b"]).await;
    let mut held = road.take("w-1", &sub).await.leases;
    let lane = LAYOUT.lane_of(&sub.id);
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    let swept = road
        .store
        .sweep("w-2", std::time::Duration::from_millis(10), lane, 0, &["w-2".into()], &[])
        .await
        .unwrap();
    assert_eq!(swept.lost.len(), 2);
    for lease in swept.lost {
        road.outcome("w-2", &sub, lease, &Outcome::WorkerLost).await;
    }
    assert_eq!(road.places(&sub).await, [("again".to_owned(), 2)]);
    let (late_success, late_failure) = (held.remove(0), held.remove(0));
    assert_eq!(road.outcome("w-1", &sub, late_failure, &answered(500)).await.stale, 1);
    assert_eq!(road.places(&sub).await, [("again".to_owned(), 2)]);
    assert_eq!(road.outcome("w-1", &sub, late_success, &answered(200)).await.stale, 0);
    assert_eq!(road.places(&sub).await, [("again".to_owned(), 1)]);
    let lease = road.take("w-3", &sub).await.leases.pop().unwrap();
    assert_eq!((lease.tries.progress.attempts, lease.tries.progress.reclaims), (0, 1));
}

#[tokio::test]
async fn credit_bounds_what_is_out_over_all_workers() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|sub| sub.prefetch_count = 3).await;
    road.queue(&sub, &["a", "b", "c", "d", "e"]).await;
    let mut first = road.take_some("w-1", &sub, 2).await;
    assert_eq!(first.leases.len(), 2);
    assert!(first.left, "work and credit are left, so the token is back");
    assert_eq!(road.take("w-2", &sub).await.leases.len(), 1);
    assert!(road.take("w-3", &sub).await.leases.is_empty());
    assert_eq!(road.length(&road.lane_key(&sub, "ready")).await, 0);
    road.outcome("w-1", &sub, first.leases.pop().unwrap(), &answered(200)).await;
    assert_eq!(road.take("w-3", &sub).await.leases.len(), 1);
}

#[tokio::test]
async fn urgent_messages_go_first_but_starve_none() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    road.queue_ranked(&sub, &["low"], Priority::Low).await;
    let urgent: Vec<String> = (0..10).map(|n| format!("u{n}")).collect();
    let urgent: Vec<&str> = urgent.iter().map(String::as_str).collect();
    road.queue_ranked(&sub, &urgent, Priority::Critical).await;
    let mut order = Vec::new();
    while let Some(lease) = road.take_some("w-1", &sub, 1).await.leases.pop() {
        order.push(lease.entry.decode().unwrap().id.to_string());
        road.outcome("w-1", &sub, lease, &answered(200)).await;
    }
    assert_eq!(order.len(), 11);
    assert_eq!(order.iter().position(|id| id == "low"), Some(7), "{order:?}");
}

#[tokio::test]
async fn a_paused_subscription_parks_and_comes_back_with_one() {
    let mut road = Road::new().await;
    let mut sub = road.subscribe(|_| {}).await;
    let change = road.store.subscription(&sub.id).await.unwrap().unwrap().change;
    sub.status = Status::Paused;
    let change = road.store.put_subscription(&sub, Some(change), 9, LaneLimits::default()).await.unwrap();
    road.queue(&sub, &["a", "b"]).await;
    assert!(road.take("w-1", &sub).await.leases.is_empty());
    sub.status = Status::Active;
    road.store.put_subscription(&sub, Some(change), 9, LaneLimits::default()).await.unwrap();
    assert_eq!(road.take("w-1", &sub).await.leases.len(), 1);
}

#[tokio::test]
async fn a_cancelled_subscription_takes_nothing_more() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    road.queue(&sub, &["a"]).await;
    let change = road.store.subscription(&sub.id).await.unwrap().unwrap().change;
    road.store.cancel_subscription(&sub.id, &sub.tenant, change).await.unwrap();
    assert!(road.take("w-1", &sub).await.leases.is_empty());
    road.queue(&sub, &["b"]).await;
    assert!(road.take("w-1", &sub).await.leases.is_empty());
    assert!(road.store.subscription(&sub.id).await.unwrap().is_none());
    assert_eq!(
        road.redis(&["EXISTS", &road.lane_key(&sub, &format!("work:{}:1", sub.id))]).await.int(),
        Some(0)
    );
}

#[tokio::test]
async fn a_circuit_opens_probes_and_closes() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|sub| sub.retry.max_retries = 0).await;
    road.queue(&sub, &["a", "b", "c", "d", "e"]).await;
    let held = road.take("w-1", &sub).await.leases;
    assert_eq!(held.len(), 4);
    let bad = held.into_iter().map(|lease| settlement(&sub, lease, &answered(500))).collect();
    road.settle("w-1", bad).await;
    let state = || async { road.store.states(std::slice::from_ref(&sub.id)).await.unwrap().pop().unwrap() };
    assert_eq!(state().await.limit, Some(0));
    assert!(road.take("w-1", &sub).await.leases.is_empty());
    tokio::time::sleep(std::time::Duration::from_millis(120)).await;
    road.store.promote("w-1", &[LAYOUT.lane_of(&sub.id)], WINDOW).await.unwrap();
    let probe = road.take("w-1", &sub).await.leases.pop().unwrap();
    assert_eq!(state().await.limit, Some(1));
    road.outcome("w-1", &sub, probe, &answered(200)).await;
    assert_eq!(state().await.limit, Some(1), "it grows with each second of success");
}

#[tokio::test]
async fn a_second_410_a_minute_later_disables() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    road.queue(&sub, &["a", "b"]).await;
    let mut held = road.take("w-1", &sub).await.leases;
    let first = road.outcome("w-1", &sub, held.pop().unwrap(), &answered(410)).await;
    assert!(first.disabled.is_empty() && first.next_due.unwrap().as_secs() >= 59);
    let same_time = road.outcome("w-1", &sub, held.pop().unwrap(), &answered(410)).await;
    assert!(same_time.disabled.is_empty(), "what was out already says nothing new");
    assert!(road.take("w-1", &sub).await.leases.is_empty(), "the subscription is held");

    let key = road.lane_key(&sub, &format!("sub:{}", sub.id));
    road.redis(&["HSET", &key, "gone", "1", "hold", "0"]).await;
    road.redis(&["ZADD", &road.lane_key(&sub, "timers"), "1", &format!("hold:{}", sub.id)]).await;
    road.store.promote("w-1", &[LAYOUT.lane_of(&sub.id)], WINDOW).await.unwrap();
    let mut probe = road.take("w-1", &sub).await.leases;
    assert_eq!(probe.len(), 1, "one probe");
    let second = road.outcome("w-1", &sub, probe.pop().unwrap(), &answered(410)).await;
    assert_eq!(second.disabled, [sub.id.to_string()]);
    let outbox = road.store.outbox(&[(LAYOUT.lane_of(&sub.id), StreamId::ZERO)]).await.unwrap();
    assert_eq!((outbox[0].kind.as_str(), outbox[0].subscription.as_str()), ("disabled", sub.id.as_str()));
    assert!(road.take("w-1", &sub).await.leases.is_empty());
    assert_eq!(road.places(&sub).await, [("again".to_owned(), 2)], "the backlog is parked");
}
