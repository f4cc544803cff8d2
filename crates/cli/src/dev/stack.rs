//! All daemons in this process, and the Redis below them: started together, stopped in order.
//!
//! Each daemon is given what its own `main.rs` would give it: a configuration, an open listener, a stop. They
//! know nothing of each other here either.

use std::{future::Future, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use postroad_daemon::{
    config::{Configuration, mask_url},
    health::Readiness,
    process::{Context, Program},
    stop::Stop,
};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle, time::Instant};

use super::{folder::DataFolder, redis::PrivateRedis, settings::Settings};
use crate::{PROGRAM, bind::Place};

/// What a daemon may take beyond its own grace before it is given up.
const MARGIN: Duration = Duration::from_secs(5);
/// What getting ready may take on a Redis of our own.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(10);

/// What to start.
#[derive(Debug)]
pub struct Plan {
    /// What the daemons are told.
    pub settings: Settings,
    /// Where the Redis of our own keeps its data, if there is to be one.
    pub data_dir: PathBuf,
    /// Its program, if not the usual one.
    pub redis_server: Option<PathBuf>,
    /// The flags of the addresses that may have any other port when theirs is taken.
    pub any_port: Vec<&'static str>,
}

/// All that runs.
#[derive(Debug)]
pub struct Stack {
    /// Where the API is.
    pub api: SocketAddr,
    /// Where the dead letters are.
    pub dead_letters: SocketAddr,
    /// Where the router says how it is.
    pub router: SocketAddr,
    /// Where the worker says how it is.
    pub worker: SocketAddr,
    /// The Redis below, without its password.
    pub redis_url: String,
    /// In the order in which they stop.
    daemons: Vec<Running>,
    troubles: mpsc::UnboundedReceiver<anyhow::Error>,
    own: Option<(PrivateRedis, DataFolder)>,
}

