//! Everything that lies in Redis, seen in one moment, and whether its parts agree.
//!
//! The keys are read by one script of our own. Their names come from `postroad_store::keys`, as nothing else
//! does.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use anyhow::{Context, Result};
use postroad_store::keys;
use postroad_testkit::redis::{PrivateRedis, Reply};
use serde_json::Value;

/// The environment in which a town lives.
pub const ENVIRONMENT: &str = "e2e";

/// Everything that lies in Redis.
#[derive(Debug, Default)]
pub struct Census {
    /// What was accepted: per `<partition>:<ingress id>` the message's id.
    pub accepted: HashMap<String, String>,
    /// What lies in work queues.
    pub queued: Vec<Queued>,
    /// What lies in the subscriptions' dead letters.
    pub dead: Vec<Dead>,
    /// Per subscription, how many entries its queues were ever given.
    pub enqueued: HashMap<String, usize>,
    /// Entries of ingress that were put aside.
    pub quarantined: usize,
    /// Per message and subscription, what its traces say.
    pub traces: HashMap<(String, String), Traced>,
    /// The partitions.
    pub partitions: BTreeMap<u16, Partition>,
    /// The lanes.
    pub lanes: BTreeMap<u16, Lane>,
    /// Keys of another type than their name says.
    pub odd: Vec<String>,
}

/// An entry of a work queue.
#[derive(Debug, Clone)]
pub struct Queued {
    /// The subscription.
    pub subscription: String,
    /// The rank of the queue.
    pub rank: String,
    /// The entry.
    pub entry: String,
    /// The message; empty for junk.
    pub message: String,
    /// `waiting`, or the name of the consumer that it lies with.
    pub place: String,
}

/// A dead letter.
#[derive(Debug, Clone)]
pub struct Dead {
    /// The subscription.
    pub subscription: String,
    /// The message; empty for junk.
    pub message: String,
    /// Why.
    pub reason: String,
    /// Its attempts, as JSON, oldest first.
    pub attempts: Vec<Value>,
}

/// What the traces say of a message and a subscription.
#[derive(Debug, Clone, Default)]
pub struct Traced {
    /// Times it was put into its queue.
    pub queued: usize,
    /// Times it died without having been queued (a full queue).
    pub refused: usize,
    /// Its attempts: where each led, and the attempt as JSON.
    pub attempts: Vec<(String, Value)>,
}

/// A partition.
#[derive(Debug, Default)]
pub struct Partition {
    /// The newest accepted entry.
    pub newest: Id,
    /// Up to where it is routed; none without the group.
    pub routed: Option<Id>,
    /// Its owner's name.
    pub owner: String,
    /// Lane → the highest id sent there.
    pub sent: BTreeMap<u16, Id>,
    /// Messages that have a due time, and bodies of such.
    pub delayed: (usize, usize),
}

/// A lane.
#[derive(Debug, Default)]
pub struct Lane {
    /// Partition → the highest id taken.
    pub marks: BTreeMap<u16, Id>,
    /// Ready tokens: id and subscription.
    pub ready: Vec<(String, String)>,
    /// Subscriptions that are said to hold entries.
    pub live: BTreeSet<String>,
    /// Timers.
    pub timers: BTreeSet<String>,
    /// Subscriptions: the fields of their hashes.
    pub subscriptions: BTreeMap<String, HashMap<String, String>>,
    /// Subscriptions with something left beside their queues.
    pub tries: BTreeMap<String, usize>,
    /// Entries in the outbox.
    pub outbox: usize,
}

/// A stream's id, compared as two numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Id(pub u64, pub u64);

impl Id {
    fn parse(text: &str) -> Option<Self> {
        let (ms, seq) = text.split_once('-')?;
        Some(Self(ms.parse().ok()?, seq.parse().ok()?))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.0, self.1)
    }
}

/// What daemons have counted.
const FIGURES: [&str; 5] = [
    keys::FIGURES_MINUTES,
    keys::FIGURES_HOURS,
    keys::FIGURES_TOTAL,
    keys::FIGURES_CHANNELS,
    keys::FIGURES_BY,
];

