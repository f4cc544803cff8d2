//! What the tests share: a private Redis, subscriptions, and dead letters made by the moves that make them.

#![allow(dead_code, unreachable_pub, reason = "each test uses its part")]

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Method, Request, StatusCode},
};
use bytes::Bytes;
use postroad_daemon::{clock::Clock, stop::Stop};
use postroad_model::{
    delivery::{Attempt, DeadReason, Health, Hold, Place, Progress, Verdict},
    id::{MessageId, SubscriptionId},
    message::{Message, Metadata, Payload, PayloadKind, Priority},
    names::{ChannelName, RoutingKey, ServiceName, Tenant},
    subscription::{Channels, Format, RetryPolicy, Selector, Status, Subscription},
    time::Time,
};
use postroad_reprocessor::{
    App,
    config::Config,
    job::run::{OnStop, Runner},
    metrics::Metrics,
    router,
};
use postroad_store::{
    Acceptance, ChainLink, Circuit, IdKey, LaneLimits, Placed, Room, Settlement, Store, StreamId,
    entry::Entry,
    keys::{Keys, Tag},
};
use postroad_testkit::redis::{PrivateRedis, Reply};
use serde_json::Value;
use tower::ServiceExt;

pub const TRACE: u64 = 86_400_000;
const NO_CIRCUIT: Circuit = Circuit {
    failures: 0,
    lasting: Duration::ZERO,
    open: Duration::from_millis(100),
    open_max: Duration::from_secs(1),
};

/// How a letter dies.
#[derive(Clone)]
pub struct Dies {
    pub channel: &'static str,
    pub payload: Payload,
    pub reason: DeadReason,
    pub status: Option<u16>,
    pub error: Option<&'static str>,
    pub response: Option<&'static str>,
    pub tenant: Tenant,
}

impl Default for Dies {
    fn default() -> Self {
        Self {
            channel: "orders",
            payload: json_payload("{\"n\":1}"),
            reason: DeadReason::RetriesExhausted,
            status: Some(500),
            error: Some("answered 500"),
            response: None,
            tenant: Tenant::single(),
        }
    }
}

pub fn json_payload(text: &'static str) -> Payload {
    Payload { kind: PayloadKind::Json, body: Bytes::from_static(text.as_bytes()) }
}

/// One environment in a Redis of its own, and the API over it.
pub struct Road {
    pub redis: PrivateRedis,
    pub store: Store,
    pub keys: Keys,
    pub config: Config,
    pub app: Arc<App>,
    pub api: Router,
    last: AtomicU64,
}

impl Road {
    pub async fn new() -> Self {
        let redis = PrivateRedis::start().await.unwrap();
        let mut config = Config::default();
        config.base.redis.url = redis.url();
        config.base.common.environment = "test".into();
        (config.base.layout.partitions, config.base.layout.lanes) = (1, 4);
        config.base.queue.max_entries = 100_000;
        let store = config.base.store().unwrap();
        store.prepare().await.unwrap();
        let app = App::new(store.clone(), config.checked().unwrap(), Metrics::default(), Clock::system());
        let app = Arc::new(app);
        let (api, keys) = (router(Arc::clone(&app)), Keys::new("test", store.layout()));
        Self { redis, store, keys, config, app, api, last: AtomicU64::new(0) }
    }

    pub async fn subscribe(&self, change: impl FnOnce(&mut Subscription)) -> Subscription {
        let mut sub = subscription();
        change(&mut sub);
        self.store.put_subscription(&sub, None, 10_000, LaneLimits::default()).await.unwrap();
        sub
    }

    pub async fn cancel(&self, sub: &Subscription) {
        let change = self.store.subscription(&sub.id).await.unwrap().unwrap().change;
        self.store.cancel_subscription(&sub.id, &sub.tenant, change).await.unwrap();
    }

