//! A message's deliveries, as people see them: where each lies, and what it has been through.

use postroad_api::error::ApiResult;
use postroad_model::{
    delivery::{Attempt, DeadReason},
    time::Time,
};
use postroad_store::{
    Found,
    trace::{Lies, Line, Trace},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::App;

/// Where a message stands: the least finished of its deliveries' states, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = DeliveryStatus)]
pub enum Status {
    /// Stored, and not due yet.
    Scheduled,
    /// Stored, and not routed yet.
    Accepted,
    /// In a queue, to be taken.
    Queued,
    /// A retry is scheduled.
    RetryScheduled,
    /// At a worker.
    InFlight,
    /// Handed over, and waiting for its acknowledgment.
    AwaitingAck,
    /// Among the dead letters.
    Dead,
    /// Among the dead letters because its time to live was over.
    Expired,
    /// Its subscription was cancelled, or the message before it was due.
    Cancelled,
    /// Done.
    Delivered,
    /// No subscription matched it.
    Unroutable,
}

/// One subscription's delivery.
#[derive(Debug, Serialize, ToSchema)]
pub struct Delivery {
    /// The subscription.
    pub subscription_id: String,
    /// Where it stands.
    pub state: Status,
    /// When it was queued.
    pub queued_at: Option<Time>,
    /// When its retry is due, or its acknowledgment.
    pub due_at: Option<Time>,
    /// Why it is dead.
    pub dead_reason: Option<&'static str>,
    /// When its subscriber first took it well.
    pub consumed_at: Option<Time>,
    /// When it was acknowledged; with `auto_ack` by taking it well.
    pub acknowledged_at: Option<Time>,
    /// Every attempt, and every acknowledgment.
    pub attempts: Vec<AttemptView>,
    #[serde(skip)]
    handed_out: u32,
}

/// One attempt. What is no attempt of ours (a missed or an explicit acknowledgment, a lost worker) has the number 0.
#[derive(Debug, Serialize, ToSchema)]
pub struct AttemptView {
    /// Its number, from 1.
    pub attempt: u32,
    /// When it began.
    pub started_at: Time,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// The answer's status code.
    pub status_code: Option<u16>,
    /// What went wrong.
    pub error: Option<String>,
    /// The first bytes of the answer.
    pub response: Option<String>,
}

impl Delivery {
    /// How many attempts have failed.
    pub fn retries(&self) -> u32 {
        let has_failed =
            |attempt: &&AttemptView| attempt.error.as_ref().is_some_and(|error| error != Attempt::LOST);
        u32::try_from(self.attempts.iter().filter(has_failed).count()).unwrap_or(u32::MAX)
    }

    /// How often it was handed out again.
    pub fn redeliveries(&self) -> u32 {
        self.handed_out.saturating_sub(1)
    }
}

/// The deliveries of a message that was found.
pub async fn deliveries_of(app: &App, found: &Found) -> ApiResult<Vec<Delivery>> {
    let is_test = found.message.as_ref().is_some_and(|message| message.test);
    let mut deliveries = Vec::new();
    // What never came to ingress went to no lane.
    if found.due_ms.is_some() || found.is_cancelled() {
        return Ok(deliveries);
    }
    for trace in app.store.locate(found.partition, found.at).await? {
        let mut subscriptions: Vec<&str> = trace.lines.iter().map(Line::subscription).collect();
        subscriptions.sort_unstable();
        subscriptions.dedup();
        deliveries.extend(subscriptions.into_iter().map(|subscription| view(&trace, subscription, is_test)));
    }
    deliveries.sort_by(|a, b| a.subscription_id.cmp(&b.subscription_id));
    Ok(deliveries)
}

/// The least finished delivery's state speaks for the message.
pub fn overall(found: &Found, deliveries: &[Delivery]) -> Status {
    match deliveries.iter().map(|delivery| delivery.state).min() {
        Some(state) => state,
        None if found.due_ms.is_some() => Status::Scheduled,
        None if found.is_cancelled() => Status::Cancelled,
        None if found.routed => Status::Unroutable,
        None => Status::Accepted,
    }
}

fn view(trace: &Trace, subscription: &str, is_test: bool) -> Delivery {
    let lines: Vec<&Line> = trace.lines.iter().filter(|line| line.subscription() == subscription).collect();
    let dead_reason = trace.dead_reason(subscription);
    let lies = trace.located.iter().rev().find(|row| row.subscription == subscription).map(|row| &row.lies);
    // A test that failed is settled too, since that is the end of it.
    let failed = |attempt: &Attempt| is_test && attempt.error.is_some();
    let settled = lines.iter().find_map(|line| match line {
        Line::Attempted { place, attempt, .. } if place == "s" => Some(!failed(attempt)),
        _ => None,
    });
    let (state, due_ms) = match lies {
        Some(Lies::Waiting) => (Status::Queued, None),
        Some(Lies::InFlight(_)) => (Status::InFlight, None),
        Some(Lies::AwaitingAck(due)) => (Status::AwaitingAck, Some(*due)),
        Some(Lies::Scheduled(due)) => (Status::RetryScheduled, Some(*due)),
        Some(Lies::Gone) | None => match dead_reason {
            Some(DeadReason::Expired) => (Status::Expired, None),
            Some(_) => (Status::Dead, None),
            None => match settled {
                Some(true) => (Status::Delivered, None),
                Some(false) => (Status::Dead, None),
                None => (Status::Cancelled, None),
            },
        },
    };
    let mut delivery = Delivery {
        subscription_id: subscription.to_owned(),
        state,
        queued_at: None,
        due_at: due_ms.filter(|due| *due > 0).map(Time::from_millis),
        dead_reason: dead_reason.map(DeadReason::as_str),
        consumed_at: None,
        acknowledged_at: None,
        attempts: Vec::new(),
        handed_out: 0,
    };
    for line in lines {
        delivery.note(line);
    }
    delivery
}

impl Delivery {
    fn note(&mut self, line: &Line) {
        match line {
            Line::Queued { at_ms, .. } => {
                self.queued_at.get_or_insert(Time::from_millis(*at_ms));
            }
            Line::Pulled { at_ms, .. } => {
                self.handed_out += 1;
                self.consumed_at.get_or_insert(Time::from_millis(*at_ms));
            }
            Line::Attempted { place, attempt, .. } => {
                let ended = Time::from_millis(attempt.started_at_ms.saturating_add(attempt.duration_ms));
                self.handed_out += u32::from(attempt.number > 0);
                if attempt.status.is_some_and(|status| (200..300).contains(&status)) {
                    self.consumed_at.get_or_insert(ended);
                }
                if place == "s" {
                    self.acknowledged_at = Some(ended);
                }
                self.attempts.push(AttemptView {
                    attempt: attempt.number,
                    started_at: attempt.started_at(),
                    duration_ms: attempt.duration_ms,
                    status_code: attempt.status,
                    error: attempt.error.clone(),
                    response: attempt.response.clone(),
                });
            }
            Line::Dead { .. } | Line::Replayed { .. } => {}
        }
    }
}
