//! Which subscriptions match this message, without asking those that don't.
//!
//! A subscription stands in one place of a tree of lookups: tenant, then channel (by hash) or channel
//! pattern ([`globs`]), and there in a [`bucket`]: by its filter's most telling field ([`filters`]) if it
//! has a filter, else by its routing key ([`topics`]) or its headers ([`headers`]). What a lookup finds is a
//! candidate; each candidate is then asked for its remaining conditions by the rules of
//! `postroad_model::matching`, which the index is tested against. So a lookup may find too much (a message
//! costs what its candidates cost) but never too little.
//!
//! Everything is updated in place, except automata over literals ([`needles`]), which are built anew when
//! doing without has cost as much. Filters are found by plain maps over the fields of the payload; see
//! `postroad_model::filter` for why not by `quamina`.

mod bucket;
mod filters;
mod globs;
mod headers;
mod needles;
mod ranges;
mod scalars;
mod slots;
mod topics;
mod view;

use std::{
    collections::{HashMap, HashSet},
    mem,
    sync::Arc,
};

use postroad_model::{
    id::SubscriptionId,
    matching::ChannelType,
    message::Message,
    names::{ChannelName, Tenant},
    subscription::{Channels, Subscription},
};

use self::{bucket::Bucket, globs::Globs, slots::Slot, view::View};

/// Subscriptions, arranged so that those which match a message are found at a cost that hardly depends on
/// how many do not.
#[derive(Default)]
pub struct Index {
    tenants: HashMap<Tenant, Channeled>,
    slots: Vec<Option<Arc<Subscription>>>,
    free: Vec<Slot>,
    by_id: HashMap<SubscriptionId, Slot>,
    /// The lookup in which each slot was last a candidate.
    seen: Vec<u64>,
    lookups: u64,
    candidates: Vec<Slot>,
}

/// One tenant's subscriptions.
#[derive(Default)]
struct Channeled {
    exact: HashMap<ChannelName, Bucket>,
    globs: Globs,
}

impl Index {
    /// An empty index.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in a subscription, in place of the one with the same id if there is one.
    pub fn insert(&mut self, subscription: Arc<Subscription>) {
        self.remove(&subscription.id);
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.seen.push(0);
            Slot::at(self.slots.len() - 1)
        });
        self.by_id.insert(subscription.id.clone(), slot);
        let tenant = self.tenants.entry(subscription.tenant.clone()).or_default();
        let bucket = match &subscription.selector.channels {
            Channels::Channel(name) => tenant.exact.entry(name.clone()).or_default(),
            Channels::Pattern(glob) => tenant.globs.bucket(glob),
        };
        bucket.insert(slot, &subscription.selector);
        self.slots[slot.index()] = Some(subscription);
    }

    /// Drops a subscription; nothing happens if it is not there.
    pub fn remove(&mut self, id: &SubscriptionId) {
        let Some(slot) = self.by_id.remove(id) else { return };
        let Some(subscription) = self.slots[slot.index()].take() else { return };
        self.free.push(slot);
        let Some(tenant) = self.tenants.get_mut(&subscription.tenant) else { return };
        match &subscription.selector.channels {
            Channels::Channel(name) => {
                if let Some(bucket) = tenant.exact.get_mut(name) {
                    bucket.remove(slot, &subscription.selector);
                    if bucket.is_empty() {
                        tenant.exact.remove(name);
                    }
                }
            }
            Channels::Pattern(glob) => tenant.globs.remove(glob, slot, &subscription.selector),
        }
        if tenant.exact.is_empty() && tenant.globs.is_empty() {
            self.tenants.remove(&subscription.tenant);
        }
    }

    /// Appends to `out` the subscriptions of the message's tenant that match it, each once, in no
    /// particular order. Neither their status nor the message's `targets` are looked at.
    pub fn matches(
        &mut self,
        message: &Message,
        channel_type: ChannelType,
        out: &mut Vec<Arc<Subscription>>,
    ) {
        let Some(tenant) = self.tenants.get_mut(&message.tenant) else { return };
        self.lookups += 1;
        let view = View::new(message, channel_type, self.lookups);
        let mut candidates = mem::take(&mut self.candidates);
        if let Some(bucket) = tenant.exact.get_mut(&message.channel) {
            bucket.find(&view, &mut candidates);
        }
        tenant.globs.find(&view, &mut candidates);
        for slot in candidates.drain(..) {
            let seen = mem::replace(&mut self.seen[slot.index()], self.lookups);
            if let Some(subscription) = &self.slots[slot.index()]
                && seen != self.lookups
                && view.satisfies(&subscription.selector)
            {
                out.push(Arc::clone(subscription));
            }
        }
        self.candidates = candidates;
    }

    /// Appends to `out` the subscriptions that the message names as its targets, each once, as far as they are
    /// there and of the message's tenant.
    pub fn targets(&self, message: &Message, out: &mut Vec<Arc<Subscription>>) {
        let named: HashSet<&SubscriptionId> = message.targets.iter().collect();
        let found = named.into_iter().filter_map(|id| self.get(id));
        out.extend(found.filter(|subscription| subscription.tenant == message.tenant));
    }

    /// A subscription by its id.
    pub fn get(&self, id: &SubscriptionId) -> Option<Arc<Subscription>> {
        self.slots[self.by_id.get(id)?.index()].clone()
    }

    /// How many subscriptions there are.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }
}

#[cfg(test)]
mod tests;
