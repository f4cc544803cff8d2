//! Answers that no proper server gives, written straight to the socket.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::Answer;
use super::answer::Manner;

/// A slow sender's step: this often it sends a share, but never less than a byte.
const STEPS_PER_SECOND: u32 = 20;
const CHUNK: [u8; 16 * 1024] = [b'x'; 16 * 1024];
const HEADER_LINE_BYTES: usize = 8 * 1024;
/// Until the client has read the headers, on a busy machine.
const BEFORE_RESET: Duration = Duration::from_millis(20);

/// Gives the answer in its manner, until it is over or the client leaves.
pub(super) async fn give(answer: &Answer, mut stream: TcpStream) -> io::Result<()> {
    match answer.manner {
        Manner::Close => return Ok(()),
        Manner::Hang => return until_the_client_leaves(&mut stream).await,
        Manner::Raw => stream.write_all(&answer.body).await?,
        Manner::ResetAfterHeaders => {
            stream.write_all(&head(answer, Some(1_000_000))).await?;
            sleep(BEFORE_RESET).await;
            return stream.set_zero_linger();
        }
        Manner::EndlessBody => {
            stream.write_all(&head(answer, None)).await?;
            loop {
                stream.write_all(&CHUNK).await?;
            }
        }
        Manner::SlowBody { bytes_per_second } => {
            stream.write_all(&head(answer, None)).await?;
            loop {
                slowly(&mut stream, &CHUNK, bytes_per_second).await?;
            }
        }
        Manner::Whole => stream.write_all(&whole(answer)).await?,
        Manner::SlowHead { bytes_per_second } => {
            slowly(&mut stream, &whole(answer), bytes_per_second).await?;
        }
        Manner::HugeHeaders { bytes } => {
            let mut first = head(answer, Some(0));
            first.truncate(first.len() - b"\r\n".len());
            stream.write_all(&first).await?;
            let mut left = bytes;
            for number in 0.. {
                if left == 0 {
                    break;
                }
                let name = format!("x-filler-{number}: ");
                let filler = left.min(HEADER_LINE_BYTES).saturating_sub(name.len() + 2);
                let line = format!("{name}{}\r\n", "x".repeat(filler));
                stream.write_all(line.as_bytes()).await?;
                left = left.saturating_sub(line.len());
            }
            stream.write_all(b"\r\n").await?;
        }
    }
    stream.shutdown().await?;
    until_the_client_leaves(&mut stream).await
}

fn whole(answer: &Answer) -> Vec<u8> {
    let mut bytes = head(answer, Some(answer.body.len()));
    bytes.extend_from_slice(&answer.body);
    bytes
}

/// Status line and headers. Without a length the body lasts as long as the connection.
fn head(answer: &Answer, length: Option<usize>) -> Vec<u8> {
    let status = answer.status;
    let mut bytes = format!("HTTP/1.1 {status}\r\n").into_bytes();
    for (name, value) in &answer.headers {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    if let Some(length) = length {
        bytes.extend_from_slice(format!("content-length: {length}\r\n").as_bytes());
    }
    bytes.extend_from_slice(b"connection: close\r\n\r\n");
    bytes
}

async fn slowly(stream: &mut TcpStream, bytes: &[u8], bytes_per_second: u32) -> io::Result<()> {
    let share = (bytes_per_second / STEPS_PER_SECOND).max(1);
    let pause = Duration::from_secs_f64(f64::from(share) / f64::from(bytes_per_second));
    for part in bytes.chunks(share as usize) {
        stream.write_all(part).await?;
        sleep(pause).await;
    }
    Ok(())
}

async fn until_the_client_leaves(stream: &mut TcpStream) -> io::Result<()> {
    let mut ignored = [0; 1024];
    while stream.read(&mut ignored).await? > 0 {}
    Ok(())
}
