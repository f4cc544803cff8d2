//! `filter_criteria`: Amazon EventBridge event patterns over a message's JSON payload.
//!
//! A pattern mirrors the shape of the payload. Each field it names holds a non-empty list of alternatives,
//! of which one must match; all named fields must match; what it does not name is ignored. A bare scalar
//! stands for a list of itself.
//!
//! | alternative | matches |
//! |---|---|
//! | `"a"` `1` `true` `null` `{"exact": "a"}` | that value; numbers by what they are worth: 300 = 300.0 = 3e2 |
//! | `{"prefix": "a"}` `{"suffix": "a"}` | strings that begin or end so; also `{"prefix": {"equals-ignore-case": "A"}}` |
//! | `{"equals-ignore-case": "a"}` | strings, letter case aside |
//! | `{"wildcard": "a*b"}` | strings; `*` is any text, `\*` and `\\` are plain, `**` is refused |
//! | `{"numeric": [">", 0, "<=", 5]}` | numbers; `=`, or one lower bound, one upper bound, or both |
//! | `{"cidr": "10.0.0.0/24"}` | strings that are an address in it, IPv4 and IPv6 |
//! | `{"exists": true}` | any scalar, also null |
//! | `{"exists": false}` | no scalar there: also an object, an empty list, or nothing |
//! | `{"anything-but": x}` | any scalar but x: a string or number, a list of either, or `{"prefix": …}`, `{"suffix": …}`, `{"wildcard": …}`, `{"equals-ignore-case": …}` over a string or a list |
//!
//! `"$or": [{…}, {…}]` stands for any one of its objects, if there are two or more and none uses an
//! operator's name as a field; else it is a field that happens to have this name.
//!
//! Lists in the payload match by any element, whatever they are nested in. Fields below a list of objects
//! must match within one and the same object; `exists: false` speaks of the object that the other fields
//! chose, and of all of them where there is no other field. Dots in names are plain: `{"a.b": …}` is not
//! `{"a": {"b": …}}`. Where a payload names a field twice, the last one counts. Integers beyond 64 bits
//! and fractions are compared as the nearest `f64`.
//!
//! Every rule is evaluated here, in time proportional to payload times pattern. The crate `quamina` (0.7.0)
//! is what the tests compare with where it reads a pattern the same way, and no more: dotted names never
//! match in it, `$or` and operators within operators are missing, `<`, IPv6 and some mixed lists err (see
//! `tests.rs`), and from 256 patterns that accept one value on, it panics in matching.

mod branch;
mod number;
mod operator;
mod parse;
mod text;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use self::{
    branch::{Branch, Clue},
    number::Num,
    operator::{Key, TextKey},
};
use crate::json_scan;

/// The longest `filter_criteria`, in bytes of compact JSON.
pub const MAX_FILTER_BYTES: usize = 16 * 1024;
/// The longest string that an operator takes, in bytes.
pub const MAX_OPERAND_BYTES: usize = 256;
/// The most `*` in one `wildcard`.
pub const MAX_WILDCARD_STARS: usize = 8;
/// The most `wildcard` strings in one filter.
pub const MAX_WILDCARDS: usize = 5;
/// The longest string in a payload that a `wildcard` looks at, in bytes; a longer one does not match, and
/// neither does it match `anything-but` a wildcard.
pub const MAX_WILDCARD_TEXT: usize = 4 * 1024;
/// The most combinations that `$or` may lead to.
pub const MAX_BRANCHES: usize = 64;
/// The most fields and operators in one filter, counted in each combination that `$or` leads to. Plain
/// values in a list do not count. It bounds what one evaluation may cost.
pub const MAX_CONDITIONS: usize = 256;

/// Why a filter was refused, in words for the person who wrote it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("filter_criteria{}{path}: {problem}", if .path.is_empty() { "" } else { "." })]
pub struct FilterError {
    /// The field at fault, names joined by dots; empty for the filter as a whole.
    pub path: String,
    /// What is wrong with it.
    pub problem: String,
}

/// A checked event pattern. Clones share it.
///
/// In JSON it is the object as it was given.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>", into = "Map<String, Value>")]
pub struct Filter(Arc<Compiled>);

#[derive(Debug)]
struct Compiled {
    source: Map<String, Value>,
    branches: Vec<Branch>,
}

/// Two filters are equal if they were given as the same JSON.
impl PartialEq for Compiled {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Compiled {}

impl Filter {
    /// Checks and compiles a pattern.
    ///
    /// Refused, with the field and the reason: empty objects and lists (also the empty pattern), unknown
    /// operators by name, operands of the wrong type, numeric ranges that nothing lies in, more than 64
    /// levels ([`json_scan::MAX_DEPTH`]), and whatever exceeds one of this module's `MAX_` constants; a
    /// field that `$or` names a second time or once as a value and once as an object.
    pub fn new(source: Map<String, Value>) -> Result<Self, FilterError> {
        let branches = parse::branches(&source)?;
        Ok(Self(Arc::new(Compiled { source, branches })))
    }

    /// The pattern as it was given.
    pub fn source(&self) -> &Map<String, Value> {
        &self.0.source
    }

    /// The combinations that `$or` leads to; a payload matches if it matches one. An index finds
    /// candidates by their [`Branch::clues`].
    pub fn branches(&self) -> &[Branch] {
        &self.0.branches
    }

    /// Whether a payload matches. Text that is no JSON object, or nests more than 64 levels, does not.
    pub fn matches(&self, payload: &[u8]) -> bool {
        Event::parse(payload).is_some_and(|event| self.matches_event(&event))
    }

    /// The same for a payload that is parsed once for many filters.
    pub fn matches_event(&self, event: &Event) -> bool {
        self.0.branches.iter().any(|branch| branch.matches(&event.0))
    }
}

impl TryFrom<Map<String, Value>> for Filter {
    type Error = FilterError;
    fn try_from(source: Map<String, Value>) -> Result<Self, FilterError> {
        Self::new(source)
    }
}

impl From<Filter> for Map<String, Value> {
    fn from(filter: Filter) -> Self {
        filter.0.source.clone()
    }
}

/// A payload that filters can look at: one JSON object, at most 64 levels deep.
#[derive(Debug, Clone, PartialEq)]
pub struct Event(Map<String, Value>);

impl Event {
    /// Reads a payload; `None` if it is not such an object (or not UTF-8, or holds a number beyond `f64`).
    pub fn parse(payload: &[u8]) -> Option<Self> {
        json_scan::check_depth(payload).ok()?;
        serde_json::from_slice(payload).ok().map(Self)
    }

    /// Its fields.
    pub fn fields(&self) -> &Map<String, Value> {
        &self.0
    }
}

#[cfg(test)]
mod tests;
