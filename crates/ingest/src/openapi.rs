//! The API's description: OpenAPI 3.1, made from the code that it describes.
//!
//! Each call says beside its code what it takes and answers ([`utoipa::path`]); its bodies are the types that are
//! read and written. A call is routed by the same word that describes it, so there is none without a description.
//! The document is written once, at start.

pub mod docs;
pub mod params;
pub mod schemas;

use anyhow::Context;
use axum::{
    Router,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use postroad_api::{auth::ForeignHost, error::ErrorResponse, openapi::Always};
use utoipa::{
    OpenApi,
    openapi::{RefOr, Required},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::calls::message_queue::error::QueueErrorBody;

/// What is said of the whole.
#[derive(Debug, OpenApi)]
#[openapi(
    info(
        title = "Postroad",
        description = "A messaging backbone: accepts messages over HTTP, keeps them in Redis, and delivers each to \
                       every subscription that matches it, at least once, as a signed webhook or by pulling.\n\n\
                       Times are RFC 3339 in UTC. What is refused has changed nothing. Fields that a call does not \
                       know are refused; answers may get more fields with time.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    servers((url = "/", description = "Here.")),
    components(schemas(ErrorResponse, QueueErrorBody, ForeignHost)),
    tags(
        (name = "messages", description = "Publish, look, follow."),
        (name = "channels", description = "Named topics: they appear on first use, and may be configured."),
        (name = "subscriptions", description = "Who gets which messages, and how."),
        (name = "acknowledgments", description = "What subscribers say of deliveries."),
        (name = "replays", description = "History once more."),
        (name = "events", description = "What has happened, and the types of it."),
        (name = "commands", description = "What is to be done or asked, and the answers."),
        (name = "notifications", description = "For people, with streams to their browsers."),
        (name = "health", description = "How Postroad does, and how services say they do."),
        (name = "message-queue", description = "The same in another dialect: a queue is a channel."),
        (name = "description", description = "This."),
    ),
)]
pub struct Description;

/// Shows this description.
#[utoipa::path(
    get,
    path = "/openapi.json",
    operation_id = "show_description",
    tag = "description",
    responses((status = 200, description = "OpenAPI 3.1.", body = Object), Always),
)]
pub async fn document(State(document): State<Bytes>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], document).into_response()
}

/// The calls, and with them what describes them.
///
/// # Errors
/// Where the description cannot be written.
pub fn described(calls: OpenApiRouter) -> anyhow::Result<Router> {
    let own = OpenApiRouter::new().routes(routes!(document)).routes(routes!(docs::page));
    // Not calls of the API: the parts of the page, and its address as people also write it.
    let own = own.route("/docs/", get(docs::page)).route("/docs/{part}", get(docs::part));
    let (calls, mut description) = calls.split_for_parts();
    let (own, of_own) = own.split_for_parts();
    description.merge(of_own);
    leave_out_bodies(&mut description);
    let document = Bytes::from(description.to_json().context("the API's description cannot be written")?);
    Ok(calls.merge(own.with_state(document)))
}

/// Calls that can do without a body: an empty one is a payload, or all that could be asked for has a default.
const BODY_MAY_BE_LEFT_OUT: [&str; 6] = [
    "publish_cloudevent",
    "publish_raw_message",
    "pull_deliveries",
    "replay_message",
    "rotate_secret",
    "test_subscription",
];

/// Says of which bodies they may be left out: beside a call it can only be said that its body may be null.
fn leave_out_bodies(description: &mut utoipa::openapi::OpenApi) {
    let posts = description.paths.paths.values_mut().filter_map(|path| path.post.as_mut());
    for call in posts {
        let may = call.operation_id.as_deref().is_some_and(|id| BODY_MAY_BE_LEFT_OUT.contains(&id));
        if may && let Some(RefOr::T(body)) = &mut call.request_body {
            body.required = Some(Required::False);
        }
    }
}
