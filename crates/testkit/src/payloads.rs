//! Real messages as test input: GitHub's webhooks.

use std::path::Path;
use std::sync::LazyLock;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::value::RawValue;

/// One webhook that GitHub sent.
#[derive(Debug, Clone, Deserialize)]
pub struct GithubPayload {
    /// The kind, as `push` or `pull_request` (58 kinds).
    pub event: String,
    /// What happened, as `opened`; some kinds have none.
    pub action: Option<String>,
    /// The JSON text, byte for byte as it stands in the file.
    pub payload: Box<RawValue>,
}

impl GithubPayload {
    /// `github.<event>`.
    pub fn channel(&self) -> String {
        format!("github.{}", self.event)
    }

    /// `<event>.<action>`, or `<event>` where there is no action.
    pub fn routing_key(&self) -> String {
        match &self.action {
            Some(action) => format!("{}.{action}", self.event),
            None => self.event.clone(),
        }
    }
}

/// The 329 webhooks of `data/github-webhooks.ndjson` (see the README there for source and licence), which are
/// part of the binary, so that it runs without the source tree.
pub fn github() -> &'static [GithubPayload] {
    static ALL: LazyLock<Vec<GithubPayload>> = LazyLock::new(|| {
        let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/data/github-webhooks.ndjson"));
        parse(text).expect("the embedded webhooks are valid, which a test asserts")
    });
    &ALL
}

/// Webhooks from a file of the same shape: one `{"event","action","payload"}` a line.
pub fn load(path: impl AsRef<Path>) -> Result<Vec<GithubPayload>> {
    let path = path.as_ref();
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).with_context(|| format!("in {}", path.display()))
}

/// Webhooks from NDJSON text; an error names the line. Empty lines are skipped.
pub fn parse(ndjson: &str) -> Result<Vec<GithubPayload>> {
    let lines = ndjson.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(index, line)| {
            serde_json::from_str(line).with_context(|| format!("line {} is no webhook", index + 1))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn all_webhooks_are_there() {
        let all = github();
        assert_eq!(all.len(), 329);
        assert_eq!(all.iter().map(|webhook| &webhook.event).collect::<HashSet<_>>().len(), 58);
        let sizes = all.iter().map(|webhook| webhook.payload.get().len());
        assert!(sizes.clone().min().unwrap() > 800 && sizes.max().unwrap() < 29 * 1024);
    }

    #[test]
    fn the_payload_keeps_its_bytes() {
        let line = r#"{"event":"push","action":null,"payload":{"b": 1.50, "a":"\u00e9"}}"#;
        let webhooks = parse(&format!("{line}\n\n{line}\n")).unwrap();
        assert_eq!(webhooks.len(), 2);
        assert_eq!(webhooks[0].payload.get(), r#"{"b": 1.50, "a":"\u00e9"}"#);
    }

    #[test]
    fn names_come_from_event_and_action() {
        let webhooks = parse(
            "{\"event\":\"issues\",\"action\":\"opened\",\"payload\":{}}\n{\"event\":\"push\",\"payload\":{}}",
        )
        .unwrap();
        assert_eq!(webhooks[0].channel(), "github.issues");
        assert_eq!(webhooks[0].routing_key(), "issues.opened");
        assert_eq!(webhooks[1].channel(), "github.push");
        assert_eq!(webhooks[1].routing_key(), "push");
    }

    #[test]
    fn a_bad_line_is_named() {
        let error = parse("{\"event\":\"push\",\"payload\":{}}\nnonsense").unwrap_err();
        assert_eq!(error.to_string(), "line 2 is no webhook");
        let error = load("/nowhere.ndjson").unwrap_err();
        assert_eq!(error.to_string(), "cannot read /nowhere.ndjson");
    }
}