impl Census {
    /// Takes it.
    pub async fn take(redis: &PrivateRedis) -> Result<Self> {
        let reply = redis.command(&["EVAL", include_str!("census.lua"), "0", ENVIRONMENT]).await?;
        let mut census = Self::default();
        // References are needed to read traces, so traces come last.
        let (traces, rest): (Vec<&Reply>, Vec<&Reply>) = reply
            .items()
            .iter()
            .partition(|row| text(&row.items()[0]).contains(&format!(":{}", keys::TRACE)));
        for row in rest.into_iter().chain(traces) {
            census.add(row).with_context(|| format!("census of {}", text(&row.items()[0])))?;
        }
        Ok(census)
    }

    fn add(&mut self, row: &Reply) -> Result<()> {
        let [key, kind, content, groups, added] = row.items() else { anyhow::bail!("an odd row") };
        let (key, kind) = (text(key), text(kind));
        let (tag, name) = split_key(&key).with_context(|| format!("the key {key}"))?;
        if kind == "ids" || tag == "ctl" {
            return Ok(());
        }
        let number: u16 = tag[1..].split('.').next().unwrap_or_default().parse()?;
        if tag.starts_with('p') {
            self.add_partition(number, name, &kind, content, groups, &key);
        } else {
            self.add_lane(number, name, &kind, content, groups, &key);
            if let Some(queue) = name.strip_prefix(keys::WORK) {
                let id = queue.rsplit_once(':').map_or(queue, |(id, _)| id);
                let added = usize::try_from(added.int().unwrap_or(0))?;
                *self.enqueued.entry(id.to_owned()).or_default() += added;
            }
        }
        Ok(())
    }

    fn add_partition(
        &mut self,
        number: u16,
        name: &str,
        kind: &str,
        content: &Reply,
        groups: &Reply,
        key: &str,
    ) {
        let partition = self.partitions.entry(number).or_default();
        match (name, kind) {
            (keys::INGRESS, "stream") => {
                for (id, fields) in rows(content) {
                    partition.newest = partition.newest.max(Id::parse(&id).unwrap_or_default());
                    if let Some(message) = message_of(&fields) {
                        self.accepted.insert(format!("{number}:{id}"), message);
                    }
                }
                for group in groups.items() {
                    if text(&group.items()[0]) == keys::ROUTER {
                        partition.routed = Id::parse(&text(&group.items()[1]));
                    }
                }
            }
            (keys::OWNER, "hash") => {
                partition.owner = pairs(content).remove("name").unwrap_or_default();
            }
            (keys::SENT, "hash") => {
                let sent = pairs(content);
                partition.sent =
                    sent.iter().filter_map(|(lane, id)| Some((lane.parse().ok()?, Id::parse(id)?))).collect();
            }
            (keys::QUARANTINE, "stream") => self.quarantined += content.items().len(),
            (keys::DOOR | keys::JOBS, "hash") | (keys::CHANNELS, "zset") => {}
            (_, "hash") if name.starts_with(keys::GENERATIONS) => {}
            (keys::DELAYED, "zset") => partition.delayed.0 = content.items().len() / 2,
            (_, "hash") if name.starts_with(keys::BODIES) => partition.delayed.1 += content.items().len() / 2,
            // What daemons counted of what this census counts itself.
            _ if FIGURES.iter().any(|prefix| name.starts_with(prefix)) => {}
            _ => self.odd.push(format!("{key} ({kind})")),
        }
    }

    fn add_lane(&mut self, number: u16, name: &str, kind: &str, content: &Reply, groups: &Reply, key: &str) {
        let lane = self.lanes.entry(number).or_default();
        match (name, kind) {
            (keys::MARKS, "hash") => {
                let marks = pairs(content);
                lane.marks = marks
                    .iter()
                    .filter_map(|(partition, id)| Some((partition.parse().ok()?, Id::parse(id)?)))
                    .collect();
            }
            (keys::READY, "stream") => {
                lane.ready = rows(content)
                    .map(|(id, mut fields)| (id, fields.remove("s").unwrap_or_default()))
                    .collect();
            }
            (keys::LIVE, "set") => lane.live = content.items().iter().map(text).collect(),
            (keys::TIMERS, "zset") => lane.timers = content.items().iter().step_by(2).map(text).collect(),
            (keys::OUTBOX, "stream") => lane.outbox = content.items().len(),
            (keys::DEADS, "set") | (keys::JOBS, "hash") => {}
            _ => match (name.split_once(':').unwrap_or((name, "")), kind) {
                (("sub", id), "hash") => {
                    lane.subscriptions.insert(id.to_owned(), pairs(content));
                }
                (("tries", id), "hash") => {
                    lane.tries.insert(id.to_owned(), content.items().len() / 2);
                }
                (("work", rest), "stream") => {
                    let (id, rank) = rest.rsplit_once(':').unwrap_or((rest, ""));
                    let pending = pending(groups);
                    self.queued.extend(rows(content).map(|(entry, fields)| Queued {
                        subscription: id.to_owned(),
                        rank: rank.to_owned(),
                        message: message_of(&fields).unwrap_or_default(),
                        place: pending.get(&entry).cloned().unwrap_or_else(|| "waiting".to_owned()),
                        entry,
                    }));
                }
                (("dead", id), "stream") => {
                    self.dead.extend(rows(content).map(|(_, fields)| Dead {
                        subscription: id.to_owned(),
                        message: message_of(&fields).unwrap_or_default(),
                        reason: fields.get("reason").cloned().unwrap_or_default(),
                        attempts: fields.get("tries").map(|tries| attempts_of(tries)).unwrap_or_default(),
                    }));
                }
                (("trace", reference), "string") => {
                    // A message that history has let go, or junk.
                    let Some(message) = self.accepted.get(reference) else { return };
                    for line in text(&content.items()[0]).lines() {
                        read_trace(&mut self.traces, message, line);
                    }
                }
                _ => self.odd.push(format!("{key} ({kind})")),
            },
        }
    }

