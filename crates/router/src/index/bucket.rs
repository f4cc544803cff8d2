//! The subscriptions to one channel or channel pattern.

use std::collections::HashMap;

use postroad_model::{matching::ChannelType, subscription::Selector};

use super::{
    filters::Filters,
    headers::Headers,
    slots::{Slot, Slots},
    topics::Topics,
    view::View,
};

/// Subscriptions whose channel condition is the same. Each is found by its filter; without a filter by its
/// routing key and, where that is not looked at, by its headers; by its headers if it has nothing else.
#[derive(Default)]
pub(super) struct Bucket {
    len: usize,
    filters: Filters,
    /// With a routing key, by it as a topic pattern …
    topics: Topics,
    /// … and as it stands, …
    direct: HashMap<Box<str>, Slots>,
    /// … and, for channels whose type ignores it, by headers …
    keyed_headers: Headers,
    /// … or without any.
    keyed: Slots,
    headers: Headers,
    unconditional: Slots,
}

impl Bucket {
    pub(super) fn insert(&mut self, slot: Slot, selector: &Selector) {
        self.len += 1;
        if let Some(filter) = &selector.filter_criteria {
            self.filters.insert(slot, filter);
            return;
        }
        if let Some(pattern) = &selector.routing_key {
            self.topics.insert(slot, pattern.as_str());
            self.direct.entry(pattern.as_str().into()).or_default().insert(slot);
        }
        match (&selector.routing_key, &selector.header_match) {
            (Some(_), Some(header_match)) => self.keyed_headers.insert(slot, header_match),
            (Some(_), None) => self.keyed.insert(slot),
            (None, Some(header_match)) => self.headers.insert(slot, header_match),
            (None, None) => self.unconditional.insert(slot),
        }
    }

    /// Takes a subscription out; `selector` is what it was inserted with.
    pub(super) fn remove(&mut self, slot: Slot, selector: &Selector) {
        self.len -= 1;
        if selector.filter_criteria.is_some() {
            self.filters.remove(slot);
            return;
        }
        if let Some(pattern) = &selector.routing_key {
            self.topics.remove(slot, pattern.as_str());
            Slots::remove_from(&mut self.direct, pattern.as_str(), slot);
        }
        match (&selector.routing_key, &selector.header_match) {
            (Some(_), Some(_)) => self.keyed_headers.remove(slot),
            (Some(_), None) => self.keyed.remove(slot),
            (None, Some(_)) => self.headers.remove(slot),
            (None, None) => self.unconditional.remove(slot),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends the candidates for a message, some perhaps twice.
    pub(super) fn find(&mut self, view: &View<'_>, out: &mut Vec<Slot>) {
        let lookup = view.lookup;
        self.unconditional.hand_out(lookup, out);
        if !self.headers.is_empty() {
            self.headers.find(view.headers(), lookup, out);
        }
        match view.channel_type {
            ChannelType::Topic => self.topics.find(view.key(), lookup, out),
            ChannelType::Direct => Slots::hand_out_of(&mut self.direct, view.key(), lookup, out),
            ChannelType::Fanout | ChannelType::Headers => {
                self.keyed.hand_out(lookup, out);
                if !self.keyed_headers.is_empty() {
                    self.keyed_headers.find(view.headers(), lookup, out);
                }
            }
        }
        if !self.filters.is_empty()
            && let Some(event) = view.event()
        {
            self.filters.find(event, lookup, out);
        }
    }
}
