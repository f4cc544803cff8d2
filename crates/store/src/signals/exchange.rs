//! The task that owns the connection: who listens to what, and what the server was asked for.
//!
//! `channels` is what is wanted, `held` what the server has confirmed, and `unsettled` where the two may
//! differ. Requests go out one at a time, each for all channels that wait by then; while one is out,
//! signals and new wishes are taken in as they come.

use std::{
    collections::{HashMap, HashSet},
    future::Future,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt;
use redis::aio::{PubSubSink, PubSubStream};
use tokio::{
    sync::{broadcast, mpsc, oneshot},
    time::Instant,
};

use super::{BUFFER, Signal};
use crate::{Backoff, StoreError, link::Link};

/// How often a connection that has nothing to ask is tried.
const PING_EVERY: Duration = Duration::from_secs(2);
/// How many channels one request names at most.
const AT_ONCE: usize = 1_000;

/// What the exchange is asked for.
pub(super) enum Command {
    /// To listen: answered once the server has confirmed it.
    Join { channel: String, answer: oneshot::Sender<broadcast::Receiver<Signal>> },
    /// One who listened, or waited to, does so no more.
    Leave { channel: String },
}

/// A channel that somebody listens to, or waits to.
struct Channel {
    signals: broadcast::Sender<Signal>,
    waiting: Vec<oneshot::Sender<broadcast::Receiver<Signal>>>,
}

impl Channel {
    fn answer(&mut self) {
        for answer in self.waiting.drain(..) {
            let _ = answer.send(self.signals.subscribe());
        }
    }
}

/// What the server is being asked.
enum Question {
    Subscribe(Vec<String>),
    Unsubscribe(Vec<String>),
    Ping,
}

type Asking = Pin<Box<dyn Future<Output = Result<Question, StoreError>> + Send>>;

/// Why there is no connection any more.
enum End {
    /// Nobody listens.
    Unneeded,
    /// It broke, or there was none to be had.
    Broken(StoreError),
    /// The store and all receivers are gone.
    Over,
}

pub(super) struct Exchange {
    link: Arc<Link>,
    commands: mpsc::UnboundedReceiver<Command>,
    channels: HashMap<String, Channel>,
    held: HashSet<String>,
    unsettled: HashSet<String>,
    backoff: Backoff,
}

impl Exchange {
    pub(super) fn new(link: Arc<Link>, commands: mpsc::UnboundedReceiver<Command>) -> Self {
        Self {
            link,
            commands,
            channels: HashMap::new(),
            held: HashSet::new(),
            unsettled: HashSet::new(),
            backoff: Backoff::default(),
        }
    }

    /// Runs until the store and all receivers are gone.
    pub(super) async fn run(mut self) {
        let mut told = false;
        loop {
            // Without anybody who listens there is no connection.
            while self.channels.is_empty() {
                match self.commands.recv().await {
                    Some(command) => self.obey(command),
                    None => return,
                }
            }
            let end = match self.connect().await {
                Ok((sink, signals)) => self.work(sink, signals, &mut told).await,
                Err(end) => end,
            };
            self.held.clear();
            // Whoever waits to listen is refused rather than kept waiting: an outage should be told quickly.
            for channel in self.channels.values_mut() {
                channel.waiting.clear();
            }
            match end {
                End::Unneeded => {}
                End::Over => return,
                End::Broken(error) => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!(%error, "no signals from Redis");
                    }
                    let until = Instant::now() + self.backoff.next_delay();
                    if self.obeying(tokio::time::sleep_until(until)).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    async fn connect(&mut self) -> Result<(PubSubSink, PubSubStream), End> {
        let link = Arc::clone(&self.link);
        self.obeying(async move { link.pubsub().await }).await?.map_err(End::Broken)
    }

    /// Takes in wishes until something else is done.
    async fn obeying<T>(&mut self, other: impl Future<Output = T>) -> Result<T, End> {
        let mut other = std::pin::pin!(other);
        loop {
            tokio::select! {
                done = &mut other => return Ok(done),
                command = self.commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return Err(End::Over),
                },
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Join { channel, answer } => {
                let held = self.held.contains(&channel);
                if !held {
                    self.unsettled.insert(channel.clone());
                }
                let there = self.channels.entry(channel).or_insert_with(|| Channel {
                    signals: broadcast::Sender::new(BUFFER),
                    waiting: Vec::new(),
                });
                there.waiting.push(answer);
                if held {
                    there.answer();
                }
            }
            Command::Leave { channel } => {
                let Some(there) = self.channels.get_mut(&channel) else { return };
                there.waiting.retain(|answer| !answer.is_closed());
                if there.waiting.is_empty() && there.signals.receiver_count() == 0 {
                    self.channels.remove(&channel);
                    self.unsettled.insert(channel);
                }
            }
        }
    }

    /// Works with a connection until it breaks or nobody needs it.
    async fn work(&mut self, sink: PubSubSink, mut signals: PubSubStream, told: &mut bool) -> End {
        self.unsettled = self.channels.keys().cloned().collect();
        let mut asking: Option<Asking> = None;
        let mut ping_at = Instant::now() + PING_EVERY;
        loop {
            if asking.is_none() {
                asking = self.question().map(|question| self.ask(sink.clone(), question));
            }
            let idle = asking.is_none();
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return End::Over,
                },
                message = signals.next() => match message {
                    Some(message) => self.pass_on(&message),
                    None => return End::Broken(StoreError::Unavailable("the connection broke".into())),
                },
                answered = answered(&mut asking) => {
                    asking = None;
                    match answered {
                        Ok(question) => self.confirmed(question),
                        Err(error) => return End::Broken(error),
                    }
                    *told = false;
                    self.backoff.reset();
                    ping_at = Instant::now() + PING_EVERY;
                },
                () = tokio::time::sleep_until(ping_at), if idle => {
                    if self.channels.is_empty() {
                        return End::Unneeded;
                    }
                    asking = Some(self.ask(sink.clone(), Question::Ping));
                }
            }
        }
    }

    /// What the server has to be asked so that it holds what is wanted.
    fn question(&mut self) -> Option<Question> {
        let (channels, held) = (&self.channels, &self.held);
        self.unsettled.retain(|channel| channels.contains_key(channel) != held.contains(channel));
        let some = |wanted: bool| -> Vec<String> {
            let is = |channel: &&String| channels.contains_key(*channel) == wanted;
            self.unsettled.iter().filter(is).take(AT_ONCE).cloned().collect()
        };
        let (subscribe, unsubscribe) = (some(true), some(false));
        if !subscribe.is_empty() {
            Some(Question::Subscribe(subscribe))
        } else if !unsubscribe.is_empty() {
            // From here on it may be gone, whatever the answer: who joins now must ask again.
            for channel in &unsubscribe {
                self.held.remove(channel);
                self.unsettled.remove(channel);
            }
            Some(Question::Unsubscribe(unsubscribe))
        } else {
            None
        }
    }

    fn ask(&self, mut sink: PubSubSink, question: Question) -> Asking {
        let limit = self.link.response_timeout();
        Box::pin(async move {
            let asking = async {
                match &question {
                    Question::Subscribe(channels) => sink.subscribe(channels).await,
                    Question::Unsubscribe(channels) => sink.unsubscribe(channels).await,
                    Question::Ping => sink.ping::<redis::Value>().await.map(drop),
                }
            };
            match tokio::time::timeout(limit, asking).await {
                Ok(Ok(())) => Ok(question),
                Ok(Err(error)) => Err(StoreError::Unavailable(error.to_string())),
                Err(_) => Err(StoreError::Unavailable(format!("no answer within {} ms", limit.as_millis()))),
            }
        })
    }

    fn confirmed(&mut self, question: Question) {
        let Question::Subscribe(names) = question else { return };
        for name in names {
            if let Some(channel) = self.channels.get_mut(&name) {
                // Who listened before the connection was made cannot know what was said in between.
                let _ = channel.signals.send(Signal::Missed);
                channel.answer();
            }
            self.held.insert(name);
        }
    }

    fn pass_on(&self, message: &redis::Msg) {
        if let Some(channel) = self.channels.get(message.get_channel_name()) {
            let _ =
                channel.signals.send(Signal::Payload(Bytes::copy_from_slice(message.get_payload_bytes())));
        }
    }
}

/// The answer to what is being asked; never, if nothing is.
async fn answered(asking: &mut Option<Asking>) -> Result<Question, StoreError> {
    match asking {
        Some(asking) => asking.await,
        None => std::future::pending().await,
    }
}
