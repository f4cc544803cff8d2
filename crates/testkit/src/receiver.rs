//! A webhook receiver that records what it gets and answers as it was told, however badly.
//!
//! A request to a path is counted, its [`Behaviour`] is asked for an [`Answer`], the request is put in the log of
//! its path (so that whoever has seen an answer finds the request recorded), and only then is the answer given.
//! Whole answers go through hyper. For the others (`hostile.rs`) the socket is taken from hyper before it has
//! written a byte, because a proper server can't misbehave.

mod answer;
mod behaviour;
mod hook;
mod hostile;
mod recorded;
mod serve;

use std::collections::{BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub use self::answer::Answer;
pub use self::behaviour::{Behaviour, Script};
use self::hook::Hook;
pub use self::recorded::{Keep, Recorded};
use crate::ports;

/// An HTTP/1.1 server on a loopback port, for any number of paths. Dropping it cuts its connections.
#[derive(Debug)]
pub struct Receiver {
    site: Arc<Site>,
    addr: SocketAddr,
    serving: JoinHandle<()>,
}

/// All paths of a receiver.
#[derive(Debug)]
struct Site {
    keep: Keep,
    started: Instant,
    hooks: RwLock<HashMap<String, Arc<Hook>>>,
}

impl Receiver {
    /// Listens on a free port, answers 200 on every path, keeps everything.
    pub async fn start() -> Result<Self> {
        Self::start_keeping(Keep::Everything).await
    }

    /// The same, but keeps less: for tests with many or large requests.
    pub async fn start_keeping(keep: Keep) -> Result<Self> {
        let port = ports::free()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
        Self::start_on(listener.with_context(|| format!("cannot listen on port {port}"))?, keep)
    }

    /// On a listener that the caller has made.
    pub fn start_on(listener: TcpListener, keep: Keep) -> Result<Self> {
        let addr = listener.local_addr()?;
        let site = Arc::new(Site { keep, started: Instant::now(), hooks: RwLock::default() });
        let serving = tokio::spawn(serve::accept(listener, Arc::clone(&site)));
        Ok(Self { site, addr, serving })
    }

    /// Where it listens; also a proxy's target.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `http://127.0.0.1:<port><path>`; the path starts with `/`.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// From now on, requests to the path are answered so. What was recorded stays.
    pub fn on(&self, path: &str, behaviour: impl Into<Behaviour>) {
        self.site.hook(path).behave(behaviour.into());
    }

    /// What the path got, in the order in which the requests were complete.
    pub fn received(&self, path: &str) -> Vec<Arc<Recorded>> {
        self.site.hook(path).recorded()
    }

    /// How many requests the path got.
    pub fn count(&self, path: &str) -> usize {
        self.site.hook(path).count()
    }

    /// The most requests to the path that were ever unanswered at one time.
    pub fn peak_in_flight(&self, path: &str) -> usize {
        self.site.hook(path).peak_in_flight()
    }

    /// The different values of a header in what the path got, as `distinct("/hook", "webhook-id")`.
    pub fn distinct(&self, path: &str, header: &str) -> BTreeSet<String> {
        let all = self.received(path);
        all.iter().filter_map(|request| Some(request.header(header)?.to_owned())).collect()
    }

    /// Waits until the path has got at least `n` requests and returns all. The error tells the last that came, and
    /// what other paths got.
    pub async fn wait_for(&self, path: &str, n: usize, timeout: Duration) -> Result<Vec<Arc<Recorded>>> {
        let hook = self.site.hook(path);
        if hook.wait_for(n, timeout).await {
            return Ok(hook.recorded());
        }
        let seen = self.describe(path);
        Err(anyhow::anyhow!("waited {timeout:?} for {n} requests to {path}; {seen}"))
    }

    /// The state for a failure message: how many requests the path got, the last ones, and other paths' counts.
    pub fn describe(&self, path: &str) -> String {
        let mut text = self.site.hook(path).describe(self.site.started);
        let hooks = self.site.hooks.read().unwrap_or_else(PoisonError::into_inner);
        let mut others: Vec<_> =
            hooks.iter().filter(|(other, hook)| *other != path && hook.count() > 0).collect();
        others.sort_by_key(|(other, _)| other.as_str());
        for (other, hook) in others.iter().take(20) {
            text.push_str(&format!("\n  elsewhere: {other} got {}", hook.count()));
        }
        text
    }

    /// Forgets what the path got, not how it behaves.
    pub fn clear(&self, path: &str) {
        self.site.hook(path).clear();
    }

    /// Forgets what all paths got, not how they behave.
    pub fn clear_all(&self) {
        let hooks = self.site.hooks.read().unwrap_or_else(PoisonError::into_inner);
        hooks.values().for_each(|hook| hook.clear());
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Site {
    fn hook(&self, path: &str) -> Arc<Hook> {
        if let Some(hook) = self.hooks.read().unwrap_or_else(PoisonError::into_inner).get(path) {
            return Arc::clone(hook);
        }
        let mut hooks = self.hooks.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(hooks.entry(path.to_owned()).or_insert_with(|| Arc::new(Hook::new())))
    }
}
