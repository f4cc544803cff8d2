//! `postroad subscriptions`: what is subscribed.

use std::io::{self, Write};

use clap::Args;
use serde_json::Value;

use crate::{
    api::{Api, ApiArgs},
    text::{aligned, safe},
};

const EXAMPLES: &str = "\
Examples:
  postroad subscriptions
  postroad subscriptions --service billing --status paused
  postroad subscriptions --json | jq -r .subscription_id";

/// List subscriptions.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct SubscriptionsArgs {
    /// Only those of this service.
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,

    /// Only those to this channel, or with this very pattern.
    #[arg(long, value_name = "NAME")]
    pub channel: Option<String>,

    /// Only those that are active, paused or disabled.
    #[arg(long, value_name = "STATUS")]
    pub status: Option<String>,

    /// Print JSON, one object a line, with all that the API says.
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    api: ApiArgs,
}

/// Runs `postroad subscriptions`.
pub async fn run(args: SubscriptionsArgs) -> anyhow::Result<()> {
    let filters = [("service_name", &args.service), ("channel", &args.channel), ("status", &args.status)];
    let query: Vec<(&str, &str)> =
        filters.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?))).collect();
    let all = Api::new(&args.api.api)?.subscriptions(&query).await?;
    let mut out = io::stdout().lock();
    if args.json {
        for subscription in &all {
            writeln!(out, "{subscription}")?;
        }
        return Ok(());
    }
    if all.is_empty() {
        eprintln!("there are none{}", if query.is_empty() { "" } else { " like that" });
        return Ok(());
    }
    let head = ["ID", "STATUS", "SERVICE", "WANTS", "CALLBACK", "DELIVERED", "FAILED", "QUEUED", "DEAD"];
    let rows: Vec<Vec<String>> =
        [head.map(str::to_owned).to_vec()].into_iter().chain(all.iter().map(row)).collect();
    for line in aligned(&rows, &[5, 6, 7, 8]) {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

fn row(subscription: &Value) -> Vec<String> {
    let text = |name: &str| match &subscription[name] {
        Value::String(text) => safe(text).into_owned(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    };
    vec![
        text("subscription_id"),
        text("status"),
        text("service_name"),
        wants(subscription),
        text("callback_url"),
        text("message_count"),
        text("error_count"),
        text("queued"),
        text("dead_letters"),
    ]
}

/// What a subscription selects, in the words of the flags.
fn wants(subscription: &Value) -> String {
    let named = |name: &str, value: &Value| match value {
        Value::Null => None,
        Value::String(text) => Some(format!("{name}={}", safe(text))),
        other => Some(format!("{name}={}", safe(&other.to_string()))),
    };
    // Where there is no pattern, the API repeats the channel there.
    let channels = match &subscription["channel"] {
        Value::Null => named("pattern", &subscription["channel_pattern"]),
        channel => named("channel", channel),
    };
    let others = [("key", "routing_key"), ("headers", "header_match"), ("filter", "filter_criteria")]
        .map(|(shown, field)| named(shown, &subscription[field]));
    channels.into_iter().chain(others.into_iter().flatten()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_row_says_what_is_wanted() {
        let subscription = json!({
            "subscription_id": "sub_1", "status": "active", "service_name": "s", "channel": null,
            "channel_pattern": "github.*", "routing_key": "*.created", "filter_criteria": {"a": [1]},
            "callback_url": null, "message_count": 3, "error_count": 0, "queued": 1, "dead_letters": 0
        });
        let wants = r#"pattern=github.* key=*.created filter={"a":[1]}"#;
        assert_eq!(row(&subscription), ["sub_1", "active", "s", wants, "-", "3", "0", "1", "0"]);
        assert_eq!(self::wants(&json!({"channel": "c", "channel_pattern": "c"})), "channel=c");
    }
}
