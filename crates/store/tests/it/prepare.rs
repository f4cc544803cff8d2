//! Whether a server can be worked with, and an environment's layout.

use super::kit::*;
use postroad_model::placement::Layout;
use postroad_store::{LinkConfig, Store, StoreError, keys::Tag};
use postroad_testkit::redis::{Fsync, PrivateRedis};

fn store(road: &Road, environment: &str, partitions: u16, lanes: u16) -> Store {
    Store::new(LinkConfig::new(road.redis.url()), environment, Layout { partitions, lanes }).unwrap()
}

#[tokio::test]
async fn a_layout_is_fixed_at_first_start() {
    let road = Road::new().await;
    for _ in 0..2 {
        store(&road, "test", LAYOUT.partitions, LAYOUT.lanes).prepare().await.unwrap();
    }
    for (partitions, lanes) in [(3, 2), (2, 3), (8, 64)] {
        let error = store(&road, "test", partitions, lanes).prepare().await.unwrap_err();
        let StoreError::Layout { stored_partitions: 2, stored_lanes: 2, partitions: p, lanes: l } = error
        else {
            panic!("{error}")
        };
        assert_eq!((p, l), (partitions, lanes));
        assert!(!error.is_transient() && error.to_string().contains("2 partitions and 2 lanes"), "{error}");
    }
    let other = store(&road, "other", 3, 5);
    other.prepare().await.unwrap();
    assert_eq!(other.layout(), Layout { partitions: 3, lanes: 5 });
    for junk in ["many", "-1", "70000"] {
        road.redis(&["HSET", &road.keys.key(Tag::Ctl, "layout"), "lanes", junk]).await;
        let error = store(&road, "test", 2, 2).prepare().await.unwrap_err();
        assert!(matches!(error, StoreError::Reply(_)), "{junk}: {error}");
    }
    // Only what waiting cannot mend is an error.
    let error = store(&road, "other", 9, 9).prepare_patiently().await.unwrap_err();
    assert!(matches!(error, StoreError::Layout { .. }), "{error}");
}

#[tokio::test]
async fn a_server_that_evicts_is_refused() {
    let road = Road::new().await;
    road.redis(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).await;
    let error = road.store.prepare().await.unwrap_err();
    assert!(matches!(&error, StoreError::Unsuitable(text) if text.contains("noeviction")), "{error}");
    assert!(!error.is_transient());
}

#[tokio::test]
async fn a_server_is_described_as_it_is() {
    let redis =
        PrivateRedis::builder().append_only(Fsync::EverySecond).maxmemory_bytes(64 << 20).password("s3cret");
    let road = Road::on(redis.start().await.unwrap()).await;
    let server = road.store.prepare().await.unwrap();
    assert!(server.version >= (7, 0) && server.append_only);
    assert_eq!((server.max_memory, server.replicas), (64 << 20, 0));
    let used = road.store.memory_used().await.unwrap();
    assert!(server.used_memory > 0 && used > 0.0 && used < 1.0, "{used}");
    road.redis(&["CONFIG", "SET", "maxmemory", "0"]).await;
    assert!(road.store.memory_used().await.unwrap() < f64::EPSILON, "no bound");
    assert_eq!(road.store.fsync_policy().await.as_deref(), Some("everysec"));
    road.redis(&["ACL", "SETUSER", "default", "-config"]).await;
    assert_eq!(road.store.fsync_policy().await, None, "where we may not ask");
    road.store.prepare().await.unwrap();
}

#[tokio::test]
async fn whoever_waits_for_a_server_gets_it() {
    let road = Road::new().await;
    road.redis.kill().unwrap();
    let error = road.store.prepare().await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    let (prepared, restarted) = tokio::join!(road.store.prepare_patiently(), async {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        road.redis.restart().await
    });
    restarted.unwrap();
    assert_eq!(prepared.unwrap().eviction_policy, "noeviction");
}
