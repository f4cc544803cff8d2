//! The flags that say which messages a subscription wants, and how it is retried.

use clap::Args;
use serde_json::{Map, Value, json};

/// What a subscription wants.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Which messages")]
pub struct Selection {
    /// All messages of this channel.
    #[arg(long, value_name = "NAME", conflicts_with = "channel_pattern")]
    pub channel: Option<String>,

    /// All messages of the channels that this glob matches, as in `github.*`.
    #[arg(long, value_name = "GLOB")]
    pub channel_pattern: Option<String>,

    /// Of those, the ones whose routing key this topic pattern matches: `*` is one word, `#` any number.
    #[arg(long, value_name = "PATTERN")]
    pub routing_key: Option<String>,

    /// Of those, the ones whose payload this event pattern matches, as in `{"action":["opened"]}`.
    #[arg(long, value_name = "JSON", value_parser = object)]
    pub filter: Option<Map<String, Value>>,

    /// Of those, the ones whose headers match, as in `{"x-match":"any","region":"eu"}`.
    #[arg(long, value_name = "JSON", value_parser = object)]
    pub header_match: Option<Map<String, Value>>,

    /// Retries after the first attempt.
    #[arg(long, value_name = "N", help_heading = "Retries")]
    pub max_retries: Option<u32>,

    /// Seconds before the first retry; doubled before each further one.
    #[arg(long, value_name = "SECONDS", help_heading = "Retries")]
    pub retry_delay: Option<f64>,
}

impl Selection {
    /// Whether it selects anything at all.
    pub fn is_some(&self) -> bool {
        self.channel.is_some() || self.channel_pattern.is_some()
    }

    /// A flag that means nothing without a channel, if one was given.
    pub fn needs_a_channel(&self) -> Option<&'static str> {
        [
            ("--routing-key", self.routing_key.is_some()),
            ("--filter", self.filter.is_some()),
            ("--header-match", self.header_match.is_some()),
            ("--max-retries", self.max_retries.is_some()),
            ("--retry-delay", self.retry_delay.is_some()),
        ]
        .into_iter()
        .find_map(|(flag, is_given)| (is_given && !self.is_some()).then_some(flag))
    }

    /// The `SubscriptionRequest` of a service that wants this.
    pub fn request(&self, service: &str, callback_url: &str) -> Map<String, Value> {
        let mut request = Map::new();
        let fields = [
            ("service_name", Some(json!(service))),
            ("callback_url", Some(json!(callback_url))),
            ("channel", self.channel.as_ref().map(|name| json!(name))),
            ("channel_pattern", self.channel_pattern.as_ref().map(|glob| json!(glob))),
            ("routing_key", self.routing_key.as_ref().map(|pattern| json!(pattern))),
            ("filter_criteria", self.filter.as_ref().map(|filter| json!(filter))),
            ("header_match", self.header_match.as_ref().map(|wanted| json!(wanted))),
            ("max_retries", self.max_retries.map(|retries| json!(retries))),
            ("retry_delay", self.retry_delay.map(|delay| json!(delay))),
        ];
        for (name, value) in fields {
            request.extend(value.map(|value| (name.to_owned(), value)));
        }
        request
    }
}

/// A JSON object from a flag.
pub fn object(text: &str) -> Result<Map<String, Value>, String> {
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err("it is JSON, but no object such as {\"action\":[\"opened\"]}".to_owned()),
        Err(error) => Err(format!("it is no JSON: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        selection: Selection,
    }

    #[test]
    fn flags_become_the_request() {
        let line = ["x", "--channel-pattern", "a.*", "--filter", r#"{"n":[1]}"#, "--retry-delay", "0.5"];
        let request = Line::parse_from(line).selection.request("me", "http://h/");
        assert_eq!(
            Value::Object(request),
            json!({"service_name": "me", "callback_url": "http://h/", "channel_pattern": "a.*",
                   "filter_criteria": {"n": [1]}, "retry_delay": 0.5})
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (line, word) in [
            (["x", "--filter", "[1]"], "no object"),
            (["x", "--filter", "{"], "no JSON"),
            (["x", "--max-retries", "x"], "max-retries"),
        ] {
            let error = Line::try_parse_from(line).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        assert!(Line::try_parse_from(["x", "--channel", "a", "--channel-pattern", "b"]).is_err());
        let alone = Line::parse_from(["x", "--routing-key", "a"]).selection;
        assert_eq!(alone.needs_a_channel(), Some("--routing-key"));
        assert_eq!(Line::parse_from(["x", "--channel", "a"]).selection.needs_a_channel(), None);
    }
}
