//! `POST /v1/subscriptions/{id}/pull`: deliveries for who has no URL to be called at.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
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
    delivery::{DeadReason, Health, Hold, Place, Verdict},
    figures::Count,
    message::Message,
    message_delivery,
    subscription::Subscription,
    time::millis,
};
use postroad_store::{AWAITING, Circuit, Lease, Pulled, Settlement, entry::EntryError};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::{
    App,
    openapi::{params::SubscriptionPath, schemas::PullResponse},
};

/// The most bytes of a request.
const MAX_BODY: usize = 4 << 10;
/// The most deliveries of one pull, and how many where nothing is said.
const MOST: u32 = 1_000;
const USUAL: u32 = 10;
/// About the most bytes of one pull; one delivery always comes.
const MOST_BYTES: usize = 4 << 20;
/// The longest wait, and the usual one, in seconds.
const LONGEST_WAIT: f64 = 60.0;
const USUAL_WAIT: f64 = 10.0;
/// A signal may be lost with a connection: after so long it is looked for without one.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long an entry of a newer format is left for newer instances.
const NEWER_WAIT_MS: u64 = 5_000;
/// Nobody is called here whose circuit might open.
const NO_CIRCUIT: Circuit =
    Circuit { failures: 0, lasting: Duration::ZERO, open: Duration::ZERO, open_max: Duration::ZERO };

/// What is asked for.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "max_messages": 10, "wait_seconds": 0.5 }))]
pub struct PullRequest {
    /// The most deliveries, 1 to 1,000; 10 by default.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 1_000)]
    pub max_messages: Option<u32>,
    /// Seconds to wait for one while there is none, 0 to 60; 10 by default.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 60)]
    pub wait_seconds: Option<f64>,
}

/// Pulls deliveries.
///
/// Waits for one while there is none. Each is to be acknowledged within the subscription's `ack_timeout`, else
/// it counts as failed.
#[utoipa::path(
    post,
    path = "/v1/subscriptions/{id}/pull",
    operation_id = "pull_deliveries",
    tag = "subscriptions",
    params(SubscriptionPath),
    request_body = PullRequest,
    responses(
        (
            status = 200,
            description = "What there was, in `native` format; nothing where none came in time.",
            body = PullResponse,
        ),
        (
            status = 409,
            description = "The subscription has a `callback_url`, or is paused.",
            body = ErrorResponse,
        ),
        ByName,
        WithBody,
        Always,
    ),
)]
pub async fn pull(State(app): State<Arc<App>>, Named(id): Named, request: Request) -> ApiResult<Response> {
    let caller = app.caller();
    let asked = body::json_or_default::<PullRequest>(request, MAX_BODY).await?;
    let most = asked.max_messages.unwrap_or(USUAL);
    if !(1..=MOST).contains(&most) {
        return Err(ApiError::field("max_messages", format!("max_messages = {most} must be 1 to {MOST}")));
    }
    let wait = asked.wait_seconds.unwrap_or(USUAL_WAIT);
    if !(0.0..=LONGEST_WAIT).contains(&wait) {
        let message = format!("wait_seconds = {wait} must be 0 to {LONGEST_WAIT}");
        return Err(ApiError::field("wait_seconds", message));
    }
    let subscription = super::subscriptions::find(&app, &caller, &id).await?;
    if !subscription.subscription.is_pull() {
        let message = "this subscription has a callback_url: its deliveries are sent there";
        return Err(ApiError::new(StatusCode::CONFLICT, "not_pulled", message).with("subscription_id", id));
    }
    let deadline = Instant::now() + Duration::from_secs_f64(wait);
    let mut signal = None;
    loop {
        let pulled = take(&app, &subscription, most as usize).await?;
        let next = pulled.wait;
        for (tenant, channel) in &pulled.dead {
            app.tally.on(tenant, Some(channel), |figures| figures.add(Count::Dead, 1));
        }
        let body = deliveries(&app, &subscription.subscription, pulled.leases).await?;
        let left = deadline.saturating_duration_since(Instant::now());
        if body.is_some() || left.is_zero() || app.stop.is_requested() {
            let body = body.unwrap_or_else(|| br#"{"deliveries":[]}"#.to_vec());
            return Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response());
        }
        let Some((signal, _)) = &mut signal else {
            // What came before it was listened for is found by another look.
            let place = app.waits.take()?;
            signal = Some((app.store.pull_signal(&subscription.subscription.id).await?, place));
            continue;
        };
        let pause = next.unwrap_or(LOOK_EVERY).min(LOOK_EVERY).min(left);
        tokio::select! {
            _ = signal.recv(), if next.is_none() => {}
            () = tokio::time::sleep(pause) => {}
            () = app.stop.requested() => {}
        }
    }
}

