//! `postroad dev`: all of Postroad in one process.
//!
//! [`settings`] reads what each daemon is told, [`folder`] holds the data folder, [`redis`] runs the Redis in
//! it, [`stack`] starts everything and stops it in order.

pub mod folder;
pub mod redis;
mod resp;
pub mod settings;
pub mod stack;

use std::{
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
};

use anyhow::{Context as _, bail};
use clap::Args;
use postroad_daemon::{
    cli::CommonArgs,
    common::Listen,
    config::{Configuration, Environment, Sources},
    process::runtime,
    stop::Stop,
    telemetry,
};

use crate::bind::reachable;
use settings::Settings;
use stack::{Plan, Stack};

const EXAMPLES: &str = "\
Examples:
  postroad dev
  postroad dev --any-port --data-dir /tmp/try
  postroad dev --redis-url redis://127.0.0.1:6379 --environment mine
  postroad dev --config postroad.toml --set worker.max_in_flight=64 --log debug

Then, in another terminal:
  postroad listen --channel orders
  postroad publish --channel orders --payload '{\"id\":1}'";

/// Run all of Postroad in this process, over a Redis of its own.
///
/// Starts the API, the router, the worker, the reprocessor and a private redis-server that keeps everything in the data folder,
/// so that a restart loses nothing. Callbacks to this machine are permitted. Ctrl-C stops it all in order;
/// what was not delivered yet is delivered after the next start.
///
/// Every key of every daemon can be set, as for the daemons themselves: in a TOML file, in the environment
/// (the key `a.b` is POSTROAD_A_B) and with --set. The key `listen` is the API's here.
#[derive(Debug, Clone, Default, Args)]
#[command(after_help = EXAMPLES)]
pub struct DevArgs {
    /// Where everything is kept [default: ./data].
    #[arg(long, value_name = "DIR", conflicts_with = "redis_url")]
    pub data_dir: Option<PathBuf>,

    /// Use this Redis rather than starting one. So does a `redis.url` in the file or the environment.
    #[arg(long, value_name = "URL")]
    pub redis_url: Option<String>,

    /// The redis-server to start, rather than what POSTROAD_REDIS_SERVER names or PATH holds.
    #[arg(long, value_name = "PROGRAM")]
    pub redis_server: Option<PathBuf>,

    /// Where the API listens [default: 127.0.0.1:8080].
    #[arg(long, value_name = "ADDRESS", value_parser = address, help_heading = "Addresses")]
    pub listen: Option<SocketAddr>,

    /// Where the dead-letter API listens [default: 127.0.0.1:8081].
    #[arg(long, value_name = "ADDRESS", value_parser = address, help_heading = "Addresses")]
    pub dead_letter_listen: Option<SocketAddr>,

    /// Where the router says how it is [default: 127.0.0.1:9101].
    #[arg(long, value_name = "ADDRESS", value_parser = address, help_heading = "Addresses")]
    pub router_listen: Option<SocketAddr>,

    /// Where the worker says how it is [default: 127.0.0.1:9102].
    #[arg(long, value_name = "ADDRESS", value_parser = address, help_heading = "Addresses")]
    pub worker_listen: Option<SocketAddr>,

    /// Take any free port where one is taken that was not asked for by name.
    #[arg(long, help_heading = "Addresses")]
    pub any_port: bool,

    /// Read configuration from this TOML file; POSTROAD_CONFIG names one where no flag does.
    #[arg(long, value_name = "FILE", help_heading = "Configuration")]
    pub config: Option<PathBuf>,

    /// Set one key of any daemon, as in `--set worker.max_in_flight=64`. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value, help_heading = "Configuration")]
    pub set: Vec<(String, String)>,

    /// The namespace inside Redis, short for `--set environment=NAME`.
    #[arg(long, value_name = "NAME", help_heading = "Configuration")]
    pub environment: Option<String>,

    /// What to log, short for `--set log=FILTER`: error, warn, info, debug, trace, or by module.
    #[arg(long, value_name = "FILTER", help_heading = "Configuration")]
    pub log: Option<String>,

    /// How to write log lines, short for `--set log_format=FORMAT`: text or json.
    #[arg(long, value_name = "FORMAT", help_heading = "Configuration")]
    pub log_format: Option<String>,
}

impl DevArgs {
    /// All that the daemons' configuration is read from; but for the addresses, which differ.
    fn sources(&self, environment: Environment) -> Sources {
        let common = CommonArgs {
            config: self.config.clone(),
            set: self.set.clone(),
            redis_url: self.redis_url.clone(),
            environment: self.environment.clone(),
            log: self.log.clone(),
            log_format: self.log_format.clone(),
            ..CommonArgs::default()
        };
        common.sources(environment)
    }

