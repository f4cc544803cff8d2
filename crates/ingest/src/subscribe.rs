//! From a request to a subscription: everything that can be wrong with it is found here.

use std::collections::BTreeMap;

use postroad_api::{
    caller::Caller,
    error::{ApiError, ApiResult},
    object,
};
use postroad_model::{
    egress::{CallbackUrl, EgressPolicy, check_callback_headers},
    filter::Filter,
    glob::Glob,
    id::{Kind, SubscriptionId, mint},
    matching::HeaderMatch,
    names::{ChannelName, ServiceName},
    signature::{Secret, SecretKey},
    subscription::{
        Channels, DEFAULT_ACK_TIMEOUT, DEFAULT_PREFETCH, DEFAULT_PULL_PREFETCH, Format, MAX_ACK_TIMEOUT,
        MAX_BATCH, MAX_PREFETCH, MAX_RATE, RetryPolicy, Selector, Status, Subscription,
    },
    time::Time,
    topic::TopicPattern,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::config::IngestConfig;

/// `SubscriptionRequest`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
        "service_name": "deployer",
        "callback_url": "https://deployer.example/webhooks/postroad",
        "channel": "github.push",
        "routing_key": "octo-org.*",
        "filter_criteria": { "ref": ["refs/heads/main", { "prefix": "refs/tags/" }] },
        "headers": { "x-token": "a secret between the two" },
        "retry_policy": { "max_retries": 5, "retry_delay": 10.0, "backoff_multiplier": 2.0 },
        "prefetch_count": 10,
    }))]
pub struct SubscriptionRequest {
    /// The service that it belongs to.
    #[schema(min_length = 1, max_length = 255)]
    pub service_name: String,
    /// Where deliveries go; none: they are pulled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub callback_url: Option<String>,
    /// One channel, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(pattern = r"^[A-Za-z0-9_:/-]+(\.[A-Za-z0-9_:/-]+)*$", max_length = 255)]
    pub channel: Option<String>,
    /// All channels that a glob matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 255)]
    pub channel_pattern: Option<String>,
    /// An event pattern over the payload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter_criteria: Option<Map<String, Value>>,
    /// A topic pattern over the routing key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 255)]
    pub routing_key: Option<String>,
    /// Headers to compare.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header_match: Option<Map<String, Value>>,
    /// Headers to send with each delivery.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<BTreeMap<String, String>>,
    /// Retries after the first attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 100)]
    pub max_retries: Option<u32>,
    /// Seconds before the first retry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 3_600)]
    pub retry_delay: Option<f64>,
    /// The same, and the multiplier, in one.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "object::only")]
    pub retry_policy: Option<RetryPolicyRequest>,
    /// The most unacknowledged deliveries at a time, over all workers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 10_000)]
    pub prefetch_count: Option<u32>,
    /// Whether a 2xx also acknowledges. `false` where deliveries are pulled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_ack: Option<bool>,
    /// Seconds within which an unacknowledged delivery must be acknowledged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 43_200)]
    pub ack_timeout: Option<u64>,
    /// The most deliveries in one request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1_000)]
    pub batch_size: Option<u32>,
    /// Deliveries a second; none: as fast as it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 100_000)]
    pub rate_limit: Option<u32>,
    /// Whether messages of one ordering key keep their order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ordered: Option<bool>,
    /// How a delivery is put into a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Format>)]
    pub format: Option<String>,
    /// The channel on which copies of dead letters are published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(pattern = r"^[A-Za-z0-9_:/-]+(\.[A-Za-z0-9_:/-]+)*$", max_length = 255)]
    pub dead_letter_queue: Option<String>,
}

/// `retry_policy`; its delay is in seconds.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RetryPolicyRequest {
    /// Retries after the first attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 100)]
    pub max_retries: Option<u32>,
    /// Seconds before the first retry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 3_600)]
    pub retry_delay: Option<f64>,
    /// What the delay is multiplied by before each further retry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 100)]
    pub backoff_multiplier: Option<f64>,
}

/// The longest delay that may be asked for: the ceiling of an hour.
const MAX_DELAY_SECONDS: f64 = 3_600.0;

