//! Finds numeric ranges by a number that lies in them.

use std::collections::BTreeMap;

use postroad_model::filter::Num;

use super::slots::{Slot, Slots};

/// Ranges with one end lie in the order of that end. Those with two lie in classes by width, a class
/// holding widths up to a power of two, and there in the order of their lower end: a number looks a class's
/// width back, so what it finds in vain is in proportion to what it finds.
///
/// Ends are kept as `f64`, both included, and rounded so that order is never reversed: a range may be found
/// by a number just outside it, and is never missed.
#[derive(Default)]
pub(super) struct Ranges {
    len: usize,
    from: BTreeMap<Total, Slots>,
    to: BTreeMap<Total, Slots>,
    /// By the binary exponent of the width.
    between: BTreeMap<i32, BTreeMap<Total, Slots>>,
    all: Slots,
}

impl Ranges {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn insert(&mut self, slot: Slot, from: Option<Num>, to: Option<Num>) {
        self.len += 1;
        match (from.map(Total::from), to.map(Total::from)) {
            (Some(from), Some(to)) => {
                self.between.entry(width(from, to)).or_default().entry(from).or_default().insert(slot);
            }
            (Some(from), None) => self.from.entry(from).or_default().insert(slot),
            (None, Some(to)) => self.to.entry(to).or_default().insert(slot),
            (None, None) => self.all.insert(slot),
        }
    }

    pub(super) fn remove(&mut self, slot: Slot, from: Option<Num>, to: Option<Num>) {
        self.len -= 1;
        match (from.map(Total::from), to.map(Total::from)) {
            (Some(from), Some(to)) => {
                let width = width(from, to);
                if let Some(class) = self.between.get_mut(&width) {
                    take(class, from, slot);
                    if class.is_empty() {
                        self.between.remove(&width);
                    }
                }
            }
            (Some(from), None) => take(&mut self.from, from, slot),
            (None, Some(to)) => take(&mut self.to, to, slot),
            (None, None) => self.all.remove(slot),
        }
    }

    pub(super) fn find(&mut self, number: Num, lookup: u64, out: &mut Vec<Slot>) {
        if self.len == 0 {
            return;
        }
        let number = Total::from(number);
        self.all.hand_out(lookup, out);
        for slots in self.from.range_mut(..=number).map(|(_, slots)| slots) {
            slots.hand_out(lookup, out);
        }
        for slots in self.to.range_mut(number..).map(|(_, slots)| slots) {
            slots.hand_out(lookup, out);
        }
        for (width, class) in &mut self.between {
            let furthest = Total(number.0 - 2f64.powi(*width));
            for slots in class.range_mut(furthest..=number).map(|(_, slots)| slots) {
                slots.hand_out(lookup, out);
            }
        }
    }
}

/// An exponent such that two to its power is at least the range's width, roundings included.
fn width(from: Total, to: Total) -> i32 {
    let width = to.0 - from.0;
    // Twice the next power of two makes up for what the subtraction may have rounded away. Beyond the
    // exponents of `f64` the power is infinite: such a range is found by every number above its lower end.
    if width > 0.0 { (width.log2().ceil() + 1.0).clamp(-1_000.0, 1_100.0) as i32 } else { -1_000 }
}

fn take(ends: &mut BTreeMap<Total, Slots>, end: Total, slot: Slot) {
    if let Some(slots) = ends.get_mut(&end) {
        slots.remove(slot);
        if slots.is_empty() {
            ends.remove(&end);
        }
    }
}

/// An `f64` in its total order. Zero has one sign here, since whole numbers are converted from integers.
#[derive(Debug, Clone, Copy)]
struct Total(f64);

impl From<Num> for Total {
    fn from(number: Num) -> Self {
        Self(number.to_f64())
    }
}

impl PartialEq for Total {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Total {}

impl PartialOrd for Total {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Total {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Number;

    use super::*;

    fn num(value: f64) -> Num {
        Num::from(&Number::from_f64(value).expect("finite"))
    }

    fn finite() -> impl Strategy<Value = f64> {
        prop_oneof![
            (-5..5i32).prop_map(f64::from),
            prop::num::f64::NORMAL | prop::num::f64::SUBNORMAL | prop::num::f64::ZERO,
            any::<i64>().prop_map(|whole| whole as f64),
            Just(f64::MAX),
            Just(f64::MIN),
        ]
    }

    proptest! {
        #[test]
        fn no_range_is_missed(
            ends in prop::collection::vec((prop::option::of(finite()), prop::option::of(finite())), 1..20),
            numbers in prop::collection::vec(finite(), 1..10),
        ) {
            let mut ranges = Ranges::default();
            let ends: Vec<_> = ends
                .into_iter()
                .map(|(from, to)| match (from, to) {
                    (Some(from), Some(to)) if from > to => (Some(num(to)), Some(num(from))),
                    (from, to) => (from.map(num), to.map(num)),
                })
                .collect();
            for (at, (from, to)) in ends.iter().enumerate() {
                ranges.insert(Slot::at(at), *from, *to);
            }
            let ends_as_numbers = ends.iter().flat_map(|(from, to)| [*from, *to]).flatten();
            let numbers: Vec<Num> = numbers.into_iter().map(num).chain(ends_as_numbers).collect();
            for (lookup, number) in (1..).zip(&numbers) {
                let mut found = Vec::new();
                ranges.find(*number, lookup, &mut found);
                for (at, (from, to)) in ends.iter().enumerate() {
                    let within = from.is_none_or(|from| from <= *number) && to.is_none_or(|to| to >= *number);
                    prop_assert!(!within || found.contains(&Slot::at(at)), "{number} in {from:?} {to:?}");
                }
            }
            for (at, (from, to)) in ends.iter().enumerate() {
                ranges.remove(Slot::at(at), *from, *to);
            }
            prop_assert!(ranges.is_empty() && ranges.between.is_empty() && ranges.from.is_empty());
        }
    }

    #[test]
    fn narrow_ranges_far_away_are_not_found() {
        let mut ranges = Ranges::default();
        for n in 0..10_000u32 {
            ranges.insert(
                Slot::at(n as usize),
                Some(num(f64::from(n * 10))),
                Some(num(f64::from(n * 10 + 9))),
            );
        }
        let mut found = Vec::new();
        ranges.find(num(50_005.0), 1, &mut found);
        assert!(found.contains(&Slot::at(5_000)) && found.len() < 8, "{}", found.len());
    }
}
