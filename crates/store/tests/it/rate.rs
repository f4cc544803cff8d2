//! A rate limit: so many deliveries a second, whoever takes them.

use super::kit::*;
use postroad_model::subscription::Subscription;

/// Moves the subscription's virtual clock back by so many milliseconds, as if they had passed.
async fn pass(road: &Road, sub: &Subscription, ms: f64) {
    let key = road.sub_key(sub);
    let tat: f64 = road.redis(&["HGET", &key, "tat"]).await.text().unwrap().parse().unwrap();
    road.redis(&["HSET", &key, "tat", &format!("{:.3}", tat - ms)]).await;
}

#[tokio::test]
async fn no_more_than_a_tenth_of_a_second_at_once() {
    let mut road = Road::new().await;
    for (rate, burst) in [(1, 1), (5, 1), (10, 1), (20, 2), (100, 10), (1_000, 100)] {
        let sub = road.subscribe(|sub| (sub.rate_limit, sub.prefetch_count) = (Some(rate), 10_000)).await;
        road.fill(&[&sub], 300).await;
        let taken = road.take_some("w-1", &sub, 1_000).await;
        let most = burst + 1 + usize::try_from(rate).unwrap() / 50;
        assert!((burst..=most).contains(&taken.leases.len()), "{rate}: {}", taken.leases.len());
        let wait = taken.wait.unwrap_or_else(|| panic!("{rate}: it does not say when there is more"));
        assert!(wait.as_millis() <= 1_000 / u128::from(rate) + 1, "{rate}: {wait:?}");
        road.check().await;
        road.cancel(&sub).await;
    }
}

#[tokio::test]
async fn its_time_gives_more_without_another_message() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|sub| (sub.rate_limit, sub.prefetch_count) = (Some(1), 100)).await;
    road.fill(&[&sub], 5).await;
    for _ in 0..5 {
        assert_eq!(road.take("w-1", &sub).await.leases.len(), 1);
        let again = road.take("w-2", &sub).await;
        assert!(again.leases.is_empty());
        road.check().await;
        pass(&road, &sub, 1_000.0).await;
        road.promote_early("w-1", &sub).await;
    }
    road.check().await;
}

#[tokio::test]
async fn what_comes_while_it_waits_does_not_hasten_it() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|sub| sub.rate_limit = Some(1)).await;
    road.fill(&[&sub], 1).await;
    let lease = road.take_one("w-1", &sub).await;
    road.outcome("w-1", &sub, lease, &answered(200)).await;
    road.fill(&[&sub], 3).await;
    assert!(road.take("w-1", &sub).await.leases.is_empty());
    let swept = road.sweep("w-1", &sub, &["w-1"]).await;
    assert_eq!(swept.rearmed, 0, "no token is missing");
    assert!(road.take("w-1", &sub).await.leases.is_empty());
    road.check().await;
}

#[tokio::test]
async fn a_clock_that_was_set_back_does_not_stop_it() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|sub| sub.rate_limit = Some(10)).await;
    road.fill(&[&sub], 3).await;
    road.take("w-1", &sub).await;
    pass(&road, &sub, -3_600_000.0).await;
    let swept = road.sweep("w-1", &sub, &["w-1"]).await;
    assert!(swept.rearmed <= 1);
    let timers = road.texts(&["ZRANGE", &road.lane_key(&sub, "timers"), "0", "-1", "WITHSCORES"]).await;
    let at = timers.iter().position(|name| *name == format!("rate:{}", sub.id)).unwrap();
    let due: f64 = timers[at + 1].parse().unwrap();
    #[expect(clippy::cast_precision_loss, reason = "milliseconds")]
    let now = road.now().await as f64;
    assert!(due - now <= 200.0, "{}", due - now);
}

#[tokio::test]
async fn without_a_limit_nothing_waits() {
    let mut road = Road::new().await;
    let mut sub = road.subscribe(|sub| sub.rate_limit = Some(1)).await;
    road.fill(&[&sub], 3).await;
    assert_eq!(road.take("w-1", &sub).await.leases.len(), 1);
    road.change(&mut sub, |sub| sub.rate_limit = None).await;
    let taken = road.take("w-1", &sub).await;
    assert_eq!((taken.leases.len(), taken.wait), (2, None));
}