    /// Accepts messages and puts them into a subscription's queue.
    pub async fn queue(&self, sub: &Subscription, ids: &[String], dies: &Dies) {
        let accept = |id: &String| {
            let message = message(id, dies);
            Acceptance {
                id: IdKey::new(&message.tenant, &message.id, None),
                remember: false,
                check: false,
                channel: format!("{}/{}", message.tenant, message.channel),
                payload_bytes: message.payload.body.len(),
                entry: Entry::encode(&message, 1_000),
                due: None,
            }
        };
        let flight = vec![(0, ids.iter().map(accept).collect())];
        self.store.accept(&flight, TRACE).await.unwrap().pop().unwrap().unwrap();
        let read = self.last.load(Ordering::Relaxed);
        let end = StreamId { ms: u64::MAX, seq: u64::MAX };
        let all = self.store.history(0, StreamId::ZERO, end, 1_000_000).await.unwrap();
        let entries = &all[usize::try_from(read).unwrap()..];
        self.last.store(all.len() as u64, Ordering::Relaxed);
        let placed = |accepted| Placed {
            accepted,
            keep: true,
            rank: 1,
            expires_ms: None,
            line: None,
            max_length: None,
            to: vec![sub.id.clone()],
        };
        let link = ChainLink {
            partition: 0,
            prev: StreamId::ZERO,
            last: entries.last().unwrap().id,
            entries: entries.iter().map(placed).collect(),
        };
        let lane = self.store.layout().lane_of(&sub.id);
        self.store.enqueue(&[(lane, vec![link])], TRACE).await.unwrap().pop().unwrap().unwrap();
    }

    /// Takes what lies in a subscription's queue, at most so much, and lets it end as told.
    pub async fn end(&self, sub: &Subscription, most: usize, place: Place, dies: &Dies) -> usize {
        let lane = self.store.layout().lane_of(&sub.id);
        let mut ended = 0;
        while ended < most {
            let free = (most - ended).min(500);
            let room = Room { free, spare: free, quantum: free, quantum_bytes: 64 << 20, ..Room::UNBOUNDED };
            let taken = self.store.take("w-1", &[(lane, room)]).await.unwrap().pop().unwrap().unwrap();
            if taken.leases.is_empty() {
                break;
            }
            ended += taken.leases.len();
            let settle = |lease: postroad_store::Lease| Settlement {
                verdict: Verdict {
                    place,
                    progress: Progress { attempts: lease.tries.progress.attempts + 1, reclaims: 0 },
                    health: Health::Good,
                    hold: Hold::No,
                },
                attempt: dies.status.is_some().then(|| Attempt {
                    number: 1,
                    started_at_ms: 1,
                    duration_ms: 2,
                    status: dies.status.filter(|status| *status > 0),
                    error: dies.error.map(str::to_owned),
                    response: dies.response.map(str::to_owned),
                }),
                lease,
                ack_timeout: Duration::from_secs(30),
            };
            let settlements = taken.leases.into_iter().map(settle).collect();
            let settled = self.store.settle("w-1", &[(lane, settlements)], NO_CIRCUIT, TRACE).await.unwrap();
            assert_eq!(settled.into_iter().next().unwrap().unwrap().stale, 0);
        }
        ended
    }

    /// Makes dead letters of these ids.
    pub async fn bury(&self, sub: &Subscription, ids: &[String], dies: &Dies) {
        for some in ids.chunks(500) {
            self.queue(sub, some, dies).await;
            let ended = self.end(sub, some.len(), Place::Dead(dies.reason), dies).await;
            assert_eq!(ended, some.len());
        }
    }

    pub async fn bury_one(&self, sub: &Subscription, id: &str, dies: &Dies) -> String {
        self.bury(sub, &[id.to_owned()], dies).await;
        let newest = self.store.newest_dead_letters(&sub.id, None, 1).await.unwrap().pop().unwrap();
        newest.id.to_string()
    }

    pub fn lane_key(&self, sub: &Subscription, name: &str) -> String {
        self.keys.key(Tag::Lane(self.store.layout().lane_of(&sub.id)), name)
    }

    pub fn dead_key(&self, sub: &Subscription) -> String {
        self.lane_key(sub, &format!("dead:{}", sub.id))
    }

    pub fn work_key(&self, sub: &Subscription) -> String {
        self.lane_key(sub, &format!("work:{}:1", sub.id))
    }

    pub async fn redis(&self, command: &[&str]) -> Reply {
        self.redis.command(command).await.unwrap()
    }

