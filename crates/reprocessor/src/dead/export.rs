//! Dead letters, whole, as lines of JSON.

use std::collections::VecDeque;

use bytes::Bytes;
use postroad_model::names::Tenant;
use postroad_store::Store;

use super::{Queue, Walk, walks};
use crate::{error::Error, filter::Filter, letter::Full};

/// An export under way.
pub struct Export {
    store: Store,
    tenant: Tenant,
    filter: Filter,
    left: VecDeque<(Queue, Walk)>,
}

/// Begins to export what a filter means now, by subscription, oldest first.
pub async fn export(store: &Store, tenant: &Tenant, filter: Filter) -> Result<Export, Error> {
    let left = walks(store, tenant, &filter).await?.into();
    Ok(Export { store: store.clone(), tenant: tenant.clone(), filter, left })
}

impl Export {
    /// The next lines, each with its end; `None` when through. One page of letters is held at a time.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        while let Some((queue, walk)) = self.left.front_mut() {
            let page = walk.next(&self.store).await?;
            if page.is_empty() {
                self.left.pop_front();
                continue;
            }
            let mut lines = Vec::new();
            for letter in page.iter().filter(|letter| self.filter.matches(&self.tenant, queue, letter)) {
                // Writing to a vector does not fail, and nothing in a letter fails to serialise.
                let _ = serde_json::to_writer(&mut lines, &Full::from(letter));
                lines.push(b'\n');
            }
            if !lines.is_empty() {
                return Ok(Some(lines.into()));
            }
        }
        Ok(None)
    }
}
