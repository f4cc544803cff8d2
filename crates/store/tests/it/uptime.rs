//! Minutes in which an API was ready.

use super::kit::*;

#[tokio::test]
async fn the_share_of_minutes_since_the_first() {
    let road = Road::new().await;
    assert_eq!(road.store.uptime().await.unwrap(), 0.0);
    for _ in 0..2 {
        road.store.note_ready().await.unwrap();
        assert_eq!(road.store.uptime().await.unwrap(), 1.0);
    }
    // Begun 99 minutes ago, and ready in half of them.
    let now = road.now().await / 60_000;
    for minute in (now - 99..now).step_by(2) {
        let key = road.keys.key(postroad_store::keys::Tag::Ctl, &format!("up:{}", minute / 1_440));
        road.redis(&["SETBIT", &key, &(minute % 1_440).to_string(), "1"]).await;
    }
    let share = road.store.uptime().await.unwrap();
    assert!((0.49..=0.52).contains(&share), "{share}");
    let key = road.keys.key(postroad_store::keys::Tag::Ctl, &format!("up:{}", now / 1_440));
    assert!(road.number(&["TTL", &key]).await > 31 * 86_400);
}
