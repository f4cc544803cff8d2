//! Finds topic patterns by routing key: a tree of words.

use std::collections::HashMap;

use postroad_model::topic::words;

use super::slots::{Slot, Slots};

/// All patterns of a bucket, word by word. A key walks down by its next word, by `*`, and by `#` with every
/// number of its words; each `#` is entered with each rest of the key at most once, so the walk is bounded
/// by the tree times the key, as in RabbitMQ.
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
    /// The lookup for which `from` holds.
    lookup: u64,
    /// The node has been entered with every rest of the key from this word on.
    from: usize,
}

impl Topics {
    pub(super) fn insert(&mut self, slot: Slot, pattern: &str) {
        let mut node = &mut self.root;
        for word in words(pattern) {
            node = match word {
                "*" => node.star.get_or_insert_default(),
                "#" => {
                    let new = || Box::new(Hash { node: Node::default(), lookup: 0, from: 0 });
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
        if let Some(hash) = &mut self.hash {
            if hash.lookup != lookup {
                hash.lookup = lookup;
                hash.from = key.len() + 1;
            }
            let entered = hash.from;
            hash.from = entered.min(at);
            for from in at..entered {
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
