//! The `/message-queue` API: the same channels, messages and subscriptions in another dialect.
//!
//! A queue is a channel. What differs is how things are said: bodies and refusals have the fields of that API's
//! own documentation, and its times are milliseconds.

pub mod acknowledge;
pub mod error;
pub mod health;
pub mod message;
pub mod metrics;
pub mod openapi;
pub mod publish;
pub mod queues;
pub mod subscribe;

use std::sync::Arc;

use utoipa_axum::{router::OpenApiRouter, routes};

use crate::App;

/// Its calls.
pub fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(publish::publish))
        .routes(routes!(subscribe::subscribe))
        .routes(routes!(queues::show))
        .routes(routes!(message::show))
        .routes(routes!(acknowledge::acknowledge_message))
        .routes(routes!(acknowledge::reject))
        .routes(routes!(metrics::metrics))
        .routes(routes!(health::health))
}
