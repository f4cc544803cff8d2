//! `header_match`: the binding arguments of RabbitMQ's headers exchange.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    filter::Num,
    names::{MAX_NAME_BYTES, NameError},
};

/// The most headers that a `header_match` may name.
pub const MAX_HEADERS: usize = 32;
/// The longest value to compare with, in bytes.
pub const MAX_VALUE_BYTES: usize = 1024;

/// Headers to compare. In JSON it is the object as it was given.
///
/// `x-match` says how; it is no header itself:
///
/// | `x-match` | headers considered | none considered | matches |
/// |---|---|---|---|
/// | `all`, or absent | those not beginning with `x-` | matches | if every one is equal |
/// | `any` | those not beginning with `x-` | does not match | if at least one is equal |
/// | `all-with-x` | all | matches | if every one is equal |
/// | `any-with-x` | all | does not match | if at least one is equal |
///
/// `null` asks for the header's presence only, whatever its value. There are no wildcards.
///
/// RabbitMQ compares types strictly. Headers of HTTP are text, so here the [`canonical`] texts of values
/// are compared: 1 equals `"1"` and 1.0, `true` equals `"true"`; letter case counts. Names are compared
/// without regard to ASCII letter case. A message's header that is a list or an object is present and
/// equals nothing; so does one that is `null`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>", into = "Map<String, Value>")]
pub struct HeaderMatch {
    source: Map<String, Value>,
    all: bool,
    conditions: Vec<Condition>,
}

/// One header that is considered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Its name, in ASCII lower case.
    pub name: Box<str>,
    /// The canonical text to be equal to; `None`: it need only be there.
    pub value: Option<Box<str>>,
}

impl HeaderMatch {
    /// Checks and compiles. Refused: an unknown `x-match`, more than [`MAX_HEADERS`] headers, a name that
    /// is empty, longer than 255 bytes or there twice (in other letter case), a value that is a list, an
    /// object or longer than [`MAX_VALUE_BYTES`].
    pub fn new(source: Map<String, Value>) -> Result<Self, NameError> {
        let refuse = |problem: String| Err(NameError { what: "header_match", problem });
        let (mut all, mut with_x) = (true, false);
        let mut named: Vec<Condition> = Vec::new();
        for (name, value) in &source {
            if name.is_empty() || name.len() > MAX_NAME_BYTES {
                return refuse(format!(
                    "has a name of {} bytes; 1 to {MAX_NAME_BYTES} are allowed",
                    name.len()
                ));
            }
            let name = name.to_ascii_lowercase().into_boxed_str();
            if &*name == "x-match" {
                (all, with_x) = match value.as_str() {
                    Some("all") => (true, false),
                    Some("any") => (false, false),
                    Some("all-with-x") => (true, true),
                    Some("any-with-x") => (false, true),
                    _ => {
                        return refuse(format!(
                            "has an x-match of {value}; all, any, all-with-x, any-with-x are known"
                        ));
                    }
                };
                continue;
            }
            let value = match canonical(value) {
                Some(text) if text.len() > MAX_VALUE_BYTES => {
                    return refuse(format!(
                        "has a value of {} bytes for {name:?}; at most {MAX_VALUE_BYTES} are allowed",
                        text.len()
                    ));
                }
                None if !value.is_null() => {
                    return refuse(format!(
                        "has a list or an object for {name:?}; scalars and null are allowed"
                    ));
                }
                text => text.map(Box::from),
            };
            if named.iter().any(|condition| condition.name == name) {
                return refuse(format!("names {name:?} twice; letter case makes no difference"));
            }
            named.push(Condition { name, value });
        }
        if named.len() > MAX_HEADERS {
            return refuse(format!("names {} headers; at most {MAX_HEADERS} are allowed", named.len()));
        }
        named.retain(|condition| with_x || !condition.name.starts_with("x-"));
        Ok(Self { source, all, conditions: named })
    }

    /// The object as it was given.
    pub fn source(&self) -> &Map<String, Value> {
        &self.source
    }

    /// The headers that are considered.
    pub fn conditions(&self) -> &[Condition] {
        &self.conditions
    }

    /// Whether all conditions must hold; else any one.
    pub fn needs_all(&self) -> bool {
        self.all
    }

    /// Whether a message with these headers matches.
    pub fn matches(&self, headers: &Map<String, Value>) -> bool {
        let mut conditions = self.conditions.iter();
        if self.all {
            conditions.all(|condition| condition.holds(headers))
        } else {
            conditions.any(|condition| condition.holds(headers))
        }
    }
}

impl Condition {
    /// Whether some header of this name is as it should be.
    pub(super) fn holds(&self, headers: &Map<String, Value>) -> bool {
        headers.iter().any(|(name, value)| {
            name.eq_ignore_ascii_case(&self.name)
                && self.value.as_deref().is_none_or(|expected| canonical(value).as_deref() == Some(expected))
        })
    }
}

