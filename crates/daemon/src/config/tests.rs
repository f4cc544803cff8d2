use std::{fs, net::SocketAddr, path::Path};

use super::*;
use crate::common::{COMMON_DOCS, LogFormat};

#[derive(Debug, Clone, PartialEq, Serialize, serde::Deserialize)]
struct Config {
    #[serde(flatten)]
    common: Common,
    redis: Redis,
    worker: Worker,
}

#[derive(Debug, Clone, PartialEq, Serialize, serde::Deserialize)]
struct Redis {
    url: String,
    secret: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, serde::Deserialize)]
struct Worker {
    max_in_flight: u32,
    pace: f64,
    careful: bool,
    allow: Vec<String>,
    ports: Vec<u16>,
    name: Option<String>,
    limit: Option<u64>,
    mode: Mode,
    costs: BTreeMap<String, u32>,
    offset: i64,
    deep: Deep,
}

#[derive(Debug, Clone, PartialEq, Serialize, serde::Deserialize)]
struct Deep {
    er: u8,
}

#[derive(Debug, Clone, PartialEq, Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    Plain,
    VeryFancy,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            common: Common::default(),
            redis: Redis { url: "redis://127.0.0.1:6379".into(), secret: None },
            worker: Worker {
                max_in_flight: 64,
                pace: 1.5,
                careful: true,
                allow: Vec::new(),
                ports: vec![1],
                name: None,
                limit: None,
                mode: Mode::Plain,
                costs: BTreeMap::new(),
                offset: -1,
                deep: Deep { er: 3 },
            },
        }
    }
}

fn redis_of(environment: &Environment) -> Vec<Setting> {
    let Some(host) = environment.get("REDIS_HOST") else { return Vec::new() };
    let port = environment.get("REDIS_PORT").unwrap_or("6379");
    vec![Setting::environment("REDIS_HOST", "redis.url", format!("redis://{host}:{port}"))]
}

impl Configuration for Config {
    const SCHEMA: Schema = Schema {
        docs: &[
            COMMON_DOCS,
            &[
                ("redis.url", "where Redis is"),
                ("redis.secret", "a | secret"),
                ("worker.max_in_flight", "requests at a time"),
                ("worker.pace", "."),
                ("worker.careful", "."),
                ("worker.allow", "."),
                ("worker.ports", "."),
                ("worker.name", "."),
                ("worker.limit", "."),
                ("worker.mode", "."),
                ("worker.costs", "."),
                ("worker.offset", "."),
                ("worker.deep.er", "."),
            ],
        ],
        secrets: &["redis.secret"],
        foreign: &["ingest", "worker", "router"],
        aliases: &[
            ("MAX_IN_FLIGHT", "worker.max_in_flight"),
            ("FOREIGN", "ingest.thing"),
            ("ENVIRONMENT", "environment"),
        ],
        derived: Some(redis_of),
    };

    fn common(&self) -> &Common {
        &self.common
    }

    fn listen(&self) -> SocketAddr {
        self.common.listen.map_or_else(|| ([127, 0, 0, 1], 9_102).into(), |listen| listen.0)
    }
}

/// A configuration from a file's text, environment variables and `--set` flags.
fn try_load(
    file: &str,
    environment: &[(&str, &str)],
    flags: &[(&str, &str)],
) -> Result<Loaded<Config>, ConfigError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("postroad.toml");
    fs::write(&path, file).unwrap();
    load(&Sources {
        file: Some(path),
        environment: environment.iter().copied().collect(),
        flags: flags.iter().map(|(key, value)| Setting::flag("--set", key, *value)).collect(),
    })
}

