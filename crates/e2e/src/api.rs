//! An HTTP client for the API and for the daemons' own pages.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The most that a call may take, connecting included.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// One daemon's HTTP address, with the connections to it that are idle.
#[derive(Debug)]
pub struct Api {
    addr: SocketAddr,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

/// What was answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON; null where it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON, if the status is the one expected.
    pub fn expect(&self, status: u16) -> Result<Value> {
        ensure!(self.status == status, "expected {status}, got {}: {}", self.status, self.text());
        Ok(self.json())
    }
}

impl Api {
    /// A client for the daemon at that address.
    pub fn new(addr: SocketAddr) -> Self {
        Self { addr, idle: Mutex::default() }
    }

    /// `GET`.
    pub async fn get(&self, path: &str) -> Result<Answer> {
        self.call(Method::GET, path, &[], Bytes::new()).await
    }

    /// `POST` of JSON.
    pub async fn post(&self, path: &str, body: impl Into<Bytes>) -> Result<Answer> {
        self.call(Method::POST, path, &[("content-type", "application/json")], body.into()).await
    }

    /// One call. An error means that it is unknown whether it took place. A connection that was idle and is
    /// found closed is replaced once, if the request had not been sent.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Answer> {
        let exchange = async {
            let mut connection = self.connection().await?;
            let mut request =
                Request::builder().method(method).uri(path).header("host", self.addr.to_string());
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let response = connection.send_request(request.body(Full::new(body))?).await?;
            let (head, body) = response.into_parts();
            let body = body.collect().await?.to_bytes();
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            anyhow::Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
        };
        match timeout(CALL_TIMEOUT, exchange).await {
            Ok(answer) => answer.with_context(|| format!("{path} at {}", self.addr)),
            Err(_) => bail!("{path} at {}: no answer in {CALL_TIMEOUT:?}", self.addr),
        }
    }

    async fn connection(&self) -> Result<SendRequest<Full<Bytes>>> {
        loop {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(mut idle) = idle else { break };
            if idle.ready().await.is_ok() {
                return Ok(idle);
            }
        }
        let stream = TcpStream::connect(self.addr).await?;
        stream.set_nodelay(true)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        sender.ready().await?;
        Ok(sender)
    }
}
