//! Matches messages to subscriptions and fills their work queues.
//!
//! A router holds some of the partitions of ingress, one owner each at a time ([`ownership`]). It reads
//! what was accepted, takes in what has changed about subscriptions ([`catalog`]), matches ([`index`]) and
//! hands each message to the lanes of the subscriptions that it goes to ([`road`], [`route`]). Beside that it lets
//! what waited in them enter ingress when it is due ([`due`]).
//!
//! What it guarantees: a message reaches each matching subscription's queue exactly once, through crashes,
//! freezes and failovers of routers and lanes; a subscription that was answered before a message was
//! published gets it. The guard is in Redis (the chain of marks, `store`'s `enqueue`), not here: nothing
//! that a late, doubled or frozen router sends can add twice or skip. What is *not* here: delivery; and any
//! state that a restart would miss.

pub mod catalog;
pub mod config;
pub mod due;
pub mod index;
pub mod metrics;
pub mod ownership;
pub mod road;
pub mod route;

use std::sync::Arc;

use postroad_daemon::{health::Readiness, metrics::registry, process::Context, stop::Stop};
use postroad_member::{
    life::{self, Side},
    tally::Tally,
};
use postroad_store::Store;
use serde_json::Value;
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
    let store = config.base.store()?;
    let Context { program, listener, stop, grace, readiness, .. } = context;
    readiness.set("redis", Err("not reached yet".into()));
    let mut registry = registry(program.version);
    let metrics = Metrics::default();
    metrics.register(&mut registry);
    let me = life::name_of(KIND);
    let tally = Tally::open(store.clone(), me.clone());
    tally.register(&mut registry);
    let side = Side::serve(listener, readiness.clone(), registry, &config.base.common.http, grace);

    if life::prepared(&store, &stop).await? {
        let holdings = Arc::new(Holdings::default());
        let due_metrics = metrics.clone();
        let mut router = Router::new(
            store.clone(),
            me.clone(),
            router_config.clone(),
            Arc::clone(&holdings),
            metrics,
            tally.clone(),
        );
        let mover = due::Mover::new(store.clone(), &router_config, Arc::clone(&holdings), due_metrics);
        let mover = tokio::spawn(mover.run(stop.clone()));
        let keeper =
            tokio::spawn(keep(store.clone(), me.clone(), router_config, holdings, stop.clone(), readiness));
        router.run(stop.requested()).await;
        let finished = tokio::time::timeout(grace, router.finish()).await;
        if !matches!(finished, Ok(Ok(()))) {
            warn!("left without releasing the partitions; another router takes them over after the lease");
        }
        mover.await?;
        keeper.await?;
        tally.close().await;
        let _ = store.leave(&me).await;
    }
    side.end().await
}

/// Says each tick that this router lives, renews what it holds and takes what has become free.
async fn keep(
    store: Store,
    me: String,
    config: RouterConfig,
    holdings: Arc<Holdings>,
    stop: Stop,
    readiness: Readiness,
) {
    let about = life::about(KIND, Value::Null);
    let mut ill = false;
    loop {
        let round = async {
            let living = store.announce(&me, &about).await?;
            ownership::round(&store, &me, &living.of_kind(KIND), &config, &holdings).await
        };
        let result = round.await;
        life::redis_is(&readiness, &result);
        match &result {
            Ok(()) if ill => info!("Redis is back"),
            Err(error) if !ill => warn!(%error, "could not renew the partitions"),
            Ok(()) | Err(_) => {}
        }
        ill = result.is_err();
        if !stop.sleep(config.tick).await {
            return;
        }
    }
}
