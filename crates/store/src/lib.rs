//! Where things lie in Redis, and the moves between them.
//!
//! This is the only crate that speaks Redis. Each move of the road is one Lua script under `lua/`, one
//! method here and one table of tests:
//!
//! ```text
//! POST ─accept─► INGRESS ─enqueue─► WORK: waiting ─take─► in flight ─settle─► done (or awaiting its acknowledgment)
//!                                      ▲                 │ │
//!                                      └─promote─ later ◄┘ └─bury─► DEAD ─replay─► back to WORK
//! ```
//!
//! * [`keys`]: every key's name; partitions, lanes and the control tag, each one slot of Redis Cluster.
//! * [`entry`]: the format in which a message lies in a stream, a contract between releases.
//! * `partition`, `delayed`, `again`, `enqueue`, `delivery`, `pull`, `dead`: the moves. `trace`: what they leave
//!   behind for people. `outbox`: what must leave a lane. `job`, `history`: jobs that replay.
//! * `control`, `channel`: subscriptions' records, channels' settings and the stream of their changes; the
//!   members; the layout.
//! * `command`, `notification`, `service`, `event_type`: what the kinds of messages leave behind besides.
//! * `figures`: what daemons have counted, added up by minute, by hour and in all.
//! * `backlog`: how far behind everything is.
//! * [`signals`]: telling whoever waits that something has happened.
//! * `reader`: waiting for new entries of ingress and for ready tokens, without taking anything.
//!
//! What it guarantees: a method's effect takes place whole or not at all, and repeating it after an error
//! of unknown outcome is safe. What it does not do: decide. Verdicts come from `postroad-model`.

pub mod keys;

mod again;
mod backlog;
mod channel;
mod command;
pub mod config;
mod control;
mod dead;
mod delayed;
mod delivery;
mod enqueue;
pub mod entry;
mod error;
mod event_type;
mod figures;
mod history;
mod job;
mod lease;
mod link;
mod message;
mod notification;
mod outbox;
mod partition;
pub mod presence;
mod pull;
mod reader;
mod reply;
mod retry;
mod script;
mod service;
pub mod signals;
mod stream_id;
pub mod trace;
mod uptime;

use std::sync::Arc;

use postroad_model::placement::Layout;
use redis::{Pipeline, Value};

pub use again::{AcceptedAgain, Again};
pub use backlog::Backlog;
pub use command::{Responded, Response};
pub use control::{Change, LaneLimits, Member, Members, SubscriptionState, Versioned};
pub use dead::{DeadLetter, DeadLetterId, DeadQueue, ReplayState, Replayed};
pub use delayed::{Cancelled, DelayLimits, Due, MovedDue, Waiting};
pub use delivery::{Circuit, Promoted, Room, Settled, Settlement, Swept, Taken};
pub use enqueue::{Enqueued, Link as ChainLink, Linked, Placed, line_of};
pub use error::StoreError;
pub use event_type::{EventTypeBounds, EventTypeRecord, EventTypes, PutEventType};
pub use figures::{Flush, MOST_CHANNELS, Row, Scope, Tallied, Total};
pub use history::{HistoryNote, HistoryReplay, Source};
pub use job::{Job, JobState};
pub use lease::{Lease, Tries};
pub use link::LinkConfig;
pub use message::Found;
pub use notification::{Notified, TailBounds, TailPage};
pub use outbox::{DeadCopy, OutboxEntry};
pub use partition::{Acceptance, Accepted, Claim, Claimed, IdKey, Routed, TRIM_MOST};
pub use pull::{AWAITING, Outstanding, Pulled};
pub use reader::{IngressReader, ReadyReader};
pub use retry::Backoff;
pub use service::{ServiceHealth, ServicesPage};
pub use signals::{Signal, Signals};
pub use stream_id::StreamId;

use keys::{Keys, Tag};
use link::Link;
use signals::Hub;

/// One environment in one Redis.
#[derive(Clone)]
pub struct Store {
    link: Arc<Link>,
    keys: Arc<Keys>,
    hub: Arc<Hub>,
    layout: Layout,
}

impl Store {
    /// Names an environment's Redis. Connects only when first used; see [`Store::prepare`].
    pub fn new(config: LinkConfig, environment: &str, layout: Layout) -> Result<Self, StoreError> {
        let fits = !environment.is_empty()
            && environment.len() <= 64
            && environment.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if !fits {
            return Err(StoreError::Unsuitable(format!(
                "environment {environment:?} must be 1 to 64 of A-Z a-z 0-9 _ -"
            )));
        }
        let link = Arc::new(Link::new(config)?);
        Ok(Self {
            hub: Arc::new(Hub::new(Arc::clone(&link))),
            link,
            keys: Arc::new(Keys::new(environment, layout)),
            layout,
        })
    }

    /// How many partitions and lanes there are.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Checks that the server can be worked with and that the layout is the environment's, fixing it at
    /// first start.
    pub async fn prepare(&self) -> Result<Server, StoreError> {
        let server = self.server().await?;
        if server.version < (7, 0) {
            return Err(StoreError::Unsuitable(format!(
                "Redis {}.{} is too old; 7.0 or newer is needed",
                server.version.0, server.version.1
            )));
        }
        if server.eviction_policy != "noeviction" {
            return Err(StoreError::Unsuitable(format!(
                "Redis evicts ({}): it would drop messages in silence; set maxmemory-policy noeviction",
                server.eviction_policy
            )));
        }
        self.fix_layout().await?;
        Ok(server)
    }