    /// The flags of the addresses that may move: what somebody asked for by name may not.
    fn movable(&self) -> Vec<&'static str> {
        let flags = [
            ("--listen", self.listen),
            ("--dead-letter-listen", self.dead_letter_listen),
            ("--router-listen", self.router_listen),
            ("--worker-listen", self.worker_listen),
        ];
        let may_move = |(flag, given): (&'static str, Option<SocketAddr>)| given.is_none().then_some(flag);
        flags.into_iter().filter(|_| self.any_port).filter_map(may_move).collect()
    }

    /// What is to be started.
    pub fn plan(&self, environment: Environment) -> anyhow::Result<Plan> {
        let settings = Settings::read(self, environment)?;
        if let (Some(redis), Some(folder)) = (&settings.redis, &self.data_dir) {
            bail!(
                "there is a Redis to use (from the {}), so none is started that could keep its data in {}; \
                 leave out either",
                redis.origin,
                folder.display()
            );
        }
        Ok(Plan {
            settings,
            data_dir: self.data_dir.clone().unwrap_or_else(|| "data".into()),
            redis_server: self.redis_server.clone(),
            any_port: self.movable(),
        })
    }
}

/// Runs `postroad dev`.
pub fn main(args: &DevArgs) -> anyhow::Result<()> {
    let plan = args.plan(settings::environment())?;
    let common = plan.settings.ingest.common();
    telemetry::init(&common.log, common.log_format)?;
    runtime(common.threads)?.block_on(Box::pin(run(plan)))
}

async fn run(plan: Plan) -> anyhow::Result<()> {
    let stop = Stop::on_signals().context("signals cannot be handled")?;
    let Some(mut stack) = Stack::start(plan, &stop).await? else { return Ok(()) };
    let ended = match introduce(&stack) {
        Err(error) => Err(error.into()),
        Ok(()) => tokio::select! {
            () = stop.requested() => Ok(()),
            error = stack.trouble() => Err(error),
        },
    };
    let stopped = stack.stop().await;
    ended.and(stopped)
}

/// Says what there is, and what to try.
fn introduce(stack: &Stack) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let api = reachable(stack.api);
    writeln!(out, "Postroad is up.")?;
    writeln!(out, "  API           http://{api}")?;
    writeln!(out, "  dead letters  http://{}/v1/dlq", reachable(stack.dead_letters))?;
    writeln!(
        out,
        "  health        http://{api}/health, http://{}/readyz (router), http://{}/readyz (worker)",
        reachable(stack.router),
        reachable(stack.worker)
    )?;
    writeln!(out, "  Redis         {}", stack.redis_url)?;
    if let Some(folder) = stack.data_folder() {
        writeln!(out, "  data          {}", folder.display())?;
    }
    writeln!(
        out,
        "Try it:\n  \
         curl -sS http://{api}/v1/messages -H 'content-type: application/json' \
         -d '{{\"channel\":\"orders\",\"payload\":{{\"id\":1}}}}'\n\
         Ctrl-C stops it; a restart goes on where it stopped."
    )?;
    out.flush()
}

/// An address, as the daemons read it.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse::<Listen>().map(|listen| listen.0)
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE, as in worker.max_in_flight=64".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: DevArgs,
    }

    /// Flags of `postroad dev`.
    pub(super) fn args(line: &[&str]) -> DevArgs {
        Line::parse_from([&["dev"], line].concat()).args
    }

    #[test]
    fn a_redis_of_others_keeps_no_data_here() {
        let both = Line::try_parse_from(["dev", "--data-dir", "x", "--redis-url", "redis://h"]);
        assert!(both.unwrap_err().to_string().contains("--redis-url"));
        let variables = || [("POSTROAD_REDIS_URL", "redis://h")].into_iter().collect();
        let error = args(&["--data-dir", "x"]).plan(variables()).unwrap_err().to_string();
        assert!(error.contains("POSTROAD_REDIS_URL"), "{error}");
        assert!(args(&[]).plan(variables()).is_ok());
    }

    #[test]
    fn what_was_named_does_not_move() {
        let all = ["--listen", "--dead-letter-listen", "--router-listen", "--worker-listen"];
        assert_eq!(args(&["--any-port"]).movable(), all);
        assert_eq!(
            args(&["--any-port", "--router-listen", "127.0.0.1:1"]).movable(),
            [all[0], all[1], all[3]]
        );
        assert!(args(&[]).movable().is_empty());
    }

    #[test]
    fn bad_flags_say_how_to_write_them() {
        for (line, word) in
            [(["dev", "--set", "x"], "KEY=VALUE"), (["dev", "--listen", "x"], "127.0.0.1:8080")]
        {
            let error = Line::try_parse_from(line).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
