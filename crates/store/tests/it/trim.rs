//! trim: ingress history that may go.

use super::kit::*;
use postroad_store::StreamId;

/// A partition with `count` entries, one a second, the last one second old, that r-1 owns in some epoch.
async fn history(road: &Road, count: u64) -> (Vec<StreamId>, u64) {
    let now = road.now().await;
    let ids: Vec<StreamId> = (0..count).map(|n| StreamId { ms: now - 1_000 * (count - n), seq: 0 }).collect();
    let adds: String = ids.iter().fold(String::new(), |mut text, id| {
        text.push_str(&format!("redis.call('XADD', KEYS[1], '{id}', 'm', 'x')\n"));
        text
    });
    road.redis(&["EVAL", &adds, "1", &road.partition_key(0, "ingress")]).await;
    (ids, road.own("r-1", 0).await)
}

async fn left(road: &Road) -> Vec<StreamId> {
    road.store.history(0, StreamId::ZERO, END, 100_000).await.unwrap().iter().map(|entry| entry.id).collect()
}

async fn trim(road: &Road, epoch: u64, upto: StreamId, keep_ms: u64) -> u64 {
    road.store.trim("r-1", 0, epoch, upto, keep_ms).await.unwrap().unwrap()
}

#[tokio::test]
async fn nothing_goes_that_is_young_or_behind_the_position() {
    let road = Road::new().await;
    let (ids, epoch) = history(&road, 500).await;
    assert_eq!(trim(&road, epoch, StreamId::ZERO, 0).await, 0, "nothing was found current");
    assert_eq!(trim(&road, epoch, ids[499], 600_000).await, 0, "everything is young");

    // Everything is old, 250 are current: whole nodes of a stream go, never one entry too many.
    let gone = trim(&road, epoch, ids[250], 0).await;
    assert!((100..=250).contains(&gone), "{gone}");
    assert_eq!(left(&road).await, ids[usize::try_from(gone).unwrap()..]);
    assert_eq!(trim(&road, epoch, ids[250], 0).await, 0, "again");

    // Everything is current, what is older than 100 seconds goes.
    let gone = gone + trim(&road, epoch, ids[499], 100_000).await;
    assert!((300..=401).contains(&gone), "{gone}");
    assert_eq!(left(&road).await, ids[usize::try_from(gone).unwrap()..]);
    assert!(left(&road).await.contains(&ids[499]));
}

#[tokio::test]
async fn the_position_itself_stays() {
    let road = Road::new().await;
    let (ids, epoch) = history(&road, 300).await;
    trim(&road, epoch, ids[299], 0).await;
    assert_eq!(left(&road).await.last(), Some(&ids[299]));
    trim(&road, epoch, END, 0).await;
    assert!(left(&road).await.len() < 300, "an id beyond every number is a bound like another");
}

#[tokio::test]
async fn a_long_history_goes_in_steps() {
    let road = Road::new().await;
    let (ids, epoch) = history(&road, 25_000).await;
    let first = trim(&road, epoch, ids[24_999], 0).await;
    assert!((9_000..=10_000).contains(&first), "{first}");
    let mut gone = first;
    for _ in 0..2 {
        gone += trim(&road, epoch, ids[24_999], 0).await;
    }
    assert!((24_800..25_000).contains(&gone), "{gone}");
    assert_eq!(left(&road).await.last(), Some(&ids[24_999]));
}

#[tokio::test]
async fn channels_that_fell_silent_go_with_their_history() {
    let road = Road::new().await;
    let (_, epoch) = history(&road, 1).await;
    let channels = road.partition_key(0, "channels");
    let now = road.now().await;
    road.redis(&[
        "ZADD",
        &channels,
        &(now - 5_000).to_string(),
        "default/old",
        &now.to_string(),
        "default/new",
    ])
    .await;
    trim(&road, epoch, StreamId::ZERO, 4_000).await;
    assert_eq!(road.texts(&["ZRANGE", &channels, "0", "-1"]).await, ["default/new"]);
}

#[tokio::test]
async fn only_the_owner_trims() {
    let road = Road::new().await;
    let (ids, epoch) = history(&road, 300).await;
    for (me, epoch) in [("r-2", epoch), ("r-1", epoch - 1), ("r-1", epoch + 1)] {
        assert_eq!(road.store.trim(me, 0, epoch, ids[299], 0).await.unwrap(), None);
    }
    road.store.release("r-1", 0, epoch).await.unwrap();
    assert_eq!(road.store.trim("r-1", 0, epoch, ids[299], 0).await.unwrap(), None);
    assert_eq!(left(&road).await.len(), 300);
    let epoch = road.own("r-1", 1).await;
    assert_eq!(road.store.trim("r-1", 1, epoch, ids[0], 0).await.unwrap(), Some(0), "an empty partition");
}
