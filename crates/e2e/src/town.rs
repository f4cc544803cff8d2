//! A whole Postroad of real processes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use postroad_model::id::SubscriptionId;
use postroad_model::placement::Layout;
use postroad_store::keys::{self, Keys, Tag};
use postroad_testkit::process::Daemon;
use postroad_testkit::receiver::{Behaviour, Keep, Receiver};
use postroad_testkit::redis::{Fsync, PrivateRedis, Reply};
use postroad_testkit::wait::eventually;
use serde_json::{Value, json};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use crate::api::Api;
use crate::balance::{Balance, Expected};
use crate::census::{Census, ENVIRONMENT};
use crate::slot::{Kind, Slot};
use crate::subscriber::Subscriber;

/// What stopping a daemon may take, its grace included.
const STOP_TIMEOUT: Duration = Duration::from_secs(40);
/// After what was settled last, all sweeps have passed by then.
const AGREE_TIMEOUT: Duration = Duration::from_secs(20);
/// The layout that every town has.
const LAYOUT: Layout = Layout { partitions: 8, lanes: 64 };

/// How a town is set up. Leases are short: 1 s for a partition and a replay job, 2 s for a delivery.
#[derive(Debug, Clone)]
#[must_use = "nothing runs before start()"]
pub struct Builder {
    append_only: Option<Fsync>,
    counts: [(Kind, usize); 3],
    envs: BTreeMap<String, String>,
    keep: Keep,
}

impl Builder {
    /// Gives Redis an append-only file.
    pub fn append_only(mut self, fsync: Fsync) -> Self {
        self.append_only = Some(fsync);
        self
    }

    /// How many of each kind there are at first; one by default.
    pub fn daemons(mut self, ingests: usize, routers: usize, workers: usize) -> Self {
        self.counts = [(Kind::Ingest, ingests), (Kind::Router, routers), (Kind::Worker, workers)];
        self
    }

    /// Sets a configuration key, as `worker.max_in_flight`, for all daemons.
    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.envs.insert(variable(key), value.to_owned());
        self
    }

    /// How much the receiver keeps of each request; by default what names and signs it.
    pub fn keep(mut self, keep: Keep) -> Self {
        self.keep = keep;
        self
    }

    /// Starts everything and waits until all are ready. Towns of one process live one after the other, so
    /// that scenarios do not disturb each other.
    pub async fn start(self) -> Result<Arc<Town>> {
        let alone = Arc::clone(&ALONE).lock_owned().await;
        let mut redis = PrivateRedis::builder();
        if let Some(fsync) = self.append_only {
            redis = redis.append_only(fsync);
        }
        let redis = redis.start().await?;
        let receiver = Receiver::start_keeping(self.keep).await?;
        let mut envs: Vec<(String, String)> = self.envs.into_iter().collect();
        envs.push((variable("redis.url"), redis.url()));
        let town = Arc::new(Town {
            slots: RwLock::default(),
            redis,
            receiver,
            envs,
            keys: Keys::new(ENVIRONMENT, LAYOUT),
            subscribers: Mutex::default(),
            turn: AtomicUsize::new(0),
            retries: AtomicUsize::new(0),
            _alone: alone,
        });
        for (kind, count) in self.counts {
            for _ in 0..count {
                town.launch(kind, &[])?;
            }
        }
        for slot in town.slots() {
            slot.ready().await?;
        }
        Ok(town)
    }
}

static ALONE: std::sync::LazyLock<Arc<AsyncMutex<()>>> = std::sync::LazyLock::new(Arc::default);

fn variable(key: &str) -> String {
    format!("POSTROAD_{}", key.replace('.', "_").to_uppercase())
}

/// A private Redis, daemons and a receiver. Faults take `&self`: some tasks break things while others
/// publish.
#[derive(Debug)]
pub struct Town {
    // The order matters: the daemons die before their Redis.
    slots: RwLock<Vec<Arc<Slot>>>,
    /// Its Redis.
    pub redis: PrivateRedis,
    /// Stands for all subscribers.
    pub receiver: Receiver,
    envs: Vec<(String, String)>,
    keys: Keys,
    subscribers: Mutex<Vec<Subscriber>>,
    turn: AtomicUsize,
    retries: AtomicUsize,
    _alone: OwnedMutexGuard<()>,
}

