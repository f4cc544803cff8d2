//! Five ways to say what one wants, and for each, in code that knows nothing of Postroad's matching, which
//! webhooks that is.

use serde_json::{Value, json};

use super::webhooks::Webhook;

/// A subscription of the demo.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    /// What it is called; its callback's path is `/<name>`.
    pub name: &'static str,
    /// How it selects, for people.
    pub selects: &'static str,
    channel: Option<&'static str>,
    channel_pattern: Option<&'static str>,
    routing_key: Option<&'static str>,
    /// JSON.
    filter: Option<&'static str>,
    wants: fn(&Webhook) -> bool,
}

/// The demo's service.
pub const SERVICE: &str = "postroad-demo";

/// All of them.
pub const WISHES: [Wish; 5] = [
    Wish {
        name: "exact",
        selects: "channel github.push",
        channel: Some("github.push"),
        wants: |webhook| webhook.event == "push",
        ..Wish::NOTHING
    },
    Wish {
        name: "glob",
        selects: "pattern github.issue*",
        channel_pattern: Some("github.issue*"),
        wants: |webhook| webhook.event.starts_with("issue"),
        ..Wish::NOTHING
    },
    Wish {
        name: "topic",
        selects: "pattern github.*, routing key *.created",
        channel_pattern: Some("github.*"),
        routing_key: Some("*.created"),
        wants: |webhook| webhook.action.as_deref() == Some("created"),
        ..Wish::NOTHING
    },
    Wish {
        name: "filter",
        selects: "pattern github.*, action created or opened, repository public",
        channel_pattern: Some("github.*"),
        filter: Some(r#"{"action":["created","opened"],"repository":{"private":[false]}}"#),
        wants: |webhook| {
            let payload: Value = serde_json::from_str(webhook.payload.get()).unwrap_or_default();
            let action = &payload["action"];
            (action == "created" || action == "opened") && payload["repository"]["private"] == false
        },
        ..Wish::NOTHING
    },
    Wish {
        name: "everything",
        selects: "pattern github.*",
        channel_pattern: Some("github.*"),
        wants: |_| true,
        ..Wish::NOTHING
    },
];

impl Wish {
    const NOTHING: Self = Self {
        name: "",
        selects: "",
        channel: None,
        channel_pattern: None,
        routing_key: None,
        filter: None,
        wants: |_| false,
    };

    /// The path of its callback.
    pub fn path(&self) -> String {
        format!("/{}", self.name)
    }

    /// The places of the webhooks that it must get.
    pub fn expected(&self, webhooks: &[Webhook]) -> Vec<usize> {
        let wanted = |(place, webhook)| (self.wants)(webhook).then_some(place);
        webhooks.iter().enumerate().filter_map(wanted).collect()
    }

    /// Its `SubscriptionRequest`.
    pub fn request(&self, callback_url: &str) -> Value {
        let filter = self.filter.map(|filter| serde_json::from_str::<Value>(filter).unwrap_or_default());
        let fields = [
            ("service_name", Some(json!(SERVICE))),
            ("callback_url", Some(json!(callback_url))),
            ("channel", self.channel.map(|name| json!(name))),
            ("channel_pattern", self.channel_pattern.map(|glob| json!(glob))),
            ("routing_key", self.routing_key.map(|pattern| json!(pattern))),
            ("filter_criteria", filter),
            // Whatever fails is to be seen within the demo.
            ("retry_delay", Some(json!(1))),
        ];
        fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::webhooks, *};

    #[test]
    fn the_sets_are_what_a_count_by_hand_gives() {
        let webhooks = webhooks::all().unwrap();
        let counts = WISHES.map(|wish| (wish.name, wish.expected(&webhooks).len()));
        let counted = [("exact", 7), ("glob", 38), ("topic", 64), ("filter", 61), ("everything", 329)];
        assert_eq!(counts, counted);
        for place in WISHES[1].expected(&webhooks) {
            assert!(["issues", "issue_comment"].contains(&webhooks[place].event.as_str()));
        }
    }

    #[test]
    fn a_request_says_what_the_table_says() {
        let request = WISHES[3].request("http://h/filter");
        assert_eq!(request["channel_pattern"], "github.*");
        assert_eq!(request["filter_criteria"]["repository"]["private"], json!([false]));
        assert!(request.get("channel").is_none() && request.get("routing_key").is_none());
        assert_eq!(WISHES[3].path(), "/filter");
    }
}
