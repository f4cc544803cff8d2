//! What subscribers say of deliveries themselves: done, failed, rejected.
//!
//! | it lies | done | failed | rejected |
//! |---|---|---|---|
//! | waiting, never handed out | settled | 409 | 409 |
//! | in flight, awaiting its acknowledgment | settled | a failed attempt | dead |
//! | scheduled for a retry, due again, held | settled | as it was: that attempt has failed | dead |
//! | delivered | as it was | 409 | 409 |
//! | dead | 409 | as it was | as it was where it was rejected, else 409 |
//!
//! It is settled in the name of whoever holds it, on the one path that workers use: whoever held it comes too late.

use std::{collections::BTreeMap, time::Duration};

use axum::http::StatusCode;
use futures_util::future::join_all;
use postroad_api::{
    caller::Caller,
    error::{ApiError, ApiResult},
    page,
};
use postroad_model::{
    delivery::{Attempt, DeadReason, Health, Hold, Outcome, Place, Progress, Verdict, judge},
    figures::Judged,
    id::{MessageId, SubscriptionId},
    names::{ChannelName, Tenant},
    subscription::Subscription,
    time::millis,
};
use postroad_store::{
    Circuit, Lease, Outstanding, Settlement, StreamId, Versioned,
    trace::{Lies, Line},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::App;

/// What is said of one delivery.
#[derive(Debug, Clone)]
pub struct Said {
    /// The message.
    pub message: MessageId,
    /// What became of it.
    pub word: Word,
}

/// What became of a delivery, as its subscriber says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// It was processed.
    Done {
        /// What its subscriber notes of it.
        note: Option<String>,
    },
    /// It was not: a failed attempt.
    Failed {
        /// Why.
        error: Option<String>,
    },
    /// It never will be: a dead letter.
    Rejected {
        /// Why.
        error: Option<String>,
    },
}

/// Where a delivery stands once it was spoken of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It is done.
    Delivered,
    /// It is tried again later.
    RetryScheduled,
    /// It is tried again as soon as there is room.
    Queued,
    /// It is a dead letter.
    Dead,
}

/// How often a delivery that moves meanwhile is looked for again.
const LOOKS: usize = 5;
/// Acknowledgments open no circuit: what is said is said by somebody who answers.
const NO_CIRCUIT: Circuit =
    Circuit { failures: 0, lasting: Duration::ZERO, open: Duration::ZERO, open_max: Duration::ZERO };

/// Takes what the subscriber `by` says of deliveries of one subscription: where each stands then, in the order
/// given. What is said twice counts once.
///
/// # Errors
/// Each row's own: 404 `no_delivery`, 409 `delivery_dead`, `already_acknowledged`, `not_delivered` or `moving`.
pub async fn acknowledge(
    app: &App,
    subscription: &Subscription,
    by: &str,
    said: &[Said],
) -> ApiResult<Vec<ApiResult<Standing>>> {
    let accepted = accepted(app, subscription, said).await?;
    let mut results: Vec<Option<ApiResult<Standing>>> = vec![None; said.len()];
    for _ in 0..LOOKS {
        let open: Vec<usize> = (0..said.len()).filter(|at| results[*at].is_none()).collect();
        if open.is_empty() {
            break;
        }
        let asked: Vec<(Option<(u16, StreamId)>, MessageId)> = open
            .iter()
            .flat_map(|at| accepted[*at].iter().map(|place| (*place, said[*at].message.clone())))
            .collect();
        let looked = app.store.outstanding(&subscription.id, &asked).await?;
        let mut looked =
            looked.ok_or_else(|| ApiError::not_found("subscription", subscription.id.as_str()))?.into_iter();
        let mut moves: BTreeMap<String, Vec<Move>> = BTreeMap::new();
        for at in open {
            // An id with several ordering keys names several messages; here those that came to this subscription.
            let candidates: Vec<Outstanding> = looked.by_ref().take(accepted[at].len()).collect();
            match decide(app, subscription, by, &said[at], candidates) {
                Decision::Is(result) => results[at] = Some(result),
                Decision::Move { holder, settlement, standing, outcome } => {
                    let told = Told::of(app, &settlement, outcome);
                    moves.entry(holder).or_default().push(Move {
                        at,
                        settlement: *settlement,
                        standing,
                        told,
                    });
                }
            }
        }
        for (holder, rows) in moves {
            for (at, standing) in settle(app, &holder, rows).await? {
                results[at] = Some(Ok(standing));
            }
        }
    }
    let results: Vec<ApiResult<Standing>> = results
        .into_iter()
        .zip(said)
        .map(|(result, said)| result.unwrap_or_else(|| Err(moving(&said.message))))
        .collect();
    for (_, said) in results.iter().zip(said).filter(|(result, _)| result.is_err()) {
        if matches!(said.word, Word::Done { .. }) {
            app.tally.acknowledge_failed(&subscription.tenant, None);
        } else {
            app.tally.reject_failed(&subscription.tenant, None);
        }
    }
    Ok(results)
}

