//! heartbeat: who lives.

use super::kit::*;
use postroad_store::keys::Tag;

#[tokio::test]
async fn whoever_is_heard_lives_and_whoever_leaves_does_not() {
    let road = Road::new().await;
    let store = &road.store;
    assert!(store.living().await.unwrap().members.is_empty());
    for _ in 0..2 {
        store.announce("worker-1", "{\"n\":1}").await.unwrap();
    }
    let before = road.now().await;
    let heard = store.announce("router-1", "{\"n\":2}").await.unwrap();
    assert!((before..before + 5_000).contains(&heard.now_ms));
    let row = |name: &str| heard.members.iter().find(|member| member.name == name).unwrap().clone();
    assert_eq!((heard.members.len(), row("worker-1").about.as_str()), (2, "{\"n\":1}"));
    assert!(row("router-1").age_ms == 0 && row("worker-1").age_ms < 5_000);
    assert_eq!(heard.of_kind("worker"), ["worker-1"]);
    assert_eq!(store.living().await.unwrap().members.len(), 2, "looking is not being there");
    for _ in 0..2 {
        store.leave("worker-1").await.unwrap();
        assert_eq!(store.living().await.unwrap().of_kind("worker"), [""; 0]);
    }
    assert_eq!(road.number(&["HLEN", &road.keys.key(Tag::Ctl, "about")]).await, 1);
}

#[tokio::test]
async fn the_silent_and_those_of_the_future_are_gone() {
    let road = Road::new().await;
    let now = road.now().await;
    let members = road.keys.key(Tag::Ctl, "members");
    let about = road.keys.key(Tag::Ctl, "about");
    for (name, heard) in [
        ("silent", now - 10_000),
        ("quiet", now - 2_000),
        ("ahead", now + 2_000),
        ("from the future", now + 60_000),
    ] {
        road.redis(&["ZADD", &members, &heard.to_string(), name]).await;
        road.redis(&["HSET", &about, name, "{}"]).await;
    }
    road.redis(&["ZADD", &members, &now.to_string(), "without a description"]).await;
    let mut living: Vec<String> =
        road.store.members(5_000).await.unwrap().members.into_iter().map(|member| member.name).collect();
    living.sort();
    assert_eq!(living, ["ahead", "quiet", "without a description"]);
    assert_eq!(road.number(&["HLEN", &about]).await, 2);
    let ages = road.store.members(5_000).await.unwrap().members;
    let age = |name: &str| ages.iter().find(|member| member.name == name).unwrap().age_ms;
    assert!(age("ahead") == 0 && age("quiet") >= 2_000);
    assert_eq!(ages.iter().find(|member| member.name.starts_with("without")).unwrap().about, "{}");
}

/// Nobody with another layout may join, also where the note of it was deleted.
#[tokio::test]
async fn whoever_lives_keeps_the_layout() {
    let road = Road::new().await;
    let layout = road.keys.key(Tag::Ctl, "layout");
    let fields = async || road.texts(&["HMGET", &layout, "partitions", "lanes"]).await;
    road.redis(&["DEL", &layout]).await;
    road.store.living().await.unwrap();
    assert!(fields().await.is_empty(), "looking is not being there");
    road.store.announce("w-1", "{}").await.unwrap();
    assert_eq!(fields().await, ["2", "2"]);
    road.redis(&["HSET", &layout, "lanes", "64"]).await;
    road.store.announce("w-1", "{}").await.unwrap();
    assert_eq!(fields().await, ["2", "64"], "what is there is not overwritten");
}
