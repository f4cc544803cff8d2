//! The course of a daemon's life, so that its `main.rs` can be a table of contents.

use std::{fmt, io, net::SocketAddr, process::ExitCode, time::Duration};

use anyhow::Context as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
};

use crate::{
    cli::CommonArgs,
    clock::Clock,
    config::{Configuration, Environment, Loaded, load, print_config},
    health::Readiness,
    stop::Stop,
    telemetry,
};

/// Which program this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Program {
    /// Its name, such as `postroad-worker`.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}

/// What a daemon gets from outside: a test, or a process that holds several daemons, can give it others.
pub struct Context {
    /// Which program runs it.
    pub program: Program,
    /// Where to serve HTTP: open already.
    pub listener: TcpListener,
    /// When to stop.
    pub stop: Stop,
    /// How much time stopping may take.
    pub grace: Duration,
    /// Whether it can work, for it to say. "stopping" is said for it.
    pub readiness: Readiness,
    /// What time it is.
    pub clock: Clock,
}

impl Context {
    /// For a daemon that listens at this address. Port 0 is a free port: ask `listener.local_addr()`.
    pub async fn listening(
        program: Program,
        address: SocketAddr,
        stop: Stop,
        grace: Duration,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let readiness = Readiness::new(stop.clone());
        Ok(Self { program, listener, stop, grace, readiness, clock: Clock::system() })
    }
}

/// What stopping may take beyond the grace that the daemon itself keeps, before it is cut off.
const MARGIN: Duration = Duration::from_secs(5);
/// What `--check` may take.
const CHECK_LIMIT: Duration = Duration::from_secs(15);

/// Runs a daemon: reads its configuration, prints or checks it where the flags ask for that, sets up
/// logging, listens, and runs it until it is done stopping.
///
/// `check` is what `--check` does beyond reading the configuration, such as reaching Redis. The exit code is
/// 0 after a clean stop and 1 after an error, which is printed once, with its causes, to standard error.
pub fn run_main<T: Configuration>(
    program: Program,
    args: &CommonArgs,
    check: impl AsyncFnOnce(T) -> anyhow::Result<()>,
    run: impl AsyncFnOnce(T, Context) -> anyhow::Result<()>,
) -> ExitCode {
    match try_main(program, args, check, run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error:#}", program.name);
            ExitCode::FAILURE
        }
    }
}

fn try_main<T: Configuration>(
    program: Program,
    args: &CommonArgs,
    check: impl AsyncFnOnce(T) -> anyhow::Result<()>,
    run: impl AsyncFnOnce(T, Context) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let Some(config) = configured::<T>(program, args)? else { return Ok(()) };
    if args.check {
        let checked = async { tokio::time::timeout(CHECK_LIMIT, Box::pin(check(config))).await };
        runtime(1)?.block_on(checked).context("the check took too long")??;
        println!("{program}: all is well");
        return Ok(());
    }
    telemetry::init(&config.common().log, config.common().log_format)?;
    let runtime = runtime(config.common().threads)?;
    let ended = runtime.block_on(Box::pin(live(program, config, run)));
    // What was handed to other threads must not keep the process from leaving.
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}

/// The configuration, read and found free of contradictions; `None` when it was only to be printed. For
/// programs that do more than run a daemon.
pub fn configured<T: Configuration>(program: Program, args: &CommonArgs) -> anyhow::Result<Option<T>> {
    let loaded: Loaded<T> = load(&args.sources(Environment::of_process()))?;
    if args.print_config {
        print!("# {program}\n{}", print_config(&loaded));
        return Ok(None);
    }
    loaded.config.check().context("the configuration contradicts itself")?;
    Ok(Some(loaded.config))
}

async fn live<T: Configuration>(
    program: Program,
    config: T,
    run: impl AsyncFnOnce(T, Context) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let stop = Stop::on_signals().context("signals cannot be handled")?;
    let (address, grace) = (config.listen(), config.common().grace());
    let context = Context::listening(program, address, stop.clone(), grace)
        .await
        .with_context(|| format!("{address} cannot be listened at"))?;
    tracing::info!(
        name = program.name,
        version = program.version,
        environment = config.common().environment,
        listen = %context.listener.local_addr().unwrap_or(address),
        "started"
    );
    let ended = stop.within_grace(grace + MARGIN, Box::pin(run(config, context))).await;
    ended.with_context(|| format!("did not stop within {} s", (grace + MARGIN).as_secs()))??;
    tracing::info!("stopped");
    Ok(())
}

/// Lets this process have as many descriptors as it may: most systems begin with 1,024, which is less than a
/// busy daemon has connections.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        // Refused, it works with what it has.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    }
}

/// How many descriptors this process may have.
pub fn descriptors() -> usize {
    getrlimit(Resource::Nofile).current.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX))
}

/// A runtime with so many threads: 0 is one for each CPU, 1 stays on the calling thread. The process then has as
/// many descriptors as it may.
pub fn runtime(threads: usize) -> io::Result<Runtime> {
    raise_descriptors();
    let mut builder = match threads {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    if threads > 1 {
        builder.worker_threads(threads);
    }
    builder.enable_all().build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_raised_to_the_most_that_are_allowed() {
        let limit = getrlimit(Resource::Nofile);
        let few = Rlimit { current: Some(limit.maximum.map_or(256, |most| most.min(256))), ..limit };
        setrlimit(Resource::Nofile, few).unwrap();
        assert!(descriptors() <= 256);
        raise_descriptors();
        assert_eq!(getrlimit(Resource::Nofile).current, limit.maximum);
    }
}
