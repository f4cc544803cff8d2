//! `postroad bench`: what it costs and how fast it is, beside a yardstick measured in the same run.
//!
//! Machines are shared and noisy: a single absolute time says little. So every figure here is either CPU time
//! per delivery or stands beside what a bare loop, a bare request or the same without the disturbance took,
//! on the same machine a moment before or after.

mod bare;
mod drain;
mod fanout;
mod figures;
mod isolation;
mod latency;
mod load;
mod road;
mod sink;
mod stage;
mod subscriptions;

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use figures::{Row, print_table, to_json};

/// Measure Postroad on this machine.
///
/// Starts a private Redis with an append-only file (everysec), the daemons, a sink and a load generator, each
/// in a process of its own on loopback, and prints a table. Build with `cargo build --release --bins` first.
///
/// Example: postroad bench road latency --json figures.json
#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    helper: Option<Helper>,

    /// What to measure; everything when none is named.
    #[arg(value_enum)]
    scenarios: Vec<Scenario>,

    /// Messages per measurement, for those that count messages.
    #[arg(long, default_value_t = 30_000)]
    messages: u64,

    /// Bytes of each payload.
    #[arg(long, default_value_t = 1_024)]
    bytes: usize,

    /// Where Redis keeps its files and logs go; emptied first.
    #[arg(long, default_value = "target/bench")]
    directory: PathBuf,

    /// Write the figures as JSON too.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Processes that the benchmark starts of itself.
#[derive(Debug, Clone, Subcommand)]
enum Helper {
    /// The subscriber: answers at once and remembers when what arrived.
    #[command(hide = true)]
    Sink,
    /// The yardstick of `drain`: XREADGROUP, POST, XACK and XDEL in one loop.
    #[command(hide = true)]
    Bare(bare::BareArgs),
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// A preloaded backlog, workers only, against a bare loop; and two workers against one.
    Drain,
    /// HTTP publish to arrival, single and bulk.
    Road,
    /// Publish to arrival at 50 messages a second, against a bare POST.
    Latency,
    /// One message to 100 subscriptions.
    Fanout,
    /// The same traffic with 10, 1,000 and 10,000 subscriptions that don't match.
    Subscriptions,
    /// One subscriber hangs: another's latency.
    Isolation,
}

/// What a measurement is given.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    messages: u64,
    bytes: usize,
    directory: PathBuf,
}

/// Measures what was asked for.
pub async fn run(args: BenchArgs) -> anyhow::Result<()> {
    match args.helper {
        Some(Helper::Sink) => return sink::serve().await,
        Some(Helper::Bare(bare)) => return bare::run(bare).await,
        None => {}
    }
    let wanted = if args.scenarios.is_empty() { Scenario::value_variants().to_vec() } else { args.scenarios };
    let plan =
        Plan { messages: args.messages, bytes: args.bytes, directory: std::path::absolute(args.directory)? };
    let mut rows: Vec<Row> = Vec::new();
    for scenario in wanted {
        eprintln!("measuring {scenario:?} …");
        let measured = match scenario {
            Scenario::Drain => drain::measure(&plan).await?,
            Scenario::Road => road::measure(&plan).await?,
            Scenario::Latency => latency::measure(&plan).await?,
            Scenario::Fanout => fanout::measure(&plan).await?,
            Scenario::Subscriptions => subscriptions::measure(&plan).await?,
            Scenario::Isolation => isolation::measure(&plan).await?,
        };
        print_table(&measured);
        rows.extend(measured);
    }
    let json = serde_json::to_string_pretty(&to_json(&rows))?;
    match args.json {
        Some(path) => std::fs::write(path, json)?,
        None => println!("{json}"),
    }
    Ok(())
}
