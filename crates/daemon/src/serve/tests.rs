use axum::{
    body::Body,
    extract::Request,
    response::IntoResponse,
    routing::{get, post},
};
use bytes::Bytes;
use futures_util::stream;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use super::*;
use crate::body::{BodyLimits, read_body};

/// Longer than anything here should take.
const LONG: Duration = Duration::from_secs(5);
const SHORT: Duration = Duration::from_millis(200);

struct Server {
    address: std::net::SocketAddr,
    stop: Stop,
    task: JoinHandle<Ended>,
    metrics: HttpMetrics,
}

fn serving() -> Serving {
    Serving {
        header_timeout: SHORT,
        idle_timeout: SHORT * 8,
        write_timeout: SHORT,
        ..Serving::new(&HttpConfig::default(), LONG)
    }
}

async fn start(serving: Serving) -> Server {
    async fn upload(request: Request) -> impl IntoResponse {
        let limits = BodyLimits { patience: SHORT, ..BodyLimits::of(1_000_000) };
        match read_body(request.into_body(), &limits).await {
            Ok(body) => (axum::http::StatusCode::OK, body.len().to_string()),
            Err(error) => (error.status(), error.to_string()),
        }
    }
    async fn endless() -> Body {
        let chunk = Bytes::from(vec![b'x'; 64 * 1_024]);
        Body::from_stream(stream::repeat_with(move || Ok::<_, io::Error>(chunk.clone())))
    }
    let app = Router::new()
        .route("/", get(|| async { "hello" }))
        .route("/slow", get(|| async { sleep(SHORT * 3).await }))
        .route("/stuck", get(std::future::pending::<()>))
        .route("/panic", get(|| async { panic!("on purpose") as () }))
        .route("/upload", post(upload))
        .route("/endless", get(endless));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, stop, metrics) = (listener.local_addr().unwrap(), Stop::new(), serving.metrics.clone());
    let stopped = stop.clone();
    let task = tokio::spawn(async move { serve(listener, app, serving, &stopped).await });
    Server { address, stop, task, metrics }
}

impl Server {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn open(&self, expected: i64) {
        let seen = async {
            while self.metrics.connections.get() != expected {
                sleep(Duration::from_millis(5)).await;
            }
        };
        if timeout(LONG, seen).await.is_err() {
            panic!("{} connections are open, not {expected}", self.metrics.connections.get());
        }
    }
}

async fn send(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
}

/// Reads until what came contains the text.
async fn read_until(stream: &mut TcpStream, text: &str) -> String {
    let mut seen = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&seen).contains(text) {
            let mut buf = [0; 1_024];
            match stream.read(&mut buf).await.unwrap() {
                0 => panic!("ended after {:?}", String::from_utf8_lossy(&seen)),
                n => seen.extend_from_slice(&buf[..n]),
            }
        }
    };
    timeout(LONG, reading).await.expect("it comes in time");
    String::from_utf8(seen).unwrap()
}

/// Reads to the end, however it ends.
async fn read_all(stream: &mut TcpStream) -> String {
    let mut seen = Vec::new();
    let _ = timeout(LONG, stream.read_to_end(&mut seen)).await.expect("it ends in time");
    String::from_utf8_lossy(&seen).into_owned()
}

/// How long until the server ends the connection.
async fn until_cut(stream: &mut TcpStream) -> Duration {
    let start = Instant::now();
    read_all(stream).await;
    start.elapsed()
}

const GET: &str = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";

#[tokio::test]
async fn requests_are_answered_on_one_connection() {
    let server = start(serving()).await;
    let mut stream = server.connect().await;
    for _ in 0..3 {
        send(&mut stream, GET).await;
        let answer = read_until(&mut stream, "hello").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }
    send(&mut stream, &GET.repeat(5)).await;
    let mut answers = String::new();
    while answers.matches("hello").count() < 5 {
        answers += &read_until(&mut stream, "hello").await;
    }
    assert_eq!(server.metrics.accepted.get(), 1);
}

#[tokio::test]
async fn clients_that_stall_in_the_head_are_cut_off() {
    let server = start(serving()).await;
    for start in ["", "GET / HT", "GET / HTTP/1.1\r\nhost: x\r\n"] {
        let mut stream = server.connect().await;
        send(&mut stream, start).await;
        let took = until_cut(&mut stream).await;
        assert!((SHORT..LONG).contains(&took), "{start:?} was cut after {took:?}");
    }
}

