//! `postroad-ingest`: the API.

use std::process::ExitCode;

use clap::Parser;
use mimalloc::MiMalloc;
use postroad_daemon::{
    cli::CommonArgs,
    process::{Program, run_main},
};
use postroad_ingest::{config::Config, run};

/// Messages come and go by the million: this allocator takes a tenth less CPU than the system's.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// The API: accepts messages, manages subscriptions.
///
/// Start as many as you like behind a load balancer: they keep no state of their own.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Args {
    #[command(flatten)]
    common: CommonArgs,
}

fn main() -> ExitCode {
    let program = Program { name: "postroad-ingest", version: env!("CARGO_PKG_VERSION") };
    let check = async |config: Config| {
        config.base.store()?.prepare().await?;
        Ok(())
    };
    run_main(program, &Args::parse().common, check, run)
}