/// Checks a request and makes a subscription of it.
pub fn create(
    request: SubscriptionRequest,
    caller: &Caller,
    config: &IngestConfig,
    now_ms: u64,
) -> ApiResult<Subscription> {
    let now = Time::from_millis(now_ms);
    let key = SecretKey::from_bytes(&rand::random::<[u8; 32]>())
        .map_err(|error| ApiError::field("secret", error.to_string()))?;
    let id = SubscriptionId::new(&mint(Kind::Subscription, now_ms, rand::random()))?;
    let wish = Wish::check(request, config)?;
    Ok(wish.onto(Subscription {
        id,
        tenant: caller.tenant.clone(),
        service_name: caller.subject.clone(),
        selector: Selector {
            channels: Channels::Channel(ChannelName::new("none")?),
            routing_key: None,
            header_match: None,
            filter_criteria: None,
        },
        callback_url: None,
        headers: BTreeMap::new(),
        secrets: vec![Secret { value: key, created_at: now, expires_at: None }],
        retry: config.retry,
        auto_ack: true,
        ack_timeout: DEFAULT_ACK_TIMEOUT,
        batch_size: 1,
        prefetch_count: DEFAULT_PREFETCH,
        rate_limit: None,
        ordered: false,
        format: Format::Native,
        dead_letter_queue: None,
        status: Status::Active,
        status_reason: None,
        created_at: now,
        updated_at: now,
    }))
}

/// Checks a JSON merge patch (RFC 7396) over what the subscription was asked for with.
pub fn patch(
    current: Subscription,
    patch: &Map<String, Value>,
    config: &IngestConfig,
    now_ms: u64,
) -> ApiResult<Subscription> {
    let mut request = match serde_json::to_value(request_of(&current)) {
        Ok(Value::Object(request)) => request,
        _ => Map::new(),
    };
    // Whoever names the one means to leave the other.
    for (named, other) in [("channel", "channel_pattern"), ("channel_pattern", "channel")] {
        if patch.get(named).is_some_and(|value| !value.is_null()) && !patch.contains_key(other) {
            request.remove(other);
        }
    }
    // What cannot go with being pulled was never said of it.
    if patch.get("callback_url").is_some_and(Value::is_null) {
        request.remove("auto_ack");
    }
    for (named, other) in [("max_retries", "max_retries"), ("retry_delay", "retry_delay")] {
        if patch.contains_key(named)
            && let Some(Value::Object(policy)) = request.get_mut("retry_policy")
        {
            policy.remove(other);
        }
    }
    merge(&mut request, patch, true);
    let request = postroad_api::body::parse(Value::Object(request).to_string().as_bytes())?;
    let wish = Wish::check(request, config)?;
    Ok(wish.onto(Subscription { updated_at: Time::from_millis(now_ms), ..current }))
}

fn merge(target: &mut Map<String, Value>, patch: &Map<String, Value>, known: bool) {
    for (name, value) in patch {
        match value {
            // What is known by name stays, so that a name that is not is refused with null as with anything.
            Value::Null if known => {
                target.insert(name.clone(), Value::Null);
            }
            Value::Null => {
                target.remove(name);
            }
            // A filter is replaced, not mixed with what was there.
            Value::Object(inner) if name != "filter_criteria" && name != "header_match" => {
                let entry = target.entry(name.clone()).or_insert_with(|| json!({}));
                if !entry.is_object() {
                    *entry = json!({});
                }
                if let Value::Object(target) = entry {
                    merge(target, inner, name != "headers");
                }
            }
            other => {
                target.insert(name.clone(), other.clone());
            }
        }
    }
}

/// The request that would make this subscription.
fn request_of(subscription: &Subscription) -> SubscriptionRequest {
    let (channel, channel_pattern) = match &subscription.selector.channels {
        Channels::Channel(name) => (Some(name.to_string()), None),
        Channels::Pattern(glob) => (None, Some(glob.as_str().to_owned())),
    };
    SubscriptionRequest {
        service_name: subscription.service_name.to_string(),
        callback_url: subscription.callback_url.clone(),
        channel,
        channel_pattern,
        filter_criteria: subscription.selector.filter_criteria.as_ref().map(|filter| filter.source().clone()),
        routing_key: subscription.selector.routing_key.as_ref().map(|key| key.as_str().to_owned()),
        header_match: subscription.selector.header_match.as_ref().map(|wanted| wanted.source().clone()),
        headers: Some(subscription.headers.clone()),
        max_retries: None,
        retry_delay: None,
        retry_policy: Some(RetryPolicyRequest {
            max_retries: Some(subscription.retry.max_retries),
            retry_delay: Some(seconds(subscription.retry.retry_delay_ms)),
            backoff_multiplier: Some(subscription.retry.backoff_multiplier),
        }),
        prefetch_count: Some(subscription.prefetch_count),
        auto_ack: Some(subscription.auto_ack),
        ack_timeout: Some(subscription.ack_timeout),
        batch_size: Some(subscription.batch_size),
        rate_limit: subscription.rate_limit,
        ordered: Some(subscription.ordered),
        format: Some(subscription.format.as_str().to_owned()),
        dead_letter_queue: subscription.dead_letter_queue.as_ref().map(ToString::to_string),
    }
}

