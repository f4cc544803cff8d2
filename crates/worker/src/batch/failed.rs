//! What a subscriber says of a batch: `{"failed": [{"message_id": …, "error": …}]}` fails those, and only those.
//!
//! Where an answer says that some failed and not which, all did: each is then tried alone, where there is no doubt.
//! Anything else behind a 2xx says nothing: a subscriber that knows no batches answers with whatever it likes.

use serde_json::{Map, Value};

/// What an answer that has a list of failures says somewhere.
const NAME: &[u8] = b"\"failed\"";

/// What an answer says of each delivery.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failed {
    /// For each delivery, in order, why it failed; none: it did not.
    pub(super) errors: Vec<Option<String>>,
    /// What in a list of failures could not be understood.
    pub(super) strange: Option<String>,
}

/// Reads the body of a 2xx. `names` are what the deliveries go by, in order; a name that is there twice fails both.
pub(super) fn read(body: &[u8], names: &[[&str; 2]]) -> Failed {
    let mut errors: Vec<Option<String>> = vec![None; names.len()];
    let strange = match list(body) {
        Ok(rows) => rows.into_iter().filter_map(|row| note(&mut errors, names, &row).err()).next_back(),
        Err(strange) => Some(strange),
    };
    if let Some(strange) = &strange {
        for error in &mut errors {
            error.get_or_insert_with(|| format!("the list of failures cannot be understood: {strange}"));
        }
    }
    Failed { errors, strange }
}

/// The list of failures; empty where the answer has none.
fn list(body: &[u8]) -> Result<Vec<Value>, String> {
    if !body.trim_ascii_start().starts_with(b"{") {
        return Ok(Vec::new());
    }
    let says_failed = || body.windows(NAME.len()).any(|part| part == NAME);
    match serde_json::from_slice::<Map<String, Value>>(body) {
        Ok(mut members) => match members.remove("failed") {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(rows)) => Ok(rows),
            Some(_) => Err("`failed` is no list".to_owned()),
        },
        // It may have been cut.
        Err(error) if says_failed() => Err(format!("it is no JSON: {error}")),
        Err(_) => Ok(Vec::new()),
    }
}

/// Notes one failure: `{"message_id", "error"}`, or the message's id alone.
fn note(errors: &mut [Option<String>], names: &[[&str; 2]], row: &Value) -> Result<(), String> {
    let Some(id) = row.get("message_id").unwrap_or(row).as_str() else {
        return Err("a failure without `message_id`".to_owned());
    };
    let mut known = false;
    for (_, error) in names.iter().zip(errors).filter(|(names, _)| names.contains(&id)) {
        known = true;
        error.get_or_insert_with(|| said(row.get("error")));
    }
    if known { Ok(()) } else { Err("a failure of a message that was not sent with it".to_owned()) }
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
            (r#"{"failed":["b"]}"#, [None, none, None]),
            ("{\"status\":\"ok", [None; 3]),
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
    fn all_failed_where_it_is_not_clear_who() {
        let nested = "{\"failed\":".to_owned() + &"[".repeat(100_000);
        for body in [
            "{\"failed\":[{\"message_id\":\"a\"",
            "{\"failed\":{}}",
            "{\"failed\":\"a\"}",
            "{\"failed\":[{\"message_id\":\"c\"}]}",
            "{\"failed\":[{\"message_id\":7},[],null]}",
            "{\"failed\":\u{0}}",
            &nested,
        ] {
            let Failed { errors, strange } = read(body.as_bytes(), &[["a"; 2], ["b"; 2]]);
            assert!(strange.is_some() && errors.iter().all(Option::is_some), "{body}: {errors:?}");
        }
        let mixed = r#"{"failed":[{"message_id":"x"},{"message_id":"b","error":"boom"}]}"#;
        let Failed { errors, .. } = read(mixed.as_bytes(), &[["a"; 2], ["b"; 2]]);
        assert!(errors[0].as_ref().unwrap().contains("not sent with it"), "{errors:?}");
        assert_eq!(errors[1].as_deref(), Some("boom"));
    }
}
