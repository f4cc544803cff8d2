//! A webhook receiver: verifies, records, and only then answers.
//!
//! So whoever has seen an answer finds the request recorded, and a request that could not be recorded is
//! answered 500 and sent again.

use std::{
    io,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode},
    response::{IntoResponse, Response},
};
use postroad_daemon::{
    body::{BodyLimits, read_body},
    clock::Clock,
};
use postroad_model::signature::{SecretKey, SignatureHeaders, TOLERANCE_S, verify};
use serde_json::json;

use super::arrival::{Arrival, Trust};

/// The largest body; more than Postroad sends.
const MAX_BODY: usize = 64 << 20;

/// Where arrivals are recorded.
type Record = Box<dyn Fn(Arrival) -> io::Result<()> + Send + Sync>;

/// A receiver, for any number of paths.
pub struct Receiver {
    secrets: RwLock<Vec<Secret>>,
    manners: Manners,
    record: Record,
    clock: Clock,
}

/// A secret, and where it counts.
struct Secret {
    /// The path; none: all of them.
    path: Option<String>,
    key: SecretKey,
}

/// How requests are answered that are genuine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Manners {
    /// The share of requests that are answered with `status`; the others get 200.
    pub fail_rate: f64,
    /// See `fail_rate`.
    pub status: StatusCode,
    /// How long an answer is kept back.
    pub delay: Duration,
}

impl Manners {
    /// 200, at once.
    pub const GOOD: Self = Self { fail_rate: 0.0, status: StatusCode::OK, delay: Duration::ZERO };

    /// What to answer to a request that drew this lot, from 0 to 1.
    fn answer(&self, lot: f64) -> StatusCode {
        if lot < self.fail_rate { self.status } else { StatusCode::OK }
    }
}

impl Receiver {
    /// A receiver without secrets: nothing can be verified until some are added.
    pub fn new(
        manners: Manners,
        record: impl Fn(Arrival) -> io::Result<()> + Send + Sync + 'static,
    ) -> Arc<Self> {
        let (secrets, clock) = (RwLock::default(), Clock::system());
        Arc::new(Self { secrets, manners, record: Box::new(record), clock })
    }

    /// From now on, requests to the path (none: to any) must be signed with this or another of its secrets.
    pub fn trust(&self, path: Option<&str>, key: SecretKey) {
        let secret = Secret { path: path.map(str::to_owned), key };
        self.secrets.write().unwrap_or_else(PoisonError::into_inner).push(secret);
    }

    /// As a service.
    pub fn router(self: Arc<Self>) -> Router {
        Router::new().fallback(receive).with_state(self)
    }

