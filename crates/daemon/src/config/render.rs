//! Shows a configuration to people: what is in force, and what there is to set.

use std::fmt::Write;

use serde_json::Value;

use super::{Configuration, Docs, Loaded, keys::Keys, mask_url};

pub(super) const REDACTED: &str = "[redacted]";

/// The configuration in force, as TOML that can be read again (but for what is redacted). Where a value is
/// no default, a comment says where it came from.
pub fn print_config<T: Configuration>(loaded: &Loaded<T>) -> String {
    let keys = Keys::of::<T>();
    let tree = serde_json::to_value(&loaded.config).expect("a configuration serialises as JSON");
    let mut out = String::new();
    section(&keys, loaded, &tree, "", &mut out);
    out
}

fn section<T>(keys: &Keys, loaded: &Loaded<T>, node: &Value, path: &str, out: &mut String) {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    let fields = || node.as_object().into_iter().flatten().map(|(name, value)| (name, below(name), value));
    for (name, path, value) in fields().filter(|(_, path, _)| !keys.is_section(path)) {
        let from = loaded.origin(&path).map(|origin| format!(" # {origin}")).unwrap_or_default();
        match value {
            Value::Null => writeln!(out, "# {name} is not set"),
            _ if keys.is_secret(&path) => writeln!(out, "{name} = {REDACTED:?}{from}"),
            value => writeln!(out, "{name} = {}{from}", to_toml(value)),
        }
        .expect("a String can be written to");
    }
    for (_, path, value) in fields().filter(|(_, path, _)| keys.is_section(path)) {
        write!(out, "\n[{path}]\n").expect("a String can be written to");
        section(keys, loaded, value, &path, out);
    }
}

/// As an inline TOML value, passwords in URLs masked.
fn to_toml(value: &Value) -> String {
    match value {
        Value::String(text) => toml::Value::String(mask_url(text)).to_string(),
        Value::Array(items) => format!("[{}]", items.iter().map(to_toml).collect::<Vec<_>>().join(", ")),
        Value::Object(fields) => {
            let field = |(name, value): (&String, &Value)| {
                format!("{} = {}", toml::Value::String(name.clone()), to_toml(value))
            };
            match fields.iter().map(field).collect::<Vec<_>>() {
                empty if empty.is_empty() => "{}".to_owned(),
                fields => format!("{{ {} }}", fields.join(", ")),
            }
        }
        plain => plain.to_string(),
    }
}

/// A Markdown table of every key: its default, its name in the environment and what it is for.
pub fn reference_markdown<T: Configuration>() -> String {
    let keys = Keys::of::<T>();
    let mut out = String::from("| key | default | environment | what it is for |\n|---|---|---|---|\n");
    for (path, doc) in T::SCHEMA.docs.iter().copied().flatten() {
        let Some(key) = keys.by_path(path) else { continue };
        let default = match &key.default {
            Value::Null => "not set".to_owned(),
            _ if keys.is_secret(path) => "not shown".to_owned(),
            value => format!("`{}`", to_toml(value)),
        };
        let cells = [format!("`{path}`"), default, format!("`{}`", key.variable), (*doc).to_owned()];
        let cells = cells.map(|cell| cell.replace('|', "\\|"));
        writeln!(out, "| {} |", cells.join(" | ")).expect("a String can be written to");
    }
    out
}

/// For tests: panics unless every key is documented exactly once, nothing else is, no two keys share a
/// name in the environment, what is listed as a secret exists, and the defaults can be read back.
pub fn assert_documented<T: Configuration>() {
    let keys = Keys::of::<T>();
    let documented: Vec<&str> = T::SCHEMA.docs.iter().copied().flat_map(names).collect();
    let all: Vec<&str> = keys.iter().map(|key| key.path.as_str()).collect();
    let listed = |list: &[&str], key: &str| list.iter().filter(|other| **other == key).count();
    for key in &all {
        assert_eq!(listed(&documented, key), 1, "`{key}` must be documented once");
    }
    for key in &documented {
        assert_eq!(listed(&all, key), 1, "`{key}` is documented, but there is no such key");
    }
    for secret in T::SCHEMA.secrets {
        assert_eq!(listed(&all, secret), 1, "`{secret}` is listed as a secret, but there is no such key");
    }
    let variables: Vec<&str> = keys.iter().map(|key| key.variable.as_str()).collect();
    for variable in &variables {
        assert_eq!(listed(&variables, variable), 1, "two keys are {variable} in the environment");
    }
    if let Err(error) = serde_json::from_value::<T>(keys.tree.clone()) {
        panic!("the defaults cannot be read back: {error}");
    }
}

fn names(docs: Docs) -> impl Iterator<Item = &'static str> {
    docs.iter().map(|(key, _)| *key)
}
