//! Finds filters by what a payload holds.

use std::collections::HashMap;

use postroad_model::filter::{Clue, Event, Filter};
use serde_json::{Map, Value};

use super::{
    scalars::Scalars,
    slots::{Slot, Slots},
};

/// Filters by one field each.
///
/// Every branch of a filter names fields that a matching payload must have. The branch is found by one of
/// them: the one by whose values the fewest others are found. The tree of these fields is walked along with
/// the payload, lists being passed through as filters do.
#[derive(Default)]
pub(super) struct Filters {
    root: Field,
    /// Those with a branch that no field need be there for.
    always: Slots,
    placed: HashMap<Slot, Vec<Placed>>,
}

/// Where a branch is found.
enum Placed {
    By(Clue),
    Always,
}

#[derive(Default)]
struct Field {
    below: HashMap<Box<str>, Field>,
    scalars: Option<Box<Scalars>>,
}

impl Filters {
    pub(super) fn insert(&mut self, slot: Slot, filter: &Filter) {
        let mut placed = Vec::with_capacity(filter.branches().len());
        for branch in filter.branches() {
            let clues = branch.clues();
            match clues.into_iter().min_by_key(|clue| self.crowd(clue)) {
                Some(clue) => {
                    self.root.at(&clue.path).insert(slot, &clue.keys);
                    placed.push(Placed::By(clue));
                }
                None => {
                    self.always.insert(slot);
                    placed.push(Placed::Always);
                }
            }
        }
        self.placed.insert(slot, placed);
    }

    pub(super) fn remove(&mut self, slot: Slot) {
        for placed in self.placed.remove(&slot).unwrap_or_default() {
            match placed {
                Placed::By(clue) => self.root.remove(slot, &clue, &clue.path),
                Placed::Always => self.always.remove(slot),
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.placed.is_empty()
    }

    pub(super) fn find(&mut self, event: &Event, lookup: u64, out: &mut Vec<Slot>) {
        self.always.hand_out(lookup, out);
        self.root.find_below(event.fields(), lookup, out);
    }

    /// How many candidates a clue may find for one value, roughly.
    fn crowd(&self, clue: &Clue) -> usize {
        let mut field = &self.root;
        for name in &clue.path {
            let Some(below) = field.below.get(name) else { return Scalars::crowd(None, &clue.keys) };
            field = below;
        }
        Scalars::crowd(field.scalars.as_deref(), &clue.keys)
    }
}

impl Field {
    fn at(&mut self, path: &[Box<str>]) -> &mut Scalars {
        let field = path.iter().fold(self, |field, name| field.below.entry(name.clone()).or_default());
        field.scalars.get_or_insert_default()
    }

    fn remove(&mut self, slot: Slot, clue: &Clue, path: &[Box<str>]) {
        let Some((name, rest)) = path.split_first() else {
            if let Some(scalars) = &mut self.scalars {
                scalars.remove(slot, &clue.keys);
                self.scalars.take_if(|scalars| scalars.is_empty());
            }
            return;
        };
        if let Some(field) = self.below.get_mut(name) {
            field.remove(slot, clue, rest);
            if field.scalars.is_none() && field.below.is_empty() {
                self.below.remove(name);
            }
        }
    }

    fn find(&mut self, value: &Value, lookup: u64, out: &mut Vec<Slot>) {
        match value {
            Value::Object(fields) if !self.below.is_empty() => self.find_below(fields, lookup, out),
            Value::Object(_) => {}
            Value::Array(items) => {
                for item in items {
                    self.find(item, lookup, out);
                }
            }
            scalar => {
                if let Some(scalars) = &mut self.scalars {
                    scalars.find(scalar, lookup, out);
                }
            }
        }
    }

    fn find_below(&mut self, fields: &Map<String, Value>, lookup: u64, out: &mut Vec<Slot>) {
        if self.below.len() < fields.len() {
            for (name, field) in &mut self.below {
                if let Some(value) = fields.get(&**name) {
                    field.find(value, lookup, out);
                }
            }
        } else {
            for (name, value) in fields {
                if let Some(field) = self.below.get_mut(&**name) {
                    field.find(value, lookup, out);
                }
            }
        }
    }
}
