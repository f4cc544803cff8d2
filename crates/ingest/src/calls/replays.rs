//! History once more: `POST /v1/messages/{id}/replay`, `POST /v1/subscriptions/{id}/replay` and `/v1/replays/{id}`.
//!
//! Here jobs are made, shown and stopped; a reprocessor runs them.

use std::{ops::RangeInclusive, sync::Arc};

use axum::{
    Json,
    extract::{Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use postroad_api::{
    body,
    error::{ApiError, ApiResult, ErrorResponse},
    openapi::{Always, ByName, WithBody},
    path::Named,
};
use postroad_model::{
    id::{JobId, Kind, MessageId, SubscriptionId, mint},
    time::Time,
};
use postroad_store::{HistoryNote, HistoryReplay, Job, JobState, Source};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{messages, subscriptions};
use crate::{
    App,
    openapi::params::{JobPath, MessagePath, SubscriptionPath},
};

/// The most bytes of a request.
const MAX_BODY: usize = 128 << 10;
/// The most subscriptions that can be named.
const MAX_SUBSCRIPTIONS: usize = 1_000;
/// Messages a second that can be asked for.
const RATES: RangeInclusive<f64> = 0.01..=1_000_000.0;

/// To whom a message is delivered again. The body may be left out.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(example = json!({ "subscriptions": ["sub_01hm6c8f3sxk2v9d0q4t7w1y5z3b8n"] }))]
pub struct ReplayMessageRequest {
    /// To these subscriptions, 1 to 1,000, whether they match it or not. Left out: to every subscription that matches
    /// it when the job runs, also one that was created since, and none that matches no longer.
    #[schema(min_items = 1, max_items = 1_000)]
    pub subscriptions: Option<Vec<String>>,
}

/// What is delivered again to a subscription: what it matches of the messages that history still has.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
        "from": "2024-01-15T12:00:00Z",
        "to": "2024-01-15T13:00:00Z",
        "rate": 50.0,
        "limit": 1000,
    }))]
pub struct ReplaySubscriptionRequest {
    /// Messages that were accepted from then on.
    pub from: Time,
    /// And before then; now where it is left out. What is accepted after this call is not delivered again.
    #[serde(default)]
    pub to: Option<Time>,
    /// Messages a second, 0.01 to 1,000,000; as fast as it goes where it is left out.
    #[serde(default)]
    #[schema(minimum = 0.01, maximum = 1_000_000)]
    pub rate: Option<f64>,
    /// The most messages.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub limit: Option<u64>,
}

/// A job that delivers history again, and how it comes along.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ReplayJob {
    /// Its id.
    pub job_id: String,
    /// `waiting`, `running`, `done`, `stopped` or `failed`.
    pub state: &'static str,
    /// The message that it delivers again, if it is one.
    pub message_id: Option<MessageId>,
    /// To these; null: to all that match it.
    pub subscriptions: Option<Vec<SubscriptionId>>,
    /// The subscription that it delivers to, if it is for one.
    pub subscription_id: Option<SubscriptionId>,
    /// Messages that were accepted from then on,
    pub from: Option<Time>,
    /// and before then.
    pub to: Option<Time>,
    /// Messages a second.
    pub rate: Option<f64>,
    /// The most messages.
    pub limit: Option<u64>,
    /// Deliveries that it has asked for. They are made as any other is, and
    /// `GET /v1/messages/{id}/deliveries` shows them with the message's first ones.
    pub replayed: u64,
    /// Messages that it has looked at.
    pub scanned: u64,
    /// Subscriptions that were named and were gone when it ran.
    pub skipped: u64,
    /// What it waits for, if it does: room in a queue, or in Redis.
    pub waiting_for: Option<String>,
    /// When it was made.
    pub started_at: Time,
    /// When it last got on.
    pub updated_at: Time,
    /// Why it failed.
    pub error: Option<String>,
}

impl ReplayJob {
    fn new(job: Job, replay: HistoryReplay, moved: u64) -> Self {
        let note: HistoryNote = serde_json::from_str(&job.note).unwrap_or_default();
        let mut shown = Self {
            job_id: job.id,
            state: job.state.as_str(),
            message_id: None,
            subscriptions: None,
            subscription_id: None,
            from: None,
            to: None,
            rate: replay.rate,
            limit: replay.limit,
            replayed: job.moved.unwrap_or(moved),
            scanned: note.scanned,
            skipped: note.skipped,
            waiting_for: note.waits_for.filter(|_| job.state.is_open()),
            started_at: Time::from_millis(job.made_ms),
            updated_at: Time::from_millis(job.changed_ms),
            error: note.error,
        };
        match replay.source {
            Source::Message { id, subscriptions, .. } => {
                (shown.message_id, shown.subscriptions) = (Some(id), subscriptions);
            }
            Source::Range { subscription, from, to } => {
                shown.subscription_id = Some(subscription);
                (shown.from, shown.to) = (Some(from), Some(to));
            }
        }
        shown
    }
}

