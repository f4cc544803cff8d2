//! The API as a client sees it. Only what it answers is known here, nothing of what is behind it.

use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use clap::Args;
use reqwest::{Client, Method, StatusCode, Url, header};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};

/// Where the API is.
#[derive(Debug, Clone, Args)]
pub struct ApiArgs {
    /// Where the API is.
    #[arg(long, value_name = "URL", default_value = DEFAULT_API)]
    pub api: String,
}

/// Where `postroad dev` and `postroad-ingest` have it by default.
pub const DEFAULT_API: &str = "http://127.0.0.1:8080";

/// What an answer may take.
const TIMEOUT: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The most messages and payload bytes in one bulk call of ours; the API takes some more.
pub const BULK_MESSAGES: usize = 500;
/// See [`BULK_MESSAGES`].
pub const BULK_BYTES: usize = 4 << 20;

/// A client of the API.
#[derive(Debug, Clone)]
pub struct Api {
    base: Url,
    client: Client,
}

/// `PublishMessageRequest`, with the payload as the text that it is.
#[derive(Debug, Serialize)]
pub struct Message<'a> {
    /// The channel.
    pub channel: &'a str,
    /// The payload.
    pub payload: &'a RawValue,
    /// The routing key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routing_key: Option<&'a str>,
    /// The key whose messages keep their order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ordering_key: Option<&'a str>,
    /// Who publishes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_name: Option<&'a str>,
    /// The rest.
    #[serde(skip_serializing_if = "Metadata::is_empty")]
    pub metadata: Metadata<'a>,
}

/// As much of `MessageMetadata` as we set.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Metadata<'a> {
    /// Makes publishing idempotent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_id: Option<&'a str>,
    /// The priority inside a queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<&'a str>,
    /// `base64` where the payload is bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_encoding: Option<&'a str>,
}

impl Metadata<'_> {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// `PublishMessageResponse`.
#[derive(Debug, Clone, Deserialize)]
pub struct Published {
    /// Whether it is stored.
    pub success: bool,
    /// The message's id.
    pub message_id: String,
    /// The channel.
    pub channel: String,
    /// Why it is not stored.
    #[serde(default)]
    pub error: Option<String>,
    /// The id was there before.
    #[serde(default)]
    pub duplicate: bool,
}

/// What a new subscription is known by.
#[derive(Debug, Clone, Deserialize)]
pub struct Subscribed {
    /// Its id.
    pub subscription_id: String,
    /// What signs its deliveries; shown this once.
    pub secret: String,
}

#[derive(Deserialize)]
struct Bulk {
    results: Vec<Published>,
}

#[derive(Deserialize)]
struct Page {
    subscriptions: Vec<Value>,
    next_cursor: Option<String>,
}

impl Api {
    /// A client of the API at this address.
    pub fn new(base: &str) -> anyhow::Result<Self> {
        let wrong = || format!("--api {base:?} is no http:// or https:// URL, such as {DEFAULT_API}");
        let mut base: Url = base.parse().with_context(wrong)?;
        if !matches!(base.scheme(), "http" | "https") || base.host().is_none() {
            bail!(wrong());
        }
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        // Several users of TLS in one process meet here; the first one installs it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut client = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("postroad-cli/", env!("CARGO_PKG_VERSION")));
        if is_here(&base) {
            client = client.no_proxy();
        }
        Ok(Self { base, client: client.build().context("there can be no HTTP client")? })
    }

    /// Publishes one message: the whole answer.
    pub async fn publish(&self, message: &Message<'_>) -> anyhow::Result<Value> {
        self.call(Method::POST, "v1/messages", Some(serde_json::to_vec(message)?)).await
    }

