//! Finds topic patterns by routing key: a tree of words.

use std::collections::HashMap;

use postroad_model::topic::words;

use super::slots::{Slot, Slots};

/// All patterns of a bucket, word by word. A key walks down by its next word, by `*`, and by `#` with every
/// number of its words.
///
/// Every node is come by with shorter and shorter rests of the key, so what follows a `#` need be entered
/// only the first time: later rests are among those it was entered with. That bounds a walk by the size of
/// the tree times that of the key, as in RabbitMQ.
#[derive(Default)]
pub(super) struct Topics {
    root: Node,
}

#[derive(Default)]
struct Node {
    here: Slots,
    words: HashMap<Box<str>, Node>,
    star: Option<Box<Node>>,
    hash: Option<Box<Hash>>,
}

/// What follows a `#`.
struct Hash {
    node: Node,
    /// The lookup that entered it last.
    lookup: u64,
}

impl Topics {
    pub(super) fn insert(&mut self, slot: Slot, pattern: &str) {
        let mut node = &mut self.root;
        for word in words(pattern) {
            node = match word {
                "*" => node.star.get_or_insert_default(),
                "#" => {
                    let new = || Box::new(Hash { node: Node::default(), lookup: 0 });
                    &mut node.hash.get_or_insert_with(new).node
                }
                word => node.words.entry(word.into()).or_default(),
            };
        }
        node.here.insert(slot);
    }

    pub(super) fn remove(&mut self, slot: Slot, pattern: &str) {
        self.root.remove(slot, words(pattern));
    }

    pub(super) fn find(&mut self, key: &str, lookup: u64, out: &mut Vec<Slot>) {
        let key: Vec<&str> = words(key).collect();
        self.root.find(&key, 0, lookup, out);
    }
}

impl Node {
    fn is_empty(&self) -> bool {
        self.here.is_empty() && self.words.is_empty() && self.star.is_none() && self.hash.is_none()
    }

    fn remove<'a>(&mut self, slot: Slot, mut rest: impl Iterator<Item = &'a str> + Clone) {
        match rest.next() {
            None => self.here.remove(slot),
            Some("*") => {
                if let Some(node) = &mut self.star {
                    node.remove(slot, rest);
                    self.star.take_if(|node| node.is_empty());
                }
            }
            Some("#") => {
                if let Some(hash) = &mut self.hash {
                    hash.node.remove(slot, rest);
                    self.hash.take_if(|hash| hash.node.is_empty());
                }
            }
            Some(word) => {
                if let Some(node) = self.words.get_mut(word) {
                    node.remove(slot, rest);
                    if node.is_empty() {
                        self.words.remove(word);
                    }
                }
            }
        }
    }

    /// Continues with the words of `key` from `at` on.
    fn find(&mut self, key: &[&str], at: usize, lookup: u64, out: &mut Vec<Slot>) {
        if let Some(hash) = &mut self.hash
            && hash.lookup != lookup
        {
            hash.lookup = lookup;
            for from in at..=key.len() {
                hash.node.find(key, from, lookup, out);
            }
        }
        let Some(word) = key.get(at) else {
            self.here.hand_out(lookup, out);
            return;
        };
        if let Some(node) = self.words.get_mut(*word) {
            node.find(key, at + 1, lookup, out);
        }
        if let Some(node) = &mut self.star {
            node.find(key, at + 1, lookup, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use postroad_model::topic::TopicPattern;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn finds_what_matches(
            patterns in prop::collection::vec(r"([ab*#.]|a\.|\.\*|\.#){0,6}", 1..40),
            keys in prop::collection::vec("[ab.]{0,8}", 1..20),
        ) {
            let patterns: Vec<_> = patterns.iter().filter_map(|text| TopicPattern::new(text).ok()).collect();
            let mut topics = Topics::default();
            for (n, pattern) in patterns.iter().enumerate() {
                topics.insert(Slot::at(n), pattern.as_str());
            }
            for (lookup, key) in (1..).zip(&keys) {
                let mut found = Vec::new();
                topics.find(key, lookup, &mut found);
                found.sort_unstable();
                let matching = (0..patterns.len()).filter(|n| patterns[*n].matches(key)).map(Slot::at);
                prop_assert_eq!(found, matching.collect::<Vec<_>>(), "{}", key);
            }
            for (n, pattern) in patterns.iter().enumerate() {
                topics.remove(Slot::at(n), pattern.as_str());
            }
            prop_assert!(topics.root.is_empty());
        }
    }

    #[test]
    fn many_hashes_and_words_are_walked_once() {
        let mut topics = Topics::default();
        for n in 0..1_000 {
            topics.insert(Slot::at(n), &format!("#.a.#.b{n}"));
        }
        let key = "a.".repeat(127);
        for lookup in 1..50 {
            let mut found = Vec::new();
            topics.find(&key, lookup, &mut found);
            assert!(found.is_empty());
        }
    }
}