    pub async fn dead(&self, sub: &Subscription) -> usize {
        usize::try_from(self.redis(&["XLEN", &self.dead_key(sub)]).await.int().unwrap()).unwrap()
    }

    pub async fn queued(&self, sub: &Subscription) -> usize {
        usize::try_from(self.redis(&["XLEN", &self.work_key(sub)]).await.int().unwrap()).unwrap()
    }

    /// The refs of a stream's entries: which accepted messages they hold.
    pub async fn refs(&self, key: &str) -> Vec<String> {
        let reply = self.redis(&["XRANGE", key, "-", "+"]).await;
        let read = |row: &Reply| {
            let fields = row.items()[1].items();
            let at = fields.iter().position(|field| field.text().as_deref() == Some("ref")).unwrap();
            fields[at + 1].text().unwrap()
        };
        reply.items().iter().map(read).collect()
    }

    /// Asks the API.
    pub async fn ask(&self, method: Method, uri: &str, body: Option<Value>) -> (StatusCode, Value) {
        let (status, text) = self.ask_text(method, uri, body).await;
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    pub async fn ask_text(&self, method: Method, uri: &str, body: Option<Value>) -> (StatusCode, String) {
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let request = Request::builder().method(method).uri(uri).body(body).unwrap();
        let response = self.api.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    }

    pub async fn get(&self, uri: &str) -> Value {
        let (status, body) = self.ask(Method::GET, uri, None).await;
        assert_eq!(status, StatusCode::OK, "{uri}: {body}");
        body
    }

    pub async fn post(&self, uri: &str, body: Value) -> (StatusCode, Value) {
        self.ask(Method::POST, uri, Some(body)).await
    }

    /// Makes a job, and says its id.
    pub async fn replay(&self, body: Value) -> String {
        let (status, made) = self.post("/v1/dlq/replay", body).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{made}");
        made["job_id"].as_str().unwrap().to_owned()
    }

    pub async fn progress(&self, id: &str) -> Value {
        self.get(&format!("/v1/dlq/replays/{id}")).await
    }

    /// Whoever runs jobs, with a short lease.
    pub fn runner(&self, me: &str, stop: &Stop) -> Runner {
        self.runner_on(self.store.clone(), me, stop)
    }

    pub fn runner_on(&self, store: Store, me: &str, stop: &Stop) -> Runner {
        let config = &self.app.config;
        let (me, metrics) = (me.to_owned(), self.app.metrics.clone());
        let runner = Runner::new(store, me, config, stop.clone(), OnStop::GiveBack, metrics);
        Runner { lease: Duration::from_millis(200), max_queued: 100_000, ..runner }
    }
}

pub fn ids(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{prefix}-{n}")).collect()
}

/// The ids of a list's messages.
pub fn message_ids(answer: &Value) -> Vec<String> {
    let rows = answer["messages"].as_array().unwrap_or_else(|| panic!("{answer}"));
    rows.iter().map(|row| row["message_id"].as_str().unwrap_or("?").to_owned()).collect()
}

pub fn message(id: &str, dies: &Dies) -> Message {
    Message {
        tenant: dies.tenant.clone(),
        id: MessageId::new(id).unwrap(),
        channel: ChannelName::new(dies.channel).unwrap(),
        routing_key: Some(RoutingKey::new("eu.new").unwrap()),
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
            message_id: MessageId::new(id).unwrap(),
            correlation_id: Some(id.to_owned()),
            reply_to: None,
            content_type: dies.payload.kind.default_content_type().into(),
            content_encoding: None,
            priority: Priority::Normal,
            ttl: None,
            timestamp: Time::from_millis(1),
            headers: serde_json::Map::new(),
        },
        payload: dies.payload.clone(),
    }
}

pub fn subscription() -> Subscription {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
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
        headers: BTreeMap::new(),
        secrets: Vec::new(),
        retry: RetryPolicy { max_retries: 1, retry_delay_ms: 50, backoff_multiplier: 1.0 },
        auto_ack: true,
        ack_timeout: 30,
        batch_size: 1,
        prefetch_count: 10_000,
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
