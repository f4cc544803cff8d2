//! One set of files, variables and flags, read as each daemon would read it.
//!
//! A daemon refuses flags that it does not know; here one flag is for whichever daemon knows it. What no
//! daemon knows goes to the one whose section it names, so that it is refused in that daemon's own words.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::Context as _;
use postroad_daemon::config::{Configuration, Environment, Loaded, Setting, Sources, load};

use super::DevArgs;

/// What `dev` holds for good where nothing else is said.
const DEFAULTS: [(&str, &str); 2] = [
    ("egress.allow", "127.0.0.0/8,::1/128"),
    // Whoever presses Ctrl-C is waiting.
    ("grace_seconds", "5"),
];

/// Variables that are for `postroad` itself, and no keys.
const OWN_VARIABLES: [&str; 1] = [super::redis::SERVER_VARIABLE];

/// What every daemon is told, checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The API's.
    pub ingest: postroad_ingest::config::Config,
    /// The router's.
    pub router: postroad_router::config::Config,
    /// The worker's.
    pub worker: postroad_worker::config::Config,
    /// The reprocessor's.
    pub reprocessor: postroad_reprocessor::config::Config,
    /// The Redis that was named, and where: none where `dev` is to start its own.
    pub redis: Option<NamedRedis>,
}

/// A Redis that somebody else runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedRedis {
    /// Its URL.
    pub url: String,
    /// Where that was said, in words.
    pub origin: String,
}

/// The variables of this process that are keys of daemons.
pub fn environment() -> Environment {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, _)| !OWN_VARIABLES.contains(&name.as_str()))
        .collect()
}

impl Settings {
    /// Reads them. Nothing is opened or started.
    pub fn read(args: &DevArgs, environment: Environment) -> anyhow::Result<Self> {
        let sources = args.sources(environment);
        let loopback = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        let other = |flag, given: Option<SocketAddr>, port| {
            Setting::flag(flag, "listen", given.unwrap_or(loopback(port)).to_string())
        };
        let api = args.listen.map(|address| Setting::flag("--listen", "listen", address.to_string()));
        let router = other("--router-listen", args.router_listen, 9101);
        let worker = other("--worker-listen", args.worker_listen, 9102);
        let dead_letters = other("--dead-letter-listen", args.dead_letter_listen, 8081);
        let ingest = read::<postroad_ingest::config::Config>(Daemon::Ingest, &sources, api)?;
        let redis = ingest.origin("redis.url").map(|origin| NamedRedis {
            url: ingest.config.base.redis.url.clone(),
            origin: origin.to_string(),
        });
        Ok(Self {
            ingest: ingest.config,
            router: read(Daemon::Router, &sources, Some(router))?.config,
            worker: read(Daemon::Worker, &sources, Some(worker))?.config,
            reprocessor: read(Daemon::Reprocessor, &sources, Some(dead_letters))?.config,
            redis,
        })
    }

    /// Sends all daemons to this Redis.
    pub fn use_redis(&mut self, url: &str) {
        let Self { ingest, router, worker, reprocessor, redis: _ } = self;
        for section in [
            &mut ingest.base.redis,
            &mut router.base.redis,
            &mut worker.base.redis,
            &mut reprocessor.base.redis,
        ] {
            url.clone_into(&mut section.url);
        }
    }
}

/// A daemon, as far as its keys go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Daemon {
    Ingest,
    Router,
    Worker,
    Reprocessor,
}

impl Daemon {
    const ALL: [Self; 4] = [Self::Ingest, Self::Router, Self::Worker, Self::Reprocessor];

    /// Whose section a key stands in; the API's if it is nobody's alone.
    fn of_section(key: &str) -> Self {
        match key.split('.').next() {
            Some("router") => Self::Router,
            Some("worker") => Self::Worker,
            Some("reprocessor") => Self::Reprocessor,
            _ => Self::Ingest,
        }
    }

