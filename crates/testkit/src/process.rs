//! One of our binaries as a child process, to be killed, frozen, stopped and measured.

mod binary;
mod stat;

use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Result, bail};
use rustix::process::Signal;
use tempfile::TempDir;

pub use self::binary::binary;
use crate::child::Child;
use crate::scratch;

/// What a daemon inherits of the test's environment; anything else would make results depend on the machine.
const INHERITED: [&str; 10] = [
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "TZ",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "RUST_BACKTRACE",
    "LLVM_PROFILE_FILE",
    "SSL_CERT_FILE",
];

/// A running daemon. Dropping it kills it.
#[derive(Debug)]
pub struct Daemon {
    // The order matters: the child dies before its directory goes.
    child: Child,
    directory: TempDir,
    name: String,
}

impl Daemon {
    /// Starts the program at `binary` (see [`binary()`]) and does not wait until it is ready.
    ///
    /// `name` is for messages and the log file's name. The environment is `envs` and a handful of basics as
    /// `PATH` and `RUST_BACKTRACE`, not the test's own. The working directory is a fresh temporary one, so that no
    /// stray file is found: give paths in `args` as absolute ones. Standard output and error go to one log there.
    pub fn spawn<A, K, V>(
        name: &str,
        binary: impl AsRef<Path>,
        args: impl IntoIterator<Item = A>,
        envs: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self>
    where
        A: AsRef<OsStr>,
        K: AsRef<OsStr>,
        V: AsRef<OsStr>,
    {
        let directory = scratch::directory(name)?;
        let log = directory.path().join(format!("{name}.log"));
        let binary = std::path::absolute(binary)?;
        let child = Child::spawn(name, &binary, &log, |command| {
            command.current_dir(directory.path()).env_clear();
            command.envs(INHERITED.iter().filter_map(|key| Some((key, std::env::var_os(key)?))));
            command.envs(envs).args(args);
        })?;
        Ok(Self { child, directory, name: name.to_owned() })
    }

    /// The name given to [`Daemon::spawn`].
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id; once the daemon has ended, it may become another's.
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Its working directory.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// `SIGKILL`, and waits until it is gone; also when it is paused. Killing a daemon that has ended is no error.
    pub fn kill(&self) -> Result<ExitStatus> {
        self.child.kill()
    }

    /// `SIGTERM`, and does not wait. A paused daemon hears it when it is resumed.
    pub fn terminate(&self) -> Result<()> {
        self.child.signal(Signal::TERM)
    }

    /// `SIGSTOP`: it stands still, as on a machine that hangs, with its sockets open.
    pub fn pause(&self) -> Result<()> {
        self.child.signal(Signal::STOP)
    }

    /// `SIGCONT`.
    pub fn resume(&self) -> Result<()> {
        self.child.signal(Signal::CONT)
    }

    /// Waits until it has ended. The error has the end of its log.
    pub async fn wait_exit(&self, timeout: Duration) -> Result<ExitStatus> {
        self.child.wait_exit(timeout).await
    }

    /// An error with the end of its log if it has ended: for use in probes that wait until a daemon is ready.
    pub fn check_running(&self) -> Result<()> {
        match self.child.exit_status()? {
            Some(status) => bail!("{}", self.child.explain(&format!("has ended ({status})"))),
            None => Ok(()),
        }
    }

    /// The CPU time it has used so far, in user and system mode, to 10 ms.
    pub fn cpu_seconds(&self) -> Result<f64> {
        stat::cpu_seconds(self.pid())
    }

    /// The memory that it holds now.
    pub fn rss_bytes(&self) -> Result<u64> {
        stat::rss_bytes(self.pid())
    }

    /// The file with its output.
    pub fn log_path(&self) -> &Path {
        self.child.log()
    }

    /// The last `lines` lines that it wrote.
    pub fn log_tail(&self, lines: usize) -> String {
        scratch::tail(self.child.log(), lines)
    }
}