    /// Publishes many, each a `PublishMessageRequest`: one result for each, in order.
    pub async fn publish_bulk<T: Serialize>(&self, messages: &[T]) -> anyhow::Result<Vec<Published>> {
        #[derive(Serialize)]
        struct Request<'a, T> {
            messages: &'a [T],
        }
        let body = serde_json::to_vec(&Request { messages })?;
        let bulk: Bulk = self.call(Method::POST, "v1/messages/bulk", Some(body)).await?;
        if bulk.results.len() != messages.len() {
            bail!("the API answered {} results for {} messages", bulk.results.len(), messages.len());
        }
        Ok(bulk.results)
    }

    /// A message's deliveries.
    pub async fn deliveries(&self, message_id: &str) -> anyhow::Result<Value> {
        self.get(&format!("v1/messages/{message_id}/deliveries")).await
    }

    /// Subscribes: the whole answer, a [`Subscribed`] among it.
    pub async fn subscribe(&self, request: &Value) -> anyhow::Result<Value> {
        self.call(Method::POST, "v1/subscriptions", Some(serde_json::to_vec(request)?)).await
    }

    /// One subscription.
    pub async fn subscription(&self, id: &str) -> anyhow::Result<Value> {
        self.get(&format!("v1/subscriptions/{id}")).await
    }

    /// Cancels a subscription.
    pub async fn unsubscribe(&self, id: &str) -> anyhow::Result<()> {
        self.call::<Value>(Method::DELETE, &format!("v1/subscriptions/{id}"), None).await.map(drop)
    }

    /// All subscriptions that fit, over all pages.
    pub async fn subscriptions(&self, query: &[(&str, &str)]) -> anyhow::Result<Vec<Value>> {
        let mut all = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let mut url = self.url("v1/subscriptions")?;
            url.query_pairs_mut().append_pair("limit", "500").extend_pairs(query);
            if let Some(cursor) = &cursor {
                url.query_pairs_mut().append_pair("cursor", cursor);
            }
            let page: Page = self.send(Method::GET, url, None).await?;
            all.extend(page.subscriptions);
            cursor = page.next_cursor;
            if cursor.is_none() {
                return Ok(all);
            }
        }
    }

    /// What there is at a path, as `v1/dlq` of a dead-letter API.
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.call(Method::GET, path, None).await
    }

    /// How the API is.
    pub async fn health(&self) -> anyhow::Result<Value> {
        self.get("health").await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> anyhow::Result<T> {
        self.send(method, self.url(path)?, body).await
    }

    fn url(&self, path: &str) -> anyhow::Result<Url> {
        self.base.join(path).with_context(|| format!("{path:?} is no path of the API"))
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        url: Url,
        body: Option<Vec<u8>>,
    ) -> anyhow::Result<T> {
        let mut request = self.client.request(method, url.clone());
        if let Some(body) = body {
            request = request.header(header::CONTENT_TYPE, "application/json").body(body);
        }
        let response = request.send().await.map_err(|error| self.no_answer(error))?;
        let status = response.status();
        let body = response.bytes().await.map_err(|error| self.no_answer(error))?;
        if !status.is_success() {
            return Err(refusal(status, &body));
        }
        serde_json::from_slice(&body).with_context(|| {
            format!("{url} answered something else than Postroad's API would; does --api name it?")
        })
    }

    fn no_answer(&self, error: reqwest::Error) -> anyhow::Error {
        let way_out = if error.is_connect() {
            format!(
                "no API can be reached at {}; start one with `postroad dev`, or name another with --api",
                self.base
            )
        } else {
            format!("the API at {} gave no answer; what was asked may have been done or not", self.base)
        };
        anyhow!(error.without_url()).context(way_out)
    }
}

fn is_here(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

/// A refusal in the API's words, as far as it has some.
fn refusal(status: StatusCode, body: &Bytes) -> anyhow::Error {
    #[derive(Deserialize)]
    struct ErrorResponse {
        error: String,
        #[serde(default)]
        error_code: Option<String>,
    }
    match serde_json::from_slice::<ErrorResponse>(body) {
        Ok(ErrorResponse { error, error_code }) => {
            let code = error_code.map(|code| format!(" {code}")).unwrap_or_default();
            anyhow!("the API refused ({}{code}): {error}", status.as_u16())
        }
        Err(_) => anyhow!("the API answered {status}; does --api name Postroad's API?"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked() {
        for good in ["http://127.0.0.1:8080", "https://postroad.example/api", "http://[::1]:1/"] {
            let api = Api::new(good).unwrap();
            assert!(api.url("v1/messages").unwrap().as_str().starts_with(good), "{good}");
        }
        for bad in ["", "127.0.0.1:8080", "localhost:8080", "ftp://h"] {
            let error = Api::new(bad).unwrap_err().to_string();
            assert!(error.contains(&format!("{bad:?}")) && error.contains("http://"), "{error}");
        }
    }

    #[test]
    fn only_this_machine_is_reached_without_a_proxy() {
        for (url, here) in [
            ("http://localhost:1", true),
            ("http://127.0.0.9", true),
            ("http://[::1]:1", true),
            ("http://postroad.example", false),
        ] {
            assert_eq!(is_here(&url.parse().unwrap()), here, "{url}");
        }
    }

    #[test]
    fn a_refusal_is_told_in_the_apis_words() {
        let body = br#"{"error":"channel is empty","error_code":"invalid_field","details":{}}"#;
        let told = refusal(StatusCode::UNPROCESSABLE_ENTITY, &Bytes::from_static(body)).to_string();
        assert_eq!(told, "the API refused (422 invalid_field): channel is empty");
        let told = refusal(StatusCode::NOT_FOUND, &Bytes::from_static(b"<html>")).to_string();
        assert!(told.contains("404") && told.contains("--api"), "{told}");
    }

    #[tokio::test]
    async fn a_missing_api_names_the_way_out() {
        let error = format!("{:#}", Api::new("http://127.0.0.1:1").unwrap().health().await.unwrap_err());
        assert!(error.contains("http://127.0.0.1:1/") && error.contains("postroad dev"), "{error}");
    }

    #[test]
    fn a_message_says_only_what_was_given() {
        let payload = RawValue::from_string(r#"{"b": 1.50}"#.into()).unwrap();
        let message = Message {
            channel: "a",
            payload: &payload,
            routing_key: None,
            ordering_key: None,
            service_name: None,
            metadata: Metadata::default(),
        };
        assert_eq!(serde_json::to_string(&message).unwrap(), r#"{"channel":"a","payload":{"b": 1.50}}"#);
    }
}
