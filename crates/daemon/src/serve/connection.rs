//! One connection, from its first byte to its last.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::{Router, body::Body as AxumBody, routing::future::RouteFuture};
use bytes::Bytes;
use hyper::{
    Request, Response,
    body::{Body, Frame, Incoming, SizeHint},
    server::conn::http1,
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{
    Drain,
    paced::{Limits, Paced, Phase, UnderWay},
};

/// The most bytes in a request's head.
const MAX_HEAD_BYTES: usize = 32 * 1_024;

/// Serves one connection until either side ends it.
pub(super) async fn run(stream: TcpStream, app: Router, limits: Arc<Limits>, drain: Drain) {
    let phase = Phase::new();
    let io = TokioIo::new(Paced::new(stream, phase.clone(), limits));
    let connection = http1::Builder::new()
        // `Paced` keeps the time; hyper's own timer would be set anew for every request.
        .header_read_timeout(None)
        .max_header_size(MAX_HEAD_BYTES)
        .serve_connection(io, Entry { app, phase });
    let mut connection = pin!(connection);
    let mut woken = pin!(drain.wake.requested());
    let mut is_registered = false;
    let mut is_draining = false;
    let ended = poll_fn(|cx| {
        if !is_draining {
            // Registering once is enough: the waker of a task stays the same. From then on the flag tells.
            if !is_registered {
                is_registered = true;
                is_draining = woken.as_mut().poll(cx).is_ready();
            }
            is_draining |= drain.has_begun();
            if is_draining {
                connection.as_mut().graceful_shutdown();
            }
        }
        connection.as_mut().poll(cx)
    });
    if let Err(error) = ended.await {
        let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        tracing::debug!(%error, cause, "an HTTP connection broke");
    }
}

/// Where requests enter the router.
struct Entry {
    app: Router,
    phase: Phase,
}

impl hyper::service::Service<Request<Incoming>> for Entry {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, request: Request<Incoming>) -> Answering {
        let under_way = self.phase.request(!request.body().is_end_stream());
        let inner = tower::Service::call(&mut self.app.clone(), request);
        Answering { inner, under_way: Some(under_way) }
    }
}

/// The router's answer, on its way.
struct Answering {
    inner: RouteFuture<Infallible>,
    under_way: Option<UnderWay>,
}

impl Future for Answering {
    type Output = Result<Response<Answer>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let response = match ready!(Pin::new(&mut self.inner).poll(cx)) {
            Ok(response) => response,
            Err(never) => match never {},
        };
        let under_way = self.under_way.take();
        Poll::Ready(Ok(response.map(|body| Answer { body, _under_way: under_way })))
    }
}

/// An answer's body. When hyper drops it, the request is over.
struct Answer {
    body: AxumBody,
    _under_way: Option<UnderWay>,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
