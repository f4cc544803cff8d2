//! What a router and a worker do, move by move: for tests that must know where a delivery lies.

use std::time::Duration;

use postroad_model::{
    delivery::{Attempt, Health, Hold, Outcome, Place, Verdict, judge},
    id::SubscriptionId,
    subscription::Subscription,
};
use postroad_store::{
    ChainLink, Circuit, Lease, Linked, Placed, Promoted, Room, Settled, Settlement, Store, StreamId,
};
use serde_json::Value;

use crate::kit::Town;

pub const TRACE: u64 = 86_400_000;
const CIRCUIT: Circuit = Circuit {
    failures: 0,
    lasting: Duration::ZERO,
    open: Duration::from_secs(1),
    open_max: Duration::from_secs(1),
};
const END: StreamId = StreamId { ms: u64::MAX, seq: u64::MAX };

/// The one lane and the one partition of a town, and how far it is routed.
pub struct Road {
    pub store: Store,
    sent: StreamId,
}

impl Road {
    /// A town that has one of each.
    pub async fn town() -> Town {
        let mut town = Town::new().await;
        (town.config.base.layout.partitions, town.config.base.layout.lanes) = (1, 1);
        town
    }

    pub fn of(town: &Town) -> Self {
        Self { store: town.store(), sent: StreamId::ZERO }
    }

    /// Routes what was published since to subscriptions.
    pub async fn route(&mut self, to: &[&Value]) {
        let all = self.store.history(0, self.sent, END, 1_000).await.unwrap();
        let to: Vec<SubscriptionId> = to
            .iter()
            .map(|created| SubscriptionId::new(created["subscription_id"].as_str().unwrap()).unwrap())
            .collect();
        let last = all.last().unwrap().id;
        let placed = |accepted: &postroad_store::entry::Accepted| accepted.entry.decode().unwrap().persistent;
        let entries = all
            .iter()
            .map(|accepted| Placed {
                accepted,
                keep: placed(accepted),
                rank: 1,
                expires_ms: None,
                line: None,
                max_length: None,
                to: to.clone(),
            })
            .collect();
        let link = ChainLink { partition: 0, prev: self.sent, last, entries };
        let reply = self.store.enqueue(&[(0, vec![link])], TRACE).await.unwrap().pop().unwrap().unwrap();
        assert_eq!(reply.links, [Linked::Ok]);
        self.sent = last;
    }

    /// Takes as a worker.
    pub async fn take(&self, me: &str) -> Vec<Lease> {
        let room = Room { free: 50, spare: 50, quantum: 50, quantum_bytes: 1 << 20, ..Room::UNBOUNDED };
        self.store.take(me, &[(0, room)]).await.unwrap().pop().unwrap().unwrap().leases
    }

    /// Judges an outcome and settles it, as a worker.
    pub async fn settle(&self, me: &str, lease: Lease, outcome: &Outcome) -> Settled {
        let sub = self.settings(&lease.subscription).await;
        let verdict = judge(&sub.retry, sub.auto_ack, lease.tries.progress, outcome, 0.0);
        self.put(me, lease, verdict, sub.ack_timeout).await
    }

    /// Puts a delivery somewhere.
    pub async fn place(&self, me: &str, lease: Lease, place: Place) -> Settled {
        let verdict =
            Verdict { place, progress: lease.tries.progress, health: Health::Unknown, hold: Hold::No };
        self.put(me, lease, verdict, 30).await
    }

    async fn put(&self, me: &str, lease: Lease, verdict: Verdict, ack_seconds: u64) -> Settled {
        let attempt = Some(Attempt {
            number: lease.tries.progress.attempts + 1,
            started_at_ms: 1_705_321_800_123,
            duration_ms: 7,
            status: Some(200),
            error: None,
            response: None,
        });
        let ack_timeout = Duration::from_secs(ack_seconds);
        let settlement = Settlement { lease, verdict, attempt, ack_timeout };
        let settled = self.store.settle(me, &[(0, vec![settlement])], CIRCUIT, TRACE).await.unwrap();
        settled.into_iter().next().unwrap().unwrap()
    }

    /// Promotes what is not due yet, as if its time had come.
    pub async fn promote_early(&self, town: &Town, me: &str) -> Promoted {
        const ALL: &str = "
            for _, key in ipairs(redis.call('KEYS', '*}:timers')) do
              for _, timer in ipairs(redis.call('ZRANGE', key, 0, -1)) do redis.call('ZADD', key, 1, timer) end
            end";
        town.redis.command(&["EVAL", ALL, "0"]).await.unwrap();
        self.store.promote(me, &[0], TRACE).await.unwrap().pop().unwrap().unwrap()
    }

    pub async fn settings(&self, id: &SubscriptionId) -> Subscription {
        self.store.subscription(id).await.unwrap().unwrap().subscription
    }
}
