//! Compares matching with those whose meaning it claims: a RabbitMQ's exchanges, and a Redis's PSUBSCRIBE.
//!
//! Of each kind, generated subscriptions are asked about generated messages: by the definition
//! (`postroad_model::matching`), by the router's index, and by the other program. Every pair about which the
//! three are not of one mind is printed, and makes the exit code 1. `scripts/compare-matching` starts what is
//! needed; the same seed makes the same pairs.
//!
//! Headers are compared as they can be on both sides: RabbitMQ compares values strictly by type and names by
//! letter case, Postroad their canonical text and names without regard to case. So here a header of one name
//! always has one type, and names are in lower case.

mod cases;
mod rabbitmq;
mod random;
mod redis;

use std::{env, process::ExitCode, sync::Arc};

use anyhow::{Context, Result};
use postroad_model::{
    matching::{Candidate, wants},
    message::Message,
    names::RoutingKey,
    subscription::Subscription,
};
use postroad_router::index::Index;

use cases::Set;
use random::Random;

/// Which of a set's subscriptions match a message: a row for each message, a flag for each subscription.
type Answers = Vec<Vec<bool>>;

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let number = |name: &str, default: u64| match env::var(name) {
        Ok(text) => text.parse::<u64>().with_context(|| format!("{name} = {text:?} is no number")),
        Err(_) => Ok(default),
    };
    let (seed, pairs) = (number("SEED", 1)?, number("PAIRS", 10_000)?);
    println!("seed {seed}, at least {pairs} pairs of each kind");
    let mut random = Random::new(seed);
    let sets = cases::exchanges(&mut random, pairs);
    let mut compared =
        rabbitmq::ask(&sets)?.into_iter().zip(&sets).map(|(said, set)| (set, said)).collect::<Vec<_>>();
    let patterns = cases::patterns(&mut random, pairs);
    compared.push((&patterns, redis::ask(&patterns).await?));
    let mut disagreements = 0;
    for (set, said) in compared {
        disagreements += compare(set, &said);
    }
    println!("{disagreements} disagreements");
    Ok(if disagreements == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Says how one set compares: how many pairs are seen otherwise.
fn compare(set: &Set, said: &Answers) -> usize {
    let (defined, found) = (by_definition(set), by_index(set));
    let (mut pairs, mut matching, mut wrong) = (0, 0, Vec::new());
    for (row, message) in set.messages.iter().enumerate() {
        for (column, subscription) in set.subscriptions.iter().enumerate() {
            let answers = (said[row][column], defined[row][column], found[row][column]);
            pairs += 1;
            matching += usize::from(answers.0);
            if answers.0 != answers.1 || answers.0 != answers.2 {
                wrong.push(describe(set, subscription, message, answers));
            }
        }
    }
    let (name, against) = (set.name, set.against);
    println!("{name:20} against {against:8}: {pairs} pairs, {matching} match, {} disagree", wrong.len());
    for line in &wrong {
        println!("  {line}");
    }
    wrong.len()
}

fn describe(
    set: &Set,
    subscription: &Subscription,
    message: &Message,
    (said, defined, found): (bool, bool, bool),
) -> String {
    let selector = serde_json::to_string(&subscription.selector).unwrap_or_default();
    let headers = serde_json::to_string(&message.metadata.headers).unwrap_or_default();
    let key = message.routing_key.as_ref().map(RoutingKey::as_str);
    format!(
        "{selector} and channel {}, key {key:?}, headers {headers}: {} says {said}, matches {defined}, the index {found}",
        message.channel, set.against
    )
}

fn by_definition(set: &Set) -> Answers {
    let asked = |message: &Message| {
        let candidate = Candidate {
            tenant: &message.tenant,
            channel: &message.channel,
            channel_type: set.channel_type,
            routing_key: message.routing_key.as_ref().map(RoutingKey::as_str),
            headers: &message.metadata.headers,
            payload: None,
        };
        set.subscriptions.iter().map(|subscription| wants(subscription, &candidate)).collect()
    };
    set.messages.iter().map(asked).collect()
}

fn by_index(set: &Set) -> Answers {
    let mut index = Index::new();
    for subscription in &set.subscriptions {
        index.insert(Arc::clone(subscription));
    }
    let asked = |message: &Message| {
        let mut found = Vec::new();
        index.matches(message, set.channel_type, &mut found);
        let is_found = |one: &Arc<Subscription>| found.iter().any(|found| found.id == one.id);
        set.subscriptions.iter().map(is_found).collect()
    };
    set.messages.iter().map(asked).collect()
}
