//! Keys deleted by hand and junk put into streams, while everything runs: what was accepted is delivered or
//! dead, junk ends among the dead letters, and no daemon dies or spins.
//!
//! Each break hits a town with a backlog, with retries under way and with messages on their way in. A break
//! that takes away what keeps messages from being doubled may double them; each row of the table says so.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use postroad_e2e::balance::{Balance, Expected};
use postroad_e2e::load::Post;
use postroad_e2e::{Kind, Subscriber, Town, all_to_all};
use postroad_testkit::receiver::{Answer, Behaviour};
use postroad_testkit::redis::Reply;
use serde_json::json;

/// A break: what it is called, what it may double, and what it does.
struct Break {
    name: &'static str,
    /// Entries may be put into their queues once more.
    reroutes: bool,
    /// Deliveries may be made once more.
    redelivers: bool,
    does: Does,
}

/// What is done.
enum Does {
    /// Deletes these keys.
    Delete(&'static [&'static str]),
    /// Deletes the groups of these streams.
    DestroyGroups(&'static str),
    /// Adds junk to these streams.
    Junk(&'static [&'static str]),
    /// One command per key that matches.
    Each(&'static str, &'static [&'static str]),
}

#[rustfmt::skip]
fn breaks() -> Vec<Break> {
    use Does::{Delete, DestroyGroups, Each, Junk};
    let row = |name, reroutes, redelivers, does| Break { name, reroutes, redelivers, does };
    vec![
        row("ready streams",            false, false, Delete(&["{l*}:ready"])),
        row("groups of work queues",    false, true,  DestroyGroups("{l*}:work:*")),
        row("timers",                   false, false, Delete(&["{l*}:timers"])),
        row("lanes' settings",          false, true,  Delete(&["{l*}:sub:*"])),
        row("sets of live queues",      false, false, Delete(&["{l*}:live"])),
        row("tries",                    false, false, Delete(&["{l*}:tries:*"])),
        row("the router group",         false, false, DestroyGroups("{p*}:ingress")),
        row("owners",                   false, false, Delete(&["{p*}:owner"])),
        row("what was sent",            false, false, Delete(&["{p*}:sent"])),
        row("doors",                    false, false, Delete(&["{p*}:door"])),
        row("channels",                 false, false, Delete(&["{p*}:channels"])),
        row("members",                  false, false, Delete(&["{ctl}:members", "{ctl}:about"])),
        row("the change stream",        false, false, Delete(&["{ctl}:changes"])),
        row("layout",                   false, false, Delete(&["{ctl}:layout"])),
        row("ready and timers",         false, false, Delete(&["{l*}:ready", "{l*}:timers"])),
        row("all of ownership",         false, false, Delete(&["{p*}:owner", "{p*}:sent", "{ctl}:members"])),
        row("junk in ingress",          false, false, Junk(&["{p*}:ingress"])),
        row("junk in work queues",      false, false, Junk(&["{l*}:work:*"])),
        row("junk among ready tokens",  false, false, Junk(&["{l*}:ready"])),
        row("junk among changes",       false, false, Junk(&["{ctl}:changes"])),
        row("junk in outboxes",         false, false, Junk(&["{l*}:outbox"])),
        row("junk timers",              false, false, Each("{l*}:timers", &["ZADD", "KEY", "1", "junk"])),
        row("junk timers of a kind",    false, false, Each("{l*}:timers", &["ZADD", "KEY", "1", "later:sub_x:1:9-9"])),
        row("timers that are no ids",   false, false, Each("{l*}:timers", &["ZADD", "KEY", "1", "later:sub_x:1:x"])),
        row("junk that is live",        false, false, Each("{l*}:live", &["SADD", "KEY", "junk", "sub_nobody"])),
        row("junk members",             false, false, Each("{ctl}:members", &["ZADD", "KEY", "99999999999999", "worker-junk"])),
        row("junk among what was sent", false, false, Each("{p*}:sent", &["HSET", "KEY", "0", "junk", "x", "1-1"])),
        row("junk owners",              false, false, Each("{p*}:owner", &["HSET", "KEY", "name", "nobody", "epoch", "x", "renewed", "y"])),
        row("limits that are none",     false, false, Each("{l*}:sub:*", &["HSET", "KEY", "limit", "x", "cap", "z", "hold", "y"])),
    ]
}

const JUNK: [&[&str]; 8] = [
    &["junk", "1"],
    &["m", "1 {", "t", "1"],
    &["m", "1 {}\n", "t", "x"],
    &["m", "x {\"id\":\"junk\"}\n\u{0}\u{1}", "t", "-5"],
    &["m", "", "t", "99999999999999999999"],
    &[
        "m",
        "1 {\"tenant\":\"default\",\"id\":\"junk\",\"channel\":\"b\",\"enc\":\"zlib\",\"kind\":\"json\",\"service\":\"s\",\"at\":1}\nno zlib",
        "t",
        "1",
        "ref",
        "x:y",
    ],
    &["s", "sub_nobody"],
    &["kind", "subscription", "id", "../..", "record", "{"],
];

async fn keys(town: &Town, pattern: &str) -> Result<Vec<String>> {
    let pattern = format!("e2e:{}", pattern.replace('{', "\\{").replace('}', "\\}"));
    let reply = town.redis.command(&["KEYS", &pattern]).await?;
    Ok(reply.items().iter().filter_map(Reply::text).collect())
}

/// The keys that a pattern stands for, whether they exist or not, where only its tag is open.
async fn streams(town: &Town, pattern: &str) -> Result<Vec<String>> {
    let layout = town.layout();
    Ok(match pattern.split_once("}:").context("a pattern")? {
        (_, name) if name.contains('*') => keys(town, pattern).await?,
        ("{l*", name) => (0..layout.lanes).map(|lane| town.lane_key(lane, name)).collect(),
        ("{p*", name) => (0..layout.partitions).map(|p| town.partition_key(p, name)).collect(),
        (_, name) => vec![town.ctl_key(name)],
    })
}

impl Does {
    /// Does it; how many things were hit.
    async fn run(&self, town: &Town) -> Result<usize> {
        let mut hits = 0;
        match self {
            Self::Delete(patterns) => {
                for pattern in *patterns {
                    for key in keys(town, pattern).await? {
                        town.redis.command(&["DEL", &key]).await?;
                        hits += 1;
                    }
                }
            }
            Self::DestroyGroups(pattern) => {
                for key in keys(town, pattern).await? {
                    for group in ["g", "router"] {
                        // A stream that has just gone has no group either.
                        let reply = town.redis.command(&["XGROUP", "DESTROY", &key, group]).await;
                        hits += usize::from(reply.is_ok_and(|reply| reply.int() == Some(1)));
                    }
                }
            }
            Self::Junk(patterns) => {
                for pattern in *patterns {
                    for key in streams(town, pattern).await? {
                        for junk in JUNK {
                            let command: Vec<&str> =
                                ["XADD", &key, "*"].into_iter().chain(junk.iter().copied()).collect();
                            town.redis.command(&command).await?;
                            hits += 1;
                        }
                    }
                }
            }
            Self::Each(pattern, command) => {
                for key in keys(town, pattern).await? {
                    let command: Vec<&str> =
                        command.iter().map(|part| if *part == "KEY" { key.as_str() } else { part }).collect();
                    town.redis.command(&command).await?;
                    hits += 1;
                }
            }
        }
        Ok(hits)
    }
}

struct Broken {
    subscribers: Vec<Subscriber>,
    accepted: BTreeSet<String>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_broken_by_hand_mends() -> Result<()> {
    let town = Town::builder().daemons(1, 2, 2).start().await?;
    let outcome = scenario(&town).await;
    town.explain(outcome).await
}

async fn subscribe(town: &Town) -> Result<Vec<Subscriber>> {
    let policy = json!({ "max_retries": 20, "retry_delay": 0.15, "backoff_multiplier": 1 });
    let slow = json!({ "channel": "b", "prefetch_count": 4, "retry_policy": policy });
    let flaky = json!({ "channel_pattern": "b*", "retry_policy": policy });
    Ok(vec![
        town.subscribe("fast", json!({ "channel": "b", "retry_policy": policy })).await?,
        town.subscribe_answering("slow", slow, Answer::ok().delay(Duration::from_millis(8))).await?,
        town.subscribe_answering(
            "flaky",
            flaky,
            Behaviour::random(0.4, 7, Answer::status(500), Answer::ok()),
        )
        .await?,
    ])
}

async fn scenario(town: &Arc<Town>) -> Result<()> {
    let mut state = Broken { subscribers: subscribe(town).await?, accepted: BTreeSet::new() };
    let only = std::env::var("E2E_BREAK").unwrap_or_default();
    let mut before = Balance::default();
    for (number, row) in breaks().iter().enumerate().filter(|(_, row)| row.name.contains(&only)) {
        let started = Instant::now();
        let (hits, balance) = one(town, &mut state, number, row)
            .await
            .with_context(|| format!("after breaking {}", row.name))?;
        println!(
            "broke {}: {hits} things; quiet after {:.1?}; {} duplicates, {:+} entries routed",
            row.name,
            started.elapsed(),
            balance.duplicates - before.duplicates,
            balance.surplus - before.surplus,
        );
        before = balance;
    }
    println!("all: {before}");
    let spinning = idle_cpu(town).await?;
    ensure!(spinning.is_empty(), "daemons spin: {spinning:?}");
    Ok(())
}

async fn one(town: &Arc<Town>, state: &mut Broken, number: usize, row: &Break) -> Result<(usize, Balance)> {
    const MESSAGES: usize = 150;
    let before = town.balance(&all_to_all(&state.subscribers, &state.accepted)).await?;
    let dead_before = town.census().await?.dead.len();
    let make = move |n| {
        let priority = ["low", "normal", "critical"][n % 3];
        let mut post = Post::new(format!("break-{number}-{n}"), "b");
        post.body["metadata"]["priority"] = json!(priority);
        post
    };
    let mut load = town.load(4, Duration::from_millis(5), make, |accepted| accepted >= MESSAGES);
    load.reach(MESSAGES / 2).await?;
    let mut hits = row.does.run(town).await?;
    state.accepted.extend(load.done().await?);
    // And once more, with nothing coming behind it that would mend it by the way.
    hits += row.does.run(town).await?;
    ensure!(hits > 0, "there was nothing to break");
    town.quiet(Duration::from_secs(20)).await?;
    let expected: Vec<Expected> = all_to_all(&state.subscribers, &state.accepted);
    let balance = town.balance(&expected).await?;
    ensure!(balance.lost.is_empty(), "lost {} of {balance}: {:?}", balance.lost.len(), first(&balance.lost));
    // Junk that has an id lies dead under it.
    let astray: Vec<&String> = balance.unexpected.iter().filter(|pair| !pair.starts_with("junk")).collect();
    ensure!(astray.is_empty(), "pairs that should not be: {astray:?}");
    ensure!(balance.queued == 0, "{balance}");
    let mut rerouted = balance.surplus - before.surplus;
    if let Does::Junk(&["{l*}:work:*"]) = row.does {
        rerouted -= i64::try_from(hits)?;
    }
    ensure!(row.reroutes || rerouted == 0, "{rerouted} entries beyond one for each pair");
    let doubled = balance.duplicates - before.duplicates;
    ensure!(row.redelivers || doubled == 0, "{doubled} were delivered twice");
    let junk_dead = town.census().await?.dead.len() - dead_before;
    if let Does::Junk(&["{l*}:work:*"]) = row.does {
        ensure!(junk_dead == hits, "{junk_dead} of {hits} pieces of junk are dead");
    } else {
        ensure!(junk_dead == 0, "{junk_dead} healthy deliveries died");
    }
    Ok((hits, balance))
}

fn first(all: &[String]) -> &[String] {
    &all[..all.len().min(5)]
}

/// Daemons that use more than a tenth of a CPU with nothing to do.
async fn idle_cpu(town: &Town) -> Result<Vec<(String, f64)>> {
    const WINDOW: Duration = Duration::from_secs(4);
    let before = town.cpu_seconds()?;
    tokio::time::sleep(WINDOW).await;
    let after = town.cpu_seconds()?;
    let used = after.into_iter().map(|(name, now)| {
        let share = (now - before.get(&name).copied().unwrap_or(0.0)) / WINDOW.as_secs_f64();
        (name, share)
    });
    let used: Vec<(String, f64)> = used.collect();
    println!("idle: {used:.3?} of a CPU");
    Ok(used.into_iter().filter(|(_, share)| *share > 0.10).collect())
}

/// A key of another type makes a lane refuse its entries: nobody else's wait for it, and when it is mended
/// nothing was lost or doubled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_lane_holds_back_only_its_own() -> Result<()> {
    // Without its marks nothing can be added at all; without its live set an error comes after the adding.
    for key in ["marks", "live"] {
        let town = Town::builder().daemons(1, 1, 1).start().await?;
        let outcome = broken_lane(&town, key).await.with_context(|| format!("with {key} of another type"));
        town.explain(outcome).await?;
    }
    Ok(())
}

async fn broken_lane(town: &Arc<Town>, key: &str) -> Result<()> {
    let broken = town.subscribe("broken", json!({ "channel": "broken" })).await?;
    let lane = town.lane_of(&broken)?;
    let healthy = town.subscribe_apart("healthy", &mut BTreeSet::from([lane])).await?;
    let key = town.lane_key(lane, key);
    town.redis.command(&["SET", &key, "something else"]).await?;
    let own: Vec<Post> = (0..20).map(|n| Post::new(format!("broken-{n}"), "broken")).collect();
    town.publish_bulk(&own).await?;
    let posts: Vec<Post> = (0..200).map(|n| Post::new(format!("healthy-{n}"), &healthy.name)).collect();
    for part in posts.chunks(20) {
        town.publish_bulk(part).await?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let last = Instant::now();
    town.receiver.wait_for(&healthy.path, 200, Duration::from_secs(20)).await?;
    let tail = last.elapsed();
    town.redis.command(&["DEL", &key]).await?;
    town.quiet(Duration::from_secs(20)).await?;
    let mut expected = all_to_all(&[broken], &own.into_iter().map(|post| post.id).collect());
    expected.extend(all_to_all(&[healthy], &posts.into_iter().map(|post| post.id).collect()));
    let balance = town.conserved(&expected).await?;
    ensure!(balance.delivered == balance.pairs && balance.duplicates == 0, "{balance}");
    println!("a broken lane: the others' last arrived {tail:.0?} after its publish; {balance}");
    Ok(())
}

/// Without its marks a lane cannot know what it had: all history is sent to it again, and may be delivered
/// again; nothing may be lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lanes_without_marks_lose_nothing() -> Result<()> {
    let town = Town::builder().daemons(1, 2, 2).start().await?;
    let outcome = unmarked(&town).await;
    town.explain(outcome).await
}

async fn unmarked(town: &Arc<Town>) -> Result<()> {
    let mut state = Broken { subscribers: subscribe(town).await?, accepted: BTreeSet::new() };
    let row = Break { name: "marks", reroutes: true, redelivers: true, does: Does::Delete(&["{l*}:marks"]) };
    let (_, balance) = one(town, &mut state, 0, &row).await?;
    println!("without marks: {balance}");
    Ok(())
}

/// Everything is gone at once; the daemons go on, and what is subscribed and published from then on works.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_redis_is_a_new_beginning() -> Result<()> {
    let town = Town::builder().daemons(2, 2, 2).start().await?;
    let outcome = emptied(&town).await;
    town.explain(outcome).await
}

