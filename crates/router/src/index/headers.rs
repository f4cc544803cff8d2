//! Finds `header_match` by the headers that a message has.

use std::collections::HashMap;

use postroad_model::matching::{Condition, HeaderMatch, canonical};
use serde_json::{Map, Value};

use super::slots::{Slot, Slots};

/// Where all conditions must hold, a subscription is found by the one of them that the fewest others are
/// found by; where any will do, by each of them.
#[derive(Default)]
pub(super) struct Headers {
    /// By the header's name in lower case.
    by_name: HashMap<Box<str>, Named>,
    /// Those without a condition that must hold.
    always: Slots,
    placed: HashMap<Slot, Vec<Condition>>,
}

#[derive(Default)]
struct Named {
    by_value: HashMap<Box<str>, Slots>,
    present: Slots,
}

impl Headers {
    pub(super) fn insert(&mut self, slot: Slot, header_match: &HeaderMatch) {
        let conditions = header_match.conditions();
        let placed = if header_match.needs_all() {
            conditions.iter().min_by_key(|condition| self.crowd(condition)).cloned().into_iter().collect()
        } else {
            conditions.to_vec()
        };
        if placed.is_empty() && header_match.needs_all() {
            self.always.insert(slot);
        }
        for Condition { name, value } in &placed {
            let named = self.by_name.entry(name.clone()).or_default();
            match value {
                Some(value) => named.by_value.entry(value.clone()).or_default().insert(slot),
                None => named.present.insert(slot),
            }
        }
        self.placed.insert(slot, placed);
    }

    pub(super) fn remove(&mut self, slot: Slot) {
        let placed = self.placed.remove(&slot).unwrap_or_default();
        if placed.is_empty() {
            self.always.remove(slot);
        }
        for Condition { name, value } in placed {
            let Some(named) = self.by_name.get_mut(&name) else { continue };
            match value {
                Some(value) => Slots::remove_from(&mut named.by_value, &value, slot),
                None => named.present.remove(slot),
            }
            if named.by_value.is_empty() && named.present.is_empty() {
                self.by_name.remove(&name);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.placed.is_empty()
    }

    pub(super) fn find(&mut self, headers: &Map<String, Value>, lookup: u64, out: &mut Vec<Slot>) {
        self.always.hand_out(lookup, out);
        if self.by_name.is_empty() {
            return;
        }
        for (name, value) in headers {
            let Some(named) = self.by_name.get_mut(&*name.to_ascii_lowercase()) else { continue };
            named.present.hand_out(lookup, out);
            if let Some(value) = canonical(value) {
                Slots::hand_out_of(&mut named.by_value, &*value, lookup, out);
            }
        }
    }

    /// How many are found by a condition already; presence, which finds more messages, counts for more.
    fn crowd(&self, condition: &Condition) -> usize {
        let Some(named) = self.by_name.get(&condition.name) else {
            return usize::from(condition.value.is_none());
        };
        match &condition.value {
            Some(value) => named.by_value.get(value).map_or(0, Slots::len),
            None => 1 + 16 * named.present.len(),
        }
    }
}
