//! Finds filters by one field's value.

use std::{
    collections::{BTreeMap, HashMap},
    mem,
    net::IpAddr,
};

use postroad_model::filter::{Key, Num, TextKey};
use serde_json::Value;

use super::{
    needles::Needles,
    ranges::Ranges,
    slots::{Slot, Slots},
};

/// What the filters that are found by one field ask of it.
#[derive(Default)]
pub(super) struct Scalars {
    null: Slots,
    bools: [Slots; 2],
    numbers: HashMap<Num, Slots>,
    ranges: Ranges,
    texts: Texts,
    /// Without regard to letter case.
    folded: Texts,
    contained: Contained,
    /// By the length of the network's prefix, IPv6 apart.
    networks: BTreeMap<(bool, u8), HashMap<u128, Slots>>,
    any: Slots,
}

impl Scalars {
    pub(super) fn insert(&mut self, slot: Slot, keys: &[Key]) {
        for key in keys {
            match key {
                Key::Null => self.null.insert(slot),
                Key::Bool(value) => self.bools[usize::from(*value)].insert(slot),
                Key::Number(number) => self.numbers.entry(*number).or_default().insert(slot),
                Key::Range(from, to) => self.ranges.insert(slot, *from, *to),
                Key::Text(key) => self.texts.insert(slot, key),
                Key::Folded(key) => self.folded.insert(slot, key),
                Key::Contains(text) => self.contained.insert(slot, text),
                Key::Network { v6, bits, length } => {
                    let same_length = self.networks.entry((*v6, *length)).or_default();
                    same_length.entry(*bits).or_default().insert(slot);
                }
                Key::Scalar => self.any.insert(slot),
            }
        }
    }

