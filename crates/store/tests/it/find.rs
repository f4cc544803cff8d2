//! Finding messages by id, and how far partitions are routed.

use super::kit::*;
use postroad_model::{
    id::MessageId,
    message::Priority,
    names::{ChannelName, OrderingKey, Tenant},
};
use postroad_store::{Acceptance, Accepted, IdKey, Routed, StreamId};

async fn route(road: &Road, partition: u16, upto: StreamId) {
    if road.number(&["EXISTS", &road.partition_key(partition, "owner")]).await == 0 {
        road.own("r-1", partition).await;
    }
    let epoch = road.number(&["HGET", &road.partition_key(partition, "owner"), "epoch"]).await;
    let epoch = u64::try_from(epoch).unwrap();
    let row = Routed { partition, epoch, upto, sent: vec![] };
    assert!(*road.store.routed("r-1", &[row]).await.unwrap()[0].as_ref().unwrap());
}

#[tokio::test]
async fn a_message_is_found_in_its_partition_and_its_routing_told() {
    let road = Road::new().await;
    let (tenant, id) = (Tenant::single(), MessageId::new("order-1").unwrap());
    let find = async || {
        let now = road.now().await;
        road.store.find_message(&tenant, &id, WINDOW, now).await.unwrap()
    };
    assert!(find().await.is_empty());
    let home = LAYOUT.partition_of_id(&tenant, &id);
    road.accept_all(home, vec![acceptance("order-1", Priority::Normal)]).await.unwrap();
    let found = find().await.remove(0);
    assert_eq!((found.partition, found.routed), (home, false));
    assert_eq!(found.message.unwrap().id, id);
    route(&road, home, found.at).await;
    assert!(find().await[0].routed);

    road.redis(&["XDEL", &road.partition_key(home, "ingress"), &found.at.to_string()]).await;
    assert!(find().await[0].message.is_none(), "history let it go, the index knows it still");
    let late = road.now().await + WINDOW;
    assert!(road.store.find_message(&tenant, &id, WINDOW, late).await.unwrap().is_empty());
}

#[tokio::test]
async fn messages_with_ordering_keys_are_found_wherever_their_keys_lie() {
    let road = Road::new().await;
    let (tenant, id) = (Tenant::single(), MessageId::new("order-1").unwrap());
    let channel = ChannelName::new("orders").unwrap();
    for (partition, key) in [(0, "k"), (1, "l")] {
        let line = (&channel, &OrderingKey::new(key).unwrap());
        let message = Acceptance {
            id: IdKey::new(&tenant, &id, Some(line)),
            ..acceptance("order-1", Priority::Normal)
        };
        road.accept_all(partition, vec![message]).await.unwrap();
    }
    let now = road.now().await;
    let found = road.store.find_message(&tenant, &id, WINDOW, now).await.unwrap();
    let mut partitions: Vec<u16> = found.iter().map(|found| found.partition).collect();
    partitions.sort_unstable();
    assert_eq!(partitions, [0, 1]);
    assert!(found.iter().all(|found| found.message.is_some()));
}

#[tokio::test]
async fn an_index_with_junk_finds_nothing_and_fails_nobody() {
    let road = Road::new().await;
    let (tenant, id) = (Tenant::single(), MessageId::new("order-1").unwrap());
    let home = LAYOUT.partition_of_id(&tenant, &id);
    road.accept_all(home, vec![acceptance("order-1", Priority::Normal)]).await.unwrap();
    let key = road.texts(&["KEYS", &format!("{}*", road.partition_key(home, "ids:"))]).await.remove(0);
    let field = road.texts(&["HKEYS", &key]).await.remove(0);
    let now = road.now().await;
    for junk in ["junk".to_owned(), "no-id 1".to_owned(), "1-0 never".to_owned(), format!("0-0 {now}")] {
        road.redis(&["HSET", &key, &field, &junk]).await;
        let found = road.store.find_message(&tenant, &id, WINDOW, now).await.unwrap();
        assert!(found.iter().all(|found| found.message.is_none()), "{junk}");
    }
}

#[tokio::test]
async fn what_no_router_has_been_past_is_counted() {
    let road = Road::new().await;
    let now = road.now().await;
    assert_eq!(road.store.unrouted(now).await.unwrap(), [(0, 0), (0, 0)]);
    assert_eq!(road.store.routed_upto(1).await.unwrap(), StreamId::ZERO, "a partition that was never used");
    let ids: Vec<StreamId> = road
        .accept(&["a", "b", "c"])
        .await
        .into_iter()
        .map(|accepted| match accepted {
            Accepted::Stored { at, .. } => at,
            other => panic!("{other:?}"),
        })
        .collect();
    let (later, rows) = (now + 10_000, [(3, 0), (0, 0)]);
    let unrouted = road.store.unrouted(later).await.unwrap();
    assert_eq!((unrouted[0].0, unrouted[1]), (rows[0].0, rows[1]));
    assert!((9_000..=10_000).contains(&unrouted[0].1), "{unrouted:?}");
    route(&road, 0, ids[1]).await;
    assert_eq!(road.store.unrouted(later).await.unwrap()[0].0, 1);
    // Redis cannot count behind a hole: at least the one that waits.
    road.redis(&["XDEL", &road.partition_key(0, "ingress"), &ids[0].to_string()]).await;
    road.redis(&["XGROUP", "SETID", &road.partition_key(0, "ingress"), "router", "1-0"]).await;
    assert!(road.store.unrouted(later).await.unwrap()[0].0 >= 1);
    route(&road, 0, ids[2]).await;
    assert_eq!(road.store.unrouted(later).await.unwrap()[0], (0, 0));
    // Without the group the position is the beginning.
    road.redis(&["XGROUP", "DESTROY", &road.partition_key(0, "ingress"), "router"]).await;
    assert_eq!(road.store.routed_upto(0).await.unwrap(), StreamId::ZERO);
    assert!(road.store.unrouted(later).await.unwrap()[0].0 >= 1);
}
