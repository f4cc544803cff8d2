//! Passwords inside URLs.

use std::borrow::Cow;

/// A text with the passwords of any URLs in it replaced by `***`, as `redis://user:***@host` and
/// `?pass=***`. Whatever stands between `://` and the last `@` of a word counts as credentials: rather
/// too much is hidden than a password that holds a `/`.
pub fn mask_url(text: &str) -> String {
    text.split_inclusive(is_end).map(mask_word).collect()
}

/// What ends a URL inside a longer text.
fn is_end(c: char) -> bool {
    c.is_whitespace() || matches!(c, '"' | '\'' | '`' | '<' | '>')
}

fn mask_word(word: &str) -> Cow<'_, str> {
    let Some((scheme, rest)) = word.split_once("://") else { return Cow::Borrowed(word) };
    let rest = match rest.rsplit_once('@') {
        Some((credentials, rest)) => match credentials.split_once(':') {
            Some((user, _)) => format!("{user}:***@{rest}"),
            None => format!("***@{rest}"),
        },
        None => rest.to_owned(),
    };
    let Some((path, query)) = rest.split_once('?') else { return Cow::Owned(format!("{scheme}://{rest}")) };
    let query: Vec<_> = query.split('&').map(mask_parameter).collect();
    Cow::Owned(format!("{scheme}://{path}?{}", query.join("&")))
}

fn mask_parameter(parameter: &str) -> Cow<'_, str> {
    let Some((name, value)) = parameter.split_once('=') else { return Cow::Borrowed(parameter) };
    let is_secret = ["pass", "pwd", "secret", "token", "key", "auth"]
        .iter()
        .any(|hint| name.to_ascii_lowercase().contains(hint));
    if !is_secret {
        return Cow::Borrowed(parameter);
    }
    let tail = value.find(is_end).map_or("", |end| &value[end..]);
    Cow::Owned(format!("{name}=***{tail}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_disappear_and_the_rest_stays() {
        for (text, masked) in [
            ("", ""),
            ("plain", "plain"),
            ("a@b", "a@b"),
            ("redis://redis:6379/0", "redis://redis:6379/0"),
            ("redis://:s3cret@redis:6379/0", "redis://:***@redis:6379/0"),
            ("rediss://user:s3cret@redis", "rediss://user:***@redis"),
            ("redis://s3cret@redis", "redis://***@redis"),
            ("redis+cluster://u:s3c@ret/x@h1,h2", "redis+cluster://u:***@h1,h2"),
            ("redis+unix:///run/redis.sock?db=1&pass=s3cret", "redis+unix:///run/redis.sock?db=1&pass=***"),
            ("bad \"redis://:s3cret@h\" here", "bad \"redis://:***@h\" here"),
            ("\"http://h?token=s3cret\" and b@c", "\"http://h?token=***\" and b@c"),
        ] {
            assert_eq!(mask_url(text), masked);
        }
    }
}
