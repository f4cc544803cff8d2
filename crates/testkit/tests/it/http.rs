//! A raw HTTP/1.1 client, so that a test sees every byte, and a quick one.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How an exchange on one connection ended, and what was read before.
pub(crate) struct Exchange {
    pub(crate) answer: String,
    pub(crate) end: End,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    Closed,
    Reset,
    StillOpen,
    Enough,
}

/// Posts and reads until the connection ends, `wait` is over or a megabyte has come.
pub(crate) async fn post(
    addr: SocketAddr,
    path: &str,
    headers: &str,
    body: &str,
    wait: Duration,
) -> Exchange {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let length = body.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let reading = async {
        loop {
            match stream.read_buf(&mut answer).await {
                Ok(0) => return End::Closed,
                Ok(_) if answer.len() > 1_000_000 => return End::Enough,
                Ok(_) => {}
                Err(_) => return End::Reset,
            }
        }
    };
    let end = timeout(wait, reading).await.unwrap_or(End::StillOpen);
    Exchange { answer: String::from_utf8(answer).unwrap(), end }
}

/// A kept-alive connection for many requests.
pub(crate) struct Client {
    sender: http1::SendRequest<Full<Bytes>>,
}

impl Client {
    pub(crate) async fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self { sender }
    }

    pub(crate) async fn post(
        &mut self,
        path: &str,
        id: &str,
        body: Bytes,
    ) -> hyper::Result<Response<Incoming>> {
        let request = Request::post(path).header("host", "test").header("webhook-id", id);
        self.sender.ready().await?;
        self.sender.send_request(request.body(Full::new(body)).unwrap()).await
    }
}
