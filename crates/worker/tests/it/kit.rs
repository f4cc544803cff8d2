//! A Redis with subscriptions and what lies in their queues, a receiver that stands for all subscribers, and a worker
//! between them.

#![allow(unreachable_pub, reason = "all of it is for the tests beside it")]

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use postroad_daemon::{
    process::{Context, Program},
    stop::Stop,
};
use postroad_model::{
    id::{MessageId, SubscriptionId},
    message::{Message, Metadata, Payload, PayloadKind, Priority},
    names::{ChannelName, ServiceName, Tenant},
    signature::{Secret, SecretKey},
    subscription::{Channels, Format, RetryPolicy, Selector, Status, Subscription},
    time::Time,
};
use postroad_store::{
    Acceptance, ChainLink, IdKey, LaneLimits, Placed, Store, StreamId, SubscriptionState,
    entry::{Accepted, Entry},
    trace::{Lies, Line},
};
use postroad_testkit::{
    receiver::{Receiver, Recorded},
    redis::PrivateRedis,
    wait::eventually,
};
use postroad_worker::config::Config;

/// How long anything may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// What everything is signed with.
pub const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const TRACE: u64 = 86_400_000;

/// One environment.
pub struct Road {
    _redis: PrivateRedis,
    pub receiver: Receiver,
    pub store: Store,
    pub config: Config,
    /// How much of the one partition was queued.
    queued: usize,
}

/// One attempt, as its delivery's trace has it: its number, the status, and what went wrong.
pub type Tried = (u32, Option<u16>, Option<String>);

impl Road {
    pub async fn new() -> Self {
        let redis = PrivateRedis::start().await.unwrap();
        let mut config = Config::default();
        config.base.redis.url = redis.url();
        config.base.common.environment = "test".into();
        (config.base.layout.partitions, config.base.layout.lanes) = (1, 4);
        config.egress.allow = vec!["127.0.0.0/8".into()];
        let store = config.base.store().unwrap();
        store.prepare().await.unwrap();
        let receiver = Receiver::start().await.unwrap();
        Self { _redis: redis, receiver, store, config, queued: 0 }
    }

    /// A subscription that is called at `/in`.
    pub async fn subscribe(&self, change: impl FnOnce(&mut Subscription)) -> Subscription {
        let mut subscription = subscription(self.receiver.url("/in"));
        change(&mut subscription);
        self.store.put_subscription(&subscription, None, 100, LaneLimits::default()).await.unwrap();
        subscription
    }

    /// Accepts messages and puts them into a subscription's queue. Their ids in the one partition.
    pub async fn queue(&mut self, subscription: &Subscription, messages: &[Message]) -> Vec<StreamId> {
        let accept = |message: &Message| Acceptance {
            due: None,
            payload_bytes: message.payload.body.len(),
            id: IdKey::new(&message.tenant, &message.id, None),
            remember: false,
            check: false,
            channel: format!("{}/{}", message.tenant, message.channel),
            entry: Entry::encode(message, 1_000),
        };
        let flight = vec![(0, messages.iter().map(accept).collect())];
        self.store.accept(&flight, TRACE).await.unwrap().pop().unwrap().unwrap();
        let end = StreamId { ms: u64::MAX, seq: u64::MAX };
        let all = self.store.history(0, StreamId::ZERO, end, 100_000).await.unwrap();
        let entries = &all[std::mem::replace(&mut self.queued, all.len())..];
        let expires_ms = |accepted: &Accepted| {
            let ttl = accepted.entry.decode().unwrap().metadata.ttl?;
            Some(accepted.accepted_ms + ttl * 1_000)
        };
        let placed = |accepted| Placed {
            accepted,
            keep: true,
            rank: 1,
            expires_ms: expires_ms(accepted),
            line: None,
            max_length: None,
            to: vec![subscription.id.clone()],
        };
        let link = ChainLink {
            partition: 0,
            prev: StreamId::ZERO,
            last: entries.last().unwrap().id,
            entries: entries.iter().map(placed).collect(),
        };
        let lane = self.store.layout().lane_of(&subscription.id);
        self.store.enqueue(&[(lane, vec![link])], TRACE).await.unwrap().pop().unwrap().unwrap();
        entries.iter().map(|entry| entry.id).collect()
    }

