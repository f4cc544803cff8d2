//! `postroad-reprocessor`: dead letters.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use postroad_daemon::{
    cli::CommonArgs,
    process::{Program, run_main},
};
use postroad_reprocessor::{config::Config, run, shell};

/// Dead letters: see them, send them again, purge them.
///
/// `serve` (also without a command) is the daemon: the dead-letter API, and the runner of replay jobs. Start as
/// many as you like; a job whose runner died is taken over after `reprocessor.lease_ms`. The other commands do
/// one thing, straight with Redis, and need no daemon.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Args {
    #[command(flatten)]
    common: CommonArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one, and it is used once")]
enum Command {
    /// Serve the dead-letter API and run replay jobs, until told to stop.
    Serve,
    #[command(flatten)]
    Shell(shell::Command),
}

fn main() -> ExitCode {
    let program = Program { name: "postroad-reprocessor", version: env!("CARGO_PKG_VERSION") };
    let Args { common, command } = Args::parse();
    if let Some(Command::Shell(command)) = command {
        return shell::main(program, &common, command);
    }
    let check = async |config: Config| {
        config.base.store()?.prepare().await?;
        Ok(())
    };
    run_main(program, &common, check, run)
}