/// Where each message was accepted; `None` where it has no history, or is not known by its id.
async fn accepted(
    app: &App,
    subscription: &Subscription,
    said: &[Said],
) -> ApiResult<Vec<Vec<Option<(u16, StreamId)>>>> {
    let (window_ms, now_ms) = (millis(app.config.retention), app.clock.now_ms());
    let finds = said
        .iter()
        .map(|said| app.store.find_message(&subscription.tenant, &said.message, window_ms, now_ms));
    let mut all = Vec::with_capacity(said.len());
    for found in join_all(finds).await {
        let mut places: Vec<_> = found?.iter().map(|found| Some((found.partition, found.at))).collect();
        if places.is_empty() {
            places.push(None);
        }
        all.push(places);
    }
    Ok(all)
}

/// A delivery on its way to where it was decided to go.
struct Move {
    at: usize,
    settlement: Settlement,
    standing: Standing,
    told: Told,
}

/// What the figures of a channel are told of a move that counts.
struct Told {
    tenant: Tenant,
    /// None where the message cannot be read.
    channel: Option<ChannelName>,
    before: Progress,
    verdict: Verdict,
    /// None of one that was processed.
    outcome: Option<Outcome>,
    age_ms: u64,
}

impl Told {
    fn of(app: &App, settlement: &Settlement, outcome: Option<Outcome>) -> Self {
        let lease = &settlement.lease;
        let message = lease.entry.decode().ok();
        Self {
            tenant: message.as_ref().map_or_else(Tenant::single, |message| message.tenant.clone()),
            channel: message.map(|message| message.channel),
            before: lease.tries.progress,
            verdict: settlement.verdict,
            outcome,
            age_ms: app.clock.now_ms().saturating_sub(lease.accepted_ms),
        }
    }

    fn tell(&self, app: &App) {
        let Self { tenant, channel: Some(channel), before, verdict, outcome, age_ms } = self else { return };
        match outcome {
            None => app.tally.acknowledged(tenant, channel),
            Some(outcome) => {
                let judged = Judged { outcome, before: *before, verdict, took_us: 0, age_ms: *age_ms };
                app.tally.rejected(tenant, channel, judged);
            }
        }
    }
}

/// Settles rows of one holder. Those that count; the others have moved meanwhile.
async fn settle(app: &App, holder: &str, rows: Vec<Move>) -> ApiResult<Vec<(usize, Standing)>> {
    let lane = rows[0].settlement.lease.lane;
    let mut settlements = Vec::with_capacity(rows.len());
    let mut marks = Vec::with_capacity(rows.len());
    for Move { at, settlement, standing, told } in rows {
        settlements.push(settlement);
        marks.push((at, standing, told));
    }
    let flight = [(lane, settlements)];
    let mut answers = app.store.settle(holder, &flight, NO_CIRCUIT, millis(app.config.retention)).await?;
    let settled = answers.pop().unwrap_or_else(|| Ok(postroad_store::Settled::default()))?;
    // Which of them came too late another look tells.
    if settled.stale > 0 {
        return Ok(Vec::new());
    }
    marks.iter().for_each(|(_, _, told)| told.tell(app));
    Ok(marks.into_iter().map(|(at, standing, _)| (at, standing)).collect())
}

enum Decision {
    Is(ApiResult<Standing>),
    Move { holder: String, settlement: Box<Settlement>, standing: Standing, outcome: Option<Outcome> },
}

fn decide(
    app: &App,
    subscription: &Subscription,
    by: &str,
    said: &Said,
    candidates: Vec<Outstanding>,
) -> Decision {
    let of_this = |line: &Line| line.subscription() == subscription.id.as_str();
    let mut gone = None;
    let mut candidates = candidates;
    // Whoever acknowledges means one that was handed out.
    candidates.sort_by_key(|candidate| match candidate.lies {
        Lies::AwaitingAck(_) => 0,
        Lies::InFlight(_) => 1,
        Lies::Scheduled(_) => 2,
        Lies::Waiting => 3,
        Lies::Gone => 4,
    });
    for candidate in candidates {
        match candidate.held {
            Some((lease, holder)) => {
                return lying(app, subscription, by, said, lease, holder, &candidate.lies);
            }
            None => gone = candidate.trace.lines.into_iter().rev().find(of_this).or(gone),
        }
    }
    Decision::Is(match gone {
        Some(line) => over(&line, said),
        None => Err(no_delivery(&said.message, subscription)),
    })
}

