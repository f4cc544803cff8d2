//! What one delivery, one lane or one subscription does to a worker: nothing to the others.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use postroad_e2e::load::Post;
use postroad_e2e::{Kind, Subscriber, Town, all_to_all};
use postroad_testkit::receiver::{Answer, Behaviour};
use postroad_testkit::redis::Fsync;
use postroad_testkit::wait::eventually;
use serde_json::{Value, json};

/// One attempt, as far as a scenario lasts.
fn once() -> Value {
    json!({ "max_retries": 9, "retry_delay": 60 })
}

fn posts(name: &str, count: usize) -> Vec<Post> {
    (0..count).map(|n| Post::new(format!("{name}-{n}"), name)).collect()
}

fn ids(posts: Vec<Post>) -> BTreeSet<String> {
    posts.into_iter().map(|post| post.id).collect()
}

/// The queue of a subscriber's messages of normal priority.
fn queue(town: &Town, subscriber: &Subscriber) -> Result<String> {
    Ok(town.lane_key(town.lane_of(subscriber)?, &format!("work:{}:1", subscriber.id)))
}

/// Publishes for a subscriber, and makes as if all of it had been lost three times. No worker must run.
async fn lost_three_times(town: &Town, subscriber: &Subscriber, posts: &[Post]) -> Result<()> {
    town.publish_bulk(posts).await?;
    let key = queue(town, subscriber)?;
    let count = posts.len().to_string();
    eventually(Duration::from_secs(5), "the messages to be queued", async || {
        let length = town.redis.command(&["XLEN", &key]).await?.int();
        ensure!(length == Some(i64::try_from(posts.len())?), "{length:?} are");
        Ok(())
    })
    .await?;
    let read = ["XREADGROUP", "GROUP", "g", "again", "COUNT", &count, "STREAMS", &key, ">"];
    town.redis.command(&read).await?;
    let rows = town.redis.command(&["XPENDING", &key, "g", "-", "+", &count]).await?;
    let tries = town.lane_key(town.lane_of(subscriber)?, &format!("tries:{}", subscriber.id));
    for row in rows.items() {
        let id = row.items()[0].text().context("an id")?;
        town.redis.command(&["HSET", &tries, &format!("1:{id}"), "0 3"]).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn suspects_run_one_at_a_time_and_keep_nobody() -> Result<()> {
    let town = Town::builder().daemons(1, 1, 0).start().await?;
    let outcome = suspects(&town).await;
    town.explain(outcome).await
}

async fn suspects(town: &Arc<Town>) -> Result<()> {
    let hang = json!({ "channel": "hang", "retry_policy": once() });
    let hang = town.subscribe_answering("hang", hang, Answer::hang()).await?;
    let healthy = town.subscribe("healthy", json!({ "channel": "healthy" })).await?;
    let suspects = posts("hang", 4);
    lost_three_times(town, &hang, &suspects).await?;
    town.add(Kind::Worker, &[]).await?;
    let posts = posts("healthy", 100);
    for post in &posts {
        town.publish(post).await?;
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    town.receiver.wait_for(&healthy.path, posts.len(), Duration::from_secs(20)).await?;
    town.receiver.wait_for(&hang.path, 4, Duration::from_secs(20)).await?;
    ensure!(town.receiver.peak_in_flight(&hang.path) == 1, "{}", town.receiver.describe(&hang.path));
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let mut expected = all_to_all(&[hang], &ids(suspects));
    expected.extend(all_to_all(&[healthy], &ids(posts)));
    let balance = town.conserved(&expected).await?;
    ensure!(balance.duplicates == 0 && balance.dead == 0 && balance.queued == 4, "{balance}");
    println!("suspects: {balance}");
    Ok(())
}

/// Kills the worker as often as it makes a certain request: that delivery is buried, and none beside it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_kills_its_workers_is_buried_alone() -> Result<()> {
    let town = Town::builder().daemons(1, 1, 0).start().await?;
    let outcome = poison(&town).await;
    town.explain(outcome).await
}

async fn poison(town: &Arc<Town>) -> Result<()> {
    let request = |channel: &str| json!({ "channel": channel, "retry_policy": once() });
    let slow = Answer::ok().delay(Duration::from_millis(200));
    // The first one in the queue is the poison.
    let rule = Behaviour::by(move |request| {
        if request.header("webhook-id") == Some("mixed-0") { Answer::hang() } else { slow.clone() }
    });
    let mixed = town.subscribe_answering("mixed", request("mixed"), rule).await?;
    let slow = Answer::ok().delay(Duration::from_millis(200));
    let fresh = town.subscribe_answering("fresh", request("fresh"), slow).await?;
    let (suspects, new) = (posts("mixed", 7), posts("fresh", 4));
    lost_three_times(town, &mixed, &suspects).await?;
    town.add(Kind::Worker, &[]).await?;
    town.publish_bulk(&new).await?;
    for kill in 1..=2 {
        eventually(Duration::from_secs(12), "the poison to be sent", async || {
            let got = town.receiver.received(&mixed.path);
            let sent = got.iter().filter(|request| request.header("webhook-id") == Some("mixed-0")).count();
            ensure!(sent == kill, "it was {sent} times");
            Ok(())
        })
        .await?;
        town.kill(Kind::Worker, 0)?;
        // Nobody waits for it to be missed.
        town.redis.command(&["DEL", &town.ctl_key("members")]).await?;
        town.start_again(Kind::Worker, 0)?;
    }
    town.quiet(Duration::from_secs(15)).await?;
    let dead = town.census().await?.dead;
    ensure!(dead.len() == 1 && dead[0].message == "mixed-0", "{dead:?}");
    ensure!(dead[0].reason == "worker_lost", "{dead:?}");
    let mut expected = all_to_all(&[mixed], &ids(suspects));
    expected.extend(all_to_all(&[fresh], &ids(new)));
    let balance = town.conserved(&expected).await?;
    ensure!(balance.delivered == 10 && balance.dead == 1, "{balance}");
    println!("poison: {balance}");
    Ok(())
}

/// A lane that refuses to be settled or taken from keeps no other lane's deliveries.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_that_refuses_keeps_no_other() -> Result<()> {
    let town = Town::builder().set("worker.max_in_flight", "32").start().await?;
    let outcome = refusing_lanes(&town).await;
    town.explain(outcome).await
}

async fn refusing_lanes(town: &Arc<Town>) -> Result<()> {
    let mut lanes = BTreeSet::new();
    let unsettled = town.subscribe_apart("unsettled", &mut lanes).await?;
    let untaken = town.subscribe_apart("untaken", &mut lanes).await?;
    let healthy = town.subscribe_apart("healthy", &mut lanes).await?;
    let broken =
        [town.lane_key(town.lane_of(&unsettled)?, "timers"), town.lane_key(town.lane_of(&untaken)?, "ready")];
    for key in &broken {
        town.redis.command(&["SET", key, "something else"]).await?;
    }
    let own = [posts(&unsettled.name, 5), posts(&untaken.name, 5)].concat();
    town.publish_bulk(&own).await?;
    town.receiver.wait_for(&unsettled.path, 5, Duration::from_secs(20)).await?;
    let posts = posts(&healthy.name, 150);
    for post in &posts {
        town.publish(post).await?;
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    let last = Instant::now();
    // All of it before the others are mended.
    town.receiver.wait_for(&healthy.path, posts.len(), Duration::from_secs(20)).await?;
    let key = queue(town, &healthy)?;
    eventually(Duration::from_secs(20), "the healthy queue to be settled", async || {
        let length = town.redis.command(&["XLEN", &key]).await?.int();
        ensure!(length == Some(0), "{length:?} lie in it");
        Ok(())
    })
    .await?;
    let tail = last.elapsed();
    for key in &broken {
        town.redis.command(&["DEL", key]).await?;
    }
    town.quiet(Duration::from_secs(15)).await?;
    let balance = town.conserved(&all_to_all(&[healthy], &ids(posts))).await?;
    ensure!(balance.duplicates == 0, "{balance}");
    println!("refusing lanes: the others' last was settled {tail:.0?} after its publish; {balance}");
    Ok(())
}

/// Commands that Redis has processed.
async fn commands(town: &Town) -> Result<u64> {
    let info = town.redis.command(&["INFO", "stats"]).await?.text().context("stats")?;
    let count = info.lines().find_map(|line| line.strip_prefix("total_commands_processed:"));
    Ok(count.context("a count")?.trim().parse()?)
}

/// Commands a second, over three seconds.
async fn rate(town: &Town) -> Result<u64> {
    let before = commands(town).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    Ok((commands(town).await? - before) / 3)
}

/// The most commands a second of a town that has nothing to do.
const IDLE: u64 = 1_500;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_cannot_be_read_hold_only_their_own() -> Result<()> {
    let town = Town::builder().start().await?;
    let outcome = unreadable(&town).await;
    town.explain(outcome).await
}

async fn unreadable(town: &Arc<Town>) -> Result<()> {
    let odd = town.subscribe("odd", json!({ "channel": "c" })).await?;
    let healthy = town.subscribe("healthy", json!({ "channel": "c" })).await?;
    let key = town.lane_key(town.lane_of(&odd)?, &format!("sub:{}", odd.id));
    let good = town.redis.command(&["HGET", &key, "settings"]).await?.text().context("settings")?;
    let bad = good.replace("\"active\"", "\"of another release\"");
    ensure!(bad != good, "{good}");
    town.redis.command(&["HSET", &key, "settings", &bad]).await?;
    let posts: Vec<Post> = (0..20).map(|n| Post::new(format!("c-{n}"), "c")).collect();
    town.publish_bulk(&posts).await?;
    town.receiver.wait_for(&healthy.path, 20, Duration::from_secs(2)).await?;
    let rate = rate(town).await?;
    ensure!(rate < IDLE, "{rate} commands a second");
    town.redis.command(&["HSET", &key, "settings", &good]).await?;
    town.quiet(Duration::from_secs(10)).await?;
    let told = town.log(Kind::Worker, 0)?.matches("cannot read a subscription's settings").count();
    ensure!(told == 1, "told {told} times");
    let balance = town.conserved(&all_to_all(&[odd, healthy], &ids(posts))).await?;
    ensure!(balance.delivered == 40 && balance.duplicates == 0, "{balance}");
    println!("unreadable settings: {rate} commands a second; {balance}");
    Ok(())
}

/// More subscriptions of one lane than a take looks at hang, and each has a token that is passed over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_that_hang_hide_nobody_behind_them() -> Result<()> {
    let builder = Town::builder().set("layout.lanes", "1").set("worker.max_in_flight", "400");
    let builder = builder.set("worker.request_timeout_ms", "12000").set("worker.lease_ms", "20000");
    let town = builder.start().await?;
    let outcome = crowd(&town).await;
    town.explain(outcome).await
}

async fn crowd(town: &Arc<Town>) -> Result<()> {
    const MANY: usize = 8;
    const FEW: usize = 40;
    const REST: usize = 70;
    let mut hanging = Vec::new();
    for n in 0..MANY + REST {
        let name = format!("hang-{n}");
        let request = json!({ "channel": name, "prefetch_count": 100 });
        hanging.push(town.subscribe_answering(&name, request, Answer::hang()).await?);
    }
    let healthy = town.subscribe("healthy", json!({ "channel": "healthy" })).await?;
    let (first, rest) = hanging.split_at(MANY);
    // A worker that has met only one subscription lately keeps less: one take may bring the whole crowd.
    for subscriber in &first[..2] {
        town.publish(&Post::new(format!("first-{}", subscriber.name), &subscriber.name)).await?;
        town.receiver.wait_for(&subscriber.path, 1, Duration::from_secs(5)).await?;
    }
    let crowd: Vec<Post> = first.iter().flat_map(|subscriber| posts(&subscriber.name, FEW)).collect();
    town.publish_bulk(&crowd).await?;
    // A quarter of the places is kept.
    let held = |subscribers: &[Subscriber]| -> usize {
        subscribers.iter().map(|subscriber| town.receiver.count(&subscriber.path)).sum()
    };
    eventually(Duration::from_secs(5), "the first to hold three quarters", async || {
        ensure!(held(first) == 300, "they hold {}", held(first));
        Ok(())
    })
    .await?;
    let crowd: Vec<Post> = rest.iter().flat_map(|subscriber| posts(&subscriber.name, 3)).collect();
    town.publish_bulk(&crowd).await?;
    eventually(Duration::from_secs(5), "each of the rest to hold one", async || {
        ensure!(held(rest) == REST, "they hold {}", held(rest));
        Ok(())
    })
    .await?;
    let called = Instant::now();
    town.publish(&Post::new("late", "healthy")).await?;
    town.receiver.wait_for(&healthy.path, 1, Duration::from_secs(2)).await?;
    let took = called.elapsed();
    let rate = rate(town).await?;
    // Sweeps look at each of them twice a second.
    ensure!(rate < 4 * IDLE, "{rate} commands a second");
    println!("behind {} that hang: {took:.0?}, {rate} commands a second", MANY + REST);
    Ok(())
}

/// Whoever is alone and hangs leaves places for the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_hangs_alone_leaves_room() -> Result<()> {
    let builder = Town::builder().set("worker.max_in_flight", "16");
    let town =
        builder.set("worker.request_timeout_ms", "8000").set("worker.lease_ms", "12000").start().await?;
    let outcome = async {
        let hang = json!({ "channel": "hang", "prefetch_count": 100 });
        let hang = town.subscribe_answering("hang", hang, Answer::hang()).await?;
        town.publish_bulk(&posts("hang", 40)).await?;
        town.receiver.wait_for(&hang.path, 15, Duration::from_secs(3)).await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let healthy = town.subscribe("healthy", json!({ "channel": "healthy" })).await?;
        town.publish(&Post::new("late", "healthy")).await?;
        town.receiver.wait_for(&healthy.path, 1, Duration::from_secs(2)).await?;
        ensure!(town.receiver.count(&hang.path) == 15, "{}", town.receiver.describe(&hang.path));
        Ok(())
    };
    let outcome = outcome.await;
    town.explain(outcome).await
}

/// When Redis comes back after leases have run out, what lived on all the while is settled, not lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_longer_than_the_lease_doubles_nothing() -> Result<()> {
    let town = Town::builder().daemons(1, 1, 2).append_only(Fsync::Always).start().await?;
    let outcome = outage(&town).await;
    town.explain(outcome).await
}

async fn outage(town: &Arc<Town>) -> Result<()> {
    let slow = Answer::ok().delay(Duration::from_millis(700));
    let request = json!({ "channel": "slow", "prefetch_count": 200 });
    let slow = town.subscribe_answering("slow", request, slow).await?;
    let posts = posts("slow", 100);
    town.publish_bulk(&posts).await?;
    town.receiver.wait_for(&slow.path, posts.len(), Duration::from_secs(5)).await?;
    town.redis.kill()?;
    // Long enough for long delays between two tries.
    tokio::time::sleep(Duration::from_secs(8)).await;
    town.redis.restart().await?;
    town.quiet(Duration::from_secs(12)).await?;
    let balance = town.conserved(&all_to_all(&[slow], &ids(posts))).await?;
    ensure!(balance.delivered == 100 && balance.duplicates == 0, "{balance}");
    println!("an outage: {balance}");
    Ok(())
}
