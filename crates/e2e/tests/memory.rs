//! What has been delivered and is older than the retention time takes no memory: whatever a message leaves in Redis on
//! its way (its entry, its id, its traces, its queues' nodes) goes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use postroad_e2e::load::Post;
use postroad_e2e::{Town, all_to_all, size};
use postroad_store::keys;
use postroad_testkit::receiver::{Answer, Behaviour};
use postroad_testkit::redis::Reply;
use postroad_testkit::wait::eventually;
use serde_json::{Value, json};

/// What may be left in all.
const MOST_BYTES: i64 = 2 << 20;
const RETENTION_SECONDS: &str = "10";
/// History goes a minute after it was routed at the earliest, and is looked at every 10 s.
const FORGETTING: Duration = Duration::from_secs(180);
const BULK: usize = 500;
/// Messages before it is measured: so few that they take no memory.
const WARM: usize = 50;
/// Entries that may be left of what was published: per partition what shares the last node of its stream.
const LEFT_OF_HISTORY: i64 = 8 * 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_delivered_takes_no_memory_after_its_retention() -> Result<()> {
    let town = Town::builder().set("history.retention_seconds", RETENTION_SECONDS).start().await?;
    let outcome = scenario(&town).await;
    town.explain(outcome).await
}

async fn scenario(town: &Arc<Town>) -> Result<()> {
    let messages = size(10_000, 100_000);
    let subscribers = [
        town.subscribe_answering("one", retried("one", false), flaky()).await?,
        town.subscribe_answering("two", retried("two", true), flaky()).await?,
    ];
    // So that every script is loaded, every connection made and every stream begun.
    publish(town, "warm", WARM).await?;
    let before = Memory::of(town).await?;
    publish(town, "m", messages).await?;
    let filled = Memory::of(town).await?;
    for (n, subscriber) in subscribers.iter().enumerate() {
        let got = town.receiver.distinct(&subscriber.path, "webhook-id");
        let wanted: BTreeSet<String> = ["warm", "m"]
            .into_iter()
            .zip([WARM, messages])
            .flat_map(|(of, count)| ids(of, count, n))
            .collect();
        ensure!(got == wanted, "{} of {} messages were delivered", got.len(), wanted.len());
    }
    eventually(FORGETTING, "history, ids and traces to be let go", async || {
        let left = Left::of(town).await.map_err(|error| error.to_string())?;
        if left.ids + left.traces == 0 && left.history <= LEFT_OF_HISTORY {
            Ok(())
        } else {
            Err(format!("{left:?}"))
        }
    })
    .await?;
    let after = Memory::of(town).await?;
    let grown = after.dataset - before.dataset;
    println!(
        "{messages} messages: the dataset was {} KiB, {} KiB when they were delivered, {} KiB after retention: {} KiB \
         more than before",
        before.dataset >> 10,
        filled.dataset >> 10,
        after.dataset >> 10,
        grown >> 10,
    );
    println!("{}", after.against(&before));
    ensure!(grown <= MOST_BYTES, "it grew by {grown} bytes:\n{}", after.against(&before));
    // Their traces are gone, so what lies in Redis is compared with what is left to be: nothing.
    let balance = town.balance(&all_to_all(&subscribers, &BTreeSet::new())).await?;
    ensure!(balance.queued + balance.dead == 0 && balance.doubled.is_empty(), "{balance}");
    Ok(())
}

/// One keeps the order of its keys, the other knows priorities and lifetimes; both are refused now and then, so that
/// locks, lines, timers, tries and expiries come and go.
fn retried(channel: &str, ordered: bool) -> Value {
    let policy = json!({ "max_retries": 50, "retry_delay": 0.02, "backoff_multiplier": 1 });
    json!({ "channel": channel, "ordered": ordered, "retry_policy": policy })
}

fn flaky() -> Behaviour {
    Behaviour::random(0.02, 7, Answer::status(500), Answer::ok())
}

