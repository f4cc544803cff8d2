//! What calls are asked with: filters in a query or a body, each refusal naming its field.

use axum::extract::{
    Path, Query,
    rejection::{PathRejection, QueryRejection},
};
use postroad_api::{
    body,
    error::{ApiError, ApiResult},
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::filter::Wanted;

/// A query, as axum hands it over.
pub(super) type Given = Result<Query<Vec<(String, String)>>, QueryRejection>;

/// What a query asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) wanted: Wanted,
    pub(super) limit: Option<usize>,
    pub(super) cursor: Option<String>,
}

const FILTERS: [&str; 8] =
    ["subscription_id", "queue", "channel", "reason", "status_code", "from", "to", "text"];
const PAGE: [&str; 2] = ["limit", "cursor"];

fn number<T: std::str::FromStr>(name: &str, value: &str) -> ApiResult<T> {
    let value: String = value.chars().take(40).collect();
    value
        .parse()
        .map_err(|_| ApiError::field(name, format!("{name} = {value:?} is no number that it can be")))
}

/// Reads a query that may name filters and a page.
pub(super) fn query(given: Given, filters: bool, page: bool) -> ApiResult<Asked> {
    let Query(pairs) = given.map_err(|error| ApiError::field("query", error.body_text()))?;
    let mut known: Vec<&str> = Vec::new();
    known.extend(filters.then_some(FILTERS).into_iter().flatten());
    known.extend(page.then_some(PAGE).into_iter().flatten());
    let mut seen: Vec<&str> = Vec::new();
    let mut asked = Asked::default();
    for (name, value) in pairs {
        let Some(name) = known.iter().find(|known| **known == name) else {
            let name: String = name.chars().take(40).collect();
            let known =
                if known.is_empty() { "none are known here".into() } else { known.join(", ") + " are" };
            return Err(ApiError::field(&name, format!("{name:?} is no query name here; {known}")));
        };
        if seen.contains(name) {
            return Err(ApiError::field(*name, format!("{name} is given twice; give it once")));
        }
        seen.push(name);
        let wanted = &mut asked.wanted;
        match *name {
            "subscription_id" => wanted.subscription_id = Some(value),
            "queue" => wanted.queue = Some(value),
            "channel" => wanted.channel = Some(value),
            "reason" => wanted.reason = Some(value),
            "status_code" => wanted.status_code = Some(number(name, &value)?),
            "from" => wanted.from = Some(value),
            "to" => wanted.to = Some(value),
            "text" => wanted.text = Some(value),
            "limit" => asked.limit = Some(number(name, &value)?),
            _ => asked.cursor = Some(value),
        }
    }
    Ok(asked)
}

/// Takes one field out of a body.
pub(super) fn take<T: DeserializeOwned>(
    body: &mut Map<String, Value>,
    name: &'static str,
) -> ApiResult<Option<T>> {
    match body.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => serde_json::from_value(value)
            .map(Some)
            .map_err(|error| ApiError::field(name, format!("{name} can be none such: {error}"))),
    }
}

/// Reads what is left of a body: filters and nothing else.
pub(super) fn filters(body: Map<String, Value>) -> ApiResult<Wanted> {
    body::parse(Value::Object(body).to_string().as_bytes())
}

/// The id in a path; one that is no text can be nobody's.
pub(super) fn id(given: Result<Path<String>, PathRejection>, what: &'static str) -> ApiResult<String> {
    given.map(|Path(id)| id).map_err(|_| ApiError::not_found(what, "\u{fffd}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> ApiResult<Asked> {
        let uri = format!("http://x/?{query}").parse().unwrap();
        super::query(Ok(Query::try_from_uri(&uri).unwrap()), true, true)
    }

    #[test]
    fn queries_are_read_and_refused_by_name() {
        let asked = read("queue=a.b&status_code=503&limit=7&text=a%20b").unwrap();
        assert_eq!((asked.limit, asked.wanted.status_code), (Some(7), Some(503)));
        assert_eq!(asked.wanted.text.as_deref(), Some("a b"));
        for (query, field) in [
            ("status_code=x", "status_code"),
            ("status_code=70000", "status_code"),
            ("limit=-1", "limit"),
            ("queue=a&queue=b", "queue"),
            ("tenant=other", "tenant"),
        ] {
            let error = read(query).unwrap_err();
            assert_eq!((error.status.as_u16(), &error.details["field"]), (422, &field.into()), "{query}");
        }
    }

    #[test]
    fn bodies_are_refused_by_name() {
        let body = |text: &str| serde_json::from_str::<Map<String, Value>>(text).unwrap();
        assert_eq!(take::<u64>(&mut body(r#"{"limit":null}"#), "limit").unwrap(), None);
        let error = take::<u64>(&mut body(r#"{"limit":"x"}"#), "limit").unwrap_err();
        assert_eq!(error.details["field"], "limit");
        let error = filters(body(r#"{"colour":"red"}"#)).unwrap_err();
        assert_eq!((error.status.as_u16(), &error.details["field"]), (422, &"colour".into()));
        assert_eq!(filters(body("{}")).unwrap(), Wanted::default());
    }
}
