//! `POST /v1/subscriptions/{id}/test`: one sample, and what came back.
//!
//! Only workers call out, and daemons do not call each other: the sample is a message like any other, for this
//! subscription alone, and what came back is read off its trace. A worker sends it once, however that goes.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{Request, State},
    http::StatusCode,
};
use postroad_api::{
    body,
    caller::Caller,
    error::{ApiError, ApiResult, ErrorResponse},
    openapi::{Always, ByName, WithBody},
    path::Named,
};
use postroad_model::{
    delivery::Attempt,
    id::SubscriptionId,
    openapi::MessagePayload,
    subscription::{Channels, Status, Subscription},
};
use postroad_store::{Accepted, StoreError, StreamId, trace::Line};
use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};
use tokio::time::{Instant, sleep};
use utoipa::ToSchema;

use super::find;
use crate::{
    App,
    openapi::params::SubscriptionPath,
    publish::{Checked, Circumstances, PublishMessageRequest, check},
    test_rate::Refusal,
};

/// How long an answer is waited for, in seconds: longer than a worker waits for the subscriber's by default.
const WAIT: u64 = 20;
/// Between two looks at first, and at last.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// The channel of a sample for a subscription that names none.
const CHANNEL: &str = "postroad.test";

/// What a test is asked for with; all of it may be left out. The sample need not match what the subscription asks
/// for.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(example = json!({ "payload": { "ref": "refs/heads/main" }, "timeout_seconds": 5 }))]
pub struct TestRequest {
    /// The sample's payload, an object or a string; by default one that says that it is a test.
    #[schema(value_type = Option<MessagePayload>)]
    pub payload: Option<Box<RawValue>>,
    /// Its routing key.
    #[schema(max_length = 255)]
    pub routing_key: Option<String>,
    /// Its channel; by default the subscription's, or `postroad.test` where that is a pattern.
    #[schema(pattern = r"^[A-Za-z0-9_:/-]+(\.[A-Za-z0-9_:/-]+)*$", max_length = 255)]
    pub channel: Option<String>,
    /// How many seconds to wait for the subscriber's answer, 1 to 20; 20 by default.
    #[schema(minimum = 1, maximum = 20)]
    pub timeout_seconds: Option<u64>,
}

/// What came back.
#[derive(Debug, Serialize, ToSchema)]
pub struct TestResponse {
    /// The sample's id, which was its `webhook-id`.
    pub message_id: String,
    /// The subscription.
    pub subscription_id: String,
    /// Whether it was answered with a 2xx.
    pub delivered: bool,
    /// The answer's status code; null where there was no answer.
    pub status_code: Option<u16>,
    /// Milliseconds from the request to its end.
    pub duration_ms: u64,
    /// What went wrong.
    pub error: Option<String>,
    /// The first bytes of the answer.
    pub response: Option<String>,
}

/// A sample as it would be published.
#[derive(Serialize)]
struct Sample<'a> {
    channel: &'a str,
    payload: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    routing_key: Option<&'a str>,
    metadata: SampleMetadata,
}

#[derive(Serialize)]
struct SampleMetadata {
    priority: &'static str,
    /// Nobody waits for it any longer.
    ttl: u64,
}

/// Sends a subscription one sample, and answers with what came back.
///
/// It is attempted once, whatever comes back, and counts for nothing.
#[utoipa::path(
    post,
    path = "/v1/subscriptions/{id}/test",
    operation_id = "test_subscription",
    tag = "subscriptions",
    params(SubscriptionPath),
    request_body = TestRequest,
    responses(
        (status = 200, description = "What came back.", body = TestResponse),
        (
            status = 409,
            description = "Nothing can be sent to it now: it is pulled, paused, or full; or another test is \
                under way.",
            body = ErrorResponse,
        ),
        (
            status = 429,
            description = "It was tested too often.",
            body = ErrorResponse,
            headers(("Retry-After" = u64, description = "Seconds after which it may work.")),
        ),
        (
            status = 504,
            description = "No answer came in time; the text says what may be the reason.",
            body = ErrorResponse,
        ),
        ByName,
        WithBody,
        Always,
    ),
)]
pub async fn test(
    State(app): State<Arc<App>>,
    Named(id): Named,
    request: Request,
) -> ApiResult<Json<TestResponse>> {
    let caller = app.caller();
    let wanted: TestRequest = body::json_or_default(request, 2 * app.config.max_message_bytes).await?;
    let wait = wanted.timeout_seconds.unwrap_or(WAIT);
    if !(1..=WAIT).contains(&wait) {
        let message = format!("timeout_seconds = {wait} must be 1 to {WAIT}");
        return Err(ApiError::field("timeout_seconds", message));
    }
    let subscription = find(&app, &caller, &id).await?.subscription;
    can_be_tested(&app, &subscription).await?;
    let checked = sample(&app, &caller, &subscription, &wanted, wait)?;
    let _running = app.tests.begin(&subscription.id, Instant::now()).map_err(too_often)?;
    let deadline = Instant::now() + Duration::from_secs(wait);
    let acceptance = checked.acceptance(app.config.compress_above_bytes);
    let landed = app.gate.store(vec![(checked.partition, acceptance)]).await.pop();
    let landed = landed.unwrap_or_else(|| Err(StoreError::Unavailable("no answer".into())));
    let (Accepted::Stored { at, .. } | Accepted::Duplicate { at, .. }) = landed? else {
        return Err(StoreError::Reply("a test waits to become due".into()).into());
    };
    app.metrics.accepted.inc();
    let message_id = checked.message.id.to_string();
    match attempt(&app, &subscription.id, checked.partition, at, deadline).await? {
        Some(attempt) => Ok(Json(TestResponse {
            message_id,
            subscription_id: subscription.id.to_string(),
            delivered: attempt.status.is_some_and(|status| (200..300).contains(&status)),
            status_code: attempt.status,
            duration_ms: attempt.duration_ms,
            error: attempt.error,
            response: attempt.response,
        })),
        None => Err(timed_out(&app, &subscription.id, wait).await.with("message_id", message_id)),
    }
}

