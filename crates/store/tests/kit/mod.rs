//! What the tables of moves share: a private Redis, a subscription, messages on their way.

#![allow(dead_code, unreachable_pub, reason = "each table uses its part")]

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use postroad_model::{
    delivery::{Attempt, Health, Hold, Outcome, Place, Progress, Verdict, judge},
    id::{MessageId, SubscriptionId},
    message::{Message, Metadata, Payload, PayloadKind, Priority},
    names::{ChannelName, ServiceName, Tenant},
    placement::Layout,
    subscription::{Channels, Format, RetryPolicy, Selector, Status, Subscription},
    time::Time,
};
use postroad_store::{
    Acceptance, Accepted, ChainLink, Circuit, IdKey, LaneLimits, Lease, LinkConfig, Linked, Placed, Room,
    Settled, Settlement, Store, StreamId, Taken,
    entry::{self, Entry},
    keys::{Keys, Tag},
};
use postroad_testkit::redis::PrivateRedis;

pub const WINDOW: u64 = 86_400_000;
pub const TRACE: u64 = 86_400_000;
pub const LAYOUT: Layout = Layout { partitions: 2, lanes: 2 };
pub const CIRCUIT: Circuit = Circuit {
    failures: 3,
    lasting: Duration::ZERO,
    open: Duration::from_millis(100),
    open_max: Duration::from_secs(1),
};

/// One environment in a Redis of its own.
pub struct Road {
    pub redis: PrivateRedis,
    pub store: Store,
    pub keys: Keys,
    last: StreamId,
    sent: StreamId,
}

impl Road {
    pub async fn new() -> Self {
        Self::on(PrivateRedis::start().await.unwrap()).await
    }

    pub async fn on(redis: PrivateRedis) -> Self {
        let store = Store::new(LinkConfig::new(redis.url()), "test", LAYOUT).unwrap();
        store.prepare().await.unwrap();
        Self { redis, store, keys: Keys::new("test", LAYOUT), last: StreamId::ZERO, sent: StreamId::ZERO }
    }

    pub async fn subscribe(&self, change: impl FnOnce(&mut Subscription)) -> Subscription {
        let mut sub = subscription();
        change(&mut sub);
        self.store.put_subscription(&sub, None, 100, LaneLimits::default()).await.unwrap();
        sub
    }

    /// Accepts messages into partition 0, in order.
    pub async fn accept(&self, ids: &[&str]) -> Vec<Accepted> {
        let flight = vec![(0, ids.iter().map(|id| acceptance(id, Priority::Normal)).collect())];
        self.store.accept(&flight, WINDOW).await.unwrap().pop().unwrap().unwrap()
    }

    /// Accepts messages and puts them into a subscription's queue, as a router would.
    pub async fn queue(&mut self, sub: &Subscription, ids: &[&str]) -> Vec<StreamId> {
        self.queue_ranked(sub, ids, Priority::Normal).await
    }

    pub async fn queue_ranked(
        &mut self,
        sub: &Subscription,
        ids: &[&str],
        priority: Priority,
    ) -> Vec<StreamId> {
        let flight = vec![(0, ids.iter().map(|id| acceptance(id, priority)).collect())];
        self.store.accept(&flight, WINDOW).await.unwrap().pop().unwrap().unwrap();
        let end = StreamId { ms: u64::MAX, seq: u64::MAX };
        let entries = self.store.history(0, self.last, end, 10_000).await.unwrap();
        let placed = entries.iter().map(|accepted| place(accepted, &[&sub.id], priority)).collect();
        let last = entries.last().unwrap().id;
        let link = ChainLink { partition: 0, prev: self.sent, last, entries: placed };
        let lane = LAYOUT.lane_of(&sub.id);
        let reply = self.store.enqueue(&[(lane, vec![link])], TRACE).await.unwrap().pop().unwrap().unwrap();
        assert_eq!(reply.links, [Linked::Ok]);
        (self.last, self.sent) = (last, last);
        entries.iter().map(|entry| entry.id).collect()
    }

    pub async fn take(&self, me: &str, sub: &Subscription) -> Taken {
        self.take_some(me, sub, 100).await
    }

    pub async fn take_some(&self, me: &str, sub: &Subscription, most: usize) -> Taken {
        let room = Room { free: most, spare: most, quantum: most, quantum_bytes: 1 << 20 };
        let lane = LAYOUT.lane_of(&sub.id);
        self.store.take(me, &[(lane, room)]).await.unwrap().pop().unwrap().unwrap()
    }

    pub async fn settle(&self, me: &str, settlements: Vec<Settlement>) -> Settled {
        let lane = settlements[0].lease.lane;
        self.store.settle(me, &[(lane, settlements)], CIRCUIT, TRACE).await.unwrap().pop().unwrap().unwrap()
    }

