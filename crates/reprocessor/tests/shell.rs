//! The one-shot commands, as a person runs them.

mod kit;

use std::{process::Stdio, time::Duration};

use kit::*;
use postroad_testkit::wait::eventually;
use serde_json::{Value, json};
use tokio::process::Command;

struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

fn command(road: &Road, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postroad-reprocessor"));
    command.args(args).env("POSTROAD_ENVIRONMENT", "test").env("POSTROAD_REDIS_URL", road.redis.url());
    command.env("POSTROAD_LAYOUT_PARTITIONS", "1").env("POSTROAD_LAYOUT_LANES", "4");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

async fn run(road: &Road, args: &[&str]) -> Said {
    said(command(road, args).output().await.unwrap())
}

fn said(output: std::process::Output) -> Said {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

fn json_of(said: &Said) -> Value {
    assert_eq!(said.code, Some(0), "{}", said.err);
    serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {}", said.out))
}

#[tokio::test]
async fn looking_is_the_same_as_over_the_api() {
    let road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    road.bury(&sub, &ids("a", 700), &Dies::default()).await;
    let hostile = Dies { status: Some(503), error: Some("\u{1b}[2Jboo"), ..Dies::default() };
    let id = road.bury_one(&sub, "last", &hostile).await;
    let list = json_of(&run(&road, &["list", "--status-code", "503", "--json"]).await);
    assert_eq!(list, road.get("/v1/dlq/messages?status_code=503").await);
    let all = json_of(&run(&road, &["list", "--limit", "1000", "--json"]).await);
    assert_eq!((message_ids(&all).len(), &all["next_cursor"]), (701, &json!(null)));
    let table = run(&road, &["list"]).await;
    assert!(table.out.starts_with("DIED") && table.out.lines().count() == 51, "{}", table.out);
    assert!(!table.out.contains('\u{1b}') && table.out.contains("boo"), "{}", table.out);
    assert!(table.err.contains("--cursor"), "{}", table.err);
    assert_eq!(
        json_of(&run(&road, &["show", &id, "--json"]).await),
        road.get(&format!("/v1/dlq/messages/{id}")).await
    );
    let shown = run(&road, &["show", "last"]).await;
    assert!(
        shown.out.contains("reason: retries_exhausted") && !shown.out.contains('\u{1b}'),
        "{}",
        shown.out
    );
    assert_eq!(json_of(&run(&road, &["queues", "--json"]).await)["total"], 701);
    assert!(run(&road, &["queues"]).await.out.contains("701 dead letters in 1 subscriptions"));
    let export = run(&road, &["export", "--text", "BOO"]).await;
    assert_eq!(json_of(&export)["message_id"], "last");
    assert_eq!(json_of(&run(&road, &["list", "--tenant", "other", "--json"]).await)["messages"], json!([]));
}

#[tokio::test]
async fn flags_work_before_and_behind_the_command() {
    let road = Road::new().await;
    let url = road.redis.url();
    for args in [["--redis-url", &url, "list", "--json"], ["list", "--json", "--redis-url", &url]] {
        let mut command = command(&road, &args);
        command.env_remove("POSTROAD_REDIS_URL");
        assert_eq!(json_of(&said(command.output().await.unwrap()))["messages"], json!([]), "{args:?}");
    }
    let config = run(&road, &["list", "--print-config"]).await;
    assert!(
        config.out.contains("[reprocessor]") && config.out.contains("max_queued = 10000"),
        "{}",
        config.out
    );
    let check = run(&road, &["--check"]).await;
    assert!(check.code == Some(0) && check.out.contains("all is well"), "{}", check.err);
    for args in [&["serve", "--listen", "0.0.0.0:0"][..], &["--listen", "0.0.0.0:0"]] {
        let refused = run(&road, args).await;
        assert_eq!(refused.code, Some(1));
        assert!(refused.err.contains("auth.mode = none"), "{}", refused.err);
    }
}

#[tokio::test]
async fn errors_say_the_way_out() {
    let road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    road.bury(&sub, &ids("a", 3), &Dies::default()).await;
    for (args, words) in [
        (&["show", "nothing"][..], "there is no dead letter"),
        (&["list", "--reason", "bored"], "retries_exhausted"),
        (&["list", "--limit", "0"], "limit = 0"),
        (&["replay", "--rate", "nan"], "rate = NaN"),
        (&["purge"], "--confirm 3"),
        (&["purge", "--confirm", "2"], "3 dead letters match, not 2"),
    ] {
        let refused = run(&road, args).await;
        assert_eq!(refused.code, Some(1), "{args:?}: {}", refused.err);
        assert!(
            refused.err.starts_with("postroad-reprocessor: ") && refused.err.contains(words),
            "{}",
            refused.err
        );
        assert!(refused.out.is_empty());
    }
    let away = run(&road, &["list", "--redis-url", "redis://:secret@127.0.0.1:1"]).await;
    assert_eq!(away.code, Some(1));
    assert!(away.err.contains("--redis-url") && !away.err.contains("secret"), "{}", away.err);
    assert_eq!(road.dead(&sub).await, 3);
    let purged = json_of(&run(&road, &["purge", "--confirm", "3", "--json"]).await);
    assert_eq!((&purged["purged"], road.dead(&sub).await), (&json!(3), 0));
}

#[tokio::test]
async fn a_replay_runs_in_the_foreground() {
    let road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    road.bury(&sub, &ids("a", 50), &Dies::default()).await;
    let dry = json_of(&run(&road, &["replay", "--dry-run", "--limit", "20", "--json"]).await);
    assert_eq!((&dry["matched"], &dry["would_move"]), (&json!(50), &json!(20)));
    assert!(
        run(&road, &["replay", "--dry-run"]).await.out.contains("50 dead letters match, 50 would be moved")
    );
    let done = json_of(&run(&road, &["replay", "--limit", "20", "--json"]).await);
    assert_eq!((&done["state"], &done["moved"], road.dead(&sub).await), (&json!("done"), &json!(20), 30));
    let rest = run(&road, &["replay", "--rate", "1000"]).await;
    assert_eq!(rest.code, Some(0), "{}", rest.err);
    assert!(
        rest.out.contains("is done: moved 30 dead letters")
            && rest.err.contains("30 dead letters to look at")
    );
    assert_eq!((road.dead(&sub).await, road.queued(&sub).await), (0, 50));
}

#[tokio::test]
async fn an_interrupt_stops_the_job_cleanly() {
    let road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    road.bury(&sub, &ids("a", 500), &Dies::default()).await;
    let child = command(&road, &["replay", "--rate", "50", "--json"]).spawn().unwrap();
    eventually(Duration::from_secs(15), "some to be moved", async || match road.queued(&sub).await {
        0..=5 => Err("none yet"),
        _ => Ok(()),
    })
    .await
    .unwrap();
    let pid = child.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().await.unwrap().success());
    let said = said(child.wait_with_output().await.unwrap());
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert!(said.err.contains("stopped before the end"), "{}", said.err);
    let progress: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(progress["state"], "stopped");
    assert_eq!(progress["moved"], json!(road.queued(&sub).await));
    assert_eq!(road.dead(&sub).await + road.queued(&sub).await, 500);
    assert_eq!(road.get("/v1/dlq/replays").await["replays"][0]["state"], "stopped");
}
