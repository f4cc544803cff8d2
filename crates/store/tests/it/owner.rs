//! claim, routed and release: who owns a partition, and how far it is routed.

use super::kit::*;
use postroad_store::{Accepted, Claim, Claimed, Routed, StoreError, StreamId};

const LEASE: u64 = 10_000;

async fn claim(road: &Road, me: &str, epoch: Option<u64>, take: bool) -> Claimed {
    let claims = [Claim { partition: 0, epoch, take }];
    road.store.claim(me, LEASE, &claims).await.unwrap().remove(0).unwrap()
}

async fn routed(road: &Road, me: &str, epoch: u64, upto: StreamId, sent: Vec<(u16, StreamId)>) -> bool {
    let row = Routed { partition: 0, epoch, upto, sent };
    road.store.routed(me, &[row]).await.unwrap().remove(0).unwrap()
}

/// Takes a partition of which nothing is routed yet: the epoch.
async fn take(road: &Road, me: &str) -> u64 {
    match claim(road, me, None, true).await {
        Claimed::New { epoch, routed: StreamId::ZERO, sent } if sent.is_empty() => epoch,
        other => panic!("{other:?}"),
    }
}

/// Makes the owner's renewal so many milliseconds older; younger, where negative.
async fn age(road: &Road, ms: i64) {
    let then = i64::try_from(road.now().await).unwrap() - ms;
    road.redis(&["HSET", &road.partition_key(0, "owner"), "renewed", &then.to_string()]).await;
}

#[tokio::test]
async fn a_free_partition_is_taken_once_and_kept() {
    let road = Road::new().await;
    let nobodys = claim(&road, "r-1", None, false).await;
    assert!(matches!(nobodys, Claimed::Other { owner, .. } if owner.is_empty()), "only looked at");
    let epoch = take(&road, "r-1").await;
    for _ in 0..2 {
        assert_eq!(claim(&road, "r-1", Some(epoch), false).await, Claimed::Kept);
    }
    for epoch in [None, Some(epoch)] {
        let other = claim(&road, "r-2", epoch, true).await;
        let Claimed::Other { owner, age_ms } = other else { panic!("{other:?}") };
        assert!(owner == "r-1" && (0..5_000).contains(&age_ms), "{age_ms}");
    }
}

#[tokio::test]
async fn an_owner_that_fell_silent_loses_it_and_is_fenced() {
    let road = Road::new().await;
    let old = take(&road, "r-1").await;
    let at = |id: &str| -> StreamId { sid(id) };
    assert!(routed(&road, "r-1", old, at("7-0"), vec![(0, at("5-0")), (1, at("7-0"))]).await);
    age(&road, i64::try_from(LEASE).unwrap() - 500).await;
    assert!(matches!(claim(&road, "r-2", None, true).await, Claimed::Other { .. }), "not silent for long");
    age(&road, i64::try_from(LEASE).unwrap() + 1).await;
    assert!(matches!(claim(&road, "r-2", None, false).await, Claimed::Other { .. }), "only looked at");
    let Claimed::New { epoch, routed: upto, mut sent } = claim(&road, "r-2", None, true).await else {
        panic!("not taken over")
    };
    sent.sort_unstable();
    assert_eq!((upto, sent), (at("7-0"), vec![(0, at("5-0")), (1, at("7-0"))]));
    assert!(epoch > old);

    // The first one wakes up: nothing that it does counts.
    assert!(matches!(claim(&road, "r-1", Some(old), true).await, Claimed::Other { .. }));
    assert!(!routed(&road, "r-1", old, at("99-0"), vec![(0, at("99-0"))]).await);
    assert!(!routed(&road, "r-2", old, at("99-0"), vec![]).await, "its name with an epoch of old");
    assert!(!road.store.release("r-1", 0, old).await.unwrap());
    assert_eq!(road.store.trim("r-1", 0, old, at("99-0"), 0).await.unwrap(), None);
    assert_eq!(road.store.routed_upto(0).await.unwrap(), at("7-0"));
    assert_eq!(road.redis(&["HGET", &road.partition_key(0, "sent"), "0"]).await.text().unwrap(), "5-0");
    assert_eq!(claim(&road, "r-2", Some(epoch), false).await, Claimed::Kept);
}

#[tokio::test]
async fn a_late_renewal_keeps_what_nobody_took() {
    let road = Road::new().await;
    let epoch = take(&road, "r-1").await;
    age(&road, 1_000_000).await;
    assert_eq!(claim(&road, "r-1", Some(epoch), false).await, Claimed::Kept);
    assert!(matches!(claim(&road, "r-2", None, true).await, Claimed::Other { .. }));
}

#[tokio::test]
async fn a_name_that_forgot_its_epoch_begins_anew() {
    let road = Road::new().await;
    let old = take(&road, "r-1").await;
    assert!(matches!(claim(&road, "r-1", None, false).await, Claimed::Other { .. }));
    assert!(take(&road, "r-1").await > old);
    assert!(!routed(&road, "r-1", old, sid("9-0"), vec![]).await, "what it had under way is fenced");
}

