//! What lies in a subscription's queue: how long it may, how much of it, in which order and how fast it leaves, and what
//! becomes of what cannot.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::Method;
use postroad_e2e::balance::Expected;
use postroad_e2e::load::Post;
use postroad_e2e::{Kind, Subscriber, Town, all_to_all};
use postroad_testkit::receiver::{Answer, Keep};
use postroad_testkit::wait::eventually;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(10);

async fn configure(town: &Town, name: &str, arguments: Value) -> Result<()> {
    let body = Bytes::from(json!({ "arguments": arguments }).to_string());
    let json = [("content-type", "application/json")];
    let path = format!("/v1/channels/{name}");
    let answer = town.api(Kind::Ingest, 0)?.call(Method::PUT, &path, &json, body).await?;
    answer.expect(201).map(drop)
}

/// Pauses or resumes.
async fn turn(town: &Town, subscriber: &Subscriber, how: &str) -> Result<()> {
    let path = format!("/v1/subscriptions/{}/{how}", subscriber.id);
    town.api(Kind::Ingest, 0)?.post(&path, Bytes::new()).await?.expect(200).map(drop)
}

async fn status(town: &Town, message: &str) -> Result<Value> {
    Ok(town.api(Kind::Ingest, 0)?.get(&format!("/v1/messages/{message}")).await?.expect(200)?["status"]
        .take())
}

async fn becomes(town: &Town, message: &str, wanted: &str) -> Result<()> {
    eventually(PATIENCE, format!("{message} to be {wanted}"), async || {
        let status = status(town, message).await?;
        ensure!(status == wanted, "it is {status}");
        anyhow::Ok(())
    })
    .await
}

fn ids(ids: &[&str]) -> BTreeSet<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

