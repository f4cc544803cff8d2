//! What is dead, by queue and subscription.

use std::collections::BTreeMap;

use postroad_api::page;
use postroad_model::{
    delivery::DeadReason,
    id::SubscriptionId,
    names::{ChannelName, ServiceName, Tenant},
    subscription::Status,
    time::Time,
};
use postroad_store::{DeadQueue, Store};
use serde::Serialize;

use super::{Queue, queues, walk::Measure};
use crate::{error::Error, filter::Filter, letter::Letter};

/// What is dead.
#[derive(Debug, Serialize)]
pub struct Overview {
    /// Dead letters of the tenant.
    pub total: u64,
    /// Subscriptions that have some.
    pub subscriptions: usize,
    /// By subscription and, within it, by channel.
    pub queues: Vec<QueueRow>,
    /// How many of a subscription's newest letters were looked at, at most, for channels and reasons.
    pub sample_limit: usize,
    /// Leads on to further subscriptions.
    pub next_cursor: Option<String>,
}

/// What is dead of one channel in one subscription.
#[derive(Debug, Serialize)]
pub struct QueueRow {
    /// The channel; the subscription's channel or pattern where no message of it could be read.
    pub queue: String,
    /// The subscription.
    pub subscription_id: SubscriptionId,
    /// The service it belongs to.
    pub service_name: ServiceName,
    /// The channel on which copies of its dead letters are published.
    pub dead_letter_queue: Option<ChannelName>,
    /// Whether deliveries flow.
    pub status: Status,
    /// How many.
    pub count: u64,
    /// `false`: the subscription listens to several channels and has more letters than were looked at, so
    /// `count` is this channel's share of them, and `oldest` is the oldest of those looked at.
    pub exact: bool,
    /// When the oldest died.
    pub oldest: Time,
    /// When the newest died.
    pub newest: Time,
    /// The commonest reasons among those looked at, commonest first.
    pub reasons: Vec<ReasonRow>,
    /// How many were looked at.
    pub sampled: u64,
}

/// A reason, and how often it was met.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ReasonRow {
    /// Why it died.
    pub reason: Option<&'static str>,
    /// The last attempt's status code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status_code: Option<u16>,
    /// Where there was no answer: the last attempt's error, without its numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How many.
    pub count: u64,
}

/// How many reasons are shown.
const REASONS: usize = 5;
/// What is looked at of one subscription, at most.
const BYTES: usize = 2 << 20;

/// Sums up what is dead: a page of subscriptions, each by at most `sample` of its newest letters.
pub async fn overview(
    store: &Store,
    tenant: &Tenant,
    sample: usize,
    limit: usize,
    after: Option<&str>,
) -> Result<Overview, Error> {
    let all = queues(store, tenant, &Filter::default()).await?;
    let ids: Vec<SubscriptionId> = all.iter().map(|queue| queue.id.clone()).collect();
    let total = store.count_dead(&ids).await.map_err(Error::Read)?.into_iter().sum();
    let from = after.map_or(0, |after| all.partition_point(|queue| queue.id.as_str() <= after));
    let shown = &all[from..all.len().min(from + limit)];
    let more = from + shown.len() < all.len();
    let next_cursor = shown.last().filter(|_| more).map(|last| page::cursor(last.id.as_str()));
    let shown_ids: Vec<SubscriptionId> = shown.iter().map(|queue| queue.id.clone()).collect();
    let mut figures = store.dead_queues_of(&shown_ids).await.map_err(Error::Read)?.into_iter().peekable();
    let mut rows = Vec::new();
    for queue in shown {
        if let Some(figures) = figures.next_if(|figures| figures.subscription == queue.id) {
            let sampled = newest(store, tenant, &queue.id, sample).await?;
            rows.extend(rows_of(queue, &figures, sampled));
        }
    }
    Ok(Overview { total, subscriptions: all.len(), queues: rows, sample_limit: sample, next_cursor })
}

