//! The receiver's sockets: accept, read, record, answer.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::answer::Manner;
use super::hook::InFlight;
use super::{Answer, Recorded, Site, hostile};

type Answering = Pin<Box<dyn Future<Output = Result<Response<Full<Bytes>>, NoAnswer>> + Send>>;

/// Serves until it is aborted, and all connections with it.
pub(super) async fn accept(listener: TcpListener, site: Arc<Site>) {
    let mut connections = JoinSet::new();
    let mut accepted = 0;
    loop {
        tokio::select! {
            incoming = listener.accept() => match incoming {
                Ok((stream, _)) => {
                    accepted += 1;
                    connections.spawn(serve(stream, Arc::clone(&site), accepted));
                }
                // No more file descriptors: some connections will close.
                Err(_) => sleep(Duration::from_millis(20)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, site: Arc<Site>, connection: u64) {
    // Without it answers only come later.
    let _ = stream.set_nodelay(true);
    let service =
        service_fn(move |request| -> Answering { Box::pin(answer(request, Arc::clone(&site), connection)) });
    let mut server = http1::Builder::new();
    server.auto_date_header(false).pipeline_flush(true);
    let mut serving = server.serve_connection(TokioIo::new(stream), service);
    if let Err(error) = poll_fn(|context| serving.poll_without_shutdown(context)).await
        && let Some(NoAnswer::Hostile(hostile)) =
            std::error::Error::source(&error).and_then(<dyn std::error::Error>::downcast_ref)
    {
        let hostile = Arc::clone(hostile);
        let stream = serving.into_parts().io.into_inner();
        // It ends by the client's leaving, which is an error of the socket.
        let _ = hostile::give(&hostile.answer, stream).await;
    }
}

async fn answer(
    request: Request<Incoming>,
    site: Arc<Site>,
    connection: u64,
) -> Result<Response<Full<Bytes>>, NoAnswer> {
    let at = Instant::now();
    let (head, body) = request.into_parts();
    let hook = site.hook(head.uri.path());
    let in_flight = hook.arrive();
    let body = body.collect().await.map_err(|_| NoAnswer::HalfARequest)?.to_bytes();
    let request = Recorded {
        at,
        number: hook.number(),
        connection,
        method: head.method,
        path: head.uri.path().to_owned(),
        query: head.uri.query().map(str::to_owned),
        headers: head.headers,
        body_bytes: body.len(),
        body,
        fields: Default::default(),
        answered: OnceLock::new(),
    };
    let answer = hook.answer(&request);
    let request = Arc::new(site.keep.trim(request));
    hook.record(Arc::clone(&request));
    if !answer.delay.is_zero() {
        sleep(answer.delay).await;
    }
    if answer.manner != Manner::Whole {
        return Err(NoAnswer::Hostile(Arc::new(Hostile { answer, _in_flight: in_flight })));
    }
    let _ = request.answered.set(answer.status.as_u16());
    let mut response = Response::new(Full::new(answer.body));
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    Ok(response)
}

/// Why hyper is to write nothing.
#[derive(Debug)]
enum NoAnswer {
    HalfARequest,
    Hostile(Arc<Hostile>),
}

#[derive(Debug)]
struct Hostile {
    answer: Answer,
    _in_flight: InFlight,
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::HalfARequest => "the client left in the middle of its request",
            Self::Hostile(_) => "this request gets no proper answer",
        })
    }
}

impl std::error::Error for NoAnswer {}
