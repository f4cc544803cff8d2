//! The alternatives of one field: plain values and operators.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::{
    MAX_OPERAND_BYTES, MAX_WILDCARD_TEXT,
    number::Num,
    text::{Wildcard, fold, fold_begins, fold_ends, folds_to},
};

/// What an index can find a scalar by. Whatever matches the alternative that a key was made from is found
/// by the key; not all that is found matches.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Key {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// This number.
    Number(Num),
    /// Numbers from one to the other, both included.
    Range(Option<Num>, Option<Num>),
    /// Strings that are, begin or end so.
    Text(TextKey),
    /// Strings whose folded form is, begins or ends so; see [`Key::fold_ends`].
    Folded(TextKey),
    /// Strings of at most [`Key::MAX_CONTAINING_BYTES`] in which this stands.
    Contains(Box<str>),
    /// Strings that are an address in this network; see [`Key::network_bits`].
    Network {
        /// Whether it is IPv6.
        v6: bool,
        /// Its address, host bits cleared.
        bits: u128,
        /// How many leading bits count.
        length: u8,
    },
    /// Any scalar.
    Scalar,
}

/// Which part of a string is compared.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TextKey {
    /// All of it.
    Whole(Box<str>),
    /// Its beginning.
    Prefix(Box<str>),
    /// Its end.
    Suffix(Box<str>),
}

impl Key {
    /// The longest string that [`Key::Contains`] has to find.
    pub const MAX_CONTAINING_BYTES: usize = MAX_WILDCARD_TEXT;

    /// The folded forms of the beginning and the end of a string, as far as [`Key::Folded`] goes; one form
    /// of the whole string if it is not longer than that.
    pub fn fold_ends(text: &str) -> (String, Option<String>) {
        // An operand of n bytes folds to at most 1.5 n characters, and a character to at least one.
        const CHARS: usize = 2 * MAX_OPERAND_BYTES;
        match text.char_indices().nth(CHARS) {
            None => (fold(text).collect(), None),
            Some((end, _)) => {
                let begin = text.char_indices().nth_back(CHARS - 1).map_or(0, |(at, _)| at);
                (fold(&text[..end]).collect(), Some(fold(&text[begin..]).collect()))
            }
        }
    }

    /// The leading `length` bits of an address, the others cleared.
    pub fn network_bits(address: IpAddr, length: u8) -> u128 {
        let (bits, width) = match address {
            IpAddr::V4(address) => (u128::from(address.to_bits()), 32),
            IpAddr::V6(address) => (address.to_bits(), 128),
        };
        let cleared = u32::saturating_sub(width, length.into());
        bits.checked_shr(cleared).and_then(|kept| kept.checked_shl(cleared)).unwrap_or(0)
    }
}

/// Plain values, for equality.
#[derive(Debug, Default)]
pub(super) struct Values {
    null: bool,
    bools: [bool; 2],
    /// Sorted.
    numbers: Vec<Num>,
    /// Sorted.
    texts: Vec<Box<str>>,
}

impl Values {
    /// Adds a scalar; gives back whether it was one.
    pub(super) fn add(&mut self, value: &Value) -> bool {
        match value {
            Value::Null => self.null = true,
            Value::Bool(value) => self.bools[usize::from(*value)] = true,
            Value::Number(number) => insert_sorted(&mut self.numbers, Num::from(number)),
            Value::String(text) => insert_sorted(&mut self.texts, text.as_str().into()),
            Value::Array(_) | Value::Object(_) => return false,
        }
        true
    }

    pub(super) fn contain(&self, value: &Value) -> bool {
        match value {
            Value::Null => self.null,
            Value::Bool(value) => self.bools[usize::from(*value)],
            Value::Number(number) => self.numbers.binary_search(&Num::from(number)).is_ok(),
            Value::String(text) => self.texts.binary_search_by(|known| (**known).cmp(text.as_str())).is_ok(),
            Value::Array(_) | Value::Object(_) => false,
        }
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = Key> {
        let bools = [false, true].into_iter().filter(|value| self.bools[usize::from(*value)]).map(Key::Bool);
        let numbers = self.numbers.iter().copied().map(Key::Number);
        let texts = self.texts.iter().cloned().map(|text| Key::Text(TextKey::Whole(text)));
        self.null.then_some(Key::Null).into_iter().chain(bools).chain(numbers).chain(texts)
    }
}

fn insert_sorted<T: Ord>(sorted: &mut Vec<T>, item: T) {
    if let Err(at) = sorted.binary_search(&item) {
        sorted.insert(at, item);
    }
}

/// One end of a numeric range.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bound {
    number: Num,
    included: bool,
}

/// One operator with its operand.
#[derive(Debug)]
pub(super) enum Operator {
    Prefix(Box<str>),
    Suffix(Box<str>),
    /// The operands of these three are folded.
    EqualsIgnoreCase(Box<str>),
    PrefixIgnoreCase(Box<str>),
    SuffixIgnoreCase(Box<str>),
    Wildcard(Wildcard),
    Range {
        low: Option<Bound>,
        high: Option<Bound>,
    },
    Cidr(IpNet),
    Exists,
    AnythingBut {
        values: Values,
        operators: Vec<Self>,
    },
}

