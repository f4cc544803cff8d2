//! The `/message-queue` API: the same channels, messages and subscriptions in another dialect.
//!
//! A queue is a channel. What differs is how things are said: bodies and refusals have the fields of that API's
//! own documentation, and its times are milliseconds.

pub mod acknowledge;
pub mod error;
pub mod health;
pub mod message;
pub mod metrics;
pub mod publish;
pub mod queues;
pub mod subscribe;

use std::sync::Arc;

use axum::{
    Router,
    routing::{get, post},
};

use crate::App;

/// Its calls.
pub fn router() -> Router<Arc<App>> {
    Router::new()
        .route("/message-queue/publish", post(publish::publish))
        .route("/message-queue/subscribe", post(subscribe::subscribe))
        .route("/message-queue/queues/{name}", get(queues::show))
        .route("/message-queue/metrics", get(metrics::metrics))
        .route("/message-queue/health", get(health::health))
        .route("/message-queue/messages/{id}", get(message::show))
        .route("/message-queue/messages/{id}/acknowledge", post(acknowledge::acknowledge_message))
        .route("/message-queue/messages/{id}/reject", post(acknowledge::reject))
}
