//! The keys that a configuration has: the leaves of its serialised default.

use std::collections::HashMap;

use config::{Map, ValueKind};
use serde_json::Value;

use super::{Configuration, PREFIX, Schema, read::Layer};

/// One key.
pub(super) struct Key {
    /// `section.name`.
    pub(super) path: String,
    /// Its default; null for an `Option` that is not set, and then of unknown type.
    pub(super) default: Value,
    /// Its name in the environment.
    pub(super) variable: String,
}

/// All keys of a configuration.
pub(super) struct Keys {
    pub(super) schema: Schema,
    pub(super) tree: Value,
    list: Vec<Key>,
    by_path: HashMap<String, usize>,
    by_variable: HashMap<String, usize>,
}

impl Keys {
    pub(super) fn of<T: Configuration>() -> Self {
        let tree = serde_json::to_value(T::default()).expect("a configuration's defaults serialise as JSON");
        let mut list = Vec::new();
        collect(&tree, "", &mut list);
        let by_path = list.iter().enumerate().map(|(at, key): (_, &Key)| (key.path.clone(), at)).collect();
        let by_variable = list.iter().enumerate().map(|(at, key)| (key.variable.clone(), at)).collect();
        Self { schema: T::SCHEMA, tree, list, by_path, by_variable }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Key> {
        self.list.iter()
    }

    pub(super) fn by_path(&self, path: &str) -> Option<&Key> {
        self.by_path.get(path).map(|at| &self.list[*at])
    }

    pub(super) fn by_variable(&self, name: &str) -> Option<&Key> {
        self.by_variable.get(name).map(|at| &self.list[*at])
    }

    pub(super) fn is_secret(&self, path: &str) -> bool {
        self.schema.secrets.contains(&path)
    }

    /// Whether keys lie below this path.
    pub(super) fn is_section(&self, path: &str) -> bool {
        self.list.iter().any(|key| is_below(&key.path, path))
    }

    /// Whether a top-level section belongs to another daemon.
    pub(super) fn is_foreign(&self, section: &str) -> bool {
        self.schema.foreign.contains(&section) && !self.is_section(section)
    }

    /// Whether a variable belongs to a section of another daemon.
    pub(super) fn is_foreign_variable(&self, name: &str) -> bool {
        let is_of = |section: &&&str| {
            name.strip_prefix(PREFIX)
                .and_then(|rest| rest.strip_prefix(&section.to_uppercase()))
                .is_some_and(|rest| rest.starts_with('_'))
        };
        self.schema.foreign.iter().filter(is_of).any(|section| self.is_foreign(section))
    }

    /// The key that someone may have meant.
    pub(super) fn nearest_path(&self, path: &str) -> Option<String> {
        nearest(path, self.list.iter().map(|key| key.path.as_str()))
    }

    /// The variable that someone may have meant.
    pub(super) fn nearest_variable(&self, name: &str) -> Option<String> {
        nearest(name, self.list.iter().map(|key| key.variable.as_str()))
    }

    /// The defaults, as the lowest layer.
    pub(super) fn defaults(&self) -> Layer {
        Layer::from_tree(&self.tree)
    }

    /// The defaults with one value changed.
    pub(super) fn with(&self, path: &str, value: &Value) -> Value {
        let mut tree = self.tree.clone();
        let place = path.split('.').fold(&mut tree, |node, word| &mut node[word]);
        *place = value.clone();
        tree
    }
}

fn is_below(path: &str, section: &str) -> bool {
    path.strip_prefix(section).is_some_and(|rest| rest.starts_with('.'))
}

/// Walks to the leaves. An empty table is one: a map that people fill.
fn collect(node: &Value, path: &str, list: &mut Vec<Key>) {
    match node {
        Value::Object(fields) if path.is_empty() || !fields.is_empty() => {
            for (name, value) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                collect(value, &path, list);
            }
        }
        leaf => {
            let variable = format!("{PREFIX}{}", path.replace(['.', '-'], "_").to_uppercase());
            list.push(Key { path: path.to_owned(), default: leaf.clone(), variable });
        }
    }
}

/// As the `config` crate holds it.
pub(super) fn to_config(value: &Value, origin: Option<&String>) -> config::Value {
    let kind = match value {
        Value::Null => ValueKind::Nil,
        Value::Bool(bool) => ValueKind::Boolean(*bool),
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(whole), ..) => ValueKind::I64(whole),
            (None, Some(whole), _) => ValueKind::U64(whole),
            (None, None, float) => ValueKind::Float(float.unwrap_or(f64::NAN)),
        },
        Value::String(text) => ValueKind::String(text.clone()),
        Value::Array(items) => ValueKind::Array(items.iter().map(|item| to_config(item, origin)).collect()),
        Value::Object(fields) => ValueKind::Table(
            fields
                .iter()
                .map(|(name, value)| (name.clone(), to_config(value, origin)))
                .collect::<Map<_, _>>(),
        ),
    };
    config::Value::new(origin, kind)
}

fn nearest<'a>(wanted: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    let close = known.map(|known| (distance(wanted, known), known)).min()?;
    (close.0 <= wanted.chars().count().max(6) / 3).then(|| close.1.to_owned())
}

/// How many characters must be inserted, deleted or replaced to turn one text into the other.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (above, a) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = above + 1;
        for (at, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[at + 1];
            row[at + 1] = replaced.min(row[at] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_edits() {
        for (from, to, edits) in
            [("", "", 0), ("", "abc", 3), ("abc", "", 3), ("kitten", "sitting", 3), ("a", "a", 0)]
        {
            assert_eq!(distance(from, to), edits, "{from} {to}");
        }
    }

    #[test]
    fn only_what_is_near_is_suggested() {
        let known = ["redis.url", "worker.max_in_flight"];
        assert_eq!(nearest("redis.uri", known.into_iter()).as_deref(), Some("redis.url"));
        assert_eq!(
            nearest("worker.max_inflight", known.into_iter()).as_deref(),
            Some("worker.max_in_flight")
        );
        assert_eq!(nearest("colour", known.into_iter()), None);
    }
}
