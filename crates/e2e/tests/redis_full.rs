//! A Redis at its `maxmemory`: publishing is refused cleanly, what was accepted still drains, and publishing
//! works again by itself.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use postroad_e2e::load::Post;
use postroad_e2e::{Kind, Town, all_to_all};
use serde_json::{Value, json};

/// How much may be stored until it is full.
const ROOM: u64 = 16 << 20;

/// Gives Redis that much more memory than it uses now; 0 for no bound.
async fn bound(town: &Town, room: u64) -> Result<()> {
    let used: u64 = match town.redis.command(&["INFO", "memory"]).await?.info("used_memory") {
        Some(text) => text.parse()?,
        None => 0,
    };
    let limit = if room == 0 { 0 } else { used + room };
    town.redis.command(&["CONFIG", "SET", "maxmemory", &limit.to_string()]).await.map(drop)
}

/// 2 KiB that do not compress.
fn post(id: String, channel: &str) -> Post {
    let mut seed = id.bytes().fold(1_u64, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
    let noise: String = (0..2_000)
        .map(|_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(b'a' + u8::try_from((seed >> 33) % 26).unwrap_or(0))
        })
        .collect();
    Post::new(id, channel).with("payload", json!({ "noise": noise }))
}

/// Publishes in bulks until nothing more is accepted; what was accepted.
async fn fill(town: &Town, name: &str) -> Result<BTreeSet<String>> {
    let api = town.api(Kind::Ingest, 0)?;
    let mut accepted = BTreeSet::new();
    for round in 0..2_000 {
        let posts: Vec<Post> = (0..20).map(|n| post(format!("{name}-{round}-{n}"), name)).collect();
        let bodies: Vec<&Value> = posts.iter().map(|post| &post.body).collect();
        let answer = api.post("/v1/messages/bulk", json!({ "messages": bodies }).to_string()).await?;
        ensure!([202, 207, 503].contains(&answer.status), "{}: {}", answer.status, answer.text());
        let rows = answer.json()["results"].as_array().cloned().unwrap_or_default();
        let before = accepted.len();
        for (post, row) in posts.iter().zip(&rows) {
            if row["success"] == json!(true) {
                accepted.insert(post.id.clone());
            } else {
                ensure!(row["error_code"] == "storage_full", "{row}");
            }
        }
        if accepted.len() == before {
            return Ok(accepted);
        }
        // An ingest may look at Redis's memory from time to time only: about 3 MiB a second, with the copies
        // in two queues.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    bail!("it never got full")
}

/// A publish is refused as it should be.
async fn refused(town: &Town, channel: &str) -> Result<()> {
    let api = town.api(Kind::Ingest, 0)?;
    let started = Instant::now();
    let answer = api.post("/v1/messages", post("refused".into(), channel).body.to_string()).await?;
    ensure!(answer.status == 503, "{}: {}", answer.status, answer.text());
    ensure!(answer.headers.contains_key("retry-after"), "no Retry-After: {:?}", answer.headers);
    ensure!(started.elapsed() < Duration::from_secs(10), "it took {:?} to refuse", started.elapsed());
    let stored = town.census().await?.accepted.values().any(|id| id == "refused");
    ensure!(!stored, "what was refused is stored");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_drains_and_makes_room() -> Result<()> {
    let town = Town::builder().daemons(1, 1, 0).start().await?;
    let outcome = backlog(&town).await;
    town.explain(outcome).await
}

/// The workers were down, Redis filled up, and now they come back.
async fn backlog(town: &Town) -> Result<()> {
    let mut subscribers = Vec::new();
    for name in ["one", "two"] {
        subscribers.push(town.subscribe(name, json!({ "channel": "backlog" })).await?);
    }
    bound(town, ROOM).await?;
    let mut accepted = fill(town, "backlog").await?;
    let stored = accepted.len();
    refused(town, "backlog").await?;
    let census = town.census().await?;
    let (unrouted, queued) = (census.unrouted().len(), census.queued.len());

    let back = Instant::now();
    for _ in 0..2 {
        town.add(Kind::Worker, &[]).await?;
    }
    town.quiet(Duration::from_secs(60)).await?;
    let drained = back.elapsed();
    // By itself: nothing was restarted or raised.
    let more: Vec<Post> = (0..20).map(|n| post(format!("after-{n}"), "backlog")).collect();
    town.publish_bulk(&more).await?;
    accepted.extend(more.into_iter().map(|post| post.id));
    town.quiet(Duration::from_secs(20)).await?;
    let balance = town.conserved(&all_to_all(&subscribers, &accepted)).await?;
    ensure!(balance.delivered == balance.pairs && balance.duplicates == 0, "{balance}");
    println!(
        "full with a backlog: {stored} accepted, {queued} queued, {unrouted} partitions not all routed; drained \
         in {drained:.1?}: {balance}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_that_fills_it_holds_nothing_back() -> Result<()> {
    let town = Town::builder().daemons(1, 1, 2).start().await?;
    let outcome = history(&town).await;
    town.explain(outcome).await
}

/// With subscribers that keep up there is no backlog to drain: what fills Redis is history. What was
/// accepted must get through nevertheless.
async fn history(town: &Town) -> Result<()> {
    let mut subscribers = Vec::new();
    for name in ["one", "two"] {
        subscribers.push(town.subscribe(name, json!({ "channel": "history" })).await?);
    }
    bound(town, ROOM).await?;
    let mut accepted = fill(town, "history").await?;
    refused(town, "history").await?;
    let stored = accepted.len();
    town.quiet(Duration::from_secs(20)).await?;
    bound(town, ROOM).await?;
    let more: Vec<Post> = (0..20).map(|n| post(format!("after-{n}"), "history")).collect();
    town.publish_bulk(&more).await?;
    accepted.extend(more.into_iter().map(|post| post.id));
    town.quiet(Duration::from_secs(20)).await?;
    let balance = town.conserved(&all_to_all(&subscribers, &accepted)).await?;
    ensure!(balance.delivered == balance.pairs && balance.duplicates == 0, "{balance}");
    println!("full of history: {stored} accepted; {balance}");
    Ok(())
}
