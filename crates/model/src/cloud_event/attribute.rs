//! What an attribute may be called and may hold.

use serde_json::Value;

use super::{CloudEventError, SPEC_VERSION, refuse};
use crate::time::Time;

/// Checks one attribute by the specification's rules.
pub(super) fn check(name: &str, value: &Value) -> Result<(), CloudEventError> {
    check_name(name)?;
    let text = match value {
        Value::String(text) => text,
        Value::Bool(_) => return check_is_extension(name),
        Value::Number(number) if number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => {
            return check_is_extension(name);
        }
        Value::Number(_) => {
            return refuse(name, "is a number, but no whole one of 32 bits; write it as a string");
        }
        Value::Null | Value::Array(_) | Value::Object(_) => {
            return refuse(name, "is neither a string nor a boolean nor a number");
        }
    };
    if let Some(bad) = text.chars().find(|c| c.is_control() || is_noncharacter(*c)) {
        return refuse(name, format!("contains {bad:?}, which no CloudEvent may hold"));
    }
    match name {
        "specversion" if text != SPEC_VERSION => {
            refuse(name, format!("is {text:?}; {SPEC_VERSION:?} is understood"))
        }
        "id" | "type" | "subject" if text.is_empty() => refuse(name, "is empty"),
        "source" => check_uri_reference(name, text),
        "dataschema" if !text.contains(':') => refuse(name, "is no absolute URI"),
        "dataschema" => check_uri_reference(name, text),
        "time" | "expirytime" | "recordedtime" => {
            Time::parse(text).map(drop).or_else(|problem| refuse(name, format!("is wrong: {problem}")))
        }
        _ => Ok(()),
    }
}

fn check_name(name: &str) -> Result<(), CloudEventError> {
    if matches!(name, "data" | "datacontenttype") {
        return refuse(name, "cannot stand among the attributes");
    }
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()) {
        return refuse(name, "is no attribute's name: they are made of a-z and 0-9");
    }
    Ok(())
}

/// The specification's own attributes are strings.
fn check_is_extension(name: &str) -> Result<(), CloudEventError> {
    match name {
        "id" | "source" | "type" | "specversion" | "subject" | "time" | "dataschema" => {
            refuse(name, "must be a string")
        }
        _ => Ok(()),
    }
}

fn is_noncharacter(c: char) -> bool {
    let code = u32::from(c);
    (0xfdd0..=0xfdef).contains(&code) || code & 0xfffe == 0xfffe
}

/// RFC 3986: only characters that may stand in a URI.
fn check_uri_reference(name: &str, text: &str) -> Result<(), CloudEventError> {
    if text.is_empty() {
        return refuse(name, "is empty");
    }
    let may_stand = |c: char| c.is_ascii_alphanumeric() || "-._~:/?#[]@!$&'()*+,;=%".contains(c);
    match text.chars().find(|c| !may_stand(*c)) {
        Some(bad) => {
            refuse(name, format!("contains {bad:?}, which cannot stand in a URI; percent-encode it"))
        }
        None => Ok(()),
    }
}

/// RFC 2046: `type/subtype`, then parameters.
pub(super) fn check_media_type(text: &str) -> Result<(), CloudEventError> {
    let name = "datacontenttype";
    let is_token = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
    };
    let essence = text.split(';').next().unwrap_or_default().trim();
    match essence.split_once('/') {
        Some((kind, subtype))
            if is_token(kind) && is_token(subtype) && !text.contains(|c: char| c.is_control()) =>
        {
            Ok(())
        }
        _ => refuse(name, format!("is {text:?}, which is no media type such as application/json")),
    }
}

/// An attribute's canonical text.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