/// Milliseconds as seconds.
pub fn seconds(ms: u64) -> f64 {
    f64::from(u32::try_from(ms).unwrap_or(u32::MAX)) / 1_000.0
}

/// A request whose every part was checked.
struct Wish {
    service_name: ServiceName,
    callback_url: Option<String>,
    selector: Selector,
    headers: BTreeMap<String, String>,
    retry: RetryPolicy,
    terms: Terms,
}

/// How deliveries are handed over.
struct Terms {
    prefetch_count: u32,
    auto_ack: bool,
    ack_timeout: u64,
    batch_size: u32,
    rate_limit: Option<u32>,
    ordered: bool,
    format: Format,
    dead_letter_queue: Option<ChannelName>,
}

impl Wish {
    fn check(request: SubscriptionRequest, config: &IngestConfig) -> ApiResult<Self> {
        let terms = Terms::check(&request)?;
        let callback_url =
            request.callback_url.as_deref().map(|url| callback(url, &config.egress)).transpose()?;
        let headers = request.headers.unwrap_or_default();
        check_callback_headers(&headers)
            .map_err(|error| ApiError::field("headers", format!("headers {error}")))?;
        let channels = channels(request.channel.as_deref(), request.channel_pattern.as_deref())?;
        let filter_criteria = request
            .filter_criteria
            .map(Filter::new)
            .transpose()
            .map_err(|error| ApiError::field("filter_criteria", error.to_string()))?;
        let selector = Selector {
            channels,
            routing_key: request.routing_key.as_deref().map(TopicPattern::new).transpose()?,
            header_match: request.header_match.map(HeaderMatch::new).transpose()?,
            filter_criteria,
        };
        let policy = request.retry_policy.as_ref();
        let retry = retry_policy(
            either(request.max_retries, policy.and_then(|policy| policy.max_retries)),
            either(request.retry_delay, policy.and_then(|policy| policy.retry_delay)),
            policy.and_then(|policy| policy.backoff_multiplier),
            config.retry,
        )?;
        let service_name = ServiceName::new(&request.service_name)?;
        Ok(Self { service_name, callback_url, selector, headers, retry, terms })
    }

    fn onto(self, subscription: Subscription) -> Subscription {
        let Self { service_name, callback_url, selector, headers, retry, terms } = self;
        let Terms {
            prefetch_count,
            auto_ack,
            ack_timeout,
            batch_size,
            rate_limit,
            ordered,
            format,
            dead_letter_queue,
        } = terms;
        Subscription {
            service_name,
            callback_url,
            selector,
            headers,
            retry,
            prefetch_count,
            auto_ack,
            ack_timeout,
            batch_size,
            rate_limit,
            ordered,
            format,
            dead_letter_queue,
            ..subscription
        }
    }
}