    /// Judges and settles one delivery.
    pub async fn outcome(&self, me: &str, sub: &Subscription, lease: Lease, outcome: &Outcome) -> Settled {
        self.settle(me, vec![settlement(sub, lease, outcome)]).await
    }

    pub async fn redis(&self, command: &[&str]) -> postroad_testkit::redis::Reply {
        self.redis.command(command).await.unwrap()
    }

    pub fn lane_key(&self, sub: &Subscription, name: &str) -> String {
        self.keys.key(Tag::Lane(LAYOUT.lane_of(&sub.id)), name)
    }

    pub async fn length(&self, key: &str) -> i64 {
        self.redis(&["XLEN", key]).await.int().unwrap()
    }

    /// How many deliveries lie in each place of a queue, by consumer name.
    pub async fn places(&self, sub: &Subscription) -> Vec<(String, i64)> {
        let key = self.lane_key(sub, &format!("work:{}:1", sub.id));
        let reply = self.redis(&["XPENDING", &key, "g"]).await;
        let rows = reply.items().get(3).map(|rows| rows.items().to_vec()).unwrap_or_default();
        rows.iter()
            .map(|row| (row.items()[0].text().unwrap(), row.items()[1].text().unwrap().parse().unwrap()))
            .collect()
    }
}

pub fn settlement(sub: &Subscription, lease: Lease, outcome: &Outcome) -> Settlement {
    let verdict = judge(&sub.retry, sub.auto_ack, lease.tries.progress, outcome, 0.0);
    let attempt = matches!(outcome, Outcome::Answered { .. } | Outcome::Failed(_)).then(|| Attempt {
        number: lease.tries.progress.attempts + 1,
        started_at_ms: 1,
        duration_ms: 2,
        status: match outcome {
            Outcome::Answered { status, .. } => Some(*status),
            _ => None,
        },
        error: None,
        response: None,
    });
    Settlement { lease, verdict, attempt, ack_timeout: Duration::from_secs(sub.ack_timeout) }
}

pub fn answered(status: u16) -> Outcome {
    Outcome::Answered { status, retry_after_ms: None }
}

pub fn placed_again() -> Verdict {
    Verdict { place: Place::Again, progress: Progress::default(), health: Health::Unknown, hold: Hold::No }
}

pub fn place<'a>(accepted: &'a entry::Accepted, to: &[&SubscriptionId], priority: Priority) -> Placed<'a> {
    Placed { accepted, keep: true, rank: priority.rank(), to: to.iter().map(|id| (*id).clone()).collect() }
}

pub fn message(id: &str, priority: Priority) -> Message {
    Message {
        tenant: Tenant::single(),
        id: MessageId::new(id).unwrap(),
        channel: ChannelName::new("orders").unwrap(),
        routing_key: None,
        ordering_key: None,
        service: ServiceName::new("shop").unwrap(),
        priority,
        persistent: true,
        generation: 0,
        targets: Arc::from([]),
        trace: None,
        metadata: Metadata {
            message_id: MessageId::new(id).unwrap(),
            correlation_id: Some(id.to_owned()),
            reply_to: None,
            content_type: "application/json".into(),
            content_encoding: None,
            priority,
            ttl: None,
            timestamp: Time::from_millis(1),
            headers: serde_json::Map::new(),
        },
        payload: Payload { kind: PayloadKind::Json, body: Bytes::from(format!("{{\"id\":\"{id}\"}}")) },
    }
}

pub fn acceptance(id: &str, priority: Priority) -> Acceptance {
    let message = message(id, priority);
    Acceptance {
        id: IdKey::new(&message.tenant, &message.id, None),
        remember: true,
        check: true,
        channel: format!("{}/{}", message.tenant, message.channel),
        entry: Entry::encode(&message, usize::MAX),
    }
}

pub fn subscription() -> Subscription {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let n = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    Subscription {
        id: SubscriptionId::new(&format!("sub_{n}")).unwrap(),
        tenant: Tenant::single(),
        service_name: ServiceName::new("billing").unwrap(),
        selector: Selector {
            channels: Channels::Channel(ChannelName::new("orders").unwrap()),
            routing_key: None,
            header_match: None,
            filter_criteria: None,
        },
        callback_url: Some("http://127.0.0.1:1/".into()),
        headers: std::collections::BTreeMap::new(),
        secrets: Vec::new(),
        retry: RetryPolicy { max_retries: 1, retry_delay_ms: 50, backoff_multiplier: 1.0 },
        auto_ack: true,
        ack_timeout: 30,
        batch_size: 1,
        prefetch_count: 4,
        rate_limit: None,
        ordered: false,
        format: Format::Native,
        dead_letter_queue: None,
        status: Status::Active,
        status_reason: None,
        created_at: Time::from_millis(1),
        updated_at: Time::from_millis(1),
    }
}
