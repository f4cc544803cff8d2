//! The one-shot commands: the same as the dead-letter API, from a shell, straight to Redis.

mod commands;
mod print;
mod watch;

use std::{io, process::ExitCode};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use postroad_daemon::{
    cli::CommonArgs,
    config::mask_url,
    process::{Program, configured, runtime},
    telemetry,
};
use postroad_model::names::Tenant;

use crate::{config::Config, filter::Wanted};

/// What can be done with dead letters from a shell.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Say how many dead letters there are, by queue and subscription, and why they died.
    Queues(Manner),
    /// List dead letters, newest first.
    List(ListArgs),
    /// Show one dead letter: payload, metadata, every attempt.
    Show(ShowArgs),
    /// Send dead letters again: each goes back into its subscription's queue, for a fresh set of attempts.
    ///
    /// Runs until all that match are moved; Ctrl-C stops it, and what is not moved by then stays where it is.
    /// If the process is killed, a running postroad-reprocessor goes on with the job after its lease.
    Replay(ReplayArgs),
    /// Let dead letters go, for good.
    Purge(PurgeArgs),
    /// Write dead letters to standard output, whole, as lines of JSON.
    Export(ExportArgs),
}

/// What is listed.
#[derive(Debug, Clone, Args)]
pub struct ListArgs {
    #[command(flatten)]
    filters: Filters,
    /// The most to list.
    #[arg(long, default_value_t = 50)]
    limit: usize,
    /// Where to go on, as an earlier list ended.
    #[arg(long)]
    cursor: Option<String>,
    #[command(flatten)]
    manner: Manner,
}

/// What is shown.
#[derive(Debug, Clone, Args)]
pub struct ShowArgs {
    /// The dead letter's id, or the message's.
    id: String,
    #[command(flatten)]
    manner: Manner,
}

/// What is sent again.
#[derive(Debug, Clone, Args)]
pub struct ReplayArgs {
    #[command(flatten)]
    filters: Filters,
    /// Only count what would be moved.
    #[arg(long)]
    dry_run: bool,
    /// The most letters a second.
    #[arg(long, value_name = "PER_SECOND")]
    rate: Option<f64>,
    /// The most letters in all.
    #[arg(long)]
    limit: Option<u64>,
    #[command(flatten)]
    manner: Manner,
}

/// What is let go.
#[derive(Debug, Clone, Args)]
pub struct PurgeArgs {
    #[command(flatten)]
    filters: Filters,
    /// How many match: anything else purges nothing.
    #[arg(long, value_name = "COUNT")]
    confirm: Option<u64>,
    #[command(flatten)]
    manner: Manner,
}

/// What is written out.
#[derive(Debug, Clone, Args)]
pub struct ExportArgs {
    #[command(flatten)]
    filters: Filters,
    #[command(flatten)]
    manner: Manner,
}

/// Which dead letters are meant; without any, all of them.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Filters")]
pub struct Filters {
    /// Of this subscription.
    #[arg(long, value_name = "ID")]
    subscription_id: Option<String>,
    /// Of this channel, or of subscriptions with this dead_letter_queue.
    #[arg(long, value_name = "NAME")]
    queue: Option<String>,
    /// Of this channel.
    #[arg(long, value_name = "NAME")]
    channel: Option<String>,
    /// Dead for this reason: retries_exhausted, rejected, expired, worker_lost, queue_full, maxlen or
    /// undecodable.
    #[arg(long)]
    reason: Option<String>,
    /// Whose last attempt was answered with this status code.
    #[arg(long, value_name = "CODE")]
    status_code: Option<u16>,
    /// That died then or later, as in 2024-01-15T12:30:00Z.
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// That died then or earlier.
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// With this text in the payload, or in an attempt's error or response, whatever the case of A to Z.
    #[arg(long)]
    text: Option<String>,
}

impl From<Filters> for Wanted {
    fn from(filters: Filters) -> Self {
        let Filters { subscription_id, queue, channel, reason, status_code, from, to, text } = filters;
        Self { subscription_id, queue, channel, reason, status_code, from, to, text }
    }
}

/// Whose dead letters, and how to answer.
#[derive(Debug, Clone, Args)]
pub struct Manner {
    /// Of this tenant.
    #[arg(long, default_value = "default", value_parser = Tenant::new)]
    tenant: Tenant,
    /// Answer in JSON, as the API does.
    #[arg(long)]
    json: bool,
}

/// Runs a command to its end: exit code 0 when it is done, 1 after an error, which is printed with the way out.
pub fn main(program: Program, args: &CommonArgs, command: Command) -> ExitCode {
    match try_main(program, args, command) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read the output has enough of it.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {}", program.name, print::clean(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    io.into_iter().any(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn try_main(program: Program, args: &CommonArgs, command: Command) -> anyhow::Result<()> {
    let Some(config) = configured::<Config>(program, args)? else { return Ok(()) };
    // Log lines only where they are asked for: they would stand amid the answer.
    if args.log.is_some() {
        telemetry::init(&config.base.common.log, config.base.common.log_format)?;
    }
    runtime(1)?.block_on(async {
        let store = config.base.store()?;
        store.prepare().await.with_context(|| {
            let url = mask_url(&config.base.redis.url);
            format!(
                "cannot work with Redis at {url}; --redis-url, POSTROAD_REDIS_URL or redis.url name another"
            )
        })?;
        if args.check {
            println!("{program}: all is well");
            return Ok(());
        }
        commands::run(command, &store, &config.checked()?).await
    })
}
