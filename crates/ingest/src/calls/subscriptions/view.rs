//! Subscriptions as the API shows them.

use postroad_api::number;
use postroad_model::{
    egress::{CallbackUrl, EgressPolicy},
    filter::Filter,
    matching::HeaderMatch,
    subscription::{Channels, Format, Status, Subscription},
    time::Time,
};
use postroad_store::SubscriptionState;
use serde::Serialize;
use utoipa::ToSchema;

use crate::subscribe::seconds;

/// `SubscriptionResponse`: a subscription that was created, paused or resumed.
#[derive(Debug, Serialize, ToSchema)]
pub struct SubscriptionResponse {
    /// Always true: what fails is answered with an `ErrorResponse`.
    pub success: bool,
    /// Its id.
    pub subscription_id: String,
    /// The channel that it listens to, where it names one.
    pub channel: Option<String>,
    /// The glob over channels' names, where it has one.
    pub channel_pattern: Option<String>,
    /// The service that it belongs to.
    pub service_name: String,
    /// Whether deliveries flow.
    pub status: Status,
    /// When it was created.
    pub created_at: Time,
    /// Always null, like `success`.
    pub error: Option<String>,
    /// What its deliveries are signed with (`whsec_…`). Shown when it is made, and never again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// What it was asked for with.
    #[serde(flatten)]
    pub settings: Settings,
}

/// What a subscription was asked for with, or got by default.
#[derive(Debug, Serialize, ToSchema)]
pub struct Settings {
    /// Where deliveries go, without what only the subscriber should know; null where they are pulled.
    pub callback_url: Option<String>,
    /// The pattern over routing keys.
    pub routing_key: Option<String>,
    /// The event pattern over the payload.
    pub filter_criteria: Option<Filter>,
    /// The headers to compare.
    pub header_match: Option<HeaderMatch>,
    /// Retries after the first attempt.
    pub max_retries: u32,
    /// Seconds before the first retry.
    #[serde(serialize_with = "number::whole")]
    pub retry_delay: f64,
    /// What the delay is multiplied by before each further retry.
    #[serde(serialize_with = "number::whole")]
    pub backoff_multiplier: f64,
    /// The most unacknowledged deliveries at a time.
    pub prefetch_count: u32,
    /// Whether a 2xx also acknowledges.
    pub auto_ack: bool,
    /// Seconds within which an unacknowledged delivery must be acknowledged.
    pub ack_timeout: u64,
    /// The most deliveries in one request.
    pub batch_size: u32,
    /// Deliveries a second; null: as fast as it answers.
    pub rate_limit: Option<u32>,
    /// Whether messages of one ordering key keep their order.
    pub ordered: bool,
    /// How a delivery is put into a request.
    pub format: Format,
    /// The channel on which copies of dead letters are published.
    pub dead_letter_queue: Option<String>,
}

/// `SubscriptionInfo`, and more.
#[derive(Debug, Serialize, ToSchema)]
pub struct SubscriptionInfo {
    /// Its id.
    pub subscription_id: String,
    /// The channel that it listens to, where it names one.
    pub channel: Option<String>,
    /// The glob over channels' names, or the channel's name.
    pub channel_pattern: String,
    /// The service that it belongs to.
    pub service_name: String,
    /// Whether deliveries flow.
    pub status: Status,
    /// Why they do not, where Postroad disabled it.
    pub status_reason: Option<String>,
    /// When it was created.
    pub created_at: Time,
    /// When it was last changed.
    pub updated_at: Time,
    /// How often a delivery is attempted in all.
    pub max_delivery_attempts: u32,
    /// When an attempt last came to its end.
    pub last_activity: Option<Time>,
    /// Messages delivered.
    pub message_count: u64,
    /// Attempts that failed.
    pub error_count: u64,
    /// Deliveries in its queue, whatever their state.
    pub queued: u64,
    /// Its dead letters.
    pub dead_letters: u64,
    /// Whether its circuit is open: it failed so often that deliveries wait.
    pub circuit_open: bool,
    /// What it was asked for with.
    #[serde(flatten)]
    pub settings: Settings,
}