/// The text by which a header's value is compared: of a string itself, of a number its shortest decimal
/// form (`1` for 1.0 and 1e0), of a boolean `true` or `false`. `None` for null, lists and objects.
pub fn canonical(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => Some(Cow::Borrowed(text)),
        Value::Number(number) => Some(Cow::Owned(Num::from(number).to_string())),
        Value::Bool(true) => Some(Cow::Borrowed("true")),
        Value::Bool(false) => Some(Cow::Borrowed("false")),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

impl TryFrom<Map<String, Value>> for HeaderMatch {
    type Error = NameError;
    fn try_from(source: Map<String, Value>) -> Result<Self, NameError> {
        Self::new(source)
    }
}

impl From<HeaderMatch> for Map<String, Value> {
    fn from(header_match: HeaderMatch) -> Self {
        header_match.source
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        serde_json::from_value(value).unwrap()
    }

    fn new(value: Value) -> Result<HeaderMatch, NameError> {
        HeaderMatch::new(object(value))
    }

    #[test]
    fn the_four_modes() {
        // header_match without x-match, message headers, [all, any, all-with-x, any-with-x]
        let table = [
            (json!({}), json!({"a": "1"}), [true, false, true, false]),
            (json!({"a": "1"}), json!({"a": "1", "b": "2"}), [true, true, true, true]),
            (json!({"a": "1"}), json!({"a": "2"}), [false, false, false, false]),
            (json!({"a": "1", "b": "2"}), json!({"a": "1"}), [false, true, false, true]),
            (json!({"a": null}), json!({"a": {"any": "thing"}}), [true, true, true, true]),
            (json!({"a": null}), json!({"a": null}), [true, true, true, true]),
            (json!({"a": null}), json!({}), [false, false, false, false]),
            (json!({"x-a": "1"}), json!({}), [true, false, false, false]),
            (json!({"x-a": "1"}), json!({"X-A": "1"}), [true, false, true, true]),
            (json!({"X-a": "1", "b": "2"}), json!({"b": "2"}), [true, true, false, true]),
        ];
        for (named, headers, expected) in table {
            for (mode, expected) in ["all", "any", "all-with-x", "any-with-x"].into_iter().zip(expected) {
                let mut named = object(named.clone());
                named.insert("x-match".into(), json!(mode));
                let hit = HeaderMatch::new(named.clone()).unwrap().matches(&object(headers.clone()));
                assert_eq!(hit, expected, "{named:?} {headers}");
            }
            assert_eq!(new(named.clone()).unwrap().matches(&object(headers.clone())), expected[0], "{named}");
        }
    }

    #[test]
    fn values_are_compared_as_canonical_text() {
        let table = [
            (json!("1"), json!(1), true),
            (json!(1.0), json!("1"), true),
            (json!(1e2), json!(100), true),
            (json!(0.1), json!("0.1"), true),
            (json!(1), json!("1.0"), false), // strings are taken as they are
            (json!(true), json!("true"), true),
            (json!("a"), json!("A"), false),
            (json!("null"), json!(null), false),
            (json!("[1]"), json!([1]), false),
            (json!("a"), json!(["a"]), false),
            (json!(""), json!(""), true),
        ];
        for (named, header, expected) in table {
            let hit = new(json!({ "key": named })).unwrap().matches(&object(json!({ "KEY": header })));
            assert_eq!(hit, expected, "{named} {header}");
        }
        let headers = object(json!({"KEY": "no", "key": "yes"}));
        assert!(new(json!({"Key": "yes"})).unwrap().matches(&headers), "any header of the name will do");
    }

    #[test]
    fn what_is_refused() {
        let many: Map<String, Value> = (0..33).map(|n| (format!("h{n}"), Value::Null)).collect();
        assert!(HeaderMatch::new(many.clone()).is_err());
        assert!(HeaderMatch::new(many.into_iter().take(32).collect()).is_ok());
        for bad in [
            json!({"x-match": "nonsense"}),
            json!({"X-Match": 1}),
            json!({"x-match": null}),
            json!({"a": [1]}),
            json!({"a": {"b": 1}}),
            json!({"a": 1, "A": 2}),
            json!({"": 1}),
            json!({"a": "v".repeat(1025)}),
        ] {
            assert_eq!(new(bad.clone()).unwrap_err().what, "header_match", "{bad}");
        }
        assert_eq!(
            new(json!({"x-match": "nonsense"})).unwrap_err().to_string(),
            "header_match has an x-match of \"nonsense\"; all, any, all-with-x, any-with-x are known"
        );
    }

    #[test]
    fn in_json_it_is_what_was_given() {
        let given = json!({"x-match": "any", "Region": "eu", "x-n": 1, "p": null});
        assert_eq!(serde_json::to_value(new(given.clone()).unwrap()).unwrap(), given);
    }

    proptest! {
        #[test]
        fn all_implies_any_unless_nothing_is_considered(
            named in prop::collection::btree_map("[ab]", 0..2u8, 1..3),
            headers in prop::collection::btree_map("[abAB]", 0..2u8, 0..4),
        ) {
            let with = |mode: &str| {
                let named = named.iter().map(|(name, value)| (name.clone(), json!(value)));
                HeaderMatch::new(named.chain([("x-match".into(), json!(mode))]).collect()).unwrap()
            };
            let headers = headers.into_iter().map(|(name, value)| (name, json!(value))).collect();
            prop_assert!(!with("all").matches(&headers) || with("any").matches(&headers));
        }
    }
}