/// One daemon.
#[derive(Debug)]
struct Running {
    name: &'static str,
    stop: Stop,
    grace: Duration,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Stack {
    /// Starts everything and waits until all of it is ready; `None` if it was told to stop before that.
    pub async fn start(plan: Plan, stop: &Stop) -> anyhow::Result<Option<Self>> {
        let Plan { mut settings, data_dir, redis_server, any_port } = plan;
        // First what can fail at once.
        let listeners = Listeners::open(&settings, &any_port).await?;
        let own = match &settings.redis {
            Some(_) => None,
            None => {
                let folder = DataFolder::open(&data_dir)?;
                let starting = PrivateRedis::start(&folder, redis_server.as_deref());
                let redis = tokio::select! {
                    redis = Box::pin(starting) => redis?,
                    () = stop.requested() => return Ok(None),
                };
                settings.use_redis(&redis.url());
                Some((redis, folder))
            }
        };
        let (mut stack, readiness) = Self::launch(settings, listeners, own)?;
        let ready = tokio::select! {
            ready = stack.ready(readiness) => ready.map(|()| true),
            () = stop.requested() => Ok(false),
        };
        match ready {
            Ok(true) => Ok(Some(stack)),
            Ok(false) => stack.stop().await.map(|()| None),
            Err(error) => {
                let _ = stack.stop().await;
                Err(error)
            }
        }
    }

    fn launch(
        settings: Settings,
        listeners: Listeners,
        own: Option<(PrivateRedis, DataFolder)>,
    ) -> anyhow::Result<(Self, Vec<(&'static str, Readiness)>)> {
        let (report, troubles) = mpsc::unbounded_channel();
        let Settings { ingest, router, worker, reprocessor, redis: _ } = settings;
        let redis_url = mask_url(&ingest.base.redis.url);
        let mut stack = Self {
            api: listeners.api.local_addr()?,
            dead_letters: listeners.dead_letters.local_addr()?,
            router: listeners.router.local_addr()?,
            worker: listeners.worker.local_addr()?,
            redis_url,
            daemons: Vec::new(),
            troubles,
            own,
        };
        // They stop in this order: no more messages come in, none are routed, none are delivered, none are
        // sent again.
        let readiness = vec![
            stack.add("ingest", &report, ingest, listeners.api, postroad_ingest::run),
            stack.add("router", &report, router, listeners.router, postroad_router::run),
            stack.add("worker", &report, worker, listeners.worker, postroad_worker::run),
            stack.add("reprocessor", &report, reprocessor, listeners.dead_letters, postroad_reprocessor::run),
        ];
        Ok((stack, readiness))
    }

    fn add<C, F>(
        &mut self,
        name: &'static str,
        report: &mpsc::UnboundedSender<anyhow::Error>,
        config: C,
        listener: TcpListener,
        run: impl FnOnce(C, Context) -> F,
    ) -> (&'static str, Readiness)
    where
        C: Configuration,
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let grace = config.common().grace();
        // A daemon may stop itself, for what waiting cannot mend: that is not us asking.
        let asked = Stop::new();
        let stop = asked.child();
        let readiness = Readiness::new(stop.clone());
        // Each daemon says so itself, but only once it runs.
        readiness.set("redis", Err("not reached yet".into()));
        let context = Context {
            program: Program { name, version: PROGRAM.version },
            listener,
            stop,
            grace,
            readiness: readiness.clone(),
            clock: postroad_daemon::clock::Clock::system(),
        };
        let work = tokio::spawn(Box::pin(run(config, context)));
        let (stop, report) = (asked.clone(), report.clone());
        let task = tokio::spawn(async move {
            let ended = work.await.context("it panicked").and_then(|ended| ended);
            if asked.is_requested() {
                return ended;
            }
            let error = ended.err().unwrap_or_else(|| anyhow!("it stopped"));
            let _ = report.send(error.context(format!("the {name} ended by itself")));
            Ok(())
        });
        self.daemons.push(Running { name, stop, grace, task });
        (name, readiness)
    }

    /// Waits until every daemon is ready.
    async fn ready(&mut self, readiness: Vec<(&'static str, Readiness)>) -> anyhow::Result<()> {
        let patience = self.own.as_ref().map(|_| Instant::now() + READY_TIMEOUT);
        let all_ready = async {
            for (name, readiness) in readiness {
                while !readiness.is_ready() {
                    if patience.is_some_and(|end| Instant::now() > end) {
                        let complaints: Vec<_> = readiness
                            .complaints()
                            .into_iter()
                            .map(|(what, why)| format!("{what}: {why}"))
                            .collect();
                        bail!("the {name} does not get ready: {}", complaints.join("; "));
                    }
                    tokio::time::sleep(POLL).await;
                }
            }
            Ok(())
        };
        let Self { troubles, own, .. } = self;
        tokio::select! {
            ready = all_ready => ready,
            error = trouble(troubles, own) => Err(error),
        }
    }

    /// Waits until something ends that should not, and says what.
    pub async fn trouble(&mut self) -> anyhow::Error {
        trouble(&mut self.troubles, &mut self.own).await
    }

    /// The data folder, if the Redis is our own.
    pub fn data_folder(&self) -> Option<&std::path::Path> {
        self.own.as_ref().map(|(_, folder)| folder.path())
    }

    /// Stops everything in order, Redis last. Goes on after a failure, and answers with the first.
    pub async fn stop(self) -> anyhow::Result<()> {
        let mut first: anyhow::Result<()> = Ok(());
        for Running { name, stop, grace, task } in self.daemons {
            stop.request();
            let limit = grace + MARGIN;
            let ended = match tokio::time::timeout(limit, task).await {
                Ok(ended) => ended.context("it panicked").and_then(|ended| ended),
                Err(_) => Err(anyhow!("it did not stop within {} s", limit.as_secs())),
            };
            first = first.and(ended.with_context(|| format!("the {name} failed")));
        }
        if let Some((redis, folder)) = self.own {
            first = first.and(redis.stop(&folder).await);
        }
        first
    }
}

async fn trouble(
    troubles: &mut mpsc::UnboundedReceiver<anyhow::Error>,
    own: &mut Option<(PrivateRedis, DataFolder)>,
) -> anyhow::Error {
    let redis_ends = async {
        match own {
            Some((redis, _)) => redis.ended().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        Some(error) = troubles.recv() => error,
        error = redis_ends => error,
    }
}

/// Every port, opened before anything is started.
struct Listeners {
    api: TcpListener,
    dead_letters: TcpListener,
    router: TcpListener,
    worker: TcpListener,
}

impl Listeners {
    async fn open(settings: &Settings, any_port: &[&str]) -> anyhow::Result<Self> {
        let open =
            |what, flag, address| Place { what, flag, address, or_any: any_port.contains(&flag) }.open();
        Ok(Self {
            api: open("the API", "--listen", settings.ingest.listen()).await?,
            dead_letters: open("the dead-letter API", "--dead-letter-listen", settings.reprocessor.listen())
                .await?,
            router: open("the router's health", "--router-listen", settings.router.listen()).await?,
            worker: open("the worker's health", "--worker-listen", settings.worker.listen()).await?,
        })
    }
}
