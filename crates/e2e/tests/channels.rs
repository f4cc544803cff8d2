//! What a channel is configured with holds for what is published after it was answered, whichever ingest either
//! call landed on: its type at the routers, its messages' lifetime at the workers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use http::Method;
use postroad_e2e::balance::Expected;
use postroad_e2e::load::Post;
use postroad_e2e::{Kind, Town};
use postroad_testkit::wait::eventually;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_type_counts_from_its_answer_on() -> Result<()> {
    let town = Town::builder().daemons(2, 2, 1).start().await?;
    let outcome = types(&town).await;
    town.explain(outcome).await
}

async fn configure(town: &Town, ingest: usize, name: &str, settings: Value) -> Result<()> {
    let (path, body) = (format!("/v1/channels/{name}"), Bytes::from(settings.to_string()));
    let json = [("content-type", "application/json")];
    let answer = town.api(Kind::Ingest, ingest)?.call(Method::PUT, &path, &json, body).await?;
    ensure!(answer.status == 200 || answer.status == 201, "{} {}", answer.status, answer.text());
    Ok(())
}

async fn types(town: &Arc<Town>) -> Result<()> {
    let subscribers = [
        town.subscribe("pattern", json!({ "channel": "c", "routing_key": "a.*" })).await?,
        town.subscribe("exact", json!({ "channel_pattern": "c*", "routing_key": "a.b" })).await?,
        town.subscribe("other", json!({ "channel": "c", "routing_key": "z" })).await?,
    ];
    // Which of them get a message with the routing key a.b.
    let types = [
        ("topic", [true, true, false]),
        ("direct", [false, true, false]),
        ("fanout", [true, true, true]),
        ("headers", [true, true, true]),
    ];
    let mut expected = vec![BTreeSet::new(); subscribers.len()];
    for n in 0..60 {
        let (channel_type, gets) = types[n % types.len()];
        configure(town, n % 2, "c", json!({ "type": channel_type })).await?;
        let post = Post::new(format!("{channel_type}-{n}"), "c").with("routing_key", "a.b");
        town.api(Kind::Ingest, (n + 1) % 2)?
            .post("/v1/messages", post.body.to_string())
            .await?
            .expect(202)?;
        // What is routed before the next change: messages under way are read by the newest type.
        eventually(Duration::from_secs(10), "the message to be routed", async || match town.census().await {
            Ok(census) if census.unrouted().is_empty() => Ok(()),
            Ok(census) => Err(format!("{:?}", census.unrouted())),
            Err(error) => Err(error.to_string()),
        })
        .await?;
        for (messages, gets) in expected.iter_mut().zip(gets) {
            if gets {
                messages.insert(post.id.clone());
            }
        }
    }
    town.quiet(Duration::from_secs(10)).await?;
    let expected: Vec<Expected> = subscribers
        .into_iter()
        .zip(expected)
        .map(|(subscriber, messages)| Expected { subscriber, messages })
        .collect();
    let balance = town.conserved(&expected).await?;
    ensure!(balance.delivered == balance.pairs && balance.unexpected.is_empty(), "{balance:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_live_as_long_as_their_channel_says() -> Result<()> {
    let town = Town::builder().daemons(1, 1, 0).start().await?;
    let outcome = lifetimes(&town).await;
    town.explain(outcome).await
}

async fn lifetimes(town: &Arc<Town>) -> Result<()> {
    configure(town, 0, "short", json!({ "arguments": { "x-message-ttl": 1 } })).await?;
    town.subscribe("all", json!({ "channel_pattern": "*" })).await?;
    let hour = json!({ "message_id": "asked", "ttl": 3_600 });
    for post in [
        Post::new("channel", "short"),
        Post::new("asked", "short").with("metadata", hour),
        Post::new("free", "long"),
    ] {
        town.publish(&post).await?;
    }
    // By the time that there is a worker, what could live for a millisecond has expired.
    town.quiet_but(3, Duration::from_secs(10)).await?;
    town.add(Kind::Worker, &[]).await?;
    town.quiet(Duration::from_secs(10)).await?;
    let api = town.api(Kind::Ingest, 0)?;
    for (id, status) in [("channel", "expired"), ("asked", "expired"), ("free", "delivered")] {
        let shown = api.get(&format!("/v1/messages/{id}")).await?.expect(200)?;
        ensure!(shown["status"] == status, "{shown}");
        ensure!(id != "asked" || shown["metadata"]["ttl"] == 3_600, "{shown}");
    }
    ensure!(town.receiver.received("/all").len() == 1, "what has expired was sent");
    Ok(())
}
