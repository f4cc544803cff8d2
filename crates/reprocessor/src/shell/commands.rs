//! What each command does.

use anyhow::{Context as _, bail};
use postroad_api::page::{DEFAULT_LIMIT, MAX_LIMIT};
use postroad_daemon::stop::Stop;
use postroad_store::{JobState, Store, presence::instance_name};
use serde_json::json;

use super::{
    Command, ExportArgs, ListArgs, Manner, PurgeArgs, ReplayArgs, ShowArgs,
    print::{self, Out},
    watch::Watch,
};
use crate::{
    config::ReprocessorConfig,
    dead,
    error::Error,
    filter::{Filter, Wanted},
    job::{
        Spec, desk,
        run::{Ended, OnStop, Runner},
    },
    metrics::Metrics,
};

/// Runs a command.
pub(super) async fn run(command: Command, store: &Store, config: &ReprocessorConfig) -> anyhow::Result<()> {
    let mut out = Out::new();
    match command {
        Command::Queues(manner) => queues(store, config, &manner, &mut out).await,
        Command::List(args) => list(store, args, &mut out).await,
        Command::Show(ShowArgs { id, manner }) => {
            let shown = dead::show(store, &manner.tenant, &id).await?;
            if manner.json { out.json(&shown) } else { out.lines(print::whole(&shown)?) }
        }
        Command::Replay(args) => replay(store, config, args, &mut out).await,
        Command::Purge(args) => purge(store, args, &mut out).await,
        Command::Export(ExportArgs { filters, manner }) => {
            let mut export = dead::export(store, &manner.tenant, Filter::new(&filters.into())?).await?;
            while let Some(lines) = export.next().await? {
                out.bytes(&lines)?;
            }
            Ok(())
        }
    }
}

async fn purge(store: &Store, args: PurgeArgs, out: &mut Out) -> anyhow::Result<()> {
    let PurgeArgs { filters, confirm, manner } = args;
    let filter = Filter::new(&filters.into())?;
    let Some(confirm) = confirm else {
        let matched = dead::count(store, &manner.tenant, &filter, None).await?.matched;
        bail!("{matched} dead letters match; to purge them, run this again with --confirm {matched}");
    };
    let purged = dead::purge(store, &manner.tenant, &filter, confirm).await?;
    if manner.json {
        out.json(&json!({ "success": true, "purged": purged }))
    } else {
        out.lines([format!("purged {purged} dead letters")])
    }
}

async fn queues(
    store: &Store,
    config: &ReprocessorConfig,
    manner: &Manner,
    out: &mut Out,
) -> anyhow::Result<()> {
    let Manner { tenant, json } = manner;
    let mut all = dead::overview(store, tenant, config.sample, MAX_LIMIT, None).await?;
    while let Some(cursor) = all.next_cursor.take() {
        let after = postroad_api::page::position(Some(&cursor)).ok().flatten();
        let more = dead::overview(store, tenant, config.sample, MAX_LIMIT, after.as_deref()).await?;
        all.queues.extend(more.queues);
        all.next_cursor = more.next_cursor;
    }
    if *json { out.json(&all) } else { out.lines(print::overview(&all)) }
}

async fn list(store: &Store, args: ListArgs, out: &mut Out) -> anyhow::Result<()> {
    let ListArgs { filters, limit, mut cursor, manner: Manner { tenant, json } } = args;
    let filter = Filter::new(&filters.into())?;
    if limit == 0 {
        return Err(Error::field("limit", "limit = 0 would list nothing; it is 1 or more").into());
    }
    let mut all = dead::Page { messages: Vec::new(), next_cursor: None, scanned: 0 };
    loop {
        // In pages, since a page may end early: looking has a bound.
        let most = (limit - all.messages.len()).min(MAX_LIMIT);
        let page = dead::list(store, &tenant, &filter, most, cursor.as_deref()).await?;
        all.scanned += page.scanned;
        all.messages.extend(page.messages);
        cursor = page.next_cursor;
        if cursor.is_none() || all.messages.len() >= limit {
            break;
        }
    }
    all.next_cursor = cursor;
    if json {
        return out.json(&all);
    }
    out.lines(print::page(&all))?;
    if let Some(cursor) = &all.next_cursor {
        let how = if limit == DEFAULT_LIMIT { "--limit lists more, " } else { "" };
        eprintln!("there are more: {how}--cursor {cursor} goes on here");
    }
    Ok(())
}

/// Makes a job and runs it here and now.
async fn replay(
    store: &Store,
    config: &ReprocessorConfig,
    args: ReplayArgs,
    out: &mut Out,
) -> anyhow::Result<()> {
    let ReplayArgs { filters, dry_run, rate, limit, manner: Manner { tenant, json } } = args;
    let wanted: Wanted = filters.into();
    let (filter, spec) = (Filter::new(&wanted)?, Spec::new(wanted, rate, limit)?);
    if dry_run {
        let count = dead::count(store, &tenant, &filter, limit).await?;
        return if json { out.json(&count) } else { out.lines(print::count(&count)) };
    }
    let stop = Stop::on_signals().context("signals cannot be handled")?;
    let me = instance_name("shell", rand::random());
    let now_ms = postroad_daemon::clock::Clock::system().now_ms();
    let job = desk::make(store, &tenant, spec, now_ms, config.max_open_jobs, Some(&me)).await?;
    let watch = Watch::new(&job, json);
    let runner = Runner::new(store.clone(), me, config, stop, OnStop::StopJob, Metrics::default());
    let ended = runner.run(&job.job_id, &|seen| watch.tell(seen)).await;
    watch.end();
    let id = &job.job_id;
    let ended = ended.with_context(|| {
        format!("job {id} is left as it is; a running postroad-reprocessor goes on with it, or stops it on DELETE /v1/dlq/replays/{id}")
    })?;
    let progress = desk::progress(store, &tenant, id).await?;
    if json {
        out.json(&progress)?;
    } else {
        out.lines([print::progress(&progress)])?;
    }
    match ended {
        Ended::Finished(JobState::Done) => Ok(()),
        Ended::Finished(JobState::Stopped) => {
            bail!(
                "stopped before the end; what was not moved is where it was, the same command goes on with it"
            )
        }
        Ended::Finished(_) => {
            bail!(
                "{}; what was not moved is where it was",
                progress.error.as_deref().unwrap_or("the job failed")
            )
        }
        Ended::Lost | Ended::GivenBack => {
            bail!(
                "job {id} was taken over by another reprocessor: GET /v1/dlq/replays/{id} says how it comes along"
            )
        }
    }
}
