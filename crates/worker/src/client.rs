//! The HTTP client for callbacks: it connects only to addresses that the egress policy permits, follows
//! nothing, and reads no more of an answer than it must.

use std::{
    error::Error as _,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use postroad_model::{
    delivery::{Attempt, Failure},
    egress::EgressPolicy,
};
use reqwest::{
    Client, Request, Response, Url,
    dns::{Addrs, Name, Resolve, Resolving},
};
use rustix::io::Errno;
use rustls::crypto::ring;
use tokio::time::{Instant, timeout_at};
use tracing::warn;

/// The most of an answer that is read, where no more of it is to be kept; what goes on behind it costs the connection.
const ANSWER_BYTES: usize = 64 << 10;

/// How often idle connections are let go, at most.
const RELIEF: Duration = Duration::from_secs(1);

/// A client for callbacks.
pub struct Callbacks {
    client: RwLock<Client>,
    settings: Settings,
    relieved: Mutex<Option<Instant>>,
}

/// What a client is made of.
struct Settings {
    policy: EgressPolicy,
    connect_timeout: Duration,
    request_timeout: Duration,
    idle_per_host: usize,
}

/// What a subscriber answered.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// `Retry-After`, as it came.
    pub retry_after: Option<String>,
    /// The first bytes of the body.
    pub body: Vec<u8>,
}

impl Answer {
    /// What is kept with an attempt: the first [`Attempt::RESPONSE_BYTES`], as text; none of an empty body.
    pub fn shown(&self) -> Option<String> {
        let first = &self.body[..self.body.len().min(Attempt::RESPONSE_BYTES)];
        (!first.is_empty()).then(|| shown(first))
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// The attempt failed.
    #[error("{}: {detail}", .failure.as_str())]
    Failed {
        /// The kind of failure.
        failure: Failure,
        /// In words.
        detail: String,
    },
    /// This machine lacked what a request takes, such as descriptors: nothing was attempted.
    #[error("{0}")]
    Exhausted(String),
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
        let settings = Settings { policy, connect_timeout, request_timeout, idle_per_host };
        Ok(Self { client: RwLock::new(settings.client()?), settings, relieved: Mutex::default() })
    }

    /// Lets go of all idle connections: the next request begins with a client that has none.
    fn relieve(&self, why: &str) {
        let mut relieved = self.relieved.lock().unwrap_or_else(PoisonError::into_inner);
        if relieved.is_some_and(|last| last.elapsed() < RELIEF) {
            return;
        }
        *relieved = Some(Instant::now());
        match self.settings.client() {
            Ok(client) => {
                warn!(why, "cannot connect for want of resources; idle connections are let go");
                *self.client.write().unwrap_or_else(PoisonError::into_inner) = client;
            }
            Err(error) => warn!(why, %error, "cannot connect for want of resources"),
        }
    }

    /// Sends a request and reads the answer, all within the request timeout. So many bytes of it are kept.
    pub async fn send(&self, request: Request, keep: usize) -> Result<Answer, NoAnswer> {
        self.permitted(request.url())?;
        let timeout = self.settings.request_timeout;
        let deadline = Instant::now() + timeout;
        let late = |what: &str| NoAnswer::Failed {
            failure: Failure::Timeout,
            detail: format!("no {what} within {} ms", timeout.as_millis()),
        };
        let client = self.client.read().unwrap_or_else(PoisonError::into_inner).clone();
        let response = timeout_at(deadline, client.execute(request))
            .await
            .map_err(|_| late("answer"))?
            .map_err(|error| {
                let no_answer = classified(&error);
                if let NoAnswer::Exhausted(detail) = &no_answer {
                    self.relieve(detail);
                }
                no_answer
            })?;
        let status = response.status().as_u16();
        let retry_after = response
            .headers()
            .get(http::header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        let body = timeout_at(deadline, read(response, keep)).await.map_err(|_| late("whole answer"))??;
        Ok(Answer { status, retry_after, body })
    }

    /// Literal addresses never reach the resolver.
    fn permitted(&self, url: &Url) -> Result<(), NoAnswer> {
        let address = match url.host() {
            Some(url::Host::Ipv4(address)) => address.into(),
            Some(url::Host::Ipv6(address)) => address.into(),
            Some(url::Host::Domain(_)) => return Ok(()),
            None => {
                let detail = "the URL has no host".into();
                return Err(NoAnswer::Failed { failure: Failure::Blocked, detail });
            }
        };
        if self.settings.policy.permits(address) {
            return Ok(());
        }
        let detail = format!("{address} may not be called; egress.allow can permit it");
        Err(NoAnswer::Failed { failure: Failure::Blocked, detail })
    }
}

impl Settings {
    fn client(&self) -> Result<Client, reqwest::Error> {
        Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .referer(false)
            .http1_only()
            .tcp_nodelay(true)
            .connect_timeout(self.connect_timeout)
            .pool_max_idle_per_host(self.idle_per_host)
            .pool_idle_timeout(Duration::from_secs(30))
            .dns_resolver(Arc::new(Guarded(self.policy.clone())))
            .build()
    }
}

/// Reads an answer's body to its end or its bound, and keeps the first bytes.
async fn read(mut response: Response, keep: usize) -> Result<Vec<u8>, NoAnswer> {
    let mut kept = Vec::new();
    let mut seen = 0;
    while let Some(chunk) = response.chunk().await.map_err(|error| classified(&error))? {
        seen += chunk.len();
        let room = keep.saturating_sub(kept.len());
        kept.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if seen > ANSWER_BYTES.max(keep) {
            break;
        }
    }
    Ok(kept)
}

/// Bytes as text that can be shown: what is no UTF-8 or a control character is replaced.
pub fn shown(bytes: &[u8]) -> String {
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
    let mut exhausted = false;
    while let Some(cause) = source {
        let text = cause.to_string();
        exhausted |= error.is_connect() && cause.downcast_ref::<io::Error>().is_some_and(is_exhaustion);
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
    let detail = chain.join(": ");
    if exhausted { NoAnswer::Exhausted(detail) } else { NoAnswer::Failed { failure, detail } }
}

/// Whether this machine, and not the subscriber, could not do it.
fn is_exhaustion(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_shown_safely() {
        assert_eq!(shown(b"ok\x1b[2J\xff\n"), "ok\u{fffd}[2J\u{fffd}\n");
    }

    #[test]
    fn only_what_this_machine_lacks_is_exhaustion() {
        for (errno, is) in [
            (Errno::MFILE, true),
            (Errno::NFILE, true),
            (Errno::NOBUFS, true),
            (Errno::NOMEM, true),
            (Errno::CONNREFUSED, false),
            (Errno::HOSTUNREACH, false),
        ] {
            assert_eq!(is_exhaustion(&io::Error::from_raw_os_error(errno.raw_os_error())), is, "{errno:?}");
        }
        assert!(!is_exhaustion(&io::Error::other("a wrapper")));
    }
}
