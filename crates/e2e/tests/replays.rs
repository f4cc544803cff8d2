//! `SIGKILL` of reprocessors in the middle of a replay: every dead letter goes back into its queue once, and is
//! delivered once.
//!
//! Normally 600 dead letters and 6 kills, with `E2E_FULL=1` 2,500 and 20.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use postroad_e2e::load::Post;
use postroad_e2e::{Kind, Town, all_to_all, size};
use postroad_testkit::receiver::Answer;
use postroad_testkit::wait::eventually;
use serde_json::{Value, json};

/// Dead letters a second. The killed one's job rests for a lease, so half the kills cost a second.
const RATE: usize = 250;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_replays_move_each_letter_once() -> Result<()> {
    let town = Town::builder().start().await?;
    let outcome = scenario(&town).await;
    town.explain(outcome).await
}

async fn progress(town: &Town, job: &str) -> Result<Value> {
    for number in 0..2 {
        if let Ok(answer) = town.api(Kind::Reprocessor, number)?.get(&format!("/v1/dlq/replays/{job}")).await
        {
            return answer.expect(200);
        }
    }
    anyhow::bail!("no reprocessor answers")
}

fn moved(progress: &Value) -> Result<usize> {
    Ok(usize::try_from(progress["moved"].as_u64().with_context(|| progress.to_string())?)?)
}

async fn scenario(town: &Arc<Town>) -> Result<()> {
    let (letters, kills) = size((600, 6), (2_500, 20_usize));
    let request = json!({ "channel": "doomed", "retry_policy": { "max_retries": 0 } });
    let subscriber = town.subscribe_answering("doomed", request, Answer::status(500)).await?;
    let posts: Vec<Post> = (0..letters).map(|n| Post::new(format!("doomed-{n}"), "doomed")).collect();
    for part in posts.chunks(500) {
        town.publish_bulk(part).await?;
    }
    town.quiet(Duration::from_secs(60)).await?;
    let expected =
        all_to_all(std::slice::from_ref(&subscriber), &posts.into_iter().map(|post| post.id).collect());
    let balance = town.conserved(&expected).await?;
    ensure!(balance.dead == letters, "{balance}");

    town.receiver.on(&subscriber.path, Answer::ok());
    for _ in 0..2 {
        town.add(Kind::Reprocessor, &[]).await?;
    }
    let order = json!({ "subscription_id": subscriber.id, "rate": RATE }).to_string();
    let job = town.api(Kind::Reprocessor, 0)?.post("/v1/dlq/replay", order).await?.expect(202)?;
    let job = job["job_id"].as_str().with_context(|| job.to_string())?.to_owned();
    for number in 0..kills {
        let enough = letters * (number + 1) / (kills + 2);
        eventually(Duration::from_secs(30), format!("{enough} letters to be moved"), async || {
            let progress = progress(town, &job).await?;
            ensure!(moved(&progress)? >= enough, "{progress}");
            Ok(())
        })
        .await?;
        town.ready(Kind::Reprocessor, number % 2).await?;
        town.kill(Kind::Reprocessor, number % 2)?;
        town.start_again(Kind::Reprocessor, number % 2)?;
    }
    let done = eventually(Duration::from_secs(30), "the replay to be done", async || {
        let progress = progress(town, &job).await?;
        ensure!(progress["state"] == "done", "{progress}");
        Ok(progress)
    });
    ensure!(moved(&done.await?)? == letters, "{}", progress(town, &job).await?);
    town.quiet(Duration::from_secs(30)).await?;
    let balance = town.balance(&expected).await?;
    balance.nothing_astray()?;
    ensure!(balance.delivered == letters && balance.duplicates == 0 && balance.lost.is_empty(), "{balance}");
    // Once when it was routed, once when it was replayed.
    ensure!(balance.surplus == i64::try_from(letters)?, "{balance}");
    println!("{kills} kills during a replay: {balance}");
    Ok(())
}