fn loaded(file: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Config {
    try_load(file, environment, flags).unwrap_or_else(|error| panic!("{error}")).config
}

fn refused(file: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> String {
    let text = try_load(file, environment, flags).unwrap_err().to_string();
    let directory = text.find("file /").map(|at| at + 5);
    // The name of the temporary directory is of no interest.
    match directory.and_then(|start| Some((start, start + text[start..].find("/postroad.toml")?))) {
        Some((start, end)) => format!("{}{}", &text[..start], &text[end + 1..]),
        None => text,
    }
}

#[test]
fn defaults_are_what_default_says() {
    assert_eq!(load::<Config>(&Sources::default()).unwrap().config, Config::default());
    assert_documented::<Config>();
}

#[test]
fn later_sources_win() {
    const FILE: &str = "environment = 'file'\n[worker]\nmax_in_flight = 1\n[redis]\nurl = 'redis://file'";
    let alias =
        [("MAX_IN_FLIGHT", "2"), ("REDIS_HOST", "alias"), ("REDIS_PORT", "7"), ("ENVIRONMENT", "alias")];
    let named = [
        ("POSTROAD_WORKER_MAX_IN_FLIGHT", "3"),
        ("POSTROAD_REDIS_URL", "redis://env"),
        ("POSTROAD_ENVIRONMENT", "env"),
    ];
    let both: Vec<_> = alias.into_iter().chain(named).collect();
    let flags = [("worker.max_in_flight", "9"), ("worker.max_in_flight", "4")];
    let seen = |config: Config| (config.worker.max_in_flight, config.redis.url, config.common.environment);
    let expect = |count, url: &str, name: &str| (count, url.to_owned(), name.to_owned());
    assert_eq!(seen(loaded("", &[], &[])), expect(64, "redis://127.0.0.1:6379", "development"));
    assert_eq!(seen(loaded(FILE, &[], &[])), expect(1, "redis://file", "file"));
    assert_eq!(seen(loaded(FILE, &alias, &[])), expect(2, "redis://alias:7", "alias"));
    assert_eq!(seen(loaded(FILE, &both, &[])), expect(3, "redis://env", "env"));
    assert_eq!(seen(loaded(FILE, &both, &flags)), expect(4, "redis://env", "env"));
}

#[test]
fn every_type_can_be_set_everywhere() {
    let file = "
        listen = '127.0.0.1:1'
        log_format = 'json'
        [worker]
        max_in_flight = 7
        pace = 2
        careful = false
        allow = ['a', 'b']
        ports = [2, 3]
        name = '12'
        limit = 12
        mode = 'very-fancy'
        offset = -5
        deep.er = 4
        [worker.costs]
        'some key.with-dots' = 1
        [http]
        max_connections = 5
    ";
    let environment = [
        ("POSTROAD_LISTEN", "127.0.0.1:1"),
        ("POSTROAD_LOG_FORMAT", "json"),
        ("POSTROAD_WORKER_MAX_IN_FLIGHT", " 7 "),
        ("POSTROAD_WORKER_PACE", "2"),
        ("POSTROAD_WORKER_CAREFUL", "Off"),
        ("POSTROAD_WORKER_ALLOW", "a, b,"),
        ("POSTROAD_WORKER_PORTS", "2,3"),
        ("POSTROAD_WORKER_NAME", "12"),
        ("POSTROAD_WORKER_LIMIT", "12"),
        ("POSTROAD_WORKER_MODE", "very-fancy"),
        ("POSTROAD_WORKER_OFFSET", "-5"),
        ("POSTROAD_WORKER_DEEP_ER", "4"),
        ("POSTROAD_HTTP_MAX_CONNECTIONS", "5"),
    ];
    let flags: Vec<(String, &str)> = environment
        .iter()
        .map(|(name, value)| (Keys::of::<Config>().by_variable(name).unwrap().path.clone(), *value))
        .collect();
    let flags: Vec<(&str, &str)> = flags.iter().map(|(key, value)| (key.as_str(), *value)).collect();

    let mut from_file = loaded(file, &[], &[]);
    assert_eq!(from_file.worker.costs, BTreeMap::from([("some key.with-dots".to_owned(), 1)]));
    from_file.worker.costs.clear();
    assert_eq!(from_file.worker.mode, Mode::VeryFancy);
    assert_eq!(from_file.worker.name.as_deref(), Some("12"));
    assert_eq!((from_file.worker.limit, from_file.worker.deep.er), (Some(12), 4));
    assert_eq!((from_file.common.log_format, from_file.listen().port()), (LogFormat::Json, 1));
    assert_eq!(loaded("", &environment, &[]), from_file);
    assert_eq!(loaded("", &[], &flags), from_file);
}

#[test]
fn an_empty_variable_unsets_what_is_optional() {
    let config = loaded(
        "[worker]\nname = 'x'\nallow = ['x']",
        &[("POSTROAD_WORKER_NAME", ""), ("POSTROAD_WORKER_ALLOW", ""), ("MAX_IN_FLIGHT", "")],
        &[],
    );
    assert_eq!((config.worker.name, config.worker.allow, config.worker.max_in_flight), (None, vec![], 64));
}

#[test]
fn what_is_wrong_is_named() {
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [(&'a str, &'a str)], &'a str);
    #[rustfmt::skip]
    let table: &[Case<'_>] = &[
        ("[worker]\nmax_in_flights = 1", &[], &[],
         "unknown key `worker.max_in_flights` in the file postroad.toml; did you mean `worker.max_in_flight`?"),
        ("colour = 1", &[], &[], "unknown key `colour` in the file postroad.toml"),
        ("[wroker]\nx = 1", &[], &[], "unknown key `wroker` in the file postroad.toml"),
        ("[worker.deeper]\nx = 1", &[], &[], "unknown key `worker.deeper` in the file postroad.toml; did you mean `worker.deep.er`?"),
        ("redis = 3", &[], &[],
         "`redis` cannot be \"…\" (from the file postroad.toml): it is a section, whose keys stand below [redis]"),
        ("ingest = 3", &[], &[], "unknown key `ingest` in the file postroad.toml"),
        ("[worker]\nmax_in_flight = -1", &[], &[],
         "`worker.max_in_flight` cannot be \"-1\" (from the file postroad.toml): invalid value: integer `-1`, expected u32"),
        ("[worker]\nmax_in_flight = 1.5", &[], &[],
         "`worker.max_in_flight` cannot be \"1.5\" (from the file postroad.toml): invalid type: floating point `1.5`, expected u32"),
        ("[worker]\nmax_in_flight = true", &[], &[],
         "`worker.max_in_flight` cannot be \"true\" (from the file postroad.toml): invalid type: boolean `true`, expected u32"),
        ("[worker]\npace = inf", &[], &[],
         "`worker.pace` cannot be \"inf\" (from the file postroad.toml): it is no finite number"),
        ("", &[("POSTROAD_WORKER_MAX_INFLIGHT", "1")], &[],
         "the environment variable POSTROAD_WORKER_MAX_INFLIGHT stands for no key; did you mean POSTROAD_WORKER_MAX_IN_FLIGHT?"),
        ("", &[("POSTROAD_WORKER_MAX_IN_FLIGHT", "many")], &[],
         "`worker.max_in_flight` cannot be \"many\" (from the environment variable POSTROAD_WORKER_MAX_IN_FLIGHT): it is no whole number"),
        ("", &[("MAX_IN_FLIGHT", "4294967296")], &[],
         "`worker.max_in_flight` cannot be \"4294967296\" (from the environment variable MAX_IN_FLIGHT): invalid value: integer `4294967296`, expected u32"),
        ("", &[("POSTROAD_WORKER_CAREFUL", "maybe")], &[],
         "`worker.careful` cannot be \"maybe\" (from the environment variable POSTROAD_WORKER_CAREFUL): it is neither true nor false"),
        ("", &[("POSTROAD_WORKER_PACE", "NaN")], &[],
         "`worker.pace` cannot be \"NaN\" (from the environment variable POSTROAD_WORKER_PACE): it is no number"),
        ("", &[("POSTROAD_WORKER_COSTS", "a=1")], &[],
         "`worker.costs` cannot be \"a=1\" (from the environment variable POSTROAD_WORKER_COSTS): it is a table, which only the file can set"),
        ("", &[("POSTROAD_HTTP_MAX_CONNECTIONS", "0")], &[],
         "`http.max_connections` cannot be \"0\" (from the environment variable POSTROAD_HTTP_MAX_CONNECTIONS): invalid value: integer `0`, expected a nonzero u64"),
        ("", &[], &[("worker.mode", "odd")],
         "`worker.mode` cannot be \"odd\" (from the flag --set): unknown variant `odd`, expected `plain` or `very-fancy`"),
        ("", &[], &[("worker", "odd")], "unknown key `worker` in the flag --set"),
        ("", &[], &[("ingest.thing", "1")], "unknown key `ingest.thing` in the flag --set"),
        ("", &[], &[("listen", "8080")],
         "`listen` cannot be \"8080\" (from the flag --set): it is no address and port, such as 127.0.0.1:8080 or [::]:8080"),
        ("", &[], &[("log", "a=b=c")],
         "`log` cannot be \"a=b=c\" (from the flag --set): it is no log filter, such as info or info,hyper=warn"),
    ];
    for (file, environment, flags, message) in table {
        assert_eq!(&refused(file, environment, flags), message);
    }
}

#[test]
fn everything_wrong_is_said_at_once() {
    let text = refused("a1 = 1", &[("POSTROAD_B2", "x")], &[("c3", "x")]);
    assert!(text.starts_with("3 things are wrong"), "{text}");
    assert!(["a1", "POSTROAD_B2", "c3"].iter().all(|key| text.contains(key)), "{text}");
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let missing = load::<Config>(&Sources { file: Some("/nowhere/x.toml".into()), ..Sources::default() });
    assert!(
        matches!(missing.unwrap_err(), ConfigError::Unreadable { path, .. } if path == Path::new("/nowhere/x.toml"))
    );
    match try_load("[redis]\nsecret = 'hunter2\n", &[], &[]).unwrap_err() {
        error @ ConfigError::Toml { line, .. } => {
            assert_eq!(line, 2);
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
        other => panic!("{other}"),
    }
}

#[test]
fn the_environment_may_name_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.toml");
    fs::write(&path, "environment = 'named'").unwrap();
    let environment: Environment = [("POSTROAD_CONFIG", path.to_str().unwrap())].into_iter().collect();
    let sources = Sources { environment, ..Sources::default() };
    assert_eq!(load::<Config>(&sources).unwrap().config.common.environment, "named");
}

#[test]
fn what_belongs_to_other_daemons_is_passed_over() {
    let file = "[ingest]\nanything = 1\n[router.deep]\nx = []";
    let environment = [
        ("POSTROAD_INGEST_ANYTHING", "x"),
        ("POSTROAD_ROUTER_X_Y", "x"),
        ("OTHER", "x"),
        ("FOREIGN", "x"),
        ("POSTROAD_CONFIG", ""),
    ];
    assert_eq!(loaded(file, &environment, &[]), Config::default());
    // One's own section is checked, though it is in the list; and a section is a whole word.
    assert!(refused("", &[("POSTROAD_WORKER_X", "1")], &[]).contains("POSTROAD_WORKER_X"));
    assert!(refused("", &[("POSTROAD_INGESTX", "1")], &[]).contains("POSTROAD_INGESTX"));
}

#[test]
fn what_kubernetes_adds_is_passed_over() {
    let links = [
        ("POSTROAD_SERVICE_HOST", "10.0.0.1"),
        ("POSTROAD_SERVICE_PORT", "8080"),
        ("POSTROAD_SERVICE_PORT_HTTP", "8080"),
        ("POSTROAD_PORT", "tcp://10.0.0.1:8080"),
        ("POSTROAD_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
        ("POSTROAD_PORT_8080_TCP_PROTO", "tcp"),
        ("POSTROAD_PORT_8080_TCP_PORT", "8080"),
        ("POSTROAD_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("POSTROAD_DLQ_SERVICE_HOST", "10.0.0.2"),
    ];
    assert_eq!(loaded("", &links, &[]), Config::default());
    assert!(refused("", &[("POSTROAD_PORT", "8080")], &[]).contains("POSTROAD_PORT"));
}

#[test]
fn values_that_are_not_utf_8_are_refused() {
    use std::os::unix::ffi::OsStringExt;
    let value = std::ffi::OsString::from_vec(vec![0xff]);
    let environment = [("POSTROAD_REDIS_URL", value.clone()), ("ELSEWHERE", value)].into_iter().collect();
    let error = load::<Config>(&Sources { environment, ..Sources::default() }).unwrap_err().to_string();
    assert!(error.contains("redis.url") && error.contains("UTF-8"), "{error}");
}

#[test]
fn secrets_are_in_no_message() {
    let config = try_load(
        "[redis]\nsecret = 'hunter2'\nurl = 'redis://:hunter2@h/0'\n[worker]\nname = 'http://u:hunter2@x/'",
        &[],
        &[("worker.allow", "x,redis://:hunter2@h")],
    )
    .unwrap();
    let shown = print_config(&config);
    assert!(shown.contains("secret = \"[redacted]\"") && shown.contains("redis://:***@h/0"), "{shown}");
    assert!(!shown.contains("hunter2"), "{shown}");
    let odd = refused("[redis]\nsecret = ['hunter2']\nurl = ['redis://:hunter2@h/0']", &[], &[]);
    assert!(odd.contains("redis.secret") && odd.contains("redis.url") && !odd.contains("hunter2"), "{odd}");
}

#[test]
fn what_is_printed_can_be_read_again() {
    let first = try_load(
        "[worker]\nname = 'a \"quoted\" #name'\nallow = ['a', 'b']\ncosts = { 'x y' = 1 }",
        &[("POSTROAD_LISTEN", "[::1]:80")],
        &[("worker.pace", "2.5")],
    )
    .unwrap();
    let shown = print_config(&first);
    assert!(shown.contains("listen = \"[::1]:80\" # environment variable POSTROAD_LISTEN"), "{shown}");
    assert!(shown.contains("pace = 2.5 # flag --set"), "{shown}");
    assert!(shown.contains("# limit is not set"), "{shown}");
    assert_eq!(loaded(&shown, &[], &[]), first.config);
}

#[test]
fn the_reference_lists_every_key_in_the_order_of_its_docs() {
    let table = reference_markdown::<Config>();
    assert!(table.contains("| `environment` | `\"development\"` | `POSTROAD_ENVIRONMENT` |"), "{table}");
    assert!(
        table.contains("| `redis.secret` | not set | `POSTROAD_REDIS_SECRET` | a \\| secret |"),
        "{table}"
    );
    assert!(table.contains("| `worker.limit` | not set |"), "{table}");
    assert_eq!(table.lines().count(), 2 + Keys::of::<Config>().iter().count());
    assert!(table.find("redis.url") < table.find("worker.pace"));
}

#[test]
#[should_panic(expected = "must be documented once")]
fn a_key_without_a_word_fails_its_test() {
    #[derive(Default, Serialize, serde::Deserialize)]
    struct Bare {
        common: Common,
    }
    impl Configuration for Bare {
        const SCHEMA: Schema = Schema::NONE;
        fn common(&self) -> &Common {
            &self.common
        }
        fn listen(&self) -> SocketAddr {
            ([127, 0, 0, 1], 0).into()
        }
    }
    assert_documented::<Bare>();
}
