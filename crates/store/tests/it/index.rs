//! The index of ids: its windows, and how it grows.

use super::kit::*;
use postroad_model::{message::Priority, names::Tenant};
use postroad_store::{Acceptance, Accepted, IdKey};

/// Ids that all belong into one small hash, whatever the depth.
fn crowd(number: u32, from: usize, count: usize) -> Vec<Acceptance> {
    (from..from + count)
        .map(|n| Acceptance {
            id: IdKey { number, field: format!("{n:024x}") },
            ..acceptance("crowd", Priority::Normal)
        })
        .collect()
}

async fn index_keys(road: &Road) -> Vec<String> {
    let mut keys = road.texts(&["KEYS", &format!("{}*", road.partition_key(0, "ids:"))]).await;
    keys.sort();
    keys
}

/// `ids:<window>:<depth>:<slot>` with another window.
fn in_window(key: &str, back: u64) -> String {
    let (head, tail) = key.split_once("ids:").unwrap();
    let (age, slot) = tail.split_once(':').unwrap();
    format!("{head}ids:{}:{slot}", age.parse::<u64>().unwrap() - back)
}

fn is_stored(accepted: &Accepted) -> bool {
    matches!(accepted, Accepted::Stored { .. })
}

#[tokio::test]
async fn an_id_is_remembered_into_the_next_window_and_no_longer() {
    let road = Road::new().await;
    road.accept(&["a"]).await;
    let key = index_keys(&road).await.pop().unwrap();
    // The window rolls over: what was the current one is now the one before.
    road.redis(&["RENAME", &key, &in_window(&key, 1)]).await;
    assert!(!is_stored(&road.accept(&["a"]).await[0]));
    // Not even there does it count once it is older than a window: the window is fixed from first use.
    let fields = road.texts(&["HGETALL", &in_window(&key, 1)]).await;
    let (at, accepted_ms) = fields[1].split_once(' ').unwrap();
    let old = accepted_ms.parse::<u64>().unwrap() - WINDOW;
    road.redis(&["HSET", &in_window(&key, 1), &fields[0], &format!("{at} {old}")]).await;
    assert!(is_stored(&road.accept(&["a"]).await[0]));
    assert!(!is_stored(&road.accept(&["a"]).await[0]), "and from this use on it counts again");
    for key in index_keys(&road).await {
        road.redis(&["RENAME", &key, &in_window(&key, 2)]).await;
    }
    assert!(is_stored(&road.accept(&["a"]).await[0]), "two windows back nobody looks");
}

#[tokio::test]
async fn a_short_window_ends_by_itself() {
    let road = Road::new().await;
    let accept = async |window: u64| {
        let flight = [(0, vec![acceptance("a", Priority::Normal)])];
        road.store.accept(&flight, window).await.unwrap().pop().unwrap().unwrap().remove(0)
    };
    assert!(is_stored(&accept(40).await));
    tokio::time::sleep(std::time::Duration::from_millis(45)).await;
    assert!(is_stored(&accept(40).await));
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    assert!(index_keys(&road).await.is_empty(), "it goes with its time");
}

#[tokio::test]
async fn every_small_hash_goes_by_itself_and_outlives_its_ids() {
    let road = Road::new().await;
    road.accept(&["a", "b", "c"]).await;
    let keys = index_keys(&road).await;
    assert_eq!(keys.len(), 3, "ids spread");
    for key in keys {
        let left = road.number(&["PTTL", &key]).await;
        let window = i64::try_from(WINDOW).unwrap();
        assert!((2 * window - 60_000..=2 * window).contains(&left), "{left}");
    }
}

#[tokio::test]
async fn a_full_hash_deepens_its_window_and_loses_nobody() {
    let road = Road::new().await;
    let mut all = 0;
    for depth in 0..7 {
        let some = crowd(7, all, 120);
        all += 120;
        assert!(road.accept_all(0, some).await.unwrap().iter().all(is_stored), "{depth}");
    }
    let age = index_keys(&road).await[0].split("ids:").nth(1).unwrap().split_once(':').unwrap().0.to_owned();
    let depth = road.number(&["HGET", &road.partition_key(0, "door"), &format!("depth:{age}")]).await;
    assert_eq!(depth, 4, "it deepens four times and no further");
    let mut sizes = Vec::new();
    for key in index_keys(&road).await {
        sizes.push(road.number(&["HLEN", &key]).await);
    }
    assert_eq!(sizes, [120, 120, 120, 120, 360]);
    let again = road.accept_all(0, crowd(7, 0, all)).await.unwrap();
    assert!(!again.iter().any(is_stored), "at every depth ids are found again");
}

/// The index spreads by the number: deeper, ids of one hash part.
#[tokio::test]
async fn deeper_hashes_are_more() {
    let road = Road::new().await;
    road.accept_all(0, crowd(5, 0, 120)).await.unwrap();
    // The same slot of 1,024, but not of 8,192.
    road.accept_all(0, crowd(5 + 1_024, 200, 1)).await.unwrap();
    road.accept_all(0, crowd(5, 300, 1)).await.unwrap();
    let slots: Vec<String> = index_keys(&road)
        .await
        .iter()
        .map(|key| key.split("ids:").nth(1).unwrap().split_once(':').unwrap().1.to_owned())
        .collect();
    assert_eq!(slots, ["0:5", "1:1029", "1:5"]);
}

#[tokio::test]
async fn depths_of_windows_long_gone_are_forgotten() {
    let road = Road::new().await;
    road.accept(&["a"]).await;
    let age: u64 = index_keys(&road).await[0]
        .split("ids:")
        .nth(1)
        .and_then(|rest| rest.split_once(':'))
        .unwrap()
        .0
        .parse()
        .unwrap();
    let door = road.partition_key(0, "door");
    for back in [1, 2, 3, 9] {
        road.redis(&["HSET", &door, &format!("depth:{}", age - back), "2"]).await;
    }
    road.accept_all(0, crowd(9, 0, 120)).await.unwrap();
    let mut fields = road.texts(&["HKEYS", &door]).await;
    fields.sort();
    fields.retain(|name| name.starts_with("depth:"));
    assert_eq!(fields, [age - 1, age].map(|age| format!("depth:{age}")));
}

#[tokio::test]
async fn a_message_is_found_however_deep_its_id_lies() {
    let road = Road::new().await;
    let id = message("wanted", Priority::Normal).id;
    let number = IdKey::new(&Tenant::single(), &id, None).number;
    let home = LAYOUT.partition_of_id(&Tenant::single(), &id);
    road.accept_all(home, crowd(number, 0, 300)).await.unwrap();
    road.accept_all(home, vec![acceptance("wanted", Priority::Normal)]).await.unwrap();
    let now = road.now().await;
    let found = road.store.find_message(&Tenant::single(), &id, WINDOW, now).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].message.as_ref().unwrap().id, id);
    assert!(!found[0].routed);
}
