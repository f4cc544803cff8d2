//! settle's brakes: the limit, the circuit, holds.

use std::time::Duration;

use super::kit::*;
use postroad_model::{delivery::Outcome, subscription::Subscription};
use postroad_store::{Circuit, Settled, StreamId};

const NO_CIRCUIT: Circuit = Circuit { failures: 0, ..CIRCUIT };

/// Takes what may be taken and answers it, as if a second had gone by since the limit was last looked at.
async fn second(road: &Road, sub: &Subscription, circuit: Circuit, answers: &[u16]) -> Settled {
    let leases = road.take_some("w-1", sub, answers.len()).await.leases;
    assert_eq!(leases.len(), answers.len());
    road.redis(&["HSET", &road.sub_key(sub), "window", "1"]).await;
    let flight = leases
        .into_iter()
        .zip(answers)
        .map(|(lease, status)| settlement(sub, lease, &answered(*status)))
        .collect();
    let lane = LAYOUT.lane_of(&sub.id);
    road.store.settle("w-1", &[(lane, flight)], circuit, TRACE).await.unwrap().remove(0).unwrap()
}

async fn limit(road: &Road, sub: &Subscription) -> Option<u64> {
    road.state(sub).await.limit
}

#[tokio::test]
async fn the_limit_is_halved_and_doubled_by_the_second() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|sub| (sub.prefetch_count, sub.retry.retry_delay_ms) = (8, 600_000)).await;
    road.fill(&[&sub], 60).await;
    second(&road, &sub, NO_CIRCUIT, &[200; 8]).await;
    assert_eq!(limit(&road, &sub).await, None, "without failures nothing is written");
    let steps: [(&[u16], u64); 9] = [
        (&[500, 500, 200], 4),
        (&[500, 200], 8),
        (&[500], 4),
        (&[500, 500], 2),
        (&[500], 1),
        (&[500], 1),
        (&[200], 2),
        (&[200], 4),
        (&[200, 200], 8),
    ];
    for (at, (answers, expected)) in steps.into_iter().enumerate() {
        second(&road, &sub, NO_CIRCUIT, answers).await;
        assert_eq!(limit(&road, &sub).await, Some(expected), "step {at}");
        road.check().await;
    }
    second(&road, &sub, NO_CIRCUIT, &[200]).await;
    assert_eq!(limit(&road, &sub).await, Some(8), "never above prefetch_count");
}

#[tokio::test]
async fn within_a_second_the_limit_stays() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|sub| (sub.prefetch_count, sub.retry.retry_delay_ms) = (8, 600_000)).await;
    road.fill(&[&sub], 8).await;
    let mut leases = road.take("w-1", &sub).await.leases;
    let lane = LAYOUT.lane_of(&sub.id);
    for status in [500, 500, 500, 200] {
        let flight = vec![settlement(&sub, leases.remove(0), &answered(status))];
        road.store.settle("w-1", &[(lane, flight)], NO_CIRCUIT, TRACE).await.unwrap().remove(0).unwrap();
        // A second measured by a clock that was set back begins anew.
        road.redis(&["HSET", &road.sub_key(&sub), "window", &road.now().await.to_string()]).await;
        assert_eq!(limit(&road, &sub).await, Some(8));
    }
}

#[tokio::test]
async fn a_circuit_opens_longer_with_each_probe_that_fails() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|sub| (sub.prefetch_count, sub.retry.retry_delay_ms) = (8, 600_000)).await;
    road.fill(&[&sub], 40).await;
    second(&road, &sub, CIRCUIT, &[500, 500]).await;
    assert!(limit(&road, &sub).await > Some(0), "two are not three");
    let timer = format!("probe:{}", sub.id);
    let timers = road.lane_key(&sub, "timers");
    for open in [100, 200, 400, 800, 1_000, 1_000] {
        let before = road.now().await;
        second(&road, &sub, CIRCUIT, &[500]).await;
        let after = road.now().await;
        assert_eq!(limit(&road, &sub).await, Some(0));
        let due = u64::try_from(road.number(&["ZSCORE", &timers, &timer]).await).unwrap();
        assert!((before + open..=after + open).contains(&due), "{open}: {}", due - before);
        assert!(road.take("w-1", &sub).await.leases.is_empty(), "parked");
        road.check().await;
        // Sweeping does not open it.
        assert_eq!(road.sweep("w-1", &sub, &["w-1"]).await.rearmed, 0);
        road.promote_early("w-1", &sub).await;
        assert_eq!(limit(&road, &sub).await, Some(1));
        road.promote_early("w-1", &sub).await;
        road.check().await;
    }
    second(&road, &sub, CIRCUIT, &[200]).await;
    assert_eq!(limit(&road, &sub).await, Some(2), "a probe that is answered closes it");
    let opened = road.redis(&["HGET", &road.sub_key(&sub), "opened"]).await.int();
    assert_eq!(opened, Some(0), "and the next opening is a short one again");
}