    pub(super) fn remove(&mut self, slot: Slot, keys: &[Key]) {
        for key in keys {
            match key {
                Key::Null => self.null.remove(slot),
                Key::Bool(value) => self.bools[usize::from(*value)].remove(slot),
                Key::Number(number) => Slots::remove_from(&mut self.numbers, number, slot),
                Key::Range(from, to) => self.ranges.remove(slot, *from, *to),
                Key::Text(key) => self.texts.remove(slot, key),
                Key::Folded(key) => self.folded.remove(slot, key),
                Key::Contains(text) => self.contained.remove(slot, text),
                Key::Network { v6, bits, length } => {
                    if let Some(same_length) = self.networks.get_mut(&(*v6, *length)) {
                        Slots::remove_from(same_length, bits, slot);
                        if same_length.is_empty() {
                            self.networks.remove(&(*v6, *length));
                        }
                    }
                }
                Key::Scalar => self.any.remove(slot),
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.null.is_empty()
            && self.bools.iter().all(Slots::is_empty)
            && self.numbers.is_empty()
            && self.ranges.is_empty()
            && self.texts.is_empty()
            && self.folded.is_empty()
            && self.contained.needles.is_empty()
            && self.networks.is_empty()
            && self.any.is_empty()
    }

    /// Appends those that a scalar may match.
    pub(super) fn find(&mut self, scalar: &Value, lookup: u64, out: &mut Vec<Slot>) {
        self.any.hand_out(lookup, out);
        match scalar {
            Value::Null => self.null.hand_out(lookup, out),
            Value::Bool(value) => self.bools[usize::from(*value)].hand_out(lookup, out),
            Value::Number(number) => {
                let number = Num::from(number);
                Slots::hand_out_of(&mut self.numbers, &number, lookup, out);
                self.ranges.find(number, lookup, out);
            }
            Value::String(text) => self.find_text(text, lookup, out),
            Value::Array(_) | Value::Object(_) => {}
        }
    }

    fn find_text(&mut self, text: &str, lookup: u64, out: &mut Vec<Slot>) {
        self.texts.find(text, lookup, out);
        if !self.folded.is_empty() {
            let (head, tail) = Key::fold_ends(text);
            match tail {
                None => self.folded.find(&head, lookup, out),
                Some(tail) => {
                    self.folded.find_prefixes(&head, lookup, out);
                    self.folded.find_suffixes(&tail, lookup, out);
                }
            }
        }
        if !self.contained.needles.is_empty() && text.len() <= Key::MAX_CONTAINING_BYTES {
            self.contained.find(text, lookup, out);
        }
        if !self.networks.is_empty()
            && let Ok(address) = text.parse::<IpAddr>()
        {
            for ((v6, length), same_length) in &mut self.networks {
                if address.is_ipv6() == *v6 {
                    Slots::hand_out_of(same_length, &Key::network_bits(address, *length), lookup, out);
                }
            }
        }
    }

    /// How many candidates keys like these may find for one value, roughly: how many are found by the most
    /// crowded of them already, and more for a key that finds many values.
    pub(super) fn crowd(scalars: Option<&Self>, keys: &[Key]) -> usize {
        keys.iter()
            .map(|key| weight(key) + scalars.map_or(0, |scalars| scalars.crowd_of(key)))
            .max()
            .unwrap_or(0)
    }

    fn crowd_of(&self, key: &Key) -> usize {
        match key {
            Key::Null => self.null.len(),
            Key::Bool(value) => self.bools[usize::from(*value)].len(),
            Key::Number(number) => self.numbers.get(number).map_or(0, Slots::len),
            Key::Range(..) => self.ranges.len() / 8,
            Key::Text(key) => self.texts.crowd(key),
            Key::Folded(key) => self.folded.crowd(key),
            Key::Contains(text) => {
                self.contained.needles.get(text).map_or(0, |needle| self.contained.slots[needle].len())
            }
            Key::Network { v6, bits, length } => {
                let same_length = self.networks.get(&(*v6, *length));
                same_length.and_then(|same_length| same_length.get(bits)).map_or(0, Slots::len)
            }
            Key::Scalar => self.any.len(),
        }
    }
}

/// How many values a key finds, as a number of candidates that it is worth avoiding.
fn weight(key: &Key) -> usize {
    // The shorter, the more it finds: an empty one finds all text.
    let by_length = |text: &str| 16 / (1 + text.len());
    match key {
        Key::Number(_) | Key::Text(TextKey::Whole(_)) | Key::Folded(TextKey::Whole(_)) => 0,
        Key::Text(TextKey::Prefix(text) | TextKey::Suffix(text))
        | Key::Folded(TextKey::Prefix(text) | TextKey::Suffix(text)) => by_length(text),
        Key::Contains(text) => 1 + by_length(text),
        Key::Network { .. } => 4,
        Key::Null | Key::Bool(_) => 8,
        Key::Range(..) => 16,
        Key::Scalar => 64,
    }
}

/// Whole texts, beginnings and ends.
#[derive(Default)]
struct Texts {
    whole: HashMap<Box<str>, Slots>,
    /// By their length in bytes.
    prefixes: BTreeMap<usize, HashMap<Box<str>, Slots>>,
    suffixes: BTreeMap<usize, HashMap<Box<str>, Slots>>,
}

impl Texts {
    fn insert(&mut self, slot: Slot, key: &TextKey) {
        let (texts, text) = match key {
            TextKey::Whole(text) => (&mut self.whole, text),
            TextKey::Prefix(text) => (self.prefixes.entry(text.len()).or_default(), text),
            TextKey::Suffix(text) => (self.suffixes.entry(text.len()).or_default(), text),
        };
        texts.entry(text.clone()).or_default().insert(slot);
    }

    fn remove(&mut self, slot: Slot, key: &TextKey) {
        let (by_length, text) = match key {
            TextKey::Whole(text) => return Slots::remove_from(&mut self.whole, text, slot),
            TextKey::Prefix(text) => (&mut self.prefixes, text),
            TextKey::Suffix(text) => (&mut self.suffixes, text),
        };
        if let Some(same_length) = by_length.get_mut(&text.len()) {
            Slots::remove_from(same_length, text, slot);
            if same_length.is_empty() {
                by_length.remove(&text.len());
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.whole.is_empty() && self.prefixes.is_empty() && self.suffixes.is_empty()
    }

    fn crowd(&self, key: &TextKey) -> usize {
        let slots = match key {
            TextKey::Whole(text) => self.whole.get(text),
            TextKey::Prefix(text) => {
                self.prefixes.get(&text.len()).and_then(|same_length| same_length.get(text))
            }
            TextKey::Suffix(text) => {
                self.suffixes.get(&text.len()).and_then(|same_length| same_length.get(text))
            }
        };
        slots.map_or(0, Slots::len)
    }

    fn find(&mut self, text: &str, lookup: u64, out: &mut Vec<Slot>) {
        Slots::hand_out_of(&mut self.whole, text, lookup, out);
        self.find_prefixes(text, lookup, out);
        self.find_suffixes(text, lookup, out);
    }

    fn find_prefixes(&mut self, text: &str, lookup: u64, out: &mut Vec<Slot>) {
        for (length, same_length) in self.prefixes.range_mut(..=text.len()) {
            if let Some(prefix) = text.get(..*length) {
                Slots::hand_out_of(same_length, prefix, lookup, out);
            }
        }
    }

    fn find_suffixes(&mut self, text: &str, lookup: u64, out: &mut Vec<Slot>) {
        for (length, same_length) in self.suffixes.range_mut(..=text.len()) {
            if let Some(suffix) = text.get(text.len() - length..) {
                Slots::hand_out_of(same_length, suffix, lookup, out);
            }
        }
    }
}

/// Texts that stand anywhere in a value.
#[derive(Default)]
struct Contained {
    needles: Needles,
    /// By the needle's number.
    slots: Vec<Slots>,
    found: Vec<usize>,
}

impl Contained {
    fn insert(&mut self, slot: Slot, text: &str) {
        let needle = self.needles.add(text);
        self.slots.resize_with(self.slots.len().max(needle + 1), Slots::default);
        self.slots[needle].insert(slot);
    }

    fn remove(&mut self, slot: Slot, text: &str) {
        let Some(needle) = self.needles.get(text) else { return };
        self.slots[needle].remove(slot);
        if self.slots[needle].is_empty() {
            self.needles.remove(needle);
        }
    }

    fn find(&mut self, text: &str, lookup: u64, out: &mut Vec<Slot>) {
        let mut found = mem::take(&mut self.found);
        self.needles.find(text, &mut found);
        for needle in found.drain(..) {
            self.slots[needle].hand_out(lookup, out);
        }
        self.found = found;
    }
}
