//! A child process that cannot outlive the test that started it.
//!
//! Drop kills it, also while a panic unwinds. Against the death of the test process itself (a runner's timeout
//! sends `SIGKILL`) the child is started through `setpriv --pdeathsig KILL`, which replaces itself by the program,
//! so that process id, CPU time and memory are the program's own. The kernel sends that signal when the parent
//! *thread* ends, hence one thread that never does starts all children. Without a fitting `setpriv` they start
//! directly, and only that last safety is missing.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::scratch;
use crate::wait::eventually;

/// Log lines in an error, and those that a panicking test prints.
const LINES_IN_ERRORS: usize = 20;
const LINES_ON_PANIC: usize = 60;

/// A running child with its output in a log file.
#[derive(Debug)]
pub(crate) struct Child {
    name: String,
    pid: u32,
    log: PathBuf,
    process: Mutex<std::process::Child>,
}

impl Child {
    /// Starts `program`, which must be a path; `configure` adds arguments, environment and directory. What it
    /// writes is appended to `log`.
    pub(crate) fn spawn(
        name: &str,
        program: &Path,
        log: &Path,
        configure: impl FnOnce(&mut Command),
    ) -> Result<Self> {
        if !is_executable(program) {
            bail!("cannot start {name}: {} is no executable file", program.display());
        }
        let output = OpenOptions::new().create(true).append(true).open(log);
        let output = output.with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = mortal(program);
        configure(&mut command);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let process = spawn_from_the_lasting_thread(command)
            .with_context(|| format!("cannot start {name} ({})", program.display()))?;
        let pid = process.id();
        Ok(Self { name: name.to_owned(), pid, log: log.to_owned(), process: Mutex::new(process) })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    /// How it ended, or nothing while it runs (or is frozen).
    pub(crate) fn exit_status(&self) -> Result<Option<ExitStatus>> {
        self.process().try_wait().with_context(|| format!("cannot ask for the state of {}", self.name))
    }

    /// Sends a signal; an error if it has ended, since then the process id may be someone else's.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let mut process = self.process();
        if let Some(status) = process.try_wait()? {
            bail!("{}", self.explain(&format!("has already ended ({status})")));
        }
        kill_process(Pid::from_child(&process), signal)
            .with_context(|| format!("cannot send {signal:?} to {}", self.name))
    }

    /// `SIGKILL`, and waits until it is gone; also when it is frozen. Killing the dead is no error.
    pub(crate) fn kill(&self) -> Result<ExitStatus> {
        let mut process = self.process();
        process.kill().with_context(|| format!("cannot kill {}", self.name))?;
        process.wait().with_context(|| format!("cannot wait for {}", self.name))
    }

    pub(crate) async fn wait_exit(&self, timeout: Duration) -> Result<ExitStatus> {
        let end = eventually(timeout, format!("{} to end", self.name), async || match self.exit_status() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err("it still runs".to_owned()),
            Err(error) => Err(format!("{error:#}")),
        });
        end.await.map_err(|error| error.context(self.explain("did not end in time")))
    }

    /// A sentence about the child with the end of its log.
    pub(crate) fn explain(&self, what: &str) -> String {
        let tail = scratch::tail(&self.log, LINES_IN_ERRORS);
        format!("{} (process {}) {what}; its log {} ends:\n{tail}", self.name, self.pid, self.log.display())
    }

    fn process(&self) -> MutexGuard<'_, std::process::Child> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let tail = scratch::tail(&self.log, LINES_ON_PANIC);
            eprintln!("---- log of {} (process {}) ----\n{tail}\n----", self.name, self.pid);
        }
        // Nobody is left to tell if this fails: the process is then gone already.
        let _ = self.kill();
    }
}

/// The first executable file of that name on `PATH`.
pub(crate) fn on_path(name: impl AsRef<OsStr>) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name.as_ref())).find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// A command for `program` that is killed when its parent thread ends.
fn mortal(program: &Path) -> Command {
    const KILL_WITH_PARENT: [&str; 3] = ["--pdeathsig", "KILL", "--"];
    // BusyBox has a `setpriv` too, without that option: so try it.
    static SETPRIV: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
        let setpriv = on_path("setpriv")?;
        let mut trial = Command::new(&setpriv);
        trial.args(KILL_WITH_PARENT).arg("true").stdout(Stdio::null()).stderr(Stdio::null());
        trial.status().is_ok_and(|status| status.success()).then_some(setpriv)
    });
    match &*SETPRIV {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(KILL_WITH_PARENT).arg(program);
            command
        }
        None => Command::new(program),
    }
}

fn spawn_from_the_lasting_thread(command: Command) -> io::Result<std::process::Child> {
    type Order = (Command, mpsc::SyncSender<io::Result<std::process::Child>>);
    static ORDERS: LazyLock<mpsc::Sender<Order>> = LazyLock::new(|| {
        let (orders, incoming) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in incoming {
                // A caller that is gone drops the child unseen; it then lives until this process ends.
                let _ = answer.send(command.spawn());
            }
        });
        orders
    });
    let (answer, child) = mpsc::sync_channel(1);
    ORDERS.send((command, answer)).map_err(|_| io::Error::other("the spawning thread has died"))?;
    child.recv().map_err(|_| io::Error::other("the spawning thread has died"))?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, directory: &Path) -> Child {
        let program = on_path("sh").unwrap();
        let log = directory.join("sh.log");
        Child::spawn("a shell", &program, &log, |command| {
            command.args(["-c", script]);
        })
        .unwrap()
    }

    fn lives(pid: u32) -> bool {
        Path::new(&format!("/proc/{pid}")).exists()
    }

    #[tokio::test]
    async fn its_end_and_its_log_are_seen() {
        let directory = scratch::directory("child").unwrap();
        let child = shell("echo out; echo err >&2; exit 7", directory.path());
        let status = child.wait_exit(Duration::from_secs(5)).await.unwrap();
        assert_eq!(status.code(), Some(7));
        assert_eq!(scratch::tail(child.log(), 9), "out\nerr");
        let error = child.signal(Signal::STOP).unwrap_err().to_string();
        assert!(
            error.contains("has already ended (exit status: 7)") && error.ends_with("out\nerr"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn waiting_in_vain_tells_the_log() {
        let directory = scratch::directory("child").unwrap();
        let child = shell("echo busy; exec sleep 60", directory.path());
        let error = format!("{:#}", child.wait_exit(Duration::from_millis(100)).await.unwrap_err());
        assert!(error.contains("did not end in time") && error.contains("it still runs"), "{error}");
    }

    #[test]
    fn drop_kills_it_even_when_frozen() {
        let directory = scratch::directory("child").unwrap();
        let child = shell("exec sleep 60", directory.path());
        let pid = child.pid();
        child.signal(Signal::STOP).unwrap();
        assert!(lives(pid));
        drop(child);
        assert!(!lives(pid));
    }

    #[test]
    fn a_panic_kills_it() {
        let directory = scratch::directory("child").unwrap();
        let path = directory.path().to_owned();
        let (report, pid) = mpsc::channel();
        let end = std::thread::spawn(move || {
            let child = shell("exec sleep 60", &path);
            report.send(child.pid()).unwrap();
            panic!("as a test does");
        });
        assert!(end.join().is_err());
        assert!(!lives(pid.recv().unwrap()));
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = Child::spawn("ghost", Path::new("/nowhere/ghost"), Path::new("/dev/null"), |_| ());
        let error = error.unwrap_err().to_string();
        assert_eq!(error, "cannot start ghost: /nowhere/ghost is no executable file");
    }
}
