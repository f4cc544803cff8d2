//! A Redis of one's own, in a data folder.
//!
//! It cannot outlive its process for long: it is stopped at the end, killed when it is dropped, and killed by
//! the kernel when this process dies (through `setpriv`, where there is one). Whatever still runs in the
//! folder after all that is found by what was noted there, and stopped before the next one starts. None of
//! this loses a write that was answered: the append-only file has it before the answer goes out.

use std::{
    ffi::OsString,
    io,
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use super::{
    folder::{DataFolder, LastRedis},
    resp::{ask, info},
};

/// Names the server program where no flag does.
pub const SERVER_VARIABLE: &str = "POSTROAD_REDIS_SERVER";

/// The oldest release that will do.
const OLDEST_MAJOR: u32 = 7;
/// What starting may take before the server says anything at all; loading its data may take longer.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// What an orderly end may take.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);
/// Another process may take a port between its choice and its use; four times in a row it will not.
const PORT_TRIES: usize = 4;

/// A running Redis. Dropping it kills it.
#[derive(Debug)]
pub struct PrivateRedis {
    child: Child,
    port: u16,
    log: PathBuf,
}

impl PrivateRedis {
    /// Starts one on the folder's data and waits until it answers. `program` is the server, rather than what
    /// [`SERVER_VARIABLE`] names or `redis-server` on `PATH`.
    ///
    /// To be awaited on a thread that lasts, as the main one does: the kernel kills the child of a thread that
    /// ends.
    pub async fn start(folder: &DataFolder, program: Option<&Path>) -> anyhow::Result<Self> {
        let program = find_server(program)?;
        end_what_was_left(folder).await?;
        for tries_left in (0..PORT_TRIES).rev() {
            let port = free_port()?;
            let mut redis = Self::spawn(folder, &program, port).await?;
            match redis.ready(folder).await {
                Ok(()) => return Ok(redis),
                Err(_) if tries_left > 0 && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_err() => {}
                Err(error) => return Err(error),
            }
        }
        bail!("there is no port for a Redis")
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Waits until it has ended, which it should not; answers with what its log says.
    pub async fn ended(&mut self) -> anyhow::Error {
        match self.child.wait().await {
            Ok(status) => self.explain(&format!("ended by itself ({status})")),
            Err(error) => anyhow!(error).context("redis-server cannot be watched"),
        }
    }

    /// Ends it properly, with everything forced to disk; kills it where that takes too long.
    pub async fn stop(mut self, folder: &DataFolder) -> anyhow::Result<()> {
        if let Some(pid) = self.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
            kill_process(pid, Signal::TERM).context("redis-server cannot be told to stop")?;
        }
        if timeout(STOP_TIMEOUT, self.child.wait()).await.is_err() {
            tracing::warn!("redis-server does not stop; killing it");
            self.child.kill().await.context("redis-server cannot be killed")?;
        }
        folder.note_redis(None)
    }

    async fn spawn(folder: &DataFolder, program: &Path, port: u16) -> anyhow::Result<Self> {
        let log = folder.redis_log();
        let output = std::fs::OpenOptions::new().create(true).append(true).open(&log);
        let output = output.with_context(|| format!("{} cannot be written", log.display()))?;
        let mut command = mortal(program).await;
        command
            .args(settings(port, &folder.redis_files()))
            .current_dir(folder.redis_files())
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            // Ctrl-C goes to everybody in the group; Redis is to stop last.
            .process_group(0)
            .kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("{} cannot be started", program.display()))?;
        if let Some(pid) = child.id() {
            folder.note_redis(Some(LastRedis { pid, port }))?;
        }
        Ok(Self { child, port, log })
    }

    /// Waits until it answers with all of its data loaded; an error at once if it ends.
    async fn ready(&mut self, folder: &DataFolder) -> anyhow::Result<()> {
        let mut deadline = Instant::now() + START_TIMEOUT;
        let mut is_told = false;
        loop {
            if let Some(status) = self.child.try_wait()? {
                folder.note_redis(None)?;
                return Err(self.explain(&format!("ended at once ({status})")));
            }
            match self.probe().await {
                Ok(Probe::Ready) => return Ok(()),
                Ok(Probe::TooOld(version)) => bail!(
                    "redis-server is version {version}; Postroad needs {OLDEST_MAJOR}.0 or newer. \
                     Name another program with --redis-server"
                ),
                Ok(Probe::Loading) => {
                    deadline = Instant::now() + START_TIMEOUT;
                    if !std::mem::replace(&mut is_told, true) {
                        tracing::info!("Redis is loading its data");
                    }
                }
                Err(error) if Instant::now() > deadline => {
                    return Err(error.context(self.explain("does not get ready")));
                }
                Err(_) => {}
            }
            sleep(POLL).await;
        }
    }

    /// How our own server is; another one on the port is an error.
    async fn probe(&self) -> anyhow::Result<Probe> {
        let about = ask(self.port, "INFO server").await?;
        if self.child.id().is_some_and(|pid| info(&about, "process_id") != Some(&pid.to_string())) {
            bail!("another server answers on port {}", self.port);
        }
        let version = info(&about, "redis_version").unwrap_or_default();
        let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
        if major.is_some_and(|major| major < OLDEST_MAJOR) {
            return Ok(Probe::TooOld(version.to_owned()));
        }
        Ok(if ask(self.port, "PING").await?.starts_with("-LOADING") { Probe::Loading } else { Probe::Ready })
    }

    /// A sentence about it, with the end of its log.
    fn explain(&self, what: &str) -> anyhow::Error {
        const LINES: usize = 8;
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(LINES)..].join("\n  ");
        anyhow!("redis-server {what}; its log {} ends:\n  {tail}", self.log.display())
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Probe {
    Ready,
    Loading,
    TooOld(String),
}

/// The command line. There is no settings file, and nothing is saved but the append-only file.
fn settings(port: u16, files: &Path) -> Vec<OsString> {
    let port = port.to_string();
    let mut line: Vec<OsString> = [
        ["--bind", "127.0.0.1"],
        ["--port", &port],
        ["--daemonize", "no"],
        ["--save", ""],
        ["--appendonly", "yes"],
        ["--appendfsync", "everysec"],
        ["--maxmemory-policy", "noeviction"],
    ]
    .iter()
    .flatten()
    .map(OsString::from)
    .collect();
    line.extend(["--dir".into(), files.into()]);
    line
}

/// Stops a Redis that a process which was killed has left behind. The folder is ours, so nobody uses it.
async fn end_what_was_left(folder: &DataFolder) -> anyhow::Result<()> {
    let Some(LastRedis { pid, port }) = folder.last_redis() else { return Ok(()) };
    if is_of(folder, pid, port).await? {
        tracing::info!(process = pid, "stopping the Redis that was left behind in the data folder");
        // The answer is that the connection ends.
        let _ = ask(port, "SHUTDOWN").await;
        let deadline = Instant::now() + STOP_TIMEOUT;
        while is_of(folder, pid, port).await? {
            if Instant::now() > deadline {
                bail!(
                    "redis-server (process {pid}) was left behind in {} and does not stop; \
                     end it with `kill -9 {pid}` and try again",
                    folder.path().display()
                );
            }
            sleep(POLL).await;
        }
    }
    folder.note_redis(None)
}

/// Whether the server on this port is this process, and works on this folder.
async fn is_of(folder: &DataFolder, pid: u32, port: u16) -> anyhow::Result<bool> {
    match ask(port, "INFO server").await {
        Ok(about) if info(&about, "process_id") != Some(&pid.to_string()) => Ok(false),
        Ok(_) => {
            let files = ask(port, "CONFIG GET dir").await.unwrap_or_default();
            Ok(files.lines().any(|line| Path::new(line) == folder.redis_files()))
        }
        Err(error) if error.kind() == io::ErrorKind::TimedOut => bail!(
            "redis-server (process {pid}) was left behind in {} and does not answer; \
             end it with `kill -9 {pid}` and try again",
            folder.path().display()
        ),
        Err(_) => Ok(false),
    }
}

/// A port on 127.0.0.1 that nobody listens on at the moment.
fn free_port() -> anyhow::Result<u16> {
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("there is no free port on 127.0.0.1")?;
    Ok(listener.local_addr()?.port())
}

fn find_server(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    let variable = std::env::var_os(SERVER_VARIABLE).map(PathBuf::from);
    if let Some(program) = named.map(Path::to_owned).or(variable) {
        let program = std::path::absolute(program)?;
        if is_executable(&program) {
            return Ok(program);
        }
        bail!(
            "{} is no executable file, so it cannot be the redis-server that --redis-server or {SERVER_VARIABLE} names",
            program.display()
        );
    }
    on_path("redis-server").ok_or_else(|| {
        anyhow!(
            "there is no redis-server on PATH, and Postroad keeps everything in Redis. Install it \
             (Debian and Ubuntu: `apt-get install redis-server`, or scripts/setup; Fedora: `dnf install redis`; \
             macOS: `brew install redis`), name the program with --redis-server, or use a Redis that runs \
             already with --redis-url"
        )
    })
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// A command for a program that the kernel kills when the thread that started it ends. BusyBox has a
/// `setpriv` too, without that option: so it is tried.
async fn mortal(program: &Path) -> Command {
    const WITH_PARENT: [&str; 3] = ["--pdeathsig", "KILL", "--"];
    let Some(setpriv) = on_path("setpriv") else { return Command::new(program) };
    let mut trial = Command::new(&setpriv);
    trial
        .args(WITH_PARENT)
        .args([&setpriv, Path::new("--version")])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if !trial.status().await.is_ok_and(|status: ExitStatus| status.success()) {
        return Command::new(program);
    }
    let mut command = Command::new(setpriv);
    command.args(WITH_PARENT).arg(program);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_written_is_there_after_a_restart() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(scratch.path()).unwrap();
        let redis = PrivateRedis::start(&folder, None).await.unwrap();
        assert_eq!(ask(redis.port, "SET a b").await.unwrap(), "OK");
        let policy = ask(redis.port, "CONFIG GET maxmemory-policy").await.unwrap();
        assert_eq!(policy, "maxmemory-policy\nnoeviction");
        redis.stop(&folder).await.unwrap();
        assert_eq!(folder.last_redis(), None);
        let redis = PrivateRedis::start(&folder, None).await.unwrap();
        assert_eq!(ask(redis.port, "GET a").await.unwrap(), "b");
        redis.stop(&folder).await.unwrap();
    }

    #[tokio::test]
    async fn one_that_was_left_behind_is_stopped_first() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(scratch.path()).unwrap();
        let mut left = PrivateRedis::start(&folder, None).await.unwrap();
        ask(left.port, "SET a b").await.unwrap();
        let redis = PrivateRedis::start(&folder, None).await.unwrap();
        let ended = timeout(Duration::from_secs(5), left.ended()).await.unwrap().to_string();
        assert!(ended.contains("ended by itself"), "{ended}");
        assert_eq!(ask(redis.port, "GET a").await.unwrap(), "b");
        redis.stop(&folder).await.unwrap();
    }

    #[tokio::test]
    async fn another_redis_that_has_the_port_is_left_alone() {
        let (mine, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (mine, other) = (DataFolder::open(mine.path()).unwrap(), DataFolder::open(other.path()).unwrap());
        let stranger = PrivateRedis::start(&other, None).await.unwrap();
        mine.note_redis(other.last_redis()).unwrap();
        end_what_was_left(&mine).await.unwrap();
        assert_eq!(ask(stranger.port, "PING").await.unwrap(), "PONG");
        stranger.stop(&other).await.unwrap();
    }

    #[tokio::test]
    async fn a_missing_or_broken_server_is_explained() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(scratch.path()).unwrap();
        let error = PrivateRedis::start(&folder, Some(Path::new("/nowhere/redis"))).await.unwrap_err();
        assert!(error.to_string().contains("/nowhere/redis is no executable file"), "{error}");
        let broken = on_path("false").unwrap();
        let error = PrivateRedis::start(&folder, Some(&broken)).await.unwrap_err().to_string();
        assert!(error.contains("ended at once") && error.contains("redis.log"), "{error}");
    }
}
