//! `/v1/subscriptions`.

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
    error::{ApiError, ApiResult},
    page,
    path::Named,
    query,
};
use postroad_model::{
    egress::CallbackUrl,
    id::SubscriptionId,
    subscription::{Channels, Status, Subscription},
    time::Time,
};
use postroad_store::{StoreError, SubscriptionState, Versioned};
use serde_json::{Map, Value, json};

use crate::{
    App,
    subscribe::{self, SubscriptionRequest, seconds},
};

/// The most bytes of a request.
const MAX_BODY: usize = 128 << 10;

/// `POST /v1/subscriptions`
pub async fn create(State(app): State<Arc<App>>, request: Request) -> ApiResult<Response> {
    let caller = app.caller();
    let wanted: SubscriptionRequest = body::json_unique(request, MAX_BODY).await?;
    let subscription = subscribe::create(wanted, &caller, &app.config, app.clock.now_ms())?;
    app.store.put_subscription(&subscription, None, app.config.max_subscriptions, app.config.limits).await?;
    let mut response = response_of(&subscription);
    // Shown once.
    response["secret"] = json!(subscription.secrets.first().map(|secret| secret.value.to_text()));
    Ok((StatusCode::CREATED, Json(response)).into_response())
}

/// `SubscriptionResponse`, and what the subscription was asked for with.
fn response_of(subscription: &Subscription) -> Value {
    let (channel, pattern) = match &subscription.selector.channels {
        Channels::Channel(name) => (Some(name.as_str()), None),
        Channels::Pattern(glob) => (None, Some(glob.as_str())),
    };
    json!({
        "success": true,
        "subscription_id": subscription.id,
        "channel": channel,
        "channel_pattern": pattern,
        "service_name": subscription.service_name,
        "status": subscription.status,
        "created_at": subscription.created_at,
        "error": null,
        "callback_url": masked(subscription),
        "routing_key": subscription.selector.routing_key,
        "filter_criteria": subscription.selector.filter_criteria,
        "header_match": subscription.selector.header_match,
        "max_retries": subscription.retry.max_retries,
        "retry_delay": seconds(subscription.retry.retry_delay_ms),
        "backoff_multiplier": subscription.retry.backoff_multiplier,
        "prefetch_count": subscription.prefetch_count,
    })
}

/// The callback's URL without what only the subscriber should know.
fn masked(subscription: &Subscription) -> Option<String> {
    let url = subscription.callback_url.as_deref()?;
    // Judged when it was given; here it is only shown.
    let anywhere = postroad_model::egress::EgressPolicy::parse(["0.0.0.0/0", "::/0"]).ok()?;
    Some(CallbackUrl::check(url, &anywhere).map_or_else(|_| "(unreadable)".to_owned(), |url| url.masked()))
}

/// `SubscriptionInfo`, and more.
fn info_of(subscription: &Subscription, state: &SubscriptionState) -> Value {
    let mut info = response_of(subscription);
    for (name, value) in [
        ("channel_pattern", json!(subscription.channel_pattern())),
        ("max_delivery_attempts", json!(subscription.retry.max_attempts())),
        ("ack_timeout", json!(subscription.ack_timeout)),
        ("batch_size", json!(subscription.batch_size)),
        ("auto_ack", json!(subscription.auto_ack)),
        ("last_activity", json!(state.active_ms.map(Time::from_millis))),
        ("message_count", json!(state.delivered)),
        ("error_count", json!(state.failed)),
        ("status_reason", json!(subscription.status_reason)),
        ("updated_at", json!(subscription.updated_at)),
        ("queued", json!(state.queued)),
        ("dead_letters", json!(state.dead)),
        ("circuit_open", json!(state.limit == Some(0))),
    ] {
        info[name] = value;
    }
    if let Value::Object(info) = &mut info {
        info.remove("success");
        info.remove("error");
    }
    info
}

/// What a list is asked with.
const LIST: [&str; 6] = ["service_name", "service", "channel", "status", "limit", "cursor"];

/// `GET /v1/subscriptions`
pub async fn list(State(app): State<Arc<App>>, uri: Uri) -> ApiResult<Json<Value>> {
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
    let infos: Vec<Value> =
        found.iter().zip(&states).map(|(subscription, state)| info_of(subscription, state)).collect();
    Ok(Json(json!({ "subscriptions": infos, "next_cursor": next })))
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
pub(super) async fn find(app: &App, caller: &Caller, id: &str) -> ApiResult<Versioned> {
    let unknown = || ApiError::not_found("subscription", id);
    let id = SubscriptionId::new(id).map_err(|_| unknown())?;
    let found = app.store.subscription(&id).await?.ok_or_else(unknown)?;
    if found.subscription.tenant == caller.tenant { Ok(found) } else { Err(unknown()) }
}

async fn shown(app: &App, subscription: &Subscription) -> ApiResult<Json<Value>> {
    let state = app.store.states(std::slice::from_ref(&subscription.id)).await?.pop().unwrap_or_default();
    Ok(Json(info_of(subscription, &state)))
}

/// `GET /v1/subscriptions/{id}`
pub async fn show(State(app): State<Arc<App>>, Named(id): Named) -> ApiResult<Json<Value>> {
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

/// `PATCH /v1/subscriptions/{id}`
pub async fn patch(
    State(app): State<Arc<App>>,
    Named(id): Named,
    request: Request,
) -> ApiResult<Json<Value>> {
    let wanted: Map<String, Value> = body::json_unique(request, MAX_BODY).await?;
    let now_ms = app.clock.now_ms();
    let changed =
        change(&app, &id, |current| subscribe::patch(current, &wanted, &app.config, now_ms)).await?;
    shown(&app, &changed).await
}

/// `DELETE /v1/subscriptions/{id}`
pub async fn cancel(State(app): State<Arc<App>>, Named(id): Named) -> ApiResult<Response> {
    let caller = app.caller();
    let mut tries = 1..TRIES;
    loop {
        let Versioned { subscription, change } = find(&app, &caller, &id).await?;
        match app.store.cancel_subscription(&subscription.id, &subscription.tenant, change).await {
            Ok(()) => {
                let answer =
                    json!({ "success": true, "subscription_id": subscription.id, "status": "cancelled" });
                return Ok(Json(answer).into_response());
            }
            // Changed in between, or cancelled: the next look tells.
            Err(StoreError::Conflict(_)) if tries.next().is_some() => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// `POST /v1/subscriptions/{id}/pause`
pub async fn pause(State(app): State<Arc<App>>, Named(id): Named) -> ApiResult<Json<Value>> {
    set_status(&app, &id, Status::Paused).await
}

/// `POST /v1/subscriptions/{id}/resume`
pub async fn resume(State(app): State<Arc<App>>, Named(id): Named) -> ApiResult<Json<Value>> {
    set_status(&app, &id, Status::Active).await
}

async fn set_status(app: &App, id: &str, status: Status) -> ApiResult<Json<Value>> {
    let now = Time::from_millis(app.clock.now_ms());
    let changed = change(app, id, |current| {
        if current.status == status {
            return Ok(current);
        }
        Ok(Subscription { status, status_reason: None, updated_at: now, ..current })
    })
    .await?;
    Ok(Json(response_of(&changed)))
}
