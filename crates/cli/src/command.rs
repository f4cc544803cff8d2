//! What can be asked of `postroad`, and how its answer ends.

use std::{future::Future, io, process::ExitCode};

use clap::{Parser, Subcommand};
use postroad_daemon::process::runtime;

use crate::{
    bench, demo, dev, listen, publish, subscribe, subscriptions,
    text::{PROGRAM_HELP, is_broken_pipe},
};

/// Postroad: publish a message once, and every service that subscribed to it is sent it.
#[derive(Debug, Parser)]
#[command(name = "postroad", version, max_term_width = 100, after_help = PROGRAM_HELP)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What can be asked. Each is described where its arguments are.
#[derive(Debug, Subcommand)]
enum Command {
    Dev(Box<dev::DevArgs>),
    Demo(demo::DemoArgs),
    Listen(Box<listen::ListenArgs>),
    Publish(publish::PublishArgs),
    Subscribe(Box<subscribe::SubscribeArgs>),
    Subscriptions(subscriptions::SubscriptionsArgs),
    Bench(bench::BenchArgs),
}

/// Reads the command line and does what it asks: the exit code is 0 when all of it was done, 2 for a command
/// line that makes no sense, 1 for everything else, which is said once on standard error.
pub fn main() -> ExitCode {
    let ended = match Cli::parse().command {
        Command::Bench(args) => together(bench::run(args)),
        Command::Dev(args) => dev::main(&args),
        Command::Demo(args) => demo::main(&args),
        Command::Listen(args) => alone(listen::run(*args)),
        Command::Publish(args) => alone(publish::run(args)),
        Command::Subscribe(args) => alone(subscribe::run(*args)),
        Command::Subscriptions(args) => alone(subscriptions::run(args)),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has seen enough, as `head` does.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("postroad: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a command that needs no more than this thread.
fn alone(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    runtime(1).map_err(io::Error::other)?.block_on(Box::pin(work))
}

/// Runs a command on all CPUs.
fn together(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    runtime(0).map_err(io::Error::other)?.block_on(Box::pin(work))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_teaches_by_example() {
        for command in Cli::command().get_subcommands() {
            let help = command.clone().render_long_help().to_string();
            let example = format!("postroad {}", command.get_name());
            assert!(help.contains("Example") && help.contains(&example), "{help}");
        }
    }
}