/// The messages' ids in the order of their arrival.
fn arrived(town: &Town, subscriber: &Subscriber) -> Vec<String> {
    let got = town.receiver.received(&subscriber.path);
    got.iter().filter_map(|request| Some(request.header("webhook-id")?.to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_is_copied_and_stays() -> Result<()> {
    let town = Town::builder().keep(Keep::Everything).start().await?;
    let outcome = copies(&town).await;
    town.explain(outcome).await
}

async fn copies(town: &Arc<Town>) -> Result<()> {
    town.add(Kind::Reprocessor, &[]).await?;
    let morgue = town.subscribe("morgue", json!({ "channel": "orders.dead" })).await?;
    let request = json!({ "channel": "orders", "max_retries": 0, "dead_letter_queue": "orders.dead" });
    let subscriber = town.subscribe_answering("orders", request, Answer::status(500)).await?;
    let order = Post::new("order-1", "orders").with("routing_key", "order.created");
    town.publish(&order).await?;
    let copy = town.receiver.wait_for(&morgue.path, 1, PATIENCE).await?.remove(0).json()?;
    ensure!(copy["payload"] == order.body["payload"] && copy["channel"] == "orders.dead", "{copy}");
    let headers = &copy["metadata"]["headers"];
    let death = &headers["x-death"][0];
    ensure!(headers["x-death"].as_array().map(Vec::len) == Some(1), "{copy}");
    ensure!(death["queue"] == subscriber.id.as_str() && death["exchange"] == "orders", "{copy}");
    ensure!(death["count"] == 1 && death["routing-keys"] == json!(["order.created"]), "{copy}");
    ensure!(headers["x-first-death-reason"] == death["reason"], "{copy}");
    ensure!(headers["x-original-message-id"] == "order-1", "{copy}");
    let copied = copy["message_id"].as_str().context("an id")?.to_owned();

    // The dead letter lies where it lay, with the attempt, and can be sent again.
    town.quiet(PATIENCE).await?;
    let mut expected = all_to_all(std::slice::from_ref(&subscriber), &ids(&["order-1"]));
    expected.extend(all_to_all(&[morgue], &BTreeSet::from([copied])));
    let balance = town.conserved(&expected).await?;
    ensure!((balance.delivered, balance.dead) == (1, 1), "{balance}");
    let reprocessor = town.api(Kind::Reprocessor, 0)?;
    let listed = reprocessor.get("/v1/dlq/messages").await?.expect(200)?;
    let letters = listed["messages"].as_array().with_context(|| listed.to_string())?;
    ensure!(letters.len() == 1 && letters[0]["message_id"] == "order-1", "{listed}");
    town.receiver.on(&subscriber.path, Answer::ok());
    let order = json!({ "subscription_id": subscriber.id }).to_string();
    reprocessor.post("/v1/dlq/replay", order).await?.expect(202)?;
    town.receiver.wait_for(&subscriber.path, 2, PATIENCE).await?;
    becomes(town, "order-1", "delivered").await?;
    let balance = town.balance(&expected).await?;
    balance.nothing_astray()?;
    ensure!((balance.delivered, balance.dead, balance.duplicates) == (2, 0, 0), "{balance}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_too_long_or_is_too_much_leaves_its_queue() -> Result<()> {
    let town = Town::builder().start().await?;
    let outcome = bounds(&town).await;
    town.explain(outcome).await
}

async fn bounds(town: &Arc<Town>) -> Result<()> {
    configure(town, "short", json!({ "x-message-ttl": 300 })).await?;
    configure(town, "dropping", json!({ "x-max-length": 3, "x-overflow": "drop-head" })).await?;
    configure(town, "refusing", json!({ "x-max-length": 3, "x-overflow": "reject-publish" })).await?;
    let mut paused = Vec::new();
    for channel in ["short", "free", "dropping", "refusing"] {
        let subscriber = town.subscribe(channel, json!({ "channel": channel })).await?;
        turn(town, &subscriber, "pause").await?;
        paused.push(subscriber);
    }
    // Expires while it waits, though nobody takes it: by its channel's lifetime, and by its own.
    town.publish(&Post::new("short-1", "short")).await?;
    let brief = json!({ "message_id": "free-1", "ttl": 1 });
    town.publish(&Post::new("free-1", "free").with("metadata", brief)).await?;
    town.publish(&Post::new("free-2", "free")).await?;
    becomes(town, "short-1", "expired").await?;
    becomes(town, "free-1", "expired").await?;
    ensure!(status(town, "free-2").await? == "queued");

    // The oldest go.
    for n in 1..=5 {
        town.publish(&Post::new(format!("dropping-{n}"), "dropping")).await?;
        becomes(town, &format!("dropping-{n}"), "queued").await?;
    }
    for n in 1..=2 {
        becomes(town, &format!("dropping-{n}"), "dead").await?;
    }

    // The newest are refused: by figures that are at most a second old, so not to the message.
    let mut refusing = BTreeSet::new();
    let refusal = eventually(PATIENCE, "a full channel to refuse", async || {
        let post = Post::new(format!("refusing-{}", refusing.len() + 1), "refusing");
        let answer = town.api(Kind::Ingest, 0)?.post("/v1/messages", post.body.to_string()).await?;
        if answer.status == 429 {
            return Ok(answer);
        }
        answer.expect(202)?;
        refusing.insert(post.id);
        anyhow::bail!("{} were accepted", refusing.len())
    })
    .await?;
    ensure!(
        refusal.json()["error_code"].is_string() && refusing.len() >= 3,
        "{} {refusing:?}",
        refusal.text()
    );

    for subscriber in &paused {
        turn(town, subscriber, "resume").await?;
    }
    town.quiet(PATIENCE).await?;
    // There is room again.
    eventually(PATIENCE, "the channel to accept", async || {
        let post = Post::new("refusing-last", "refusing");
        town.api(Kind::Ingest, 0)?.post("/v1/messages", post.body.to_string()).await?.expect(202)
    })
    .await?;
    refusing.insert("refusing-last".to_owned());
    town.quiet(PATIENCE).await?;
    let dropping = ["dropping-1", "dropping-2", "dropping-3", "dropping-4", "dropping-5"];
    ensure!(arrived(town, &paused[2]) == dropping[2..], "{:?}", arrived(town, &paused[2]));
    ensure!(arrived(town, &paused[0]).is_empty() && arrived(town, &paused[1]) == ["free-2"]);
    let messages = [ids(&["short-1"]), ids(&["free-1", "free-2"]), ids(&dropping), refusing];
    let expected: Vec<Expected> = paused
        .into_iter()
        .zip(messages)
        .map(|(subscriber, messages)| Expected { subscriber, messages })
        .collect();
    let balance = town.conserved(&expected).await?;
    ensure!((balance.dead, balance.queued, balance.duplicates) == (4, 0, 0), "{balance}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn urgent_ones_first_and_no_faster_than_asked() -> Result<()> {
    let town = Town::builder().start().await?;
    let outcome = order_and_pace(&town).await;
    town.explain(outcome).await
}

async fn order_and_pace(town: &Arc<Town>) -> Result<()> {
    let mut expected = priorities(town).await?;
    expected.extend(rate(town).await?);
    let balance = town.conserved(&expected).await?;
    ensure!((balance.delivered, balance.duplicates) == (100, 0), "{balance}");
    Ok(())
}

/// Forty wait, ten of each priority, and leave one by one.
async fn priorities(town: &Arc<Town>) -> Result<Vec<Expected>> {
    const RISING: [&str; 4] = ["low", "normal", "high", "critical"];
    let subscriber = town.subscribe("ranked", json!({ "channel": "ranked", "prefetch_count": 1 })).await?;
    turn(town, &subscriber, "pause").await?;
    for n in 0..40 {
        let (priority, id) = (RISING[n % 4], format!("{}-{:02}", RISING[n % 4], n));
        let post = Post::new(&id, "ranked")
            .with("metadata", json!({ "message_id": id, "priority": priority }))
            // One line, so that they are accepted and queued in this order.
            .with("ordering_key", "one");
        town.publish(&post).await?;
    }
    town.quiet_but(40, PATIENCE).await?;
    turn(town, &subscriber, "resume").await?;
    town.quiet(PATIENCE).await?;
    let arrived = arrived(town, &subscriber);
    let of = |priority: &str| -> Vec<(usize, &String)> {
        arrived.iter().enumerate().filter(|(_, id)| id.starts_with(priority)).collect()
    };
    for priority in RISING {
        let of = of(priority);
        ensure!(of.len() == 10 && of.is_sorted_by_key(|(_, id)| *id), "{priority} in order: {arrived:?}");
    }
    let late = |priority: &str| of(priority).into_iter().map(|(at, _)| at).sum::<usize>();
    ensure!(RISING.is_sorted_by(|less, more| late(less) > late(more)), "{arrived:?}");
    // Every eighth take begins at the bottom, so that nothing starves.
    let urgent = arrived[..10].iter().filter(|id| id.starts_with("critical")).count();
    ensure!((8..10).contains(&urgent), "{arrived:?}");
    Ok(all_to_all(&[subscriber], &arrived.into_iter().collect()))
}

/// Sixty at twenty a second.
async fn rate(town: &Arc<Town>) -> Result<Vec<Expected>> {
    let subscriber = town.subscribe("paced", json!({ "channel": "paced", "rate_limit": 20 })).await?;
    let posts: Vec<Post> = (0..60).map(|n| Post::new(format!("paced-{n}"), "paced")).collect();
    town.publish_bulk(&posts).await?;
    let got = town.receiver.wait_for(&subscriber.path, 60, PATIENCE).await?;
    let at: Vec<f64> = got.iter().map(|request| (request.at - got[0].at).as_secs_f64()).collect();
    let densest = at.iter().map(|from| at.iter().filter(|at| (*from..from + 1.0).contains(at)).count()).max();
    let (took, densest) = (at[59], densest.unwrap_or(0));
    println!("60 messages at 20 a second took {took:.2} s, at most {densest} came within a second");
    ensure!(took >= 2.5 && densest <= 23, "{took:.2} s, {densest} within a second");
    town.quiet(PATIENCE).await?;
    Ok(all_to_all(&[subscriber], &posts.into_iter().map(|post| post.id).collect()))
}
