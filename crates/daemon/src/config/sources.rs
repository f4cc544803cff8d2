//! What a configuration is read from, as values: nothing here looks at the process.

use std::{collections::BTreeMap, ffi::OsString, fmt, path::PathBuf};

/// Names the configuration file where no flag does.
pub(super) const FILE_VARIABLE: &str = "POSTROAD_CONFIG";

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The configuration file.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
    /// A flag.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// A key that something outside the file sets, as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The key, such as `redis.url`.
    pub key: String,
    /// Its value, as text.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

impl Setting {
    /// A key that a flag sets.
    pub fn flag(flag: &str, key: &str, value: impl Into<String>) -> Self {
        Self { key: key.into(), value: value.into(), origin: Origin::Flag(flag.into()) }
    }

    /// A key that environment variables set; `names` is what people are shown.
    pub fn environment(names: &str, key: &str, value: impl Into<String>) -> Self {
        Self { key: key.into(), value: value.into(), origin: Origin::Environment(names.into()) }
    }
}

/// Environment variables.
#[derive(Debug, Clone, Default)]
pub struct Environment(BTreeMap<String, OsString>);

impl Environment {
    /// Those of this process. Names that are no UTF-8 can be no key, and are left out.
    pub fn of_process() -> Self {
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value))).collect()
    }

    /// A variable, if it is set and is UTF-8.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.to_str()
    }

    /// All variables; `None` for a value that is not UTF-8.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.to_str()))
    }
}

impl<N: Into<String>, V: Into<OsString>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

/// All that a configuration is read from, besides its defaults.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The configuration file; none: the one that `POSTROAD_CONFIG` names, if any.
    pub file: Option<PathBuf>,
    /// The environment.
    pub environment: Environment,
    /// Keys that flags set; later ones win.
    pub flags: Vec<Setting>,
}
