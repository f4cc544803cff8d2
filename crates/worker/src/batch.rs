//! Several deliveries of one subscription in one request.
//!
//! Nothing waits for a batch to fill: what one take brought goes together. Inside, each delivery keeps what it is: its
//! lease, its place, its verdict. A batch that fails is a failed attempt of each, and whoever has failed once goes
//! alone from then on, so that one delivery which a subscriber cannot take does not spoil others' attempts. A
//! suspect goes alone as well, and a test.

mod failed;

use std::sync::Arc;

use postroad_model::{
    delivery::{Attempt, Hold, Outcome},
    message::Message,
};
use postroad_store::{Lease, Settlement};
use reqwest::Url;
use serde_json::Value;
use tracing::debug;

use crate::{
    client::shown,
    deliver::{Called, call, conclude, has_expired, unreadable, unsent},
    places::Place,
    request::{Sending, batch},
    shared::Shared,
    targets::Target,
};

/// What is read of an answer: so much for each delivery that it may tell of, and so much at most.
const ANSWER_BYTES_EACH: usize = 16 << 10;
const ANSWER_BYTES: usize = 256 << 10;

/// Deliveries of subscriptions that take several in one request, as one take brought them.
#[derive(Default)]
pub struct Batches {
    together: Vec<Group>,
    alone: Vec<Group>,
}

/// Deliveries of one subscription.
struct Group {
    target: Arc<Target>,
    leases: Vec<(Lease, Place)>,
}

impl Batches {
    /// Adds a delivery: to those of the same subscription, unless it has to go alone.
    pub fn add(&mut self, target: &Arc<Target>, lease: Lease, place: Place) {
        let progress = lease.tries.progress;
        let groups = if progress.attempts > 0 || progress.runs_alone() {
            &mut self.alone
        } else {
            // What a take brings of a subscription comes in one piece.
            if let Some(last) = self.together.last_mut()
                && last.target.subscription.id == lease.subscription
            {
                return last.leases.push((lease, place));
            }
            &mut self.together
        };
        groups.push(Group { target: Arc::clone(target), leases: vec![(lease, place)] });
    }

    /// Sets them on their way.
    pub fn start(self, shared: &Shared) {
        for Group { target, leases } in self.together.into_iter().chain(self.alone) {
            tokio::spawn(deliver(shared.clone(), target, leases));
        }
    }
}

/// A delivery that is about to be sent.
struct Member {
    lease: Lease,
    place: Place,
    message: Message,
}

impl Member {
    fn sending(&self) -> Sending<'_> {
        Sending { message: &self.message, attempt: self.lease.tries.progress.attempts + 1 }
    }

    /// What a subscriber may call it: by its message's id, or by the id of the event that it came as.
    fn names(&self) -> [&str; 2] {
        let id = self.message.id.as_str();
        [id, self.message.metadata.headers.get("ce-id").and_then(Value::as_str).unwrap_or(id)]
    }
}

/// Delivers what leases stand for: in one request, or in as many as their bytes take.
async fn deliver(shared: Shared, target: Arc<Target>, leases: Vec<(Lease, Place)>) {
    let members: Vec<Member> = leases
        .into_iter()
        .filter_map(|(lease, place)| match ready(&shared, &target, lease) {
            Ok((lease, message)) => Some(Member { lease, place, message }),
            Err(settlement) => {
                shared.settle(*settlement, Some(place));
                None
            }
        })
        .collect();
    let now_ms = shared.clock.now_ms();
    let body = |member: &Member| batch::member(&target, member.sending(), now_ms);
    let bodies: Vec<Vec<u8>> = members.iter().map(body).collect();
    let goes_with = |message: &Message| (!message.test).then_some(message.generation);
    let rows: Vec<(usize, Option<u32>)> =
        members.iter().zip(&bodies).map(|(member, body)| (body.len(), goes_with(&member.message))).collect();
    let most = usize::try_from(target.subscription.batch_size).unwrap_or(usize::MAX);
    let (mut members, mut bodies) = (members.into_iter(), bodies.into_iter());
    for count in batch::cut(&rows, most) {
        let members = members.by_ref().take(count).collect();
        let bodies = bodies.by_ref().take(count).collect();
        tokio::spawn(send(shared.clone(), Arc::clone(&target), members, bodies, now_ms));
    }
}

/// What may be sent; else what becomes of it without.
fn ready(shared: &Shared, target: &Target, lease: Lease) -> Result<(Lease, Message), Box<Settlement>> {
    let message = match lease.entry.decode() {
        Ok(message) => message,
        Err(error) => return Err(Box::new(unreadable(shared, lease, &error))),
    };
    // Begun now it might come when another worker has it already.
    if lease.since.elapsed() > shared.config.latest_start {
        return Err(Box::new(unsent(lease)));
    }
    if has_expired(shared, &lease, &message) {
        return Err(Box::new(conclude(shared, lease, target, &message, &Called::none(Outcome::Expired))));
    }
    Ok((lease, message))
}

/// send and judge, for all that go together.
async fn send(shared: Shared, target: Arc<Target>, members: Vec<Member>, bodies: Vec<Vec<u8>>, now_ms: u64) {
    let build = |url: &Url| {
        let sendings: Vec<Sending<'_>> = members.iter().map(Member::sending).collect();
        batch::build(&target, url, &sendings, &bodies, now_ms, rand::random())
    };
    let keep = ANSWER_BYTES.min(ANSWER_BYTES_EACH * (members.len() + 1));
    let mut answer = call(&shared, &target, now_ms, build, keep).await;
    let body = std::mem::take(&mut answer.body);
    drop(bodies);
    let names: Vec<[&str; 2]> = members.iter().map(Member::names).collect();
    let failed = failed::read(&body, &names);
    if let Some(strange) = failed.strange {
        debug!(subscription.id = %target.subscription.id, strange, "a list of failures in the answer to a batch cannot be understood");
    }
    for (at, (member, failed)) in members.into_iter().zip(failed.errors).enumerate() {
        let Member { lease, place, message } = member;
        let mut called = answer.clone();
        if let Some(attempt) = &mut called.attempt {
            attempt.number = lease.tries.progress.attempts + 1;
        }
        if let Some(error) = failed {
            called.outcome = Outcome::Refused;
            if let Some(attempt) = &mut called.attempt {
                let error = &error.as_bytes()[..error.len().min(Attempt::RESPONSE_BYTES)];
                attempt.error = Some(format!("failed in a batch: {}", shown(error)));
            }
        }
        let mut settlement = conclude(&shared, lease, &target, &message, &called);
        // One answer holds the subscription once.
        if at > 0 {
            settlement.verdict.hold = Hold::No;
        }
        shared.settle(settlement, Some(place));
    }
}
