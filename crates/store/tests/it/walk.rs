//! Any moves in any order by workers that freeze, repeat themselves and come too late: after each, what lies in
//! the lane agrees, and every delivery is queued, dead or delivered, once.

use std::{collections::HashMap, time::Duration};

use super::kit::*;
use postroad_model::{
    delivery::{Outcome, Place},
    subscription::{Status, Subscription},
};
use postroad_store::{Circuit, Lease, Settlement, StreamId};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

const WORKERS: [&str; 3] = ["w-1", "w-2", "w-3"];
const NO_CIRCUIT: Circuit = Circuit { failures: 0, ..CIRCUIT };

#[derive(Debug, Clone)]
enum Step {
    Fill(usize),
    Take {
        worker: usize,
        most: usize,
    },
    /// What a worker holds, or believes that it holds, comes to its end; perhaps the answer is lost and it is
    /// sent again.
    Settle {
        worker: usize,
        which: usize,
        outcome: Outcome,
        again: bool,
    },
    Promote(usize),
    Sweep(usize),
    Disown {
        worker: usize,
        all: bool,
    },
    Pause(usize),
    Resume(usize),
    LoseTokens,
    LoseTimers,
    ForgetScripts,
    Replay,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let outcome = prop_oneof![
        3 => Just(answered(200)),
        3 => Just(answered(500)),
        1 => Just(Outcome::Rejected),
        1 => Just(Outcome::Unsent),
        1 => Just(Outcome::WorkerLost),
    ];
    let worker = 0..WORKERS.len();
    let step = prop_oneof![
        3 => (1..5_usize).prop_map(Step::Fill),
        6 => (worker.clone(), 1..4_usize).prop_map(|(worker, most)| Step::Take { worker, most }),
        9 => (worker.clone(), 0..9_usize, outcome, any::<bool>())
            .prop_map(|(worker, which, outcome, again)| Step::Settle { worker, which, outcome, again }),
        3 => worker.clone().prop_map(Step::Promote),
        2 => worker.clone().prop_map(Step::Sweep),
        1 => (worker, any::<bool>()).prop_map(|(worker, all)| Step::Disown { worker, all }),
        1 => (0..2_usize).prop_map(Step::Pause),
        1 => (0..2_usize).prop_map(Step::Resume),
        1 => Just(Step::LoseTokens),
        1 => Just(Step::LoseTimers),
        1 => Just(Step::ForgetScripts),
        1 => Just(Step::Replay),
    ];
    prop::collection::vec(step, 5..40)
}

/// A lane with two subscriptions, and workers with what each believes that it holds.
struct Walk<'a> {
    road: &'a mut Road,
    subs: [Subscription; 2],
    held: [Vec<Lease>; 3],
    sent: u64,
    delivered: u64,
}

