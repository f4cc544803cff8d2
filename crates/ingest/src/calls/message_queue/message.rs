//! `GET /message-queue/messages/{message_id}`

use std::sync::Arc;

use axum::{Json, extract::State};
use postroad_model::{openapi::MessagePayload, subscription::Subscription, time::Time};
use serde::Serialize;
use serde_json::{Map, Value, json, value::RawValue};
use utoipa::ToSchema;

use super::{
    error::{Named, QueueError, QueueResult},
    openapi::{QueueAlways, QueueNamed},
};
use crate::{
    App,
    calls::messages::{find, payload_of},
    deliveries::{Delivery, Status, deliveries_of, overall},
    openapi::params::QueueMessagePath,
};

/// A message.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueueMessage {
    /// Its id.
    pub message_id: String,
    /// The queue that it was published on; null where the history has let it go.
    pub queue: Option<String>,
    /// Its routing key.
    pub routing_key: Option<String>,
    /// The content, as it was published; null where the history has let it go.
    #[schema(value_type = Option<MessagePayload>)]
    pub message: Option<Box<RawValue>>,
    /// Its headers, with its media type and its priority.
    pub headers: Map<String, Value>,
    /// The least finished of its deliveries' states.
    pub status: Status,
    /// When it was accepted.
    pub published_at: Time,
    /// When it was first consumed.
    pub consumed_at: Option<Time>,
    /// When it was last acknowledged.
    pub acknowledged_at: Option<Time>,
    /// Seconds after which it is not delivered any more.
    pub ttl: Option<u64>,
    /// Whether a history is kept.
    pub persistent: bool,
    /// The most failed attempts of a delivery of it.
    pub retry_count: u32,
    /// How often one of its deliveries was handed out again, at most.
    pub redelivery_count: u32,
}

/// Shows a message and its status.
#[utoipa::path(
    get,
    path = "/message-queue/messages/{message_id}",
    operation_id = "queue_show_message",
    tag = "message-queue",
    params(QueueMessagePath),
    responses(
        (status = 200, description = "The message.", body = QueueMessage),
        QueueNamed,
        QueueAlways,
    ),
)]
pub async fn show(State(app): State<Arc<App>>, Named(id): Named) -> QueueResult<Json<QueueMessage>> {
    let caller = app.caller();
    let (id, found) = find(&app, &caller, &id).await.map_err(|error| unknown(error, &id))?;
    let deliveries = deliveries_of(&app, &found).await?;
    let message = found.message.as_ref();
    let mut headers = message.map(|message| message.metadata.headers.clone()).unwrap_or_default();
    if let Some(message) = message {
        headers.entry("content_type").or_insert_with(|| json!(message.metadata.content_type));
        headers.entry("priority").or_insert_with(|| json!(message.priority));
    }
    let highest = |count: fn(&Delivery) -> u32| deliveries.iter().map(count).max().unwrap_or(0);
    Ok(Json(QueueMessage {
        message_id: id.to_string(),
        queue: message.map(|message| message.channel.to_string()),
        routing_key: message.and_then(|message| message.routing_key.as_ref().map(ToString::to_string)),
        message: message.map(|message| payload_of(&message.payload)).transpose()?,
        headers,
        status: overall(&found, &deliveries),
        published_at: Time::from_millis(found.accepted_ms),
        consumed_at: deliveries.iter().filter_map(|delivery| delivery.consumed_at).min(),
        acknowledged_at: deliveries.iter().filter_map(|delivery| delivery.acknowledged_at).max(),
        ttl: message.and_then(|message| message.metadata.ttl),
        persistent: message.is_none_or(|message| message.persistent),
        retry_count: highest(Delivery::retries),
        redelivery_count: highest(Delivery::redeliveries),
    }))
}

/// The failed attempts of one subscription's delivery.
pub(super) async fn retries(app: &App, id: &str, subscription: &Subscription) -> QueueResult<u32> {
    let Ok((_, found)) = find(app, &app.caller(), id).await else { return Ok(0) };
    let deliveries = deliveries_of(app, &found).await?;
    let of_this = |delivery: &&Delivery| delivery.subscription_id == subscription.id.as_str();
    Ok(deliveries.iter().find(of_this).map_or(0, Delivery::retries))
}

fn unknown(error: postroad_api::error::ApiError, id: &str) -> QueueError {
    if error.status == axum::http::StatusCode::NOT_FOUND { QueueError::no_message(id) } else { error.into() }
}