impl Town {
    /// One of each daemon, a Redis that keeps nothing on disk.
    pub fn builder() -> Builder {
        let settings = [
            ("environment", ENVIRONMENT),
            ("egress.allow", "127.0.0.0/8"),
            ("router.lease_ms", "1000"),
            ("worker.lease_ms", "2000"),
            ("worker.request_timeout_ms", "1000"),
            ("worker.sweep_ms", "500"),
            ("reprocessor.lease_ms", "1000"),
            ("log", "info"),
        ];
        Builder {
            append_only: None,
            counts: [(Kind::Ingest, 1), (Kind::Router, 1), (Kind::Worker, 1)],
            envs: settings.map(|(key, value)| (variable(key), value.to_owned())).into(),
            keep: Keep::only(&["webhook-id"], &[]),
        }
    }

    // ---- daemons

    /// Starts one more of a kind, with configuration keys of its own, and waits until it is ready. Its
    /// number.
    pub async fn add(&self, kind: Kind, settings: &[(&str, &str)]) -> Result<usize> {
        let (number, slot) = self.launch(kind, settings)?;
        slot.ready().await?;
        Ok(number)
    }

    fn launch(&self, kind: Kind, settings: &[(&str, &str)]) -> Result<(usize, Arc<Slot>)> {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        let number = slots.iter().filter(|slot| slot.kind == kind).count();
        let mut envs = self.envs.clone();
        for (key, value) in settings {
            let name = variable(key);
            envs.retain(|(known, _)| *known != name);
            envs.push((name, (*value).to_owned()));
        }
        let slot = Arc::new(Slot::new(kind, number, &envs)?);
        slot.start()?;
        slots.push(Arc::clone(&slot));
        Ok((number, slot))
    }

    fn slots(&self) -> Vec<Arc<Slot>> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn slot(&self, kind: Kind, number: usize) -> Result<Arc<Slot>> {
        let slots = self.slots();
        let slot = slots.into_iter().filter(|slot| slot.kind == kind).nth(number);
        slot.with_context(|| format!("there is no {kind}-{number}"))
    }

    /// `SIGKILL`.
    pub fn kill(&self, kind: Kind, number: usize) -> Result<()> {
        self.slot(kind, number)?.kill().map(drop)
    }

    /// `SIGTERM`, and waits until it has ended.
    pub async fn stop(&self, kind: Kind, number: usize) -> Result<ExitStatus> {
        self.slot(kind, number)?.stop(STOP_TIMEOUT).await
    }

    /// Starts it again, at the same address, and does not wait.
    pub fn start_again(&self, kind: Kind, number: usize) -> Result<()> {
        self.slot(kind, number)?.start()
    }

    /// Waits until it is ready.
    pub async fn ready(&self, kind: Kind, number: usize) -> Result<()> {
        self.slot(kind, number)?.ready().await
    }

    /// `SIGSTOP`.
    pub fn pause(&self, kind: Kind, number: usize) -> Result<()> {
        self.daemon(kind, number)?.pause()
    }

    /// `SIGCONT`.
    pub fn resume(&self, kind: Kind, number: usize) -> Result<()> {
        self.daemon(kind, number)?.resume()
    }

    /// The process as it runs now.
    pub fn daemon(&self, kind: Kind, number: usize) -> Result<Arc<Daemon>> {
        self.slot(kind, number)?.daemon()
    }

    /// What all lives of a daemon have written, the present one last.
    pub fn log(&self, kind: Kind, number: usize) -> Result<String> {
        Ok(self.slot(kind, number)?.logs()?.concat())
    }

    /// Its HTTP address: the API of an ingest, health and metrics of all.
    pub fn api(&self, kind: Kind, number: usize) -> Result<At> {
        Ok(At(self.slot(kind, number)?))
    }

    /// An ingest that should run, each in turn.
    pub(crate) fn next_ingest(&self) -> Result<At> {
        let ingests: Vec<_> = self.slots().into_iter().filter(|slot| slot.kind == Kind::Ingest).collect();
        ensure!(!ingests.is_empty(), "the town has no ingest");
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        Ok(At(Arc::clone(&ingests[turn % ingests.len()])))
    }

    pub(crate) fn count_retry(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    /// How often a publisher had to offer something again.
    pub fn retries(&self) -> usize {
        self.retries.load(Ordering::Relaxed)
    }

    /// A counter or gauge on a daemon's metrics page, summed over its labels.
    pub async fn metric(&self, kind: Kind, number: usize, name: &str) -> Result<f64> {
        let page = self.slot(kind, number)?.api.get("/metrics").await?.text();
        let rows = page.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ') || rest.starts_with('{'))
        });
        let values: Vec<f64> = rows.filter_map(|row| row.rsplit(' ').next()?.parse().ok()).collect();
        ensure!(!values.is_empty(), "no {name} on the metrics page of {kind}-{number}");
        Ok(values.iter().sum())
    }