    /// Entries that wait to be routed, as far as the newest one tells.
    pub fn unrouted(&self) -> Vec<u16> {
        let behind = |partition: &Partition| partition.routed.unwrap_or_default() < partition.newest;
        self.partitions.iter().filter(|(_, p)| behind(p)).map(|(number, _)| *number).collect()
    }

    /// Where parts disagree that always agree, or do after a sweep; empty in health.
    pub fn disagreements(&self) -> Vec<String> {
        let mut found: Vec<String> = self.odd.iter().map(|odd| format!("an odd key {odd}")).collect();
        let mut holding: BTreeMap<&str, usize> = BTreeMap::new();
        for queued in &self.queued {
            *holding.entry(&queued.subscription).or_default() += 1;
            let known = ["waiting", "ack", "later", "again", "held"];
            if !known.contains(&queued.place.as_str()) && !queued.place.starts_with("w-") {
                found.push(format!("an entry of {} lies with {}", queued.subscription, queued.place));
            }
        }
        for (number, lane) in &self.lanes {
            self.lane_disagreements(*number, lane, &holding, &mut found);
        }
        for (number, partition) in &self.partitions {
            let (due, bodies) = partition.delayed;
            if due != bodies {
                found.push(format!("partition {number}: {due} messages are to become due, {bodies} wait"));
            }
            for (lane, sent) in &partition.sent {
                let mark = self.lanes.get(lane).and_then(|lane| lane.marks.get(number));
                if mark.copied().unwrap_or_default() < *sent {
                    found.push(format!(
                        "partition {number} sent lane {lane} up to {sent}, whose mark is {}",
                        mark.copied().unwrap_or_default()
                    ));
                }
            }
        }
        found
    }

    fn lane_disagreements(
        &self,
        number: u16,
        lane: &Lane,
        holding: &BTreeMap<&str, usize>,
        found: &mut Vec<String>,
    ) {
        for (token, subscription) in &lane.ready {
            let armed = lane.subscriptions.get(subscription).and_then(|fields| fields.get("token"));
            if armed != Some(token) {
                found.push(format!("lane {number}: the token {token} of {subscription} is not its own"));
            }
        }
        for (id, fields) in &lane.subscriptions {
            if let Some(token) = fields.get("token")
                && !lane.ready.iter().any(|(known, _)| known == token)
            {
                found.push(format!("lane {number}: {id} has the token {token}, which lies nowhere"));
            }
            let bytes: i64 = fields.get("bytes").and_then(|bytes| bytes.parse().ok()).unwrap_or(0);
            if bytes < 0 || (bytes > 0 && !holding.contains_key(id.as_str())) {
                found.push(format!("lane {number}: {id} counts {bytes} bytes and holds nothing"));
            }
        }
        for id in lane.subscriptions.keys().filter(|id| holding.contains_key(id.as_str())) {
            if !lane.live.contains(id) {
                found.push(format!("lane {number}: {id} holds entries and is not live"));
            }
        }
        for id in lane.live.iter().filter(|id| !holding.contains_key(id.as_str())) {
            found.push(format!("lane {number}: {id} is live and holds nothing"));
        }
        for (id, count) in lane.tries.iter().filter(|(id, _)| !holding.contains_key(id.as_str())) {
            found.push(format!("lane {number}: {count} tries of {id}, which holds nothing"));
        }
        for queued in &self.queued {
            let Queued { subscription, rank, entry, place, .. } = queued;
            let timed = place == "later" || place == "ack";
            let timer = format!("{place}:{subscription}:{rank}:{entry}");
            if timed && lane.subscriptions.contains_key(subscription) && !lane.timers.contains(&timer) {
                found.push(format!("lane {number}: no timer {timer}"));
            }
        }
        for timer in &lane.timers {
            let entry = timer.rsplit(':').next().unwrap_or_default();
            let of_delivery = timer.starts_with("later:") || timer.starts_with("ack:");
            if of_delivery && !self.queued.iter().any(|queued| queued.entry == entry) {
                found.push(format!("lane {number}: the timer {timer} of nothing"));
            }
        }
    }
}