/// A page of subscriptions.
#[derive(Debug, Serialize, ToSchema)]
pub struct SubscriptionList {
    /// The page.
    pub subscriptions: Vec<SubscriptionInfo>,
    /// Where the next page begins; null at the end.
    pub next_cursor: Option<String>,
}

/// A subscription that is no more.
#[derive(Debug, Serialize, ToSchema)]
pub struct SubscriptionCancelled {
    /// Always true.
    pub success: bool,
    /// Its id.
    pub subscription_id: String,
    /// `cancelled`.
    pub status: &'static str,
}

impl SubscriptionResponse {
    /// Of a subscription, without its secret.
    pub fn of(subscription: &Subscription) -> Self {
        let (channel, channel_pattern) = match &subscription.selector.channels {
            Channels::Channel(name) => (Some(name.to_string()), None),
            Channels::Pattern(glob) => (None, Some(glob.as_str().to_owned())),
        };
        Self {
            success: true,
            subscription_id: subscription.id.to_string(),
            channel,
            channel_pattern,
            service_name: subscription.service_name.to_string(),
            status: subscription.status,
            created_at: subscription.created_at,
            error: None,
            secret: None,
            settings: Settings::of(subscription),
        }
    }

    /// The same, with the current secret.
    pub fn with_secret(self, subscription: &Subscription) -> Self {
        Self { secret: subscription.secrets.first().map(|secret| secret.value.to_text()), ..self }
    }
}

impl SubscriptionInfo {
    /// Of a subscription and its running figures.
    pub fn of(subscription: &Subscription, state: &SubscriptionState) -> Self {
        let channel = match &subscription.selector.channels {
            Channels::Channel(name) => Some(name.to_string()),
            Channels::Pattern(_) => None,
        };
        Self {
            subscription_id: subscription.id.to_string(),
            channel,
            channel_pattern: subscription.channel_pattern().to_owned(),
            service_name: subscription.service_name.to_string(),
            status: subscription.status,
            status_reason: subscription.status_reason.clone(),
            created_at: subscription.created_at,
            updated_at: subscription.updated_at,
            max_delivery_attempts: subscription.retry.max_attempts(),
            last_activity: state.active_ms.map(Time::from_millis),
            message_count: state.delivered,
            error_count: state.failed,
            queued: state.queued,
            dead_letters: state.dead,
            circuit_open: state.limit == Some(0),
            settings: Settings::of(subscription),
        }
    }
}

impl Settings {
    fn of(subscription: &Subscription) -> Self {
        Self {
            callback_url: masked(subscription),
            routing_key: subscription.selector.routing_key.as_ref().map(|key| key.as_str().to_owned()),
            filter_criteria: subscription.selector.filter_criteria.clone(),
            header_match: subscription.selector.header_match.clone(),
            max_retries: subscription.retry.max_retries,
            retry_delay: seconds(subscription.retry.retry_delay_ms),
            backoff_multiplier: subscription.retry.backoff_multiplier,
            prefetch_count: subscription.prefetch_count,
            auto_ack: subscription.auto_ack,
            ack_timeout: subscription.ack_timeout,
            batch_size: subscription.batch_size,
            rate_limit: subscription.rate_limit,
            ordered: subscription.ordered,
            format: subscription.format,
            dead_letter_queue: subscription.dead_letter_queue.as_ref().map(ToString::to_string),
        }
    }
}

/// The callback's URL without what only the subscriber should know.
fn masked(subscription: &Subscription) -> Option<String> {
    let url = subscription.callback_url.as_deref()?;
    // Judged when it was given; here it is only shown.
    let anywhere = EgressPolicy::parse(["0.0.0.0/0", "::/0"]).ok()?;
    Some(CallbackUrl::check(url, &anywhere).map_or_else(|_| "(unreadable)".to_owned(), |url| url.masked()))
}
