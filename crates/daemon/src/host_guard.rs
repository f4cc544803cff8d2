//! Keeps web pages out of a daemon that asks for no credentials.
//!
//! Without authentication, a daemon listens on loopback only ([`require_loopback`]). That alone does not
//! keep out a web page in the browser of whoever runs it: the page may post to `http://127.0.0.1:8080`, and
//! by rebinding its own name to 127.0.0.1 may even read. A browser cannot help but say whom it thinks it
//! talks to (`Host`) and for whom (`Origin`), so [`HostGuard`] refuses requests where either is not local.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    net::{IpAddr, SocketAddr},
    task::{Context, Poll},
};

use axum::{
    body::Body,
    http::{HeaderValue, Request, Response, StatusCode, header},
};
use bytes::Bytes;
use futures_util::future::Either;
use tower::{Layer, Service};

/// An address that others than this machine can reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} can be reached from other machines")]
pub struct NotLoopback(pub SocketAddr);

/// Refuses to listen where others than this machine can reach.
pub fn require_loopback(listen: SocketAddr) -> Result<(), NotLoopback> {
    if is_loopback(listen.ip()) { Ok(()) } else { Err(NotLoopback(listen)) }
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// A layer that answers 403 to requests from elsewhere, with a JSON body of the caller's.
#[derive(Debug, Clone)]
pub struct HostGuard {
    refusal: Bytes,
}

impl HostGuard {
    /// Refuses with this JSON body.
    pub fn new(refusal: impl Into<Bytes>) -> Self {
        Self { refusal: refusal.into() }
    }
}

impl<S> Layer<S> for HostGuard {
    type Service = Guarded<S>;
    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { guard: self.clone(), inner }
    }
}

/// A service behind a [`HostGuard`].
#[derive(Debug, Clone)]
pub struct Guarded<S> {
    guard: HostGuard,
    inner: S,
}

impl<S, B> Service<Request<B>> for Guarded<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<S::Future, Ready<Result<Response<Body>, Infallible>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if is_local(&request) {
            return Either::Left(self.inner.call(request));
        }
        let mut response = Response::new(Body::from(self.guard.refusal.clone()));
        *response.status_mut() = StatusCode::FORBIDDEN;
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        Either::Right(ready(Ok(response)))
    }
}

/// Whether the request is meant for this machine and, as far as it says, comes from a page of this machine.
/// Any port will do for a page: what runs locally is the developer's own.
fn is_local<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    let mut hosts = headers.get_all(header::HOST).iter().peekable();
    let named = hosts.peek().is_some() || request.uri().authority().is_some();
    named
        && hosts.all(|host| host.to_str().is_ok_and(is_local_authority))
        && request.uri().authority().is_none_or(|authority| is_local_authority(authority.as_str()))
        && headers.get_all(header::ORIGIN).iter().all(is_local_origin)
}

fn is_local_origin(origin: &HeaderValue) -> bool {
    let text = origin.to_str().unwrap_or_default();
    text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")).is_some_and(is_local_authority)
}

/// `localhost`, `127.x.y.z` or `[::1]`, with or without a port.
fn is_local_authority(authority: &str) -> bool {
    let (host, port) = match authority.rfind(':') {
        Some(colon) if !authority.ends_with(']') => (&authority[..colon], &authority[colon + 1..]),
        _ => (authority, ""),
    };
    let address = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(v6) => v6.parse().map(IpAddr::V6),
        None => host.parse().map(IpAddr::V4),
    };
    port.bytes().all(|b| b.is_ascii_digit())
        && (host.eq_ignore_ascii_case("localhost") || address.is_ok_and(is_loopback))
}

#[cfg(test)]
mod tests {
    use axum::{Router, http::Uri, routing::post};
    use tower::ServiceExt;

    use super::*;

    #[test]
    fn only_loopback_is_listened_at() {
        for good in ["127.0.0.1:0", "127.9.9.9:80", "[::1]:80", "[::ffff:127.0.0.1]:80"] {
            assert_eq!(require_loopback(good.parse().unwrap()), Ok(()), "{good}");
        }
        for bad in ["0.0.0.0:80", "[::]:80", "192.168.0.1:80", "[::ffff:10.0.0.1]:80"] {
            let address = bad.parse().unwrap();
            assert_eq!(require_loopback(address), Err(NotLoopback(address)));
        }
    }

    #[tokio::test]
    async fn requests_from_elsewhere_are_refused() {
        let app = Router::new()
            .route("/", post(|| async { "in" }))
            .layer(HostGuard::new(r#"{"error_code":"foreign_host"}"#));
        // Host, Origin, whether it may pass.
        let table: &[(&[&str], &[&str], bool)] = &[
            (&["localhost"], &[], true),
            (&["LocalHost:8080"], &[], true),
            (&["127.0.0.1:8080"], &["http://127.0.0.1:8080"], true),
            (&["127.1.2.3"], &["http://localhost:3000"], true),
            (&["[::1]"], &["https://[::1]"], true),
            (&["[::1]:8080"], &[], true),
            (&[], &[], false),
            (&[""], &[], false),
            (&["evil.example"], &[], false),
            (&["evil.example:8080"], &["http://localhost"], false),
            (&["127.0.0.1.evil.example"], &[], false),
            (&["localhost.evil.example"], &[], false),
            (&["localhost@evil.example"], &[], false),
            (&["localhost:80@evil.example"], &[], false),
            (&["evil.example#localhost"], &[], false),
            (&["127.0.0.1", "evil.example"], &[], false),
            (&["0.0.0.0:8080"], &[], false),
            (&["192.168.0.1"], &[], false),
            (&["[::1"], &[], false),
            (&["::1"], &[], false),
            (&["localhost"], &["http://evil.example"], false),
            (&["localhost"], &["http://localhost", "http://evil.example"], false),
            (&["localhost"], &["null"], false),
            (&["localhost"], &[""], false),
            (&["localhost"], &["file://"], false),
            (&["localhost"], &["http://localhost.evil.example"], false),
        ];
        for (hosts, origins, passes) in table {
            let mut request = Request::post("/");
            for host in *hosts {
                request = request.header("host", *host);
            }
            for origin in *origins {
                request = request.header("origin", *origin);
            }
            let response = app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
            let expected = if *passes { StatusCode::OK } else { StatusCode::FORBIDDEN };
            assert_eq!(response.status(), expected, "host {hosts:?}, origin {origins:?}");
        }
    }

    #[tokio::test]
    async fn an_absolute_target_counts_as_a_host() {
        let app = Router::new().route("/", post(|| async {})).layer(HostGuard::new("{}"));
        for (target, passes) in [("http://localhost/", true), ("http://evil.example/", false)] {
            let uri: Uri = target.parse().unwrap();
            for request in [Request::post(uri.clone()), Request::post(uri).header("host", "localhost")] {
                let response = app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
                assert_eq!(response.status() == StatusCode::OK, passes, "{target}");
            }
        }
    }

    #[tokio::test]
    async fn a_refusal_carries_the_callers_json() {
        let app = Router::<()>::new().layer(HostGuard::new(r#"{"error":"no"}"#));
        let app = app.fallback(|| async {});
        let guarded = Router::new().fallback_service(HostGuard::new(r#"{"error":"no"}"#).layer(app));
        let response = guarded.oneshot(Request::get("/").body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.headers()["content-type"], "application/json");
        let body = axum::body::to_bytes(response.into_body(), 100).await.unwrap();
        assert_eq!(&body[..], br#"{"error":"no"}"#);
    }
}
