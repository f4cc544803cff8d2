//! The HTTP client for callbacks: it connects only to addresses that the egress policy permits, follows
//! nothing, and reads no more of an answer than it must.

use std::{error::Error as _, net::SocketAddr, sync::Arc, time::Duration};

use postroad_model::{
    delivery::{Attempt, Failure},
    egress::EgressPolicy,
};
use reqwest::{
    Client, Request, Response, Url,
    dns::{Addrs, Name, Resolve, Resolving},
};
use rustls::crypto::ring;
use tokio::time::{Instant, timeout_at};

/// The most of an answer that is read; what goes on behind it costs the connection.
const ANSWER_BYTES: usize = 64 << 10;

/// A client for callbacks.
#[derive(Clone)]
pub struct Callbacks {
    client: Client,
    policy: EgressPolicy,
    request_timeout: Duration,
}

/// What a subscriber answered.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// `Retry-After`, as it came.
    pub retry_after: Option<String>,
    /// The first bytes of the body.
    pub body: String,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[error("{detail}")]
pub struct NoAnswer {
    /// The kind of failure.
    pub failure: Failure,
    /// In words.
    pub detail: String,
}

/// Marks a refusal of the egress policy inside an error's chain.
#[derive(Debug, thiserror::Error)]
#[error("no address of {0} may be called; egress.allow can permit it")]
struct Refused(String);

/// Resolves names and drops the addresses that may not be called.
struct Guarded(EgressPolicy);

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = self.0.clone();
        Box::pin(async move {
            let name = name.as_str().to_owned();
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let permitted: Vec<SocketAddr> =
                found.into_iter().filter(|address| policy.permits(address.ip())).collect();
            if permitted.is_empty() {
                return Err(Refused(name).into());
            }
            let addresses: Addrs = Box::new(permitted.into_iter());
            Ok(addresses)
        })
    }
}

impl Callbacks {
    /// A client that goes by a policy.
    pub fn new(
        policy: EgressPolicy,
        connect_timeout: Duration,
        request_timeout: Duration,
        idle_per_host: usize,
    ) -> Result<Self, reqwest::Error> {
        // Several daemons in one process meet here; the first one installs it.
        let _ = ring::default_provider().install_default();
        let client = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .referer(false)
            .http1_only()
            .tcp_nodelay(true)
            .connect_timeout(connect_timeout)
            .pool_max_idle_per_host(idle_per_host)
            .pool_idle_timeout(Duration::from_secs(30))
            .dns_resolver(Arc::new(Guarded(policy.clone())))
            .build()?;
        Ok(Self { client, policy, request_timeout })
    }

    /// Sends a request and reads the answer, all within the request timeout.
    pub async fn send(&self, request: Request) -> Result<Answer, NoAnswer> {
        self.permitted(request.url())?;
        let deadline = Instant::now() + self.request_timeout;
        let late = |what: &str| NoAnswer {
            failure: Failure::Timeout,
            detail: format!("no {what} within {} ms", self.request_timeout.as_millis()),
        };
        let response = timeout_at(deadline, self.client.execute(request))
            .await
            .map_err(|_| late("answer"))?
            .map_err(|error| classified(&error))?;
        let status = response.status().as_u16();
        let retry_after = response
            .headers()
            .get(http::header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        let body = timeout_at(deadline, read(response)).await.map_err(|_| late("whole answer"))??;
        Ok(Answer { status, retry_after, body })
    }

    /// Literal addresses never reach the resolver.
    fn permitted(&self, url: &Url) -> Result<(), NoAnswer> {
        let address = match url.host() {
            Some(url::Host::Ipv4(address)) => address.into(),
            Some(url::Host::Ipv6(address)) => address.into(),
            Some(url::Host::Domain(_)) => return Ok(()),
            None => return Err(NoAnswer { failure: Failure::Blocked, detail: "the URL has no host".into() }),
        };
        if self.policy.permits(address) {
            return Ok(());
        }
        let detail = format!("{address} may not be called; egress.allow can permit it");
        Err(NoAnswer { failure: Failure::Blocked, detail })
    }
}

/// Reads an answer's body to its end or its bound, and keeps the first bytes.
async fn read(mut response: Response) -> Result<String, NoAnswer> {
    let mut kept = Vec::new();
    let mut seen = 0;
    while let Some(chunk) = response.chunk().await.map_err(|error| classified(&error))? {
        seen += chunk.len();
        let room = Attempt::RESPONSE_BYTES.saturating_sub(kept.len());
        kept.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if seen > ANSWER_BYTES {
            break;
        }
    }
    Ok(shown(&kept))
}

/// Bytes as text that can be shown: what is no UTF-8 or a control character is replaced.
fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .chars()
        .map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c })
        .collect()
}

fn classified(error: &reqwest::Error) -> NoAnswer {
    let mut chain: Vec<String> = Vec::new();
    let mut failure = if error.is_connect() { Failure::Connect } else { Failure::Broken };
    if error.is_timeout() {
        failure = Failure::Timeout;
    }
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if cause.is::<Refused>() {
            failure = Failure::Blocked;
        } else if cause.is::<rustls::Error>() {
            failure = Failure::Tls;
        } else if text.contains("dns error") || text.contains("failed to lookup") {
            failure = Failure::Dns;
        }
        if chain.last().is_none_or(|last| !last.contains(&text)) {
            chain.push(text);
        }
        source = cause.source();
    }
    if failure == Failure::Dns && chain.iter().any(|text| text.contains("may be called")) {
        failure = Failure::Blocked;
    }
    if chain.is_empty() {
        chain.push(error.to_string());
    }
    NoAnswer { failure, detail: chain.join(": ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_shown_safely() {
        assert_eq!(shown(b"ok\x1b[2J\xff\n"), "ok\u{fffd}[2J\u{fffd}\n");
    }
}
