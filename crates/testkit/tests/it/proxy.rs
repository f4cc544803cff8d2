//! A network does to real connections what it was told.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use postroad_testkit::proxy::{Direction, Proxy};
use postroad_testkit::redis::PrivateRedis;
use postroad_testkit::wait::eventually;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(5);
const AWHILE: Duration = Duration::from_millis(150);

/// A server that sends back what it gets.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    addr
}

async fn proxied_echo() -> (Proxy, TcpStream) {
    let proxy = Proxy::start(echo().await).await.unwrap();
    let client = TcpStream::connect(proxy.addr()).await.unwrap();
    (proxy, client)
}

async fn say(client: &mut TcpStream, text: &str) -> io::Result<String> {
    client.write_all(text.as_bytes()).await?;
    hear(client, text.len()).await
}

async fn hear(client: &mut TcpStream, length: usize) -> io::Result<String> {
    let mut heard = vec![0; length];
    client.read_exact(&mut heard).await?;
    Ok(String::from_utf8(heard).unwrap())
}

#[tokio::test]
async fn without_faults_all_passes_both_ways_with_its_end() {
    let (proxy, mut client) = proxied_echo().await;
    let sent: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[n as usize % 4]).collect();
    let (mut from, mut to) = client.split();
    let mut heard = Vec::new();
    let (sending, reading) = tokio::join!(
        async {
            to.write_all(&sent).await?;
            to.shutdown().await
        },
        from.read_to_end(&mut heard)
    );
    sending.unwrap();
    reading.unwrap();
    assert!(heard == sent);
    assert_eq!(
        (proxy.passed(Direction::ToServer), proxy.passed(Direction::ToClient)),
        (3_000_000, 3_000_000)
    );
    let closed = eventually(SOON, "the connection's end", async || match proxy.connections() {
        0 => Ok(()),
        open => Err(format!("{open} open")),
    });
    closed.await.unwrap();
}

#[tokio::test]
async fn a_delay_delays_and_ends() {
    let (proxy, mut client) = proxied_echo().await;
    proxy.delay(AWHILE);
    let begin = Instant::now();
    assert_eq!(say(&mut client, "hello").await.unwrap(), "hello");
    let took = begin.elapsed();
    assert!(took >= AWHILE * 2 && took < AWHILE * 6, "{took:?}");
    proxy.delay(Duration::from_secs(60));
    client.write_all(b"late").await.unwrap();
    assert!(timeout(AWHILE, hear(&mut client, 4)).await.is_err());
    proxy.heal().await.unwrap();
    assert_eq!(timeout(SOON, hear(&mut client, 4)).await.unwrap().unwrap(), "late");
}

