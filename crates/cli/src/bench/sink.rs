//! The sink: a subscriber in a process of its own that answers at once, or after a while, and remembers when
//! what arrived.
//!
//! Messages carry `"sent_us":<microseconds since 1970>`; the difference to their arrival is their latency.
//! Any path counts for itself: `/x?delay_ms=20` answers late, `/hang…` never.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;

/// What arrived on a path.
#[derive(Default)]
struct Arrivals {
    count: u64,
    latencies_us: Vec<u64>,
    first_us: u64,
    last_us: u64,
}

type All = Arc<Mutex<HashMap<String, Arrivals>>>;

/// Microseconds since the Unix epoch.
pub fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Serves for ever. Prints its address on the first line of its standard output.
pub async fn serve() -> anyhow::Result<()> {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    println!("{}", listener.local_addr()?);
    let all = All::default();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let all = Arc::clone(&all);
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(Arc::clone(&all), request));
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(all: All, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    if path == "/_stats" {
        return Ok(Response::new(Full::new(stats(&all).into())));
    }
    if path == "/_counts" {
        return Ok(Response::new(Full::new(counts(&all).into())));
    }
    if path == "/_reset" {
        all.lock().unwrap_or_else(PoisonError::into_inner).clear();
        return Ok(Response::new(Full::default()));
    }
    let delay = request
        .uri()
        .query()
        .and_then(|query| query.strip_prefix("delay_ms="))
        .and_then(|ms| ms.parse().ok())
        .map(Duration::from_millis);
    let body =
        request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    note(&all, &path, &body);
    if path.starts_with("/hang") {
        tokio::time::sleep(Duration::from_secs(3_600)).await;
    }
    if let Some(delay) = delay {
        tokio::time::sleep(delay).await;
    }
    Ok(Response::new(Full::default()))
}

fn note(all: &All, path: &str, body: &[u8]) {
    let now = now_us();
    let sent = sent_us(body);
    let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
    let arrivals = match all.get_mut(path) {
        Some(arrivals) => arrivals,
        None => all.entry(path.to_owned()).or_default(),
    };
    if arrivals.count == 0 {
        arrivals.first_us = now;
    }
    arrivals.count += 1;
    arrivals.last_us = now;
    arrivals.latencies_us.extend(sent.map(|sent| now.saturating_sub(sent)));
}

fn sent_us(body: &[u8]) -> Option<u64> {
    const MARK: &[u8] = b"\"sent_us\":";
    let at = body.windows(MARK.len()).position(|window| window == MARK)? + MARK.len();
    let digits = body[at..].iter().take_while(|byte| byte.is_ascii_digit());
    Some(digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

fn stats(all: &All) -> String {
    let all = all.lock().unwrap_or_else(PoisonError::into_inner);
    let paths: serde_json::Map<String, serde_json::Value> = all
        .iter()
        .map(|(path, arrivals)| {
            let seen = json!({
                "count": arrivals.count,
                "first_us": arrivals.first_us,
                "last_us": arrivals.last_us,
                "latencies_us": arrivals.latencies_us,
            });
            (path.clone(), seen)
        })
        .collect();
    serde_json::Value::Object(paths).to_string()
}

fn counts(all: &All) -> String {
    let all = all.lock().unwrap_or_else(PoisonError::into_inner);
    let paths = all.iter().map(|(path, arrivals)| (path.clone(), json!(arrivals.count))).collect();
    serde_json::Value::Object(paths).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_sending_is_found() {
        assert_eq!(sent_us(br#"{"payload":{"sent_us":1234,"x":1}}"#), Some(1234));
        assert_eq!(sent_us(b"{}"), None);
    }
}
