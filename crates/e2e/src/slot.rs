//! One daemon's place in a town: the same address and settings through all restarts.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use postroad_testkit::process::{Daemon, binary};
use postroad_testkit::{ports, wait::eventually};

use crate::api::Api;

const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// What kind of daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `postroad-ingest`.
    Ingest,
    /// `postroad-router`.
    Router,
    /// `postroad-worker`.
    Worker,
    /// `postroad-reprocessor`.
    Reprocessor,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingest => "ingest",
            Self::Router => "router",
            Self::Worker => "worker",
            Self::Reprocessor => "reprocessor",
        })
    }
}

/// One daemon's place.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) kind: Kind,
    pub(crate) name: String,
    pub(crate) api: Api,
    addr: SocketAddr,
    envs: Vec<(String, String)>,
    lives: Mutex<Lives>,
}

#[derive(Debug, Default)]
struct Lives {
    /// Meant to run.
    wanted: bool,
    now: Option<Arc<Daemon>>,
    /// Those before, for their logs.
    past: Vec<Arc<Daemon>>,
}

impl Slot {
    pub(crate) fn new(kind: Kind, number: usize, envs: &[(String, String)]) -> Result<Self> {
        let addr: SocketAddr = (Ipv4Addr::LOCALHOST, ports::free()?).into();
        let mut envs = envs.to_vec();
        envs.push(("POSTROAD_LISTEN".to_owned(), addr.to_string()));
        Ok(Self {
            kind,
            name: format!("{kind}-{number}"),
            api: Api::new(addr),
            addr,
            envs,
            lives: Mutex::default(),
        })
    }

    /// Starts it and does not wait.
    pub(crate) fn start(&self) -> Result<()> {
        let program = binary(&format!("postroad-{}", self.kind))?;
        let envs = self.envs.iter().map(|(name, value)| (name, value));
        let daemon = Daemon::spawn(&self.name, program, [""; 0], envs)?;
        let mut lives = self.lives();
        ensure!(lives.now.is_none(), "{} runs already", self.name);
        lives.now = Some(Arc::new(daemon));
        lives.wanted = true;
        Ok(())
    }

    pub(crate) async fn ready(&self) -> Result<()> {
        let daemon = self.daemon()?;
        eventually(READY_TIMEOUT, format!("{} at {} to get ready", self.name, self.addr), async || {
            daemon.check_running()?;
            self.api.get("/readyz").await?.expect(200).map(drop)
        })
        .await
    }

    pub(crate) fn daemon(&self) -> Result<Arc<Daemon>> {
        self.lives().now.clone().with_context(|| format!("{} does not run", self.name))
    }

    pub(crate) fn is_wanted(&self) -> bool {
        self.lives().wanted
    }

    pub(crate) fn kill(&self) -> Result<ExitStatus> {
        let status = self.daemon()?.kill()?;
        self.bury();
        Ok(status)
    }

    pub(crate) async fn stop(&self, patience: Duration) -> Result<ExitStatus> {
        let daemon = self.daemon()?;
        daemon.terminate()?;
        let status = daemon.wait_exit(patience).await?;
        self.bury();
        Ok(status)
    }

    fn bury(&self) {
        let mut lives = self.lives();
        let dead = lives.now.take();
        lives.past.extend(dead);
        lives.wanted = false;
    }

    /// An error if it should run and does not, or if any of its lives has panicked.
    pub(crate) fn check(&self) -> Result<()> {
        if self.is_wanted() {
            self.daemon()?.check_running()?;
        }
        for log in self.logs()? {
            if let Some(line) = log.lines().find(|line| line.contains("panicked at")) {
                anyhow::bail!("{} has panicked: {line}", self.name);
            }
        }
        Ok(())
    }

    /// What all its lives have written, the present one last.
    pub(crate) fn logs(&self) -> Result<Vec<String>> {
        let lives = self.lives();
        let all = lives.past.iter().chain(&lives.now);
        all.map(|daemon| {
            let text = std::fs::read(daemon.log_path()).context("a daemon's log")?;
            Ok(String::from_utf8_lossy(&text).into_owned())
        })
        .collect()
    }

    fn lives(&self) -> MutexGuard<'_, Lives> {
        self.lives.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
