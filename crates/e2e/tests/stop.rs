//! `SIGTERM` of each daemon under load: it ends with exit code 0, gives back at once what it held, and no
//! subscriber gets anything twice.
//!
//! Normally each of the six daemons stops twice, with `E2E_FULL=1` ten times.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use postroad_e2e::load::Post;
use postroad_e2e::{Kind, Town, all_to_all, size};
use postroad_testkit::receiver::{Answer, Behaviour};
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_is_clean_and_doubles_nothing() -> Result<()> {
    let town = Town::builder().daemons(2, 2, 2).set("worker.max_in_flight", "64").start().await?;
    let outcome = under_load(&town).await;
    town.explain(outcome).await
}

/// The consumer's name of a worker's present life.
fn consumer(town: &Town, worker: usize) -> Result<String> {
    let log = town.log(Kind::Worker, worker)?;
    let (_, rest) = log.rsplit_once("delivering worker=\"").context("the worker does not say its name")?;
    Ok(rest.split('"').next().unwrap_or_default().to_owned())
}

async fn under_load(town: &Arc<Town>) -> Result<()> {
    let mut subscribers = Vec::new();
    for name in ["one", "two", "three"] {
        let answer = Answer::ok().delay(Duration::from_millis(15));
        subscribers.push(town.subscribe_answering(name, json!({ "channel_pattern": "*" }), answer).await?);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let until = Arc::clone(&stop);
    let make = |n| Post::new(format!("stop-{n}"), "stop");
    let mut load = town.load(6, Duration::from_millis(25), make, move |_| until.load(Ordering::Relaxed));
    let mut took = Vec::new();
    let mut busy = 0;
    for round in 0..size(2, 10) {
        for kind in [Kind::Worker, Kind::Router, Kind::Ingest] {
            for number in 0..2 {
                load.reach(load.accepted() + 100).await?;
                town.ready(kind, number).await?;
                let consumer = if kind == Kind::Worker { consumer(town, number)? } else { "-".into() };
                let held = town.census().await?.queued.iter().filter(|row| row.place == consumer).count();
                busy += held;
                let started = Instant::now();
                let status = town.stop(kind, number).await?;
                took.push(started.elapsed());
                ensure!(status.code() == Some(0), "{kind}-{number} ended with {status} in round {round}");
                let census = town.census().await?;
                let left = census.queued.iter().filter(|row| row.place == consumer).count();
                ensure!(left == 0, "{kind}-{number} ({consumer}) left {left} entries behind");
                town.start_again(kind, number)?;
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    let accepted = load.done().await?;
    town.quiet(Duration::from_secs(30)).await?;
    ensure!(busy > 0, "no worker held anything when it was stopped");
    let balance = town.conserved(&all_to_all(&subscribers, &accepted)).await?;
    ensure!(balance.delivered == balance.pairs && balance.duplicates == 0, "{balance}");
    ensure!(balance.requests == balance.pairs, "attempts were repeated: {balance}");
    let errors = town.errors_logged()?;
    ensure!(errors.is_empty(), "errors were logged: {errors:?}");
    took.sort_unstable();
    println!(
        "{} stops, the longest took {:.2?}; the workers held {busy} then; {balance}; {} offers repeated",
        took.len(),
        took[took.len() - 1],
        town.retries()
    );
    Ok(())
}

/// What takes longer than the grace is cut off and given back, and another worker has it at once: long
/// before its lease runs out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_outlasts_the_grace_is_given_back_at_once() -> Result<()> {
    let builder = Town::builder().set("grace_seconds", "1").set("worker.request_timeout_ms", "20000");
    let town = builder.set("worker.lease_ms", "30000").start().await?;
    let outcome = outlasting(&town).await;
    town.explain(outcome).await
}

async fn outlasting(town: &Arc<Town>) -> Result<()> {
    const COUNT: usize = 20;
    let behaviour = Behaviour::first(COUNT, Answer::hang()).then(Answer::ok());
    let subscriber = town.subscribe_answering("hangs", json!({ "channel": "hangs" }), behaviour).await?;
    let posts: Vec<Post> = (0..COUNT).map(|n| Post::new(format!("hangs-{n}"), "hangs")).collect();
    town.publish_bulk(&posts).await?;
    town.receiver.wait_for("/hangs", COUNT, Duration::from_secs(10)).await?;
    town.add(Kind::Worker, &[]).await?;
    let started = Instant::now();
    let status = town.stop(Kind::Worker, 0).await?;
    let ended = started.elapsed();
    ensure!(status.code() == Some(0), "{status}");
    ensure!(ended < Duration::from_secs(10), "it took {ended:?}, with a grace of 1 s");
    town.receiver.wait_for("/hangs", 2 * COUNT, Duration::from_secs(5)).await?;
    town.quiet(Duration::from_secs(10)).await?;
    let ids = posts.into_iter().map(|post| post.id).collect();
    let balance = town.conserved(&all_to_all(&[subscriber], &ids)).await?;
    ensure!(balance.delivered == COUNT && balance.duplicates == 0, "{balance}");
    println!("stopped in {ended:.2?} with {COUNT} deliveries that hang: {balance}");
    Ok(())
}
