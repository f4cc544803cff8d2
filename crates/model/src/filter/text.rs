//! Text without regard to letter case, and wildcards.

use super::{MAX_WILDCARD_STARS, MAX_WILDCARD_TEXT};

/// Text in a form in which letter case makes no difference: each character's upper case, then lower case
/// (so that `ς` is `σ`, and `ß` is `ss`). Not a full Unicode case folding: there is no normalisation.
pub(super) fn fold(text: &str) -> impl Iterator<Item = char> {
    text.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase)
}

/// Whether `text` folds to `folded`.
pub(super) fn folds_to(text: &str, folded: &str) -> bool {
    // A character is at most four bytes and folds to at least one.
    if text.len() > 4 * folded.len() {
        return false;
    }
    ascii_folds_to(text, folded).unwrap_or_else(|| fold(text).eq(folded.chars()))
}

/// Whether the fold of `text` begins with `folded`.
pub(super) fn fold_begins(text: &str, folded: &str) -> bool {
    let head = text.get(..folded.len().min(text.len()));
    head.and_then(|head| ascii_folds_to(head, folded)).unwrap_or_else(|| {
        let mut chars = fold(text);
        folded.chars().all(|expected| chars.next() == Some(expected))
    })
}

/// Whether the fold of `text` ends with `folded`.
pub(super) fn fold_ends(text: &str, folded: &str) -> bool {
    let tail = text.get(text.len().saturating_sub(folded.len())..);
    tail.and_then(|tail| ascii_folds_to(tail, folded)).unwrap_or_else(|| {
        let backwards = |c: char| c.to_uppercase().rev().flat_map(|upper| upper.to_lowercase().rev());
        let mut chars = text.chars().rev().flat_map(backwards);
        folded.chars().rev().all(|expected| chars.next() == Some(expected))
    })
}

/// The same as [`folds_to`] for text that is ASCII, where folding changes no lengths; else `None`.
fn ascii_folds_to(text: &str, folded: &str) -> Option<bool> {
    text.is_ascii().then(|| text.eq_ignore_ascii_case(folded))
}

/// A compiled `wildcard`: the plain text before, between and after its `*`.
#[derive(Debug)]
pub(super) struct Wildcard {
    first: Box<str>,
    /// Empty if there is no `*`: then `first` is all.
    rest: Vec<Box<str>>,
}

impl Wildcard {
    /// Compiles `*`, `\*` and `\\`; refuses `**`, other escapes and more than 8 `*`.
    pub(super) fn new(pattern: &str) -> Result<Self, String> {
        let mut parts = vec![String::new()];
        let mut after_star = false;
        let mut chars = pattern.chars();
        while let Some(c) = chars.next() {
            if c == '*' {
                if after_star {
                    return Err("wildcard has two `*` in a row".into());
                }
                parts.push(String::new());
                after_star = true;
                continue;
            }
            after_star = false;
            let plain = match (c, if c == '\\' { chars.next() } else { None }) {
                ('\\', Some(escaped @ ('*' | '\\'))) => escaped,
                ('\\', _) => return Err(r"wildcard has a `\` before something else than `*` or `\`".into()),
                (plain, _) => plain,
            };
            if let Some(part) = parts.last_mut() {
                part.push(plain);
            }
        }
        let stars = parts.len() - 1;
        if stars > MAX_WILDCARD_STARS {
            return Err(format!("wildcard has {stars} `*`; at most {MAX_WILDCARD_STARS} are allowed"));
        }
        let mut parts = parts.into_iter().map(String::into_boxed_str);
        Ok(Self { first: parts.next().unwrap_or_default(), rest: parts.collect() })
    }

    /// Whether it can be said at all: text beyond [`MAX_WILDCARD_TEXT`] is not looked at.
    pub(super) fn looks_at(text: &str) -> bool {
        text.len() <= MAX_WILDCARD_TEXT
    }

    /// Whether the whole of `text` matches. Each part is searched once, from where the one before ended.
    pub(super) fn matches(&self, text: &str) -> bool {
        let Some((last, middle)) = self.rest.split_last() else { return *text == *self.first };
        let Some(mut text) = text.strip_prefix(&*self.first) else { return false };
        for part in middle {
            let Some(at) = text.find(&**part) else { return false };
            text = &text[at + part.len()..];
        }
        text.ends_with(&**last)
    }