    /// Starts a worker; it stops when what is returned is dropped.
    pub async fn work(&self) -> Working {
        let program = Program { name: "postroad-worker", version: "test" };
        let (stop, any) = (Stop::new(), ([127, 0, 0, 1], 0).into());
        let context = Context::listening(program, any, stop.clone(), Duration::from_secs(1)).await.unwrap();
        tokio::spawn(Box::pin(postroad_worker::run(self.config.clone(), context)));
        Working(stop)
    }

    /// What `/in` got, once it is so many requests.
    pub async fn received(&self, count: usize) -> Vec<Arc<Recorded>> {
        self.receiver.wait_for("/in", count, PATIENCE).await.unwrap()
    }

    pub async fn state(&self, subscription: &Subscription) -> SubscriptionState {
        self.store.states(std::slice::from_ref(&subscription.id)).await.unwrap().pop().unwrap()
    }

    /// Waits until nothing of the subscription's is on its way any more. What became of it in all.
    pub async fn settled(&self, subscription: &Subscription) -> SubscriptionState {
        eventually(PATIENCE, "the queue to be empty", async || {
            let state = self.state(subscription).await;
            if state.queued == 0 { Ok(state) } else { Err(format!("{state:?}")) }
        })
        .await
        .unwrap()
    }

    /// The attempts at a message, and where its delivery lies.
    pub async fn tried(&self, at: StreamId) -> (Vec<Tried>, Lies) {
        let trace = self.store.locate(0, at).await.unwrap().pop().unwrap();
        let attempts = trace.lines.into_iter().filter_map(|line| match line {
            Line::Attempted { attempt, .. } => Some((attempt.number, attempt.status, attempt.error)),
            _ => None,
        });
        (attempts.collect(), trace.located.last().unwrap().lies.clone())
    }
}

/// A worker under way.
pub struct Working(Stop);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.request();
    }
}

/// Retried at once, signed with [`SECRET`].
fn subscription(callback_url: String) -> Subscription {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let secret = SecretKey::parse(SECRET).unwrap();
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
        callback_url: Some(callback_url),
        headers: BTreeMap::from([("x-api-key".to_owned(), "hush".to_owned())]),
        secrets: vec![Secret { value: secret, created_at: Time::from_millis(1), expires_at: None }],
        retry: RetryPolicy { max_retries: 2, retry_delay_ms: 0, backoff_multiplier: 1.0 },
        auto_ack: true,
        ack_timeout: 600,
        batch_size: 1,
        prefetch_count: 1_000,
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

pub fn message(id: &str, kind: PayloadKind, body: impl Into<Bytes>) -> Message {
    let id = MessageId::new(id).unwrap();
    Message {
        tenant: Tenant::single(),
        id: id.clone(),
        channel: ChannelName::new("orders").unwrap(),
        routing_key: None,
        ordering_key: None,
        service: ServiceName::new("shop").unwrap(),
        priority: Priority::Normal,
        persistent: true,
        expires_after_ms: None,
        generation: 0,
        targets: Arc::from([]),
        test: false,
        trace: None,
        metadata: Metadata {
            message_id: id,
            correlation_id: None,
            reply_to: None,
            content_type: kind.default_content_type().into(),
            content_encoding: None,
            priority: Priority::Normal,
            ttl: None,
            timestamp: Time::from_millis(1_700_000_000_123),
            headers: serde_json::Map::new(),
        },
        payload: Payload { kind, body: body.into() },
    }
}

/// `{}` under each of these ids.
pub fn messages(ids: &[&str]) -> Vec<Message> {
    ids.iter().map(|id| message(id, PayloadKind::Json, "{}")).collect()
}
