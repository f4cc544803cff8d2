//! A connection's bytes, under time limits that cost nothing while the client keeps up.
//!
//! hyper can limit the time for a request's head, but sets a timer for every request to do so, and knows
//! no other limit for the time between requests. Here a timer is touched only when the client makes us
//! wait, and that timer fires once per limit, however many requests come in between: it looks when the
//! waiting began and goes on sleeping for the rest. The price is that an idle connection may live for up to
//! one header timeout longer than it should.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

use super::Serving;

/// How long a client may make us wait.
#[derive(Debug)]
pub(super) struct Limits {
    header: Duration,
    idle: Duration,
    write: Duration,
}

impl Limits {
    pub(super) fn of(serving: &Serving) -> Self {
        Self { header: serving.header_timeout, idle: serving.idle_timeout, write: serving.write_timeout }
    }
}

/// A request's head is on its way.
const HEAD: u8 = 0;
/// A request is being answered: the pace is the handler's.
const BUSY: u8 = 1;
/// Between requests.
const IDLE: u8 = 2;

/// What a connection is doing, as the service tells its bytes. Both live in one task.
#[derive(Debug, Clone)]
pub(super) struct Phase(Arc<State>);

#[derive(Debug)]
struct State {
    now: AtomicU8,
    /// Whether the last request had a body, some of which may lie unread.
    had_body: AtomicBool,
}

impl Phase {
    /// A new connection owes a head.
    pub(super) fn new() -> Self {
        Self(Arc::new(State { now: AtomicU8::new(HEAD), had_body: AtomicBool::new(false) }))
    }

    /// A request has come, and is under way until the guard is dropped.
    pub(super) fn request(&self, has_body: bool) -> UnderWay {
        self.set(BUSY);
        self.0.had_body.store(has_body, Ordering::Relaxed);
        UnderWay(self.clone())
    }

    fn set(&self, phase: u8) {
        self.0.now.store(phase, Ordering::Relaxed);
    }

    fn get(&self) -> u8 {
        self.0.now.load(Ordering::Relaxed)
    }

    fn had_body(&self) -> bool {
        self.0.had_body.load(Ordering::Relaxed)
    }
}

/// A request that is being answered.
pub(super) struct UnderWay(Phase);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.set(IDLE);
    }
}

/// How long to take in what a client still sends after our last word. Closing at once would make the
/// kernel reset the connection, and the client might never read why it was refused.
const LINGER: Duration = Duration::from_secs(1);
/// The most bytes to take in that way.
const LINGER_BYTES: usize = 16 * 1_024 * 1_024;

/// A connection's bytes.
pub(super) struct Paced<S> {
    inner: S,
    phase: Phase,
    limits: Arc<Limits>,
    /// The phase in which reading last had to wait, and since when.
    waiting: Option<(u8, Instant)>,
    read_timer: Timer,
    /// Since when the client takes nothing.
    stuck: Option<Instant>,
    write_timer: Timer,
    is_at_end: bool,
    lingering: Option<Lingering>,
}

struct Lingering {
    until: Instant,
    bytes: usize,
}

impl<S> Paced<S> {
    pub(super) fn new(inner: S, phase: Phase, limits: Arc<Limits>) -> Self {
        let waiting = Some((HEAD, Instant::now()));
        let (read_timer, write_timer) = (Timer::default(), Timer::default());
        Self {
            inner,
            phase,
            limits,
            waiting,
            read_timer,
            stuck: None,
            write_timer,
            is_at_end: false,
            lingering: None,
        }
    }

    /// Whether the client has made us wait for too long, now that there is nothing to read.
    fn is_overdue(&mut self, cx: &mut Context<'_>) -> bool {
        let phase = self.phase.get();
        let limit = match phase {
            HEAD => Some(self.limits.header),
            IDLE => Some(self.limits.idle),
            // hyper does not read again just because the answer is done, so look in from time to time.
            _ => None,
        };
        let deadline = limit.map(|limit| self.waiting_since(phase) + limit);
        self.read_timer.poll(deadline, self.limits.header, cx).is_ready()
    }

    fn waiting_since(&mut self, phase: u8) -> Instant {
        let since = match self.waiting {
            Some((in_phase, since)) if in_phase == phase => since,
            _ => Instant::now(),
        };
        self.waiting = Some((phase, since));
        since
    }

    fn written(&mut self, result: Poll<io::Result<usize>>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if result.is_ready() {
            self.stuck = None;
            return result;
        }
        let since = *self.stuck.get_or_insert_with(Instant::now);
        let limit = self.limits.write;
        ready!(self.write_timer.poll(Some(since + limit), limit, cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing of the answer")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        match Pin::new(&mut this.inner).poll_read(cx, buf) {
            Poll::Ready(result) => {
                if buf.filled().len() == before {
                    this.is_at_end = true;
                } else if this.phase.get() == IDLE {
                    this.phase.set(HEAD);
                    this.waiting = None;
                }
                Poll::Ready(result)
            }
            Poll::Pending if this.is_overdue(cx) => match this.phase.get() {
                // Nothing is lost: to hyper, the client has left.
                IDLE => Poll::Ready(Ok(())),
                _ => Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the request's head did not come",
                ))),
            },
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.inner).poll_write(cx, buf);
        this.written(result, cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.inner).poll_write_vectored(cx, bufs);
        this.written(result, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.lingering.is_none() {
            ready!(Pin::new(&mut this.inner).poll_shutdown(cx))?;
            if this.is_at_end || !this.phase.had_body() {
                return Poll::Ready(Ok(()));
            }
        }
        let lingering =
            this.lingering.get_or_insert_with(|| Lingering { until: Instant::now() + LINGER, bytes: 0 });
        let mut scratch = [0; 8 * 1_024];
        while lingering.bytes < LINGER_BYTES {
            let mut buf = ReadBuf::new(&mut scratch);
            match Pin::new(&mut this.inner).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => lingering.bytes += buf.filled().len(),
                Poll::Ready(_) => break,
                Poll::Pending => return this.read_timer.poll(Some(lingering.until), LINGER, cx).map(Ok),
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// A timer that is made when first needed, and set anew only when it must fire earlier.
#[derive(Default)]
struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    /// Ready when `deadline` has passed. Until then, and without one, the task is woken now and again: by
    /// the deadline, or after `look_in` at the latest where there is none.
    fn poll(&mut self, deadline: Option<Instant>, look_in: Duration, cx: &mut Context<'_>) -> Poll<()> {
        let next = || deadline.unwrap_or_else(|| Instant::now() + look_in);
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(next())));
        if deadline.is_some_and(|deadline| deadline < sleep.deadline()) {
            sleep.as_mut().reset(next());
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(next());
        }
    }
}
