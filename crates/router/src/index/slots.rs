//! Where a subscription lies, and lists of such places.

use std::{borrow::Borrow, collections::HashMap, hash::Hash};

/// The place of a subscription in the index. It is used again after the subscription is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Slot(u32);

impl Slot {
    pub(super) fn at(index: usize) -> Self {
        Self(u32::try_from(index).expect("fewer than 2^32 subscriptions fit into memory"))
    }

    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}

/// The subscriptions that one lookup finds. A message may come by the same lookup many times (a list in
/// its payload may hold the same text a thousand times); they are handed out once.
#[derive(Debug, Default)]
pub(super) struct Slots {
    slots: Vec<Slot>,
    lookup: u64,
}

impl Slots {
    pub(super) fn insert(&mut self, slot: Slot) {
        self.slots.push(slot);
    }

    pub(super) fn remove(&mut self, slot: Slot) {
        if let Some(at) = self.slots.iter().position(|other| *other == slot) {
            self.slots.swap_remove(at);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Appends them to `out`, if that has not been done in this lookup (a number from 1).
    pub(super) fn hand_out(&mut self, lookup: u64, out: &mut Vec<Slot>) {
        if self.lookup != lookup {
            self.lookup = lookup;
            out.extend_from_slice(&self.slots);
        }
    }
    /// Hands out what lies under a key.
    pub(super) fn hand_out_of<K, Q>(map: &mut HashMap<K, Self>, key: &Q, lookup: u64, out: &mut Vec<Slot>)
    where
        K: Borrow<Q> + Hash + Eq,
        Q: Hash + Eq + ?Sized,
    {
        if let Some(slots) = map.get_mut(key) {
            slots.hand_out(lookup, out);
        }
    }

    /// Removes a slot from what lies under a key, and the key with the last one.
    pub(super) fn remove_from<K, Q>(map: &mut HashMap<K, Self>, key: &Q, slot: Slot)
    where
        K: Borrow<Q> + Hash + Eq,
        Q: Hash + Eq + ?Sized,
    {
        if let Some(slots) = map.get_mut(key) {
            slots.remove(slot);
            if slots.is_empty() {
                map.remove(key);
            }
        }
    }
}
