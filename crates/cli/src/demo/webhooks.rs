//! Real messages: what GitHub sent to others.

use anyhow::Context as _;
use serde::Deserialize;
use serde_json::value::RawValue;

/// 329 webhooks, one a line; see the README beside them for source and licence.
const EMBEDDED: &str = include_str!("../../../testkit/data/github-webhooks.ndjson");

/// One webhook that GitHub sent.
#[derive(Debug, Clone, Deserialize)]
pub struct Webhook {
    /// The kind, as `push` or `pull_request`.
    pub event: String,
    /// What happened, as `opened`; some kinds have none.
    pub action: Option<String>,
    /// The JSON text, byte for byte.
    pub payload: Box<RawValue>,
}

impl Webhook {
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

/// All of them.
pub fn all() -> anyhow::Result<Vec<Webhook>> {
    let read = |(index, line): (usize, &str)| {
        serde_json::from_str(line).with_context(|| format!("line {} of the webhooks is none", index + 1))
    };
    EMBEDDED.lines().enumerate().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_webhooks_are_there() {
        let all = all().unwrap();
        assert_eq!(all.len(), 329);
        let opened = all.iter().find(|webhook| webhook.routing_key() == "issues.opened").unwrap();
        assert_eq!(opened.channel(), "github.issues");
        let push = all.iter().find(|webhook| webhook.event == "push").unwrap();
        assert_eq!((push.routing_key(), push.channel()), ("push".to_owned(), "github.push".to_owned()));
    }
}