/// Every operator of the language. (`exists` with `false` is a property of the field instead.)
const OPERATORS: [&str; 9] = [
    "exact",
    "prefix",
    "suffix",
    "equals-ignore-case",
    "wildcard",
    "anything-but",
    "numeric",
    "exists",
    "cidr",
];

/// Names that the language reserves, so that an object which has them as fields is no `$or` alternative.
const RESERVED: [&str; 15] = [
    "=",
    "<",
    "<=",
    ">",
    ">=",
    "regex",
    "not-wildcard",
    "not-equals-ignore-case",
    "date-after",
    "date-on-or-after",
    "date-before",
    "date-on-or-before",
    "in-date-range",
    "ip-address-in-range",
    "ip-address-not-in-range",
];

/// Whether this is an operator's name.
pub(super) fn is_operator(name: &str) -> bool {
    OPERATORS.contains(&name)
}

/// Whether this is an operator's name or kept for one.
pub(super) fn is_reserved(name: &str) -> bool {
    is_operator(name) || RESERVED.contains(&name)
}

impl Operator {
    /// Compiles `{name: operand}`, `exact` and `exists: false` aside. The error says what is wrong.
    pub(super) fn new(name: &str, operand: &Value) -> Result<Self, String> {
        match name {
            "prefix" => match ignoring_case(name, operand)? {
                Some(folded) => Ok(Self::PrefixIgnoreCase(folded)),
                None => Ok(Self::Prefix(text(name, operand)?.into())),
            },
            "suffix" => match ignoring_case(name, operand)? {
                Some(folded) => Ok(Self::SuffixIgnoreCase(folded)),
                None => Ok(Self::Suffix(text(name, operand)?.into())),
            },
            "equals-ignore-case" => Ok(Self::EqualsIgnoreCase(folded(text(name, operand)?))),
            "wildcard" => Ok(Self::Wildcard(Wildcard::new(text(name, operand)?)?)),
            "numeric" => range(operand),
            "cidr" => {
                let text = text(name, operand)?;
                let network =
                    text.parse().map_err(|_| format!("{text:?} is no network, such as 10.0.0.0/24"))?;
                Ok(Self::Cidr(network))
            }
            "exists" if *operand == Value::Bool(true) => Ok(Self::Exists),
            "exists" => Err("exists takes true or false".into()),
            "anything-but" => anything_but(operand),
            unknown => Err(format!("unknown operator {unknown:?}; known are {}", OPERATORS.join(", "))),
        }
    }

    /// Whether a scalar matches.
    pub(super) fn matches(&self, value: &Value) -> bool {
        match self {
            Self::Exists => true,
            Self::AnythingBut { values, operators } => {
                !values.contain(value) && operators.iter().all(|operator| operator.denied_by(value))
            }
            Self::Range { low, high } => {
                let Value::Number(number) = value else { return false };
                let number = Num::from(number);
                low.is_none_or(|low| number > low.number || (low.included && number == low.number))
                    && high
                        .is_none_or(|high| number < high.number || (high.included && number == high.number))
            }
            _ => value.as_str().is_some_and(|text| self.matches_text(text)),
        }
    }

    fn matches_text(&self, text: &str) -> bool {
        match self {
            Self::Prefix(prefix) => text.starts_with(&**prefix),
            Self::Suffix(suffix) => text.ends_with(&**suffix),
            Self::EqualsIgnoreCase(folded) => folds_to(text, folded),
            Self::PrefixIgnoreCase(folded) => fold_begins(text, folded),
            Self::SuffixIgnoreCase(folded) => fold_ends(text, folded),
            Self::Wildcard(wildcard) => Wildcard::looks_at(text) && wildcard.matches(text),
            Self::Cidr(network) => text.parse::<IpAddr>().is_ok_and(|address| network.contains(&address)),
            Self::Range { .. } | Self::Exists | Self::AnythingBut { .. } => false,
        }
    }

