//! What a subscriber says of a batch: `{"failed": [{"message_id": …, "error": …}]}` fails those, and only those.
//!
//! Anything else behind a 2xx says nothing: a subscriber that knows no batches answers with whatever it likes.

use serde_json::Value;

/// What an answer says of each delivery.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failed {
    /// For each delivery, in order, why it failed; none: it did not.
    pub(super) errors: Vec<Option<String>>,
    /// What in a list of failures was passed over.
    pub(super) strange: Option<String>,
}

/// Reads the body of a 2xx. `names` are what the deliveries go by, in order; a name that is there twice fails both.
pub(super) fn read(body: &[u8], names: &[[&str; 2]]) -> Failed {
    let mut errors: Vec<Option<String>> = vec![None; names.len()];
    let mut strange = None;
    let answer = if body.trim_ascii_start().starts_with(b"{") {
        serde_json::from_slice(body)
    } else {
        Ok(Value::Null)
    };
    let rows = match answer {
        Ok(Value::Object(mut members)) => members.remove("failed").unwrap_or_default(),
        Ok(_) => Value::Null,
        Err(error) => {
            strange = Some(format!("it is no JSON: {error}"));
            Value::Null
        }
    };
    match rows {
        Value::Array(rows) => {
            for row in rows {
                let id = row.get("message_id").and_then(Value::as_str).unwrap_or_default();
                let before = errors.iter().flatten().count();
                for (_, failed) in names.iter().zip(&mut errors).filter(|(known, _)| known.contains(&id)) {
                    failed.get_or_insert_with(|| said(row.get("error")));
                }
                if before == errors.iter().flatten().count() && strange.is_none() {
                    strange = Some("a failure of no message that was sent, or of one twice".to_owned());
                }
            }
        }
        Value::Null => {}
        _ => strange = Some("`failed` is no list".to_owned()),
    }
    Failed { errors, strange }
}

fn said(error: Option<&Value>) -> String {
    match error {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => "no reason was given".to_owned(),
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(body: &str) -> Vec<Option<&'static str>> {
        let known = ["boom", "no reason was given", "{\"code\":7}"];
        let Failed { errors, strange } = read(body.as_bytes(), &[["a"; 2], ["b", "event b"], ["a"; 2]]);
        assert_eq!(strange, None, "{body}");
        let leak = |error: String| *known.iter().find(|known| **known == error).unwrap();
        errors.into_iter().map(|error| error.map(leak)).collect()
    }

    #[test]
    fn those_that_are_named_failed() {
        let (boom, none) = (Some("boom"), Some("no reason was given"));
        let table: &[(&str, [Option<&str>; 3])] = &[
            ("", [None; 3]),
            ("ok", [None; 3]),
            ("[{\"message_id\":\"a\"}]", [None; 3]),
            ("{}", [None; 3]),
            ("{\"failed\":null}", [None; 3]),
            ("{\"failed\":[]}", [None; 3]),
            (r#"{"failed":[{"message_id":"b","error":"boom"}],"more":1}"#, [None, boom, None]),
            (r#" {"failed":[{"message_id":"b"}]}"#, [None, none, None]),
            (r#"{"failed":[{"message_id":"event b"}]}"#, [None, none, None]),
            (r#"{"failed":[{"message_id":"b","error":{"code":7}}]}"#, [None, Some("{\"code\":7}"), None]),
            (
                r#"{"failed":[{"message_id":"a","error":"boom"},{"message_id":"b","error":null}]}"#,
                [boom, none, boom],
            ),
        ];
        for (body, expected) in table {
            assert_eq!(errors(body), expected, "{body}");
        }
    }

    #[test]
    fn what_makes_no_sense_fails_nobody_and_is_told() {
        for body in [
            "{\"failed\":[{\"message_id\":\"a\"",
            "{\"failed\":{}}",
            "{\"failed\":\"a\"}",
            "{\"failed\":[\"a\"]}",
            "{\"failed\":[{\"message_id\":\"c\"}]}",
            "{\"failed\":[{\"message_id\":7},[],null]}",
            "{\"failed\":\u{0}}",
        ] {
            let Failed { errors, strange } = read(body.as_bytes(), &[["a"; 2], ["b"; 2]]);
            assert_eq!(errors, [None, None], "{body}");
            assert!(strange.is_some(), "{body}");
        }
        let nested = "{\"failed\":".to_owned() + &"[".repeat(100_000);
        assert!(read(nested.as_bytes(), &[["a"; 2]]).strange.is_some());
        let mixed = r#"{"failed":[{"message_id":"x"},{"message_id":"b","error":"boom"}]}"#;
        let Failed { errors, strange } = read(mixed.as_bytes(), &[["a"; 2], ["b"; 2]]);
        assert_eq!((errors, strange.is_some()), (vec![None, Some("boom".to_owned())], true));
    }
}
