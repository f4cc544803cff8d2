//! `/v1/subscriptions`.

pub mod rotate;
pub mod test;
mod view;

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
};
use postroad_api::{
    body,
    caller::Caller,
    error::{ApiError, ApiResult, ErrorResponse},
    openapi::{Always, ByName, WithBody, WithQuery},
    page,
    path::Named,
    query,
};
use postroad_model::{
    id::SubscriptionId,
    subscription::{Status, Subscription},
    time::Time,
};
use postroad_store::{StoreError, Versioned};
use serde_json::{Map, Value};

use crate::openapi::{
    params::{PageQuery, SubscriptionPath, SubscriptionsQuery},
    schemas::SubscriptionPatch,
};

pub use self::{
    rotate::{RotateSecretRequest, RotateSecretResponse},
    test::{TestRequest, TestResponse},
    view::{SubscriptionCancelled, SubscriptionInfo, SubscriptionList, SubscriptionResponse},
};
use crate::{
    App,
    subscribe::{self, SubscriptionRequest},
};

/// The most bytes of a request.
pub(crate) const MAX_BODY: usize = 128 << 10;

/// Creates a subscription.
///
/// Messages that are published after the answer are matched against it. Without `callback_url` its deliveries
/// are pulled.
#[utoipa::path(
    post,
    path = "/v1/subscriptions",
    operation_id = "create_subscription",
    tag = "subscriptions",
    request_body = SubscriptionRequest,
    responses(
        (
            status = 201,
            description = "The subscription, with the `secret` that its deliveries are signed with, which is \
                not shown again.",
            body = SubscriptionResponse,
        ),
        (
            status = 409,
            description = "Too many subscriptions, or the channel is another service's alone.",
            body = ErrorResponse,
        ),
        WithBody,
        Always,
    ),
)]
pub async fn create(State(app): State<Arc<App>>, request: Request) -> ApiResult<Response> {
    let caller = app.caller();
    let wanted: SubscriptionRequest = body::json_unique(request, MAX_BODY).await?;
    let subscription = subscribe::create(wanted, &caller, &app.config, app.clock.now_ms())?;
    add(&app, &subscription).await?;
    let response = SubscriptionResponse::of(&subscription).with_secret(&subscription);
    Ok((StatusCode::CREATED, Json(response)).into_response())
}

/// Stores a subscription that is new.
pub(crate) async fn add(app: &App, subscription: &Subscription) -> ApiResult<()> {
    app.store.put_subscription(subscription, None, app.config.max_subscriptions, app.config.limits).await?;
    Ok(())
}

/// What a list is asked with.
const LIST: [&str; 6] = ["service_name", "service", "channel", "status", "limit", "cursor"];

