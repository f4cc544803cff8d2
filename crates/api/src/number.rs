//! Numbers as callers expect them in JSON.

use serde::Serializer;

/// The largest whole number that every reader of JSON takes for the same: 2^53 − 1.
const LARGEST: f64 = 9_007_199_254_740_991.0;

/// Writes a number that is whole as one, `1000` and not `1000.0`: readers with types take only that where the
/// documents show an integer. For `serialize_with`.
pub fn whole<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    #[expect(clippy::cast_possible_truncation, reason = "it is whole and small enough")]
    if number.fract() == 0.0 && number.abs() <= LARGEST {
        serializer.serialize_i64(*number as i64)
    } else {
        serializer.serialize_f64(*number)
    }
}

/// The same where there may be none.
pub fn whole_if_any<S: Serializer>(number: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    match number {
        Some(number) => whole(number, serializer),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use serde::Serialize;

    use super::*;

    #[derive(Serialize)]
    struct Both {
        #[serde(serialize_with = "whole")]
        one: f64,
        #[serde(serialize_with = "whole_if_any")]
        any: Option<f64>,
    }

    #[test]
    fn whole_numbers_have_no_fraction() {
        for (number, text) in [
            (1_000.0, "1000"),
            (0.0, "0"),
            (-3.0, "-3"),
            (0.25, "0.25"),
            (9_007_199_254_740_991.0, "9007199254740991"),
            (1e300, "1e+300"),
        ] {
            let both = serde_json::to_string(&Both { one: number, any: Some(number) }).unwrap();
            assert_eq!(both, format!(r#"{{"one":{text},"any":{text}}}"#));
        }
        let none = serde_json::to_string(&Both { one: f64::NAN, any: None }).unwrap();
        assert_eq!(none, r#"{"one":null,"any":null}"#);
    }
}
