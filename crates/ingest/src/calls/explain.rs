//! `POST /v1/explain`: who would get a message, and why others would not.

use std::{cell::OnceCell, sync::Arc};

use axum::{
    Json,
    extract::{Request, State},
    http::Uri,
};
use postroad_api::{
    body,
    error::ApiResult,
    openapi::{Always, WithBody},
    page, query,
};
use postroad_model::{
    filter::Event,
    id::SubscriptionId,
    matching::{Candidate, ChannelType, Mismatch, explain_with, json_view, sentence},
    message::Message,
    names::RoutingKey,
    subscription::{Status, Subscription},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::messages::max_body;
use crate::{
    App,
    openapi::params::CursorQuery,
    publish::{Circumstances, PublishMessageRequest, check},
};

/// The most subscriptions that one answer speaks of.
const MOST: usize = 10_000;

/// Who would get a message.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Explanation {
    /// The channel.
    pub channel: String,
    /// Its type: how `routing_key` is read.
    pub channel_type: ChannelType,
    /// The message's routing key.
    pub routing_key: Option<String>,
    /// Whether it would be kept in the history: not where the publisher or the channel says no.
    pub persistent: bool,
    /// Its lifetime after acceptance, in milliseconds: the smaller of the publisher's and the channel's.
    pub expires_after_ms: Option<u64>,
    /// How many of the subscriptions below match.
    pub matched: usize,
    /// Every subscription of the tenant, by id; at most 10,000 in one answer.
    pub subscriptions: Vec<Explained>,
    /// Given as `?cursor=` leads to the rest; none: these are all.
    pub next_cursor: Option<String>,
}

/// Whether one subscription would get it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Explained {
    /// The subscription.
    pub subscription_id: String,
    /// Its service.
    pub service_name: String,
    /// Whether it would get the message.
    pub matched: bool,
    /// The condition that decided against it, by the name of its field; none where all that it names match.
    pub condition: Option<Mismatch>,
    /// The same, for people.
    pub explanation: String,
    /// Whether its deliveries flow.
    pub status: Status,
    /// Whether the delivery would be parked, since they do not.
    pub parked: bool,
}

/// Tells who would get a message, and why others would not.
///
/// Nothing is published.
#[utoipa::path(
    post,
    path = "/v1/explain",
    operation_id = "explain_message",
    tag = "messages",
    params(CursorQuery),
    request_body = PublishMessageRequest,
    responses(
        (status = 200, description = "Every subscription, and which condition decided.", body = Explanation),
        WithBody,
        Always,
    ),
)]
pub async fn explain(
    State(app): State<Arc<App>>,
    uri: Uri,
    request: Request,
) -> ApiResult<Json<Explanation>> {
    let asked = query::pairs(&uri, &["cursor"])?;
    let mut after = page::position(asked.get("cursor").map(String::as_str))?;
    if after.as_deref().is_some_and(|after| SubscriptionId::new(after).is_err()) {
        return Err(page::strange_cursor());
    }
    let caller = app.caller();
    let wanted: PublishMessageRequest = body::json(request, max_body(&app)).await?;
    app.channels.follow().await?;
    let circumstances = Circumstances { now_ms: app.clock.now_ms(), ..Circumstances::default() };
    let message = check(wanted, &caller, &circumstances, app.limits())?.message;
    let settings = app.channels.settings(&caller.tenant, &message.channel)?;
    let question =
        Question::new(&message, settings.map(|settings| settings.channel_type).unwrap_or_default());

    let mut subscriptions = Vec::new();
    let next_cursor = loop {
        let batch = app.store.subscriptions(&caller.tenant, after.as_deref(), page::MAX_LIMIT).await?;
        let Some(last) = batch.last() else { break None };
        after = Some(last.subscription.id.to_string());
        subscriptions.extend(batch.iter().map(|found| question.ask(&found.subscription)));
        if subscriptions.len() >= MOST {
            break after.as_deref().map(page::cursor);
        }
    };
    Ok(Json(Explanation {
        channel: message.channel.to_string(),
        channel_type: question.candidate.channel_type,
        routing_key: message.routing_key.as_ref().map(ToString::to_string),
        persistent: message.persistent,
        expires_after_ms: message.expires_after_ms,
        matched: subscriptions.iter().filter(|explained| explained.matched).count(),
        subscriptions,
        next_cursor,
    }))
}

/// A message, asked of many subscriptions: its payload is read once.
struct Question<'a> {
    candidate: Candidate<'a>,
    event: OnceCell<Option<Event>>,
}

impl<'a> Question<'a> {
    fn new(message: &'a Message, channel_type: ChannelType) -> Self {
        let candidate = Candidate {
            tenant: &message.tenant,
            channel: &message.channel,
            channel_type,
            routing_key: message.routing_key.as_ref().map(RoutingKey::as_str),
            headers: &message.metadata.headers,
            payload: json_view(&message.payload),
        };
        Self { candidate, event: OnceCell::new() }
    }

    fn ask(&self, subscription: &Subscription) -> Explained {
        let Self { candidate, event } = self;
        let event = || event.get_or_init(|| candidate.payload.and_then(Event::parse)).as_ref();
        let found = explain_with(&subscription.selector, candidate, |filter| {
            event().is_some_and(|event| filter.matches_event(event))
        });
        let (matched, status) = (found.is_ok(), subscription.status);
        let parked = matched && status != Status::Active;
        let mut explanation = sentence(&subscription.selector, candidate, found);
        if parked {
            explanation.push_str(&format!("; it is {}, so the delivery would be parked", status.as_str()));
        }
        Explained {
            subscription_id: subscription.id.to_string(),
            service_name: subscription.service_name.to_string(),
            matched,
            condition: found.err(),
            explanation,
            status,
            parked,
        }
    }
}
