//! Matches messages to subscriptions and fills their work queues.
//!
//! A router holds some of the partitions of ingress, one owner each at a time ([`ownership`]). It reads
//! what was accepted, takes in what has changed about subscriptions ([`catalog`]), matches ([`index`]) and
//! hands each message to the lanes of the subscriptions that it goes to ([`road`], [`route`]).
//!
//! What it guarantees: a message reaches each matching subscription's queue exactly once, through crashes,
//! freezes and failovers of routers and lanes; a subscription that was answered before a message was
//! published gets it. The guard is in Redis (the chain of marks, `store`'s `enqueue`), not here: nothing
//! that a late, doubled or frozen router sends can add twice or skip. What is *not* here: delivery; and any
//! state that a restart would miss.

pub mod catalog;
pub mod config;
pub mod index;
pub mod metrics;
pub mod ownership;
pub mod road;
pub mod route;

use std::sync::Arc;

use postroad_daemon::{
    health,
    metrics::registry,
    process::Context,
    serve::{self, Serving},
    stop::Stop,
};
use postroad_store::{Store, presence::instance_name};
use serde_json::json;
use tracing::{info, warn};

use config::{Config, RouterConfig};
use metrics::Metrics;
use ownership::{Holdings, KIND};
use route::Router;

/// Runs a router until it is told to stop.
///
/// It stops in this order: no more is read; what was matched goes to its lanes; Redis is told how far that
/// is; the partitions are released; the instance leaves the list of the living.
pub async fn run(config: Config, context: Context) -> anyhow::Result<()> {
    let router_config = config.checked()?;
    let store = config.store()?;
    let Context { program, listener, stop, grace, readiness, .. } = context;
    let mut metrics_registry = registry(program.version);
    let metrics = Metrics::default();
    metrics.register(&mut metrics_registry);
    let app = health::router(readiness.clone(), Arc::new(metrics_registry));
    let serving = Serving::new(&config.common.http, grace);
    let http_stop = Stop::new();
    let http = tokio::spawn({
        let stop = http_stop.clone();
        async move { serve::serve(listener, app, serving, &stop).await }
    });

    readiness.set("redis", Err("not reached yet".into()));
    let prepared = tokio::select! {
        prepared = store.prepare_patiently() => prepared.map(|_| true)?,
        () = stop.requested() => false,
    };
    if prepared {
        readiness.set("redis", Ok(()));
        let me = instance_name(KIND, rand::random());
        let holdings = Arc::new(Holdings::default());
        let mut router =
            Router::new(store.clone(), me.clone(), router_config.clone(), Arc::clone(&holdings), metrics);
        let keeper = tokio::spawn(keep(store.clone(), me.clone(), router_config, holdings, stop.clone(), {
            let readiness = readiness.clone();
            move |state| readiness.set("redis", state)
        }));
        router.run(stop.requested()).await;
        let finished = tokio::time::timeout(grace, router.finish()).await;
        if !matches!(finished, Ok(Ok(()))) {
            warn!("left without releasing the partitions; another router takes them over after the lease");
        }
        keeper.await?;
        let _ = store.leave(&me).await;
    }
    http_stop.request();
    http.await?;
    Ok(())
}

/// Says each tick that this router lives, renews what it holds and takes what has become free.
async fn keep(
    store: Store,
    me: String,
    config: RouterConfig,
    holdings: Arc<Holdings>,
    stop: Stop,
    ready: impl Fn(Result<(), String>),
) {
    let about = json!({ "kind": KIND, "version": env!("CARGO_PKG_VERSION"), "format": postroad_store::entry::VERSION });
    let mut ill = false;
    loop {
        let round = async {
            let living = store.announce(&me, &about.to_string()).await?;
            ownership::round(&store, &me, &living.of_kind(KIND), &config, &holdings).await
        };
        match round.await {
            Ok(()) => {
                if ill {
                    info!("Redis is back");
                }
                ill = false;
                ready(Ok(()));
            }
            Err(error) => {
                if !ill {
                    warn!(%error, "could not renew the partitions");
                }
                ill = true;
                ready(Err(error.to_string()));
            }
        }
        if !stop.sleep(config.tick).await {
            return;
        }
    }
}
