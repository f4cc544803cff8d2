//! `postroad subscribe`: a URL to be sent messages.

use std::io::{self, Write};

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::{Map, Value};

use crate::{
    api::{Api, ApiArgs, Subscribed},
    selection::Selection,
};

const EXAMPLES: &str = "\
Examples:
  postroad subscribe --service billing --callback-url https://billing.example/hooks --channel orders
  postroad subscribe --service audit --callback-url http://127.0.0.1:9000/ --channel-pattern 'github.*' \\
      --routing-key '*.created' --filter '{\"repository\":{\"private\":[true]}}'
  postroad subscribe --service crm --callback-url https://crm.example/in --channel orders \\
      --header 'authorization=Bearer abc' --max-retries 5 --retry-delay 30";

/// Subscribe a URL to messages.
///
/// Prints the subscription's id, and the secret that signs its deliveries (Standard Webhooks). The secret is
/// shown this once.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct SubscribeArgs {
    /// The service that the subscription belongs to.
    #[arg(long, value_name = "NAME")]
    pub service: String,

    /// Where deliveries are POSTed to.
    #[arg(long, value_name = "URL")]
    pub callback_url: String,

    /// A header to send with each delivery. May be repeated.
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = name_value)]
    pub headers: Vec<(String, String)>,

    /// The most deliveries without an answer at a time.
    #[arg(long, value_name = "N")]
    pub prefetch_count: Option<u32>,

    #[command(flatten)]
    selection: Selection,

    /// What the delay is multiplied by before each further retry.
    #[arg(long, value_name = "FACTOR", help_heading = "Retries")]
    pub backoff_multiplier: Option<f64>,

    /// Any other field of the API's SubscriptionRequest, as in `--field rate_limit=10`; the value is JSON, or
    /// else text. May be repeated.
    #[arg(long = "field", value_name = "NAME=VALUE", value_parser = name_value)]
    pub fields: Vec<(String, String)>,

    /// Print the API's whole answer.
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    api: ApiArgs,
}

impl SubscribeArgs {
    fn request(&self) -> anyhow::Result<Map<String, Value>> {
        if !self.selection.is_some() {
            bail!("say which messages are wanted, with --channel NAME or --channel-pattern GLOB");
        }
        let mut request = self.selection.request(&self.service, &self.callback_url);
        if !self.headers.is_empty() {
            let headers = self.headers.iter().map(|(name, value)| (name.clone(), value.as_str().into()));
            request.insert("headers".to_owned(), Value::Object(headers.collect()));
        }
        if let Some(count) = self.prefetch_count {
            request.insert("prefetch_count".to_owned(), count.into());
        }
        if let Some(factor) = self.backoff_multiplier {
            let policy = [("backoff_multiplier".to_owned(), factor.into())];
            request.insert("retry_policy".to_owned(), Value::Object(policy.into_iter().collect()));
        }
        for (name, value) in &self.fields {
            let value = serde_json::from_str(value).unwrap_or_else(|_| value.as_str().into());
            request.insert(name.clone(), value);
        }
        Ok(request)
    }
}

/// Runs `postroad subscribe`.
pub async fn run(args: SubscribeArgs) -> anyhow::Result<()> {
    let request = args.request()?;
    let answer = Api::new(&args.api.api)?.subscribe(&Value::Object(request)).await?;
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{answer}")?;
        return Ok(());
    }
    let Subscribed { subscription_id, secret } =
        serde_json::from_value(answer).context("the API answered no subscription")?;
    writeln!(out, "{subscription_id}\n{secret}")?;
    Ok(())
}

fn name_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => {
            Ok((name.trim().to_owned(), value.trim().to_owned()))
        }
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: SubscribeArgs,
    }

    fn request(line: &[&str]) -> anyhow::Result<Value> {
        let always = ["subscribe", "--service", "s", "--callback-url", "http://h/"];
        Line::parse_from([&always, line].concat()).args.request().map(Value::Object)
    }

    #[test]
    fn every_flag_becomes_its_field() {
        let line = [
            "--channel",
            "c",
            "--header",
            "x-a=b=c",
            "--prefetch-count",
            "3",
            "--backoff-multiplier",
            "1.5",
            "--field",
            "ordered=true",
            "--field",
            "format=raw",
        ];
        assert_eq!(
            request(&line).unwrap(),
            json!({"service_name": "s", "callback_url": "http://h/", "channel": "c", "headers": {"x-a": "b=c"},
                   "prefetch_count": 3, "retry_policy": {"backoff_multiplier": 1.5}, "ordered": true,
                   "format": "raw"})
        );
    }

    #[test]
    fn something_must_be_wanted() {
        assert!(request(&[]).unwrap_err().to_string().contains("--channel"));
        assert!(Line::try_parse_from(["subscribe", "--header", "x"]).is_err());
    }
}
