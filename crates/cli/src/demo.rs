//! `postroad demo`: everything at once, with real webhooks, and every one of them checked.
//!
//! [`webhooks`] are the messages, [`plan`] the subscriptions with what each must get, [`scene`] publishes and
//! receives, [`judge`] compares, [`report`] tells.

pub mod judge;
pub mod plan;
pub mod report;
pub mod scene;
pub mod webhooks;

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::Args;
use postroad_daemon::{
    config::{Configuration, Environment},
    process::runtime,
    stop::Stop,
    telemetry,
};
use tokio::time::Instant;

use crate::{
    api::Api,
    dev::{
        DevArgs,
        stack::{Plan, Stack},
    },
    text::size,
};
use judge::{Sent, Verdict};
use plan::WISHES;
use scene::Scene;
use webhooks::Webhook;

const EXAMPLES: &str = "\
Examples:
  postroad demo
  postroad demo --stay
      and then, in another terminal, with the API's address that it prints:
      postroad publish --api http://127.0.0.1:PORT --channel github.push --payload '{\"hello\":1}'
  postroad demo --data-dir /tmp/demo && wc -l /tmp/demo/arrived.ndjson";

/// Deliver 329 real webhooks to five subscriptions and check every one of them.
///
/// Starts all of Postroad on free ports with a Redis of its own, and a receiver. Subscribes five times (an exact
/// channel, a glob, a topic pattern, a filter over the payload, everything), publishes the 329 webhooks of
/// GitHub that are built into this program, waits for all deliveries, and checks each signature and that each
/// payload arrives byte for byte, where it should and nowhere else. Exit code 0 only if all of that holds.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct DemoArgs {
    /// Where everything is kept [default: a new folder among the temporary ones].
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// Keep it all running until Ctrl-C, and show what arrives.
    #[arg(long)]
    pub stay: bool,

    /// How long to wait for all deliveries.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub timeout: u64,

    /// The redis-server to start, rather than what POSTROAD_REDIS_SERVER names or PATH holds.
    #[arg(long, value_name = "PROGRAM")]
    pub redis_server: Option<PathBuf>,

    /// What to log.
    #[arg(long, value_name = "FILTER", default_value = "warn")]
    pub log: String,
}

impl DemoArgs {
    /// All of Postroad on free ports. What the environment says about other Postroads does not count here.
    fn plan(&self, folder: &Path) -> anyhow::Result<Plan> {
        let any = Some(([127, 0, 0, 1], 0).into());
        let dev = DevArgs {
            data_dir: Some(folder.to_owned()),
            redis_server: self.redis_server.clone(),
            listen: any,
            dead_letter_listen: any,
            router_listen: any,
            worker_listen: any,
            log: Some(self.log.clone()),
            ..DevArgs::default()
        };
        dev.plan(Environment::default())
    }
}

/// Runs `postroad demo`.
pub fn main(args: &DemoArgs) -> anyhow::Result<()> {
    // Removed again if nothing comes of it.
    let fresh = match &args.data_dir {
        Some(_) => None,
        None => Some(
            tempfile::Builder::new()
                .prefix("postroad-demo-")
                .tempdir()
                .context("there is no place for temporary files; name a folder with --data-dir")?,
        ),
    };
    let folder =
        fresh.as_ref().map_or_else(|| args.data_dir.clone().unwrap_or_default(), |it| it.path().into());
    let plan = args.plan(&folder)?;
    let common = plan.settings.ingest.common();
    telemetry::init(&common.log, common.log_format)?;
    let runtime = runtime(common.threads)?;
    runtime.block_on(Box::pin(async {
        let stop = Stop::on_signals().context("signals cannot be handled")?;
        let told = Told { begin: Instant::now() };
        told.line(format_args!("Starting Postroad in {}", folder.display()))?;
        let Some(mut stack) = Stack::start(plan, &stop).await? else { bail!("interrupted") };
        // From here on there is something to look at.
        let folder = fresh.map_or(folder, tempfile::TempDir::keep);
        let stage = Stage {
            api: format!("http://{}", stack.api),
            dead_letters: format!("http://{}/v1/dlq", stack.dead_letters),
            redis: stack.redis_url.clone(),
            folder,
        };
        let ended = tokio::select! {
            ended = Box::pin(play(args, &told, stage, &stop)) => ended,
            error = stack.trouble() => Err(error),
        };
        let stopped = stack.stop().await;
        ended.and(stopped)
    }))
}

/// What is up.
struct Stage {
    api: String,
    dead_letters: String,
    redis: String,
    folder: PathBuf,
}