#[tokio::test]
async fn failures_that_did_not_last_open_no_circuit() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|sub| (sub.prefetch_count, sub.retry.retry_delay_ms) = (8, 600_000)).await;
    road.fill(&[&sub], 20).await;
    let patient = Circuit { lasting: Duration::from_secs(30), ..CIRCUIT };
    second(&road, &sub, patient, &[500, 500, 500, 500]).await;
    second(&road, &sub, patient, &[500]).await;
    assert!(limit(&road, &sub).await > Some(0));
    // A success in between begins the count anew; half a minute of nothing else does open it.
    second(&road, &sub, patient, &[200]).await;
    let from = (road.now().await - 31_000).to_string();
    road.redis(&["HSET", &road.sub_key(&sub), "streak_from", &from]).await;
    second(&road, &sub, patient, &[500]).await;
    assert!(limit(&road, &sub).await > Some(0));
    road.redis(&["HSET", &road.sub_key(&sub), "streak", "9", "streak_from", &from]).await;
    second(&road, &sub, patient, &[500]).await;
    assert_eq!(limit(&road, &sub).await, Some(0));
}

#[tokio::test]
async fn retry_after_holds_the_whole_subscription() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|sub| sub.retry.max_retries = 9).await;
    road.fill(&[&sub], 10).await;
    let busy = |ms| Outcome::Answered { status: 503, retry_after_ms: Some(ms) };
    let mut leases = road.take_some("w-1", &sub, 3).await.leases;
    let before = road.now().await;
    road.outcome("w-1", &sub, leases.remove(0), &busy(60_000)).await;
    let held = road.state(&sub).await.hold_ms.unwrap();
    assert!(held >= before + 60_000);
    road.outcome("w-1", &sub, leases.remove(0), &busy(1_000)).await;
    assert_eq!(road.state(&sub).await.hold_ms, Some(held), "the longer one counts");
    road.outcome("w-1", &sub, leases.remove(0), &busy(120_000)).await;
    let held = road.state(&sub).await.hold_ms.unwrap();
    assert!(held >= before + 120_000);
    assert!(road.take("w-1", &sub).await.leases.is_empty());
    road.check().await;
    // Other timers do not end it, its own does.
    road.promote_early("w-1", &sub).await;
    assert!(road.take("w-1", &sub).await.leases.is_empty(), "the time has not come");
    let now = road.now().await.to_string();
    road.redis(&["HSET", &road.sub_key(&sub), "hold", &now]).await;
    road.redis(&["ZADD", &road.lane_key(&sub, "timers"), &now, &format!("hold:{}", sub.id)]).await;
    assert_eq!(road.promote("w-1", &sub).await.handled, 1);
    assert!(!road.take("w-1", &sub).await.leases.is_empty());
    road.check().await;
}

#[tokio::test]
async fn a_good_answer_forgives_a_410() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    road.fill(&[&sub], 3).await;
    let mut leases = road.take_some("w-1", &sub, 2).await.leases;
    road.outcome("w-1", &sub, leases.remove(0), &answered(410)).await;
    road.redis(&["HSET", &road.sub_key(&sub), "gone", "1"]).await;
    road.outcome("w-1", &sub, leases.remove(0), &answered(200)).await;
    assert_eq!(road.number(&["HEXISTS", &road.sub_key(&sub), "gone"]).await, 0);
    assert_eq!(road.state(&sub).await.status, "active");
    let entries = road.store.outbox(&[(0, StreamId::ZERO), (1, StreamId::ZERO)]).await.unwrap();
    assert!(entries.is_empty(), "{entries:?}");
}

#[tokio::test]
async fn what_left_the_outbox_is_gone_from_it() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    road.fill(&[&sub], 1).await;
    let lease = road.take_one("w-1", &sub).await;
    road.redis(&["HSET", &road.sub_key(&sub), "gone", "1"]).await;
    let before = road.now().await;
    let settled = road.outcome("w-1", &sub, lease, &answered(410)).await;
    assert_eq!(settled.disabled, [sub.id.to_string()]);
    let entry = road.store.outbox(&[(0, StreamId::ZERO), (1, StreamId::ZERO)]).await.unwrap().remove(0);
    assert_eq!((entry.lane, entry.subscription.as_str()), (LAYOUT.lane_of(&sub.id), sub.id.as_str()));
    assert!(entry.at_ms >= before && entry.reason.contains("410"), "{entry:?}");
    for _ in 0..2 {
        road.store.outbox_done(&entry).await.unwrap();
        assert!(road.store.outbox(&[(0, StreamId::ZERO), (1, StreamId::ZERO)]).await.unwrap().is_empty());
    }
    road.check().await;
}