#[tokio::test]
async fn a_delay_does_not_limit_how_many_small_messages_pass() {
    let (proxy, mut client) = proxied_echo().await;
    client.set_nodelay(true).unwrap();
    proxy.delay(AWHILE);
    let begin = Instant::now();
    for _ in 0..2_000 {
        client.write_all(b"x").await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(hear(&mut client, 2_000).await.unwrap().len(), 2_000);
    let took = begin.elapsed();
    assert!(took < AWHILE * 8, "{took:?}");
}

#[tokio::test]
async fn a_cut_resets_and_refuses_until_it_heals() {
    let (proxy, mut client) = proxied_echo().await;
    assert_eq!(say(&mut client, "a").await.unwrap(), "a");
    assert_eq!(proxy.connections(), 1);
    proxy.cut().await;
    assert_eq!(proxy.connections(), 0);
    let error = client.read(&mut [0; 1]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    let error = TcpStream::connect(proxy.addr()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    proxy.heal().await.unwrap();
    let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
    assert_eq!(say(&mut client, "b").await.unwrap(), "b");
    proxy.reset_connections();
    assert!(say(&mut client, "c").await.is_err());
    let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
    assert_eq!(say(&mut client, "d").await.unwrap(), "d");
}

#[tokio::test]
async fn frozen_it_accepts_in_silence_and_keeps_the_bytes() {
    let (proxy, mut old) = proxied_echo().await;
    assert_eq!(say(&mut old, "a").await.unwrap(), "a");
    proxy.freeze();
    let mut new = TcpStream::connect(proxy.addr()).await.unwrap();
    old.write_all(b"old").await.unwrap();
    new.write_all(b"new").await.unwrap();
    new.shutdown().await.unwrap();
    assert!(timeout(AWHILE, hear(&mut old, 3)).await.is_err());
    assert!(timeout(AWHILE, hear(&mut new, 3)).await.is_err());
    proxy.heal().await.unwrap();
    assert_eq!(hear(&mut old, 3).await.unwrap(), "old");
    assert_eq!(hear(&mut new, 3).await.unwrap(), "new");
    assert_eq!(new.read(&mut [0; 1]).await.unwrap(), 0, "the end passes too");
}

#[tokio::test]
async fn a_frozen_line_holds_a_bounded_lot() {
    let (proxy, mut client) = proxied_echo().await;
    proxy.freeze();
    let flood = async {
        let mut sent = 0;
        loop {
            sent += client.write(&[0; 65_536]).await.unwrap();
            if sent > 64 * 1024 * 1024 {
                return;
            }
        }
    };
    assert!(timeout(Duration::from_secs(1), flood).await.is_err(), "64 MiB went into a frozen line");
}

#[tokio::test]
async fn half_open_loses_one_direction_and_can_t_be_mended() {
    let (proxy, mut client) = proxied_echo().await;
    assert_eq!(say(&mut client, "a").await.unwrap(), "a");
    proxy.half_open(Direction::ToClient);
    assert!(timeout(AWHILE, say(&mut client, "b")).await.is_err());
    assert_eq!(proxy.passed(Direction::ToServer), 2, "the server still hears");
    assert_eq!(proxy.passed(Direction::ToClient), 1);
    let mut quiet = TcpStream::connect(proxy.addr()).await.unwrap();
    proxy.heal().await.unwrap();
    let error = timeout(SOON, client.read(&mut [0; 1])).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(say(&mut quiet, "c").await.unwrap(), "c", "one that lost nothing lives on");

    // An end that is lost leaves the server with an open connection.
    proxy.half_open(Direction::ToServer);
    drop(quiet);
    tokio::time::sleep(AWHILE).await;
    assert_eq!(proxy.connections(), 1);
    proxy.heal().await.unwrap();
    let closed = eventually(SOON, "the connection's end", async || match proxy.connections() {
        0 => Ok(()),
        open => Err(format!("{open} open")),
    });
    closed.await.unwrap();
}

#[tokio::test]
async fn a_throttle_throttles_and_ends() {
    let (proxy, mut client) = proxied_echo().await;
    proxy.throttle(10_000);
    let begin = Instant::now();
    assert_eq!(say(&mut client, &"x".repeat(2_000)).await.unwrap().len(), 2_000);
    let took = begin.elapsed();
    assert!(took > Duration::from_millis(140) && took < Duration::from_secs(2), "{took:?}");
    proxy.throttle(1);
    client.write_all(&[b'x'; 1_000]).await.unwrap();
    assert!(timeout(AWHILE, hear(&mut client, 3)).await.is_err());
    proxy.heal().await.unwrap();
    assert!(timeout(SOON, hear(&mut client, 900)).await.is_ok());
}

#[tokio::test]
async fn a_cut_after_bytes_comes_after_exactly_those() {
    let (proxy, mut client) = proxied_echo().await;
    assert_eq!(say(&mut client, "before").await.unwrap(), "before");
    proxy.cut_after_bytes(Direction::ToClient, 4);
    assert!(proxy.wait_until_cut(Duration::from_millis(10)).await.is_err());
    client.write_all(b"abcdef").await.unwrap();
    let mut heard = Vec::new();
    assert!(client.read_to_end(&mut heard).await.is_err());
    assert_eq!(heard, b"abcd");
    proxy.wait_until_cut(SOON).await.unwrap();
    assert!(TcpStream::connect(proxy.addr()).await.is_err());
    proxy.heal().await.unwrap();
    let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
    assert_eq!(say(&mut client, "unlimited").await.unwrap(), "unlimited");
    proxy.cut_after_bytes(Direction::ToServer, 0);
    proxy.wait_until_cut(SOON).await.unwrap();
}

#[tokio::test]
async fn a_dead_target_resets() {
    let redis = PrivateRedis::start().await.unwrap();
    let proxy = Proxy::start(redis.addr()).await.unwrap();
    assert_eq!(redis.url_through(proxy.addr()), format!("redis://{}", proxy.addr()));
    let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
    client.write_all(b"PING\r\n").await.unwrap();
    assert_eq!(hear(&mut client, 7).await.unwrap(), "+PONG\r\n");
    redis.kill().unwrap();
    assert_eq!(client.read(&mut [0; 1]).await.unwrap_or(0), 0);
    let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
    assert!(client.read(&mut [0; 1]).await.is_err());
    redis.restart().await.unwrap();
    let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
    client.write_all(b"PING\r\n").await.unwrap();
    assert_eq!(hear(&mut client, 7).await.unwrap(), "+PONG\r\n");
}

#[tokio::test]
async fn dropping_it_ends_all() {
    let (proxy, mut client) = proxied_echo().await;
    assert_eq!(say(&mut client, "a").await.unwrap(), "a");
    let addr = proxy.addr();
    drop(proxy);
    let end = timeout(SOON, client.read(&mut [0; 1])).await.unwrap();
    assert_eq!(end.unwrap_or(0), 0);
    assert!(TcpStream::connect(addr).await.is_err());
}
