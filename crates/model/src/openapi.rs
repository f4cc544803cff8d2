//! How the APIs' descriptions show what is written as a text or an object of its own.

use std::borrow::Cow;

use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        KnownFormat, ObjectBuilder, OneOfBuilder, RefOr, Schema, SchemaFormat, Type,
        schema::AdditionalProperties,
    },
};

use crate::{
    filter::Filter,
    id::{JobId, MAX_ID_BYTES, MessageId, SubscriptionId},
    matching::HeaderMatch,
    message::Metadata,
    time::Time,
};

/// What an id may hold, as a regular expression.
pub const ID_PATTERN: &str = "^[A-Za-z0-9_-]{1,128}$";

fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

fn object() -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::Object)
        .additional_properties(Some(AdditionalProperties::FreeForm(true)))
}

fn id(what: &str) -> ObjectBuilder {
    text().pattern(Some(ID_PATTERN)).max_length(Some(MAX_ID_BYTES)).description(Some(what))
}

macro_rules! shown {
    ($($shown:ident: $schema:expr),* $(,)?) => {
        $(
            impl PartialSchema for $shown {
                fn schema() -> RefOr<Schema> {
                    $schema.into()
                }
            }

            impl ToSchema for $shown {
                fn name() -> Cow<'static, str> {
                    Cow::Borrowed(stringify!($shown))
                }
            }
        )*
    };
}

shown! {
    Time: text()
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
        .description(Some("RFC 3339. Written in UTC with milliseconds, read with any offset, not before 1970."))
        .examples(["2024-01-15T12:30:00.000Z"]),
    MessageId: id("A message's id: chosen by the publisher, or made by Postroad; what receivers deduplicate by."),
    SubscriptionId: id("A subscription's id."),
    JobId: id("A replay job's id."),
    Filter: object().description(Some(
        "An event pattern over the payload, as Amazon EventBridge has them; a bare scalar means equality.",
    )),
    HeaderMatch: object().description(Some(
        "Headers to compare, and `x-match`: `all` (the default), `any`, `all-with-x` or `any-with-x`.",
    )),
}

/// `MessageDelivery`: what a subscriber gets in the `native` format, pushed or pulled.
#[derive(Debug, ToSchema)]
pub struct MessageDelivery {
    /// The message.
    pub message_id: MessageId,
    /// The subscription.
    pub subscription_id: SubscriptionId,
    /// The channel that it was published on.
    pub channel: String,
    /// The content, byte for byte as it was published; bytes are base64.
    pub payload: MessagePayload,
    /// What the publisher says besides.
    pub metadata: Metadata,
    /// Counts from 1.
    pub delivery_attempt: u32,
    /// How often it is attempted in all.
    pub max_attempts: u32,
    /// When it was handed over.
    pub delivered_at: Time,
    /// Its routing key; not there where it has none.
    #[schema(nullable = false)]
    pub routing_key: Option<String>,
    /// The key whose messages keep their order; not there where it has none.
    #[schema(nullable = false)]
    pub ordering_key: Option<String>,
}

/// A message's content, as it stands in JSON.
#[derive(Debug)]
pub struct MessagePayload;

impl PartialSchema for MessagePayload {
    fn schema() -> RefOr<Schema> {
        OneOfBuilder::new()
            .item(object())
            .item(text())
            .description(Some("An object, a string, or bytes as base64 with `content_encoding: \"base64\"`."))
            .into()
    }
}

impl ToSchema for MessagePayload {}