/// A reason, the last attempt's status code and, where there was no answer, its error.
type Reason = (Option<&'static str>, Option<u16>, Option<String>);
type Reasons = BTreeMap<Reason, u64>;

/// What was seen of one channel.
#[derive(Default)]
struct Seen {
    count: u64,
    oldest_ms: u64,
    newest_ms: u64,
    reasons: Reasons,
}

/// Looks at the newest letters, by channel.
async fn newest(
    store: &Store,
    tenant: &Tenant,
    id: &SubscriptionId,
    sample: usize,
) -> Result<BTreeMap<String, Seen>, Error> {
    let mut seen: BTreeMap<String, Seen> = BTreeMap::new();
    let (mut left, mut bytes, mut below, mut measure) = (sample, 0, None, Measure::default());
    while left > 0 && bytes < BYTES {
        let most = measure.most().min(left);
        let page = store.newest_dead_letters(id, below, most).await.map_err(Error::Read)?;
        let page: Vec<Letter> = page.into_iter().map(Letter::open).collect();
        measure.learn_of(&page);
        bytes += page.iter().map(Letter::size).sum::<usize>();
        below = page.last().map(|last| last.dead.id.entry);
        left = if page.len() < most { 0 } else { left - page.len() };
        for letter in page.iter().filter(|letter| letter.is_of(tenant)) {
            let channel = letter.channel().map(ToString::to_string).unwrap_or_default();
            let seen = seen.entry(channel).or_default();
            seen.newest_ms = seen.newest_ms.max(letter.dead.died_ms);
            seen.oldest_ms =
                if seen.count == 0 { letter.dead.died_ms } else { seen.oldest_ms.min(letter.dead.died_ms) };
            seen.count += 1;
            *seen.reasons.entry(reason(letter)).or_default() += 1;
        }
    }
    Ok(seen)
}

fn reason(letter: &Letter) -> Reason {
    let last = letter.last();
    let status = last.and_then(|last| last.status);
    let error = last.filter(|_| status.is_none()).and_then(|last| last.error.as_deref()).map(without_numbers);
    (letter.dead.reason.map(DeadReason::as_str), status, error)
}

/// An error as its kind: what differs from one attempt to the next is mostly numbers.
fn without_numbers(error: &str) -> String {
    let mut kind = String::new();
    for c in error.chars().take(120) {
        match c {
            '0'..='9' if kind.ends_with('#') => {}
            '0'..='9' => kind.push('#'),
            c => kind.push(if c.is_control() { ' ' } else { c }),
        }
    }
    kind
}

fn rows_of(queue: &Queue, figures: &DeadQueue, seen: BTreeMap<String, Seen>) -> Vec<QueueRow> {
    let looked: u64 = seen.values().map(|seen| seen.count).sum();
    let alone = seen.len() <= 1;
    let exact = looked >= figures.count || (alone && !queue.is_pattern);
    let row = |(channel, seen): (String, Seen)| {
        let count = match (alone, exact) {
            (true, _) => figures.count,
            (false, true) => seen.count,
            (false, false) => (figures.count * seen.count).div_ceil(looked.max(1)),
        };
        let oldest_ms = if alone { figures.oldest_ms } else { seen.oldest_ms };
        QueueRow {
            queue: if channel.is_empty() { queue.channel_pattern.clone() } else { channel },
            subscription_id: queue.id.clone(),
            service_name: queue.service_name.clone(),
            dead_letter_queue: queue.dead_letter_queue.clone(),
            status: queue.status,
            count,
            exact,
            oldest: Time::from_millis(oldest_ms),
            newest: Time::from_millis(seen.newest_ms),
            reasons: top(seen.reasons),
            sampled: seen.count,
        }
    };
    seen.into_iter().map(row).collect()
}

fn top(reasons: Reasons) -> Vec<ReasonRow> {
    let mut rows: Vec<ReasonRow> = reasons
        .into_iter()
        .map(|((reason, status_code, error), count)| ReasonRow { reason, status_code, error, count })
        .collect();
    rows.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.cmp(b)));
    rows.truncate(REASONS);
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_a_kind_are_one_kind() {
        let kind = without_numbers("timeout: no answer within 15000 ms");
        assert_eq!(kind, "timeout: no answer within # ms");
        assert_eq!(without_numbers("connect: 10.0.0.17:8080\n"), "connect: #.#.#.#:# ");
    }
}