    /// The text that every match begins with.
    pub(super) fn prefix(&self) -> &str {
        &self.first
    }

    /// The longest text between two `*`; empty if there is none.
    pub(super) fn longest_inner(&self) -> &str {
        let middle = self.rest.split_last().map_or(&[][..], |(_, middle)| middle);
        middle.iter().max_by_key(|part| part.len()).map_or("", |part| part)
    }

    /// The text that every match ends with.
    pub(super) fn suffix(&self) -> &str {
        self.rest.last().unwrap_or(&self.first)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn letter_case_makes_no_difference() {
        for (left, right) in [
            ("", ""),
            ("ABC", "abc"),
            ("Größe", "GRÖSSE"),
            ("ΟΔΟΣ", "οδος"),
            ("\u{212a}", "k"),
            ("ÄÖÜ", "äöü"),
            ("Ж", "ж"),
        ] {
            let folded: String = fold(right).collect();
            assert!(folds_to(left, &folded), "{left} {right}");
            assert!(fold_begins(&format!("{left}…"), &folded), "{left} {right}");
            assert!(fold_ends(&format!("…{left}"), &folded), "{left} {right}");
        }
        for text in ["ß", "ẞs", "ss", "sS", "aß", "ßa", "ab", "aB", "", "ÄB", "\u{212a}"] {
            for folded in ["", "s", "ss", "sss", "ass", "ssa", "äb", "b", "k"] {
                let whole: String = fold(text).collect();
                assert_eq!(folds_to(text, folded), whole == folded, "{text} {folded}");
                assert_eq!(fold_begins(text, folded), whole.starts_with(folded), "{text} {folded}");
                assert_eq!(fold_ends(text, folded), whole.ends_with(folded), "{text} {folded}");
            }
        }
        assert!(!folds_to("ab", "abc") && !folds_to("abc", "ab"));
        assert!(!fold_begins("ab", "abc") && !fold_ends("bc", "abc"));
    }

    #[test]
    fn wildcards_match_whole_text() {
        let table = [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("a", "a", true),
            ("a*", "a", true),
            ("a*b", "ab", true),
            ("a*b", "axxb", true),
            ("a*b", "axxbc", false),
            ("a*a", "a", false), // the ends do not overlap
            ("*a*a*", "aa", true),
            ("*a*a*", "a", false),
            ("*.jpg", "x.jpg", true),
            ("ab*bc", "abc", false),
            (r"a\*b", "a*b", true),
            (r"a\*b", "axb", false),
            (r"a\\*", r"a\x", true),
            ("ä*ö", "ä-ö", true),
            ("?*", "ab", false),
        ];
        for (pattern, text, expected) in table {
            assert_eq!(Wildcard::new(pattern).unwrap().matches(text), expected, "{pattern} {text}");
        }
        for bad in ["**", "a**b", r"\a", r"a\", "*a*a*a*a*a*a*a*a*a"] {
            assert!(Wildcard::new(bad).is_err(), "{bad}");
        }
        assert!(Wildcard::new(r"\**\*").is_ok());
        assert!(Wildcard::looks_at(&"a".repeat(4096)) && !Wildcard::looks_at(&"a".repeat(4097)));
    }

    /// The definition, spelled out.
    fn reference(pattern: &[char], text: &[char]) -> bool {
        match pattern {
            [] => text.is_empty(),
            ['*', rest @ ..] => (0..=text.len()).any(|skip| reference(rest, &text[skip..])),
            [c, rest @ ..] => text.first() == Some(c) && reference(rest, &text[1..]),
        }
    }

    proptest! {
        #[test]
        fn equals_the_definition(pattern in "([abä]|\\*[ab]){0,6}\\*?", text in "[abä]{0,10}") {
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            prop_assume!(!pattern.contains("**"));
            let wildcard = Wildcard::new(&pattern).unwrap();
            let hit = wildcard.matches(&text);
            prop_assert_eq!(hit, reference(&chars(&pattern), &chars(&text)));
            if hit {
                prop_assert!(text.starts_with(wildcard.prefix()) && text.ends_with(wildcard.suffix()));
            }
        }

        #[test]
        fn text_folds_to_its_own_fold(text in "\\PC{0,8}") {
            let folded: String = fold(&text).collect();
            prop_assert!(folds_to(&text, &folded) && fold_begins(&text, &folded) && fold_ends(&text, &folded));
        }
    }
}