    /// [`Store::prepare`], waiting for a server that is away; only what waiting cannot mend is an error.
    pub async fn prepare_patiently(&self) -> Result<Server, StoreError> {
        let mut backoff = Backoff::default();
        let mut told = false;
        loop {
            match self.prepare().await {
                Err(error) if error.is_transient() => {
                    if !told {
                        tracing::warn!(%error, "waiting for Redis");
                        told = true;
                    }
                    backoff.wait().await;
                }
                result => return result,
            }
        }
    }

    /// Facts about the server.
    pub async fn server(&self) -> Result<Server, StoreError> {
        let info = reply::text(self.link.command(&redis::cmd("INFO")).await?)?;
        Ok(Server::read(&info))
    }

    /// The share of the server's memory that is used, 0 to 1 and beyond; 0 where it has no bound.
    pub async fn memory_used(&self) -> Result<f64, StoreError> {
        let info = reply::text(self.link.command(redis::cmd("INFO").arg("memory")).await?)?;
        let Server { used_memory, max_memory, .. } = Server::read(&info);
        #[expect(clippy::cast_precision_loss, reason = "a share, not a sum")]
        Ok(if max_memory == 0 { 0.0 } else { used_memory as f64 / max_memory as f64 })
    }

    /// `appendfsync`, where the server lets us ask.
    pub async fn fsync_policy(&self) -> Option<String> {
        let mut command = redis::cmd("CONFIG");
        command.arg("GET").arg("appendfsync");
        reply::text(reply::array(self.link.command(&command).await.ok()?).ok()?.pop()?).ok()
    }

    async fn fix_layout(&self) -> Result<(), StoreError> {
        let key = self.keys.key(Tag::Ctl, keys::LAYOUT);
        let Layout { partitions, lanes } = self.layout;
        let mut pipeline = Pipeline::new();
        pipeline.cmd("HSETNX").arg(&key).arg("partitions").arg(partitions);
        pipeline.cmd("HSETNX").arg(&key).arg("lanes").arg(lanes);
        pipeline.cmd("HMGET").arg(&key).arg("partitions").arg("lanes");
        let answer = self.link.pipeline(&pipeline).await?.pop().unwrap_or(Value::Nil);
        let mut stored = reply::array(link::checked(answer)?)?.into_iter();
        let mut next = || -> Result<u16, StoreError> {
            let value = stored.next().unwrap_or_default();
            u16::try_from(reply::count(&value)?).map_err(|_| reply::odd("layout", &value))
        };
        let (stored_partitions, stored_lanes) = (next()?, next()?);
        if (stored_partitions, stored_lanes) == (partitions, lanes) {
            Ok(())
        } else {
            Err(StoreError::Layout { stored_partitions, stored_lanes, partitions, lanes })
        }
    }
}

/// What `INFO` says of a server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Server {
    /// Major and minor version.
    pub version: (u32, u32),
    /// The whole version, as it says it.
    pub release: String,
    /// Bytes of the append-only file; 0 without one.
    pub file_bytes: u64,
    /// `maxmemory_policy`.
    pub eviction_policy: String,
    /// Bytes in use.
    pub used_memory: u64,
    /// The bound on them; 0 for none.
    pub max_memory: u64,
    /// Whether there is an append-only file.
    pub append_only: bool,
    /// Connected replicas.
    pub replicas: u32,
}

impl Server {
    fn read(info: &str) -> Self {
        let field = |name: &str| {
            info.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .map(str::trim)
                .unwrap_or_default()
        };
        let mut version = field("redis_version").split('.').map(|part| part.parse().unwrap_or(0));
        Self {
            version: (version.next().unwrap_or(0), version.next().unwrap_or(0)),
            release: field("redis_version").to_owned(),
            file_bytes: field("aof_current_size").parse().unwrap_or(0),
            eviction_policy: field("maxmemory_policy").to_owned(),
            used_memory: field("used_memory").parse().unwrap_or(0),
            max_memory: field("maxmemory").parse().unwrap_or(0),
            append_only: field("aof_enabled") == "1",
            replicas: field("connected_slaves").parse().unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_is_read_by_whole_names() {
        let info = "# Server\r\nredis_version:7.0.15\r\nused_memory_rss:9\r\nused_memory:5\r\nmaxmemory:0\r\n\
                    maxmemory_policy:noeviction\r\naof_enabled:1\r\nconnected_slaves:2\r\n";
        let server = Server::read(info);
        assert_eq!(server.version, (7, 0));
        assert_eq!((server.used_memory, server.max_memory, server.replicas), (5, 0, 2));
        assert!(server.append_only);
        assert_eq!(server.eviction_policy, "noeviction");
    }

    #[test]
    fn environments_cannot_reach_into_key_syntax() {
        for bad in ["", "a b", "a{b}", "a:b", &"e".repeat(65)] {
            assert!(
                Store::new(LinkConfig::new("redis://127.0.0.1"), bad, Layout::default()).is_err(),
                "{bad}"
            );
        }
        assert!(Store::new(LinkConfig::new("http://x"), "dev", Layout::default()).is_err());
    }
}
