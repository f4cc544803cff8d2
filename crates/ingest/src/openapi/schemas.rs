//! Bodies that no type of ours describes.

use postroad_model::openapi::MessageDelivery;
use serde_json::{Value, json};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        Object, Ref, RefOr, Schema,
        schema::{AnyOfBuilder, SchemaType},
    },
};

use crate::{
    calls::{
        command_responses::CommandResponse,
        commands::CommandReceipt,
        health::HealthState,
        messages::{BulkPublishResponse, Content},
    },
    publish::{PublishMessageRequest, PublishMessageResponse},
    subscribe::SubscriptionRequest,
};

/// One message of many: what is wrong with it is told in its own row.
#[derive(Debug)]
pub struct BulkMessage;

impl PartialSchema for BulkMessage {
    fn schema() -> RefOr<Schema> {
        AnyOfBuilder::new()
            .item(Ref::from_schema_name(PublishMessageRequest::name()))
            .item(Object::with_type(SchemaType::AnyValue))
            .description(Some(
                "A `PublishMessageRequest`; with `fail_on_error: false` anything else is answered in its row.",
            ))
            .into()
    }
}

impl ToSchema for BulkMessage {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((PublishMessageRequest::name().into(), PublishMessageRequest::schema()));
        PublishMessageRequest::schemas(schemas);
    }
}

/// Deliveries that were pulled: as many as there were, at most as many as were asked for.
#[derive(Debug, ToSchema)]
pub struct PullResponse {
    /// Each awaits its acknowledgment from now on.
    pub deliveries: Vec<MessageDelivery>,
}

/// A CloudEvent in the JSON event format. Other members are its extensions: booleans, 32-bit integers and strings.
#[derive(Debug, ToSchema)]
#[schema(example = json!({
    "specversion": "1.0",
    "id": "72d3162e-cc78-11e3-81ab-4c9367dc0958",
    "source": "/github/octo-org/hello-world",
    "type": "github.push",
    "subject": "refs/heads/main",
    "time": "2024-01-15T12:30:00Z",
    "datacontenttype": "application/json",
    "partitionkey": "octo-org/hello-world",
    "data": { "ref": "refs/heads/main", "commits": [{ "id": "0d1a26e", "message": "Fix all the bugs" }] },
}))]
pub struct CloudEvent {
    /// `1.0`.
    #[schema(pattern = r"^1\.0$")]
    pub specversion: String,
    /// With `source`, what makes it idempotent.
    #[schema(min_length = 1)]
    pub id: String,
    /// Where it happened.
    #[schema(min_length = 1)]
    pub source: String,
    /// What has happened: its routing key.
    #[schema(min_length = 1)]
    pub r#type: String,
    /// The event's data: any JSON.
    #[schema(value_type = Value, required = false)]
    pub data: Value,
    /// The same as base64; not together with `data`.
    pub data_base64: Option<String>,
}

/// What is to change of a subscription: what it was asked for with, and nothing of it is needed.
#[derive(Debug)]
pub struct SubscriptionPatch;

impl PartialSchema for SubscriptionPatch {
    fn schema() -> RefOr<Schema> {
        let mut schema = nothing_required(SubscriptionRequest::schema());
        if let RefOr::T(Schema::Object(object)) = &mut schema {
            object.description = Some(
                "A JSON merge patch (RFC 7396) over what the subscription was asked for with: only what is to \
                 change, and null for the default. A filter is replaced as a whole."
                    .into(),
            );
            object.example = Some(json!({ "rate_limit": 50, "filter_criteria": null }));
        }
        schema
    }
}

impl ToSchema for SubscriptionPatch {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        SubscriptionRequest::schemas(schemas);
    }
}

/// A message's content, where history still has it; else nothing of it is there.
#[derive(Debug)]
pub struct ContentIfKept;

impl PartialSchema for ContentIfKept {
    fn schema() -> RefOr<Schema> {
        nothing_required(Content::schema())
    }
}

impl ToSchema for ContentIfKept {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        Content::schemas(schemas);
    }
}

/// How things are, where Redis can be asked; else nothing of it is there.
#[derive(Debug)]
pub struct HealthStateIfKnown;

impl PartialSchema for HealthStateIfKnown {
    fn schema() -> RefOr<Schema> {
        nothing_required(HealthState::schema())
    }
}

impl ToSchema for HealthStateIfKnown {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        HealthState::schemas(schemas);
    }
}

fn nothing_required(mut schema: RefOr<Schema>) -> RefOr<Schema> {
    if let RefOr::T(Schema::Object(object)) = &mut schema {
        object.required.clear();
    }
    schema
}

/// What publishing CloudEvents is answered with: of one event, or of a batch.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
pub enum CloudEventsPublished {
    /// Of one event.
    One(PublishMessageResponse),
    /// Of a batch.
    Batch(BulkPublishResponse),
}

/// What a command is answered with at once, if it is not new or somebody waits.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
pub enum CommandAnswered {
    /// With `wait`: the answer.
    Answer(CommandResponse),
    /// Without: the first result.
    Receipt(CommandReceipt),
}