    /// Whether it can be said that a scalar does not match: of text too long for a wildcard it can't.
    fn denied_by(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::Wildcard(_), Value::String(text)) if !Wildcard::looks_at(text) => false,
            _ => !self.matches(value),
        }
    }

    /// What finds all that matches.
    pub(super) fn key(&self) -> Key {
        match self {
            Self::Prefix(prefix) => Key::Text(TextKey::Prefix(prefix.clone())),
            Self::Suffix(suffix) => Key::Text(TextKey::Suffix(suffix.clone())),
            Self::EqualsIgnoreCase(folded) => Key::Folded(TextKey::Whole(folded.clone())),
            Self::PrefixIgnoreCase(folded) => Key::Folded(TextKey::Prefix(folded.clone())),
            Self::SuffixIgnoreCase(folded) => Key::Folded(TextKey::Suffix(folded.clone())),
            Self::Wildcard(wildcard) => {
                match (wildcard.prefix(), wildcard.suffix(), wildcard.longest_inner()) {
                    ("", "", "") => Key::Scalar,
                    ("", "", inner) => Key::Contains(inner.into()),
                    ("", suffix, _) => Key::Text(TextKey::Suffix(suffix.into())),
                    (prefix, ..) => Key::Text(TextKey::Prefix(prefix.into())),
                }
            }
            Self::Range { low, high } => Key::Range(low.map(|low| low.number), high.map(|high| high.number)),
            Self::Cidr(network) => Key::Network {
                v6: network.addr().is_ipv6(),
                bits: Key::network_bits(network.addr(), network.prefix_len()),
                length: network.prefix_len(),
            },
            Self::Exists | Self::AnythingBut { .. } => Key::Scalar,
        }
    }

    /// How many `wildcard` strings it holds.
    pub(super) fn wildcards(&self) -> usize {
        match self {
            Self::Wildcard(_) => 1,
            Self::AnythingBut { operators, .. } => operators.iter().map(Self::wildcards).sum(),
            _ => 0,
        }
    }

    /// How many comparisons it stands for, a list of plain values counting as one.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::AnythingBut { operators, .. } => operators.len().max(1),
            _ => 1,
        }
    }
}

fn folded(text: &str) -> Box<str> {
    fold(text).collect::<String>().into()
}

/// The operand as a string of at most 256 bytes.
fn text<'a>(operator: &str, operand: &'a Value) -> Result<&'a str, String> {
    let text = operand.as_str().ok_or_else(|| format!("{operator} takes a string"))?;
    if text.len() > MAX_OPERAND_BYTES {
        return Err(format!(
            "{operator} has a string of {} bytes; at most {MAX_OPERAND_BYTES} are allowed",
            text.len()
        ));
    }
    Ok(text)
}

/// The folded operand of `{"prefix": {"equals-ignore-case": …}}`.
fn ignoring_case(operator: &str, operand: &Value) -> Result<Option<Box<str>>, String> {
    let Value::Object(inner) = operand else { return Ok(None) };
    match inner.iter().next() {
        Some((name, operand)) if inner.len() == 1 && name == "equals-ignore-case" => {
            Ok(Some(folded(text(name, operand)?)))
        }
        _ => Err(format!("{operator} takes a string or {{\"equals-ignore-case\": …}}")),
    }
}

fn range(operand: &Value) -> Result<Operator, String> {
    const FORM: &str = r#"numeric takes ["=", n], [">", n], ["<", n] or both bounds, also with >= and <="#;
    let Some(parts) = operand.as_array().filter(|parts| matches!(parts.len(), 2 | 4)) else {
        return Err(FORM.into());
    };
    let (mut low, mut high) = (None, None);
    for pair in parts.chunks_exact(2) {
        let (Some(sign), Some(number)) = (pair[0].as_str(), pair[1].as_number()) else {
            return Err(FORM.into());
        };
        let bound = Bound { number: Num::from(number), included: sign.ends_with('=') };
        let ends: &mut [&mut Option<Bound>] = match sign {
            "=" => &mut [&mut low, &mut high],
            ">" | ">=" => &mut [&mut low],
            "<" | "<=" => &mut [&mut high],
            _ => return Err(format!("numeric has {sign:?}; known are = > >= < <=")),
        };
        for end in ends {
            if end.replace(bound).is_some() {
                return Err(FORM.into());
            }
        }
    }
    if let (Some(low), Some(high)) = (low, high)
        && (low.number > high.number || (low.number == high.number && !(low.included && high.included)))
    {
        return Err(format!("no number lies in numeric {operand}"));
    }
    Ok(Operator::Range { low, high })
}

fn anything_but(operand: &Value) -> Result<Operator, String> {
    let (mut values, mut operators) = (Values::default(), Vec::new());
    if let Value::Object(inner) = operand {
        let Some((name, operand)) = inner.iter().next().filter(|_| inner.len() == 1) else {
            return Err("anything-but takes one operator".into());
        };
        if !matches!(name.as_str(), "prefix" | "suffix" | "wildcard" | "equals-ignore-case") {
            return Err(format!(
                "anything-but does not take {name:?}; it takes prefix, suffix, wildcard, equals-ignore-case"
            ));
        }
        for operand in one_or_more("anything-but", operand)? {
            text(name, operand)?;
            operators.push(Operator::new(name, operand)?);
        }
    } else {
        let list = one_or_more("anything-but", operand)?;
        let same = list.iter().all(Value::is_string) || list.iter().all(Value::is_number);
        if !same {
            return Err("anything-but takes strings or numbers, and not both in one list".into());
        }
        for value in list {
            values.add(value);
        }
    }
    Ok(Operator::AnythingBut { values, operators })
}

fn one_or_more<'a>(operator: &str, operand: &'a Value) -> Result<&'a [Value], String> {
    match operand {
        Value::Array(list) if list.is_empty() => Err(format!("{operator} has an empty list")),
        Value::Array(list) => Ok(list),
        single => Ok(std::slice::from_ref(single)),
    }
}
