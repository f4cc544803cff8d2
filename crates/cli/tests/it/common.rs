//! The program itself, started as a person would start it.

use std::{
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};

use postroad_cli::dev::redis::SERVER_VARIABLE;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader, Lines},
    process::{Child, Command},
    time::timeout,
};

/// Long enough on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The command, with an environment that says nothing about Postroad.
pub(crate) fn postroad(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postroad"));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        let is_ours = ["POSTROAD_", "REDIS_", "MESSAGE_", "STREAM_", "ENVIRONMENT"]
            .iter()
            .any(|prefix| name.starts_with(prefix));
        if is_ours && name != SERVER_VARIABLE {
            command.env_remove(&*name);
        }
    }
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Runs it to its end.
pub(crate) async fn run(args: &[&str]) -> Output {
    ended(postroad(args)).await
}

/// Runs a command to its end.
pub(crate) async fn ended(mut command: Command) -> Output {
    timeout(PATIENCE, command.output()).await.expect("it ends in time").expect("it starts")
}

/// What a run wrote to standard output.
pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What a run wrote to standard error.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// One that goes on running.
pub(crate) struct Running {
    child: Child,
    out: Lines<BufReader<Box<dyn AsyncRead + Unpin>>>,
}

impl Running {
    /// Starts it, and reads its standard output.
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
        let out: Box<dyn AsyncRead + Unpin> = Box::new(child.stdout.take().expect("it is piped"));
        Self { child, out: BufReader::new(out).lines() }
    }

    /// Starts it, and reads its standard error.
    pub(crate) fn start_telling(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("it starts");
        let out: Box<dyn AsyncRead + Unpin> = Box::new(child.stderr.take().expect("it is piped"));
        Self { child, out: BufReader::new(out).lines() }
    }

    /// Waits for a line of its output that holds this, and answers with the line.
    pub(crate) async fn line_with(&mut self, what: &str) -> String {
        let mut seen = Vec::new();
        let found = timeout(PATIENCE, async {
            while let Some(line) = self.out.next_line().await.expect("its output can be read") {
                if line.contains(what) {
                    return Some(line);
                }
                seen.push(line);
            }
            None
        });
        match found.await {
            Ok(Some(line)) => line,
            ended => panic!("no line with {what:?} came ({}); it said {seen:#?}", ended.is_ok()),
        }
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = self.child.id().expect("it runs").cast_signed();
        kill_process(Pid::from_raw(pid).expect("it has an id"), signal).expect("it can be signalled");
    }

    /// Waits until it has ended: its exit code.
    pub(crate) async fn exit_code(mut self) -> Option<i32> {
        timeout(PATIENCE, self.child.wait())
            .await
            .expect("it ends in time")
            .expect("it can be waited for")
            .code()
    }
}

/// `postroad dev` on free ports, and where its API is.
pub(crate) async fn dev(folder: &Path, change: impl FnOnce(&mut Command)) -> (Running, String) {
    let mut command = postroad(&["dev", "--data-dir"]);
    command.arg(folder).args(["--listen", "127.0.0.1:0", "--log", "warn"]);
    command.args(["--router-listen", "127.0.0.1:0", "--worker-listen", "127.0.0.1:0"]);
    command.args(["--dead-letter-listen", "127.0.0.1:0"]);
    change(&mut command);
    let mut dev = Running::start(command);
    let line = dev.line_with("  API  ").await;
    let api = line.split_whitespace().last().expect("it names the API").to_owned();
    (dev, api)
}