    fn knows(self, key: &str) -> bool {
        match self {
            Self::Ingest => knows::<postroad_ingest::config::Config>(key),
            Self::Router => knows::<postroad_router::config::Config>(key),
            Self::Worker => knows::<postroad_worker::config::Config>(key),
            Self::Reprocessor => knows::<postroad_reprocessor::config::Config>(key),
        }
    }

    /// Whether a flag that sets this key is for this daemon.
    fn is_meant_by(self, key: &str) -> bool {
        // One address cannot be for all.
        if key == "listen" {
            return self == Self::Ingest;
        }
        let known = Self::ALL.iter().any(|daemon| daemon.knows(key));
        if known { self.knows(key) } else { Self::of_section(key) == self }
    }
}

/// Whether a configuration has this key: a leaf of its serialised default.
fn knows<T: Configuration>(key: &str) -> bool {
    let Ok(tree) = serde_json::to_value(T::default()) else { return false };
    key.split('.')
        .try_fold(&tree, |node, word| node.get(word))
        .is_some_and(|leaf| leaf.as_object().is_none_or(serde_json::Map::is_empty))
}

/// Reads one daemon's configuration, with `dev`'s defaults where nothing was said, and checks it.
fn read<T: Configuration>(
    daemon: Daemon,
    sources: &Sources,
    listen: Option<Setting>,
) -> anyhow::Result<Loaded<T>> {
    let mut sources = sources.clone();
    sources.flags.retain(|setting| daemon.is_meant_by(&setting.key));
    sources.flags.extend(listen);
    let given: Loaded<T> = load(&sources)?;
    for (key, value) in DEFAULTS {
        if daemon.knows(key) && given.origin(key).is_none() {
            sources.flags.push(Setting::flag("dev", key, value));
        }
    }
    let loaded: Loaded<T> = load(&sources)?;
    loaded.config.check().context("the configuration contradicts itself")?;
    Ok(loaded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_with(line: &[&str], variables: &[(&str, &str)]) -> anyhow::Result<Settings> {
        let args = super::super::tests::args(line);
        Settings::read(&args, variables.iter().copied().collect())
    }

    #[test]
    fn each_daemon_gets_the_keys_that_it_knows() {
        let line = ["--set", "worker.max_in_flight=7", "--set", "queue.max_entries=9", "--log", "debug"];
        let variables = [
            ("POSTROAD_ROUTER_LEASE_MS", "900"),
            ("POSTROAD_ENVIRONMENT", "x"),
            ("POSTROAD_REPROCESSOR_SAMPLE", "5"),
        ];
        let Settings { ingest, router, worker, reprocessor, redis } = read_with(&line, &variables).unwrap();
        assert_eq!(worker.worker.max_in_flight, 7);
        assert_eq!((router.router.lease_ms, reprocessor.reprocessor.sample), (900, 5));
        assert_eq!((ingest.base.queue.max_entries, router.base.queue.max_entries), (9, 9));
        for common in
            [&ingest.base.common, &router.base.common, &worker.base.common, &reprocessor.base.common]
        {
            assert_eq!((common.environment.as_str(), common.log.as_str()), ("x", "debug"));
        }
        assert_eq!(redis, None);
    }

    #[test]
    fn one_file_serves_all_daemons() {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("postroad.toml");
        let path = file.to_str().unwrap();
        let text =
            "grace_seconds = 9\n[worker]\nquantum = 3\n[router]\nmax_held = 4\n[redis]\nurl = \"redis://h\"";
        std::fs::write(&file, text).unwrap();
        let settings = read_with(&["--config", path, "--set", "worker.quantum=5"], &[]).unwrap();
        assert_eq!((settings.worker.worker.quantum, settings.router.router.max_held), (5, 4));
        assert_eq!(settings.reprocessor.base.common.grace_seconds.get(), 9);
        assert!(settings.redis.unwrap().origin.contains("postroad.toml"));
        let settings = read_with(&[], &[("POSTROAD_CONFIG", path)]).unwrap();
        assert_eq!(settings.worker.worker.quantum, 3);
        std::fs::write(&file, "[worker]\nquanta = 3").unwrap();
        let error = format!("{:#}", read_with(&["--config", path], &[]).unwrap_err());
        assert!(error.contains("worker.quanta") && error.contains("postroad.toml"), "{error}");
    }

    #[test]
    fn what_no_daemon_knows_is_refused_with_the_nearest() {
        for (wrong, right) in [
            ("worker.max_inflight", "worker.max_in_flight"),
            ("router.lease_msec", "router.lease_ms"),
            ("egress.alow", "egress.allow"),
            ("reprocessor.sampel", "reprocessor.sample"),
        ] {
            let set = format!("{wrong}=1");
            let error = format!("{:#}", read_with(&["--set", &set], &[]).unwrap_err());
            assert!(error.contains(&format!("`{wrong}`")) && error.contains(right), "{error}");
        }
        let error = format!("{:#}", read_with(&[], &[("POSTROAD_WORKER_MAX_IN_FLIHGT", "1")]).unwrap_err());
        assert!(error.contains("POSTROAD_WORKER_MAX_IN_FLIGHT"), "{error}");
    }

    #[test]
    fn loopback_is_permitted_unless_somebody_said_otherwise() {
        let by_default = read_with(&[], &[]).unwrap();
        let addresses = ["127.0.0.1", "127.9.9.9", "::1"].map(|text| text.parse().unwrap());
        let (api, worker) = (by_default.ingest.checked().unwrap(), by_default.worker.checked().unwrap());
        for address in addresses {
            assert!(api.egress.permits(address) && worker.egress.permits(address));
        }
        assert!(!worker.egress.permits("10.0.0.1".parse().unwrap()));
        let said = read_with(&[], &[("POSTROAD_EGRESS_ALLOW", "10.0.0.0/8")]).unwrap();
        assert_eq!(said.worker.egress.allow, ["10.0.0.0/8"]);
        assert_eq!(said.ingest.egress.allow, ["10.0.0.0/8"]);
    }

    #[test]
    fn addresses_differ_whatever_listen_says() {
        let settings = read_with(&[], &[("POSTROAD_LISTEN", "127.0.0.1:7000")]).unwrap();
        let listen = [settings.ingest.listen(), settings.router.listen(), settings.worker.listen()];
        assert_eq!(
            listen.map(|address| address.to_string()),
            ["127.0.0.1:7000", "127.0.0.1:9101", "127.0.0.1:9102"]
        );
        let line = ["--listen", "localhost:1", "--worker-listen", "127.0.0.1:2"];
        let settings = read_with(&line, &[]).unwrap();
        assert_eq!((settings.ingest.listen().port(), settings.worker.listen().port()), (1, 2));
        let settings = read_with(&["--set", "listen=127.0.0.1:3"], &[]).unwrap();
        assert_eq!((settings.ingest.listen().port(), settings.worker.listen().port()), (3, 9102));
        let error = format!("{:#}", read_with(&["--listen", "0.0.0.0:8080"], &[]).unwrap_err());
        assert!(error.contains("0.0.0.0:8080") && error.contains("auth.mode"), "{error}");
    }

    #[test]
    fn a_redis_may_be_named_anywhere() {
        let by_flag = read_with(&["--redis-url", "redis://h:1"], &[]).unwrap();
        assert_eq!(by_flag.redis.unwrap().url, "redis://h:1");
        let by_variable = read_with(&[], &[("REDIS_HOST", "cache")]).unwrap().redis.unwrap();
        assert!(by_variable.url.contains("cache:6379") && by_variable.origin.contains("REDIS_HOST"));
        let mut settings = read_with(&[], &[]).unwrap();
        settings.use_redis("redis://mine");
        assert_eq!(
            (settings.ingest.base.redis.url, settings.worker.base.redis.url),
            ("redis://mine".to_owned(), "redis://mine".to_owned())
        );
    }

    #[test]
    fn a_contradiction_stops_the_start() {
        let error = format!("{:#}", read_with(&["--set", "worker.lease_ms=1"], &[]).unwrap_err());
        assert!(error.contains("worker.lease_ms = 1"), "{error}");
    }
}
