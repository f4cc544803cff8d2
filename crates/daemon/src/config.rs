//! Configuration: built-in defaults, a TOML file, the environment, flags; later wins.
//!
//! Each daemon has one struct that implements [`Configuration`]; its serialised `Default` *is* the list of
//! keys, so nothing has to be declared twice. A nested field `a.b` is the table entry `b` of `[a]` in the
//! file, `POSTROAD_A_B` in the environment and `--set a.b=…` among the flags. What none of them knows is an
//! error that names the key, where it came from and the nearest key there is; so is a value that does not
//! fit. All that is wrong is reported at once.
//!
//! One file and one environment may serve all daemons: a section that belongs to another daemon is passed
//! over ([`Schema::foreign`]), and checked when that daemon reads it.

mod keys;
mod mask;
mod problem;
mod read;
mod render;
mod sources;

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Serialize, de::DeserializeOwned};

use crate::common::Common;
use keys::Keys;
use read::{Layer, Reader};

pub use mask::mask_url;
pub use problem::{ConfigError, Problem};
pub use render::{assert_documented, print_config, reference_markdown};
pub use sources::{Environment, Origin, Setting, Sources};

/// What environment variables begin with.
pub const PREFIX: &str = "POSTROAD_";

/// One daemon's configuration.
///
/// Every field serialises (an `Option` that is not set as null), sections are nested structs and never
/// optional, and what was serialised deserialises again. No `#[serde(default)]` is needed: the defaults are
/// a source like any other.
pub trait Configuration: Serialize + DeserializeOwned + Default {
    /// What there is to know about the keys besides their names.
    const SCHEMA: Schema;

    /// The keys that every daemon has.
    fn common(&self) -> &Common;

    /// Where the daemon listens.
    fn listen(&self) -> std::net::SocketAddr;

    /// Refuses what contradicts itself, in words that name the keys.
    fn check(&self) -> anyhow::Result<()> {
        Ok(())
    }
}

/// Pairs of a key and what it is for.
pub type Docs = &'static [(&'static str, &'static str)];

/// What there is to know about a configuration's keys besides their names.
#[derive(Debug, Clone, Copy)]
pub struct Schema {
    /// What each key is for, in the order in which the reference lists them. Must cover all keys.
    pub docs: &'static [Docs],
    /// Keys whose values are never shown.
    pub secrets: &'static [&'static str],
    /// Sections of other daemons, passed over in the file and the environment. May name one's own.
    pub foreign: &'static [&'static str],
    /// Other environment variables that set a key, weaker than its `POSTROAD_` name. Keys that this
    /// configuration does not have are passed over, so that one table can serve all daemons.
    pub aliases: &'static [(&'static str, &'static str)],
    /// What environment variables mean together, where a table cannot say it; treated as `aliases` is.
    pub derived: Option<fn(&Environment) -> Vec<Setting>>,
}

impl Schema {
    /// Nothing known; for struct update syntax.
    pub const NONE: Self = Self { docs: &[], secrets: &[], foreign: &[], aliases: &[], derived: None };
}

/// A configuration, and where its values came from.
#[derive(Debug)]
pub struct Loaded<T> {
    /// The configuration.
    pub config: T,
    origins: BTreeMap<String, Origin>,
}

impl<T> Loaded<T> {
    /// Where a key's value came from; none for a default.
    pub fn origin(&self, key: &str) -> Option<&Origin> {
        self.origins.get(key)
    }
}

/// Reads a configuration from all its sources.
pub fn load<T: Configuration>(sources: &Sources) -> Result<Loaded<T>, ConfigError> {
    let keys = Keys::of::<T>();
    let mut reader = Reader::<T>::new(&keys);
    let file = file_of(sources).map(|path| reader.file(&path)).transpose()?;
    let layers = [
        file.unwrap_or_default(),
        reader.aliases(&sources.environment),
        reader.environment(&sources.environment),
        reader.flags(&sources.flags),
    ];
    reader.finish()?;

    let origins = layers.iter().flat_map(Layer::origins).collect();
    let lowest = config::Config::builder().add_source(keys.defaults());
    let merged = layers
        .into_iter()
        .fold(lowest, config::ConfigBuilder::<config::builder::DefaultState>::add_source)
        .build()
        .and_then(config::Config::try_deserialize::<serde_json::Value>)
        .map_err(|error| ConfigError::Together(error.to_string()))?;
    // Each value was tried alone; what fails here is refused only in company.
    let config = serde_json::from_value(merged).map_err(|error| ConfigError::Together(error.to_string()))?;
    Ok(Loaded { config, origins })
}

/// The file that a flag names, else the one that the environment names.
fn file_of(sources: &Sources) -> Option<PathBuf> {
    let named = sources.environment.get(sources::FILE_VARIABLE).filter(|path| !path.is_empty());
    sources.file.clone().or_else(|| named.map(PathBuf::from))
}

#[cfg(test)]
mod tests;