impl Terms {
    fn check(request: &SubscriptionRequest) -> ApiResult<Self> {
        let is_pull = request.callback_url.is_none();
        if is_pull && request.auto_ack == Some(true) {
            let message =
                "auto_ack = true needs a callback_url: what is pulled is acknowledged by the puller";
            return Err(ApiError::field("auto_ack", message));
        }
        if is_pull && request.headers.as_ref().is_some_and(|headers| !headers.is_empty()) {
            let message = "headers are sent to a callback_url; a pull subscription has none";
            return Err(ApiError::field("headers", message));
        }
        let format = match request.format.as_deref() {
            Some(text) => text.parse::<Format>().map_err(|error| ApiError::field("format", error))?,
            None => Format::default(),
        };
        if is_pull && format != Format::Native {
            let message =
                format!("format = {:?} needs a callback_url: what is pulled is native", format.as_str());
            return Err(ApiError::field("format", message));
        }
        let batch_size = within("batch_size", request.batch_size, 1, MAX_BATCH)?.unwrap_or(1);
        if batch_size > 1 && !format.batches() {
            let message = format!("batch_size = {batch_size} cannot go with format = {:?}", format.as_str());
            return Err(ApiError::field("batch_size", message));
        }
        let usual = if is_pull { DEFAULT_PULL_PREFETCH } else { DEFAULT_PREFETCH };
        Ok(Self {
            prefetch_count: within("prefetch_count", request.prefetch_count, 1, MAX_PREFETCH)?
                .unwrap_or(usual),
            auto_ack: request.auto_ack.unwrap_or(!is_pull),
            ack_timeout: within("ack_timeout", request.ack_timeout, 1, MAX_ACK_TIMEOUT)?
                .unwrap_or(DEFAULT_ACK_TIMEOUT),
            batch_size,
            rate_limit: within("rate_limit", request.rate_limit, 1, MAX_RATE)?,
            ordered: request.ordered.unwrap_or_default(),
            format,
            dead_letter_queue: request
                .dead_letter_queue
                .as_deref()
                .map(|name| {
                    ChannelName::new(name)
                        .map_err(|error| ApiError::field("dead_letter_queue", error.to_string()))
                })
                .transpose()?,
        })
    }
}

fn within<T: PartialOrd + Copy + std::fmt::Display>(
    field: &str,
    value: Option<T>,
    least: T,
    most: T,
) -> ApiResult<Option<T>> {
    match value {
        Some(value) if value < least || value > most => {
            Err(ApiError::field(field, format!("{field} = {value} must be {least} to {most}")))
        }
        value => Ok(value),
    }
}

fn callback(url: &str, policy: &EgressPolicy) -> ApiResult<String> {
    CallbackUrl::check(url, policy)
        .map(|url| url.as_str().to_owned())
        .map_err(|error| ApiError::field("callback_url", format!("callback_url {error}")))
}

fn channels(channel: Option<&str>, pattern: Option<&str>) -> ApiResult<Channels> {
    match (channel, pattern) {
        (Some(name), None) => Ok(Channels::Channel(ChannelName::new(name)?)),
        (None, Some(glob)) => Ok(Channels::Pattern(Glob::new(glob)?)),
        (None, None) => Err(ApiError::field("channel", "one of channel and channel_pattern is needed")),
        (Some(_), Some(_)) => {
            Err(ApiError::field("channel_pattern", "channel and channel_pattern exclude each other"))
        }
    }
}

/// What stands beside `retry_policy` or in it, and before its name what it stands in.
fn either<T>(beside: Option<T>, within: Option<T>) -> Option<(&'static str, T)> {
    beside.map(|value| ("", value)).or_else(|| within.map(|value| ("retry_policy.", value)))
}

fn retry_policy(
    max_retries: Option<(&str, u32)>,
    delay_seconds: Option<(&str, f64)>,
    multiplier: Option<f64>,
    default: RetryPolicy,
) -> ApiResult<RetryPolicy> {
    let (within, max_retries) = max_retries.unwrap_or(("", default.max_retries));
    if max_retries > RetryPolicy::MAX_RETRIES {
        let message = format!("max_retries = {max_retries} must be at most {}", RetryPolicy::MAX_RETRIES);
        return Err(ApiError::field(format!("{within}max_retries"), message));
    }
    let retry_delay_ms = match delay_seconds {
        None => default.retry_delay_ms,
        Some((_, seconds)) if (0.0..=MAX_DELAY_SECONDS).contains(&seconds) => {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "checked to be 0 to an hour"
            )]
            let ms = (seconds * 1_000.0).round() as u64;
            ms
        }
        Some((within, seconds)) => {
            let message = format!("retry_delay = {seconds} must be 0 to {MAX_DELAY_SECONDS} seconds");
            return Err(ApiError::field(format!("{within}retry_delay"), message));
        }
    };
    let backoff_multiplier = multiplier.unwrap_or(default.backoff_multiplier);
    if !(1.0..=100.0).contains(&backoff_multiplier) {
        let message = format!("backoff_multiplier = {backoff_multiplier} must be 1 to 100");
        return Err(ApiError::field("retry_policy.backoff_multiplier", message));
    }
    Ok(RetryPolicy { max_retries, retry_delay_ms, backoff_multiplier })
}
