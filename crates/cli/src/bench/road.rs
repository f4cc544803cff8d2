//! HTTP publish to arrival: all daemons, single and bulk, against bare POSTs to the sink.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use hyper::Method;
use serde_json::json;

use super::{
    Plan,
    figures::{Row, number},
    load::Line,
    sink::now_us,
    stage::{Stage, payload},
};

/// Connections that publish at a time.
const CONNECTIONS: u64 = 32;
/// Messages in one bulk call.
const BULK: u64 = 100;
/// How long everything may take.
const LIMIT: Duration = Duration::from_secs(300);

/// One message as a request to publish it.
pub(super) fn request(bytes: usize) -> String {
    format!(r#"{{"channel":"bench","service_name":"bench","payload":{}}}"#, payload(bytes, now_us()))
}

/// Publishes messages one by one over many connections.
pub(super) async fn publish(api: SocketAddr, count: u64, bytes: usize) -> anyhow::Result<()> {
    each_line(api, count, move |_| ("/v1/messages", request(bytes))).await
}

async fn publish_bulk(api: SocketAddr, count: u64, bytes: usize) -> anyhow::Result<()> {
    each_line(api, count / BULK, move |_| {
        let messages: Vec<String> = (0..BULK).map(|_| request(bytes)).collect();
        ("/v1/messages/bulk", format!(r#"{{"service_name":"bench","messages":[{}]}}"#, messages.join(",")))
    })
    .await
}

/// Sends so many requests over many connections, each as soon as its last one is answered.
pub(super) async fn each_line(
    address: SocketAddr,
    count: u64,
    make: impl Fn(u64) -> (&'static str, String) + Clone + Send + 'static,
) -> anyhow::Result<()> {
    let mut lines = Vec::new();
    for connection in 0..CONNECTIONS.min(count.max(1)) {
        let make = make.clone();
        lines.push(tokio::spawn(async move {
            let mut line = Line::open(address).await?;
            for n in (connection..count).step_by(usize::try_from(CONNECTIONS)?) {
                let (path, body) = make(n);
                let (status, answer) = line.send(Method::POST, path, body).await?;
                anyhow::ensure!(
                    status < 300,
                    "{path} answered {status}: {}",
                    String::from_utf8_lossy(&answer)
                );
            }
            Ok(())
        }));
    }
    for line in lines {
        line.await??;
    }
    Ok(())
}

pub(super) async fn measure(plan: &Plan) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut stage = Stage::set(&plan.directory, &[]).await?;
    stage.start_all(&["ingest", "router", "worker", "reprocessor"]).await?;
    stage.subscribe("/road", json!({ "channel": "bench", "prefetch_count": 256 })).await?;
    publish(stage.api, 2_000, plan.bytes).await?;
    stage.wait_for(&["/road".into()], 2_000, LIMIT).await?;

    let begun = Instant::now();
    let bytes = plan.bytes;
    each_line(stage.sink, plan.messages, move |_| ("/bare", request(bytes))).await?;
    let bare = number(plan.messages) / begun.elapsed().as_secs_f64();

    for (case, bulk) in [("single", false), ("bulk of 100", true)] {
        stage.reset().await?;
        let (before, begun) = (stage.cpu(), Instant::now());
        if bulk {
            publish_bulk(stage.api, plan.messages, plan.bytes).await?;
        } else {
            publish(stage.api, plan.messages, plan.bytes).await?;
        }
        let published = begun.elapsed();
        let count = if bulk { plan.messages / BULK * BULK } else { plan.messages };
        stage.wait_for(&["/road".into()], count, LIMIT).await?;
        let arrived = begun.elapsed();
        // What settles after the last arrival belongs to it.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let used = stage.cpu().since(&before).micros_each(count);
        let seen = stage.arrived("/road").await?;
        let rate = number(count) / arrived.as_secs_f64();
        rows.push(
            Row::new("road", format!("{case}, {} bytes", plan.bytes))
                .with("publishes_per_s", number(count) / published.as_secs_f64())
                .with("deliveries_per_s", rate)
                .with("bare_posts_per_s", bare)
                .with("ratio_to_bare", rate / bare)
                .with("extra_arrivals", number(seen.count.saturating_sub(count)))
                .with("p50_ms", seen.latencies.percentile_ms(0.5))
                .with("p99_ms", seen.latencies.percentile_ms(0.99))
                .with_cpu(&used),
        );
    }
    Ok(rows)
}
