//! Publish to arrival at 50 messages a second, in turn with a bare POST to the sink.

use std::time::Duration;

use hyper::Method;
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use super::{
    Plan,
    figures::Row,
    load::Line,
    road::{publish, request},
    stage::Stage,
};

const PER_SECOND: u32 = 50;
const SECONDS: u32 = 20;

pub(super) async fn measure(plan: &Plan) -> anyhow::Result<Vec<Row>> {
    let mut stage = Stage::set(&plan.directory, &[]).await?;
    stage.start_all(&["ingest", "router", "worker"]).await?;
    stage.subscribe("/road", json!({ "channel": "bench" })).await?;
    publish(stage.api, 500, plan.bytes).await?;
    stage.wait_for(&["/road".into()], 500, Duration::from_secs(60)).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    stage.reset().await?;

    let (mut api, mut sink) = (Line::open(stage.api).await?, Line::open(stage.sink).await?);
    let before = stage.cpu();
    let begun = Instant::now();
    let count = PER_SECOND * SECONDS;
    for n in 0..count {
        let due = begun + Duration::from_secs(1) * n / PER_SECOND;
        sleep_until(due).await;
        api.send(Method::POST, "/v1/messages", request(plan.bytes)).await?;
        // The yardstick half-way between two messages.
        sleep_until(due + Duration::from_secs(1) / (2 * PER_SECOND)).await;
        sink.send(Method::POST, "/bare", request(plan.bytes)).await?;
    }
    stage.wait_for(&["/road".into()], u64::from(count), Duration::from_secs(30)).await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let used = stage.cpu().since(&before).micros_each(u64::from(count));
    let (road, bare) = (stage.arrived("/road").await?, stage.arrived("/bare").await?);
    let row = Row::new("latency", format!("{PER_SECOND} a second, {} bytes", plan.bytes))
        .with("p50_ms", road.latencies.percentile_ms(0.5))
        .with("p99_ms", road.latencies.percentile_ms(0.99))
        .with("max_ms", road.latencies.percentile_ms(1.0))
        .with("bare_p50_ms", bare.latencies.percentile_ms(0.5))
        .with("bare_p99_ms", bare.latencies.percentile_ms(0.99))
        .with("p50_to_bare", road.latencies.percentile_ms(0.5) / bare.latencies.percentile_ms(0.5))
        .with("p99_to_bare", road.latencies.percentile_ms(0.99) / bare.latencies.percentile_ms(0.99))
        .with_cpu(&used);
    Ok(vec![row])
}
