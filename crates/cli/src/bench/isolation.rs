//! 50 healthy subscribers, with and without one that hangs, in alternating rounds.

use std::time::Duration;

use hyper::Method;
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use super::{
    Plan,
    figures::{Latencies, Row},
    load::Line,
    road::request,
    stage::Stage,
};

const HEALTHY: usize = 50;
const ROUNDS: usize = 5;
const PER_SECOND: u32 = 20;
const SECONDS: u32 = 3;

pub(super) async fn measure(plan: &Plan) -> anyhow::Result<Vec<Row>> {
    let mut stage = Stage::set(&plan.directory, &[]).await?;
    stage.start_all(&["ingest", "router", "worker"]).await?;
    let paths: Vec<String> = (0..HEALTHY).map(|n| format!("/healthy/{n}")).collect();
    for path in &paths {
        stage.subscribe(path, json!({ "channel": "bench" })).await?;
    }
    let mut api = Line::open(stage.api).await?;
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS * 2 {
        let hanging = if round % 2 == 1 {
            Some(stage.subscribe("/hang", json!({ "channel": "bench" })).await?)
        } else {
            None
        };
        stage.reset().await?;
        let begun = Instant::now();
        for n in 0..PER_SECOND * SECONDS {
            sleep_until(begun + Duration::from_secs(1) * n / PER_SECOND).await;
            api.send(Method::POST, "/v1/messages", request(plan.bytes)).await?;
        }
        let count = u64::from(PER_SECOND * SECONDS) * u64::try_from(HEALTHY)?;
        stage.wait_for(&paths, count, Duration::from_secs(30)).await?;
        let into = if hanging.is_some() { &mut with } else { &mut without };
        for path in &paths {
            into.push(stage.arrived(path).await?.latencies);
        }
        if let Some(hanging) = hanging {
            let id = hanging["subscription_id"].as_str().unwrap_or_default().to_owned();
            api.send(Method::DELETE, &format!("/v1/subscriptions/{id}"), "").await?;
        }
    }
    let (with, without) = (Latencies::merged(with), Latencies::merged(without));
    let row = Row::new("isolation", format!("{HEALTHY} healthy subscribers, {ROUNDS} rounds each"))
        .with("p50_ms_alone", without.percentile_ms(0.5))
        .with("p99_ms_alone", without.percentile_ms(0.99))
        .with("p50_ms_beside_one_that_hangs", with.percentile_ms(0.5))
        .with("p99_ms_beside_one_that_hangs", with.percentile_ms(0.99))
        .with("p99_ratio", with.percentile_ms(0.99) / without.percentile_ms(0.99));
    Ok(vec![row])
}
