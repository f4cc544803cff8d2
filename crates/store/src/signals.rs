//! Signals: telling whoever waits, on whatever instance, that something has happened. Redis Pub/Sub.
//!
//! A signal is told once, to those who listen then, and is kept by nobody: what must not be lost is *stored*
//! first, and the signal only saves its readers from asking in vain. Whoever waits for something therefore
//!
//! 1. subscribes, which is confirmed by the server before [`Signals::subscribe`] returns;
//! 2. looks whether it is there already;
//! 3. waits for a [`Signal`], and looks again on [`Signal::Missed`].
//!
//! A process has one connection for all that it listens to. It is opened when first needed, closed when
//! nobody has listened for a while, tried every two seconds, and made anew where it broke; every receiver is
//! then told that it may have missed something. Channels carry a tag's prefix, and with it the environment. `PUBLISH`
//! reaches all nodes of a Redis Cluster, so it does not matter to which one this connection leads.

mod exchange;

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::{Store, StoreError, keys::Keys, keys::Tag, link::Link};
use exchange::{Command, Exchange};

/// Signals that one channel keeps for a receiver that is slow; beyond, it hears [`Signal::Missed`].
pub const BUFFER: usize = 64;

/// What a receiver hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signal {
    /// What was published.
    Payload(Bytes),
    /// Some may have been missed: the connection broke, or this receiver was too slow. Look for yourself.
    Missed,
}

/// Where one listens. Cheap to clone; all clones share one connection.
#[derive(Clone)]
pub struct Signals {
    hub: Arc<Hub>,
    keys: Arc<Keys>,
}

/// The sending end of the one task that owns the connection, which begins with the first who listens.
pub(crate) struct Hub {
    link: Arc<Link>,
    commands: OnceLock<mpsc::UnboundedSender<Command>>,
}

impl Hub {
    pub(crate) fn new(link: Arc<Link>) -> Self {
        Self { link, commands: OnceLock::new() }
    }

    fn commands(&self) -> &mpsc::UnboundedSender<Command> {
        self.commands.get_or_init(|| {
            let (sender, receiver) = mpsc::unbounded_channel();
            tokio::spawn(Exchange::new(Arc::clone(&self.link), receiver).run());
            sender
        })
    }
}

impl Store {
    /// Where one listens to signals.
    pub fn signals(&self) -> Signals {
        Signals { hub: Arc::clone(&self.hub), keys: Arc::clone(&self.keys) }
    }

    /// Tells everybody who listens to a channel of a tag now. Scripts do the same with `PUBLISH`. That nobody
    /// listens is no error.
    pub async fn signal(&self, tag: Tag, name: &str, payload: &[u8]) -> Result<(), StoreError> {
        let mut command = redis::cmd("PUBLISH");
        command.arg(self.keys.key(tag, name)).arg(payload);
        self.link.command(&command).await.map(drop)
    }
}

impl Signals {
    /// Listens to a channel of a tag. When this returns, the server has confirmed it: nothing that is
    /// published from now on is missed without saying so.
    ///
    /// While the server is away this is [`StoreError::Unavailable`], after at most the time that connecting
    /// and one answer may take.
    pub async fn subscribe(&self, tag: Tag, name: &str) -> Result<Receiver, StoreError> {
        let channel = self.keys.key(tag, name);
        let commands = self.hub.commands().clone();
        // In this order: a caller that gives up drops what it was answered before it says that it leaves.
        let leave = Leave { channel: channel.clone(), commands: commands.clone() };
        let (answer, answered) = oneshot::channel();
        let away = || StoreError::Unavailable("there is no connection to listen on".into());
        commands.send(Command::Join { channel, answer }).map_err(|_| away())?;
        let limit = self.hub.link.connect_timeout() + self.hub.link.response_timeout();
        match tokio::time::timeout(limit, answered).await {
            Ok(Ok(signals)) => Ok(Receiver { signals, _leave: leave }),
            Ok(Err(_)) => Err(away()),
            Err(_) => Err(StoreError::Unavailable(format!(
                "a subscription was not confirmed within {} ms",
                limit.as_millis()
            ))),
        }
    }
}

/// One who listens. Dropping the last one of a channel ends the channel's subscription.
pub struct Receiver {
    // The order matters: it is gone before it says so.
    signals: broadcast::Receiver<Signal>,
    _leave: Leave,
}

impl Receiver {
    /// The next signal. May be given up and called again: no signal is lost by that.
    pub async fn recv(&mut self) -> Signal {
        match self.signals.recv().await {
            Ok(signal) => signal,
            Err(broadcast::error::RecvError::Lagged(_)) => Signal::Missed,
            // The runtime is ending: there is nothing to be heard any more.
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("channel", &self._leave.channel).finish_non_exhaustive()
    }
}

/// Says on drop that somebody no longer listens.
struct Leave {
    channel: String,
    commands: mpsc::UnboundedSender<Command>,
}

impl Drop for Leave {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Leave { channel: std::mem::take(&mut self.channel) });
    }
}
