//! The balance can say no: what is taken away, doubled or put astray by hand is found.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use postroad_e2e::load::Post;
use postroad_e2e::{Kind, Subscriber, Town, all_to_all};
use postroad_testkit::receiver::Answer;
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn losses_doubles_and_strays_are_found() -> Result<()> {
    let town = Town::builder().daemons(1, 1, 0).start().await?;
    let outcome = scenario(&town).await;
    town.explain(outcome).await
}

async fn publish(town: &Town, ids: &[&str]) -> Result<()> {
    let posts: Vec<Post> = ids.iter().map(|id| Post::new(*id, "c")).collect();
    town.publish_bulk(&posts).await
}

fn set(ids: &[&str]) -> BTreeSet<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

async fn scenario(town: &Town) -> Result<()> {
    let subscriber = town.subscribe("s", json!({ "channel": "c" })).await?;
    let all = std::slice::from_ref(&subscriber);
    publish(town, &["a", "b", "c"]).await?;
    town.quiet_but(3, Duration::from_secs(10)).await?;
    let balance = town.conserved(&all_to_all(all, &set(&["a", "b", "c"]))).await?;
    ensure!((balance.queued, balance.delivered) == (3, 0), "{balance}");

    // One that was never published is lost, one that was not expected is astray.
    let balance = town.balance(&all_to_all(all, &set(&["a", "b", "d"]))).await?;
    ensure!(balance.lost == ["d for s"] && balance.unexpected == ["c for s"], "{balance:?}");
    ensure!(balance.conserved().is_err(), "{balance}");

    // One that is taken out of its queue is lost.
    let queue = town.lane_key(town.lane_of(&subscriber)?, &format!("work:{}:1", subscriber.id));
    let entry = town.census().await?.queued.iter().find(|q| q.message == "b").unwrap().entry.clone();
    town.redis.command(&["XDEL", &queue, &entry]).await?;
    let balance = town.balance(&all_to_all(all, &set(&["a", "b", "c"]))).await?;
    ensure!(balance.lost == ["b for s"] && balance.unexpected.is_empty(), "{balance:?}");

    // One that is copied lies in two places, and is delivered twice.
    copy(town, &queue, "c").await?;
    let balance = town.balance(&all_to_all(all, &set(&["a", "b", "c"]))).await?;
    ensure!(balance.doubled == ["c for s (2 places)"] && balance.surplus == 1, "{balance:?}");
    ensure!(balance.routed_once().is_err(), "{balance}");
    town.add(Kind::Worker, &[]).await?;
    town.quiet(Duration::from_secs(10)).await?;
    let balance = town.balance(&all_to_all(all, &set(&["a", "b", "c"]))).await?;
    ensure!((balance.delivered, balance.duplicates) == (2, 1) && balance.lost == ["b for s"], "{balance:?}");

    disagreement(town, &subscriber).await?;
    refusals_are_not_deliveries(town, &subscriber).await
}

/// A refused request is no delivery.
async fn refusals_are_not_deliveries(town: &Town, subscriber: &Subscriber) -> Result<()> {
    town.receiver.on(&subscriber.path, Answer::status(500));
    publish(town, &["e"]).await?;
    town.receiver.wait_for(&subscriber.path, 4, Duration::from_secs(10)).await?;
    let ids = set(&["a", "b", "c", "e"]);
    let balance = town.balance(&all_to_all(std::slice::from_ref(subscriber), &ids)).await?;
    ensure!((balance.delivered, balance.queued) == (2, 1), "{balance:?}");
    Ok(())
}

/// A member of `live` that holds nothing is found, until a sweep has mended it.
async fn disagreement(town: &Town, subscriber: &Subscriber) -> Result<()> {
    town.pause(Kind::Worker, 0)?;
    let lane = town.lane_of(subscriber)?;
    town.redis.command(&["SADD", &town.lane_key(lane, "live"), &subscriber.id]).await?;
    town.redis.command(&["ZADD", &town.lane_key(lane, "timers"), "1", "later:sub_x:1:1-1"]).await?;
    let found = town.census().await?.disagreements();
    ensure!(found.len() == 2, "{found:?}");
    town.resume(Kind::Worker, 0)?;
    town.balance(&[]).await.map(drop)
}

async fn copy(town: &Town, queue: &str, message: &str) -> Result<()> {
    let entry = town.census().await?.queued.iter().find(|q| q.message == message).unwrap().entry.clone();
    let script = "local row = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
        return redis.call('XADD', KEYS[1], '*', unpack(row[2]))";
    town.redis.command(&["EVAL", script, "1", queue, &entry]).await.map(drop)
}
