//! `channel_pattern`: globs over channel names, read exactly as Redis 7.0 reads them in PSUBSCRIBE.
//!
//! The meaning is that of `stringmatchlen` in Redis's `util.c`, corner cases included; the algorithm is not.
//! Redis recurses at every `*`, which is exponential in the worst case (CVE-2022-36021, CVE-2024-31228).
//! Here a mismatch goes back to the last `*` only, so a match costs at most pattern length times name
//! length. User text is never handed to Redis as a pattern.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::names::{MAX_NAME_BYTES, NameError};

/// The most `*` that a pattern may hold, a run of them counting as one.
pub const MAX_STARS: usize = 16;

/// A glob over channel names: 1 to 255 bytes, at most [`MAX_STARS`] `*`.
///
/// | written | matches |
/// |---|---|
/// | `*` | any bytes, also none; dots are nothing special |
/// | `?` | one byte |
/// | `[abc]` `[a-z]` `[z-a]` | one of these bytes; a range may stand either way round |
/// | `[^abc]` | one byte that is none of these |
/// | `\x` | the byte `x`, also within brackets |
///
/// As in Redis: `[` without `]` ends with the pattern, `[]` matches nothing, `[^]` any byte, `[a-]` is a
/// range up to `]` and goes on; a `\` at the very end is itself; bytes are compared, not characters, and
/// in ranges they are signed (as on x86-64).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Glob(Arc<str>);

impl Glob {
    /// Checks a pattern: 1 to 255 bytes, at most [`MAX_STARS`] `*` after runs are collapsed.
    pub fn new(text: &str) -> Result<Self, NameError> {
        let refuse = |problem: String| Err(NameError { what: "channel_pattern", problem });
        if text.is_empty() {
            return refuse("is empty".into());
        }
        if text.len() > MAX_NAME_BYTES {
            return refuse(format!("is {} bytes long; at most {MAX_NAME_BYTES} are allowed", text.len()));
        }
        let stars = stars(text.as_bytes());
        if stars > MAX_STARS {
            return refuse(format!("has {stars} `*`; at most {MAX_STARS} are allowed"));
        }
        Ok(Self(text.into()))
    }

    /// The pattern as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the whole of `channel` matches, upper and lower case being different.
    pub fn matches(&self, channel: &str) -> bool {
        matches(self.0.as_bytes(), channel.as_bytes())
    }

    /// Every piece of plain text that a matching name must contain, in order, longest runs undivided;
    /// empty if the pattern is all wildcards.
    pub fn literals(&self) -> Vec<String> {
        let pattern = self.0.as_bytes();
        let (mut literals, mut run) = (Vec::new(), Vec::new());
        let mut at = 0;
        while at < pattern.len() {
            match pattern[at] {
                b'*' | b'?' | b'[' => {
                    literals.push(std::mem::take(&mut run));
                    at = if pattern[at] == b'[' { class(pattern, at, 0).1 } else { at + 1 };
                }
                b'\\' if at + 1 < pattern.len() => {
                    run.push(pattern[at + 1]);
                    at += 2;
                }
                byte => {
                    run.push(byte);
                    at += 1;
                }
            }
        }
        literals.push(run);
        literals
            .into_iter()
            .filter(|run| !run.is_empty())
            .filter_map(|run| String::from_utf8(run).ok())
            .collect()
    }

    /// The longest of [`Self::literals`] (the first of the longest); empty if there is none.
    pub fn literal(&self) -> String {
        self.literals()
            .into_iter()
            .reduce(|best, next| if next.len() > best.len() { next } else { best })
            .unwrap_or_default()
    }
}

/// How many `*` act as wildcards, runs counting as one.
fn stars(pattern: &[u8]) -> usize {
    let (mut at, mut stars, mut after_star) = (0, 0, false);
    while at < pattern.len() {
        let star = pattern[at] == b'*';
        stars += usize::from(star && !after_star);
        after_star = star;
        at = if star { at + 1 } else { step(pattern, at, 0).1 };
    }
    stars
}

fn matches(pattern: &[u8], text: &[u8]) -> bool {
    if text.is_empty() {
        return pattern.is_empty(); // Redis: not even `*` matches an empty string
    }
    let (mut p, mut t) = (0, 0);
    let mut last_star = None; // where the pattern goes on after it, and the text that it does not cover yet
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            last_star = Some((p, t));
            continue;
        }
        if p < pattern.len() {
            let (hit, next) = step(pattern, p, text[t]);
            if hit {
                (p, t) = (next, t + 1);
                continue;
            }
        }
        let Some((after, from)) = last_star else { return false };
        (p, t) = (after, from + 1);
        last_star = Some((p, t));
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// Whether the element of the pattern at `at`, which is no `*`, matches `byte`, and where the next begins.
fn step(pattern: &[u8], at: usize, byte: u8) -> (bool, usize) {
    match pattern[at] {
        b'?' => (true, at + 1),
        b'[' => class(pattern, at, byte),
        b'\\' if at + 1 < pattern.len() => (pattern[at + 1] == byte, at + 2),
        plain => (plain == byte, at + 1),
    }
}

