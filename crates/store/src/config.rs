//! How every daemon is told where its Redis is and how an environment is laid out.

use std::time::Duration;

use postroad_model::placement::Layout;
use serde::{Deserialize, Serialize};

use crate::{LaneLimits, LinkConfig, StoreError};

/// `[redis]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedisSection {
    /// `redis://[user:password@]host[:port][/db]`.
    pub url: String,
    /// Milliseconds that making a connection may take.
    pub connect_timeout_ms: u64,
    /// Milliseconds that an answer may take.
    pub response_timeout_ms: u64,
}

impl Default for RedisSection {
    fn default() -> Self {
        Self { url: "redis://127.0.0.1:6379".into(), connect_timeout_ms: 2_000, response_timeout_ms: 5_000 }
    }
}

/// `[layout]`: fixed at an environment's first start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayoutSection {
    /// Ingress partitions, 1 to 1,024.
    pub partitions: u16,
    /// Lanes, 1 to 4,096.
    pub lanes: u16,
}

impl Default for LayoutSection {
    fn default() -> Self {
        let Layout { partitions, lanes } = Layout::default();
        Self { partitions, lanes }
    }
}

/// `[history]`: how long what is done is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistorySection {
    /// Seconds for which messages, their ids and their traces are kept. Never shortens the life of an
    /// undelivered message.
    pub retention_seconds: u64,
    /// Above this much of Redis's memory, history is let go before its time.
    pub max_memory_percent: u8,
}

impl Default for HistorySection {
    fn default() -> Self {
        Self { retention_seconds: 86_400, max_memory_percent: 60 }
    }
}

/// `[queue]`: the bounds of one subscription's queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueSection {
    /// Entries; what comes above goes to the dead letters (reason `queue_full`).
    pub max_entries: u64,
    /// Bytes of headers and payloads.
    pub max_bytes: u64,
}

impl Default for QueueSection {
    fn default() -> Self {
        let LaneLimits { entries, bytes } = LaneLimits::default();
        Self { max_entries: entries, max_bytes: bytes }
    }
}

impl QueueSection {
    /// As the lanes take it.
    pub fn limits(&self) -> LaneLimits {
        LaneLimits { entries: self.max_entries, bytes: self.max_bytes }
    }
}

impl RedisSection {
    /// As connections take it.
    pub fn link(&self) -> LinkConfig {
        LinkConfig {
            url: self.url.clone(),
            connect_timeout: Duration::from_millis(self.connect_timeout_ms),
            response_timeout: Duration::from_millis(self.response_timeout_ms),
        }
    }
}

impl LayoutSection {
    /// Checks the bounds.
    pub fn checked(&self) -> Result<Layout, StoreError> {
        let Self { partitions, lanes } = *self;
        if !(1..=1_024).contains(&partitions) {
            return Err(StoreError::Unsuitable(format!(
                "layout.partitions = {partitions} must be 1 to 1024"
            )));
        }
        if !(1..=4_096).contains(&lanes) {
            return Err(StoreError::Unsuitable(format!("layout.lanes = {lanes} must be 1 to 4096")));
        }
        Ok(Layout { partitions, lanes })
    }
}

/// What each key of these sections does, for the reference page.
pub const DOCS: &[(&str, &str)] = &[
    ("redis.url", "Where Redis is: `redis://[user:password@]host[:port][/db]`"),
    ("redis.connect_timeout_ms", "Milliseconds that making a connection may take"),
    ("redis.response_timeout_ms", "Milliseconds that an answer may take"),
    ("layout.partitions", "Ingress partitions, 1 to 1,024; fixed at an environment's first start"),
    ("layout.lanes", "Lanes of subscriptions, 1 to 4,096; fixed at an environment's first start"),
    (
        "history.retention_seconds",
        "Seconds for which messages, their ids and their traces are kept; never shortens the life of an undelivered message",
    ),
    (
        "history.max_memory_percent",
        "While Redis uses this much of its `maxmemory`, messages are let go from history before their time, once a minute has passed since they were routed; 1 to 100",
    ),
    (
        "queue.max_entries",
        "Entries that one subscription's queue may hold; what comes above is a dead letter (`queue_full`)",
    ),
    ("queue.max_bytes", "Bytes that one subscription's queue may hold"),
];

