//! One dead letter, whole.

use postroad_model::{id::MessageId, names::Tenant};
use postroad_store::{DeadLetterId, Store};
use serde::Serialize;

use super::{queue, walks};
use crate::{
    error::Error,
    filter::Filter,
    letter::{Full, Letter},
};

/// A dead letter, and others of the same message.
#[derive(Debug, Serialize)]
pub struct Shown {
    #[serde(flatten)]
    letter: Full,
    /// Where it was asked for by the message's id: that message's other dead letters, newest first.
    #[serde(skip_serializing_if = "Option::is_none")]
    others: Option<Vec<String>>,
}

/// Finds a dead letter by its own id, or by the message's: then the newest.
pub async fn show(store: &Store, tenant: &Tenant, id: &str) -> Result<Shown, Error> {
    let unknown = || Error::no_such("dead letter", id);
    // No message's id has a dot, and every dead letter's has one.
    if id.contains('.') {
        let id: DeadLetterId = id.parse().map_err(|_| unknown())?;
        queue(store, tenant, &id.subscription).await?.ok_or_else(unknown)?;
        let dead = store.dead_letter(&id).await.map_err(Error::Read)?.ok_or_else(unknown)?;
        let letter = Letter::open(dead);
        return if letter.is_of(tenant) {
            Ok(Shown { letter: Full::from(&letter), others: None })
        } else {
            Err(unknown())
        };
    }
    let id = MessageId::new(id).map_err(|_| unknown())?;
    let mut found = find(store, tenant, &id).await?;
    found.sort_by_key(|id| (id.entry, id.clone()));
    // What is moved or purged meanwhile is passed over.
    while let Some(newest) = found.pop() {
        if let Some(dead) = store.dead_letter(&newest).await.map_err(Error::Read)? {
            let others = found.iter().rev().map(ToString::to_string).collect();
            return Ok(Shown { letter: Full::from(&Letter::open(dead)), others: Some(others) });
        }
    }
    Err(unknown())
}

/// The dead letters of a message, in all of the tenant's subscriptions. Only going through them all tells:
/// traces know no replays of history, and are forgotten before dead letters are.
async fn find(store: &Store, tenant: &Tenant, id: &MessageId) -> Result<Vec<DeadLetterId>, Error> {
    let mut found = Vec::new();
    for (_, mut walk) in walks(store, tenant, &Filter::default()).await? {
        loop {
            let page = walk.next(store).await?;
            if page.is_empty() {
                break;
            }
            let is_meant = |letter: &&Letter| {
                letter.message.as_ref().is_ok_and(|message| message.id == *id && message.tenant == *tenant)
            };
            found.extend(page.iter().filter(is_meant).map(|letter| letter.dead.id.clone()));
        }
    }
    Ok(found)
}
