//! How many dead letters a filter means: what a replay would move.

use postroad_model::{id::SubscriptionId, names::Tenant};
use postroad_store::Store;
use serde::Serialize;

use super::walks;
use crate::{error::Error, filter::Filter};

/// What a filter means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Always true: nothing was done.
    pub dry_run: bool,
    /// How many dead letters match.
    pub matched: u64,
    /// How many of them a replay with this limit would move.
    pub would_move: u64,
    /// The limit.
    pub limit: Option<u64>,
    /// By subscription, in the order in which a replay takes them.
    pub subscriptions: Vec<CountOf>,
}

/// What a filter means in one subscription.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CountOf {
    /// The subscription.
    pub subscription_id: SubscriptionId,
    /// Its channel, or its pattern.
    pub channel_pattern: String,
    /// How many dead letters match.
    pub matched: u64,
    /// How many of them a replay with this limit would move, if no queue is full.
    pub would_move: u64,
}

/// Counts the dead letters that a filter means now.
pub async fn count(
    store: &Store,
    tenant: &Tenant,
    filter: &Filter,
    limit: Option<u64>,
) -> Result<Count, Error> {
    let mut count = Count { dry_run: true, matched: 0, would_move: 0, limit, subscriptions: Vec::new() };
    for (queue, mut walk) in walks(store, tenant, filter).await? {
        let mut matched = 0;
        loop {
            let page = walk.next(store).await?;
            if page.is_empty() {
                break;
            }
            for letter in &page {
                matched += u64::from(filter.matches(tenant, &queue, letter));
            }
        }
        if matched > 0 {
            let would_move = limit.map_or(matched, |limit| matched.min(limit - count.would_move));
            count.matched += matched;
            count.would_move += would_move;
            let (subscription_id, channel_pattern) = (queue.id, queue.channel_pattern);
            count.subscriptions.push(CountOf { subscription_id, channel_pattern, matched, would_move });
        }
    }
    Ok(count)
}