    fn judge(&self, path: &str, headers: &HeaderMap, body: &[u8], now_ms: u64) -> Trust {
        let secrets = self.secrets.read().unwrap_or_else(PoisonError::into_inner);
        let ours: Vec<&SecretKey> = secrets
            .iter()
            .filter(|secret| secret.path.as_deref().is_none_or(|own| own == path))
            .map(|secret| &secret.key)
            .collect();
        if ours.is_empty() {
            return Trust::Unchecked;
        }
        let mut found = [""; 3];
        for (value, name) in found.iter_mut().zip(["webhook-id", "webhook-timestamp", "webhook-signature"]) {
            match text(headers, name) {
                Some(text) => *value = text,
                None => return Trust::Refused(format!("it has no {name}")),
            }
        }
        let [id, timestamp, signature] = found;
        let signed = SignatureHeaders { id, timestamp, signature };
        let tried = ours.into_iter().map(|key| verify(key, signed, body, now_ms / 1_000, TOLERANCE_S));
        // Of several refusals the last will do: but for the match, all secrets are refused alike.
        tried.reduce(Result::or).map_or(Trust::Unchecked, |tried| match tried {
            Ok(()) => Trust::Verified,
            Err(error) => Trust::Refused(error.to_string()),
        })
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

async fn receive(State(receiver): State<Arc<Receiver>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    if head.method != Method::POST {
        return say(StatusCode::METHOD_NOT_ALLOWED, "this receives webhooks: POST them here");
    }
    let body = match read_body(body, &BodyLimits::of(MAX_BODY)).await {
        Ok(body) => body,
        Err(error) => return say(error.status(), &error.to_string()),
    };
    let at_ms = receiver.clock.now_ms();
    let path = head.uri.path();
    let trust = receiver.judge(path, &head.headers, &body, at_ms);
    let status = match trust {
        Trust::Refused(_) => StatusCode::UNAUTHORIZED,
        Trust::Verified | Trust::Unchecked => receiver.manners.answer(rand::random()),
    };
    let refusal = match &trust {
        Trust::Refused(reason) => Some(reason.clone()),
        Trust::Verified | Trust::Unchecked => None,
    };
    let arrival = Arrival {
        at_ms,
        path: path.to_owned(),
        webhook_id: text(&head.headers, "webhook-id").map(str::to_owned),
        trust,
        status: status.as_u16(),
        delivery: serde_json::from_slice(&body).ok(),
        body,
    };
    if (receiver.record)(arrival).is_err() {
        return say(StatusCode::INTERNAL_SERVER_ERROR, "it arrived, but could not be recorded");
    }
    if !receiver.manners.delay.is_zero() {
        tokio::time::sleep(receiver.manners.delay).await;
    }
    match refusal {
        Some(reason) => say(status, &format!("not genuine: {reason}")),
        None if status.is_success() => status.into_response(),
        None => say(status, "as this receiver was asked to answer"),
    }
}

fn say(status: StatusCode, why: &str) -> Response {
    (status, Json(json!({ "error": why }))).into_response()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use axum::body::Body;
    use postroad_model::signature::sign;

    use super::*;

    const BODY: &str = "hello";

    fn key(byte: u8) -> SecretKey {
        SecretKey::from_bytes(&[byte; 32]).unwrap()
    }

    fn request(path: &str, key: &SecretKey, seconds: u64) -> Request {
        Request::post(path)
            .header("webhook-id", "msg_1")
            .header("webhook-timestamp", seconds)
            .header("webhook-signature", sign([key], "msg_1", seconds, BODY.as_bytes()))
            .body(Body::from(BODY))
            .unwrap()
    }

    async fn send(receiver: &Arc<Receiver>, request: Request) -> StatusCode {
        receive(State(receiver.clone()), request).await.status()
    }

    type Seen = Arc<Mutex<Vec<Arrival>>>;

    fn recording(manners: Manners) -> (Arc<Receiver>, Seen) {
        let seen = Seen::default();
        let kept = seen.clone();
        let receiver = Receiver::new(manners, move |arrival| {
            kept.lock().unwrap().push(arrival);
            Ok(())
        });
        (receiver, seen)
    }

    #[tokio::test]
    async fn only_what_is_signed_for_the_path_is_genuine() {
        let (receiver, seen) = recording(Manners::GOOD);
        let now = receiver.clock.now_ms() / 1_000;
        assert_eq!(send(&receiver, request("/a", &key(1), now)).await, 200, "nothing to check with");
        receiver.trust(Some("/a"), key(1));
        receiver.trust(Some("/a"), key(2));
        receiver.trust(Some("/b"), key(3));
        for (path, signer, seconds, status) in [
            ("/a", 1, now, 200),
            ("/a", 2, now - 299, 200),
            ("/a", 3, now, 401),
            ("/b", 3, now, 200),
            ("/b", 1, now, 401),
            ("/a", 1, now - 302, 401),
        ] {
            let answered = send(&receiver, request(path, &key(signer), seconds)).await;
            assert_eq!(answered, status, "{path} {signer} {seconds}");
        }
        let unsigned = Request::post("/a").body(Body::from(BODY)).unwrap();
        assert_eq!(send(&receiver, unsigned).await, 401);
        let trusts: Vec<Trust> = seen.lock().unwrap().iter().map(|arrival| arrival.trust.clone()).collect();
        assert_eq!(trusts[0], Trust::Unchecked);
        assert_eq!(trusts[1], Trust::Verified);
        assert_eq!(trusts[3], Trust::Refused("no webhook-signature matches".into()));
        assert_eq!(trusts[6], Trust::Refused("webhook-timestamp is too old".into()));
        assert_eq!(trusts[7], Trust::Refused("it has no webhook-id".into()));
    }

    #[tokio::test]
    async fn it_misbehaves_as_it_was_told() {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let bad = Manners { fail_rate: 0.25, status, delay: Duration::ZERO };
        assert_eq!([0.0, 0.24, 0.25, 0.99].map(|lot| bad.answer(lot).as_u16()), [503, 503, 200, 200]);
        assert_eq!(Manners::GOOD.answer(0.0), 200);
        let (receiver, seen) = recording(Manners { fail_rate: 1.0, ..bad });
        assert_eq!(send(&receiver, request("/", &key(1), 0)).await, 503);
        assert_eq!(seen.lock().unwrap()[0].status, 503);
        let get = Request::get("/").body(Body::empty()).unwrap();
        assert_eq!(send(&receiver, get).await, 405);
        assert_eq!(seen.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn what_cannot_be_recorded_is_not_accepted() {
        let receiver = Receiver::new(Manners::GOOD, |_| Err(io::Error::other("full")));
        assert_eq!(send(&receiver, request("/", &key(1), 0)).await, 500);
    }
}
