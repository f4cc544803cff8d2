//! How deeply a JSON text nests, found without parsing it.
//!
//! Whatever reads JSON recursively (serde_json, a matcher, a receiver) spends stack on depth, so depth is
//! bounded before any of them sees the text. The scan keeps one counter: no recursion, no allocation, one
//! pass. It does not check the text; what it says about text that is no JSON is merely a bound.

/// The deepest nesting of objects and arrays that Postroad looks into: `{}` is 1, `[[]]` is 2.
pub const MAX_DEPTH: usize = 64;

/// A JSON text nests more than [`MAX_DEPTH`] deep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is nested more than {MAX_DEPTH} deep")]
pub struct TooDeep;

/// How many objects and arrays enclose the most deeply nested place of `text`; 0 for a scalar or nothing.
///
/// Brackets inside strings do not count. Of text that is no JSON: the most brackets open at a time.
pub fn max_depth(text: &[u8]) -> usize {
    deepest(text, usize::MAX)
}

/// Refuses text that nests more than [`MAX_DEPTH`] deep; stops reading where it does.
pub fn check_depth(text: &[u8]) -> Result<(), TooDeep> {
    if deepest(text, MAX_DEPTH) > MAX_DEPTH { Err(TooDeep) } else { Ok(()) }
}

/// The greatest depth, or the first one above `bound`.
fn deepest(text: &[u8], bound: usize) -> usize {
    let (mut depth, mut deepest) = (0usize, 0usize);
    let (mut in_string, mut escaped) = (false, false);
    for byte in text {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
                if deepest > bound {
                    break;
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    #[test]
    fn depth_is_counted_outside_strings() {
        let table = [
            ("", 0),
            ("1", 0),
            ("\"[[[\"", 0),
            ("{}", 1),
            ("[]", 1),
            (r#"{"a":[{"b":1},[]]}"#, 3),
            (r#"{"a":"\"[["}"#, 1),
            (r#"{"a":"\\","b":[[]]}"#, 3),
            (r#"{"[{":"}"}"#, 1),
            ("]]]]{", 1),
            ("[[[\"unclosed ]]] ", 3),
        ];
        for (text, depth) in table {
            assert_eq!(max_depth(text.as_bytes()), depth, "{text}");
        }
    }

    #[test]
    fn the_bound_is_exact() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert_eq!(check_depth(nested(MAX_DEPTH).as_bytes()), Ok(()));
        assert_eq!(check_depth(nested(MAX_DEPTH + 1).as_bytes()), Err(TooDeep));
    }

    #[test]
    fn a_million_brackets_are_a_number_and_no_crash() {
        assert_eq!(max_depth("[".repeat(1_000_000).as_bytes()), 1_000_000);
        assert_eq!(check_depth("{\"a\":".repeat(100_000).as_bytes()), Err(TooDeep));
    }

    fn depth_of(value: &Value) -> usize {
        match value {
            Value::Array(items) => 1 + items.iter().map(depth_of).max().unwrap_or(0),
            Value::Object(fields) => 1 + fields.values().map(depth_of).max().unwrap_or(0),
            _ => 0,
        }
    }

    fn json() -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::from),
            "[\\[\\]{}\"\\\\a]{0,6}".prop_map(Value::from),
        ];
        scalar.prop_recursive(6, 40, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[\\[{\"\\\\]{0,3}", inner, 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn agrees_with_the_parsed_value(value in json()) {
            prop_assert_eq!(max_depth(value.to_string().as_bytes()), depth_of(&value));
        }

        #[test]
        fn any_bytes_are_fine(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(check_depth(&bytes).is_ok(), max_depth(&bytes) <= MAX_DEPTH);
        }
    }
}