/// One look, applying settings that the lane lacks.
async fn take(app: &App, versioned: &postroad_store::Versioned, most: usize) -> ApiResult<Pulled> {
    let subscription = &versioned.subscription;
    let ack_timeout = Duration::from_secs(subscription.ack_timeout);
    let trace_ms = millis(app.config.retention);
    for is_last in [false, true] {
        let pulled = app.store.pull(&subscription.id, most, MOST_BYTES, ack_timeout, trace_ms).await?;
        match pulled.status.as_str() {
            "pull" => return Ok(pulled),
            "paused" | "disabled" => {
                let message = format!("the subscription is {}; resume it first", pulled.status);
                return Err(ApiError::new(StatusCode::CONFLICT, "subscription_paused", message)
                    .with("status", pulled.status));
            }
            // It was changed just now, or its lane was lost.
            "" | "active" if !is_last => {
                app.store.apply(subscription, versioned.change, app.config.limits).await?;
            }
            _ => break,
        }
    }
    Err(ApiError::not_found("subscription", subscription.id.as_str()))
}

/// Deliveries as they are answered; `None` where nothing came. What cannot be read is dead at once, alone, with its
/// bytes; what a newer release wrote waits for newer instances.
async fn deliveries(
    app: &App,
    subscription: &Subscription,
    leases: Vec<Lease>,
) -> ApiResult<Option<Vec<u8>>> {
    let now_ms = app.clock.now_ms();
    let mut body = br#"{"deliveries":["#.to_vec();
    let (mut count, mut aside) = (0, Vec::new());
    for lease in leases {
        let message: Message = match lease.entry.decode() {
            Ok(message) => message,
            Err(error) => {
                tracing::error!(subscription.id = %subscription.id, entry = %lease.id, %error, "cannot read a queued entry");
                let place = match error {
                    EntryError::Newer(_) => Place::Later { delay_ms: NEWER_WAIT_MS },
                    EntryError::Broken(_) => Place::Dead(DeadReason::Undecodable),
                };
                aside.push(unread(lease, place));
                continue;
            }
        };
        if count > 0 {
            body.push(b',');
        }
        count += 1;
        let attempt = lease.tries.progress.attempts + 1;
        let age_ms = now_ms.saturating_sub(lease.accepted_ms);
        app.tally.on(&message.tenant, Some(&message.channel), |figures| {
            figures.pulled(lease.tries.progress, age_ms);
        });
        message_delivery::write(&mut body, subscription, &message, attempt, now_ms);
    }
    body.extend_from_slice(b"]}");
    if let Some(lane) = aside.first().map(|settlement| settlement.lease.lane) {
        let answers =
            app.store.settle(AWAITING, &[(lane, aside)], NO_CIRCUIT, millis(app.config.retention)).await?;
        for answer in answers {
            answer?;
        }
    }
    Ok((count > 0).then_some(body))
}

fn unread(lease: Lease, place: Place) -> Settlement {
    let verdict = Verdict { place, progress: lease.tries.progress, health: Health::Unknown, hold: Hold::No };
    Settlement { lease, verdict, attempt: None, ack_timeout: Duration::ZERO }
}