/// A clock that was set back leaves renewals from the future.
#[tokio::test]
async fn nobody_renews_from_the_future() {
    let road = Road::new().await;
    let old = take(&road, "r-1").await;
    age(&road, 2_000 - i64::try_from(LEASE).unwrap()).await;
    assert!(matches!(claim(&road, "r-2", None, true).await, Claimed::Other { age_ms, .. } if age_ms < 0));
    age(&road, -i64::try_from(LEASE).unwrap() - 5_000).await;
    assert!(take(&road, "r-2").await > old);
}

#[tokio::test]
async fn what_is_released_is_free_at_once_and_epochs_go_on() {
    let road = Road::new().await;
    assert!(!road.store.release("r-1", 0, 1).await.unwrap(), "nobody's");
    let old = take(&road, "r-1").await;
    assert!(!road.store.release("r-1", 0, old + 1).await.unwrap());
    assert!(road.store.release("r-1", 0, old).await.unwrap());
    assert!(!road.store.release("r-1", 0, old).await.unwrap());
    assert!(!routed(&road, "r-1", old, sid("9-0"), vec![]).await);
    assert!(take(&road, "r-2").await > old);
}

/// With the owner's record its epochs are forgotten, and an old one must not come again.
#[tokio::test]
async fn epochs_go_on_where_their_record_was_deleted() {
    let road = Road::new().await;
    let old = take(&road, "r-1").await;
    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    road.redis(&["DEL", &road.partition_key(0, "owner")]).await;
    assert!(matches!(claim(&road, "r-1", Some(old), false).await, Claimed::Other { .. }));
    let new = take(&road, "r-1").await;
    assert!(new > old);
    assert!(!routed(&road, "r-1", old, sid("9-0"), vec![]).await);
    road.redis(&["HSET", &road.partition_key(0, "owner"), "epoch", "99999999999999"]).await;
    assert_eq!(take(&road, "r-1").await, 100_000_000_000_000, "above what is there, and a whole number");
}

#[tokio::test]
async fn a_position_may_go_back_and_outlives_its_group() {
    let road = Road::new().await;
    let epoch = take(&road, "r-1").await;
    for id in ["9-0", "9-0", "3-1"] {
        assert!(routed(&road, "r-1", epoch, sid(id), vec![]).await);
        assert_eq!(road.store.routed_upto(0).await.unwrap(), sid(id));
    }
    let ingress = road.partition_key(0, "ingress");
    road.redis(&["XGROUP", "DESTROY", &ingress, "router"]).await;
    assert!(routed(&road, "r-1", epoch, sid("11-0"), vec![]).await);
    assert_eq!(road.store.routed_upto(0).await.unwrap(), sid("11-0"));
    // Deleted by hand and found by the next owner: from the beginning, never from the end.
    road.accept(&["a"]).await;
    road.redis(&["XGROUP", "DESTROY", &ingress, "router"]).await;
    assert!(road.store.release("r-1", 0, epoch).await.unwrap());
    let epoch = take(&road, "r-2").await;
    assert_eq!(road.store.routed_upto(0).await.unwrap(), StreamId::ZERO);
    road.redis(&["DEL", &ingress]).await;
    assert!(routed(&road, "r-2", epoch, sid("12-0"), vec![]).await, "the whole stream is gone");
}

#[tokio::test]
async fn all_lanes_of_the_widest_layout_fit() {
    let road = Road::new().await;
    let epoch = take(&road, "r-1").await;
    let sent: Vec<(u16, StreamId)> = (0..4_096).map(|lane| (lane, sid("7-7"))).collect();
    assert!(routed(&road, "r-1", epoch, sid("7-7"), sent).await);
    assert_eq!(road.number(&["HLEN", &road.partition_key(0, "sent")]).await, 4_096);
}

#[tokio::test]
async fn junk_in_an_owners_record_is_nobody() {
    let road = Road::new().await;
    let owner = road.partition_key(0, "owner");
    road.redis(&["HSET", &owner, "name", "r-9", "epoch", "junk", "renewed", "junk"]).await;
    let epoch = take(&road, "r-1").await;
    let sent = road.partition_key(0, "sent");
    road.redis(&["HSET", &sent, "no lane", "1-0", "0", "never", "1", "1-0", "4000", "1-0"]).await;
    road.store.release("r-1", 0, epoch).await.unwrap();
    let Claimed::New { sent, .. } = claim(&road, "r-2", None, true).await else { panic!("not taken") };
    assert_eq!(sent, [(1, sid("1-0"))]);
    assert!(road.store.claim("r-2", LEASE, &[]).await.unwrap().is_empty());
    assert!(road.store.routed("r-2", &[]).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_flight_of_claims_is_answered_one_by_one() {
    let road = Road::new().await;
    road.redis(&["SET", &road.partition_key(1, "owner"), "junk"]).await;
    let claims = [0, 1].map(|partition| Claim { partition, epoch: None, take: true });
    let answers = road.store.claim("r-1", LEASE, &claims).await.unwrap();
    assert!(answers[0].is_ok() && matches!(answers[1], Err(StoreError::Refused(_))), "{answers:?}");
    // What is accepted after a claim lies behind the position that the claim told.
    let Accepted::Stored { at, .. } = road.accept(&["a"]).await.remove(0) else { panic!("not stored") };
    let entries = road.store.history(0, StreamId::ZERO, END, 10).await.unwrap();
    assert_eq!(entries[0].id, at);
}