/// What the variables of the older messaging library mean: `(variables, key, value)` for those that are
/// set. Keys that a daemon does not have are for it to pass over.
pub fn reference_variables(
    get: impl Fn(&str) -> Option<String>,
) -> Vec<(&'static str, &'static str, String)> {
    let mut settings = Vec::new();
    if ["REDIS_HOST", "REDIS_PORT", "REDIS_DB", "REDIS_PASSWORD"].iter().any(|name| get(name).is_some()) {
        let or = |name: &str, default: &str| get(name).unwrap_or_else(|| default.to_owned());
        let password: String = url_encoded(&or("REDIS_PASSWORD", ""));
        let user = if password.is_empty() { String::new() } else { format!(":{password}@") };
        let (host, port, db) = (or("REDIS_HOST", "redis"), or("REDIS_PORT", "6379"), or("REDIS_DB", "0"));
        let url = format!("redis://{user}{host}:{port}/{db}");
        settings.push(("REDIS_HOST, REDIS_PORT, REDIS_DB, REDIS_PASSWORD", "redis.url", url));
    }
    let seconds = |name: &'static str, key: &'static str| {
        let value = get(name)?;
        let ms = value.parse::<u64>().map_or(value, |seconds| (seconds * 1_000).to_string());
        Some((name, key, ms))
    };
    settings.extend(seconds("REDIS_CONNECTION_TIMEOUT", "redis.connect_timeout_ms"));
    settings.extend(seconds("REDIS_SOCKET_TIMEOUT", "redis.response_timeout_ms"));
    for (name, key) in [
        ("ENVIRONMENT", "environment"),
        ("MESSAGE_TTL", "history.retention_seconds"),
        ("MESSAGE_MAX_RETRIES", "ingest.max_retries"),
        ("MESSAGE_RETRY_DELAY", "ingest.retry_delay_seconds"),
    ] {
        settings.extend(get(name).map(|value| (name, key, value)));
    }
    settings
}

fn url_encoded(text: &str) -> String {
    use std::fmt::Write;
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_librarys_variables_become_keys() {
        let variables = [
            ("REDIS_HOST", "cache"),
            ("REDIS_PASSWORD", "p@ss:1"),
            ("REDIS_SOCKET_TIMEOUT", "7"),
            ("MESSAGE_TTL", "60"),
            ("ENVIRONMENT", "staging"),
        ];
        let get = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        let settings: Vec<_> =
            reference_variables(get).into_iter().map(|(_, key, value)| (key, value)).collect();
        let expected = [
            ("redis.url", "redis://:p%40ss%3A1@cache:6379/0"),
            ("redis.response_timeout_ms", "7000"),
            ("environment", "staging"),
            ("history.retention_seconds", "60"),
        ];
        assert_eq!(settings, expected.map(|(key, value)| (key, value.to_owned())));
        assert!(reference_variables(|_| None).is_empty());
    }

    #[test]
    fn what_nobody_set_is_as_it_is_everywhere() {
        let (redis, standard) = (RedisSection::default(), LinkConfig::new("redis://127.0.0.1:6379"));
        let link = redis.link();
        assert_eq!(link.url, standard.url);
        assert_eq!(
            (link.connect_timeout, link.response_timeout),
            (standard.connect_timeout, standard.response_timeout)
        );
        assert_eq!(QueueSection::default().limits(), LaneLimits::default());
        assert_eq!(HistorySection::default().retention_seconds, 86_400);
    }

    #[test]
    fn layouts_are_bounded() {
        assert!(LayoutSection { partitions: 0, lanes: 1 }.checked().is_err());
        assert!(LayoutSection { partitions: 1, lanes: 5_000 }.checked().is_err());
        assert_eq!(LayoutSection::default().checked().unwrap(), Layout::default());
    }
}