/// Lists subscriptions by id.
#[utoipa::path(
    get,
    path = "/v1/subscriptions",
    operation_id = "list_subscriptions",
    tag = "subscriptions",
    params(SubscriptionsQuery, PageQuery),
    responses(
        (status = 200, description = "A page.", body = SubscriptionList),
        WithQuery,
        Always,
    ),
)]
pub async fn list(State(app): State<Arc<App>>, uri: Uri) -> ApiResult<Json<SubscriptionList>> {
    let mut asked = query::pairs(&uri, &LIST)?;
    let limit = asked.get("limit").map(|limit| query::number("limit", limit)).transpose()?;
    let limit = page::limit(limit)?;
    let mut after = page::position(asked.get("cursor").map(String::as_str))?;
    if after.as_deref().is_some_and(|after| SubscriptionId::new(after).is_err()) {
        return Err(page::strange_cursor());
    }
    let asked_status = asked.get("status").map(|status| read_status(status)).transpose()?;
    let (channel, service) = (asked.remove("channel"), asked.remove("service"));
    let service = asked.remove("service_name").or(service);
    let caller = app.caller();
    let wanted = |subscription: &Subscription| {
        service.as_ref().is_none_or(|name| subscription.service_name.as_str() == name)
            && channel.as_ref().is_none_or(|channel| subscription.channel_pattern() == channel)
            && asked_status.is_none_or(|status| subscription.status == status)
    };
    let mut found: Vec<Subscription> = Vec::new();
    let mut next = None;
    // One more than a page holds tells whether there is another.
    'pages: loop {
        let batch = app.store.subscriptions(&caller.tenant, after.as_deref(), page::MAX_LIMIT).await?;
        let Some(last) = batch.last() else { break };
        after = Some(last.subscription.id.to_string());
        let whole = batch.len() == page::MAX_LIMIT;
        for Versioned { subscription, .. } in batch {
            if wanted(&subscription) {
                if found.len() == limit {
                    next = found.last().map(|last| page::cursor(last.id.as_str()));
                    break 'pages;
                }
                found.push(subscription);
            }
        }
        if !whole {
            break;
        }
    }
    let ids: Vec<SubscriptionId> = found.iter().map(|subscription| subscription.id.clone()).collect();
    let states = app.store.states(&ids).await?;
    let subscriptions = found
        .iter()
        .zip(&states)
        .map(|(subscription, state)| SubscriptionInfo::of(subscription, state))
        .collect();
    Ok(Json(SubscriptionList { subscriptions, next_cursor: next }))
}

fn read_status(text: &str) -> ApiResult<Status> {
    [Status::Active, Status::Paused, Status::Disabled]
        .into_iter()
        .find(|status| status.as_str() == text)
        .ok_or_else(|| {
            let message = format!("status = {text:?} is none; active, paused and disabled are");
            ApiError::field("status", message)
        })
}

/// The subscription, or the 404: also for another tenant's.
pub(crate) async fn find(app: &App, caller: &Caller, id: &str) -> ApiResult<Versioned> {
    let unknown = || ApiError::not_found("subscription", id);
    let id = SubscriptionId::new(id).map_err(|_| unknown())?;
    let found = app.store.subscription(&id).await?.ok_or_else(unknown)?;
    if found.subscription.tenant == caller.tenant { Ok(found) } else { Err(unknown()) }
}

async fn shown(app: &App, subscription: &Subscription) -> ApiResult<Json<SubscriptionInfo>> {
    let state = app.store.states(std::slice::from_ref(&subscription.id)).await?.pop().unwrap_or_default();
    Ok(Json(SubscriptionInfo::of(subscription, &state)))
}

/// Shows a subscription and how it does.
#[utoipa::path(
    get,
    path = "/v1/subscriptions/{id}",
    operation_id = "show_subscription",
    tag = "subscriptions",
    params(SubscriptionPath),
    responses(
        (status = 200, description = "The subscription.", body = SubscriptionInfo),
        ByName,
        Always,
    ),
)]
pub async fn show(State(app): State<Arc<App>>, Named(id): Named) -> ApiResult<Json<SubscriptionInfo>> {
    let found = find(&app, &app.caller(), &id).await?;
    shown(&app, &found.subscription).await
}

/// How often a change is tried that others get in the way of.
const TRIES: usize = 5;

/// Changes a subscription, again where somebody else changed it in between.
async fn change(
    app: &App,
    id: &str,
    mut edit: impl FnMut(Subscription) -> ApiResult<Subscription>,
) -> ApiResult<Subscription> {
    let caller = app.caller();
    let mut conflict = None;
    for _ in 0..TRIES {
        let found = find(app, &caller, id).await?;
        let edited = edit(found.subscription)?;
        match app.store.put_subscription(&edited, Some(found.change), u64::MAX, app.config.limits).await {
            Ok(_) => return Ok(edited),
            Err(error @ StoreError::Conflict(_)) => conflict = Some(error),
            Err(error) => return Err(error.into()),
        }
    }
    Err(conflict.map_or_else(|| ApiError::not_found("subscription", id), ApiError::from))
}

