//! What the tables of moves share: a private Redis, a subscription, messages on their way.

mod ledger;

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use postroad_model::{
    delivery::{Attempt, Health, Hold, Outcome, Place, Verdict, judge},
    id::{MessageId, SubscriptionId},
    message::{Message, Metadata, Payload, PayloadKind, Priority},
    names::{ChannelName, ServiceName, Tenant},
    placement::Layout,
    subscription::{Channels, Format, RetryPolicy, Selector, Status, Subscription},
    time::Time,
};
use postroad_store::{
    Acceptance, Accepted, ChainLink, Circuit, Claim, Claimed, Enqueued, IdKey, LaneLimits, Lease, LinkConfig,
    Linked, Placed, Promoted, Room, Settled, Settlement, Store, StoreError, StreamId, SubscriptionState,
    Swept, Taken,
    entry::{self, Entry},
    keys::{Keys, Tag},
};
use postroad_testkit::redis::{Fsync, PrivateRedis, Reply};

pub const WINDOW: u64 = 86_400_000;
pub const TRACE: u64 = 86_400_000;
pub const LAYOUT: Layout = Layout { partitions: 2, lanes: 2 };
pub const CIRCUIT: Circuit = Circuit {
    failures: 3,
    lasting: Duration::ZERO,
    open: Duration::from_millis(100),
    open_max: Duration::from_secs(1),
};

/// A partition that no test accepts into: what [`Road::fill`] queues comes from here.
const FILLED: u16 = 1;

/// One environment in a Redis of its own.
pub struct Road {
    pub redis: PrivateRedis,
    pub store: Store,
    pub keys: Keys,
    /// Up to where partition 0 was read.
    last: StreamId,
    /// Per lane and partition, up to where it was sent.
    sent: HashMap<(u16, u16), StreamId>,
}

impl Road {
    pub async fn new() -> Self {
        Self::on(PrivateRedis::start().await.unwrap()).await
    }

    /// One that finds its data again after a kill.
    pub async fn on_disk() -> Self {
        Self::on(PrivateRedis::builder().append_only(Fsync::Always).start().await.unwrap()).await
    }

    pub async fn on(redis: PrivateRedis) -> Self {
        let store = Store::new(LinkConfig::new(redis.url()), "test", LAYOUT).unwrap();
        store.prepare().await.unwrap();
        Self { redis, store, keys: Keys::new("test", LAYOUT), last: StreamId::ZERO, sent: HashMap::new() }
    }

    /// Begins anew, on an empty server.
    pub async fn reset(&mut self) {
        self.redis(&["FLUSHALL"]).await;
        self.last = StreamId::ZERO;
        self.sent.clear();
    }

    pub async fn subscribe(&self, change: impl FnOnce(&mut Subscription)) -> Subscription {
        let mut sub = subscription();
        change(&mut sub);
        self.store.put_subscription(&sub, None, 100_000, LaneLimits::default()).await.unwrap();
        sub
    }

    /// One that lives in the given lane.
    pub async fn subscribe_in(&self, lane: u16, change: impl FnOnce(&mut Subscription)) -> Subscription {
        let id = std::iter::repeat_with(|| subscription().id).find(|id| LAYOUT.lane_of(id) == lane).unwrap();
        self.subscribe(|sub| {
            sub.id = id;
            change(sub);
        })
        .await
    }

    /// Changes a subscription that is there.
    pub async fn change(&self, sub: &mut Subscription, change: impl FnOnce(&mut Subscription)) -> StreamId {
        let there = self.store.subscription(&sub.id).await.unwrap().unwrap().change;
        change(sub);
        self.store.put_subscription(sub, Some(there), 100_000, LaneLimits::default()).await.unwrap()
    }

    pub async fn cancel(&self, sub: &Subscription) {
        let there = self.store.subscription(&sub.id).await.unwrap().unwrap().change;
        self.store.cancel_subscription(&sub.id, &sub.tenant, there).await.unwrap();
    }

    pub async fn accept_all(
        &self,
        partition: u16,
        messages: Vec<Acceptance>,
    ) -> Result<Vec<Accepted>, StoreError> {
        self.store.accept(&[(partition, messages)], WINDOW).await?.pop().unwrap()
    }

