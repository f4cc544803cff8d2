//! Which JSON Schemas may be compiled and run at all.
//!
//! A schema is a program that somebody else wrote: a few hundred bytes of `$ref`s that double at each step take
//! a compiler for ever, and one that refers to itself may take a validator as long. So before either sees it,
//! its nodes are counted with every reference replaced by what it leads to; one that leads back into itself has
//! no such number. Only references into the schema itself can be followed, and only those are allowed, which also
//! means that nothing is ever fetched.

use std::collections::HashMap;

use serde_json::{Map, Value};

use crate::json_scan::max_depth;

/// The most bytes of a schema's text.
pub const MAX_BYTES: usize = 64 << 10;
/// The most that its text is nested.
pub const MAX_DEPTH: usize = 32;
/// The most nodes, with references replaced.
pub const MAX_NODES: u64 = 10_000;
/// The most nodes that are looked at to count them.
const MAX_LOOKS: u64 = 200_000;
/// The most that they are nested.
const MAX_HEIGHT: usize = 128;

/// Why a schema may not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// Its text is too long.
    #[error("the schema is {0} bytes long; at most {MAX_BYTES} are allowed")]
    TooLong(usize),
    /// Its text is nested too deep.
    #[error("the schema is nested {0} deep; at most {MAX_DEPTH} are allowed")]
    TooDeep(usize),
    /// It is neither an object nor a boolean.
    #[error("a schema is an object, or true or false")]
    NoSchema,
    /// A reference leads out of it.
    #[error("$ref {0:?} leads out of the schema; only references into it, which begin with #, are followed")]
    Foreign(String),
    /// A reference leads nowhere.
    #[error("$ref {0:?} leads nowhere in the schema")]
    Nowhere(String),
    /// A reference leads back to where it is.
    #[error(
        "$ref {0:?} leads back into itself; recursive schemas are not taken, since what they cost has no bound"
    )]
    Recursive(String),
    /// With references replaced it is too large.
    #[error("with its references followed the schema has more than {MAX_NODES} nodes")]
    TooLarge,
    /// With references replaced it is nested too deep.
    #[error("with its references followed the schema is nested more than {MAX_HEIGHT} deep")]
    TooHigh,
    /// It uses something that would make references mean something else.
    #[error("{0} is not supported; refer to parts of the schema with $ref and #/…")]
    Unsupported(&'static str),
}

/// Checks a schema's text and the value that it was read as.
pub fn check(text: &str, schema: &Value) -> Result<(), SchemaError> {
    if text.len() > MAX_BYTES {
        return Err(SchemaError::TooLong(text.len()));
    }
    let depth = max_depth(text.as_bytes());
    if depth > MAX_DEPTH {
        return Err(SchemaError::TooDeep(depth));
    }
    if !matches!(schema, Value::Object(_) | Value::Bool(_)) {
        return Err(SchemaError::NoSchema);
    }
    let mut anchors = HashMap::new();
    find_anchors(schema, true, &mut anchors)?;
    let mut counting = Counting { root: schema, anchors, known: HashMap::new(), nodes: 0 };
    let size = counting.size_of(schema, 0)?;
    if size.nodes > MAX_NODES { Err(SchemaError::TooLarge) } else { Ok(()) }
}

/// Where the names lead that parts of the schema were given. What gives parts another base is refused.
fn find_anchors<'a>(
    value: &'a Value,
    is_root: bool,
    anchors: &mut HashMap<&'a str, &'a Value>,
) -> Result<(), SchemaError> {
    match value {
        Value::Object(members) => {
            let text = |name: &str| members.get(name).and_then(Value::as_str);
            for keyword in ["$dynamicRef", "$recursiveRef", "$dynamicAnchor"] {
                if text(keyword).is_some() {
                    return Err(SchemaError::Unsupported(keyword));
                }
            }
            for keyword in ["$id", "id"] {
                match text(keyword) {
                    // Before 2019 this was how a part was named.
                    Some(name) if name.starts_with('#') => drop(anchors.insert(&name[1..], value)),
                    Some(_) if !is_root && keyword == "$id" => {
                        return Err(SchemaError::Unsupported("$id inside a schema"));
                    }
                    _ => {}
                }
            }
            if let Some(name) = text("$anchor") {
                anchors.insert(name, value);
            }
            members.values().try_for_each(|member| find_anchors(member, false, anchors))
        }
        Value::Array(items) => items.iter().try_for_each(|item| find_anchors(item, false, anchors)),
        _ => Ok(()),
    }
}

