//! A Redis, a subscription, and routers that can be killed.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use postroad_daemon::{
    process::{Context, Program},
    stop::Stop,
};
use postroad_model::{
    id::{MessageId, SubscriptionId},
    message::{Message, Metadata, Payload, PayloadKind, Priority},
    names::{ChannelName, ServiceName, Tenant},
    subscription::{Channels, Format, RetryPolicy, Selector, Status, Subscription},
    time::Time,
};
use postroad_router::config::Config;
use postroad_store::{
    Acceptance, Due, IdKey, LaneLimits, Store,
    entry::Entry,
    keys::{Keys, Tag},
};
use postroad_testkit::redis::{PrivateRedis, Reply};
use tokio::runtime::Runtime;

/// How long anything may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(20);
pub const WINDOW: u64 = 86_400_000;

/// One environment.
pub struct Town {
    pub redis: PrivateRedis,
    pub config: Config,
    pub store: Store,
    pub keys: Keys,
}

impl Town {
    pub async fn new() -> Self {
        let redis = PrivateRedis::start().await.unwrap();
        let mut config = Config::default();
        config.base.redis.url = redis.url();
        config.base.common.environment = "test".into();
        (config.base.layout.partitions, config.base.layout.lanes) = (4, 2);
        config.router.lease_ms = 600;
        let store = config.base.store().unwrap();
        store.prepare().await.unwrap();
        let keys = Keys::new("test", store.layout());
        Self { redis, config, store, keys }
    }

    /// A router on threads of its own.
    pub fn router(&self) -> Router {
        let (config, stop) = (self.config.clone(), Stop::new());
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let until = stop.clone();
        let running = runtime.spawn(async move {
            let program = Program { name: "postroad-router", version: "test" };
            let any = ([127, 0, 0, 1], 0).into();
            let context = Context::listening(program, any, until, Duration::from_secs(1)).await.unwrap();
            postroad_router::run(config, context).await.unwrap();
        });
        Router { runtime: Some(runtime), stop, running }
    }

    pub async fn subscribe(&self, change: impl FnOnce(&mut Subscription)) -> Subscription {
        let mut subscription = subscription();
        change(&mut subscription);
        self.store.put_subscription(&subscription, None, 100, LaneLimits::default()).await.unwrap();
        subscription
    }

    /// Redis's clock.
    pub async fn now(&self) -> u64 {
        self.store.delayed(&[]).await.unwrap().0
    }

    /// What lies in a subscription's queue: per entry the message and when it was put there, by Redis's clock.
    pub async fn queued(&self, subscription: &Subscription) -> Vec<(Message, u64)> {
        let lane = Tag::Lane(self.store.layout().lane_of(&subscription.id));
        let key = self.keys.key(lane, &format!("work:{}:1", subscription.id));
        let reply = self.redis.command(&["XRANGE", &key, "-", "+"]).await.unwrap();
        let read = |row: &Reply| {
            let id = row.items()[0].text().unwrap();
            let record = row.items()[1].items()[1].text().unwrap();
            let message = Entry { record: record.into_bytes().into() }.decode().unwrap();
            (message, id.split_once('-').unwrap().0.parse().unwrap())
        };
        reply.items().iter().map(read).collect()
    }
}

/// A router; killed when dropped.
pub struct Router {
    runtime: Option<Runtime>,
    stop: Stop,
    running: tokio::task::JoinHandle<()>,
}

impl Router {
    /// Stops it in order.
    pub async fn stop(mut self) {
        self.stop.request();
        (&mut self.running).await.unwrap();
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

pub fn message(id: &str) -> Message {
    let message_id = MessageId::new(id).unwrap();
    Message {
        tenant: Tenant::single(),
        id: message_id.clone(),
        channel: ChannelName::new("orders").unwrap(),
        routing_key: None,
        ordering_key: None,
        service: ServiceName::new("shop").unwrap(),
        priority: Priority::Normal,
        persistent: true,
        generation: 0,
        test: false,
        expires_after_ms: None,
        targets: Arc::from([]),
        trace: None,
        metadata: Metadata {
            message_id,
            correlation_id: Some(id.to_owned()),
            reply_to: None,
            content_type: "application/json".into(),
            content_encoding: None,
            priority: Priority::Normal,
            ttl: None,
            timestamp: Time::from_millis(1),
            headers: serde_json::Map::new(),
        },
        payload: Payload { kind: PayloadKind::Json, body: Bytes::from_static(b"{}") },
    }
}

pub fn acceptance(message: &Message, due: Option<Due>) -> Acceptance {
    Acceptance {
        payload_bytes: 0,
        id: IdKey::new(&message.tenant, &message.id, None),
        remember: true,
        check: true,
        channel: format!("{}/{}", message.tenant, message.channel),
        entry: Entry::encode(message, usize::MAX),
        due,
    }
}

fn subscription() -> Subscription {
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
        retry: RetryPolicy::default(),
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
