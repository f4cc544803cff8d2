//! Routers and workers that come and go under load: partitions are shared out fairly within seconds, and
//! nothing is lost or doubled.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use postroad_e2e::load::Post;
use postroad_e2e::{Kind, Town, all_to_all};
use postroad_testkit::receiver::Answer;
use postroad_testkit::wait::eventually;
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shares_follow_the_living() -> Result<()> {
    let town = Town::builder().set("worker.max_in_flight", "32").start().await?;
    let outcome = scenario(&town).await;
    town.explain(outcome).await
}

/// Waits until so many routers own partitions, in these numbers; how long that took.
async fn shared(town: &Town, wanted: &[usize], limit: Duration) -> Result<f64> {
    let started = Instant::now();
    eventually(limit, format!("shares of {wanted:?}"), async || {
        let census = town.census().await?;
        let mut shares: BTreeMap<&str, usize> = BTreeMap::new();
        for partition in census.partitions.values() {
            *shares.entry(&partition.owner).or_default() += 1;
        }
        let mut counts: Vec<usize> = shares.values().copied().collect();
        counts.sort_unstable_by(|a, b| b.cmp(a));
        ensure!(counts == wanted && !shares.contains_key(""), "{shares:?}");
        Ok(())
    })
    .await?;
    Ok(started.elapsed().as_secs_f64())
}

async fn scenario(town: &Arc<Town>) -> Result<()> {
    const SECONDS: Duration = Duration::from_secs(4);
    let mut subscribers = Vec::new();
    for name in ["one", "two"] {
        let answer = Answer::ok().delay(Duration::from_millis(5));
        subscribers.push(town.subscribe_answering(name, json!({ "channel": "scale" }), answer).await?);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let until = Arc::clone(&stop);
    let make = |n| Post::new(format!("scale-{n}"), "scale");
    let load = town.load(4, Duration::from_millis(5), make, move |_| until.load(Ordering::Relaxed));
    let mut times: Vec<(&str, f64)> = Vec::new();

    times.push(("one", shared(town, &[8], SECONDS).await?));
    let second = town.add(Kind::Router, &[]).await?;
    times.push(("a second comes", shared(town, &[4, 4], SECONDS).await?));
    let worker = town.add(Kind::Worker, &[]).await?;
    let third = town.add(Kind::Router, &[]).await?;
    times.push(("a third comes", shared(town, &[3, 3, 2], SECONDS).await?));
    ensure!(town.stop(Kind::Router, second).await?.code() == Some(0));
    times.push(("one leaves", shared(town, &[4, 4], SECONDS).await?));
    let worker_too = town.add(Kind::Worker, &[]).await?;
    ensure!(town.stop(Kind::Worker, worker).await?.code() == Some(0));
    // Whoever is killed counts as gone after 5 s.
    town.kill(Kind::Router, third)?;
    times.push(("one is killed", shared(town, &[8], Duration::from_secs(10)).await?));
    ensure!(town.stop(Kind::Worker, worker_too).await?.code() == Some(0));

    stop.store(true, Ordering::Relaxed);
    let accepted = load.done().await?;
    town.quiet(Duration::from_secs(30)).await?;
    let balance = town.conserved(&all_to_all(&subscribers, &accepted)).await?;
    ensure!(balance.delivered == balance.pairs && balance.duplicates == 0, "{balance}");
    println!("scale: {times:.2?} s; {balance}");
    Ok(())
}