impl Walk<'_> {
    fn sub(&self, lease: &Lease) -> &Subscription {
        self.subs.iter().find(|sub| sub.id == lease.subscription).unwrap()
    }

    async fn step(&mut self, step: &Step) {
        match *step {
            Step::Fill(count) => {
                self.road.fill(&[&self.subs[0], &self.subs[1]], count).await;
                self.sent += 2 * u64::try_from(count).unwrap();
            }
            Step::Take { worker, most } => {
                let taken = self.road.take_some(WORKERS[worker], &self.subs[0], most).await;
                self.held[worker].extend(taken.leases);
            }
            Step::Settle { worker, which, ref outcome, again } => {
                if !self.held[worker].is_empty() {
                    let lease = self.held[worker].remove(which % self.held[worker].len());
                    let settled = settlement(self.sub(&lease), lease, outcome);
                    self.settle(worker, settled, again).await;
                }
            }
            Step::Promote(worker) => {
                let promoted = self.road.promote_early(WORKERS[worker], &self.subs[0]).await;
                self.held[worker].extend(promoted.missed);
            }
            Step::Sweep(worker) => {
                let swept = self.road.sweep(WORKERS[worker], &self.subs[0], &WORKERS).await;
                assert_eq!((swept.rearmed, swept.missing, swept.unknown.len()), (0, 0, 0), "{swept:?}");
                self.held[worker].extend(swept.lost);
            }
            Step::Disown { worker, all } => {
                let known = if all { vec![] } else { self.held[worker].iter().map(Lease::handle).collect() };
                let known = HashMap::from([(0, known)]);
                self.road.store.disown(WORKERS[worker], &[0], &known).await.unwrap();
            }
            Step::Pause(at) => {
                self.road.change(&mut self.subs[at], |sub| sub.status = Status::Paused).await;
            }
            Step::Resume(at) => {
                self.road.change(&mut self.subs[at], |sub| sub.status = Status::Active).await;
            }
            Step::LoseTokens => self.lose("ready").await,
            Step::LoseTimers => self.lose("timers").await,
            Step::ForgetScripts => {
                self.road.redis(&["SCRIPT", "FLUSH"]).await;
            }
            Step::Replay => self.replay().await,
        }
    }

    async fn settle(&mut self, worker: usize, settled: Settlement, again: bool) {
        let success = settled.verdict.place == Place::Settled;
        let flight = [(0, vec![settled])];
        for _ in 0..=u8::from(again) {
            let answer = self.road.store.settle(WORKERS[worker], &flight, NO_CIRCUIT, TRACE).await.unwrap();
            let stale = answer.into_iter().next().unwrap().unwrap().stale;
            if success {
                self.delivered += 1 - stale;
            }
        }
    }

    async fn lose(&mut self, name: &str) {
        self.road.redis(&["DEL", &self.road.lane_key(&self.subs[0], name)]).await;
        self.road.sweep_lease("w-1", &self.subs[0], Duration::from_secs(3_600), &WORKERS).await;
    }

    async fn replay(&mut self) {
        for sub in &self.subs {
            let letters = self.road.store.dead_letters(&sub.id, StreamId::ZERO, None, 1_000).await.unwrap();
            let ids: Vec<StreamId> = letters.iter().map(|letter| letter.id.entry).collect();
            self.road.store.replay_dead(&sub.id, "job_1", 1_000, TRACE, &ids).await.unwrap();
        }
    }

    /// What was sent lies in a queue, is dead or was delivered.
    async fn conserved(&self) -> u64 {
        let mut queued = 0;
        let mut dead = 0;
        for sub in &self.subs {
            let state = self.road.state(sub).await;
            (queued, dead) = (queued + state.queued, dead + state.dead);
        }
        assert_eq!(self.sent, queued + dead + self.delivered, "{queued} queued, {dead} dead");
        queued
    }

    /// Whatever happened before, everything can be brought to its end.
    async fn drain(&mut self) {
        for at in 0..2 {
            self.step(&Step::Resume(at)).await;
        }
        self.replay().await;
        for round in 0.. {
            assert!(round < 400, "it does not drain");
            let mut leases = self.road.promote_early("w-1", &self.subs[0]).await.missed;
            leases.extend(self.road.sweep("w-1", &self.subs[0], &["w-1"]).await.lost);
            leases.extend(self.road.take("w-1", &self.subs[0]).await.leases);
            for lease in leases {
                self.settle(0, put(lease, Place::Settled), false).await;
            }
            if self.conserved().await == 0 {
                break;
            }
        }
        assert_eq!(self.sent, self.delivered);
        self.road.promote_early("w-1", &self.subs[0]).await;
        self.road.sweep("w-1", &self.subs[0], &["w-1"]).await;
        self.road.check().await;
        let live = self.road.number(&["SCARD", &self.road.lane_key(&self.subs[0], "live")]).await;
        assert_eq!((live, self.road.length(&self.road.lane_key(&self.subs[0], "ready")).await), (0, 0));
    }
}

#[test]
fn every_delivery_is_in_one_place_whatever_workers_do() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut road = runtime.block_on(Road::new());
    let mut runner = TestRunner::new(Config { cases: 40, failure_persistence: None, ..Config::default() });
    let road = std::cell::RefCell::new(&mut road);
    runner
        .run(&steps(), |steps| {
            runtime.block_on(walk(&mut road.borrow_mut(), &steps));
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
}

async fn walk(road: &mut Road, steps: &[Step]) {
    road.reset().await;
    let subs = [
        road.subscribe_in(0, |sub| (sub.prefetch_count, sub.retry.max_retries) = (3, 2)).await,
        road.subscribe_in(0, |sub| (sub.prefetch_count, sub.auto_ack) = (4, false)).await,
    ];
    let mut walk = Walk { road, subs, held: Default::default(), sent: 0, delivered: 0 };
    for step in steps {
        walk.step(step).await;
        walk.road.check().await;
        walk.conserved().await;
    }
    walk.drain().await;
}
