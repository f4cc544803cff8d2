//! Figures agree with what happened, whichever ingest is asked, and none is invented: two ingests, two routers, two
//! workers, subscribers that take everything, fail and take their time, a stop of every daemon in between.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use postroad_e2e::load::Post;
use postroad_e2e::{Kind, Subscriber, Town};
use postroad_testkit::receiver::Answer;
use postroad_testkit::wait::eventually;
use serde_json::{Value, json};

const MESSAGES: u64 = 300;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn figures_agree_with_what_happened() -> Result<()> {
    let town = Town::builder().daemons(2, 2, 2).start().await?;
    let outcome = scenario(&town).await;
    town.explain(outcome).await
}

async fn scenario(town: &Arc<Town>) -> Result<()> {
    let well = town.subscribe("well", json!({ "channel": "orders" })).await?;
    let again = town.subscribe("again", json!({ "channel": "orders", "max_retries": 0 })).await?;
    let no = json!({ "channel": "refunds", "max_retries": 1, "retry_delay": 0.05 });
    let no = town.subscribe_answering("no", no, Answer::status(500)).await?;
    publish(town, "orders", 0..MESSAGES / 2).await?;
    publish(town, "refunds", 0..10).await?;
    publish(town, "nobody", 0..7).await?;
    town.quiet(Duration::from_secs(30)).await?;
    // Whoever stops tells what it has counted.
    for kind in [Kind::Ingest, Kind::Router, Kind::Worker] {
        town.stop(kind, 0).await?;
        town.start_again(kind, 0)?;
        town.ready(kind, 0).await?;
    }
    publish(town, "orders", MESSAGES / 2..MESSAGES).await?;
    town.quiet(Duration::from_secs(30)).await?;

    let orders = json!({
        "messages_published": MESSAGES,
        "messages_delivered": answered(town, &[&well, &again]),
        "messages_acknowledged": 2 * MESSAGES,
        "messages_failed": 0,
        "attempts_failed": 0,
        "messages_unroutable": 0,
        "active_subscriptions": 2,
        "last_24h_activity": MESSAGES,
    });
    let refunds = json!({
        "messages_published": 10,
        "messages_delivered": 0,
        "messages_acknowledged": 0,
        "messages_failed": 10,
        "attempts_failed": answered(town, &[&no]),
        "messages_unroutable": 0,
        "active_subscriptions": 1,
    });
    let nobody = json!({ "messages_published": 7, "messages_unroutable": 7, "messages_delivered": 0 });
    let attempts = 2 * MESSAGES + 20;
    let whole = json!({
        "total_messages_published": MESSAGES + 17,
        "total_messages_delivered": 2 * MESSAGES,
        "total_messages_failed": 10,
        "total_attempts_failed": 20,
        "total_messages_unroutable": 7,
        "active_subscriptions": 3,
        "active_channels": 3,
        "error_rate": 20.0 / float(attempts),
    });
    for ingest in [0, 1] {
        for (path, expected) in [
            ("/v1/channels/orders/stats", &orders),
            ("/v1/channels/refunds/stats", &refunds),
            ("/v1/channels/nobody/stats", &nobody),
            ("/v1/metrics", &whole),
        ] {
            tells(town, ingest, path, expected).await?;
        }
    }
    let stats = town.api(Kind::Ingest, 0)?.get("/v1/channels/orders/stats").await?.expect(200)?;
    let time = |name: &str| stats[name].as_f64().context("a time");
    let (mean, p95, p99) =
        (time("avg_delivery_time")?, time("p95_delivery_time")?, time("p99_delivery_time")?);
    ensure!(mean > 0.0 && p95 > 0.0 && p95 <= p99 && p99 < 60.0, "{stats}");
    Ok(())
}

fn float(number: u64) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

async fn publish(town: &Town, channel: &str, numbers: std::ops::Range<u64>) -> Result<()> {
    let posts: Vec<Post> = numbers.map(|n| Post::new(format!("{channel}-{n}"), channel)).collect();
    town.publish_bulk(&posts).await
}

/// How many requests the receiver had for them.
fn answered(town: &Town, subscribers: &[&Subscriber]) -> usize {
    subscribers.iter().map(|subscriber| town.receiver.received(&subscriber.path).len()).sum()
}

async fn tells(town: &Town, ingest: usize, path: &str, expected: &Value) -> Result<()> {
    let api = town.api(Kind::Ingest, ingest)?;
    eventually(Duration::from_secs(15), path, async || {
        let told =
            api.get(path).await.and_then(|answer| answer.expect(200)).map_err(|error| error.to_string())?;
        let expected = expected.as_object().into_iter().flatten();
        match expected.into_iter().find(|(name, value)| told[name.as_str()] != **value) {
            Some((name, value)) => Err(format!("{name} is not {value}: {told}")),
            None => Ok(()),
        }
    })
    .await?;
    Ok(())
}
