//! Letting dead letters go, for good.

use postroad_model::names::Tenant;
use postroad_store::{Store, StreamId};

use super::walks;
use crate::{error::Error, filter::Filter};

/// Lets go of the dead letters that a filter means, if there are as many as `confirm` says. How many went:
/// fewer only where others moved some in between.
pub async fn purge(store: &Store, tenant: &Tenant, filter: &Filter, confirm: u64) -> Result<u64, Error> {
    let walks = walks(store, tenant, filter).await?;
    let mut matching = 0;
    for (queue, walk) in &walks {
        let mut walk = walk.clone();
        loop {
            let page = walk.next(store).await?;
            if page.is_empty() {
                break;
            }
            for letter in &page {
                matching += u64::from(filter.matches(tenant, queue, letter));
            }
        }
    }
    if matching != confirm {
        return Err(Error::Unconfirmed { given: confirm, matching });
    }
    // The same ways again: what has died since lies behind their ends, and letters never change.
    let mut gone = 0;
    for (queue, mut walk) in walks {
        loop {
            let page = walk.next(store).await?;
            if page.is_empty() {
                break;
            }
            let meant = page.iter().filter(|letter| filter.matches(tenant, &queue, letter));
            let ids: Vec<StreamId> = meant.map(|letter| letter.dead.id.entry).collect();
            if !ids.is_empty() {
                gone += store.purge_dead(&queue.id, &ids).await.map_err(Error::Purge)?;
            }
        }
    }
    Ok(gone)
}