/// Delivers a message again.
///
/// Under the same `webhook-id`, with `postroad-generation` one higher. Where an id was used under several
/// ordering keys, the newest message of it is meant.
#[utoipa::path(
    post,
    path = "/v1/messages/{id}/replay",
    operation_id = "replay_message",
    tag = "replays",
    params(MessagePath),
    request_body = ReplayMessageRequest,
    responses(
        (
            status = 202,
            description = "The job that does it.",
            body = ReplayJob,
            headers(("Location" = String, description = "Where the job is shown.")),
        ),
        (
            status = 409,
            description = "It is not due yet, was cancelled, or was published with `persistent: false`; or \
                too many jobs are open.",
            body = ErrorResponse,
        ),
        (
            status = 410,
            description = "`history_gone`: the id is still known and the payload is not.",
            body = ErrorResponse,
        ),
        ByName,
        WithBody,
        Always,
    ),
)]
pub async fn message(State(app): State<Arc<App>>, Named(id): Named, request: Request) -> ApiResult<Response> {
    let wanted: ReplayMessageRequest = optional(request).await?;
    let caller = app.caller();
    let (message_id, found) = messages::find(&app, &caller, &id).await?;
    let conflict = |code, problem: &str| {
        Err(ApiError::new(StatusCode::CONFLICT, code, format!("message {id:?} {problem}"))
            .with("id", id.as_str()))
    };
    if found.due_ms.is_some() {
        return conflict("not_published", "is not due yet; it can be replayed once it was delivered");
    }
    if found.is_cancelled() {
        return conflict("cancelled", "was cancelled before it was due; publish it anew, under another id");
    }
    match &found.message {
        None => {
            let message = format!("history has let the payload of message {id:?} go; publish it anew");
            return Err(ApiError::new(StatusCode::GONE, "history_gone", message).with("id", id));
        }
        Some(message) if !message.persistent => {
            return conflict("no_history", "was published with persistent: false and keeps no history");
        }
        Some(_) => {}
    }
    let subscriptions = match wanted.subscriptions {
        None => None,
        Some(named) if named.is_empty() || named.len() > MAX_SUBSCRIPTIONS => {
            let message = format!(
                "{} subscriptions; name 1 to {MAX_SUBSCRIPTIONS}, or leave them out for all that match",
                named.len()
            );
            return Err(ApiError::field("subscriptions", message));
        }
        Some(mut named) => {
            named.sort_unstable();
            named.dedup();
            Some(there(&app, &named).await?)
        }
    };
    let source = Source::Message { id: message_id, partition: found.partition, at: found.at, subscriptions };
    make(&app, &HistoryReplay::new(source, None, None)).await
}

/// The ids of subscriptions, each of which there is.
async fn there(app: &App, named: &[String]) -> ApiResult<Vec<SubscriptionId>> {
    let unknown = |id: &String| ApiError::not_found("subscription", id).with("field", "subscriptions");
    let mut ids = Vec::with_capacity(named.len());
    for id in named {
        ids.push(SubscriptionId::new(id).map_err(|_| unknown(id))?);
    }
    let tenant = app.caller().tenant;
    for (id, found) in named.iter().zip(app.store.records(&ids).await?) {
        if found.is_none_or(|found| found.subscription.tenant != tenant) {
            return Err(unknown(id));
        }
    }
    Ok(ids)
}