fn post(of: &str, n: usize) -> Post {
    let id = format!("{of}-{n}");
    let priority = ["low", "normal", "high", "critical"][n / 2 % 4];
    let metadata = json!({ "message_id": id, "priority": priority, "ttl": (n % 10 < 2).then_some(3_600) });
    Post::new(id, ["one", "two"][n % 2])
        .with("metadata", metadata)
        .with("ordering_key", format!("k{}", n % 200))
}

fn ids(of: &str, count: usize, subscriber: usize) -> impl Iterator<Item = String> {
    (0..count).filter(move |n| n % 2 == subscriber).map(move |n| format!("{of}-{n}"))
}

/// Publishes to both channels in turn, and waits until all of it is delivered.
async fn publish(town: &Town, of: &str, count: usize) -> Result<()> {
    let posts: Vec<Post> = (0..count).map(|n| post(of, n)).collect();
    for bulk in posts.chunks(BULK) {
        town.publish_bulk(bulk).await?;
    }
    town.quiet(Duration::from_secs(size(120, 400))).await
}

/// What messages have left behind.
#[derive(Debug)]
struct Left {
    ids: i64,
    traces: i64,
    history: i64,
}

impl Left {
    async fn of(town: &Town) -> Result<Self> {
        const LEFT: &str = "
            local left = { #redis.call('KEYS', '*}:' .. ARGV[1] .. '*'), #redis.call('KEYS', '*}:' .. ARGV[2] .. '*'), 0 }
            for _, key in ipairs(redis.call('KEYS', '*}:' .. ARGV[3])) do
              left[3] = left[3] + redis.call('XLEN', key)
            end
            return left";
        let command = ["EVAL", LEFT, "0", keys::IDS, keys::TRACE, keys::INGRESS];
        let reply = town.redis.command(&command).await?;
        let numbers: Vec<i64> = reply.items().iter().filter_map(Reply::int).collect();
        let [ids, traces, history] = numbers[..] else { bail!("an odd reply {reply:?}") };
        Ok(Self { ids, traces, history })
    }
}

/// Redis's memory, in bytes.
struct Memory {
    dataset: i64,
    /// Per kind of key, how many there are and what they take.
    kinds: BTreeMap<String, (i64, i64)>,
}

impl Memory {
    async fn of(town: &Town) -> Result<Self> {
        // A key's kind: its name up to the first colon.
        const KINDS: &str = "
            local kinds, rows = {}, {}
            for _, key in ipairs(redis.call('KEYS', '*')) do
              local kind = string.match(key, '}:([^:]*:?)')
              local sum = kinds[kind] or { 0, 0 }
              sum[1], sum[2] = sum[1] + 1, sum[2] + (redis.call('MEMORY', 'USAGE', key, 'SAMPLES', 0) or 0)
              kinds[kind] = sum
            end
            for kind, sum in pairs(kinds) do rows[#rows + 1] = { kind, sum[1], sum[2] } end
            return rows";
        let info = town.redis.command(&["INFO", "memory"]).await?;
        let dataset = info.info("used_memory_dataset").context("used_memory_dataset")?.parse()?;
        let rows = town.redis.command(&["EVAL", KINDS, "0"]).await?;
        let number = |reply: &Reply| reply.int().unwrap_or(0);
        let kinds = rows
            .items()
            .iter()
            .map(Reply::items)
            .map(|row| (row[0].text().unwrap_or_default(), (number(&row[1]), number(&row[2]))))
            .collect();
        Ok(Self { dataset, kinds })
    }

    /// What each kind of key takes more than before.
    fn against(&self, before: &Self) -> String {
        let rows = self.kinds.iter().map(|(kind, (count, bytes))| {
            let (was, had) = before.kinds.get(kind).copied().unwrap_or_default();
            format!("  {kind} {was} → {count} keys, {had} → {bytes} bytes")
        });
        rows.collect::<Vec<_>>().join("\n")
    }
}
