//! A subscription that was answered before a message was published gets that message, whichever ingest
//! either call landed on.
//!
//! 500 tries, with `E2E_FULL=1` 2,000; two ingests, two routers, and a load beside it that keeps
//! both routers in the middle of something.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use postroad_e2e::balance::Expected;
use postroad_e2e::load::Post;
use postroad_e2e::{Kind, Town, all_to_all, size};
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_try_arrives() -> Result<()> {
    let town = Town::builder().daemons(2, 2, 2).start().await?;
    let outcome = scenario(&town).await;
    town.explain(outcome).await
}

async fn scenario(town: &Arc<Town>) -> Result<()> {
    let beside = town.subscribe("beside", json!({ "channel": "beside" })).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let until = Arc::clone(&stop);
    let make = |n| Post::new(format!("beside-{n}"), "beside");
    let load = town.load(4, Duration::from_millis(3), make, move |_| until.load(Ordering::Relaxed));
    let ingests = [town.api(Kind::Ingest, 0)?, town.api(Kind::Ingest, 1)?];

    let mut expected = Vec::new();
    let mut gaps = Vec::new();
    for n in 0..size(500, 2_000_usize) {
        let name = format!("try-{n:04}");
        // By name and by pattern: they are found in different ways.
        let request = match n % 3 {
            0 => json!({ "channel": name }),
            1 => json!({ "channel_pattern": format!("{name}*") }),
            _ => json!({ "channel": name, "filter_criteria": { "id": [name] } }),
        };
        let subscriber = town.subscribe_at(n % 2, &name, request).await?;
        let answered = Instant::now();
        let post = Post::new(name.clone(), &name);
        ingests[(n + 1) % 2].post("/v1/messages", post.body.to_string()).await?.expect(202)?;
        gaps.push(answered.elapsed());
        expected.push(Expected { subscriber, messages: [post.id].into() });
    }
    stop.store(true, Ordering::Relaxed);
    let accepted = load.done().await?;
    town.quiet(Duration::from_secs(30)).await?;
    expected.extend(all_to_all(&[beside], &accepted));
    let balance = town.conserved(&expected).await?;
    ensure!(balance.delivered == balance.pairs && balance.duplicates == 0, "{balance}");
    gaps.sort_unstable();
    println!("{} tries, published within {:.1?} (median): {balance}", gaps.len(), gaps[gaps.len() / 2]);
    Ok(())
}