/// Of a delivery that is in no queue any more.
fn over(last: &Line, said: &Said) -> ApiResult<Standing> {
    let reason = match last {
        Line::Dead { reason, .. } => DeadReason::parse(reason),
        Line::Attempted { place, .. } => place.strip_prefix("d=").and_then(DeadReason::parse),
        _ => None,
    };
    let is_done = matches!(last, Line::Attempted { place, .. } if place == "s");
    match (&said.word, reason) {
        (Word::Done { .. }, None) if is_done => Ok(Standing::Delivered),
        (Word::Failed { .. }, Some(_)) | (Word::Rejected { .. }, Some(DeadReason::Rejected)) => {
            Ok(Standing::Dead)
        }
        (_, Some(reason)) => {
            let message = format!(
                "{} lies among the dead letters ({}); replay it first",
                said.message,
                reason.as_str()
            );
            Err(conflict("delivery_dead", &said.message, message))
        }
        (_, None) if is_done => {
            let message = format!("{} was acknowledged before", said.message);
            Err(conflict("already_acknowledged", &said.message, message))
        }
        (_, None) => Err(ApiError::new(
            StatusCode::NOT_FOUND,
            "no_delivery",
            format!("the delivery of {} is gone", said.message),
        )),
    }
}

/// Of a delivery that lies in its queue.
fn lying(
    app: &App,
    subscription: &Subscription,
    by: &str,
    said: &Said,
    lease: Lease,
    holder: String,
    lies: &Lies,
) -> Decision {
    let is_out = matches!(lies, Lies::InFlight(_) | Lies::AwaitingAck(_));
    let was_tried = lease.tries.progress.attempts > 0;
    let outcome = match &said.word {
        Word::Done { .. } => None,
        Word::Failed { .. } if is_out => Some(Outcome::Refused),
        Word::Rejected { .. } if is_out || (was_tried && holder != "waiting") => Some(Outcome::Rejected),
        Word::Failed { .. } if was_tried => {
            let scheduled = matches!(lies, Lies::Scheduled(_));
            return Decision::Is(Ok(if scheduled { Standing::RetryScheduled } else { Standing::Queued }));
        }
        Word::Failed { .. } | Word::Rejected { .. } => {
            let message = format!("{} was not handed to this subscription yet", said.message);
            return Decision::Is(Err(conflict("not_delivered", &said.message, message)));
        }
    };
    let progress = lease.tries.progress;
    let verdict = match &outcome {
        None => Verdict { place: Place::Settled, progress, health: Health::Good, hold: Hold::No },
        Some(outcome) => judge(&subscription.retry, false, progress, outcome, rand::random()),
    };
    let standing = match verdict.place {
        Place::Settled => Standing::Delivered,
        Place::Later { .. } => Standing::RetryScheduled,
        Place::Again | Place::AwaitingAck => Standing::Queued,
        Place::Dead(_) => Standing::Dead,
    };
    let attempt = Some(noted(app, by, &said.word));
    let settlement = Box::new(Settlement { lease, verdict, attempt, ack_timeout: Duration::ZERO });
    Decision::Move { holder, settlement, standing, outcome }
}

/// What the delivery's history says of it. What a subscriber says is no attempt of ours and has no number.
fn noted(app: &App, by: &str, word: &Word) -> Attempt {
    let said = |what: &str, error: &Option<String>| {
        let why = error.as_ref().map_or_else(String::new, |error| format!(": {error}"));
        format!("{what} by {by}{why}")
    };
    let (error, response) = match word {
        Word::Done { note } => (None, Some(said("acknowledged", note))),
        Word::Failed { error } => (Some(said("refused", error)), None),
        Word::Rejected { error } => (Some(said("rejected", error)), None),
    };
    Attempt { number: 0, started_at_ms: app.clock.now_ms(), duration_ms: 0, status: None, error, response }
}

/// Gives so much more time, from now, to acknowledge deliveries of one subscription.
///
/// # Errors
/// Each row's own: 404 `no_delivery`, 409 `not_delivered` where its acknowledgment is not awaited.
pub async fn extend(
    app: &App,
    subscription: &Subscription,
    by: Duration,
    messages: &[MessageId],
) -> ApiResult<Vec<ApiResult<()>>> {
    let said: Vec<Said> = messages
        .iter()
        .map(|message| Said { message: message.clone(), word: Word::Done { note: None } })
        .collect();
    let accepted = accepted(app, subscription, &said).await?;
    let asked: Vec<_> = accepted
        .iter()
        .zip(messages)
        .flat_map(|(places, message)| places.iter().map(|place| (*place, message.clone())))
        .collect();
    let looked = app.store.outstanding(&subscription.id, &asked).await?;
    let mut looked =
        looked.ok_or_else(|| ApiError::not_found("subscription", subscription.id.as_str()))?.into_iter();
    // A row that lies nowhere is extended nowhere.
    let rows: Vec<Option<(u8, StreamId)>> = accepted
        .iter()
        .map(|places| {
            let mut candidates: Vec<Outstanding> = looked.by_ref().take(places.len()).collect();
            candidates.sort_by_key(|candidate| !matches!(candidate.lies, Lies::AwaitingAck(_)));
            candidates
                .into_iter()
                .find_map(|candidate| candidate.held)
                .map(|(lease, _)| (lease.rank, lease.id))
        })
        .collect();
    let there: Vec<(u8, StreamId)> = rows.iter().flatten().copied().collect();
    let mut extended = app.store.extend(&subscription.id, by, &there).await?.into_iter();
    Ok(rows
        .into_iter()
        .zip(messages)
        .map(|(row, message)| match row.and_then(|_| extended.next()) {
            Some(true) => Ok(()),
            Some(false) => {
                let text = format!("{message} does not await its acknowledgment");
                Err(conflict("not_delivered", message, text))
            }
            None => Err(no_delivery(message, subscription)),
        })
        .collect())
}

