//! The stage: a private Redis with an append-only file, the daemons and the sink, each in a process of its
//! own, all on loopback.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use hyper::Method;
use serde_json::{Value, json};

use super::{
    figures::{CpuUse, Latencies},
    load::Line,
};

/// A process that goes when this goes.
pub struct Process {
    name: &'static str,
    child: Child,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Everything that runs.
pub struct Stage {
    /// The API.
    pub api: SocketAddr,
    /// The sink.
    pub sink: SocketAddr,
    /// Redis.
    pub redis_url: String,
    directory: PathBuf,
    processes: Vec<Process>,
    settings: Vec<(String, String)>,
}

/// What arrived on a path of the sink.
#[derive(Debug, Clone, Default)]
pub struct Arrived {
    /// How much.
    pub count: u64,
    /// From the first arrival to the last.
    pub span: Duration,
    /// From sending to arrival.
    pub latencies: Latencies,
}

fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?)
}

async fn is_ready(address: SocketAddr) -> bool {
    match Line::open(address).await {
        Ok(mut line) => matches!(line.send(Method::GET, "/readyz", "").await, Ok((200, _))),
        Err(_) => false,
    }
}

/// A program beside this one.
fn beside(name: &str) -> anyhow::Result<PathBuf> {
    let here = std::env::current_exe()?;
    let path = here.with_file_name(name);
    ensure!(
        path.exists(),
        "{} is missing; build all programs with `cargo build --release --bins`",
        path.display()
    );
    Ok(path)
}

impl Stage {
    /// Starts Redis and the sink in a folder, and no daemon. `settings` are environment variables of the
    /// daemons.
    pub async fn set(directory: &Path, settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        let _ = fs::remove_dir_all(directory);
        fs::create_dir_all(directory)?;
        let redis = free_address()?;
        let server = Command::new("redis-server")
            .args(["--port", &redis.port().to_string(), "--bind", "127.0.0.1", "--save", ""])
            .args(["--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction"])
            .arg("--dir")
            .arg(directory)
            .stdout(fs::File::create(directory.join("redis.log"))?)
            .spawn()
            .context("redis-server cannot be started; scripts/setup installs it")?;
        let mut sink = Command::new(std::env::current_exe()?)
            .args(["bench", "sink"])
            .stdout(Stdio::piped())
            .stdin(Stdio::null())
            .spawn()
            .context("the sink cannot be started")?;
        let mut line = String::new();
        BufReader::new(sink.stdout.take().context("the sink has no output")?).read_line(&mut line)?;
        let mut stage = Self {
            api: free_address()?,
            sink: line.trim().parse().context("the sink said no address")?,
            redis_url: format!("redis://{redis}"),
            directory: directory.to_owned(),
            processes: vec![Process { name: "redis", child: server }, Process { name: "sink", child: sink }],
            settings: settings
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        };
        stage.settings.push(("POSTROAD_REDIS_URL".into(), stage.redis_url.clone()));
        stage.settings.push(("POSTROAD_EGRESS_ALLOW".into(), "127.0.0.0/8".into()));
        Ok(stage)
    }

    /// Starts daemons side by side, and waits until all are ready.
    pub async fn start_all(&mut self, names: &[&'static str]) -> anyhow::Result<()> {
        let mut addresses = Vec::with_capacity(names.len());
        for name in names {
            let address = if *name == "ingest" { self.api } else { free_address()? };
            let log = fs::File::create(self.directory.join(format!("{name}-{}.log", self.processes.len())))?;
            let child = Command::new(beside(&format!("postroad-{name}"))?)
                .env("POSTROAD_LISTEN", address.to_string())
                .envs(self.settings.iter().map(|(name, value)| (name, value)))
                .stdin(Stdio::null())
                .stderr(log)
                .spawn()?;
            self.processes.push(Process { name, child });
            addresses.push((name, address));
        }
        let begun = Instant::now();
        for (name, address) in addresses {
            while !is_ready(address).await {
                ensure!(
                    begun.elapsed() < Duration::from_secs(20),
                    "postroad-{name} is not ready after 20 s; see its log in {}",
                    self.directory.display()
                );
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    /// Stops every process of a name.
    pub fn stop(&mut self, name: &str) {
        self.processes.retain(|process| process.name != name);
    }

    /// CPU used so far, by process. This one counts as `generator`.
    pub fn cpu(&self) -> CpuUse {
        let mine = [("generator", std::process::id())];
        CpuUse::look(self.processes.iter().map(|process| (process.name, process.child.id())).chain(mine))
    }

    /// Subscribes a path of the sink.
    pub async fn subscribe(&self, path: &str, mut request: Value) -> anyhow::Result<Value> {
        request["service_name"] = json!("bench");
        request["callback_url"] = json!(format!("http://{}{path}", self.sink));
        Line::open(self.api).await?.call(Method::POST, "/v1/subscriptions", &request).await
    }

    /// Forgets what arrived.
    pub async fn reset(&self) -> anyhow::Result<()> {
        Line::open(self.sink).await?.call(Method::POST, "/_reset", &Value::Null).await.map(drop)
    }

    /// What arrived on a path.
    pub async fn arrived(&self, path: &str) -> anyhow::Result<Arrived> {
        let stats = Line::open(self.sink).await?.call(Method::GET, "/_stats", &Value::Null).await?;
        let seen = &stats[path];
        let count = seen["count"].as_u64().unwrap_or(0);
        let us = |name: &str| seen[name].as_u64().unwrap_or(0);
        let latencies = seen["latencies_us"].as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(Arrived {
            count,
            span: Duration::from_micros(us("last_us").saturating_sub(us("first_us"))),
            latencies: Latencies::new(latencies.iter().filter_map(Value::as_u64).collect()),
        })
    }

    /// Waits until so many have arrived on paths together.
    pub async fn wait_for(&self, paths: &[String], count: u64, limit: Duration) -> anyhow::Result<()> {
        let begun = Instant::now();
        let mut line = Line::open(self.sink).await?;
        loop {
            let counts = line.call(Method::GET, "/_counts", &Value::Null).await?;
            let have: u64 = paths.iter().map(|path| counts[path].as_u64().unwrap_or(0)).sum();
            if have >= count {
                return Ok(());
            }
            ensure!(begun.elapsed() < limit, "only {have} of {count} arrived within {} s", limit.as_secs());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A payload of about so many bytes that carries when it was sent.
pub fn payload(bytes: usize, sent_us: u64) -> String {
    let pad = "x".repeat(bytes.saturating_sub(40));
    format!(r#"{{"sent_us":{sent_us},"pad":"{pad}"}}"#)
}
