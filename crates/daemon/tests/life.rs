//! A daemon's life as others see it: flags, exit codes, signals. This program is both the test and, with
//! `daemon` as its first argument, the daemon under test.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, ExitCode, Output, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Parser;
use postroad_daemon::{
    cli::CommonArgs,
    common::{COMMON_DOCS, Common},
    config::{Configuration, Schema},
    health, metrics,
    process::{Context, Program, run_main},
    serve::{Serving, serve},
};
use serde::{Deserialize, Serialize};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Serialize, Deserialize)]
struct Config {
    #[serde(flatten)]
    common: Common,
    manner: Manner,
}

#[derive(Serialize, Deserialize)]
struct Manner {
    /// `good`, `slow` (stops after 300 ms), `stuck` (never stops), `ill` (fails at once), `odd` (contradicts
    /// itself).
    kind: String,
    password: String,
}

impl Default for Config {
    fn default() -> Self {
        let manner = Manner { kind: "good".into(), password: "hunter2".into() };
        Self { common: Common { threads: 1, ..Common::default() }, manner }
    }
}

impl Configuration for Config {
    const SCHEMA: Schema = Schema {
        docs: &[COMMON_DOCS, &[("manner.kind", "how it behaves"), ("manner.password", "what it hides")]],
        secrets: &["manner.password"],
        ..Schema::NONE
    };

    fn common(&self) -> &Common {
        &self.common
    }

    fn listen(&self) -> SocketAddr {
        self.common.listen.map_or_else(|| ([127, 0, 0, 1], 0).into(), |listen| listen.0)
    }

    fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!(self.manner.kind != "odd", "manner.kind is odd");
        Ok(())
    }
}

const PROGRAM: Program = Program { name: "life", version: "1.2.3" };

async fn check(config: Config) -> anyhow::Result<()> {
    anyhow::ensure!(config.manner.kind == "good", "it is {}", config.manner.kind);
    Ok(())
}

async fn run(config: Config, context: Context) -> anyhow::Result<()> {
    let app = health::router(context.readiness.clone(), Arc::new(metrics::registry(context.program.version)));
    // Without a port given, the test cannot know it otherwise.
    println!("{}", context.listener.local_addr()?);
    let serving = Serving::new(&config.common.http, context.grace);
    serve(context.listener, app, serving, &context.stop).await;
    match config.manner.kind.as_str() {
        "slow" => tokio::time::sleep(Duration::from_millis(300)).await,
        "stuck" => std::future::pending().await,
        _ => {}
    }
    Ok(())
}

async fn run_or_fail(config: Config, context: Context) -> anyhow::Result<()> {
    if config.manner.kind == "ill" {
        return Err(anyhow::anyhow!("the reason").context("cannot go on"));
    }
    run(config, context).await
}

fn main() -> ExitCode {
    let mut args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|arg| arg == "daemon") {
        args.remove(1);
        return run_main(PROGRAM, &Cli::parse_from(args).common, check, run_or_fail);
    }
    // Test runners ask for the list, and may filter it; there is no such thing here.
    if args.iter().any(|arg| arg == "--list") {
        return ExitCode::SUCCESS;
    }
    for (name, test) in TESTS {
        test();
        println!("test {name} ... ok");
    }
    ExitCode::SUCCESS
}

const TESTS: [(&str, fn()); 6] = [
    ("one_signal_stops_it_cleanly", one_signal_stops_it_cleanly),
    ("a_second_signal_exits_at_once", a_second_signal_exits_at_once),
    ("stopping_has_a_deadline", stopping_has_a_deadline),
    ("flags_print_and_check", flags_print_and_check),
    ("errors_are_said_once", errors_are_said_once),
    ("a_taken_address_is_named", a_taken_address_is_named),
];

fn daemon(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg("daemon").args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A daemon that serves, and where.
fn start(args: &[&str]) -> (Child, SocketAddr) {
    let mut child = daemon(args).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    match line.trim().parse() {
        Ok(address) => (child, address),
        Err(_) => panic!("{line:?}: {:?}", child.wait_with_output()),
    }
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn one_signal_stops_it_cleanly() {
    for name in ["-TERM", "-INT"] {
        let (child, address) = start(&["--set", "manner.kind=slow", "--log-format", "json"]);
        for (path, status) in
            [("/livez", "200"), ("/readyz", "200"), ("/metrics", "200"), ("/nothing", "404")]
        {
            let answer = get(address, path);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
        }
        signal(&child, name);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        for line in stderr(&output).lines() {
            serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        assert!(stderr(&output).contains("\"started\"") && stderr(&output).contains("\"stopped\""));
    }
}

fn a_second_signal_exits_at_once() {
    let (child, address) = start(&["--set", "manner.kind=stuck"]);
    signal(&child, "-TERM");
    // The first signal has arrived when no one listens any more.
    while TcpStream::connect(address).is_ok() {}
    signal(&child, "-INT");
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(130));
}

fn stopping_has_a_deadline() {
    let (child, _) = start(&["--set", "manner.kind=stuck", "--set", "grace_seconds=1"]);
    let start = Instant::now();
    signal(&child, "-TERM");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("did not stop within 6 s"), "{output:?}");
    assert!((5..9).contains(&start.elapsed().as_secs()));
}

fn flags_print_and_check() {
    let printed = daemon(&["--print-config", "--environment", "prod", "--log", "warn"]).output().unwrap();
    let text = String::from_utf8(printed.stdout.clone()).unwrap();
    assert_eq!(printed.status.code(), Some(0), "{printed:?}");
    assert!(text.contains("environment = \"prod\" # flag --environment"), "{text}");
    assert!(text.contains("password = \"[redacted]\"") && !text.contains("hunter2"), "{text}");

    let checked = daemon(&["--check"]).output().unwrap();
    assert_eq!(checked.status.code(), Some(0), "{checked:?}");
    let checked = daemon(&["--check", "--set", "manner.kind=bad"]).output().unwrap();
    assert_eq!((checked.status.code(), stderr(&checked).as_str()), (Some(1), "life: it is bad\n"));

    let help = daemon(&["--help"]).output().unwrap();
    let text = String::from_utf8(help.stdout).unwrap();
    for flag in
        ["--config", "--set", "--redis-url", "--environment", "--listen", "--log", "--log-format", "--check"]
    {
        assert!(text.contains(flag), "{text}");
    }
    assert!(text.contains("POSTROAD_REDIS_URL"), "{text}");
}

fn errors_are_said_once() {
    let table: &[(&[&str], &str)] = &[
        (&["--set", "manner.kind=ill"], "life: cannot go on: the reason\n"),
        (&["--set", "manner.kind=odd"], "life: the configuration contradicts itself: manner.kind is odd\n"),
        (&["--set", "manners=x"], "life: unknown key `manners` in the flag --set\n"),
        (&["--redis-url", "redis://:hunter2@h"], "life: unknown key `redis.url` in the flag --redis-url\n"),
        (
            &["--config", "/nowhere.toml"],
            "life: the configuration file /nowhere.toml cannot be read: No such file or directory (os error 2)\n",
        ),
    ];
    for (args, message) in table {
        let output = daemon(args).args(["--log", "error"]).output().unwrap();
        assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(1), *message), "{args:?}");
    }
}

fn a_taken_address_is_named() {
    let (mut first, address) = start(&[]);
    let output = daemon(&["--listen", &address.to_string(), "--log", "error"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).starts_with(&format!("life: {address} cannot be listened at: ")), "{output:?}");
    signal(&first, "-TERM");
    assert!(first.wait().unwrap().success());
}