/// The subscription that is meant: the one named, else the service's, else the only one that the message went to.
/// Where a message went is known by its history; without one the service's subscriptions are asked.
///
/// # Errors
/// 404 where there is no such delivery, 409 `ambiguous_subscription` where several are.
pub async fn meant(
    app: &App,
    caller: &Caller,
    message: &MessageId,
    subscription: Option<&str>,
    service: Option<&str>,
) -> ApiResult<Subscription> {
    if let Some(id) = subscription {
        return Ok(crate::calls::subscriptions::find(app, caller, id).await?.subscription);
    }
    let (window_ms, now_ms) = (millis(app.config.retention), app.clock.now_ms());
    let mut ids = Vec::new();
    for found in app.store.find_message(&caller.tenant, message, window_ms, now_ms).await? {
        for trace in app.store.locate(found.partition, found.at).await? {
            ids.extend(trace.lines.iter().map(|line| line.subscription().to_owned()));
        }
    }
    ids.sort_unstable();
    ids.dedup();
    let mut known = Vec::new();
    for id in &ids {
        if let Ok(id) = SubscriptionId::new(id)
            && let Some(found) = app.store.subscription(&id).await?
            && found.subscription.tenant == caller.tenant
        {
            known.push(found.subscription);
        }
    }
    if ids.is_empty()
        && let Some(service) = service
    {
        known = holding(app, caller, message, service).await?;
    }
    let of_service: Vec<&Subscription> =
        known.iter().filter(|known| service == Some(known.service_name.as_str())).collect();
    let of = match (of_service.as_slice(), known.as_slice()) {
        ([one], _) => (*one).clone(),
        ([], [one]) => one.clone(),
        ([], []) => {
            let text = format!("{message} is unknown, or went to no subscription");
            return Err(ApiError::new(StatusCode::NOT_FOUND, "no_delivery", text)
                .with("message_id", message.as_str()));
        }
        (several, _) => {
            let count = if several.is_empty() { known.len() } else { several.len() };
            let message = format!("{message} went to {count} subscriptions; name one with subscription_id");
            return Err(ApiError::new(StatusCode::CONFLICT, "ambiguous_subscription", message)
                .with("field", "subscription_id"));
        }
    };
    Ok(of)
}

/// Those of a service's subscriptions in whose queue a message without history lies. Of at most so many of the
/// tenant's.
async fn holding(
    app: &App,
    caller: &Caller,
    message: &MessageId,
    service: &str,
) -> ApiResult<Vec<Subscription>> {
    const PAGES: usize = 10;
    let mut holding = Vec::new();
    let mut after: Option<String> = None;
    for _ in 0..PAGES {
        let page = app.store.subscriptions(&caller.tenant, after.as_deref(), page::MAX_LIMIT).await?;
        after = page.last().map(|last| last.subscription.id.to_string());
        let is_last = page.len() < page::MAX_LIMIT;
        for Versioned { subscription, .. } in page {
            if subscription.service_name.as_str() != service {
                continue;
            }
            let looked = app.store.outstanding(&subscription.id, &[(None, message.clone())]).await?;
            if looked.is_some_and(|looked| looked.iter().any(|found| found.held.is_some())) {
                holding.push(subscription);
            }
        }
        if is_last {
            break;
        }
    }
    Ok(holding)
}

fn conflict(code: &'static str, message: &MessageId, text: String) -> ApiError {
    ApiError::new(StatusCode::CONFLICT, code, text).with("message_id", message.as_str())
}

fn moving(message: &MessageId) -> ApiError {
    conflict("moving", message, format!("{message} moved each time it was looked for; try again"))
        .retry_after(1)
}

fn no_delivery(message: &MessageId, subscription: &Subscription) -> ApiError {
    let text = format!("there is no delivery of {message} to {}", subscription.id);
    ApiError::new(StatusCode::NOT_FOUND, "no_delivery", text).with("message_id", message.as_str())
}