    /// Accepts messages into partition 0, in order.
    pub async fn accept(&self, ids: &[&str]) -> Vec<Accepted> {
        let messages = ids.iter().map(|id| acceptance(id, Priority::Normal)).collect();
        self.accept_all(0, messages).await.unwrap()
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
        self.accept_all(0, ids.iter().map(|id| acceptance(id, priority)).collect()).await.unwrap();
        let entries = self.store.history(0, self.last, END, 10_000).await.unwrap();
        let placed = entries.iter().map(|accepted| place(accepted, &[&sub.id], priority)).collect();
        self.last = entries.last().unwrap().id;
        let reply = self.send(LAYOUT.lane_of(&sub.id), 0, self.last, placed).await;
        assert_eq!(reply.links, [Linked::Ok]);
        entries.iter().map(|entry| entry.id).collect()
    }

    /// Queues messages with what the table says of each, as a router would. Answers their ids in ingress.
    pub async fn queue_as(&mut self, sub: &Subscription, rows: &[(&str, Terms<'_>)]) -> Vec<StreamId> {
        self.accept_all(0, rows.iter().map(|(id, _)| acceptance(id, Priority::Normal)).collect())
            .await
            .unwrap();
        let entries = self.store.history(0, self.last, END, 10_000).await.unwrap();
        let placed = entries
            .iter()
            .zip(rows)
            .map(|(accepted, (_, terms))| Placed {
                expires_ms: terms.lives_ms.map(|ms| accepted.accepted_ms + ms),
                line: terms.line.map(str::to_owned),
                max_length: terms.max_length,
                ..place(accepted, &[&sub.id], terms.priority)
            })
            .collect();
        self.last = entries.last().unwrap().id;
        let reply = self.send(LAYOUT.lane_of(&sub.id), 0, self.last, placed).await;
        assert_eq!(reply.links, [Linked::Ok]);
        entries.iter().map(|entry| entry.id).collect()
    }

    /// The ids of messages in a place of a subscription's queue of normal priority, in order; `waiting` is no place.
    pub async fn lying(&self, sub: &Subscription, place: &str) -> Vec<String> {
        let key = self.work_key(sub);
        let held: HashMap<String, String> =
            match self.redis.command(&["XPENDING", &key, "g", "-", "+", "10000"]).await {
                Ok(rows) => rows
                    .items()
                    .iter()
                    .map(|row| (row.items()[0].text().unwrap(), row.items()[1].text().unwrap()))
                    .collect(),
                Err(_) => HashMap::new(),
            };
        let mut ids = Vec::new();
        for row in self.redis(&["XRANGE", &key, "-", "+"]).await.items() {
            let at = held.get(&row.items()[0].text().unwrap()).map_or("waiting", String::as_str).to_owned();
            if at == place {
                let fields = row.items()[1].items();
                let m = fields[1].text().unwrap();
                ids.push(Entry { record: m.into_bytes().into() }.decode().unwrap().id.to_string());
            }
        }
        ids
    }

    /// Ids and reasons of a subscription's dead letters, oldest first.
    pub async fn dead(&self, sub: &Subscription) -> Vec<(String, String)> {
        let letters = self.store.dead_letters(&sub.id, StreamId::ZERO, None, 1_000).await.unwrap();
        letters
            .iter()
            .map(|letter| {
                let id = letter.entry.decode().unwrap().id.to_string();
                (id, letter.reason.map(|reason| reason.as_str().to_owned()).unwrap_or_default())
            })
            .collect()
    }

    /// Queues so many entries for subscriptions of one lane, with ids of a partition of their own.
    pub async fn fill(&mut self, subs: &[&Subscription], count: usize) {
        let lane = LAYOUT.lane_of(&subs[0].id);
        let to: Vec<&SubscriptionId> = subs.iter().map(|sub| &sub.id).collect();
        let from = self.sent.get(&(lane, FILLED)).map_or(0, |id| id.ms);
        let record = Entry::encode(&message("filled", Priority::Normal), usize::MAX);
        let entries: Vec<entry::Accepted> = (1..=u64::try_from(count).unwrap())
            .map(|n| entry::Accepted {
                id: StreamId { ms: from + n, seq: 0 },
                accepted_ms: 1,
                entry: record.clone(),
                first: None,
            })
            .collect();
        for some in entries.chunks(500) {
            let placed = some
                .iter()
                .map(|entry| Placed { keep: false, ..place(entry, &to, Priority::Normal) })
                .collect();
            let reply = self.send(lane, FILLED, some.last().unwrap().id, placed).await;
            assert_eq!(reply.links, [Linked::Ok]);
        }
    }

    /// Sends the next link of a partition's chain to a lane.
    pub async fn send(
        &mut self,
        lane: u16,
        partition: u16,
        last: StreamId,
        entries: Vec<Placed<'_>>,
    ) -> Enqueued {
        let prev = self.sent.insert((lane, partition), last).unwrap_or_default();
        self.enqueue(lane, ChainLink { partition, prev, last, entries }).await.unwrap()
    }

    pub async fn enqueue(&self, lane: u16, link: ChainLink<'_>) -> Result<Enqueued, StoreError> {
        self.store.enqueue(&[(lane, vec![link])], TRACE).await?.pop().unwrap()
    }

    /// Makes a router the owner of a partition that is free: the epoch.
    pub async fn own(&self, me: &str, partition: u16) -> u64 {
        let claims = [Claim { partition, epoch: None, take: true }];
        match self.store.claim(me, 60_000, &claims).await.unwrap().remove(0).unwrap() {
            Claimed::New { epoch, .. } => epoch,
            other => panic!("partition {partition} is not free: {other:?}"),
        }
    }

    pub async fn take(&self, me: &str, sub: &Subscription) -> Taken {
        self.take_some(me, sub, 100).await
    }

    pub async fn take_some(&self, me: &str, sub: &Subscription, most: usize) -> Taken {
        let room = Room { free: most, spare: most, quantum: most, quantum_bytes: 1 << 20, ..Room::UNBOUNDED };
        self.take_in(me, LAYOUT.lane_of(&sub.id), room).await
    }

    pub async fn take_in(&self, me: &str, lane: u16, room: Room) -> Taken {
        self.store.take(me, &[(lane, room)]).await.unwrap().pop().unwrap().unwrap()
    }

    /// Takes the one delivery that is there to be taken.
    pub async fn take_one(&self, me: &str, sub: &Subscription) -> Lease {
        let mut leases = self.take(me, sub).await.leases;
        assert_eq!(leases.len(), 1, "{leases:?}");
        leases.remove(0)
    }

    pub async fn settle(&self, me: &str, settlements: Vec<Settlement>) -> Settled {
        let lane = settlements[0].lease.lane;
        self.settle_lane(me, &[(lane, settlements)]).await
    }

    /// Settles one lane's flight, which can then be sent again.
    pub async fn settle_lane(&self, me: &str, flight: &[(u16, Vec<Settlement>)]) -> Settled {
        self.store.settle(me, flight, CIRCUIT, TRACE).await.unwrap().pop().unwrap().unwrap()
    }

    /// Judges and settles one delivery.
    pub async fn outcome(&self, me: &str, sub: &Subscription, lease: Lease, outcome: &Outcome) -> Settled {
        self.settle(me, vec![settlement(sub, lease, outcome)]).await
    }

    pub async fn promote(&self, me: &str, sub: &Subscription) -> Promoted {
        self.store.promote(me, &[LAYOUT.lane_of(&sub.id)], TRACE).await.unwrap().pop().unwrap().unwrap()
    }

    /// Promotes what is not due yet, as if its time had come.
    pub async fn promote_early(&self, me: &str, sub: &Subscription) -> Promoted {
        let timers = self.lane_key(sub, "timers");
        for timer in self.redis(&["ZRANGE", &timers, "0", "-1"]).await.items() {
            self.redis(&["ZADD", &timers, "1", &timer.text().unwrap()]).await;
        }
        self.promote(me, sub).await
    }

    /// Sweeps a subscription's whole lane, with everything that is out taken for lost.
    pub async fn sweep(&self, me: &str, sub: &Subscription, living: &[&str]) -> Swept {
        // What is taken over in this sweep must not be lost again in the same.
        let lease = Duration::from_millis(1);
        tokio::time::sleep(2 * lease).await;
        self.sweep_lease(me, sub, lease, living).await
    }

    pub async fn sweep_lease(&self, me: &str, sub: &Subscription, lease: Duration, living: &[&str]) -> Swept {
        let living: Vec<String> = living.iter().map(|name| (*name).to_owned()).collect();
        let mut all = Swept::default();
        let mut from = 0;
        loop {
            let (lane, known) =
                (LAYOUT.lane_of(&sub.id), all.lost.iter().map(Lease::handle).collect::<Vec<_>>());
            let page = self.store.sweep(me, lease, lane, from, &living, &known).await.unwrap();
            all.lost.extend(page.lost);
            all.unknown.extend(page.unknown);
            all.rearmed += page.rearmed;
            all.missing += page.missing;
            match page.cursor {
                Some(cursor) => from = cursor,
                None => return all,
            }
        }
    }

    pub async fn state(&self, sub: &Subscription) -> SubscriptionState {
        self.store.states(std::slice::from_ref(&sub.id)).await.unwrap().pop().unwrap()
    }

    pub async fn redis(&self, command: &[&str]) -> Reply {
        self.redis.command(command).await.unwrap()
    }

    /// What a command answers with a number.
    pub async fn number(&self, command: &[&str]) -> i64 {
        let reply = self.redis(command).await;
        reply.int().unwrap_or_else(|| panic!("{command:?}: {reply:?}"))
    }

    /// What a command answers with texts.
    pub async fn texts(&self, command: &[&str]) -> Vec<String> {
        self.redis(command).await.items().iter().filter_map(Reply::text).collect()
    }

    /// Redis's clock, in milliseconds.
    pub async fn now(&self) -> u64 {
        let time: Vec<u64> = self.texts(&["TIME"]).await.iter().map(|part| part.parse().unwrap()).collect();
        time[0] * 1_000 + time[1] / 1_000
    }

    pub fn partition_key(&self, partition: u16, name: &str) -> String {
        self.keys.key(Tag::Partition(partition), name)
    }

    pub fn lane_key(&self, sub: &Subscription, name: &str) -> String {
        self.keys.key(Tag::Lane(LAYOUT.lane_of(&sub.id)), name)
    }

    /// The queue of its messages of normal priority.
    pub fn work_key(&self, sub: &Subscription) -> String {
        self.lane_key(sub, &format!("work:{}:1", sub.id))
    }

    pub fn sub_key(&self, sub: &Subscription) -> String {
        self.lane_key(sub, &format!("sub:{}", sub.id))
    }

    pub async fn length(&self, key: &str) -> i64 {
        self.number(&["XLEN", key]).await
    }

    /// How many deliveries lie in each place of a queue, by consumer name.
    pub async fn places(&self, sub: &Subscription) -> Vec<(String, i64)> {
        let reply = self.redis(&["XPENDING", &self.work_key(sub), "g"]).await;
        let rows = reply.items().get(3).map(|rows| rows.items().to_vec()).unwrap_or_default();
        rows.iter()
            .map(|row| (row.items()[0].text().unwrap(), row.items()[1].text().unwrap().parse().unwrap()))
            .collect()
    }
}

/// What a router says of a message.
#[derive(Debug, Clone, Copy, Default)]
pub struct Terms<'a> {
    pub lives_ms: Option<u64>,
    pub line: Option<&'a str>,
    pub max_length: Option<u64>,
    pub priority: Priority,
}

/// Of an ordering key.
pub fn keyed(line: &str) -> Terms<'_> {
    Terms { line: Some(line), ..Terms::default() }
}

