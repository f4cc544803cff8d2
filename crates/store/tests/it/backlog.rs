//! How far behind everything is.

use super::kit::*;
use postroad_store::Backlog;

#[tokio::test]
async fn what_waits_is_told_by_lane_owner_and_age() {
    let mut road = Road::new().await;
    let (a, b) = (road.subscribe_in(0, |_| ()).await, road.subscribe_in(1, |_| ()).await);
    assert_eq!(road.store.backlog(road.now().await).await.unwrap(), Backlog::default());
    assert_eq!(road.store.oldest_retained().await.unwrap(), None);
    road.queue(&a, &["m1", "m2", "m3"]).await;
    road.queue(&b, &["m4"]).await;
    let leases = road.take_some("w-1", &a, 2).await.leases;
    assert_eq!(leases.len(), 2);
    let now = road.now().await;
    let waiting = road.store.backlog(now + 5_000).await.unwrap();
    assert_eq!((waiting.subscriptions, waiting.ready, waiting.queued), (2, 2, 4));
    assert!(waiting.oldest_ready_ms >= 5_000, "{waiting:?}");
    let oldest = road.store.oldest_retained().await.unwrap().unwrap();
    assert!(oldest <= now && oldest + 60_000 > now, "{oldest} at {now}");
    assert_eq!(road.store.owners().await.unwrap(), [None, None]);
    road.own("router-1", 1).await;
    assert_eq!(road.store.owners().await.unwrap(), [None, Some("router-1".to_owned())]);
    // A key of another type keeps nothing else from being told.
    road.redis(&["SET", &road.lane_key(&a, "live"), "junk"]).await;
    road.redis(&["SET", &road.work_key(&b), "junk"]).await;
    let waiting = road.store.backlog(now).await.unwrap();
    assert_eq!((waiting.subscriptions, waiting.ready, waiting.queued), (1, 2, 0));
}
