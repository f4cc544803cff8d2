//! Daemons that stand still for longer than their lease and then go on as if nothing had happened, and
//! scripts that Redis forgets: nothing is lost and nothing is routed twice.
//!
//! Normally a router freezes 3 times under load, for 1 s of `SCRIPT FLUSH`es 20; with `E2E_FULL=1` 10 times,
//! and 30 s of flushes. A frozen router is replaced only when it counts as gone (5 s), so each freeze lasts
//! longer than that.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use postroad_e2e::balance::Expected;
use postroad_e2e::load::Post;
use postroad_e2e::{Kind, Town, all_to_all, size};
use postroad_testkit::proxy::Proxy;
use postroad_testkit::receiver::{Answer, Behaviour};
use postroad_testkit::wait::eventually;
use serde_json::json;

/// Longer than the lease (1 s) and than what makes a silent router count as gone (5 s).
const REPLACED: Duration = Duration::from_secs(15);
const QUIET: Duration = Duration::from_secs(30);

/// Waits until no partition is owned as it was by a router that stands still.
async fn wait_until_replaced(town: &Town, before: &BTreeMap<u16, String>) -> Result<()> {
    eventually(REPLACED, "another router to take the partitions", async || {
        let now = owners(town).await?;
        let still: Vec<u16> = before
            .iter()
            .filter(|(partition, owner)| now.get(partition) == Some(owner))
            .map(|(p, _)| *p)
            .collect();
        ensure!(still.is_empty(), "partitions {still:?} are still owned by the frozen one");
        Ok(())
    })
    .await
}

async fn owners(town: &Town) -> Result<BTreeMap<u16, String>> {
    Ok(town.census().await?.partitions.into_iter().map(|(number, p)| (number, p.owner)).collect())
}

/// The partitions of a router: those that its log says it took and that still say so.
async fn owned_by(town: &Town, router: usize) -> Result<BTreeMap<u16, String>> {
    // A router does not print its name: with two of them, the one who took partition p last is its owner.
    let mut mine = BTreeMap::new();
    let log = town.log(Kind::Router, router)?;
    for (partition, owner) in owners(town).await? {
        let took = format!("took a partition partition={partition} ");
        let lost = [
            format!("a partition is another's now partition={partition} "),
            format!("a partition is another's now partition={partition}\n"),
            format!("released a partition partition={partition}\n"),
        ];
        let last = |text: &str| log.rfind(text);
        let gone = lost.iter().filter_map(|text| last(text)).max();
        if last(&took).is_some_and(|taken| gone.is_none_or(|gone| taken > gone)) {
            mine.insert(partition, owner);
        }
    }
    Ok(mine)
}

