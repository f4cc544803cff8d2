//! `postroad-router`: matches messages to subscriptions and fills their work queues.

use std::process::ExitCode;

use clap::Parser;
use mimalloc::MiMalloc;
use postroad_daemon::{
    cli::CommonArgs,
    process::{Program, run_main},
};
use postroad_router::{config::Config, run};

/// Messages come and go by the million: this allocator takes a tenth less CPU than the system's.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Matches messages to subscriptions and fills their work queues.
///
/// Start as many as you like: the partitions of ingress are shared out among the routers that live, and a
/// router that dies is replaced within its lease. Serves only health and metrics.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Args {
    #[command(flatten)]
    common: CommonArgs,
}

fn main() -> ExitCode {
    let program = Program { name: "postroad-router", version: env!("CARGO_PKG_VERSION") };
    let check = async |config: Config| {
        config.base.store()?.prepare().await?;
        Ok(())
    };
    run_main(program, &Args::parse().common, check, run)
}
