//! Finds channel patterns by the text that a channel's name must contain.

use std::{collections::HashMap, mem};

use postroad_model::{glob::Glob, subscription::Selector};

use super::{bucket::Bucket, needles::Needles, slots::Slot, view::View};

/// One tenant's channel patterns. Each is found by one of its literals, and then asked; one without literals
/// is always asked.
#[derive(Default)]
pub(super) struct Globs {
    entries: HashMap<Glob, Entry>,
    literals: Needles,
    /// The patterns of each literal, by its number.
    by_literal: Vec<Vec<Glob>>,
    without_literal: Vec<Glob>,
    found: Vec<usize>,
}

struct Entry {
    literal: Option<usize>,
    bucket: Bucket,
}

impl Globs {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The subscriptions of a pattern, which is taken in if it is new.
    pub(super) fn bucket(&mut self, glob: &Glob) -> &mut Bucket {
        let Self { entries, literals, by_literal, without_literal, .. } = self;
        let entry = entries.entry(glob.clone()).or_insert_with(|| {
            let literal = telling_literal(glob, literals, by_literal).map(|literal| literals.add(&literal));
            match literal {
                Some(literal) => {
                    by_literal.resize_with(by_literal.len().max(literal + 1), Vec::new);
                    by_literal[literal].push(glob.clone());
                }
                None => without_literal.push(glob.clone()),
            }
            Entry { literal, bucket: Bucket::default() }
        });
        &mut entry.bucket
    }

    /// Takes a subscription out, and its pattern with the last one.
    pub(super) fn remove(&mut self, glob: &Glob, slot: Slot, selector: &Selector) {
        let Some(entry) = self.entries.get_mut(glob) else { return };
        entry.bucket.remove(slot, selector);
        if !entry.bucket.is_empty() {
            return;
        }
        let beside = match entry.literal {
            Some(literal) => &mut self.by_literal[literal],
            None => &mut self.without_literal,
        };
        if let Some(at) = beside.iter().position(|other| other == glob) {
            beside.swap_remove(at);
        }
        if let Some(literal) = entry.literal
            && beside.is_empty()
        {
            self.literals.remove(literal);
        }
        self.entries.remove(glob);
    }

    /// Appends the candidates for a message.
    pub(super) fn find(&mut self, view: &View<'_>, out: &mut Vec<Slot>) {
        if self.entries.is_empty() {
            return;
        }
        let mut found = mem::take(&mut self.found);
        self.literals.find(view.channel(), &mut found);
        let by_literal = found.drain(..).flat_map(|literal| &self.by_literal[literal]);
        for glob in self.without_literal.iter().chain(by_literal) {
            if glob.matches(view.channel())
                && let Some(entry) = self.entries.get_mut(glob)
            {
                entry.bucket.find(view, out);
            }
        }
        self.found = found;
    }
}

/// The literal that the fewest patterns are found by already, the longer the better.
fn telling_literal(glob: &Glob, literals: &Needles, by_literal: &[Vec<Glob>]) -> Option<String> {
    let crowd = |literal: &String| literals.get(literal).map_or(0, |at| by_literal[at].len());
    glob.literals()
        .into_iter()
        .min_by_key(|literal| (crowd(literal) / (literal.len() * literal.len()), usize::MAX - literal.len()))
}