/// How large something is, with references replaced.
#[derive(Clone, Copy)]
struct Size {
    nodes: u64,
    height: usize,
}

struct Counting<'a> {
    root: &'a Value,
    anchors: HashMap<&'a str, &'a Value>,
    /// Where references led; `None` for one that is being followed.
    known: HashMap<&'a str, Option<Size>>,
    /// What was looked at so far: each node where it stands, and once for each way in which it is referred to.
    nodes: u64,
}

impl<'a> Counting<'a> {
    fn size_of(&mut self, value: &'a Value, above: usize) -> Result<Size, SchemaError> {
        self.nodes += 1;
        if self.nodes > MAX_LOOKS {
            return Err(SchemaError::TooLarge);
        }
        if above > MAX_HEIGHT {
            return Err(SchemaError::TooHigh);
        }
        let mut size = Size { nodes: 1, height: 1 };
        let mut add = |part: Size| {
            size.nodes = size.nodes.saturating_add(part.nodes);
            size.height = size.height.max(part.height + 1);
        };
        match value {
            Value::Object(members) => {
                for member in members.values() {
                    add(self.size_of(member, above + 1)?);
                }
                if let Some(Value::String(target)) = members.get("$ref") {
                    add(self.size_behind(target, above + 1)?);
                }
                // To know what nothing else has looked at, all else is looked at once more.
                size.nodes = size.nodes.saturating_mul(looks(members));
            }
            Value::Array(items) => {
                for item in items {
                    add(self.size_of(item, above + 1)?);
                }
            }
            _ => {}
        }
        if above + size.height > MAX_HEIGHT { Err(SchemaError::TooHigh) } else { Ok(size) }
    }

    fn size_behind(&mut self, target: &'a str, above: usize) -> Result<Size, SchemaError> {
        let Some(fragment) = target.strip_prefix('#') else {
            return Err(SchemaError::Foreign(target.to_owned()));
        };
        match self.known.get(target) {
            Some(Some(size)) if above + size.height <= MAX_HEIGHT => return Ok(*size),
            Some(Some(_)) => return Err(SchemaError::TooHigh),
            Some(None) => return Err(SchemaError::Recursive(target.to_owned())),
            None => {}
        }
        let nowhere = || SchemaError::Nowhere(target.to_owned());
        let fragment = percent_decoded(fragment).ok_or_else(nowhere)?;
        let place = if fragment.is_empty() || fragment.starts_with('/') {
            self.root.pointer(&fragment)
        } else {
            self.anchors.get(fragment.as_str()).copied()
        };
        self.known.insert(target, None);
        let size = self.size_of(place.ok_or_else(nowhere)?, above)?;
        self.known.insert(target, Some(size));
        Ok(size)
    }
}

