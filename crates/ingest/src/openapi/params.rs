//! What stands in paths, queries and headers.

use postroad_model::{subscription::Status, time::Time};
use utoipa::IntoParams;

/// A message, in the path.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct MessagePath {
    /// The message's id.
    #[param(pattern = "^[A-Za-z0-9_-]{1,128}$", example = "msg_01hm6c8f3s07xk2v9d0q4t7w1y5z3b8n")]
    pub id: String,
}

/// A message, in a path of the `/message-queue` API.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct QueueMessagePath {
    /// The message's id.
    #[param(pattern = "^[A-Za-z0-9_-]{1,128}$", example = "msg_01hm6c8f3s07xk2v9d0q4t7w1y5z3b8n")]
    pub message_id: String,
}

/// A queue, in the path.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct QueuePath {
    /// The queue's name: a channel's.
    #[param(
        pattern = r"^[A-Za-z0-9_:/-]+(\.[A-Za-z0-9_:/-]+)*$",
        max_length = 255,
        example = "delivery.events"
    )]
    pub queue_name: String,
}

/// Which queue.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct QueueQuery {
    /// This one only; all by default.
    #[param(pattern = r"^[A-Za-z0-9_:/-]+(\.[A-Za-z0-9_:/-]+)*$", max_length = 255, nullable = false)]
    pub queue: Option<String>,
}

/// A command or query, in the path.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct CommandPath {
    /// The command's or query's id.
    #[param(pattern = "^(cmd|qry)_[A-Za-z0-9_-]{1,124}$", example = "cmd_01hm6c8f3s07xk2v9d0q4t7w1y5z3b8n")]
    pub id: String,
}

/// A subscription, in the path.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct SubscriptionPath {
    /// The subscription's id.
    #[param(pattern = "^[A-Za-z0-9_-]{1,128}$", example = "sub_01hm6c8f3sxk2v9d0q4t7w1y5z3b8n")]
    pub id: String,
}

/// A replay job, in the path.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct JobPath {
    /// The job's id.
    #[param(pattern = "^[A-Za-z0-9_-]{1,128}$", example = "job_01hm6c8f3sxk2v9d0q4t7w1y5z3b8n")]
    pub id: String,
}

/// A channel, in the path.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct ChannelPath {
    /// The channel's name: words separated by dots. A `/` in it is written `%2F`.
    #[param(pattern = r"^[A-Za-z0-9_:/-]+(\.[A-Za-z0-9_:/-]+)*$", max_length = 255, example = "github.push")]
    pub name: String,
}

/// An event type, in the path.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct EventTypePath {
    /// The event type: words separated by dots.
    #[param(
        pattern = r"^[A-Za-z0-9_:/-]+(\.[A-Za-z0-9_:/-]+)*$",
        max_length = 248,
        example = "order.shipped"
    )]
    pub r#type: String,
}

/// Which page of a list.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// The most that a page shows; 50 by default.
    #[param(minimum = 1, maximum = 500, nullable = false)]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    #[param(pattern = "^[A-Za-z0-9_-]+$", nullable = false)]
    pub cursor: Option<String>,
}

/// Where a list goes on that has no other limit than its own.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct CursorQuery {
    /// `next_cursor` of the page before.
    #[param(pattern = "^[A-Za-z0-9_-]+$", nullable = false)]
    pub cursor: Option<String>,
}

/// Which subscriptions.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct SubscriptionsQuery {
    /// Of this service.
    #[param(nullable = false)]
    pub service_name: Option<String>,
    /// The same, where `service_name` is not given.
    #[param(nullable = false)]
    pub service: Option<String>,
    /// With this channel, or this pattern.
    #[param(nullable = false)]
    pub channel: Option<String>,
    /// With this status.
    #[param(nullable = false)]
    pub status: Option<Status>,
}

/// Of which time.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct DatesQuery {
    /// From then on; as far back as there are figures by default. By minute for 48 hours, by hour for 90 days.
    #[param(nullable = false)]
    pub date_from: Option<Time>,
    /// Until then, and that moment.
    #[param(nullable = false)]
    pub date_to: Option<Time>,
}

/// Of which category.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct CategoryQuery {
    /// Types of this category only, without regard to letter case.
    #[param(nullable = false)]
    pub category: Option<String>,
}

/// Whether a command's answer is waited for.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct WaitQuery {
    /// Seconds to wait for the answer; without it the call answers at once.
    #[param(minimum = 1, maximum = 60, nullable = false)]
    pub wait: Option<u32>,
}

/// Where CloudEvents go.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct CloudEventsQuery {
    /// The channel, for all of them; else each event's extension `channel`, else `events.<type>`.
    #[param(pattern = r"^[A-Za-z0-9_:/-]+(\.[A-Za-z0-9_:/-]+)*$", max_length = 255, nullable = false)]
    pub channel: Option<String>,
}

/// Whose notifications are shown, and from where on. One of `user_id` and `ticket` is needed.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct StreamQuery {
    /// The user.
    #[param(min_length = 1, max_length = 128, nullable = false)]
    pub user_id: Option<String>,
    /// The company whose notifications are shown besides.
    #[param(min_length = 1, max_length = 128, nullable = false)]
    pub company_id: Option<String>,
    /// A ticket, which opens one stream once.
    #[param(nullable = false)]
    pub ticket: Option<String>,
    /// As the header `Last-Event-ID`, for a stream that is opened anew.
    #[param(pattern = r"^(0|[0-9]+-[0-9]+)$", nullable = false)]
    pub last_event_id: Option<String>,
}

/// Where a stream goes on.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
pub struct StreamHeaders {
    /// The last event that was seen; `0` shows all that is kept.
    #[param(rename = "Last-Event-ID", pattern = r"^(0|[0-9]+-[0-9]+)$", nullable = false)]
    pub last_event_id: Option<String>,
}

/// What a call that publishes says besides.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
pub struct PublishHeaders {
    /// Makes publishing idempotent where the body names no `message_id`: the same key again, for as long as ids are
    /// remembered, is answered with the first result and delivers nothing. Visible ASCII.
    #[param(rename = "Idempotency-Key", min_length = 1, max_length = 255, nullable = false)]
    pub idempotency_key: Option<String>,
    /// W3C Trace Context; what is none begins a new trace.
    #[param(nullable = false)]
    pub traceparent: Option<String>,
}

/// What a call that publishes under an id of its own says besides.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
pub struct TraceHeaders {
    /// W3C Trace Context; what is none begins a new trace.
    #[param(nullable = false)]
    pub traceparent: Option<String>,
}

/// A CloudEvent's attributes in binary mode.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
pub struct CloudEventHeaders {
    /// Binary mode: the event's id.
    #[param(rename = "ce-id", nullable = false, example = "72d3162e-cc78-11e3-81ab-4c9367dc0958")]
    pub id: Option<String>,
    /// Binary mode: where it happened.
    #[param(rename = "ce-source", nullable = false, example = "/github/octo-org/hello-world")]
    pub source: Option<String>,
    /// Binary mode: what has happened.
    #[param(rename = "ce-type", nullable = false, example = "github.push")]
    pub r#type: Option<String>,
    /// Binary mode: `1.0`.
    #[param(rename = "ce-specversion", nullable = false, example = "1.0")]
    pub specversion: Option<String>,
}
