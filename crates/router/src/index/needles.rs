//! Which of many short texts stand in a text.

use std::collections::HashMap;

use aho_corasick::{AhoCorasick, Input};

/// Below this many, looking for each is quicker than an automaton.
const FEW: usize = 16;
/// What putting a needle into an automaton costs, counted in needles that could be looked for instead.
const BUILD_COST: usize = 32;

/// Texts to look for, by an Aho-Corasick automaton.
///
/// The automaton can't be added to. Needles that have come since it was built are looked for one by one,
/// until that has cost as much as building it anew would: then both together cost at most twice what either
/// must, however additions, removals and searches alternate.
#[derive(Default)]
pub(super) struct Needles {
    texts: Vec<Option<Box<str>>>,
    free: Vec<usize>,
    by_text: HashMap<Box<str>, usize>,
    automaton: Option<Automaton>,
    /// Needles that the automaton does not find.
    unbuilt: Vec<usize>,
    /// How many of them were looked for since the automaton was built.
    spent: usize,
}

struct Automaton {
    search: AhoCorasick,
    /// The needle of each of its patterns.
    needles: Vec<usize>,
    /// How many of them have gone since.
    gone: usize,
}

impl Needles {
    pub(super) fn is_empty(&self) -> bool {
        self.by_text.is_empty()
    }

    /// The number of a needle that is there.
    pub(super) fn get(&self, text: &str) -> Option<usize> {
        self.by_text.get(text).copied()
    }

    /// The number of a needle, which is taken in if it is new. Numbers are small, and used again.
    pub(super) fn add(&mut self, text: &str) -> usize {
        if let Some(at) = self.by_text.get(text) {
            return *at;
        }
        let at = self.free.pop().unwrap_or_else(|| {
            self.texts.push(None);
            self.texts.len() - 1
        });
        self.texts[at] = Some(text.into());
        self.by_text.insert(text.into(), at);
        self.unbuilt.push(at);
        at
    }

    /// Drops a needle.
    pub(super) fn remove(&mut self, at: usize) {
        let Some(text) = self.texts[at].take() else { return };
        self.by_text.remove(&text);
        self.free.push(at);
        if let Some(unbuilt) = self.unbuilt.iter().position(|other| *other == at) {
            self.unbuilt.swap_remove(unbuilt);
        } else if let Some(automaton) = &mut self.automaton {
            automaton.gone += 1;
        }
    }

    /// Appends the numbers of the needles that stand in a text, each once. Among them may be one that does
    /// not, if its number has been used before.
    pub(super) fn find(&mut self, text: &str, found: &mut Vec<usize>) {
        self.rebuild_if_due();
        let begin = found.len();
        if let Some(automaton) = &self.automaton {
            automaton.find(text, found);
        }
        for at in &self.unbuilt {
            if self.texts[*at].as_ref().is_some_and(|needle| text.contains(&**needle)) {
                found.push(*at);
            }
        }
        found[begin..].sort_unstable();
        let mut last = None;
        let mut position = 0;
        found.retain(|at| {
            position += 1;
            position <= begin || last.replace(*at) != Some(*at)
        });
    }

    fn rebuild_if_due(&mut self) {
        self.spent += self.unbuilt.len();
        let (built, gone) =
            self.automaton.as_ref().map_or((0, 0), |automaton| (automaton.needles.len(), automaton.gone));
        let worth_it = self.spent > BUILD_COST * self.by_text.len() || (gone > FEW && gone > built / 2);
        if self.by_text.len() < FEW {
            if built > 0 {
                self.automaton = None;
                self.unbuilt = self.by_text.values().copied().collect();
            }
        } else if worth_it {
            self.rebuild();
        }
    }

    fn rebuild(&mut self) {
        let (texts, needles): (Vec<&str>, Vec<usize>) =
            self.by_text.iter().map(|(text, at)| (&**text, *at)).unzip();
        self.spent = 0;
        // It fails only for more text than its numbers can count. Then each is looked for: slow, but right.
        match AhoCorasick::new(texts) {
            Ok(search) => {
                self.automaton = Some(Automaton { search, needles, gone: 0 });
                self.unbuilt.clear();
            }
            Err(_) => {
                self.automaton = None;
                self.unbuilt = needles;
            }
        }
    }
}

impl Automaton {
    fn find(&self, text: &str, found: &mut Vec<usize>) {
        match self.search.try_find_overlapping_iter(Input::new(text)) {
            Ok(patterns) => found.extend(patterns.map(|pattern| self.needles[pattern.pattern().as_usize()])),
            // Only where this kind of search is not offered; then any may be there.
            Err(_) => found.extend_from_slice(&self.needles),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_needle_is_missed(steps in prop::collection::vec((any::<bool>(), "[abc]{1,3}", "[abc]{0,8}"), 1..300)) {
            let mut needles = Needles::default();
            for (add, needle, text) in steps {
                if add {
                    let at = needles.add(&needle);
                    prop_assert_eq!(needles.get(&needle), Some(at));
                } else if let Some(at) = needles.get(&needle) {
                    needles.remove(at);
                    prop_assert_eq!(needles.get(&needle), None);
                }
                let mut found = vec![usize::MAX, usize::MAX];
                needles.find(&text, &mut found);
                prop_assert_eq!(&found[..2], &[usize::MAX; 2], "only appended to");
                let mut once = found[2..].to_vec();
                once.dedup();
                prop_assert_eq!(once.len(), found.len() - 2);
                for (needle, at) in &needles.by_text {
                    prop_assert!(!text.contains(&**needle) || once.contains(at), "{} in {}", needle, text);
                }
            }
        }
    }

    #[test]
    fn an_automaton_is_built_and_given_up() {
        let mut needles = Needles::default();
        let numbers: Vec<usize> = (0..1_000).map(|n| needles.add(&format!("<{n}>"))).collect();
        for _ in 0..100 {
            let mut found = Vec::new();
            needles.find("x<7><7><123>", &mut found);
            found.sort_unstable();
            assert_eq!(found, [numbers[7], numbers[123]]);
        }
        assert!(needles.automaton.is_some() && needles.unbuilt.is_empty());
        for at in numbers {
            needles.remove(at);
            needles.find("<7>", &mut Vec::new());
        }
        assert!(needles.automaton.is_none() && needles.is_empty());
    }
}
