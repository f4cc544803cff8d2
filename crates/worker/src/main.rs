//! `postroad-worker`: delivers webhooks.

use std::process::ExitCode;

use clap::Parser;
use mimalloc::MiMalloc;
use postroad_daemon::{
    cli::CommonArgs,
    process::{Program, run_main},
};
use postroad_worker::{config::Config, run};

/// Messages come and go by the million: this allocator takes a tenth less CPU than the system's.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Delivers webhooks.
///
/// Start as many as you like: workers share the work by themselves, and what a worker held when it died is
/// delivered by another after `worker.lease_ms`. Serves only health and metrics.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Args {
    #[command(flatten)]
    common: CommonArgs,
}

fn main() -> ExitCode {
    let program = Program { name: "postroad-worker", version: env!("CARGO_PKG_VERSION") };
    let check = async |config: Config| {
        config.base.store()?.prepare().await?;
        Ok(())
    };
    run_main(program, &Args::parse().common, check, run)
}