/// How often a schema's parts are looked at.
fn looks(members: &Map<String, Value>) -> u64 {
    let unevaluated = ["unevaluatedProperties", "unevaluatedItems"];
    unevaluated.iter().fold(1, |looks, keyword| looks << u32::from(members.contains_key(*keyword)))
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let mut digit = || char::from(bytes.next()?).to_digit(16);
            let (high, low) = (digit()?, digit()?);
            decoded.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            decoded.push(byte);
        }
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn checked(schema: &Value) -> Result<(), SchemaError> {
        check(&schema.to_string(), schema)
    }

    /// `$defs` each of which refers to the next one twice.
    fn doubling(steps: usize) -> Value {
        let mut defs = Map::new();
        for n in 0..steps {
            let next = json!({ "$ref": format!("#/$defs/d{}", n + 1) });
            defs.insert(format!("d{n}"), json!({ "allOf": [next, next] }));
        }
        defs.insert(format!("d{steps}"), json!({ "type": "string" }));
        json!({ "$ref": "#/$defs/d0", "$defs": defs })
    }

    #[test]
    fn ordinary_schemas_are_fine() {
        for schema in [
            json!(true),
            json!({}),
            json!({ "type": "object", "required": ["a"], "properties": { "a": { "$ref": "#/$defs/a" } },
                    "$defs": { "a": { "type": "integer", "minimum": 0 } } }),
            json!({ "$id": "https://example.com/root", "$ref": "#named", "$defs": { "x": { "$anchor": "named" } } }),
            json!({ "properties": { "$ref": { "type": "string" } } }),
            json!({ "$ref": "#/$defs/a%20b~1c", "$defs": { "a b/c": {} } }),
            json!({ "properties": { "id": { "type": "string" } }, "enum": ["id"] }),
            doubling(5),
        ] {
            assert_eq!(checked(&schema), Ok(()), "{schema}");
        }
    }

    #[test]
    fn what_would_cost_too_much_is_refused() {
        let table = [
            (doubling(20), "nodes"),
            (doubling(60), "128 deep"),
            (json!({ "properties": { "child": { "$ref": "#" } } }), "itself"),
            (
                json!({ "$ref": "#/$defs/a", "$defs": { "a": { "not": { "$ref": "#/$defs/b" } },
                     "b": { "not": { "$ref": "#/$defs/a" } } } }),
                "itself",
            ),
            (json!({ "$ref": "https://example.com/schema.json" }), "leads out"),
            (json!({ "$ref": "file:///etc/passwd" }), "leads out"),
            (json!({ "$ref": "other.json#/a" }), "leads out"),
            (json!({ "$ref": "#/nowhere" }), "nowhere"),
            (json!({ "$ref": "#nobody" }), "nowhere"),
            (json!({ "$ref": "#/%zz" }), "nowhere"),
            (json!({ "$defs": { "a": { "$id": "http://x/" } } }), "$id"),
            (json!({ "$dynamicRef": "#a" }), "$dynamicRef"),
            (json!({ "enum": (0..10_000).collect::<Vec<_>>() }), "nodes"),
            (json!({ "description": "x".repeat(MAX_BYTES) }), "bytes"),
            (json!([]), "object"),
            (json!("x"), "object"),
        ];
        for (schema, says) in table {
            let error = checked(&schema).unwrap_err().to_string();
            assert!(error.contains(says), "{error}: {schema:.100}");
        }
        let deep = |levels: usize| (0..levels).fold(json!({}), |inner, _| json!({ "not": inner }));
        assert_eq!(checked(&deep(31)), Ok(()));
        assert_eq!(checked(&deep(32)), Err(SchemaError::TooDeep(33)));
    }

    #[test]
    fn a_long_chain_of_references_is_too_high() {
        let mut defs = Map::new();
        for n in 0..1_000 {
            defs.insert(format!("d{n}"), json!({ "$ref": format!("#/$defs/d{}", n + 1) }));
        }
        defs.insert("d1000".into(), json!(true));
        assert_eq!(checked(&json!({ "$ref": "#/$defs/d0", "$defs": defs })), Err(SchemaError::TooHigh));
    }

    #[test]
    fn what_looks_at_everything_again_counts_twice() {
        let nested = |levels: usize| {
            (0..levels).fold(
                json!({ "type": "object" }),
                |inner, _| json!({ "allOf": [inner], "unevaluatedProperties": false }),
            )
        };
        assert_eq!(checked(&nested(8)), Ok(()));
        assert_eq!(checked(&nested(14)), Err(SchemaError::TooLarge));
    }
}