/// Whether a sample would be sent at all.
async fn can_be_tested(app: &App, subscription: &Subscription) -> ApiResult<()> {
    let conflict = |code, message: String| Err(ApiError::new(StatusCode::CONFLICT, code, message));
    if subscription.is_pull() {
        let message = "nothing is sent to a pull subscription; publish a message and pull it";
        return conflict("pull_subscription", message.to_owned());
    }
    if subscription.status != Status::Active {
        let status = subscription.status.as_str();
        return conflict("not_active", format!("the subscription is {status}; resume it to test it"));
    }
    let states = app.store.states(std::slice::from_ref(&subscription.id)).await?;
    let queued = states.first().map_or(0, |state| state.queued);
    if queued >= app.config.limits.entries {
        let message =
            format!("the subscription's queue is full with {queued} deliveries; a test would be lost");
        return conflict("queue_full", message);
    }
    Ok(())
}

fn sample(
    app: &App,
    caller: &Caller,
    subscription: &Subscription,
    wanted: &TestRequest,
    ttl: u64,
) -> ApiResult<Checked> {
    let usual = match &subscription.selector.channels {
        Channels::Channel(name) => name.as_str(),
        Channels::Pattern(_) => CHANNEL,
    };
    let says_so;
    let payload = match &wanted.payload {
        Some(payload) => payload,
        None => {
            let text = json!({
                "test": true,
                "subscription_id": subscription.id,
                "message": "This is a test of a Postroad subscription. Nothing has happened; answer with a 2xx.",
            });
            says_so = RawValue::from_string(text.to_string())
                .map_err(|error| ApiError::field("payload", error.to_string()))?;
            &says_so
        }
    };
    // It is read as anybody's message would be.
    let sample = Sample {
        channel: wanted.channel.as_deref().unwrap_or(usual),
        payload,
        routing_key: wanted.routing_key.as_deref(),
        metadata: SampleMetadata { priority: "critical", ttl },
    };
    let text = serde_json::to_vec(&sample).map_err(|error| ApiError::field("payload", error.to_string()))?;
    let request: PublishMessageRequest = body::parse(&text)?;
    let circumstances = Circumstances { now_ms: app.clock.now_ms(), ..Circumstances::default() };
    let mut checked = check(request, caller, &circumstances, app.limits())?;
    checked.message.targets = Arc::from([subscription.id.clone()]);
    checked.message.test = true;
    // What came back is read off its history.
    checked.message.persistent = true;
    Ok(checked)
}

fn too_often(refusal: Refusal) -> ApiError {
    match refusal {
        Refusal::Running => {
            let message = "a test of this subscription is under way; wait for its answer";
            ApiError::new(StatusCode::CONFLICT, "test_running", message)
        }
        Refusal::TooMany { wait } => {
            let seconds = wait.as_secs() + 1;
            let message = format!("this subscription was tested too often; wait {seconds} s");
            ApiError::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", message).retry_after(seconds)
        }
    }
}

/// Waits for the sample's one attempt. `None` when it is too late.
async fn attempt(
    app: &App,
    subscription: &SubscriptionId,
    partition: u16,
    at: StreamId,
    deadline: Instant,
) -> ApiResult<Option<Attempt>> {
    let mut pause = FIRST_PAUSE;
    loop {
        let lines = match app.store.locate_for(subscription, partition, at).await {
            Ok(trace) => trace.map(|trace| trace.lines).unwrap_or_default(),
            // It may be back in time.
            Err(error) if error.is_transient() => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        // One whose worker was lost has no number, and another worker sends it.
        let mut attempts = lines.into_iter().filter_map(|line| match line {
            Line::Attempted { attempt, .. } if attempt.number > 0 => Some(attempt),
            _ => None,
        });
        if let Some(attempt) = attempts.next_back() {
            return Ok(Some(attempt));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        sleep(pause.min(left)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// 504, and what may be the reason.
async fn timed_out(app: &App, id: &SubscriptionId, wait: u64) -> ApiError {
    let reasons = match reasons(app, id).await {
        Ok(reasons) => reasons.join("; "),
        Err(error) => format!("Redis does not answer: {error}"),
    };
    let message = format!("no answer to the sample within {wait} s: {reasons}");
    ApiError::new(StatusCode::GATEWAY_TIMEOUT, "test_timeout", message)
}

async fn reasons(app: &App, id: &SubscriptionId) -> Result<Vec<String>, StoreError> {
    let living = app.store.living().await?;
    let mut reasons: Vec<String> = ["router", "worker"]
        .into_iter()
        .filter(|kind| living.of_kind(kind).is_empty())
        .map(|kind| format!("no {kind} is running"))
        .collect();
    match app.store.subscription(id).await? {
        None => reasons.push("the subscription was cancelled".into()),
        Some(found) if found.subscription.status != Status::Active => {
            reasons.push(format!("the subscription is {}", found.subscription.status.as_str()));
        }
        Some(_) => {}
    }
    let state = app.store.states(std::slice::from_ref(id)).await?.pop().unwrap_or_default();
    if state.limit == Some(0) {
        reasons.push("its circuit is open after many failures".into());
    }
    if state.hold_ms.is_some_and(|until| until > living.now_ms) {
        reasons.push("the subscriber asked to be left alone for a while".into());
    }
    if reasons.is_empty() {
        let queued = state.queued;
        reasons.push(format!("the subscriber is slow, or its {queued} deliveries under way come first"));
    }
    Ok(reasons)
}
