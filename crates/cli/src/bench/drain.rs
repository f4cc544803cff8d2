//! A preloaded backlog of one subscription, workers only: against a bare loop, and two workers against one.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use hyper::Method;
use serde_json::{Value, json};

use super::{
    Plan, bare,
    figures::{CpuUse, Row, cpu, number},
    load::Line,
    road::{publish, request},
    stage::Stage,
};

const LIMIT: Duration = Duration::from_secs(300);

/// Fills a subscription's queue while no worker runs.
async fn backlog(stage: &Stage, path: &str, prefetch: u32, plan: &Plan, count: u64) -> anyhow::Result<()> {
    let made = stage.subscribe(path, json!({ "channel": "bench", "prefetch_count": prefetch })).await?;
    let id = made["subscription_id"].as_str().context("no subscription id")?.to_owned();
    let mut line = Line::open(stage.api).await?;
    publish(stage.api, count, plan.bytes).await?;
    loop {
        let info = line.call(Method::GET, &format!("/v1/subscriptions/{id}"), &Value::Null).await?;
        if info["queued"].as_u64() == Some(count) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Drains a backlog with so many workers: deliveries a second from first to last arrival, and CPU by process.
async fn drained(
    plan: &Plan,
    settings: &[(&str, &str)],
    path: &str,
    prefetch: u32,
    workers: usize,
    count: u64,
) -> anyhow::Result<(f64, CpuUse)> {
    let mut stage = Stage::set(&plan.directory, settings).await?;
    stage.start_all(&["ingest", "router"]).await?;
    backlog(&stage, path, prefetch, plan, count).await?;
    stage.stop("router");
    let before = stage.cpu();
    stage.start_all(&["worker"].repeat(workers)).await?;
    let name = path.split('?').next().unwrap_or(path).to_owned();
    stage.wait_for(std::slice::from_ref(&name), count, LIMIT).await?;
    let used = stage.cpu().since(&before);
    let seen = stage.arrived(&name).await?;
    Ok((number(seen.count) / seen.span.as_secs_f64(), used))
}

/// The bare loop over as many bodies of the same size.
async fn bare_loop(plan: &Plan, count: u64, in_flight: usize) -> anyhow::Result<(f64, f64)> {
    let stage = Stage::set(&plan.directory, &[]).await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    bare::fill(&stage.redis_url, "bare", count, &request(plan.bytes)).await?;
    let before = stage.cpu();
    let mut child = Command::new(std::env::current_exe()?)
        .args(["bench", "bare", "--redis-url", &stage.redis_url, "--stream", "bare"])
        .args(["--target", &format!("http://{}/bare", stage.sink), "--in-flight", &in_flight.to_string()])
        .stdout(Stdio::null())
        .stdin(Stdio::null())
        .spawn()?;
    let waited = stage.wait_for(&["/bare".into()], count, LIMIT).await;
    let used = cpu(child.id());
    child.kill()?;
    child.wait()?;
    waited?;
    let redis = stage.cpu().since(&before).micros_each(count);
    let seen = stage.arrived("/bare").await?;
    let loop_us = used.as_secs_f64() * 1e6 / number(count);
    let rate = number(seen.count) / seen.span.as_secs_f64();
    Ok((rate, loop_us + redis.get("redis").copied().unwrap_or(0.0)))
}

pub(super) async fn measure(plan: &Plan) -> anyhow::Result<Vec<Row>> {
    const IN_FLIGHT: usize = 512;
    let count = plan.messages;
    let (bare, bare_us) = bare_loop(plan, count, IN_FLIGHT).await?;
    let (rate, used) = drained(plan, &[], "/drain", 512, 1, count).await?;
    let mut rows = vec![
        Row::new("drain", format!("1 worker, {count} messages of {} bytes", plan.bytes))
            .with("deliveries_per_s", rate)
            .with("bare_loop_per_s", bare)
            .with("ratio_to_bare", rate / bare)
            .with("bare_loop_and_redis_cpu_us", bare_us)
            .with_cpu(&used.micros_each(count)),
    ];
    // Where each worker's own limit binds, not the machine's.
    let settings = [("POSTROAD_WORKER_MAX_IN_FLIGHT", "64")];
    let count = plan.messages / 2;
    let path = "/slow?delay_ms=20";
    let (one, used_one) = drained(plan, &settings, path, 128, 1, count).await?;
    let (two, used_two) = drained(plan, &settings, path, 128, 2, count).await?;
    for (case, rate, used) in [("1 worker", one, used_one), ("2 workers", two, used_two)] {
        rows.push(
            Row::new("drain", format!("{case}, answers after 20 ms, 64 in flight each"))
                .with("deliveries_per_s", rate)
                .with("ratio_to_1_worker", rate / one)
                .with_cpu(&used.micros_each(count)),
        );
    }
    Ok(rows)
}