async fn emptied(town: &Arc<Town>) -> Result<()> {
    let before = subscribe(town).await?;
    for post in (0..50).map(|n| Post::new(format!("old-{n}"), "b")) {
        town.publish(&post).await?;
    }
    town.quiet(Duration::from_secs(20)).await?;
    town.redis.command(&["FLUSHALL"]).await?;
    let after = town.subscribe("after", json!({ "channel": "b" })).await?;
    let posts: Vec<Post> = (0..50).map(|n| Post::new(format!("new-{n}"), "b")).collect();
    for post in &posts {
        town.publish(post).await?;
    }
    // The same ids again are new ones now.
    town.quiet(Duration::from_secs(20)).await?;
    let ids: BTreeSet<String> = posts.into_iter().map(|post| post.id).collect();
    let balance = town.balance(&all_to_all(&[after], &ids)).await?;
    ensure!(balance.delivered == 50 && balance.duplicates == 0, "{balance}");
    // Subscriptions that no longer exist get nothing any more, once every router has heard of it.
    tokio::time::sleep(Duration::from_secs(12)).await;
    let old: usize = before.iter().map(|subscriber| town.receiver.count(&subscriber.path)).sum();
    for n in 0..20 {
        town.publish(&Post::new(format!("later-{n}"), "b")).await?;
    }
    town.receiver.wait_for("/after", 70, Duration::from_secs(10)).await?;
    town.quiet(Duration::from_secs(20)).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let now: usize = before.iter().map(|subscriber| town.receiver.count(&subscriber.path)).sum();
    ensure!(now == old, "{} requests for subscriptions that are gone", now - old);
    for kind in [Kind::Ingest, Kind::Router, Kind::Worker] {
        for number in 0..2 {
            town.ready(kind, number).await?;
        }
    }
    let spinning = idle_cpu(town).await?;
    ensure!(spinning.is_empty(), "daemons spin: {spinning:?}");
    println!("emptied: {balance}");
    Ok(())
}