#[tokio::test]
async fn a_byte_now_and_then_does_not_buy_time() {
    let server = start(serving()).await;
    let mut stream = server.connect().await;
    // The second request on a connection is held to the same pace as the first.
    send(&mut stream, GET).await;
    read_until(&mut stream, "hello").await;
    let start = Instant::now();
    let drip = async {
        for byte in GET.bytes().chain(std::iter::repeat(b'x')) {
            if stream.write_all(&[byte]).await.is_err() {
                break;
            }
            sleep(SHORT / 10).await;
        }
    };
    timeout(LONG, drip).await.expect("it is cut off");
    assert!(start.elapsed() >= SHORT, "cut after {:?}", start.elapsed());
}

#[tokio::test]
async fn idle_connections_live_longer_than_a_head_may_take() {
    let server = start(serving()).await;
    let mut stream = server.connect().await;
    for _ in 0..3 {
        send(&mut stream, GET).await;
        read_until(&mut stream, "hello").await;
        sleep(SHORT * 3 / 2).await;
    }
    send(&mut stream, GET).await;
    read_until(&mut stream, "hello").await;
    let took = until_cut(&mut stream).await;
    assert!((SHORT * 8..LONG).contains(&took), "cut after {took:?}");
    server.open(0).await;
}

#[tokio::test]
async fn an_answer_may_take_longer_than_any_timeout() {
    let server = start(serving()).await;
    let mut stream = server.connect().await;
    send(&mut stream, "GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await;
    read_until(&mut stream, "200 OK").await;
    sleep(SHORT * 2).await;
    send(&mut stream, GET).await;
    read_until(&mut stream, "hello").await;
}

#[tokio::test]
async fn a_client_that_takes_no_answer_is_cut_off() {
    let server = start(serving()).await;
    let mut stream = server.connect().await;
    send(&mut stream, "GET /endless HTTP/1.1\r\nhost: x\r\n\r\n").await;
    read_until(&mut stream, "200 OK").await;
    server.open(0).await;
}

#[tokio::test]
async fn a_refused_upload_can_read_its_refusal() {
    let server = start(serving()).await;
    let stream = server.connect().await;
    let (mut reader, mut writer) = stream.into_split();
    let sender = tokio::spawn(async move {
        writer
            .write_all(b"POST /upload HTTP/1.1\r\nhost: x\r\ncontent-length: 8000000\r\n\r\n")
            .await
            .unwrap();
        for _ in 0..80 {
            if writer.write_all(&[b'x'; 100_000]).await.is_err() {
                break;
            }
        }
        writer
    });
    // Whoever reads only after having sent everything must still find the answer.
    let _writer = timeout(LONG, sender).await.unwrap().unwrap();
    let mut answer = String::new();
    timeout(LONG, reader.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[tokio::test]
async fn a_body_that_stalls_is_refused() {
    let server = start(serving()).await;
    let mut stream = server.connect().await;
    send(&mut stream, "POST /upload HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n12345").await;
    let answer = read_all(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}

#[tokio::test]
async fn malformed_requests_are_refused() {
    let server = start(serving()).await;
    #[rustfmt::skip]
    let table = [
        ("POST /upload HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n12345", "400"),
        ("POST /upload HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nhost: x\r\na: b\r\n folded\r\n\r\n", "400"),
        ("nonsense\r\n\r\n", "400"),
        (&format!("GET / HTTP/1.1\r\nhost: x\r\na: {}\r\n\r\n", "y".repeat(40_000)), "431"),
        (&format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(101)), "431"),
    ];
    for (request, status) in table {
        let mut stream = server.connect().await;
        send(&mut stream, request).await;
        let answer = read_all(&mut stream).await;
        let shown = request.get(..80).unwrap_or(request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{shown:?}: {answer}");
    }
}

/// hyper takes the chunks and ends the connection (RFC 9112, section 6.3), so what was smuggled is dropped.
#[tokio::test]
async fn nothing_is_smuggled_behind_two_lengths() {
    let server = start(serving()).await;
    let lengths = ["content-length: 50", "transfer-encoding: chunked"];
    for (first, second) in [(0, 1), (1, 0)] {
        let mut stream = server.connect().await;
        let (first, second) = (lengths[first], lengths[second]);
        send(
            &mut stream,
            &format!("POST /upload HTTP/1.1\r\nhost: x\r\n{first}\r\n{second}\r\n\r\n0\r\n\r\n{GET}"),
        )
        .await;
        let answers = read_all(&mut stream).await;
        assert_eq!(answers.matches("HTTP/1.1").count(), 1, "{answers}");
        assert!(answers.contains("connection: close"), "{answers}");
    }
}

#[tokio::test]
async fn a_panic_ends_one_connection_only() {
    let server = start(serving()).await;
    let (mut doomed, mut other) = (server.connect().await, server.connect().await);
    send(&mut doomed, "GET /panic HTTP/1.1\r\nhost: x\r\n\r\n").await;
    read_all(&mut doomed).await;
    send(&mut other, GET).await;
    read_until(&mut other, "hello").await;
    server.open(1).await;
}

#[tokio::test]
async fn further_connections_wait_for_a_place() {
    let server = start(Serving { max_connections: 2, header_timeout: LONG, ..serving() }).await;
    let (one, mut two, mut three) = (server.connect().await, server.connect().await, server.connect().await);
    server.open(2).await;
    send(&mut two, GET).await;
    read_until(&mut two, "hello").await;
    send(&mut three, GET).await;
    let mut byte = [0];
    assert!(timeout(SHORT / 2, three.peek(&mut byte)).await.is_err(), "it is not served yet");
    drop(one);
    read_until(&mut three, "hello").await;
    server.open(2).await;
}

#[tokio::test]
async fn one_address_has_only_so_many_places() {
    let server = start(Serving { max_connections_per_address: 1, idle_timeout: LONG, ..serving() }).await;
    let mut one = server.connect().await;
    send(&mut one, GET).await;
    read_until(&mut one, "hello").await;
    let mut two = server.connect().await;
    assert_eq!(read_all(&mut two).await, "");
    drop(one);
    server.open(0).await;
    let mut three = server.connect().await;
    send(&mut three, GET).await;
    read_until(&mut three, "hello").await;
    assert_eq!(server.metrics.refused.get(), 1);
}

#[tokio::test]
async fn stopping_answers_what_is_in_flight_and_closes_what_is_idle() {
    let server = start(Serving { idle_timeout: LONG * 2, header_timeout: LONG * 2, ..serving() }).await;
    let (mut idle, mut busy, mut fresh) =
        (server.connect().await, server.connect().await, server.connect().await);
    send(&mut idle, GET).await;
    read_until(&mut idle, "hello").await;
    send(&mut busy, "GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await;
    server.open(3).await;
    sleep(SHORT / 4).await;
    server.stop.request();
    assert!(until_cut(&mut idle).await < LONG, "an idle connection is closed at once");
    assert!(until_cut(&mut fresh).await < LONG, "and so is one that never asked");
    let answer = read_all(&mut busy).await;
    assert!(answer.contains("200 OK") && answer.contains("connection: close"), "{answer}");
    assert_eq!(timeout(LONG, server.task).await.unwrap().unwrap(), Ended { cut: 0 });
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn stopping_has_a_deadline() {
    let server = start(Serving { grace: SHORT, ..serving() }).await;
    let mut stuck = server.connect().await;
    send(&mut stuck, "GET /stuck HTTP/1.1\r\nhost: x\r\n\r\n").await;
    server.open(1).await;
    sleep(SHORT / 4).await;
    server.stop.request();
    let start = Instant::now();
    assert_eq!(timeout(LONG, server.task).await.unwrap().unwrap(), Ended { cut: 1 });
    assert!(start.elapsed() >= SHORT);
    assert_eq!(read_all(&mut stuck).await, "");
    assert_eq!(server.metrics.connections.get(), 0);
}

#[test]
fn running_out_of_descriptors_waits_longer_each_time() {
    let mut trouble = Trouble::default();
    let too_many = || io::Error::from_raw_os_error(24);
    let pauses: Vec<_> = (0..8).map(|_| trouble.pause_after(&too_many()).unwrap().as_millis()).collect();
    assert_eq!(pauses, [20, 40, 80, 160, 320, 640, 1_000, 1_000]);
    assert_eq!(trouble.pause_after(&io::ErrorKind::ConnectionAborted.into()), None);
    trouble.is_over();
    assert_eq!(trouble.pause_after(&too_many()), Some(Trouble::FIRST));
}
