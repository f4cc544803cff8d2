//! A TCP hop in front of a server: a network that delays, cuts, freezes, loses and throttles.
//!
//! Faults add up until [`Proxy::heal`] ends them all, and act on the connections there are as on those to come.
//! Bytes that were under way when a delay or freeze ends are delivered in order; bytes that [`Proxy::half_open`]
//! has lost are lost, so their connections are reset when it heals. Per connection and direction at most 1 MiB
//! waits here (and what the system's socket buffers hold): beyond, the sender feels it.

mod budget;
mod faults;
mod pump;
mod relay;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use self::relay::Hop;
use crate::ports;

const REOPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the clients to the server.
    ToServer,
    /// From the server to the clients.
    ToClient,
}

/// A proxy on a loopback port. Dropping it ends its connections.
#[derive(Debug)]
pub struct Proxy {
    hop: Arc<Hop>,
    relaying: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free port and relays to `target`, faultlessly at first. While the target refuses, a connection
    /// is accepted and then reset.
    pub async fn start(target: SocketAddr) -> Result<Self> {
        let port = ports::free()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
        Self::start_on(listener.with_context(|| format!("cannot listen on port {port}"))?, target)
    }

    /// On a listener that the caller has made.
    pub fn start_on(listener: TcpListener, target: SocketAddr) -> Result<Self> {
        let hop = Arc::new(Hop::new(listener.local_addr()?, target));
        let relaying = tokio::spawn(relay::accept(listener, Arc::clone(&hop)));
        Ok(Self { hop, relaying })
    }

    /// Where clients connect, the same for its whole life.
    pub fn addr(&self) -> SocketAddr {
        self.hop.addr
    }

    /// Every byte takes this much longer, in both directions. The end of a stream does too.
    pub fn delay(&self, delay: Duration) {
        self.hop.faults.send_modify(|faults| faults.delay = delay);
    }

    /// Every connection carries at most this many bytes a second in each direction (at least 1).
    pub fn throttle(&self, bytes_per_second: u32) {
        self.hop.faults.send_modify(|faults| faults.bytes_per_second = Some(bytes_per_second.max(1)));
    }

    /// Silence: connections are accepted and stay open, and bytes are held until it heals.
    pub fn freeze(&self) {
        self.hop.faults.send_modify(|faults| faults.frozen = true);
    }

    /// Loses all bytes in one direction, and the news of a closed connection: as with a peer that has vanished.
    pub fn half_open(&self, lost: Direction) {
        self.hop.faults.send_modify(|faults| faults.lost = Some(lost));
    }

    /// Resets all connections, and refuses new ones until it heals. All is done when this returns.
    pub async fn cut(&self) {
        self.hop.begin_cut();
        self.hop.until_cut().await;
    }

    /// Lets `n` more bytes through in that direction, over all connections together, and then cuts like
    /// [`Proxy::cut`]: so that a command or a reply ends in the middle.
    pub fn cut_after_bytes(&self, direction: Direction, n: u64) {
        self.hop.budget.set(direction, n);
        if n == 0 {
            self.hop.begin_cut();
        }
    }

    /// Waits until a cut is complete, as of [`Proxy::cut_after_bytes`].
    pub async fn wait_until_cut(&self, patience: Duration) -> Result<()> {
        timeout(patience, self.hop.until_cut()).await.with_context(|| {
            let open = self.connections();
            format!("waited {patience:?} for a cut of the proxy; {open} connections are open")
        })
    }

    /// Resets all connections there are; new ones are welcome.
    pub fn reset_connections(&self) {
        self.hop.faults.send_modify(|faults| faults.resets += 1);
    }

    /// Ends all faults. When this returns, it listens again.
    pub async fn heal(&self) -> Result<()> {
        self.hop.budget.clear();
        if self.hop.faults.borrow().cut {
            self.hop.until_cut().await;
        }
        self.hop.faults.send_modify(faults::Faults::heal);
        let mut listening = self.hop.listening.subscribe();
        timeout(REOPEN_TIMEOUT, listening.wait_for(|listening| *listening))
            .await
            .with_context(|| format!("the proxy cannot listen on {} again", self.addr()))??;
        Ok(())
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        *self.hop.open.borrow()
    }

    /// How many bytes it has let through in that direction.
    pub fn passed(&self, direction: Direction) -> u64 {
        self.hop.budget.passed(direction)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.relaying.abort();
    }
}
