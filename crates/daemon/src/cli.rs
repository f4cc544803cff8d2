//! The flags that every daemon has.

use std::path::PathBuf;

use clap::Args;

use crate::config::{Environment, Setting, Sources};

/// The flags that every daemon has; flatten them into its own.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Configuration")]
pub struct CommonArgs {
    /// Read configuration from this TOML file.
    ///
    /// One file can serve all daemons: each reads its own section and those that are common to all. The
    /// variable POSTROAD_CONFIG names a file where no flag does. Environment variables win over the file,
    /// flags over both.
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,

    /// Set one configuration key, as in `--set http.max_connections=500`.
    ///
    /// May be repeated. Every key can also be set in the file and in the environment: the key `a.b` is the
    /// variable POSTROAD_A_B. `--print-config` lists all keys with their values.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value, global = true)]
    pub set: Vec<(String, String)>,

    /// The Redis to use, short for `--set redis.url=URL`.
    ///
    /// redis://HOST:PORT/DB, rediss:// (TLS), redis+cluster://HOST1,HOST2 or
    /// redis+sentinel://HOST1,HOST2/SERVICE. A password on the command line can be seen by others on this
    /// machine; POSTROAD_REDIS_URL cannot.
    #[arg(long, value_name = "URL", global = true)]
    pub redis_url: Option<String>,

    /// The namespace that isolates dev, staging and prod on one Redis, short for `--set environment=NAME`.
    #[arg(long, value_name = "NAME", global = true)]
    pub environment: Option<String>,

    /// Where to serve HTTP, as in 127.0.0.1:8080, short for `--set listen=ADDRESS`.
    #[arg(long, value_name = "ADDRESS", global = true)]
    pub listen: Option<String>,

    /// What to log, short for `--set log=FILTER`: error, warn, info, debug, trace, or by module, as in
    /// info,hyper=warn.
    #[arg(long, value_name = "FILTER", global = true)]
    pub log: Option<String>,

    /// How to write log lines, short for `--set log_format=FORMAT`: text or json.
    #[arg(long, value_name = "FORMAT", global = true)]
    pub log_format: Option<String>,

    /// Print the configuration in force as TOML, with where each value came from, and exit.
    ///
    /// Secrets are redacted.
    #[arg(long, global = true)]
    pub print_config: bool,

    /// Check the configuration and what it points to (Redis, key files), and exit: 0 when all is well.
    #[arg(long, global = true)]
    pub check: bool,

    /// What the daemon's own flags set; see [`CommonArgs::also_set`].
    #[arg(skip)]
    pub more: Vec<Setting>,
}

impl CommonArgs {
    /// Lets a flag of the daemon's own stand for a configuration key.
    pub fn also_set(&mut self, flag: &str, key: &str, value: impl Into<String>) {
        self.more.push(Setting::flag(flag, key, value));
    }

    /// All that the configuration is read from. The named flags win over `--set`.
    pub fn sources(&self, environment: Environment) -> Sources {
        let shorthands = [
            ("--redis-url", "redis.url", &self.redis_url),
            ("--environment", "environment", &self.environment),
            ("--listen", "listen", &self.listen),
            ("--log", "log", &self.log),
            ("--log-format", "log_format", &self.log_format),
        ];
        let mut flags: Vec<Setting> =
            self.set.iter().map(|(key, value)| Setting::flag("--set", key, value)).collect();
        for (flag, key, value) in shorthands {
            flags.extend(value.iter().map(|value| Setting::flag(flag, key, value)));
        }
        flags.extend(self.more.iter().cloned());
        Sources { file: self.config.clone(), environment, flags }
    }
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE, as in http.max_connections=500".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::config::Origin;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        common: CommonArgs,
    }

    #[test]
    fn flags_become_settings_and_named_ones_win() {
        let mut cli = Cli::parse_from([
            "x",
            "--set",
            "log=debug",
            "--set",
            "a.b=c=d",
            "--log",
            "warn",
            "--redis-url",
            "redis://h",
            "--config",
            "f",
        ]);
        cli.common.also_set("--own", "own.key", "1");
        let sources = cli.common.sources(Environment::default());
        let seen: Vec<_> = sources.flags.iter().map(|set| (set.key.as_str(), set.value.as_str())).collect();
        assert_eq!(
            seen,
            [("log", "debug"), ("a.b", "c=d"), ("redis.url", "redis://h"), ("log", "warn"), ("own.key", "1")]
        );
        assert_eq!(sources.flags[2].origin, Origin::Flag("--redis-url".into()));
        assert_eq!(sources.file, Some("f".into()));
    }

    #[test]
    fn set_needs_a_key_and_a_value() {
        for bad in ["log", "=x", " =x"] {
            let error = Cli::try_parse_from(["x", "--set", bad]).unwrap_err().to_string();
            assert!(error.contains("KEY=VALUE"), "{error}");
        }
    }
}
