//! One combination of a filter's conditions, and how it is evaluated.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use serde_json::{Map, Value};

use super::operator::{Key, Operator, Values};

/// The conditions of one combination that `$or` leads to (of the whole filter, without `$or`).
#[derive(Debug, Clone, Default)]
pub struct Branch {
    fields: Fields,
}

/// Something that every payload which matches a branch must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clue {
    /// Where: the names on the way, lists not counted.
    pub path: Vec<Box<str>>,
    /// What: a scalar that one of these finds.
    pub keys: Vec<Key>,
}

type Fields = BTreeMap<Arc<str>, Node>;

#[derive(Debug, Clone)]
enum Node {
    Leaf(Arc<Leaf>),
    Fields(Fields),
}

/// The alternatives of one field.
#[derive(Debug, Default)]
pub(super) struct Leaf {
    pub(super) values: Values,
    pub(super) operators: Vec<Operator>,
    /// `exists: false` is among the alternatives.
    pub(super) or_absent: bool,
}

/// Two conditions on one field that can't stand together; the path is relative.
pub(super) struct Conflict {
    pub(super) path: Vec<Arc<str>>,
    pub(super) problem: &'static str,
}

/// How a part of the pattern fared with a part of the payload.
///
/// `exists: false` depends on which elements of lists the other fields chose, so the two ways of
/// succeeding are kept apart: with a scalar found in here, which chooses the elements around it, or with
/// all fields absent, which chooses nothing and so has to hold in every element.
#[derive(Clone, Copy)]
struct Fared {
    by_presence: bool,
    by_absence: bool,
}

impl Fared {
    const BADLY: Self = Self { by_presence: false, by_absence: false };

    fn well(self) -> bool {
        self.by_presence || self.by_absence
    }
}

impl Branch {
    pub(super) fn leaf(name: &str, leaf: Leaf) -> Self {
        Self { fields: Fields::from([(name.into(), Node::Leaf(Arc::new(leaf)))]) }
    }

    /// The same conditions, below a field.
    pub(super) fn below(self, name: &str) -> Self {
        Self { fields: Fields::from([(name.into(), Node::Fields(self.fields))]) }
    }

    /// Both conditions at once.
    pub(super) fn and(mut self, other: &Self) -> Result<Self, Conflict> {
        merge(&mut self.fields, &other.fields)?;
        Ok(self)
    }

    /// How many fields and operators there are.
    pub(super) fn size(&self) -> usize {
        size(&self.fields)
    }

    pub(super) fn matches(&self, event: &Map<String, Value>) -> bool {
        within(&self.fields, Some(event)).well()
    }

    /// What every matching payload must hold, one clue a field. Empty if nothing need be there.
    pub fn clues(&self) -> Vec<Clue> {
        let (mut clues, mut path) = (Vec::new(), Vec::new());
        collect_clues(&self.fields, &mut path, &mut clues);
        clues
    }
}

impl Leaf {
    /// How many conditions it stands for: itself and its operators.
    pub(super) fn size(&self) -> usize {
        1 + self.operators.iter().map(Operator::size).sum::<usize>()
    }

    fn accepts(&self, scalar: &Value) -> bool {
        self.values.contain(scalar) || self.operators.iter().any(|operator| operator.matches(scalar))
    }
}

fn merge(into: &mut Fields, from: &Fields) -> Result<(), Conflict> {
    for (name, node) in from {
        let at = |mut conflict: Conflict| {
            conflict.path.insert(0, Arc::clone(name));
            conflict
        };
        match into.entry(Arc::clone(name)) {
            Entry::Vacant(vacant) => {
                vacant.insert(node.clone());
            }
            Entry::Occupied(mut occupied) => match (occupied.get_mut(), node) {
                (Node::Fields(into), Node::Fields(from)) => merge(into, from).map_err(at)?,
                (Node::Leaf(_), Node::Leaf(_)) => {
                    let problem =
                        "is named twice, once by an alternative of $or; put it into the alternatives alone";
                    return Err(at(Conflict { path: Vec::new(), problem }));
                }
                _ => {
                    let problem = "is a value here and an object there, which no payload can satisfy";
                    return Err(at(Conflict { path: Vec::new(), problem }));
                }
            },
        }
    }
    Ok(())
}

fn size(fields: &Fields) -> usize {
    fields
        .values()
        .map(|node| match node {
            Node::Leaf(leaf) => leaf.size(),
            Node::Fields(fields) => size(fields),
        })
        .sum()
}

fn collect_clues(fields: &Fields, path: &mut Vec<Box<str>>, clues: &mut Vec<Clue>) {
    for (name, node) in fields {
        path.push((**name).into());
        match node {
            Node::Fields(fields) => collect_clues(fields, path, clues),
            Node::Leaf(leaf) if leaf.or_absent => {}
            Node::Leaf(leaf) => {
                let keys = leaf.values.keys().chain(leaf.operators.iter().map(Operator::key)).collect();
                clues.push(Clue { path: path.clone(), keys });
            }
        }
        path.pop();
    }
}

/// Fields against an object, or against nothing.
fn within(fields: &Fields, object: Option<&Map<String, Value>>) -> Fared {
    let mut all = Fared { by_presence: false, by_absence: true };
    for (name, node) in fields {
        let fared = against(node, object.and_then(|object| object.get(&**name)));
        if !fared.well() {
            return Fared::BADLY;
        }
        all.by_presence |= fared.by_presence;
        all.by_absence &= fared.by_absence;
    }
    all
}

/// A node against what stands at its place.
fn against(node: &Node, value: Option<&Value>) -> Fared {
    match (node, value) {
        (_, Some(Value::Array(items))) => {
            let mut any = Fared { by_presence: false, by_absence: true };
            for item in items {
                let fared = against(node, Some(item));
                any.by_presence |= fared.by_presence;
                any.by_absence &= fared.by_absence;
                if any.by_presence {
                    break; // and not all are absent
                }
            }
            if items.is_empty() { against(node, None) } else { any }
        }
        (Node::Fields(fields), Some(Value::Object(object))) => within(fields, Some(object)),
        (Node::Fields(fields), _) => within(fields, None),
        (Node::Leaf(leaf), Some(Value::Object(_)) | None) => {
            Fared { by_presence: false, by_absence: leaf.or_absent }
        }
        (Node::Leaf(leaf), Some(scalar)) => Fared { by_presence: leaf.accepts(scalar), by_absence: false },
    }
}