impl fmt::Display for Census {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} accepted, {} traced pairs, {} queued, {} dead, {} put aside; not routed: partitions {:?}",
            self.accepted.len(),
            self.traces.len(),
            self.queued.len(),
            self.dead.len(),
            self.quarantined,
            self.unrouted(),
        )?;
        let owners: Vec<&str> = self.partitions.values().map(|p| p.owner.as_str()).collect();
        writeln!(f, "owners: {owners:?}")?;
        let mut places: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for queued in &self.queued {
            *places.entry((&queued.subscription, &queued.place)).or_default() += 1;
        }
        for ((subscription, place), count) in places.iter().take(40) {
            writeln!(f, "  {subscription}: {count} {place}")?;
        }
        for (number, lane) in &self.lanes {
            for (id, fields) in lane.subscriptions.iter().filter(|(id, _)| {
                lane.live.contains(*id) || self.queued.iter().any(|queued| queued.subscription == **id)
            }) {
                let shown: BTreeMap<_, _> =
                    fields.iter().filter(|(name, _)| name.as_str() != "settings").collect();
                writeln!(f, "  lane {number}: {id} {shown:?}, ready {:?}", lane.ready)?;
            }
        }
        for disagreement in self.disagreements().iter().take(20) {
            writeln!(f, "  {disagreement}")?;
        }
        Ok(())
    }
}

fn read_trace(traces: &mut HashMap<(String, String), Traced>, message: &str, line: &str) {
    let mut parts = line.splitn(4, ' ');
    let (Some(kind), Some(subscription)) = (parts.next(), parts.next()) else { return };
    let traced = traces.entry((message.to_owned(), subscription.to_owned())).or_default();
    match kind {
        "q" => traced.queued += 1,
        // What dies of anything else without an attempt (it expired, it was pushed out) had been queued.
        "d" if parts.next() == Some("queue_full") => traced.refused += 1,
        "a" => {
            let place = parts.next().unwrap_or_default().to_owned();
            let attempt = serde_json::from_str(parts.next().unwrap_or_default()).unwrap_or(Value::Null);
            traced.attempts.push((place, attempt));
        }
        _ => {}
    }
}

fn attempts_of(tries: &str) -> Vec<Value> {
    tries.lines().skip(1).filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// `<environment>:{<tag>}:<name>`.
fn split_key(key: &str) -> Option<(&str, &str)> {
    key.strip_prefix(ENVIRONMENT)?.strip_prefix(":{")?.split_once("}:")
}

/// The id in a record, `<version> <header>\n<body>`.
fn message_of(fields: &HashMap<String, String>) -> Option<String> {
    let (_, header) = fields.get("m")?.split_once(' ')?;
    let header: Value = serde_json::from_str(header).ok()?;
    Some(header["id"].as_str()?.to_owned())
}

fn pending(groups: &Reply) -> HashMap<String, String> {
    let all = groups.items().iter().flat_map(|group| group.items()[2].items());
    all.map(|row| (text(&row.items()[0]), text(&row.items()[1]))).collect()
}

fn rows(content: &Reply) -> impl Iterator<Item = (String, HashMap<String, String>)> {
    content.items().iter().map(|row| (text(&row.items()[0]), pairs(&row.items()[1])))
}

fn pairs(content: &Reply) -> HashMap<String, String> {
    content.items().chunks_exact(2).map(|pair| (text(&pair[0]), text(&pair[1]))).collect()
}

fn text(reply: &Reply) -> String {
    reply.text().unwrap_or_default()
}
