//! One open stream of notifications: server-sent events out of tails.
//!
//! A stream has one position in its tenant's line of ids. It listens first and looks then; each signal makes it
//! look again behind its position, at all of its tails together, so that nothing is shown twice or passed over,
//! whatever order signals come in, and the change from what was kept to what comes is no change at all. While
//! Redis is away it stays open and goes on trying: a browser gives up for good when it is answered with an error.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use futures_util::{FutureExt, Stream, future::select_all, stream::unfold};
use postroad_daemon::stop::Stop;
use postroad_model::names::Tenant;
use postroad_store::{Backoff, Signal, Store, StoreError, StreamId, signals::Receiver};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep_until},
};

/// Between two signs of life. Each is also a look: for what was told while nobody could hear it.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// What a browser is told to wait before it comes back.
const RETRY_MS: u64 = 3_000;
/// How much is shown at a time.
const AT_ONCE: usize = 100;

struct Open {
    store: Store,
    tenant: Tenant,
    tails: Vec<String>,
    receivers: Vec<Receiver>,
    /// Everything up to here was shown.
    shown: StreamId,
    /// When to look, whatever is heard.
    look_at: Instant,
    heartbeat_at: Instant,
    backoff: Backoff,
    is_new: bool,
    stop: Stop,
    _place: OwnedSemaphorePermit,
}

/// Opens a stream behind a position; where there is none, behind all that there is.
pub async fn open(
    store: Store,
    tenant: Tenant,
    tails: Vec<String>,
    after: Option<StreamId>,
    stop: Stop,
    place: OwnedSemaphorePermit,
) -> Result<impl Stream<Item = Result<Bytes, Infallible>> + Send, StoreError> {
    let mut receivers = Vec::with_capacity(tails.len());
    for tail in &tails {
        receivers.push(store.listen_to_tail(&tenant, tail).await?);
    }
    // From here on nothing comes unheard. A position that lies ahead is another server's, or was lost with one.
    let newest = store.newest_notification(&tenant).await?;
    let shown = after.map_or(newest, |after| after.min(newest));
    let now = Instant::now();
    let open = Open {
        store,
        tenant,
        tails,
        receivers,
        shown,
        look_at: now,
        heartbeat_at: now + HEARTBEAT,
        backoff: Backoff::default(),
        is_new: true,
        stop,
        _place: place,
    };
    Ok(unfold(open, async |mut open| open.next().await.map(|some| (Ok(some), open))))
}

impl Open {
    /// What is to be sent next; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        if std::mem::replace(&mut self.is_new, false) {
            // With an id but without data nothing is shown, but a browser that comes back says it.
            return Some(format!("retry: {RETRY_MS}\nid: {}\n\n", self.shown).into());
        }
        loop {
            if self.stop.is_requested() {
                return None;
            }
            let now = Instant::now();
            if now >= self.look_at
                && let Some(events) = self.look().await
            {
                self.heartbeat_at = Instant::now() + HEARTBEAT;
                return Some(events);
            }
            if now >= self.heartbeat_at {
                self.heartbeat_at = now + HEARTBEAT;
                return Some(Bytes::from_static(b": heartbeat\n\n"));
            }
            let wake_at = self.look_at.min(self.heartbeat_at);
            let signals = select_all(self.receivers.iter_mut().map(|receiver| receiver.recv().boxed()));
            let heard = tokio::select! {
                (signal, ..) = signals => Some(signal),
                () = sleep_until(wake_at) => None,
                () = self.stop.requested() => return None,
            };
            if heard.is_some_and(|signal| self.is_news(&signal)) {
                self.look_at = Instant::now();
            }
        }
    }

    /// Whether a signal tells of something that was not shown. The one for what a look has found before it was
    /// heard does not.
    fn is_news(&self, signal: &Signal) -> bool {
        match signal {
            Signal::Missed => true,
            Signal::Payload(id) => {
                let id = std::str::from_utf8(id).ok().and_then(|id| id.parse::<StreamId>().ok());
                id.is_none_or(|id| id > self.shown)
            }
        }
    }

    /// What lies behind the position, as events.
    async fn look(&mut self) -> Option<Bytes> {
        match self.store.notifications(&self.tenant, &self.tails, self.shown, AT_ONCE).await {
            Ok(page) => {
                self.backoff.reset();
                self.look_at = Instant::now() + if page.more { Duration::ZERO } else { HEARTBEAT };
                self.shown = page.entries.last()?.0;
                let mut events = Vec::new();
                for (id, content) in &page.entries {
                    write_event(&mut events, *id, content);
                }
                Some(events.into())
            }
            Err(error) => {
                tracing::debug!(%error, "a stream of notifications waits for Redis");
                self.look_at = Instant::now() + self.backoff.next_delay();
                None
            }
        }
    }
}

/// One event. What is kept was written by us: JSON on one line.
fn write_event(out: &mut Vec<u8>, id: StreamId, content: &[u8]) {
    out.extend(format!("id: {id}\ndata: ").as_bytes());
    // A line's end would begin another field.
    out.extend(content.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }));
    out.extend(b"\n\n");
}
