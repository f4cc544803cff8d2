//! The same traffic with 10, 1,000 and 10,000 subscriptions that don't match: other channels, channel
//! patterns, routing keys and filters, a quarter each.

use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};

use super::{
    Plan,
    figures::{Row, number},
    load::Line,
    road::publish,
    stage::Stage,
};

const SIZES: [u64; 3] = [10, 1_000, 10_000];

fn stranger(n: u64) -> Value {
    match n % 4 {
        0 => json!({ "channel": format!("other.{n}") }),
        1 => json!({ "channel_pattern": format!("oth*.{n}") }),
        2 => json!({ "channel": "bench", "routing_key": format!("never.{n}.*") }),
        _ => json!({ "channel": "bench", "filter_criteria": { "pad": [format!("no-{n}")] } }),
    }
}

pub(super) async fn measure(plan: &Plan) -> anyhow::Result<Vec<Row>> {
    let mut rows: Vec<Row> = Vec::new();
    for size in SIZES {
        let mut stage = Stage::set(&plan.directory, &[]).await?;
        stage.start_all(&["ingest", "router", "worker"]).await?;
        stage.subscribe("/road", json!({ "channel": "bench", "prefetch_count": 256 })).await?;
        let mut line = Line::open(stage.api).await?;
        for n in 0..size {
            let mut request = stranger(n);
            request["service_name"] = json!("bench");
            request["callback_url"] = json!(format!("http://{}/never", stage.sink));
            line.call(Method::POST, "/v1/subscriptions", &request).await?;
        }
        publish(stage.api, 2_000, plan.bytes).await?;
        stage.wait_for(&["/road".into()], 2_000, Duration::from_secs(60)).await?;
        stage.reset().await?;
        let before = stage.cpu();
        publish(stage.api, plan.messages, plan.bytes).await?;
        stage.wait_for(&["/road".into()], plan.messages, Duration::from_secs(300)).await?;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let used = stage.cpu().since(&before).micros_each(plan.messages);
        let strangers = stage.arrived("/never").await?.count;
        let mut row = Row::new("subscriptions", format!("{size} that don't match")).with_cpu(&used);
        let first = rows.first().map_or(row.get("road_cpu_us"), |first| first.get("road_cpu_us"));
        let ratio = row.get("road_cpu_us") / first;
        row = row.with("ratio_to_10", ratio).with("strangers", number(strangers));
        rows.push(row);
    }
    Ok(rows)
}
