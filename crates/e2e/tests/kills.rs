//! `SIGKILL` of everything in turn, Redis too, while publishers go on: nothing is lost, nothing is routed
//! twice, and duplicates stay within what the killed may have held.
//!
//! Normally 3,000 messages, 5 kills of an ingest, a router and a worker each, and 2 of Redis. With
//! `E2E_FULL=1` 20,000 messages, 20 kills of each and 5 of Redis. Redis has its append-only file with fsync
//! always.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use postroad_e2e::load::Post;
use postroad_e2e::{Kind, Town, all_to_all, full, size};
use postroad_testkit::receiver::Answer;
use postroad_testkit::redis::Fsync;
use serde_json::json;

/// `worker.max_in_flight` of each worker.
const MAX_IN_FLIGHT: usize = 32;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_routed_twice() -> Result<()> {
    let builder = Town::builder().daemons(2, 2, 2).append_only(Fsync::Always);
    let town = builder.set("worker.max_in_flight", &MAX_IN_FLIGHT.to_string()).start().await?;
    let outcome = scenario(&town).await;
    town.explain(outcome).await
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Victim {
    Daemon(Kind, usize),
    Redis,
}

/// The kills in their order: kinds in turn, both of a kind in turn, Redis in between.
fn victims() -> Vec<Victim> {
    let (each, redis) = size((5, 2), (20, 5));
    let mut all = Vec::new();
    for round in 0..each {
        for kind in [Kind::Worker, Kind::Router, Kind::Ingest] {
            all.push(Victim::Daemon(kind, round % 2));
        }
        if (round + 1) * redis / each > round * redis / each {
            all.push(Victim::Redis);
        }
    }
    all
}

async fn scenario(town: &Arc<Town>) -> Result<()> {
    let messages = size(3_000, 20_000);
    let mut subscribers = Vec::new();
    for (name, request) in [
        ("exact", json!({ "channel": "orders.paid" })),
        ("glob", json!({ "channel_pattern": "orders.*" })),
        ("slow", json!({ "channel_pattern": "*" })),
    ] {
        // Retries must not wait for a minute when a connection broke.
        let mut request = request;
        request["retry_policy"] = json!({ "max_retries": 10, "retry_delay": 0.2 });
        subscribers.push(town.subscribe(name, request).await?);
    }
    // So that something is always in flight.
    town.receiver.on("/slow", Answer::ok().delay(Duration::from_millis(10)));

    let victims = victims();
    let mut load = town.load(
        8,
        Duration::ZERO,
        |n| Post::new(format!("kill-{n}"), "orders.paid"),
        move |accepted| accepted >= messages,
    );
    let mut kills: BTreeMap<String, usize> = BTreeMap::new();
    for (number, victim) in victims.iter().enumerate() {
        load.reach(messages * (number + 1) / (victims.len() + 1)).await?;
        let name = match *victim {
            Victim::Daemon(kind, number) => {
                // A kill counts if it ends something that works.
                town.ready(kind, number).await?;
                town.kill(kind, number)?;
                town.start_again(kind, number)?;
                kind.to_string()
            }
            Victim::Redis => {
                town.redis.kill()?;
                town.redis.restart().await?;
                "redis".to_owned()
            }
        };
        *kills.entry(name).or_default() += 1;
    }
    let accepted = load.done().await?;
    ensure!(accepted.len() >= messages, "only {} were accepted", accepted.len());
    town.quiet(Duration::from_secs(if full() { 240 } else { 90 })).await?;

    let balance = town.conserved(&all_to_all(&subscribers, &accepted)).await?;
    let bound = (kills["worker"] + kills["redis"]) * MAX_IN_FLIGHT;
    ensure!(balance.delivered == balance.pairs, "{balance}");
    ensure!(balance.duplicates <= bound, "more duplicates than {bound}: {balance}");
    println!("kills {kills:?}: {balance} (at most {bound}); {} offers repeated", town.retries());
    Ok(())
}