pub fn ids(leases: &[Lease]) -> Vec<String> {
    leases.iter().map(|lease| lease.entry.decode().unwrap().id.to_string()).collect()
}

/// Behind every entry.
pub const END: StreamId = StreamId { ms: u64::MAX, seq: u64::MAX };

pub fn sid(text: &str) -> StreamId {
    text.parse().unwrap()
}

/// A place with its count, as [`Road::places`] says it.
pub fn at(place: &str, count: i64) -> (String, i64) {
    (place.to_owned(), count)
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

/// A settlement that puts a delivery somewhere and says nothing about its subscriber.
pub fn put(lease: Lease, place: Place) -> Settlement {
    let progress = lease.tries.progress;
    let verdict = Verdict { place, progress, health: Health::Unknown, hold: Hold::No };
    Settlement { lease, verdict, attempt: None, ack_timeout: Duration::from_secs(30) }
}

pub fn place<'a>(accepted: &'a entry::Accepted, to: &[&SubscriptionId], priority: Priority) -> Placed<'a> {
    Placed {
        accepted,
        keep: true,
        rank: priority.rank(),
        expires_ms: None,
        line: None,
        max_length: None,
        to: to.iter().map(|id| (*id).clone()).collect(),
    }
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
        expires_after_ms: None,
        generation: 0,
        targets: Arc::from([]),
        test: false,
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
        payload_bytes: message.payload.body.len(),
        entry: Entry::encode(&message, usize::MAX),
        due: None,
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