/// The same for a `[` at `at`.
fn class(pattern: &[u8], at: usize, byte: u8) -> (bool, usize) {
    let mut at = at + 1;
    let negated = pattern.get(at) == Some(&b'^');
    at += usize::from(negated);
    let mut hit = false;
    loop {
        match &pattern[at..] {
            [] => return (hit != negated, at),
            [b'\\', escaped, ..] => {
                hit |= *escaped == byte;
                at += 2;
            }
            [b']', ..] => return (hit != negated, at + 1),
            [from, b'-', to, ..] => {
                let (from, to, byte) = (from.cast_signed(), to.cast_signed(), byte.cast_signed());
                hit |= (from.min(to)..=from.max(to)).contains(&byte);
                at += 3;
            }
            [plain, ..] => {
                hit |= *plain == byte;
                at += 1;
            }
        }
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl TryFrom<String> for Glob {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        Self::new(&text)
    }
}

impl From<Glob> for String {
    fn from(glob: Glob) -> Self {
        glob.0.as_ref().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `stringmatchlen_impl` of Redis 7.0.15, statement by statement, without `nocase`. Beyond the end of
    /// the pattern stands a NUL, as behind every string in Redis.
    fn redis(pattern: &[u8], mut pl: usize, mut s: &[u8], skip_longer: &mut bool) -> bool {
        let mut p = 0;
        let at = |p: usize| pattern.get(p).copied().unwrap_or(0);
        while pl > 0 && !s.is_empty() {
            match at(p) {
                b'*' => {
                    while pl > 0 && at(p + 1) == b'*' {
                        p += 1;
                        pl -= 1;
                    }
                    if pl == 1 {
                        return true;
                    }
                    while !s.is_empty() {
                        if redis(&pattern[p + 1..], pl - 1, s, skip_longer) {
                            return true;
                        }
                        if *skip_longer {
                            return false;
                        }
                        s = &s[1..];
                    }
                    *skip_longer = true;
                    return false;
                }
                b'?' => s = &s[1..],
                b'[' => {
                    p += 1;
                    pl -= 1;
                    let not = at(p) == b'^';
                    if not {
                        p += 1;
                        pl -= 1;
                    }
                    let mut hit = false;
                    loop {
                        if pl >= 2 && at(p) == b'\\' {
                            p += 1;
                            pl -= 1;
                            hit |= at(p) == s[0];
                        } else if at(p) == b']' {
                            break;
                        } else if pl == 0 {
                            p -= 1;
                            pl += 1;
                            break;
                        } else if pl >= 3 && at(p + 1) == b'-' {
                            let (mut start, mut end) = (at(p).cast_signed(), at(p + 2).cast_signed());
                            let c = s[0].cast_signed();
                            if start > end {
                                std::mem::swap(&mut start, &mut end);
                            }
                            p += 2;
                            pl -= 2;
                            hit |= c >= start && c <= end;
                        } else {
                            hit |= at(p) == s[0];
                        }
                        p += 1;
                        pl -= 1;
                    }
                    if hit == not {
                        return false;
                    }
                    s = &s[1..];
                }
                other => {
                    let mut expected = other;
                    if other == b'\\' && pl >= 2 {
                        p += 1;
                        pl -= 1;
                        expected = at(p);
                    }
                    if expected != s[0] {
                        return false;
                    }
                    s = &s[1..];
                }
            }
            p += 1;
            pl -= 1;
            if s.is_empty() {
                while at(p) == b'*' {
                    p += 1;
                    pl -= 1;
                }
                break;
            }
        }
        pl == 0 && s.is_empty()
    }

    fn by_redis(pattern: &str, text: &str) -> bool {
        redis(pattern.as_bytes(), pattern.len(), text.as_bytes(), &mut false)
    }

    #[test]
    fn corner_cases_are_those_of_redis() {
        let table = [
            ("orders.*", "orders.created", true),
            ("orders.*", "orders", false),
            ("orders*", "orders", true),
            ("*", "any.thing:at/all", true),
            ("**a***b**", "xaxb", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("A", "a", false),
            ("[abc]", "b", true),
            ("[abc]", "d", false),
            ("[^abc]", "d", true),
            ("[^abc]", "b", false),
            ("[a-c]x", "bx", true),
            ("[c-a]x", "bx", true),
            ("[a-c]x", "dx", false),
            ("[abc", "b", true),   // unclosed: ends with the pattern
            ("[^abc", "d", true),  // unclosed and negated
            ("[", "[", false),     // a class of nothing
            ("[^", "x", true),     // anything but nothing
            ("[]", "]", false),    // closed at once
            ("[]a]", "a]", false), // so this is nothing, then `a]`
            ("[^]", "x", true),
            ("[^]x", "yx", true),
            ("[a-", "-", true), // too short for a range
            ("[a-", "a", true),
            ("[a-]", "_", true), // a range from `]` to `a`, then unclosed
            ("[a-]", "-", false),
            ("[a-]b", "b", true),
            (r"[\]]", "]", true),
            (r"[\-a]", "-", true),
            (r"[a\", r"\", true), // a lone backslash in a class is itself
            (r"[\", r"\", true),
            (r"[a-\]]", "]x", false),
            (r"\*", "*", true),
            (r"\*", "x", false),
            (r"a\", r"a\", true), // a lone backslash at the end is itself
            (r"\[a]", "[a]", true),
            ("h[ä]", "hä", false), // two bytes against one
            ("h??", "hä", true),
            ("hä", "hä", true),
            ("[a-ä]", "A", true), // bytes above 127 are negative: the range goes from -61 to 97
            ("*", "", false),
            ("a", "", false),
        ];
        for (pattern, text, expected) in table {
            assert_eq!(Glob::new(pattern).unwrap().matches(text), expected, "{pattern} {text}");
            assert_eq!(by_redis(pattern, text), expected, "the port: {pattern} {text}");
        }
    }

    #[test]
    fn what_is_refused() {
        for bad in ["", &"x".repeat(256), &"*a".repeat(17)] {
            let error = Glob::new(bad).unwrap_err();
            assert_eq!(error.what, "channel_pattern");
        }
        assert_eq!(
            Glob::new(&"*a".repeat(120)).unwrap_err().to_string(),
            "channel_pattern has 120 `*`; at most 16 are allowed"
        );
        for good in ["*".repeat(255), "*a".repeat(16), r"\*a".repeat(80), "[*]".repeat(80), "a**".repeat(16)]
        {
            assert_eq!(Glob::new(&good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn the_worst_pattern_is_quick() {
        let glob = Glob::new(&("*a".repeat(15) + "*b")).unwrap();
        let classes = Glob::new(&("*a".repeat(15) + "*[^" + &"a".repeat(200))).unwrap();
        let text = "a".repeat(255);
        for _ in 0..100 {
            assert!(!glob.matches(&text));
            assert!(!classes.matches(&text));
        }
    }

    #[test]
    fn literals_are_what_every_match_contains() {
        let table: [(&str, &[&str], &str); 9] = [
            ("orders.*", &["orders."], "orders."),
            ("*", &[], ""),
            ("a*bcd?e", &["a", "bcd", "e"], "bcd"),
            (r"a\*b*c", &["a*b", "c"], "a*b"),
            ("a[bc]de", &["a", "de"], "de"),
            ("a[^]de", &["a", "de"], "de"),
            ("a[a-]de", &["a"], "a"), // the class never closes
            (r"x\", &[r"x\"], r"x\"),
            ("ab*cd", &["ab", "cd"], "ab"),
        ];
        for (pattern, literals, longest) in table {
            let glob = Glob::new(pattern).unwrap();
            assert_eq!(glob.literals(), literals, "{pattern}");
            assert_eq!(glob.literal(), longest, "{pattern}");
        }
    }

    #[test]
    fn serde_checks_too() {
        assert_eq!(serde_json::to_string(&Glob::new("a.*").unwrap()).unwrap(), "\"a.*\"");
        assert!(serde_json::from_str::<Glob>("\"\"").is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn equals_redis(pattern in r"[ab*?\[\]^\\ä-]{1,12}", text in r"[ab*\[\]^\\ä-]{0,8}") {
            let glob = Glob::new(&pattern).unwrap();
            prop_assert_eq!(glob.matches(&text), by_redis(&pattern, &text));
        }

        #[test]
        fn equals_redis_on_likely_matches(pattern in r"(a|b|\*|\?|\[ab\]|\[\^b\]|\[a-c\]){1,10}", text in "[ab]{1,12}") {
            let glob = Glob::new(&pattern).unwrap();
            prop_assert_eq!(glob.matches(&text), by_redis(&pattern, &text));
        }

        #[test]
        fn a_match_contains_every_literal(pattern in r"[ab*?\[\]^\\-]{1,10}", text in r"[ab\]^\\-]{1,8}") {
            let glob = Glob::new(&pattern).unwrap();
            if glob.matches(&text) {
                for literal in glob.literals() {
                    prop_assert!(text.contains(&literal), "{}", literal);
                }
            }
        }
    }
}
