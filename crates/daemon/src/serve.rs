//! An HTTP/1.1 server over a listener that someone else opened.
//!
//! Our own accept loop, for what `axum::serve` leaves out: clients that stall are cut off, connections are
//! counted, running out of file descriptors does not spin, and stopping has a deadline. A request costs
//! nothing beyond hyper and the router: no layers, no timer while the client keeps up (see `paced`).
//!
//! When stopping is requested: no further connection is accepted, idle ones are closed, requests in flight
//! are answered with `connection: close`; what is still there after the grace is cut off. Streams without
//! end must watch the stop themselves.

mod connection;
mod paced;
mod per_address;

use std::{
    io,
    num::NonZeroU64,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::Router;
use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};
use serde::{Deserialize, Serialize};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::stop::Stop;
use paced::Limits;
use per_address::PerAddress;

/// The HTTP server's limits, as they are configured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HttpConfig {
    /// The most connections at a time.
    pub max_connections: NonZeroU64,
    /// The most connections at a time from one address; 0: no such bound.
    pub max_connections_per_address: u64,
    /// What a request's head may take.
    pub header_timeout_seconds: NonZeroU64,
    /// What may pass between requests.
    pub idle_timeout_seconds: NonZeroU64,
    /// How long a client may take nothing of an answer.
    pub write_timeout_seconds: NonZeroU64,
}

impl Default for HttpConfig {
    fn default() -> Self {
        let whole = |n| NonZeroU64::new(n).expect("not zero");
        Self {
            max_connections: whole(10_000),
            max_connections_per_address: 0,
            header_timeout_seconds: whole(10),
            idle_timeout_seconds: whole(60),
            write_timeout_seconds: whole(30),
        }
    }
}

/// How to serve.
#[derive(Debug, Clone)]
pub struct Serving {
    /// The most connections at a time; further ones wait, unaccepted.
    pub max_connections: usize,
    /// The most connections at a time from one address; further ones are closed at once.
    pub max_connections_per_address: usize,
    /// What a request's head may take, from its first byte; and the first head from the connection on.
    pub header_timeout: Duration,
    /// What may pass between requests.
    pub idle_timeout: Duration,
    /// How long a client may take nothing of an answer.
    pub write_timeout: Duration,
    /// What requests in flight may take once stopping is requested.
    pub grace: Duration,
    /// What is counted.
    pub metrics: HttpMetrics,
}

impl Serving {
    /// As configured.
    pub fn new(config: &HttpConfig, grace: Duration) -> Self {
        let count = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let seconds = |n: NonZeroU64| Duration::from_secs(n.get());
        Self {
            max_connections: count(config.max_connections.get()),
            max_connections_per_address: count(config.max_connections_per_address),
            header_timeout: seconds(config.header_timeout_seconds),
            idle_timeout: seconds(config.idle_timeout_seconds),
            write_timeout: seconds(config.write_timeout_seconds),
            grace,
            metrics: HttpMetrics::default(),
        }
    }
}

/// What the server counts.
#[derive(Debug, Clone, Default)]
pub struct HttpMetrics {
    connections: Gauge,
    accepted: Counter,
    refused: Counter,
    accept_errors: Counter,
}

impl HttpMetrics {
    /// Makes them known.
    pub fn register(&self, registry: &mut Registry) {
        let gauge = self.connections.clone();
        registry.register("http_connections", "HTTP connections open now", gauge);
        let counters = [
            ("http_connections_accepted", "HTTP connections accepted", &self.accepted),
            (
                "http_connections_refused",
                "HTTP connections closed for being too many from one address",
                &self.refused,
            ),
            (
                "http_accept_errors",
                "Failures to accept a connection, as for want of file descriptors",
                &self.accept_errors,
            ),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
    }
}

/// How serving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Connections that were cut off when the grace was over.
    pub cut: usize,
}

/// Serves until stopping is requested and every connection has ended, or the grace is over.
pub async fn serve(listener: TcpListener, app: Router, serving: Serving, stop: &Stop) -> Ended {
    let drain = Drain::default();
    let limits = Arc::new(Limits::of(&serving));
    let per_address = PerAddress::new(serving.max_connections_per_address);
    let mut connections = JoinSet::new();
    let mut trouble = Trouble::default();
    let mut was_full = false;
    loop {
        let is_full = connections.len() >= serving.max_connections;
        if is_full && !was_full {
            tracing::warn!(max = serving.max_connections, "as many HTTP connections as allowed; others wait");
        }
        was_full = is_full;
        tokio::select! {
            biased;
            () = stop.requested() => break,
            Some(ended) = connections.join_next() => note(ended),
            accepted = listener.accept(), if !is_full => match accepted {
                Ok((stream, peer)) => {
                    trouble.is_over();
                    let Some(place) = per_address.take(peer.ip()) else {
                        serving.metrics.refused.inc();
                        continue;
                    };
                    if !is_usable(&stream) {
                        continue;
                    }
                    serving.metrics.accepted.inc();
                    let open = Open::count(&serving.metrics.connections);
                    let connection = connection::run(stream, app.clone(), limits.clone(), drain.clone());
                    connections.spawn(async move {
                        let _held_until_the_end = (place, open);
                        connection.await;
                    });
                }
                Err(error) => {
                    serving.metrics.accept_errors.inc();
                    let Some(pause) = trouble.pause_after(&error) else { continue };
                    if !stop.sleep(pause).await {
                        break;
                    }
                }
            },
        }
    }
    drop(listener);
    drain.begin();
    let all_end = async { while connections.join_next().await.map(note).is_some() {} };
    let cut = match tokio::time::timeout(serving.grace, all_end).await {
        Ok(()) => 0,
        Err(_) => connections.len(),
    };
    if cut > 0 {
        tracing::warn!(connections = cut, "cut off HTTP connections that did not end in time");
    }
    connections.shutdown().await;
    Ended { cut }
}

/// A panic ends its connection and nothing else; the panic hook has logged it.
fn note(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP connection's task ended early");
    }
}

/// Whether the connection still lives. Answers go out at once, not when more has gathered.
fn is_usable(stream: &TcpStream) -> bool {
    stream.set_nodelay(true).is_ok()
}

/// Tells every connection to finish. The flag is what they look at; the stop only wakes them.
#[derive(Debug, Clone, Default)]
struct Drain {
    has_begun: Arc<AtomicBool>,
    wake: Stop,
}

impl Drain {
    fn begin(&self) {
        self.has_begun.store(true, Ordering::Release);
        self.wake.request();
    }

    fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Acquire)
    }
}

/// One connection in the gauge, for as long as it lives.
struct Open(Gauge);

impl Open {
    fn count(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Failures to accept, one after the other.
#[derive(Debug, Default)]
struct Trouble {
    pause: Option<Duration>,
}

impl Trouble {
    const FIRST: Duration = Duration::from_millis(20);
    const LONGEST: Duration = Duration::from_secs(1);

    fn is_over(&mut self) {
        if self.pause.take().is_some() {
            tracing::info!("HTTP connections can be accepted again");
        }
    }

    /// How long to wait before the next try; `None` where only one client was unlucky.
    fn pause_after(&mut self, error: &io::Error) -> Option<Duration> {
        use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
        if matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted) {
            return None;
        }
        if self.pause.is_none() {
            tracing::error!(%error, "HTTP connections cannot be accepted");
        }
        let pause = self.pause.map_or(Self::FIRST, |last| (last * 2).min(Self::LONGEST));
        self.pause = Some(pause);
        Some(pause)
    }
}

#[cfg(test)]
mod tests;
