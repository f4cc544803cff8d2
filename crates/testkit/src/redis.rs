//! A real `redis-server` of one's own, to be killed, frozen, filled and restarted.

mod builder;
mod resp;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::time::timeout;

pub use self::builder::{Builder, Fsync};
use self::resp::Connection;
pub use self::resp::Reply;
use crate::child::{Child, on_path};
use crate::wait::eventually;
use crate::{ports, scratch};

/// Long enough to load a large append-only file on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(30);
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
/// Another process may take a port between its choice and its use; four times in a row it will not.
const PORT_TRIES: usize = 4;

/// A running (or killed, or frozen) Redis. Dropping it kills it and removes its files.
///
/// Faults take `&self`: one task can break it while others look on. Two tasks must not restart it at once.
#[derive(Debug)]
pub struct PrivateRedis {
    // The order matters: the child dies before its directory goes.
    child: Mutex<Arc<Child>>,
    scratch: TempDir,
    data: PathBuf,
    program: PathBuf,
    settings: Builder,
    port: u16,
}

impl PrivateRedis {
    /// One that keeps everything in memory.
    pub async fn start() -> Result<Self> {
        Self::builder().start().await
    }

    /// One with other settings.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// `redis://127.0.0.1:<port>`, with the password if there is one.
    pub fn url(&self) -> String {
        self.url_through(self.addr())
    }

    /// The same URL by way of a [`Proxy`](crate::proxy::Proxy) at that address.
    pub fn url_through(&self, addr: SocketAddr) -> String {
        match self.settings.the_password() {
            Some(password) => format!("redis://:{password}@{addr}"),
            None => format!("redis://{addr}"),
        }
    }

    /// The port, the same for its whole life.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address, as a proxy's target.
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// The server's process id; a restart changes it.
    pub fn pid(&self) -> u32 {
        self.child().pid()
    }

    /// The directory with its files; the append-only ones lie in `appendonlydir` there.
    pub fn data_directory(&self) -> &Path {
        &self.data
    }

    /// Asks one thing on a connection of its own. An error of Redis, as `OOM …`, is an `Err` with its text; so is
    /// no answer within ten seconds (frozen, or blocked by a script).
    pub async fn command<A: AsRef<[u8]>>(&self, args: &[A]) -> Result<Reply> {
        let name = args.first().map(|name| String::from_utf8_lossy(name.as_ref())).unwrap_or_default();
        match self.ask(args).await {
            Ok(Reply::Error(text)) => bail!("Redis refuses {name}: {text}"),
            Ok(reply) => Ok(reply),
            Err(error) => Err(error.context(self.child().explain(&format!("does not answer {name}")))),
        }
    }

    /// `SIGKILL`, and waits until it is gone; also when it is frozen.
    pub fn kill(&self) -> Result<ExitStatus> {
        self.child().kill()
    }

    /// `SIGSTOP`: it stands still with its sockets open, and the system still accepts connections for it.
    pub fn stop_signal(&self) -> Result<()> {
        self.child().signal(Signal::STOP)
    }

    /// `SIGCONT`.
    pub fn cont(&self) -> Result<()> {
        self.child().signal(Signal::CONT)
    }

    /// Ends it properly (`SIGTERM`), with what is append-only forced to disk.
    pub async fn shutdown(&self) -> Result<ExitStatus> {
        let child = self.child();
        if let Some(status) = child.exit_status()? {
            return Ok(status);
        }
        child.signal(Signal::TERM)?;
        child.wait_exit(STOP_TIMEOUT).await
    }

    /// Starts it again on the same port and data, after a proper shutdown if it still runs (so not
    /// while it is frozen: `kill` or `cont` first). Waits until it answers.
    pub async fn restart(&self) -> Result<()> {
        self.shutdown().await?;
        let log = self.scratch.path().join("redis.log");
        let child = spawn(&self.program, &self.settings, self.port, &self.data, &log)?;
        *self.child.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(child);
        self.ready().await
    }

    /// The last `lines` lines of its log, over all restarts.
    pub fn log_tail(&self, lines: usize) -> String {
        scratch::tail(self.child().log(), lines)
    }

    async fn launch(settings: Builder) -> Result<Self> {
        let program = match &settings.program {
            Some(program) => program.clone(),
            None => find_server()?,
        };
        // The server runs in its data directory, where a relative path would mean something else.
        let program = std::path::absolute(program)?;
        let tries = if settings.port.is_some() { 1 } else { PORT_TRIES };
        for tries_left in (0..tries).rev() {
            let port = settings.port.map_or_else(ports::free, Ok)?;
            let scratch = scratch::directory("redis")?;
            let data = std::path::absolute(settings.data_directory.as_deref().unwrap_or(scratch.path()))?;
            let child = spawn(&program, &settings, port, &data, &scratch.path().join("redis.log"))?;
            let child = Mutex::new(Arc::new(child));
            let redis =
                Self { child, scratch, data, program: program.clone(), settings: settings.clone(), port };
            match redis.ready().await {
                Ok(()) => return Ok(redis),
                Err(_) if tries_left > 0 && TcpListener::bind(redis.addr()).is_err() => {}
                Err(error) => return Err(error),
            }
        }
        bail!("no port for a Redis")
    }

    /// Waits until the server answers; an error at once if it ends.
    async fn ready(&self) -> Result<()> {
        let child = self.child();
        let answer = eventually(START_TIMEOUT, "redis-server to get ready", async || {
            if let Some(status) = child.exit_status()? {
                return Ok(Err(anyhow!(child.explain(&format!("ended at once ({status})")))));
            }
            self.probe(child.pid()).await.map(Ok)
        });
        answer.await.map_err(|error| error.context(child.explain("does not get ready")))?
    }

    /// Whether our own server answers on the port, and has its data.
    async fn probe(&self, pid: u32) -> Result<()> {
        match self.ask(&["PING"]).await? {
            Reply::Error(text) if text.starts_with("LOADING") => bail!(text),
            _ => {}
        }
        let answering = self.ask(&["INFO", "server"]).await?.info("process_id");
        if answering.is_some_and(|answering| answering != pid.to_string()) {
            bail!("another server answers on port {}", self.port);
        }
        Ok(())
    }

    async fn ask<A: AsRef<[u8]>>(&self, args: &[A]) -> Result<Reply> {
        let exchange = async {
            let mut connection = Connection::open(self.port)
                .await
                .with_context(|| format!("cannot connect to {}", self.addr()))?;
            if let Some(password) = self.settings.the_password() {
                connection.ask(&["AUTH", password]).await?;
            }
            connection.ask(args).await
        };
        timeout(COMMAND_TIMEOUT, exchange).await.map_err(|_| anyhow!("no answer in {COMMAND_TIMEOUT:?}"))?
    }

    fn child(&self) -> Arc<Child> {
        Arc::clone(&self.child.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn spawn(program: &Path, settings: &Builder, port: u16, data: &Path, log: &Path) -> Result<Child> {
    Child::spawn("redis-server", program, log, |command| {
        command.args(settings.command_line(port, data)).current_dir(data);
    })
}

fn find_server() -> Result<PathBuf> {
    if let Some(program) = std::env::var_os("POSTROAD_REDIS_SERVER") {
        return Ok(program.into());
    }
    on_path("redis-server").context(
        "these tests start a real Redis, but there is no redis-server on PATH: install it (Debian and Ubuntu: \
         `apt-get install redis-server`, macOS: `brew install redis`), or name one in POSTROAD_REDIS_SERVER",
    )
}
