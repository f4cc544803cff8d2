//! A subscriber that hangs, among 50 healthy ones: they are served as if it were not there.
//!
//! Rounds with and without it alternate in one run; the ratio of their 99th percentiles from publish call to
//! arrival is printed. It is a measurement, not an assertion: a build machine is no place for one. Asserted
//! is that everything healthy arrives while the other hangs, and that it holds no more than its prefetch.
//!
//! Normally 3 rounds of each, with `E2E_FULL=1` 10 longer ones (run them with `--release` binaries in
//! `POSTROAD_BIN_DIR` for figures that mean something).

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::Method;
use postroad_e2e::load::Post;
use postroad_e2e::{Kind, Subscriber, Town, all_to_all, size};
use postroad_testkit::receiver::Answer;
use postroad_testkit::wait::eventually;
use serde_json::json;

const HEALTHY: usize = 50;
const PREFETCH: usize = 16;
/// Longer than a round lasts.
const HANGS: Duration = Duration::from_secs(6);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_hangs_slows_nobody() -> Result<()> {
    let builder = Town::builder().set("worker.request_timeout_ms", "10000").set("worker.lease_ms", "15000");
    let town = builder.set("worker.max_in_flight", "64").start().await?;
    let outcome = scenario(&town).await;
    town.explain(outcome).await
}

async fn scenario(town: &Arc<Town>) -> Result<()> {
    let mut healthy = Vec::new();
    for n in 0..HEALTHY {
        healthy.push(town.subscribe(&format!("healthy-{n}"), json!({ "channel": "fair" })).await?);
    }
    let (rounds, messages) = size((3, 40), (10, 100_usize));
    let mut all = BTreeSet::new();
    let (mut with, mut without) = (Vec::new(), Vec::new());
    // The first round warms up: connections are made, code is paged in.
    for round in 0..=2 * rounds {
        let hanging = if round > 0 && round % 2 == 0 { Some(hang(town, round).await?) } else { None };
        let ids: Vec<String> = (0..messages).map(|n| format!("fair-{round}-{n}")).collect();
        let mut latencies = measure(town, &healthy, &ids).await?;
        all.extend(ids);
        if let Some(hanging) = &hanging {
            release(town, hanging).await?;
        }
        if round > 0 {
            latencies.sort_unstable();
            let p99 = latencies[latencies.len() * 99 / 100].as_secs_f64() * 1_000.0;
            if hanging.is_some() { &mut with } else { &mut without }.push(p99);
        }
    }
    town.quiet(Duration::from_secs(30)).await?;
    let balance = town.conserved(&all_to_all(&healthy, &all)).await?;
    ensure!(balance.delivered == balance.pairs && balance.duplicates == 0, "{balance}");
    let (a, b) = (median(&mut without), median(&mut with));
    println!(
        "fairness: p99 of the healthy {a:.1} ms without and {b:.1} ms with the hanging one, ratio {:.2} \
         (medians of {rounds} rounds: {without:.1?}, {with:.1?}); {balance}",
        b / a
    );
    Ok(())
}

/// A subscriber that hangs, with more work than it may hold; it holds all that it may when this returns.
async fn hang(town: &Town, round: usize) -> Result<Subscriber> {
    let name = format!("hanging-{round}");
    let request = json!({ "channel": name, "prefetch_count": PREFETCH });
    let hanging = town.subscribe_answering(&name, request, Answer::ok().delay(HANGS)).await?;
    let posts: Vec<Post> = (0..100).map(|n| Post::new(format!("{name}-{n}"), &name)).collect();
    town.publish_bulk(&posts).await?;
    town.receiver.wait_for(&hanging.path, PREFETCH, Duration::from_secs(10)).await?;
    Ok(hanging)
}

/// Asserts that it has hung all the while, cancels it and waits until the worker is rid of it.
async fn release(town: &Town, hanging: &Subscriber) -> Result<()> {
    let got = town.receiver.received(&hanging.path);
    let answered = got.iter().filter(|request| request.answered().is_some()).count();
    ensure!(answered == 0, "it has answered {answered} times: the round took longer than {HANGS:?}");
    let peak = town.receiver.peak_in_flight(&hanging.path);
    ensure!(got.len() == PREFETCH && peak == PREFETCH, "the hanging one held {peak} of {}", got.len());
    let path = format!("/v1/subscriptions/{}", hanging.id);
    let api = town.api(Kind::Ingest, 0)?;
    api.call(Method::DELETE, &path, &[], Bytes::new()).await?.expect(200)?;
    eventually(Duration::from_secs(20), "the worker to be rid of it", async || {
        let held = town.metric(Kind::Worker, 0, "postroad_deliveries_in_flight").await?;
        ensure!(held == 0.0, "{held} are in flight");
        Ok(())
    })
    .await
}

/// Publishes at a steady rate and waits until everything has arrived. The times from call to arrival.
async fn measure(town: &Arc<Town>, healthy: &[Subscriber], ids: &[String]) -> Result<Vec<Duration>> {
    let mut called = HashMap::new();
    let before = town.receiver.count(&healthy[0].path);
    for id in ids {
        called.insert(id.as_str(), Instant::now());
        town.publish(&Post::new(id.clone(), "fair")).await?;
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    let mut latencies = Vec::new();
    for subscriber in healthy {
        let got =
            town.receiver.wait_for(&subscriber.path, before + ids.len(), Duration::from_secs(15)).await?;
        for request in &got[before..] {
            let id = request.header("webhook-id").context("no webhook-id")?;
            let call = called.get(id).context("a message of another round")?;
            latencies.push(request.at.duration_since(*call));
        }
    }
    Ok(latencies)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}