/// Delivers what a subscription matches of a time again.
///
/// Partition by partition, each in the order of acceptance. Messages that were published with `persistent:
/// false` and earlier replays are left out.
#[utoipa::path(
    post,
    path = "/v1/subscriptions/{id}/replay",
    operation_id = "replay_subscription",
    tag = "replays",
    params(SubscriptionPath),
    request_body = ReplaySubscriptionRequest,
    responses(
        (
            status = 202,
            description = "The job that does it.",
            body = ReplayJob,
            headers(("Location" = String, description = "Where the job is shown.")),
        ),
        (status = 409, description = "Too many jobs are open.", body = ErrorResponse),
        ByName,
        WithBody,
        Always,
    ),
)]
pub async fn subscription(
    State(app): State<Arc<App>>,
    Named(id): Named,
    request: Request,
) -> ApiResult<Response> {
    let wanted: ReplaySubscriptionRequest = body::json(request, MAX_BODY).await?;
    let found = subscriptions::find(&app, &app.caller(), &id).await?;
    let ReplaySubscriptionRequest { from, to, rate, limit } = wanted;
    let to = to.unwrap_or_else(|| Time::from_millis(app.clock.now_ms()));
    if from >= to {
        return Err(ApiError::field("from", format!("from = {from} must lie before to = {to}")));
    }
    if let Some(rate) = rate.filter(|rate| !RATES.contains(rate)) {
        let message = format!("rate = {rate} must be {} to {} messages a second", RATES.start(), RATES.end());
        return Err(ApiError::field("rate", message));
    }
    if limit == Some(0) {
        let message = "limit = 0 would deliver nothing; leave it out to deliver all that matches";
        return Err(ApiError::field("limit", message));
    }
    let source = Source::Range { subscription: found.subscription.id, from, to };
    make(&app, &HistoryReplay::new(source, rate, limit)).await
}

/// Shows how a replay job comes along.
///
/// Jobs are remembered for a week after their end.
#[utoipa::path(
    get,
    path = "/v1/replays/{id}",
    operation_id = "show_replay",
    tag = "replays",
    params(JobPath),
    responses(
        (status = 200, description = "The job.", body = ReplayJob),
        ByName,
        Always,
    ),
)]
pub async fn show(State(app): State<Arc<App>>, Named(id): Named) -> ApiResult<Json<ReplayJob>> {
    Ok(Json(progress(&app, &id).await?))
}

/// Stops a replay job.
///
/// Once this has answered it asks for no more deliveries; what it has asked for is delivered. Stopping twice is
/// fine.
#[utoipa::path(
    delete,
    path = "/v1/replays/{id}",
    operation_id = "stop_replay",
    tag = "replays",
    params(JobPath),
    responses(
        (status = 200, description = "It is stopped.", body = ReplayJob),
        (status = 409, description = "`job_finished`: it came to its end.", body = ErrorResponse),
        ByName,
        Always,
    ),
)]
pub async fn stop(State(app): State<Arc<App>>, Named(id): Named) -> ApiResult<Json<ReplayJob>> {
    progress(&app, &id).await?;
    match app.store.stop_job(&id).await? {
        Some(state @ (JobState::Done | JobState::Failed)) => {
            let state = state.as_str();
            let message =
                format!("job {id} is {state} already; only one that is waiting or running can be stopped");
            Err(ApiError::new(StatusCode::CONFLICT, "job_finished", message).with("state", state))
        }
        Some(JobState::Waiting | JobState::Running | JobState::Stopped) => {
            app.store.end_job(&id).await?;
            Ok(Json(progress(&app, &id).await?))
        }
        None => Err(ApiError::not_found("replay job", &id)),
    }
}

async fn make(app: &App, replay: &HistoryReplay) -> ApiResult<Response> {
    let id = mint(Kind::Job, app.clock.now_ms(), rand::random());
    let tenant = app.caller().tenant;
    if let Some(open) = app.store.make_history_job(&id, &tenant, replay, app.config.max_open_replays).await? {
        let message = format!(
            "{open} replay jobs are open, as many as one tenant may have; stop one or wait until one is done"
        );
        return Err(ApiError::new(StatusCode::CONFLICT, "too_many_jobs", message).with("open", open));
    }
    let location = format!("/v1/replays/{id}");
    let made = progress(app, &id).await?;
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(made)).into_response())
}

async fn progress(app: &App, id: &str) -> ApiResult<ReplayJob> {
    let unknown = || ApiError::not_found("replay job", id);
    JobId::new(id).map_err(|_| unknown())?;
    // The partitions first: once a job has ended they know nothing, and its record does.
    let moved = app.store.job_moved(id).await?;
    let tenant = app.caller().tenant;
    let job = app.store.job(id).await?.filter(|job| job.tenant == tenant).ok_or_else(unknown)?;
    // Dead letters' jobs are the reprocessor's to show.
    let replay = HistoryReplay::read(&job.spec).ok_or_else(unknown)?;
    Ok(ReplayJob::new(job, replay, moved))
}

/// Reads a JSON body that may be left out.
async fn optional<T: Default + serde::de::DeserializeOwned>(request: Request) -> ApiResult<T> {
    let headers = request.headers().clone();
    let body = body::bytes(request, MAX_BODY).await?;
    if body.is_empty() {
        return Ok(T::default());
    }
    body::json_type(&headers)?;
    body::parse(&body)
}