/// Changes a subscription.
#[utoipa::path(
    patch,
    path = "/v1/subscriptions/{id}",
    operation_id = "change_subscription",
    tag = "subscriptions",
    params(SubscriptionPath),
    request_body = SubscriptionPatch,
    responses(
        (status = 200, description = "The subscription as it is now.", body = SubscriptionInfo),
        (
            status = 409,
            description = "Others changed it at the same time, or the channel is another service's alone.",
            body = ErrorResponse,
        ),
        ByName,
        WithBody,
        Always,
    ),
)]
pub async fn patch(
    State(app): State<Arc<App>>,
    Named(id): Named,
    request: Request,
) -> ApiResult<Json<SubscriptionInfo>> {
    let wanted: Map<String, Value> = body::json_unique(request, MAX_BODY).await?;
    let now_ms = app.clock.now_ms();
    let changed =
        change(&app, &id, |current| subscribe::patch(current, &wanted, &app.config, now_ms)).await?;
    shown(&app, &changed).await
}

/// Cancels a subscription.
///
/// Its queue and its dead letters go with it.
#[utoipa::path(
    delete,
    path = "/v1/subscriptions/{id}",
    operation_id = "cancel_subscription",
    tag = "subscriptions",
    params(SubscriptionPath),
    responses(
        (status = 200, description = "It is no more.", body = SubscriptionCancelled),
        (status = 409, description = "Others changed it at the same time.", body = ErrorResponse),
        ByName,
        Always,
    ),
)]
pub async fn cancel(State(app): State<Arc<App>>, Named(id): Named) -> ApiResult<Json<SubscriptionCancelled>> {
    let caller = app.caller();
    let mut tries = 1..TRIES;
    loop {
        let Versioned { subscription, change } = find(&app, &caller, &id).await?;
        match app.store.cancel_subscription(&subscription.id, &subscription.tenant, change).await {
            Ok(()) => {
                let subscription_id = subscription.id.to_string();
                return Ok(Json(SubscriptionCancelled {
                    success: true,
                    subscription_id,
                    status: "cancelled",
                }));
            }
            // Changed in between, or cancelled: the next look tells.
            Err(StoreError::Conflict(_)) if tries.next().is_some() => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Pauses a subscription.
///
/// What arrives is parked, within its queue's limits.
#[utoipa::path(
    post,
    path = "/v1/subscriptions/{id}/pause",
    operation_id = "pause_subscription",
    tag = "subscriptions",
    params(SubscriptionPath),
    responses(
        (status = 200, description = "It is paused.", body = SubscriptionResponse),
        (status = 409, description = "Others changed it at the same time.", body = ErrorResponse),
        ByName,
        Always,
    ),
)]
pub async fn pause(State(app): State<Arc<App>>, Named(id): Named) -> ApiResult<Json<SubscriptionResponse>> {
    set_status(&app, &id, Status::Paused).await
}

/// Resumes a subscription that is paused or disabled.
#[utoipa::path(
    post,
    path = "/v1/subscriptions/{id}/resume",
    operation_id = "resume_subscription",
    tag = "subscriptions",
    params(SubscriptionPath),
    responses(
        (status = 200, description = "It is active.", body = SubscriptionResponse),
        (status = 409, description = "Others changed it at the same time.", body = ErrorResponse),
        ByName,
        Always,
    ),
)]
pub async fn resume(State(app): State<Arc<App>>, Named(id): Named) -> ApiResult<Json<SubscriptionResponse>> {
    set_status(&app, &id, Status::Active).await
}

async fn set_status(app: &App, id: &str, status: Status) -> ApiResult<Json<SubscriptionResponse>> {
    let now = Time::from_millis(app.clock.now_ms());
    let changed = change(app, id, |current| {
        if current.status == status {
            return Ok(current);
        }
        Ok(Subscription { status, status_reason: None, updated_at: now, ..current })
    })
    .await?;
    Ok(Json(SubscriptionResponse::of(&changed)))
}
