//! The course that every daemon takes.

use std::{sync::Arc, time::Duration};

use postroad_daemon::{
    health::{self, Readiness},
    serve::{self, HttpConfig, Serving},
    stop::Stop,
};
use postroad_store::{
    Store,
    entry::VERSION as FORMAT,
    presence::{HEARTBEAT, instance_name},
};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

/// Waits for a Redis that fits. `false` when told to stop first.
///
/// # Errors
///
/// What waiting cannot mend, such as a Redis that is too old or laid out otherwise. The process is then told to
/// stop: better no daemon than one that works on the wrong Redis.
pub async fn prepared(store: &Store, stop: &Stop) -> anyhow::Result<bool> {
    tokio::select! {
        prepared = store.prepare_patiently() => {
            if prepared.is_err() {
                stop.request();
            }
            Ok(prepared.map(|_| true)?)
        }
        () = stop.requested() => Ok(false),
    }
}

/// A new instance's name among the living.
pub fn name_of(kind: &str) -> String {
    instance_name(kind, rand::random())
}

/// What an instance says of itself: what it is, and what else there is to say.
pub fn about(kind: &str, more: Value) -> String {
    let mut about = json!({ "kind": kind, "version": env!("CARGO_PKG_VERSION"), "format": FORMAT });
    if let (Value::Object(about), Value::Object(more)) = (&mut about, more) {
        about.extend(more);
    }
    about.to_string()
}

/// Says once a second that an instance lives, until it is to stop, and tells readiness whether Redis heard it.
pub async fn announce(store: &Store, me: &str, kind: &str, stop: &Stop, readiness: &Readiness) {
    let about = about(kind, Value::Null);
    loop {
        redis_is(readiness, &store.announce(me, &about).await);
        if !stop.sleep(HEARTBEAT).await {
            return;
        }
    }
}

/// Tells readiness how Redis is.
pub fn redis_is<T, E: ToString>(readiness: &Readiness, state: &Result<T, E>) {
    readiness.set("redis", state.as_ref().map(drop).map_err(ToString::to_string));
}

/// Health and metrics, for a daemon that serves nothing else. They are served until the daemon is done
/// stopping, not until it is told to.
pub struct Side {
    stop: Stop,
    serving: JoinHandle<serve::Ended>,
}

impl Side {
    /// Begins to serve.
    pub fn serve(
        listener: TcpListener,
        readiness: Readiness,
        registry: Registry,
        http: &HttpConfig,
        grace: Duration,
    ) -> Self {
        let stop = Stop::new();
        let app = health::router(readiness, Arc::new(registry));
        let serving = Serving::new(http, grace);
        let until = stop.clone();
        let serving = tokio::spawn(async move { serve::serve(listener, app, serving, &until).await });
        Self { stop, serving }
    }

    /// Ends it.
    pub async fn end(self) -> anyhow::Result<()> {
        self.stop.request();
        self.serving.await?;
        Ok(())
    }
}
