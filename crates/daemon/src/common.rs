//! The keys that every daemon has.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroU64,
    str::FromStr,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

use crate::{config::Docs, serve::HttpConfig};

/// The keys that every daemon has; flatten it into the daemon's own struct.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Common {
    /// The namespace.
    pub environment: String,
    /// Where to listen, if not at the daemon's default.
    pub listen: Option<Listen>,
    /// What is logged.
    pub log: LogFilter,
    /// How it is written.
    pub log_format: LogFormat,
    /// Threads that run the daemon.
    pub threads: usize,
    /// What stopping may take.
    pub grace_seconds: NonZeroU64,
    /// The HTTP server's limits.
    pub http: HttpConfig,
}

/// What the keys of [`Common`] are for.
pub const COMMON_DOCS: Docs = &[
    ("environment", "the namespace that isolates several environments on one Redis"),
    ("listen", "address and port to serve HTTP at, such as `127.0.0.1:8080`"),
    (
        "log",
        "what is logged: a level (`error`, `warn`, `info`, `debug`, `trace`) or levels by module, such as `info,hyper=warn`",
    ),
    ("log_format", "`text` for people, `json` for machines; both go to standard error"),
    (
        "threads",
        "threads that run the daemon: 1 costs the least per message, start more daemons for more; 0 is one for each CPU",
    ),
    ("grace_seconds", "how long work in flight may take after SIGTERM before it is cut off"),
    ("http.max_connections", "the most HTTP connections at a time; further ones wait until one ends"),
    (
        "http.max_connections_per_address",
        "the most HTTP connections at a time from one address; 0: no such bound, as behind a proxy",
    ),
    (
        "http.header_timeout_seconds",
        "a client that has not sent a request's whole head after so long is cut off",
    ),
    ("http.idle_timeout_seconds", "a connection without a request is closed after so long"),
    ("http.write_timeout_seconds", "a client that takes nothing of an answer for so long is cut off"),
];

impl Default for Common {
    fn default() -> Self {
        Self {
            environment: "development".to_owned(),
            listen: None,
            log: LogFilter("info".to_owned()),
            log_format: LogFormat::Text,
            threads: 1,
            grace_seconds: NonZeroU64::new(25).expect("not zero"),
            http: HttpConfig::default(),
        }
    }
}

impl Common {
    /// What stopping may take.
    pub fn grace(&self) -> Duration {
        Duration::from_secs(self.grace_seconds.get())
    }
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// An address to listen at: `127.0.0.1:8080`, `[::]:8080` or `localhost:8080`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Listen(pub SocketAddr);

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let local =
            || text.strip_prefix("localhost:")?.parse().ok().map(|port| (Ipv4Addr::LOCALHOST, port).into());
        text.parse()
            .ok()
            .or_else(local)
            .map(Self)
            .ok_or_else(|| "it is no address and port, such as 127.0.0.1:8080 or [::]:8080".to_owned())
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<String> for Listen {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Listen> for String {
    fn from(listen: Listen) -> String {
        listen.to_string()
    }
}

/// What is logged: directives of `tracing`'s `EnvFilter`, checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LogFilter(String);

impl LogFilter {
    /// The filter itself.
    pub fn filter(&self) -> EnvFilter {
        EnvFilter::new(&self.0)
    }

    /// The directives, as given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for LogFilter {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        match EnvFilter::builder().parse(&text) {
            Ok(_) => Ok(Self(text)),
            Err(_) => Err("it is no log filter, such as info or info,hyper=warn".to_owned()),
        }
    }
}

impl From<LogFilter> for String {
    fn from(filter: LogFilter) -> String {
        filter.0
    }
}
