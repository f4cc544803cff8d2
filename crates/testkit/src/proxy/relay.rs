//! The proxy's sockets: listen or refuse, connect both sides, reset them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::Direction::{ToClient, ToServer};
use super::budget::Budget;
use super::faults::Faults;
use super::pump::pump;

/// What the proxy, its listener and its connections share.
#[derive(Debug)]
pub(super) struct Hop {
    pub(super) addr: SocketAddr,
    pub(super) target: SocketAddr,
    pub(super) faults: watch::Sender<Faults>,
    pub(super) budget: Budget,
    pub(super) listening: watch::Sender<bool>,
    pub(super) open: watch::Sender<usize>,
}

impl Hop {
    pub(super) fn new(addr: SocketAddr, target: SocketAddr) -> Self {
        Self {
            addr,
            target,
            faults: watch::Sender::default(),
            budget: Budget::default(),
            listening: watch::Sender::new(true),
            open: watch::Sender::new(0),
        }
    }

    pub(super) fn begin_cut(&self) {
        self.faults.send_modify(|faults| {
            faults.cut = true;
            faults.resets += 1;
        });
    }

    pub(super) async fn until_faults(&self, are: impl FnMut(&Faults) -> bool) {
        // It fails only when the sender is gone, which is ours.
        let _ = self.faults.subscribe().wait_for(are).await;
    }

    /// Until nothing listens and nothing is open. In this order: a connection counts before its listener goes.
    pub(super) async fn until_cut(&self) {
        let _ = self.listening.subscribe().wait_for(|listening| !listening).await;
        let _ = self.open.subscribe().wait_for(|open| *open == 0).await;
    }
}

/// Listens, and while the line is cut does not; until it is aborted, and all connections with it.
pub(super) async fn accept(listener: TcpListener, hop: Arc<Hop>) {
    let mut connections = JoinSet::new();
    let mut listener = Some(listener);
    loop {
        let Some(open) = &listener else {
            while connections.join_next().await.is_some() {}
            hop.until_faults(|faults| !faults.cut).await;
            match TcpListener::bind(hop.addr).await {
                Ok(again) => {
                    listener = Some(again);
                    hop.listening.send_replace(true);
                }
                // Somebody has our port for a moment: heal() waits a while, and tells if it is for good.
                Err(_) => sleep(Duration::from_millis(10)).await,
            }
            continue;
        };
        tokio::select! {
            biased;
            () = hop.until_faults(|faults| faults.cut) => {
                listener = None;
                hop.listening.send_replace(false);
            }
            incoming = open.accept() => match incoming {
                Ok((client, _)) => {
                    hop.open.send_modify(|open| *open += 1);
                    let (hop, born) = (Arc::clone(&hop), hop.faults.borrow().resets);
                    connections.spawn(async move {
                        let _counted = Counted(&hop.open);
                        carry(client, &hop, born).await;
                    });
                }
                Err(_) => sleep(Duration::from_millis(20)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

struct Counted<'a>(&'a watch::Sender<usize>);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}

/// Carries one connection to its end. If that is no proper end on both sides, both sides see a reset.
async fn carry(mut client: TcpStream, hop: &Hop, born: u64) {
    let connect = async {
        let server = TcpStream::connect(hop.target).await?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        Ok(server)
    };
    let server = tokio::select! {
        biased;
        () = hop.until_faults(|faults| faults.cut || faults.resets != born) => Err(reset()),
        server = connect => server,
    };
    let Ok(mut server) = server else {
        let _ = client.set_zero_linger();
        return;
    };
    let relay = async {
        let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
        tokio::try_join!(
            pump(from_client, to_server, ToServer, hop),
            pump(from_server, to_client, ToClient, hop)
        )
    };
    let end = tokio::select! {
        biased;
        () = hop.until_faults(|faults| faults.cut || faults.resets != born) => Err(reset()),
        end = relay => end,
    };
    if end.is_err() {
        let _ = client.set_zero_linger();
        let _ = server.set_zero_linger();
    }
}

pub(super) fn reset() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}
