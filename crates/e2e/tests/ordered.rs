//! Order: with a subscriber that fails at random and four workers, the messages of one ordering key arrive in the
//! order of their acceptance, and a key that fails holds up no other.
//!
//! 10,000 messages and 50 keys with `E2E_FULL=1`, 2,000 and 20 else.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use postroad_e2e::load::Post;
use postroad_e2e::{Kind, Town, all_to_all, size};
use postroad_testkit::receiver::{Answer, Behaviour, Keep};
use serde_json::{Value, json};

/// Per key the number of the message that is due next, and what came when it was not.
#[derive(Default)]
struct Line {
    next: HashMap<u64, u64>,
    wrong: Vec<String>,
}

impl Line {
    /// Every message of every key came, each in its turn.
    fn is_whole(&self, keys: usize, each: u64) -> Result<()> {
        let some = &self.wrong[..self.wrong.len().min(5)];
        ensure!(self.wrong.is_empty(), "{} out of order: {some:?}", self.wrong.len());
        let through: BTreeMap<&u64, &u64> = self.next.iter().collect();
        ensure!(through.len() == keys && through.values().all(|count| **count == each), "{through:?}");
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_do_not_break_the_order_of_a_key() -> Result<()> {
    let (messages, keys) = (size(2_000, 10_000), size(20, 50));
    let town =
        Town::builder().daemons(2, 2, 4).keep(Keep::only(&["webhook-id"], &["/payload"])).start().await?;
    let line = Arc::new(Mutex::new(Line::default()));
    let seen = Arc::clone(&line);
    // Every fifth request fails; what succeeds must be what is due of its key.
    let behaviour = Behaviour::random(
        0.2,
        7,
        Answer::status(500),
        Behaviour::by(move |request| {
            let Some(Value::Object(payload)) = request.field("/payload") else { return Answer::status(400) };
            let (key, number) = (payload["key"].as_u64().unwrap_or(0), payload["n"].as_u64().unwrap_or(0));
            let mut line = seen.lock().expect("nobody panics with it");
            let due = line.next.entry(key).or_default();
            // A delivery may come twice; it must not come before its turn.
            if number > *due {
                let due = *due;
                line.wrong.push(format!("key {key}: {number} came before {due}"));
            } else if number == *due {
                *due += 1;
            }
            Answer::status(200)
        }),
    );
    let policy = json!({ "max_retries": 50, "retry_delay": 0.01, "backoff_multiplier": 1 });
    let request =
        json!({ "channel": "lines", "ordered": true, "retry_policy": policy, "prefetch_count": 200 });
    let subscriber = town.subscribe_answering("lines", request, behaviour).await?;

    let outcome = async {
        let mut ids = BTreeSet::new();
        for first in (0..messages).step_by(500) {
            let posts: Vec<Post> = (first..(first + 500).min(messages))
                .map(|n| {
                    let mut post = Post::new(format!("line-{n}"), "lines")
                        .with("ordering_key", format!("key-{}", n % keys));
                    post.body["payload"] = json!({ "key": n % keys, "n": n / keys });
                    post
                })
                .collect();
            town.publish_bulk(&posts).await?;
            ids.extend(posts.into_iter().map(|post| post.id));
        }
        town.quiet(Duration::from_secs(size(120, 400))).await?;
        line.lock().expect("nobody panics with it").is_whole(keys, u64::try_from(messages / keys)?)?;
        town.conserved(&all_to_all(std::slice::from_ref(&subscriber), &ids)).await
    };
    let outcome = outcome.await;
    println!("ordered: {}", town.explain(outcome).await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_fails_holds_up_no_other() -> Result<()> {
    let town =
        Town::builder().daemons(1, 1, 2).keep(Keep::only(&["webhook-id"], &["/payload/key"])).start().await?;
    let behaviour = Behaviour::by(|request| {
        let is_ill = request.field("/payload/key").is_some_and(|key| key == 0);
        Answer::status(if is_ill { 500 } else { 200 })
    });
    let policy = json!({ "max_retries": 100, "retry_delay": 600, "backoff_multiplier": 1 });
    let request = json!({ "channel": "lines", "ordered": true, "retry_policy": policy });
    let subscriber = town.subscribe_answering("lines", request, behaviour).await?;
    for n in 0..300 {
        let mut post = Post::new(format!("m-{n}"), "lines").with("ordering_key", format!("key-{}", n % 3));
        post.body["payload"] = json!({ "key": n % 3 });
        town.publish(&post).await?;
    }
    // Of the key that fails one is tried once; of the others all come.
    town.receiver.wait_for(&subscriber.path, 201, Duration::from_secs(30)).await?;
    let path = format!("/v1/subscriptions/{}", subscriber.id);
    let info = town.api(Kind::Ingest, 0)?.get(&path).await?.expect(200)?;
    ensure!(info["queued"].as_u64().context("queued")? >= 100, "{info}");
    let ill = town
        .receiver
        .received(&subscriber.path)
        .iter()
        .filter(|r| r.field("/payload/key") == Some(json!(0)))
        .count();
    ensure!(ill == 1, "{ill} requests for the key that fails");
    Ok(())
}
