//! What can be wrong with a configuration.

use std::{fmt, io, path::PathBuf};

use super::{Origin, mask_url};

/// Why a configuration could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("the configuration file {} cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is no TOML. Its text is not repeated: there may be a secret in it.
    #[error("the configuration file {}, line {line}, is no TOML: {reason}", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong there.
        reason: String,
    },
    /// Keys or values are wrong.
    #[error("{}", Listed(.0))]
    Problems(Vec<Problem>),
    /// The values fit each alone, but not together.
    #[error("these values do not go together: {0}")]
    Together(String),
}

/// One key or value that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// There is no such key.
    UnknownKey {
        /// The key, as it is written there.
        key: String,
        /// Where it stands.
        origin: Origin,
        /// The key that it may be meant to be.
        nearest: Option<String>,
    },
    /// The value does not fit.
    BadValue {
        /// The key.
        key: String,
        /// The value, fit to be shown.
        value: String,
        /// Where it stands.
        origin: Origin,
        /// Why it does not fit.
        reason: String,
    },
}

impl Problem {
    pub(super) fn bad_value(
        key: &str,
        value: &str,
        is_secret: bool,
        origin: &Origin,
        reason: impl Into<String>,
    ) -> Self {
        let (value, reason) = if is_secret {
            (super::render::REDACTED.to_owned(), "it does not fit".to_owned())
        } else {
            // A reason from serde repeats the value.
            (shorten(&mask_url(value)), shorten(&mask_url(&reason.into())))
        };
        Self::BadValue { key: key.to_owned(), value, origin: origin.clone(), reason }
    }
}

fn shorten(text: &str) -> String {
    const MOST: usize = 200;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownKey { key, origin: Origin::Environment(name), nearest } if key == name => {
                write!(f, "the environment variable {name} stands for no key")?;
                nearest.iter().try_for_each(|near| write!(f, "; did you mean {near}?"))
            }
            Self::UnknownKey { key, origin, nearest } => {
                write!(f, "unknown key `{}` in the {origin}", key.escape_debug())?;
                nearest.iter().try_for_each(|near| write!(f, "; did you mean `{near}`?"))
            }
            Self::BadValue { key, value, origin, reason } => {
                write!(f, "`{key}` cannot be {value:?} (from the {origin}): {reason}")
            }
        }
    }
}

struct Listed<'a>(&'a [Problem]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [one] => one.fmt(f),
            many => {
                write!(f, "{} things are wrong with the configuration:", many.len())?;
                many.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
            }
        }
    }
}
