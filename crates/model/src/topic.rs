//! `routing_key` on a channel of type `topic`: AMQP 0-9-1 topic patterns, as RabbitMQ's exchange reads them.
//!
//! A key is words between dots; the empty key has no words at all, and `a..b` has an empty word in its
//! middle. In a pattern the word `*` stands for exactly one word and the word `#` for any number of them,
//! also none; within a word both are plain text. A mismatch goes back to the last `#` only, so a match
//! costs at most words times words, whatever the pattern.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::names::{MAX_NAME_BYTES, NameError};

/// The most `#` words that a pattern may hold, as in RabbitMQ.
pub const MAX_HASHES: usize = 2;

/// A topic pattern: at most 255 bytes without control characters, at most [`MAX_HASHES`] `#` words.
///
/// On a channel of type `direct` the same text is compared as it stands.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TopicPattern(Arc<str>);

impl TopicPattern {
    /// Checks a pattern. The empty one is allowed: it has no words and matches the empty key only.
    pub fn new(text: &str) -> Result<Self, NameError> {
        let refuse = |problem: String| Err(NameError { what: "routing_key", problem });
        if text.len() > MAX_NAME_BYTES {
            return refuse(format!("is {} bytes long; at most {MAX_NAME_BYTES} are allowed", text.len()));
        }
        if let Some(bad) = text.chars().find(|c| c.is_control()) {
            return refuse(format!("contains the control character {bad:?}"));
        }
        let hashes = words(text).filter(|word| *word == "#").count();
        if hashes > MAX_HASHES {
            return refuse(format!("has {hashes} `#` words; at most {MAX_HASHES} are allowed"));
        }
        Ok(Self(text.into()))
    }

    /// The pattern as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a message with this routing key matches.
    pub fn matches(&self, key: &str) -> bool {
        let (mut pattern, mut key) = (words(&self.0), words(key));
        let mut last_hash = None; // what follows it, and the words that it does not cover yet
        loop {
            let (mut pattern_rest, mut key_rest) = (pattern.clone(), key.clone());
            match (pattern_rest.next(), key_rest.next()) {
                (Some("#"), _) => {
                    pattern = pattern_rest;
                    last_hash = Some((pattern.clone(), key.clone()));
                    continue;
                }
                (None, None) => return true,
                (Some(expected), Some(word)) if expected == "*" || expected == word => {
                    (pattern, key) = (pattern_rest, key_rest);
                    continue;
                }
                _ => {}
            }
            let Some((after, uncovered)) = &mut last_hash else { return false };
            if uncovered.next().is_none() {
                return false;
            }
            (pattern, key) = (after.clone(), uncovered.clone());
        }
    }
}

/// The words of a key or pattern: none in an empty one.
pub fn words(text: &str) -> impl Iterator<Item = &str> + Clone {
    text.split('.').take(if text.is_empty() { 0 } else { usize::MAX })
}

impl fmt::Display for TopicPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TopicPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl TryFrom<String> for TopicPattern {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        Self::new(&text)
    }
}

impl From<TopicPattern> for String {
    fn from(pattern: TopicPattern) -> Self {
        pattern.0.as_ref().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_match_as_in_rabbitmq() {
        let table = [
            ("a", "a", true),
            ("a", "b", false),
            ("a.b", "a.b", true),
            ("a.*", "a.b", true),
            ("a.*", "a", false),
            ("a.*", "a.b.c", false),
            ("a.#", "a", true),
            ("a.#", "a.b.c", true),
            ("#", "", true),
            ("#", "a.b", true),
            ("*", "", false),
            ("*", "a", true),
            ("", "", true),
            ("", "a", false),
            ("a", "", false),
            ("a.*.b", "a..b", true), // an empty word is a word
            ("a..b", "a..b", true),
            ("a..b", "a.x.b", false),
            ("*.*", ".", true),
            ("*", ".", false),
            (".", "", false),
            ("a#b", "a#b", true), // within a word they are plain text
            ("a#b", "axb", false),
            ("a*", "ab", false),
            ("#.b", "b", true),
            ("#.b", "a.a.b", true),
            ("#.b", "b.a", false),
            ("#.a.#", "x.a.y", true),
            ("#.a.#", "a", true),
            ("#.a.#", "x.y", false),
            ("#.#", "", true),
            ("#.*", "", false),
            ("#.*", "a.b", true),
            ("*.#", "a", true),
            ("#.a.*.#.b", "a.a.x.b", true),
            ("A", "a", false),
        ];
        for (pattern, key, expected) in table {
            assert_eq!(TopicPattern::new(pattern).unwrap().matches(key), expected, "{pattern} {key}");
        }
    }

    #[test]
    fn what_is_refused() {
        for bad in ["#.#.#", "#.a.#.b.#", "a\n", &"k".repeat(256)] {
            assert_eq!(TopicPattern::new(bad).unwrap_err().what, "routing_key", "{bad}");
        }
        assert_eq!(
            TopicPattern::new("#.#.#.#.#").unwrap_err().to_string(),
            "routing_key has 5 `#` words; at most 2 are allowed"
        );
        assert!(TopicPattern::new("##.a#.#.#").is_ok());
        assert!(serde_json::from_str::<TopicPattern>("\"#.#.#\"").is_err());
    }

    #[test]
    fn the_worst_pattern_is_quick() {
        let pattern = TopicPattern::new(&("#.".to_owned() + &"a.".repeat(60) + "#.b")).unwrap();
        let key = "a.".repeat(127);
        for _ in 0..100 {
            assert!(!pattern.matches(&key));
        }
    }

    /// The definition, spelled out.
    fn reference(pattern: &[&str], key: &[&str]) -> bool {
        match pattern {
            [] => key.is_empty(),
            ["#", rest @ ..] => (0..=key.len()).any(|skip| reference(rest, &key[skip..])),
            [expected, rest @ ..] => {
                key.first().is_some_and(|word| *expected == "*" || expected == word)
                    && reference(rest, &key[1..])
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5_000))]

        #[test]
        fn equals_the_definition(pattern in r"([ab*#.]|a\.|\.\*|\.#){0,6}", key in r"[ab.]{0,8}") {
            if let Ok(pattern) = TopicPattern::new(&pattern) {
                let split = |text| words(text).collect::<Vec<_>>();
                prop_assert_eq!(pattern.matches(&key), reference(&split(pattern.as_str()), &split(&key)));
            }
        }
    }
}