    /// The CPU seconds that each running daemon has used so far, by name.
    pub fn cpu_seconds(&self) -> Result<BTreeMap<String, f64>> {
        let running = self.slots().into_iter().filter(|slot| slot.is_wanted());
        running.map(|slot| Ok((slot.name.clone(), slot.daemon()?.cpu_seconds()?))).collect()
    }

    // ---- subscriptions

    /// Subscribes through the first ingest. `request` needs neither service nor callback: that is the
    /// receiver's path `/<name>`, unless it is null.
    pub async fn subscribe(&self, name: &str, request: Value) -> Result<Subscriber> {
        self.subscribe_at(0, name, request).await
    }

    /// Subscribes through one ingest.
    pub async fn subscribe_at(&self, ingest: usize, name: &str, request: Value) -> Result<Subscriber> {
        self.subscribe_by(ingest, "/v1/subscriptions", 201, name, request).await
    }

    /// Subscribes through the other API, whose requests name a `queue`.
    pub async fn subscribe_queue(&self, name: &str, request: Value) -> Result<Subscriber> {
        self.subscribe_by(0, "/message-queue/subscribe", 200, name, request).await
    }

    async fn subscribe_by(
        &self,
        ingest: usize,
        call: &str,
        status: u16,
        name: &str,
        mut request: Value,
    ) -> Result<Subscriber> {
        let path = format!("/{name}");
        request["service_name"] = json!(name);
        if request.get("callback_url").is_none() {
            request["callback_url"] = json!(self.receiver.url(&path));
        }
        let answer = self.slot(Kind::Ingest, ingest)?.api.post(call, request.to_string()).await?;
        let created = answer.expect(status).with_context(|| format!("subscribing {name} with {request}"))?;
        let text = |field: &str| created[field].as_str().unwrap_or_default().to_owned();
        let subscriber =
            Subscriber { id: text("subscription_id"), name: name.to_owned(), path, secret: text("secret") };
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner).push(subscriber.clone());
        Ok(subscriber)
    }

    /// Subscribes, with a rule for what the receiver answers.
    pub async fn subscribe_answering(
        &self,
        name: &str,
        request: Value,
        behaviour: impl Into<Behaviour>,
    ) -> Result<Subscriber> {
        self.receiver.on(&format!("/{name}"), behaviour);
        self.subscribe(name, request).await
    }

    /// Subscribes to a channel in a lane that is none of `lanes`, which then has it too. The channel has the
    /// subscriber's name: one that came to another's lane must not get what is counted.
    pub async fn subscribe_apart(&self, name: &str, lanes: &mut BTreeSet<u16>) -> Result<Subscriber> {
        let mut tried = 0;
        loop {
            let name = format!("{name}-{tried}");
            let subscriber = self.subscribe(&name, json!({ "channel": name })).await?;
            if lanes.insert(self.lane_of(&subscriber)?) {
                return Ok(subscriber);
            }
            tried += 1;
        }
    }

    // ---- Redis

    /// The name of a key of a partition.
    pub fn partition_key(&self, partition: u16, name: &str) -> String {
        self.keys.key(Tag::Partition(partition), name)
    }

    /// The name of a key of a lane.
    pub fn lane_key(&self, lane: u16, name: &str) -> String {
        self.keys.key(Tag::Lane(lane), name)
    }

    /// The name of a key under the control tag.
    pub fn ctl_key(&self, name: &str) -> String {
        self.keys.key(Tag::Ctl, name)
    }

    /// The lane of a subscription.
    pub fn lane_of(&self, subscriber: &Subscriber) -> Result<u16> {
        Ok(LAYOUT.lane_of(&SubscriptionId::new(&subscriber.id)?))
    }

    /// How many partitions and lanes there are.
    pub fn layout(&self) -> Layout {
        LAYOUT
    }

    /// Everything that lies in Redis.
    pub async fn census(&self) -> Result<Census> {
        Census::take(&self.redis).await
    }

    /// Waits until everything accepted is routed and the queues hold no more than `most` entries.
    pub async fn quiet_but(&self, most: i64, timeout: Duration) -> Result<()> {
        let mut command: Vec<String> =
            vec!["EVAL".into(), include_str!("quiet.lua").into(), "0".into(), LAYOUT.partitions.to_string()];
        command.extend((0..LAYOUT.partitions).map(|n| self.keys.prefix(Tag::Partition(n)).to_owned()));
        let subscribers = self.subscribers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for subscriber in &subscribers {
            let lane = self.lane_of(subscriber)?;
            command.extend(
                (0..4).map(|rank| self.lane_key(lane, &format!("{}{}:{rank}", keys::WORK, subscriber.id))),
            );
        }
        let what = format!("the town to be quiet but for {most} entries");
        let quiet = eventually(timeout, what, async || {
            let reply = self.redis.command(&command).await?;
            let numbers: Vec<i64> = reply.items().iter().filter_map(Reply::int).collect();
            match numbers[..] {
                [0, queued] if queued <= most => Ok(()),
                [unrouted, queued] => {
                    Err(anyhow!("{unrouted} partitions have unrouted entries, {queued} entries are queued"))
                }
                _ => Err(anyhow!("an odd reply")),
            }
        });
        quiet.await
    }

    /// Waits until everything accepted is routed and all queues are empty.
    pub async fn quiet(&self, timeout: Duration) -> Result<()> {
        self.quiet_but(0, timeout).await
    }

    // ---- stock

    /// Strikes the balance and asserts conservation.
    pub async fn conserved(&self, expected: &[Expected]) -> Result<Balance> {
        let balance = self.balance(expected).await?;
        balance.conserved().with_context(|| balance.to_string())?;
        Ok(balance)
    }

    /// Strikes the balance, once what lies in Redis agrees with itself; asserts that every daemon that
    /// should run does, and that none has panicked.
    pub async fn balance(&self, expected: &[Expected]) -> Result<Balance> {
        for slot in self.slots() {
            slot.check()?;
        }
        let census = eventually(AGREE_TIMEOUT, "what lies in Redis to agree with itself", async || {
            let census = self.census().await?;
            match census.disagreements().as_slice() {
                [] => Ok(census),
                some => {
                    bail!("{} disagreements: {}", some.len(), some[..some.len().min(5)].join("; "))
                }
            }
        });
        Ok(Balance::strike(&census.await?, &self.receiver, expected))
    }

    /// Lines of level ERROR in all logs, by their text: none in health.
    pub fn errors_logged(&self) -> Result<BTreeMap<String, usize>> {
        let mut found = BTreeMap::new();
        for slot in self.slots() {
            for log in slot.logs()? {
                for line in log.lines().filter(|line| line.contains("ERROR")) {
                    let text = line.split_once("ERROR").map_or(line, |(_, text)| text);
                    *found.entry(format!("{}:{text}", slot.kind)).or_default() += 1;
                }
            }
        }
        Ok(found)
    }

    /// Adds the last state to an error: what lies in Redis, and how every log ends.
    pub async fn explain<T>(&self, outcome: Result<T>) -> Result<T> {
        let Err(error) = outcome else { return outcome };
        let mut text = String::new();
        match self.census().await {
            Ok(census) => {
                let _ = writeln!(text, "---- Redis\n{census}");
            }
            Err(error) => {
                let _ = writeln!(text, "---- Redis: {error:#}");
            }
        }
        for slot in self.slots() {
            let log = slot.logs().unwrap_or_default().concat();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(40)..];
            let state = match slot.daemon() {
                Ok(daemon) => daemon.check_running().map_or("ended", |()| "runs"),
                Err(_) => "stopped",
            };
            let _ = writeln!(text, "---- {} ({state})\n{}", slot.name, tail.join("\n"));
        }
        for subscriber in self.subscribers.lock().unwrap_or_else(PoisonError::into_inner).iter().take(10) {
            let _ = writeln!(
                text,
                "---- {} = {}: {} requests",
                subscriber.name,
                subscriber.id,
                self.receiver.count(&subscriber.path)
            );
        }
        eprintln!("{text}");
        Err(error)
    }
}

/// A daemon's HTTP address.
#[derive(Debug)]
pub struct At(Arc<Slot>);

impl std::ops::Deref for At {
    type Target = Api;
    fn deref(&self) -> &Api {
        &self.0.api
    }
}

/// Every message for every one of these subscriptions.
pub fn all_to_all(subscribers: &[Subscriber], messages: &BTreeSet<String>) -> Vec<Expected> {
    subscribers
        .iter()
        .map(|subscriber| Expected { subscriber: subscriber.clone(), messages: messages.clone() })
        .collect()
}
