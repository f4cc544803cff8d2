//! One direction of one connection.
//!
//! One half reads and notes when, the other writes when the faults of the moment let it. What lies between them is
//! bounded in bytes and not in chunks, or a delay would also limit how many small messages a second can pass.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{Semaphore, SemaphorePermit, mpsc, watch};
use tokio::time::{Duration, Instant, sleep_until};

use super::Direction;
use super::faults::Faults;
use super::relay::{Hop, reset};

const CHUNK_BYTES: usize = 16 * 1024;
const HELD_BYTES: usize = 1024 * 1024;
/// A throttled stream goes in this many steps a second, but never less than a byte at a time.
const STEPS_PER_SECOND: u32 = 20;

/// What was read, and when. No bytes: the stream's end.
struct Chunk<'a> {
    at: Instant,
    bytes: Bytes,
    /// Its share of what may be held.
    _room: Option<SemaphorePermit<'a>>,
}

/// Carries bytes until the stream ends and its end is carried too. An error calls for a reset of the connection.
pub(super) async fn pump(
    from: ReadHalf<'_>,
    to: WriteHalf<'_>,
    direction: Direction,
    hop: &Hop,
) -> io::Result<()> {
    let room = Semaphore::new(HELD_BYTES);
    let (sender, chunks) = mpsc::unbounded_channel();
    let outlet = Outlet { to, direction, hop, faults: hop.faults.subscribe(), lossy: false };
    tokio::try_join!(read(from, &room, sender), outlet.write(chunks))?;
    Ok(())
}

async fn read<'a>(
    mut from: ReadHalf<'_>,
    room: &'a Semaphore,
    chunks: mpsc::UnboundedSender<Chunk<'a>>,
) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(CHUNK_BYTES);
        let length = from.read_buf(&mut (&mut buffer).limit(CHUNK_BYTES)).await?;
        let at = Instant::now();
        let wanted = u32::try_from(length).unwrap_or(u32::MAX);
        let chunk = Chunk { at, bytes: buffer.split().freeze(), _room: room.acquire_many(wanted).await.ok() };
        if chunks.send(chunk).is_err() || length == 0 {
            return Ok(());
        }
    }
}

struct Outlet<'a> {
    to: WriteHalf<'a>,
    direction: Direction,
    hop: &'a Hop,
    faults: watch::Receiver<Faults>,
    /// Something was lost here, so that nothing may follow.
    lossy: bool,
}

impl Outlet<'_> {
    async fn write(mut self, mut chunks: mpsc::UnboundedReceiver<Chunk<'_>>) -> io::Result<()> {
        loop {
            tokio::select! {
                biased;
                () = until_found_out(&mut self.faults, self.direction), if self.lossy => return Err(reset()),
                chunk = chunks.recv() => match chunk {
                    Some(chunk) => {
                        if self.pass(chunk).await? {
                            return Ok(());
                        }
                    }
                    // The end was lost.
                    None => {
                        until_found_out(&mut self.faults, self.direction).await;
                        return Err(reset());
                    }
                },
            }
        }
    }

    /// Writes or loses a chunk; true if that was the stream's end and it was passed on.
    async fn pass(&mut self, Chunk { at, mut bytes, _room }: Chunk<'_>) -> io::Result<bool> {
        let end = bytes.is_empty();
        loop {
            let faults = self.faults.borrow_and_update().clone();
            if faults.lost == Some(self.direction) {
                self.lossy = true;
                return Ok(false);
            }
            if self.lossy {
                return Err(reset());
            }
            if faults.frozen {
                let _ = self.faults.changed().await;
            } else if at + faults.delay > Instant::now() {
                self.pause_until(at + faults.delay).await;
            } else if end {
                self.to.shutdown().await?;
                return Ok(true);
            } else if bytes.is_empty() {
                return Ok(false);
            } else {
                self.write_some(&mut bytes, faults.bytes_per_second).await?;
            }
        }
    }

    async fn write_some(&mut self, bytes: &mut Bytes, bytes_per_second: Option<u32>) -> io::Result<()> {
        let step = bytes_per_second.map_or(usize::MAX, |rate| (rate / STEPS_PER_SECOND).max(1) as usize);
        let grant = self.hop.budget.take(self.direction, bytes.len().min(step));
        let begin = Instant::now();
        let part = bytes.split_to(grant.bytes);
        self.to.write_all(&part).await?;
        if grant.last {
            self.hop.begin_cut();
            return Err(reset());
        }
        if let Some(rate) = bytes_per_second {
            let step = u32::try_from(part.len()).unwrap_or(u32::MAX);
            let pause = Duration::from_secs_f64(f64::from(step) / f64::from(rate));
            self.pause_until(begin + pause).await;
        }
        Ok(())
    }

    /// Less long if the faults change.
    async fn pause_until(&mut self, then: Instant) {
        tokio::select! {
            () = sleep_until(then) => {}
            _ = self.faults.changed() => {}
        }
    }
}

/// Until bytes are no longer lost in that direction.
async fn until_found_out(faults: &mut watch::Receiver<Faults>, direction: Direction) {
    let _ = faults.wait_for(|faults| faults.lost != Some(direction)).await;
}
