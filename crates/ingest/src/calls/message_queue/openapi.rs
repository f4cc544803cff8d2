//! How this dialect's refusals are described.

use postroad_api::openapi::{Responses, refusals};
use utoipa::IntoResponses;

macro_rules! refused {
    ($($(#[$doc:meta])* $set:ident: $table:expr),* $(,)?) => {
        $(
            $(#[$doc])*
            #[derive(Debug)]
            pub struct $set;

            impl IntoResponses for $set {
                fn responses() -> Responses {
                    refusals("QueueErrorBody", &$table)
                }
            }
        )*
    };
}

refused! {
    /// Any call.
    QueueAlways: [
        (403, "`foreign_host`: without authentication only this machine is answered, and only its own pages."),
        (500, "Something is wrong with Postroad."),
        (503, "Redis is away or full, or Postroad has too much to do; the call may be repeated."),
    ],
    /// A call with a body.
    QueueWithBody: [
        (400, "`invalid_message`: the body is no JSON, a field is unknown or missing, or its value breaks a rule; \
               `details.field` says which."),
        (408, "The body came too slowly."),
        (413, "The body, or the message in it, is too large."),
        (415, "The body is of another type, or encoded, than the call reads."),
    ],
    /// A call that publishes.
    QueuePublishes: [
        (429, "`channel_full`: so much waits for the queue's subscribers that it takes no more."),
    ],
    /// A call with a query.
    QueueWithQuery: [
        (400, "`invalid_message`: a query's name is unknown, there twice, or its value breaks a rule; \
               `details.field` says which."),
    ],
    /// A call for something by its name.
    QueueNamed: [
        (400, "`invalid_message`: what was sent cannot be read, or breaks a rule; `details.field` says which."),
        (404, "There is no such thing."),
    ],
}