/// The play itself, from the first subscription to the last.
async fn play(args: &DemoArgs, told: &Told, stage: Stage, stop: &Stop) -> anyhow::Result<()> {
    let Stage { api, dead_letters, redis, folder } = stage;
    told.line(format_args!("up: API {api}, Redis {redis}"))?;
    let file = folder.canonicalize()?.join("arrived.ndjson");
    if file.exists() {
        fs::remove_file(&file).with_context(|| format!("{} cannot be replaced", file.display()))?;
    }
    let webhooks = webhooks::all()?;
    let scene = Scene::set(Api::new(&api)?, &file).await?;
    told.line(format_args!("{} subscriptions, all received at {}", WISHES.len(), scene.url))?;
    let checked = tokio::select! {
        checked = check(args, told, &scene, &webhooks) => checked,
        () = stop.requested() => bail!("interrupted"),
    };
    let mut out = io::stdout();
    writeln!(out, "What arrived: {}", file.display())?;
    if args.stay {
        writeln!(
            out,
            "It stays up, and shows what arrives, until Ctrl-C. Try, in another terminal:\n  \
             postroad publish --api {api} --channel github.push --routing-key push --payload '{{\"hello\":1}}'\n  \
             postroad subscriptions --api {api}\n  \
             curl -sS {dead_letters}"
        )?;
        scene.show();
        stop.requested().await;
    } else {
        writeln!(out, "To keep it all up and try more: postroad demo --stay")?;
    }
    let struck = scene.strike().await;
    checked.and(struck)
}

/// Publishes, waits, judges and tells.
async fn check(args: &DemoArgs, told: &Told, scene: &Scene, webhooks: &[Webhook]) -> anyhow::Result<()> {
    let began = Instant::now();
    let sent = scene.publish(webhooks).await?;
    let bytes: usize = webhooks.iter().map(|webhook| webhook.payload.get().len()).sum();
    told.line(format_args!("{} messages published ({})", sent.len(), size(bytes)))?;
    scene.all_arrive(webhooks, &sent, Duration::from_secs(args.timeout)).await?;
    let seen = scene.seen();
    told.line(format_args!("{} deliveries arrived", seen.len()))?;

    let verdicts: Vec<Verdict> = WISHES
        .iter()
        .zip(&scene.subscriptions)
        .map(|(wish, subscription)| judge::judge(wish, subscription, webhooks, &sent, &seen))
        .collect();
    let mut out = io::stdout();
    writeln!(out)?;
    for line in report::table(&verdicts) {
        writeln!(out, "{line}")?;
    }
    writeln!(out, "\nP50 and P99 are the times from publishing, {} in a call, to arrival.", scene::BULK)?;
    let repeated: usize = verdicts.iter().map(|verdict| verdict.repeated).sum();
    if repeated > 0 {
        writeln!(out, "{repeated} deliveries came twice, which \"at least once\" permits.")?;
    }
    if verdicts.iter().all(Verdict::is_good) {
        let last = seen.iter().map(|seen| seen.at).max().unwrap_or(began);
        writeln!(
            out,
            "All is well: every delivery arrived where it should and nowhere else, with a good signature and its \
             payload byte for byte. {:.2} s from the first publish to the last arrival, {:.2} s in all.",
            (last - began).as_secs_f64(),
            told.begin.elapsed().as_secs_f64()
        )?;
        return Ok(());
    }
    for line in report::faults(&verdicts, |place| webhooks[place].routing_key()) {
        writeln!(out, "{line}")?;
    }
    tell_states(scene, &sent, &verdicts).await?;
    bail!("not everything is as it should be; see above, and the log with --log info")
}

/// Says what the API knows of the first deliveries that are missing.
async fn tell_states(scene: &Scene, sent: &[Sent], verdicts: &[Verdict]) -> anyhow::Result<()> {
    for ((wish, subscription), verdict) in WISHES.iter().zip(&scene.subscriptions).zip(verdicts) {
        for place in verdict.missing.iter().take(3) {
            let id = &sent[*place].message_id;
            let state = scene.state_of(id, subscription).await;
            writeln!(io::stdout(), "{}: {id} is {state}", wish.name)?;
        }
    }
    Ok(())
}

/// Lines with the time since the beginning.
struct Told {
    begin: Instant,
}

impl Told {
    fn line(&self, what: std::fmt::Arguments<'_>) -> io::Result<()> {
        let mut out = io::stdout().lock();
        writeln!(out, "{:6.2} s  {what}", self.begin.elapsed().as_secs_f64())?;
        out.flush()
    }
}
