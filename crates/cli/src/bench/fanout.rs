//! One message to 100 subscriptions, against the same number of bare POSTs.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{
    Plan,
    figures::{Latencies, Row, number},
    road::{each_line, publish, request},
    stage::Stage,
};

const SUBSCRIPTIONS: u64 = 100;

pub(super) async fn measure(plan: &Plan) -> anyhow::Result<Vec<Row>> {
    let mut stage = Stage::set(&plan.directory, &[]).await?;
    stage.start_all(&["ingest", "router", "worker"]).await?;
    let paths: Vec<String> = (0..SUBSCRIPTIONS).map(|n| format!("/fan/{n}")).collect();
    for path in &paths {
        stage.subscribe(path, json!({ "channel": "bench" })).await?;
    }
    publish(stage.api, 10, plan.bytes).await?;
    stage.wait_for(&paths, 10 * SUBSCRIPTIONS, Duration::from_secs(60)).await?;
    stage.reset().await?;

    let messages = (plan.messages / SUBSCRIPTIONS).max(1);
    let count = messages * SUBSCRIPTIONS;
    let bytes = plan.bytes;
    let begun = Instant::now();
    each_line(stage.sink, count, move |_| ("/bare", request(bytes))).await?;
    let bare = number(count) / begun.elapsed().as_secs_f64();

    let (before, begun) = (stage.cpu(), Instant::now());
    publish(stage.api, messages, plan.bytes).await?;
    stage.wait_for(&paths, count, Duration::from_secs(300)).await?;
    let rate = number(count) / begun.elapsed().as_secs_f64();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let used = stage.cpu().since(&before).micros_each(count);

    // One message alone: how long until the last of them has it.
    let mut last = Vec::new();
    for _ in 0..20 {
        stage.reset().await?;
        publish(stage.api, 1, plan.bytes).await?;
        stage.wait_for(&paths, SUBSCRIPTIONS, Duration::from_secs(30)).await?;
        let mut slowest = 0.0_f64;
        for path in &paths {
            slowest = slowest.max(stage.arrived(path).await?.latencies.percentile_ms(1.0));
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "milliseconds as microseconds"
        )]
        last.push((slowest * 1_000.0) as u64);
    }
    let last = Latencies::new(last);
    let row = Row::new("fanout", format!("1 message to {SUBSCRIPTIONS} subscriptions, {} bytes", plan.bytes))
        .with("deliveries_per_s", rate)
        .with("bare_posts_per_s", bare)
        .with("ratio_to_bare", rate / bare)
        .with("last_of_one_p50_ms", last.percentile_ms(0.5))
        .with("last_of_one_max_ms", last.percentile_ms(1.0))
        .with_cpu(&used);
    Ok(vec![row])
}
