//! Queries, refused in words that name the parameter.

use std::{collections::BTreeMap, str::FromStr};

use axum::{extract::Query, http::Uri};

use crate::error::{ApiError, ApiResult};

/// What a query says, by name. A name that is not `known`, one that is there twice and a value that is no text
/// are refused.
pub fn pairs(uri: &Uri, known: &[&'static str]) -> ApiResult<BTreeMap<&'static str, String>> {
    let Query(given) = Query::<Vec<(String, String)>>::try_from_uri(uri)
        .map_err(|error| ApiError::field("query", error.body_text()))?;
    let mut pairs = BTreeMap::new();
    for (name, value) in given {
        let Some(name) = known.iter().find(|known| **known == name) else {
            let name: String = name.chars().take(40).collect();
            let known = known.join(", ");
            return Err(ApiError::field(&name, format!("{name:?} is no query name here; {known} are")));
        };
        // What decoding puts where bytes were no text.
        if value.contains(char::REPLACEMENT_CHARACTER) {
            return Err(ApiError::field(*name, format!("{name} is no UTF-8 text")));
        }
        if pairs.insert(*name, value).is_some() {
            return Err(ApiError::field(*name, format!("{name} is given twice; give it once")));
        }
    }
    Ok(pairs)
}

/// Reads a number.
pub fn number<T: FromStr>(name: &str, value: &str) -> ApiResult<T> {
    value.parse().map_err(|_| {
        let value: String = value.chars().take(40).collect();
        ApiError::field(name, format!("{name} = {value:?} is no number that it can be"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read_and_refused_by_name() {
        let read = |query: &str| pairs(&format!("http://x/?{query}").parse().unwrap(), &["limit", "text"]);
        let pairs = read("text=a%20b&limit=7").unwrap();
        assert_eq!((pairs["text"].as_str(), number("limit", &pairs["limit"]).unwrap()), ("a b", 7));
        for (query, field) in [("tenant=a", "tenant"), ("text=%ff", "text"), ("text=a&text=b", "text")] {
            assert_eq!(read(query).unwrap_err().details["field"], field, "{query}");
        }
        for bad in ["", "-1", "1.5", "1e3", "NaN", "18446744073709551616"] {
            assert_eq!(number::<u64>("limit", bad).unwrap_err().details["field"], "limit", "{bad}");
        }
    }
}