/// Both routers have their share.
async fn shared_out(town: &Town) -> Result<()> {
    eventually(REPLACED, "both routers to own partitions", async || {
        let owners = owners(town).await?;
        let distinct: std::collections::BTreeSet<_> =
            owners.values().filter(|name| !name.is_empty()).collect();
        ensure!(distinct.len() == 2 && owners.len() == 8, "{owners:?}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_that_freezes_in_its_idle_read() -> Result<()> {
    let town = Town::builder().daemons(1, 2, 1).start().await?;
    let outcome = idle_read(&town).await;
    town.explain(outcome).await
}

async fn idle_read(town: &Arc<Town>) -> Result<()> {
    let subscriber = town.subscribe("all", json!({ "channel_pattern": "*" })).await?;
    // Every partition has its stream and its owner.
    let first: Vec<Post> = (0..40).map(|n| Post::new(format!("before-{n}"), "idle")).collect();
    town.publish_bulk(&first).await?;
    shared_out(town).await?;
    town.quiet(QUIET).await?;
    // Idle by now: it waits in its blocking read.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mine = owned_by(town, 0).await?;
    ensure!(mine.len() == 4, "a router owns {mine:?}");
    town.pause(Kind::Router, 0)?;
    let frozen = Instant::now();
    // These wake its read, and its answer lies in its socket while others do its work.
    let during: Vec<Post> = (0..40).map(|n| Post::new(format!("during-{n}"), "idle")).collect();
    town.publish_bulk(&during).await?;
    wait_until_replaced(town, &mine).await?;
    let replaced = frozen.elapsed();
    town.quiet(QUIET).await?;
    town.resume(Kind::Router, 0)?;
    let after: Vec<Post> = (0..40).map(|n| Post::new(format!("after-{n}"), "idle")).collect();
    town.publish_bulk(&after).await?;
    shared_out(town).await?;
    town.quiet(QUIET).await?;
    let ids = [first, during, after].concat().into_iter().map(|post| post.id).collect();
    let balance = town.conserved(&all_to_all(&[subscriber], &ids)).await?;
    ensure!(balance.duplicates == 0 && balance.delivered == balance.pairs, "{balance}");
    println!("freeze in an idle read: replaced after {replaced:.1?}; {balance}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routers_that_freeze_under_load() -> Result<()> {
    let town = Town::builder().daemons(2, 2, 1).start().await?;
    let outcome = under_load(&town).await;
    town.explain(outcome).await
}

async fn under_load(town: &Arc<Town>) -> Result<()> {
    let mut subscribers = Vec::new();
    for name in ["one", "two"] {
        subscribers.push(town.subscribe(name, json!({ "channel": "busy" })).await?);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let until = Arc::clone(&stop);
    let make = |n| Post::new(format!("load-{n}"), "busy");
    let load = town.load(4, Duration::from_millis(8), make, move |_| until.load(Ordering::Relaxed));
    let mut expected = Vec::new();
    let mut waits = Vec::new();
    for round in 0..size(3, 10_usize) {
        shared_out(town).await?;
        let router = round % 2;
        let mine = owned_by(town, router).await?;
        ensure!(!mine.is_empty(), "router-{router} owns nothing");
        // Any moment will do; the load does not keep step with it.
        tokio::time::sleep(Duration::from_millis(100 + 37 * round as u64 % 211)).await;
        town.pause(Kind::Router, router)?;
        let frozen = Instant::now();
        // What is subscribed to while it stands still, it must know of when it goes on.
        let name = format!("late-{round}");
        let late = town.subscribe_at(1, &name, json!({ "channel_pattern": format!("{name}.*") })).await?;
        let posts: Vec<Post> =
            (0..20).map(|n| Post::new(format!("{name}-{n}"), &format!("{name}.x"))).collect();
        town.publish_bulk(&posts[..10]).await?;
        wait_until_replaced(town, &mine).await?;
        waits.push(format!("{:.1}", frozen.elapsed().as_secs_f64()));
        town.resume(Kind::Router, router)?;
        town.publish_bulk(&posts[10..]).await?;
        let messages = posts.into_iter().map(|post| post.id).collect();
        expected.push(Expected { subscriber: late, messages });
    }
    stop.store(true, Ordering::Relaxed);
    let accepted = load.done().await?;
    town.quiet(QUIET).await?;
    expected.extend(all_to_all(&subscribers, &accepted));
    let balance = town.conserved(&expected).await?;
    ensure!(balance.duplicates == 0 && balance.delivered == balance.pairs, "{balance}");
    println!("freezes under load: replaced after {waits:?} s; {balance}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_that_redis_forgets() -> Result<()> {
    let town = Town::builder().daemons(1, 2, 2).start().await?;
    let outcome = flushes(&town).await;
    town.explain(outcome).await
}

async fn flushes(town: &Arc<Town>) -> Result<()> {
    let mut subscribers = Vec::new();
    for name in ["one", "two", "three"] {
        subscribers.push(town.subscribe(name, json!({ "channel_pattern": "*" })).await?);
    }
    let flushes = size(60, 600);
    let stop = Arc::new(AtomicBool::new(false));
    let until = Arc::clone(&stop);
    let make = |n| Post::new(format!("flush-{n}"), "flushed");
    let load = town.load(6, Duration::ZERO, make, move |_| until.load(Ordering::Relaxed));
    for _ in 0..flushes {
        town.redis.command(&["SCRIPT", "FLUSH"]).await?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let accepted = load.done().await?;
    town.quiet(QUIET).await?;
    let balance = town.conserved(&all_to_all(&subscribers, &accepted)).await?;
    ensure!(balance.duplicates == 0 && balance.delivered == balance.pairs, "{balance}");
    ensure!(town.retries() == 0, "a publisher was refused {} times", town.retries());
    println!("{flushes} flushes of scripts: {balance}");
    Ok(())
}

/// The worker's first life of a delivery ends in a freeze; a second worker gives it its second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_freezes_past_its_lease_and_then_fails() -> Result<()> {
    let town = Town::builder().start().await?;
    let outcome = late_failure(&town).await;
    town.explain(outcome).await
}

async fn late_failure(town: &Arc<Town>) -> Result<()> {
    // The first answer is a refusal that the frozen worker reads only when it goes on.
    let behaviour =
        Behaviour::first(1, Answer::status(500).delay(Duration::from_millis(300))).then(Answer::ok());
    let request = json!({ "channel": "slow", "retry_policy": { "max_retries": 5, "retry_delay": 0.1 } });
    let subscriber = town.subscribe_answering("frozen", request, behaviour).await?;
    let post = Post::new("frozen-1", "slow");
    town.publish(&post).await?;
    town.receiver.wait_for("/frozen", 1, Duration::from_secs(5)).await?;
    town.pause(Kind::Worker, 0)?;
    let second = town.add(Kind::Worker, &[]).await?;
    town.receiver.wait_for("/frozen", 2, Duration::from_secs(20)).await?;
    town.quiet(QUIET).await?;
    town.resume(Kind::Worker, 0)?;
    eventually(Duration::from_secs(10), "the frozen worker to be told that it is late", async || {
        let stale = town.metric(Kind::Worker, 0, "postroad_stale_settles_total").await?;
        ensure!(stale >= 1.0, "{stale} stale outcomes");
        Ok(())
    })
    .await?;
    // Had its failure counted, there would be a third attempt after 0.1 s.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let expected = all_to_all(std::slice::from_ref(&subscriber), &[post.id.clone()].into());
    let balance = town.conserved(&expected).await?;
    ensure!(balance.requests == 2 && balance.delivered == 1 && balance.duplicates == 0, "{balance}");
    let reclaimed = town.metric(Kind::Worker, second, "postroad_deliveries_reclaimed_total").await?;
    ensure!(reclaimed >= 1.0, "nothing was reclaimed");
    let shown = town.api(Kind::Ingest, 0)?.get(&format!("/v1/messages/{}", post.id)).await?.expect(200)?;
    ensure!(shown["status"] == "delivered", "{shown}");
    println!("a late failure: {balance}");
    Ok(())
}

/// Cut off from Redis by a network that stands still, a worker learns that its delivery succeeded while
/// another takes the delivery over: its late word settles it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_cut_off_past_its_lease_and_then_succeeds() -> Result<()> {
    let town = Town::builder().daemons(1, 1, 0).start().await?;
    let outcome = late_success(&town).await;
    town.explain(outcome).await
}

async fn late_success(town: &Arc<Town>) -> Result<()> {
    // The second answer is a refusal, and comes when the first worker's word is back.
    let behaviour = Behaviour::first(1, Answer::ok().delay(Duration::from_millis(300)))
        .then(Answer::status(500).delay(Duration::from_millis(700)));
    let request = json!({ "channel": "slow", "retry_policy": { "max_retries": 5, "retry_delay": 0.1 } });
    let subscriber = town.subscribe_answering("cut", request, behaviour).await?;
    let proxy = Proxy::start(town.redis.addr()).await?;
    let through = town.redis.url_through(proxy.addr());
    let settings = [("redis.url", through.as_str()), ("redis.response_timeout_ms", "30000")];
    let first = town.add(Kind::Worker, &settings).await?;
    let post = Post::new("cut-1", "slow");
    town.publish(&post).await?;
    town.receiver.wait_for("/cut", 1, Duration::from_secs(5)).await?;
    proxy.freeze();
    let second = town.add(Kind::Worker, &[]).await?;
    town.receiver.wait_for("/cut", 2, Duration::from_secs(20)).await?;
    proxy.heal().await?;
    town.quiet(QUIET).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let expected = all_to_all(std::slice::from_ref(&subscriber), &[post.id.clone()].into());
    let balance = town.conserved(&expected).await?;
    ensure!(balance.requests == 2 && balance.delivered == 1 && balance.duplicates == 0, "{balance}");
    let stale = town.metric(Kind::Worker, second, "postroad_stale_settles_total").await?;
    ensure!(stale >= 1.0, "the second worker's refusal counted");
    let delivered = town.metric(Kind::Worker, first, "postroad_deliveries_delivered_total").await?;
    ensure!(delivered >= 1.0, "the first worker did not settle it");
    println!("a late success: {balance}");
    Ok(())
}
