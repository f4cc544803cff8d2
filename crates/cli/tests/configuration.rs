//! docs/configuration.md is made from the code, and this fails when it is stale.

use std::fmt::Write;

use postroad_daemon::config::reference_markdown;

/// Writes the page anew when this is set: `UPDATE_DOCS=1 cargo test -p postroad-cli --test configuration`.
const UPDATE: &str = "UPDATE_DOCS";
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");

const HEAD: &str = "\
# Configuration

<!-- Made from the code: UPDATE_DOCS=1 cargo test -p postroad-cli --test configuration -->

Later wins: built-in defaults, a TOML file (`--config FILE` or `POSTROAD_CONFIG`), the environment, flags
(`--set KEY=VALUE`, and shorthands for the common ones). A key `a.b` is `b` under `[a]` in the file and
`POSTROAD_A_B` in the environment; lists are comma-separated there. One file and one environment may serve all
daemons: each passes over the others' sections. An unknown key or a bad value refuses the start and is named.
`--print-config` shows what is in force and where each value came from; `--check` also tries Redis.

The variables of the older messaging library work as weaker aliases: `REDIS_HOST`, `REDIS_PORT`, `REDIS_DB` and
`REDIS_PASSWORD` (`redis.url`), `REDIS_CONNECTION_TIMEOUT` and `REDIS_SOCKET_TIMEOUT` (seconds), `ENVIRONMENT`,
`MESSAGE_TTL` (`history.retention_seconds`), `MESSAGE_MAX_RETRIES`, `MESSAGE_RETRY_DELAY`.
";

#[test]
fn the_reference_page_is_fresh() {
    let mut page = HEAD.to_owned();
    for (name, table) in [
        ("postroad-ingest", reference_markdown::<postroad_ingest::config::Config>()),
        ("postroad-router", reference_markdown::<postroad_router::config::Config>()),
        ("postroad-worker", reference_markdown::<postroad_worker::config::Config>()),
        ("postroad-reprocessor", reference_markdown::<postroad_reprocessor::config::Config>()),
    ] {
        write!(page, "\n## {name}\n\n{table}").unwrap();
    }
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(PAGE, &page).unwrap();
    }
    let committed = std::fs::read_to_string(PAGE).unwrap_or_default();
    assert!(
        committed == page,
        "docs/configuration.md is stale: {UPDATE}=1 cargo test -p postroad-cli --test configuration"
    );
}
