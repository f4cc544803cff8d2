//! A router and a worker beside the API, for what nobody does alone.

use std::time::Duration;

use postroad_daemon::{
    process::{Context, Program},
    stop::Stop,
};
use postroad_testkit::wait::eventually;

use crate::kit::{PATIENCE, Town};

/// Daemons under way; they stop when it is dropped.
pub(crate) struct Daemons(Stop);

impl Drop for Daemons {
    fn drop(&mut self) {
        self.0.request();
    }
}

async fn context(name: &'static str, stop: &Stop) -> Context {
    let program = Program { name, version: "test" };
    let any = ([127, 0, 0, 1], 0).into();
    Context::listening(program, any, stop.clone(), Duration::from_secs(1)).await.unwrap()
}

impl Town {
    /// A town whose callbacks may lead to this machine.
    pub(crate) async fn with_loopback() -> Self {
        let mut town = Self::new().await;
        town.config.egress.allow = vec!["127.0.0.0/8".into()];
        town
    }

    /// A router, alone.
    pub(crate) async fn route(&self) -> Daemons {
        let stop = Stop::new();
        let config = postroad_router::config::Config { base: self.config.base.clone(), ..Default::default() };
        tokio::spawn(Box::pin(postroad_router::run(config, context("postroad-router", &stop).await)));
        self.living("router").await;
        Daemons(stop)
    }

    /// A router and a worker.
    pub(crate) async fn deliver(&self) -> (Daemons, Daemons) {
        let stop = Stop::new();
        let config = postroad_worker::config::Config {
            base: self.config.base.clone(),
            egress: self.config.egress.clone(),
            ..Default::default()
        };
        tokio::spawn(Box::pin(postroad_worker::run(config, context("postroad-worker", &stop).await)));
        self.living("worker").await;
        (self.route().await, Daemons(stop))
    }

    async fn living(&self, kind: &str) {
        let store = self.store();
        eventually(PATIENCE, "a daemon to be heard", async || match store.living().await {
            Ok(members) if !members.of_kind(kind).is_empty() => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await
        .unwrap();
    }
}
