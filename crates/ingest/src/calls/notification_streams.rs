//! `GET /v1/notifications/stream` and `POST /v1/notifications/tickets`.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use postroad_api::{
    body,
    error::{ApiError, ApiResult, ErrorResponse},
    openapi::{Always, WithBody, WithQuery},
    query,
};
use postroad_model::{
    id::{Kind, mint},
    notification,
    time::{Time, millis},
};
use postroad_store::{StoreError, StreamId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    App,
    envelope::EntityId,
    openapi::params::{StreamHeaders, StreamQuery},
    stream,
};

/// How long a ticket opens a stream.
const TICKET_LIFE: Duration = Duration::from_secs(60);
/// The most bytes of a request.
const MAX_BODY: usize = 4 << 10;
/// The longest ticket.
const MAX_TICKET: usize = 64;

/// Whose stream a ticket opens.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "user_id": 42, "company_id": 7 }))]
pub struct TicketRequest {
    /// The user.
    pub user_id: EntityId,
    /// The company whose notifications the stream shows besides.
    #[serde(default)]
    pub company_id: Option<EntityId>,
}

/// A ticket.
#[derive(Debug, Serialize, ToSchema)]
pub struct Ticket {
    /// What `GET /v1/notifications/stream?ticket=` takes, once.
    pub ticket: String,
    /// Until when.
    pub expires_at: Time,
    /// Seconds until then.
    pub expires_in: u64,
}

/// Who looks at a stream.
#[derive(Debug, Serialize, Deserialize)]
struct Viewer {
    user: String,
    company: Option<String>,
}

/// Issues a ticket that opens one stream, once, within 60 s.
///
/// A browser's `EventSource` can send nothing else along.
#[utoipa::path(
    post,
    path = "/v1/notifications/tickets",
    operation_id = "issue_ticket",
    tag = "notifications",
    request_body = TicketRequest,
    responses(
        (status = 201, description = "The ticket.", body = Ticket),
        WithBody,
        Always,
    ),
)]
pub async fn issue_ticket(State(app): State<Arc<App>>, request: Request) -> ApiResult<Response> {
    let wanted: TicketRequest = body::json(request, MAX_BODY).await?;
    let viewer = Viewer {
        user: wanted.user_id.checked("user_id")?,
        company: wanted.company_id.as_ref().map(|id| id.checked("company_id")).transpose()?,
    };
    let opens = serde_json::to_string(&(app.caller().tenant, viewer))
        .map_err(|error| ApiError::field("user_id", error.to_string()))?;
    let now_ms = app.clock.now_ms();
    let ticket = mint(Kind::Ticket, now_ms, rand::random());
    app.store.put_ticket(&ticket, &opens, TICKET_LIFE).await?;
    let ticket = Ticket {
        ticket,
        expires_at: Time::from_millis(now_ms + millis(TICKET_LIFE)),
        expires_in: TICKET_LIFE.as_secs(),
    };
    Ok((StatusCode::CREATED, Json(ticket)).into_response())
}

/// Streams a user's notifications as server-sent events.
///
/// One event for each notification that is for the user of `user_id` (or of `ticket`), for the company of
/// `company_id` if one is named, and for everybody. `data` is the notification, `id` its place.
///
/// `Last-Event-ID` (or `last_event_id`, for a stream that is opened anew) goes on behind it, each one exactly
/// once, as far as the tails still hold them: the newest 1,000 of each, for the retention time. `0` shows all of
/// them. Without it, a stream begins with what comes.
#[utoipa::path(
    get,
    path = "/v1/notifications/stream",
    operation_id = "stream_notifications",
    tag = "notifications",
    params(StreamQuery, StreamHeaders),
    responses(
        (
            status = 200,
            description = "Server-sent events, without end.",
            body = String,
            content_type = "text/event-stream",
        ),
        (status = 401, description = "`invalid_ticket`: it is unknown, used or too old.", body = ErrorResponse),
        WithQuery,
        Always,
    ),
)]
pub async fn open(State(app): State<Arc<App>>, uri: Uri, headers: HeaderMap) -> ApiResult<Response> {
    let asked = query::pairs(&uri, &["user_id", "company_id", "ticket", "last_event_id"])?;
    let asked = |name: &str| asked.get(name).map(String::as_str);
    let after = last_event_id(&headers, asked("last_event_id"))?;
    let mut tenant = app.caller().tenant;
    let place = app.streams.take()?;
    let viewer = match (asked("ticket"), asked("user_id")) {
        (Some(_), Some(_)) => {
            return Err(ApiError::field(
                "user_id",
                "user_id goes without a ticket, which says whose stream it is",
            ));
        }
        (Some(ticket), None) => {
            let viewer;
            (tenant, viewer) = take_ticket(&app, ticket).await?;
            viewer
        }
        (None, Some(user)) => {
            let company = asked("company_id").map(|company| EntityId::Text(company.to_owned()));
            Viewer {
                user: EntityId::Text(user.to_owned()).checked("user_id")?,
                company: company.map(|company| company.checked("company_id")).transpose()?,
            }
        }
        (None, None) => {
            return Err(ApiError::field(
                "user_id",
                "user_id is missing; say whose notifications are to be shown",
            ));
        }
    };
    let tails = notification::tails(&viewer.user, viewer.company.as_deref());
    let stream = stream::open(app.store.clone(), tenant, tails, after, app.stop.clone(), place).await?;
    let mut response = Response::new(Body::from_stream(stream));
    for (name, value) in [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
        // Proxies that gather answers before they pass them on would keep notifications back.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

async fn take_ticket(app: &App, ticket: &str) -> ApiResult<(postroad_model::names::Tenant, Viewer)> {
    let invalid = || {
        let message = "the ticket is unknown, used or too old; ask for another one";
        ApiError::new(StatusCode::UNAUTHORIZED, "invalid_ticket", message).with("field", "ticket")
    };
    let is_one = ticket.len() <= MAX_TICKET && ticket.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let opens = if is_one { app.store.take_ticket(ticket).await? } else { None };
    let opens = opens.ok_or_else(invalid)?;
    Ok(serde_json::from_str(&opens).map_err(|error| StoreError::Reply(format!("a ticket: {error}")))?)
}

/// Behind which event the stream goes on: what a browser says when it comes back counts more than the address
/// that it was first opened with.
fn last_event_id(headers: &HeaderMap, asked: Option<&str>) -> ApiResult<Option<StreamId>> {
    let (field, text) = match headers.get("last-event-id") {
        Some(value) => ("Last-Event-ID", value.to_str().unwrap_or("?")),
        None => ("last_event_id", asked.unwrap_or_default()),
    };
    match text.trim() {
        "" => Ok(None),
        "0" => Ok(Some(StreamId::ZERO)),
        text => text.parse().map(Some).map_err(|_| {
            ApiError::field(
                field,
                format!("{field} is no id of an event of this stream; leave it out, or say 0"),
            )
        }),
    }
}
