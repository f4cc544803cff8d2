//! Delayed messages and history once more, through all daemons: what is delayed comes when it is due though a router
//! is killed meanwhile; a subscription that is created late gets what it missed though a reprocessor is killed
//! meanwhile; and each replay carries the next generation.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use postroad_e2e::load::Post;
use postroad_e2e::{Kind, Town, all_to_all};
use postroad_testkit::receiver::Keep;
use postroad_testkit::wait::eventually;
use serde_json::{Value, json};

const MESSAGES: usize = 300;
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_comes_in_time_and_what_was_comes_again() -> Result<()> {
    let town = Town::builder().daemons(1, 2, 1).keep(Keep::Head).start().await?;
    let outcome = scenario(&town).await;
    town.explain(outcome).await
}

async fn progress(town: &Town, job: &Value) -> Result<Value> {
    let id = job["job_id"].as_str().with_context(|| job.to_string())?;
    town.api(Kind::Ingest, 0)?.get(&format!("/v1/replays/{id}")).await?.expect(200)
}

async fn done(town: &Town, job: &Value, replayed: usize) -> Result<()> {
    eventually(PATIENCE, "the replay to be done", async || {
        let progress = progress(town, job).await?;
        ensure!(progress["state"] == "done" && progress["replayed"] == json!(replayed), "{progress}");
        Ok(())
    })
    .await
}

/// The generations in which a path's messages came.
fn generations(town: &Town, path: &str) -> BTreeSet<String> {
    town.receiver.distinct(path, "postroad-generation")
}

async fn scenario(town: &Arc<Town>) -> Result<()> {
    let api = town.api(Kind::Ingest, 0)?;
    let early = town.subscribe("early", json!({ "channel": "a" })).await?;
    let posts: Vec<Post> =
        (0..MESSAGES).map(|n| Post::new(format!("m-{n}"), "a").with("delay_seconds", 2)).collect();
    town.publish_bulk(&posts).await?;
    town.publish(&Post::new("never", "a").with("delay_seconds", 3)).await?;
    api.call(http::Method::DELETE, "/v1/messages/never", &[], bytes::Bytes::new()).await?.expect(200)?;
    ensure!(town.receiver.count(&early.path) == 0, "nothing comes before its time");
    town.kill(Kind::Router, 0)?;
    town.receiver.wait_for(&early.path, MESSAGES, PATIENCE).await?;
    town.start_again(Kind::Router, 0)?;
    town.quiet(PATIENCE).await?;
    let ids: BTreeSet<String> = posts.iter().map(|post| post.id.clone()).collect();
    let balance = town.conserved(&all_to_all(std::slice::from_ref(&early), &ids)).await?;
    ensure!(balance.delivered == MESSAGES && balance.surplus == 0, "{balance}");

    let late = town.subscribe("late", json!({ "channel": "a" })).await?;
    for _ in 0..2 {
        town.add(Kind::Reprocessor, &[]).await?;
    }
    let order = json!({ "from": "2020-01-01T00:00:00Z", "rate": 150 }).to_string();
    let job = api.post(&format!("/v1/subscriptions/{}/replay", late.id), order).await?.expect(202)?;
    for number in 0..2 {
        eventually(PATIENCE, "some to be replayed", async || {
            let progress = progress(town, &job).await?;
            ensure!(progress["replayed"].as_u64() >= Some(60 * (number + 1)), "{progress}");
            Ok(())
        })
        .await?;
        let victim = usize::try_from(number)?;
        town.kill(Kind::Reprocessor, victim)?;
        town.start_again(Kind::Reprocessor, victim)?;
        town.ready(Kind::Reprocessor, victim).await?;
    }
    done(town, &job, MESSAGES).await?;
    town.receiver.wait_for(&late.path, MESSAGES, PATIENCE).await?;
    town.quiet(PATIENCE).await?;
    ensure!(
        town.receiver.distinct(&late.path, "webhook-id") == ids,
        "{}",
        town.receiver.describe(&late.path)
    );
    ensure!(town.receiver.count(&late.path) == MESSAGES, "each comes once");
    ensure!(generations(town, &late.path) == ["1".to_owned()].into(), "{:?}", generations(town, &late.path));

    let job = api.post("/v1/messages/m-7/replay", "").await?.expect(202)?;
    done(town, &job, 2).await?;
    for (subscriber, generation) in [(&early, "0"), (&late, "1")] {
        town.receiver.wait_for(&subscriber.path, MESSAGES + 1, PATIENCE).await?;
        ensure!(generations(town, &subscriber.path) == [generation.to_owned(), "2".to_owned()].into());
    }
    town.quiet(PATIENCE).await?;
    let deliveries = api.get("/v1/messages/m-7/deliveries").await?.expect(200)?;
    for row in deliveries["deliveries"].as_array().context("no deliveries")? {
        let attempts = row["attempts"].as_array().map(Vec::len);
        ensure!(row["state"] == "delivered" && attempts == Some(2), "{deliveries}");
    }
    Ok(())
}
