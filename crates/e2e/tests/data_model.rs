//! `docs/data-model.md` says how to look at what lies in Redis: every command on the page is run, and answers what the page
//! says.
//!
//! A block of commands that is fenced as `sh` runs in a shell of its own, behind the first one, which sets variables. What
//! it must print stands in a comment above it, `<!-- answers: … -->`, words between spaces (a `␠` stands for a space).

use std::fmt::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::Method;
use postroad_e2e::load::Post;
use postroad_e2e::{Kind, Town};
use postroad_testkit::receiver::Answer;
use postroad_testkit::wait::eventually;
use serde_json::json;

const PAGE: &str = include_str!("../../../docs/data-model.md");
const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_of_the_page_answers_what_it_says() -> Result<()> {
    let town = Town::builder().start().await?;
    let outcome = scenario(&town).await;
    town.explain(outcome).await
}

/// A block of commands, with the line of the page that it begins at.
struct Block {
    line: usize,
    commands: String,
    answers: Vec<String>,
}

fn blocks() -> Vec<Block> {
    let mut blocks = Vec::new();
    let (mut open, mut answers) = (None, Vec::new());
    for (number, line) in PAGE.lines().enumerate() {
        if let Some(words) = line.strip_prefix("<!-- answers: ").and_then(|rest| rest.strip_suffix(" -->")) {
            answers = words.split(' ').map(|word| word.replace('␠', " ")).collect();
        } else if line == "```sh" {
            let answers = std::mem::take(&mut answers);
            open = Some(Block { line: number + 1, commands: String::new(), answers });
        } else if line == "```" {
            blocks.extend(open.take());
        } else if let Some(block) = &mut open {
            block.commands.push_str(line);
            block.commands.push('\n');
        }
    }
    blocks
}

/// The page's variables with this town's values.
fn variables(block: &Block, environment: &str, subscription: &str) -> String {
    let line = |line: &str| match line.split_once('=').map(|(name, _)| name) {
        Some("E") => format!("E={environment}\n"),
        Some("SUBSCRIPTION") => format!("SUBSCRIPTION={subscription}\n"),
        _ => format!("{line}\n"),
    };
    block.commands.lines().map(line).collect()
}

/// A `redis-cli` that asks the town's Redis.
fn client(folder: &Path, port: u16) -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let real =
        std::env::split_paths(&path).map(|folder| folder.join("redis-cli")).find(|file| file.is_file());
    let real = real.context("redis-cli is not on PATH; it comes with redis-server")?;
    let file = folder.join("redis-cli");
    std::fs::write(&file, format!("#!/bin/sh\nexec '{}' -p {port} \"$@\"\n", real.display()))?;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Redis's errors begin with a word in capitals.
fn is_error(line: &str) -> bool {
    let code = line.split(' ').next().unwrap_or_default();
    code.len() > 2 && code != line && code.bytes().all(|byte| byte.is_ascii_uppercase())
}

fn run(folder: &Path, commands: &str) -> Result<Output> {
    let path = std::env::var("PATH")?;
    let mut shell = Command::new("sh");
    shell.arg("-euc").arg(commands).env("PATH", format!("{}:{path}", folder.display()));
    Ok(shell.output()?)
}

/// What the commands are to find: a channel with settings, a message that is delivered, awaited and dead, one to become due.
async fn scene(town: &Town) -> Result<String> {
    let api = town.api(Kind::Ingest, 0)?;
    let settings = json!({ "arguments": { "x-message-ttl": 3_600_000 } }).to_string();
    let json = [("content-type", "application/json")];
    api.call(Method::PUT, "/v1/channels/orders", &json, Bytes::from(settings)).await?.expect(201)?;
    let pulled = json!({ "channel": "orders", "callback_url": null });
    let pulled = town.subscribe("billing", pulled).await?;
    town.subscribe("push", json!({ "channel": "orders" })).await?;
    let failing = json!({ "channel": "orders", "max_retries": 0 });
    town.subscribe_answering("failing", failing, Answer::status(500)).await?;
    let order = Post::new("order-1", "orders")
        .with("payload", json!({ "id": 1 }))
        .with("routing_key", "order.created")
        .with("metadata", json!({ "message_id": "order-1", "ttl": 3_600 }));
    town.publish(&order).await?;
    town.publish(&Post::new("order-2", "orders").with("delay_seconds", 600)).await?;
    let pull = json!({ "wait_seconds": 5 }).to_string();
    let taken = api.post(&format!("/v1/subscriptions/{}/pull", pulled.id), pull).await?.expect(200)?;
    ensure!(taken["deliveries"][0]["message_id"] == "order-1", "{taken}");
    eventually(PATIENCE, "the figures to be written", async || {
        let stats = api.get("/v1/channels/orders/stats").await?.expect(200)?;
        ensure!(stats["messages_delivered"] == 2 && stats["messages_failed"] == 1, "{stats}");
        anyhow::Ok(())
    })
    .await?;
    Ok(pulled.id)
}

async fn scenario(town: &Arc<Town>) -> Result<()> {
    let subscription = scene(town).await?;
    let folder = town.redis.data_directory();
    client(folder, town.redis.port())?;
    let blocks = blocks();
    let (first, blocks) = blocks.split_first().context("the page has no commands")?;
    let ctl = town.ctl_key("");
    let environment = ctl.split(':').next().unwrap_or_default();
    let variables = variables(first, environment, &subscription);
    let mut problems = String::new();
    for Block { line, commands, answers } in blocks {
        let Output { status, stdout, stderr } = run(folder, &format!("{variables}{commands}"))?;
        let (out, err) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        let missing: Vec<&String> = answers.iter().filter(|word| !out.contains(word.as_str())).collect();
        // What `redis-cli` is refused it prints like an answer.
        let is_refused = out.lines().any(is_error);
        if !status.success() || !err.is_empty() || is_refused || answers.is_empty() || !missing.is_empty() {
            let _ = writeln!(
                problems,
                "line {line}: {status}, it does not say {missing:?}\n{commands}→ {out}{err}"
            );
        }
    }
    ensure!(problems.is_empty(), "{problems}");
    println!("{} blocks of commands", blocks.len());
    Ok(())
}
