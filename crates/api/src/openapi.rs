//! How refusals are described: which status codes a call may answer with besides its own.
//!
//! A call names the sets that it belongs to; each is what one thing that calls have in common (a body, a query, an
//! id in the path) may be refused with.

use std::collections::BTreeMap;

use utoipa::{
    IntoResponses, ToSchema,
    openapi::{
        ContentBuilder, Header, HeaderBuilder, ObjectBuilder, Ref, RefOr, Response, ResponseBuilder, Type,
    },
};

use crate::auth::ForeignHost;

/// Responses by status code.
pub type Responses = BTreeMap<String, RefOr<Response>>;

/// Refusals by status code and reason, with a body that is described under the name `schema`; but for 403, which is the
/// [`ForeignHost`] of every call.
pub fn refusals(schema: &str, table: &[(u16, &str)]) -> Responses {
    let refusal = |(status, reason): &(u16, &str)| {
        let schema = if *status == 403 { ForeignHost::name() } else { schema.into() };
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(schema))).build();
        let mut response = ResponseBuilder::new().description(*reason).content("application/json", content);
        if matches!(status, 429 | 503) {
            response = response.header("Retry-After", retry_after());
        }
        (status.to_string(), response.build().into())
    };
    table.iter().map(refusal).collect()
}

fn retry_after() -> Header {
    let seconds = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1)).build();
    HeaderBuilder::new().schema(Some(seconds)).description(Some("Seconds after which it may work.")).build()
}

macro_rules! refused {
    ($($(#[$doc:meta])* $set:ident: $table:expr),* $(,)?) => {
        $(
            $(#[$doc])*
            #[derive(Debug)]
            pub struct $set;

            impl IntoResponses for $set {
                fn responses() -> Responses {
                    refusals("ErrorResponse", &$table)
                }
            }
        )*
    };
}

refused! {
    /// Any call.
    Always: [
        (403, "`foreign_host`: without authentication only this machine is answered, and only its own pages."),
        (500, "Something is wrong with Postroad."),
        (503, "Redis is away or full, or Postroad has too much to do; the call may be repeated."),
    ],
    /// A call with a body.
    WithBody: [
        (400, "The path is no text, or the body is not what its type says."),
        (408, "The body came too slowly."),
        (413, "The body, or the message in it, is too large."),
        (415, "The body is of another type, or encoded, than the call reads."),
        (422, "A field is unknown or missing, or its value breaks a rule; `details.field` says which."),
    ],
    /// A call that publishes.
    Publishes: [
        (429, "`channel_full`: so much waits for the channel's subscribers that it takes no more; \
               or `too_many_delayed`."),
    ],
    /// A call with a query.
    WithQuery: [
        (422, "A query's name is unknown, there twice, or its value breaks a rule; `details.field` says which."),
    ],
    /// A call for something by its name.
    ByName: [
        (400, "The path is no text, or the body is not what its type says."),
        (404, "There is no such thing."),
    ],
}
