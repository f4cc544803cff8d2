//! The whole daemon, in this process: it lives, it answers, it runs jobs, and it gives them back.

mod kit;

use std::{net::SocketAddr, process::Stdio, time::Duration};

use kit::*;
use postroad_daemon::{
    process::{Context, Program},
    stop::Stop,
};
use postroad_store::JobState;
use postroad_testkit::wait::eventually;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::{Child, Command},
    task::JoinHandle,
};

const PATIENCE: Duration = Duration::from_secs(15);

struct Daemon {
    address: SocketAddr,
    stop: Stop,
    task: JoinHandle<anyhow::Result<()>>,
}

async fn start(road: &Road) -> Daemon {
    let program = Program { name: "postroad-reprocessor", version: "test" };
    let (stop, any) = (Stop::new(), ([127, 0, 0, 1], 0).into());
    let context = Context::listening(program, any, stop.clone(), Duration::from_secs(5)).await.unwrap();
    let address = context.listener.local_addr().unwrap();
    let mut config = road.config.clone();
    config.reprocessor.lease_ms = 1_000;
    let task = tokio::spawn(postroad_reprocessor::run(config, context));
    let daemon = Daemon { address, stop, task };
    eventually(PATIENCE, "the daemon to be ready", async || {
        let answer = daemon.get("/readyz", "localhost").await;
        if answer.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(answer) }
    })
    .await
    .unwrap();
    daemon
}

impl Daemon {
    async fn get(&self, path: &str, host: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn stop(self) {
        self.stop.request();
        self.task.await.unwrap().unwrap();
    }
}

async fn until_moved(road: &Road, id: &str, at_least: u64) {
    eventually(PATIENCE, "letters to be moved", async || {
        let progress = road.progress(id).await;
        if progress["moved"].as_u64().unwrap() >= at_least { Ok(()) } else { Err(progress) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn it_announces_itself_runs_jobs_and_gives_them_back() {
    let road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    road.bury(&sub, &ids("a", 400), &Dies::default()).await;
    let first = start(&road).await;
    eventually(PATIENCE, "the list of the living", async || {
        let living = road.store.living().await.unwrap().of_kind("reprocessor");
        if living.len() == 1 { Ok(()) } else { Err(format!("{living:?}")) }
    })
    .await
    .unwrap();
    assert!(first.get("/v1/dlq", "localhost").await.contains("\"total\":400"));
    assert!(first.get("/v1/dlq", "evil.example").await.starts_with("HTTP/1.1 403"));
    assert!(first.get("/v1/dlq/export", "localhost").await.contains("application/x-ndjson"));
    let metrics = first.get("/metrics", "localhost").await;
    for name in ["postroad_dead_letters 400", "postroad_replay_jobs{state=\"waiting\"} 0"] {
        assert!(metrics.contains(name), "{name} in {metrics}");
    }

    let id = road.replay(json!({ "rate": 200, "limit": 300 })).await;
    until_moved(&road, &id, 20).await;
    first.stop().await;
    let job = road.store.job(&id).await.unwrap().unwrap();
    assert_eq!(job.state, JobState::Waiting, "given back, for another to take at once");
    assert!(road.store.living().await.unwrap().members.is_empty());

    let second = start(&road).await;
    eventually(PATIENCE, "the job to be done", async || {
        let progress = road.progress(&id).await;
        if progress["state"] == "done" { Ok(()) } else { Err(progress) }
    })
    .await
    .unwrap();
    assert_eq!((road.queued(&sub).await, road.dead(&sub).await), (300, 100));
    assert!(second.get("/metrics", "localhost").await.contains("postroad_dead_letters_replayed_total"));
    second.stop().await;
}

/// The same as a process, to be killed.
fn spawn(road: &Road) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postroad-reprocessor"));
    command.args(["--listen", "127.0.0.1:0", "--environment", "test", "--redis-url", &road.redis.url()]);
    command.args([
        "--set",
        "layout.partitions=1",
        "--set",
        "layout.lanes=4",
        "--set",
        "reprocessor.lease_ms=1000",
    ]);
    command.stdin(Stdio::null()).kill_on_drop(true).spawn().unwrap()
}

#[tokio::test]
async fn another_takes_over_from_one_that_was_killed() {
    let road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    road.bury(&sub, &ids("a", 500), &Dies::default()).await;
    let id = road.replay(json!({ "rate": 250, "limit": 450 })).await;
    let mut first = spawn(&road);
    until_moved(&road, &id, 20).await;
    first.kill().await.unwrap();
    let so_far = road.queued(&sub).await;
    assert!(so_far < 450, "{so_far}");
    let mut second = spawn(&road);
    eventually(PATIENCE, "the job to be done", async || {
        let progress = road.progress(&id).await;
        if progress["state"] == "done" { Ok(()) } else { Err(progress) }
    })
    .await
    .unwrap();
    assert_eq!((road.queued(&sub).await, road.dead(&sub).await), (450, 50));
    assert_eq!(road.progress(&id).await["moved"], 450);
    let pid = second.id().unwrap().to_string();
    assert!(Command::new("kill").arg(&pid).status().await.unwrap().success());
    assert_eq!(second.wait().await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn a_stopped_job_whose_stopper_died_is_ended_by_the_daemon() {
    let road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    road.bury(&sub, &ids("a", 5), &Dies::default()).await;
    let id = road.replay(json!({})).await;
    road.store.stop_job(&id).await.unwrap();
    assert_eq!(road.store.job(&id).await.unwrap().unwrap().moved, None);
    let daemon = start(&road).await;
    eventually(PATIENCE, "the job to be ended", async || {
        road.store.job(&id).await.unwrap().unwrap().moved.ok_or("not yet")
    })
    .await
    .unwrap();
    assert_eq!(road.dead(&sub).await, 5);
    daemon.stop().await;
}
