//! Publisher's log, census and receiver's log against each other.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;

use anyhow::{Result, ensure};
use postroad_testkit::receiver::Receiver;

use crate::Subscriber;
use crate::census::Census;

/// Which messages a subscription should get: worked out by the scenario.
#[derive(Debug, Clone)]
pub struct Expected {
    /// The subscription.
    pub subscriber: Subscriber,
    /// The messages' ids.
    pub messages: BTreeSet<String>,
}

/// What became of every accepted message for every subscription that it should reach.
#[derive(Debug, Default)]
pub struct Balance {
    /// Messages × subscriptions.
    pub pairs: usize,
    /// Pairs that the receiver has answered with 2xx.
    pub delivered: usize,
    /// Pairs that lie dead, and are not delivered.
    pub dead: usize,
    /// Pairs that lie in a queue, and are not delivered.
    pub queued: usize,
    /// Extra 2xx answers.
    pub duplicates: usize,
    /// All requests that the receiver got.
    pub requests: usize,
    /// Pairs that are nowhere.
    pub lost: Vec<String>,
    /// Pairs whose traces do not say that they were put into their queue once.
    pub untraced: Vec<String>,
    /// Entries that queues were given beyond the pairs that should be (or fewer, below 0).
    pub surplus: i64,
    /// Pairs that should not be.
    pub unexpected: Vec<String>,
    /// Pairs that lie in more than one place.
    pub doubled: Vec<String>,
}

impl Balance {
    /// Strikes it.
    pub fn strike(census: &Census, receiver: &Receiver, expected: &[Expected]) -> Self {
        let mut balance = Self::default();
        for Expected { subscriber, messages } in expected {
            let mut answered: HashMap<String, usize> = HashMap::new();
            for request in receiver.received(&subscriber.path) {
                balance.requests += 1;
                if request.answered().is_some_and(|status| (200..300).contains(&status)) {
                    *answered.entry(request.header("webhook-id").unwrap_or("?").to_owned()).or_default() += 1;
                }
            }
            let mut lies: BTreeMap<&str, usize> = BTreeMap::new();
            let of = |id: &String| *id == subscriber.id;
            let queued: HashSet<&str> = census
                .queued
                .iter()
                .filter(|row| of(&row.subscription))
                .map(|row| row.message.as_str())
                .collect();
            let dead: HashSet<&str> = census
                .dead
                .iter()
                .filter(|row| of(&row.subscription))
                .map(|row| row.message.as_str())
                .collect();
            for row in census.queued.iter().filter(|row| of(&row.subscription)) {
                *lies.entry(&row.message).or_default() += 1;
            }
            for row in census.dead.iter().filter(|row| of(&row.subscription)) {
                *lies.entry(&row.message).or_default() += 1;
            }
            let name = |message: &str| format!("{message} for {}", subscriber.name);
            balance.doubled.extend(
                lies.iter()
                    .filter(|(message, count)| **count > 1 && !message.is_empty())
                    .map(|(message, count)| format!("{} ({count} places)", name(message))),
            );
            balance.duplicates += answered.values().map(|count| count - 1).sum::<usize>();
            balance.pairs += messages.len();
            let mut refused = 0;
            for message in messages {
                if answered.contains_key(message) {
                    balance.delivered += 1;
                } else if dead.contains(message.as_str()) {
                    balance.dead += 1;
                } else if queued.contains(message.as_str()) {
                    balance.queued += 1;
                } else {
                    balance.lost.push(name(message));
                }
                let traced = census.traces.get(&(message.clone(), subscriber.id.clone()));
                refused += traced.map_or(0, |traced| traced.refused);
                let times = traced.map_or(0, |traced| traced.queued + traced.refused);
                if times != 1 {
                    balance.untraced.push(format!("{} (queued {times} times)", name(message)));
                }
            }
            let enqueued = census.enqueued.get(&subscriber.id).copied().unwrap_or(0);
            let wanted = messages.len() - refused;
            balance.surplus += i64::try_from(enqueued).unwrap_or(0) - i64::try_from(wanted).unwrap_or(0);
            let mut met: BTreeSet<&str> = answered.keys().map(String::as_str).collect();
            met.extend(queued);
            met.extend(dead);
            met.extend(
                census
                    .traces
                    .keys()
                    .filter(|(_, id)| *id == subscriber.id)
                    .map(|(message, _)| message.as_str()),
            );
            balance
                .unexpected
                .extend(met.into_iter().filter(|id| !id.is_empty() && !messages.contains(*id)).map(name));
        }
        balance
    }

    /// An error unless everything was routed once and nothing is lost, doubled or astray.
    pub fn conserved(&self) -> Result<()> {
        ensure!(self.lost.is_empty(), "{} pairs are lost: {}", self.lost.len(), few(&self.lost));
        self.routed_once()?;
        ensure!(
            self.untraced.is_empty(),
            "{} pairs lack a trace: {}",
            self.untraced.len(),
            few(&self.untraced)
        );
        self.nothing_astray()
    }

    /// An error unless the queues were given exactly one entry for each pair.
    pub fn routed_once(&self) -> Result<()> {
        ensure!(
            self.surplus == 0,
            "the queues were given {:+} entries beyond one for each pair",
            self.surplus
        );
        Ok(())
    }

    /// An error if something is where it should not be.
    pub fn nothing_astray(&self) -> Result<()> {
        ensure!(
            self.unexpected.is_empty(),
            "{} pairs should not be: {}",
            self.unexpected.len(),
            few(&self.unexpected)
        );
        ensure!(
            self.doubled.is_empty(),
            "{} pairs lie in several places: {}",
            self.doubled.len(),
            few(&self.doubled)
        );
        Ok(())
    }
}

impl fmt::Display for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pairs, delivered, dead, queued, duplicates, requests, .. } = self;
        write!(
            f,
            "{pairs} pairs: {delivered} delivered, {dead} dead, {queued} queued, {} lost, {} \
             unexpected, routed {:+}; {duplicates} duplicates in {requests} requests",
            self.lost.len(),
            self.unexpected.len(),
            self.surplus,
        )
    }
}

fn few(all: &[String]) -> String {
    all.iter().take(8).cloned().collect::<Vec<_>>().join(", ")
}
