//! How a private Redis is set up.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::PrivateRedis;

/// When an append-only Redis forces its file to disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fsync {
    /// Before it answers.
    Always,
    /// Once a second.
    EverySecond,
    /// When the system likes.
    No,
}

/// Settings of a [`PrivateRedis`]; the default keeps everything in memory and listens on a free port.
#[derive(Debug, Clone, Default)]
#[must_use = "nothing runs before start()"]
pub struct Builder {
    append_only: Option<Fsync>,
    maxmemory_bytes: Option<u64>,
    password: Option<String>,
    args: Vec<OsString>,
    pub(super) data_directory: Option<PathBuf>,
    pub(super) port: Option<u16>,
    pub(super) program: Option<PathBuf>,
}

impl Builder {
    /// Writes an append-only file, forced to disk as `fsync` says. Without this, a restart finds nothing.
    pub fn append_only(mut self, fsync: Fsync) -> Self {
        self.append_only = Some(fsync);
        self
    }

    /// The most memory it takes for data; beyond, it refuses writes (policy `noeviction`).
    pub fn maxmemory_bytes(mut self, bytes: u64) -> Self {
        self.maxmemory_bytes = Some(bytes);
        self
    }

    /// Asks every client for this password (letters and digits, for it stands in the URL).
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// One more argument of `redis-server`; they come last, so `.arg("--hz").arg("1")` beats what stands here.
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Keeps its data in this existing directory, which outlives it, rather than in a temporary one: to start on
    /// files that a test has cut or spoilt, or that another Redis left.
    pub fn data_directory(mut self, directory: impl AsRef<Path>) -> Self {
        self.data_directory = Some(directory.as_ref().to_owned());
        self
    }

    /// Listens on this port and fails where it is taken.
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// The server program, rather than `POSTROAD_REDIS_SERVER` or the `redis-server` on `PATH`.
    pub fn program(mut self, program: impl AsRef<Path>) -> Self {
        self.program = Some(program.as_ref().to_owned());
        self
    }

    /// Starts it and waits until it answers.
    pub async fn start(self) -> Result<PrivateRedis> {
        PrivateRedis::launch(self).await
    }

    pub(super) fn the_password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    /// The command line. No setting file and no saving: whatever is kept, the append-only file keeps.
    pub(super) fn command_line(&self, port: u16, directory: &Path) -> Vec<OsString> {
        let (append_only, fsync) = match self.append_only {
            None => ("no", "everysec"),
            Some(Fsync::Always) => ("yes", "always"),
            Some(Fsync::EverySecond) => ("yes", "everysec"),
            Some(Fsync::No) => ("yes", "no"),
        };
        let port = port.to_string();
        let maxmemory = self.maxmemory_bytes.unwrap_or(0).to_string();
        let mut line: Vec<OsString> = [
            ["--bind", "127.0.0.1"],
            ["--port", &port],
            ["--daemonize", "no"],
            ["--save", ""],
            ["--appendonly", append_only],
            ["--appendfsync", fsync],
            ["--maxmemory", &maxmemory],
            ["--maxmemory-policy", "noeviction"],
            ["--enable-debug-command", "yes"],
        ]
        .iter()
        .flatten()
        .map(OsString::from)
        .collect();
        line.extend(["--dir".into(), directory.into()]);
        if let Some(password) = &self.password {
            line.extend(["--requirepass".into(), password.into()]);
        }
        line.extend(self.args.iter().cloned());
        line
    }
}
