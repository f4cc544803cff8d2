//! `/v1/channels`.

use std::{collections::BTreeSet, sync::Arc};

use axum::{
    Json,
    extract::{Request, State},
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
};
use postroad_api::{
    body,
    error::{ApiError, ApiResult, ErrorResponse},
    object,
    openapi::{Always, ByName, WithBody, WithQuery},
    page,
    path::Named,
    query,
};
use postroad_model::{
    channel::{Arguments, ChannelSettings},
    figures::Count,
    matching::ChannelType,
    names::{ChannelName, Tenant},
    time::Time,
};
use postroad_store::{Scope, StoreError};
use serde::{Deserialize, Deserializer, Serialize, de::Error};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::{
    App,
    channels::Subscribers,
    figures,
    openapi::params::{ChannelPath, PageQuery},
};

/// The most bytes of a request.
const MAX_BODY: usize = 64 << 10;

/// `ChannelInfo`, and how the channel is configured.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ChannelInfo {
    /// Its name.
    pub name: String,
    /// Active subscriptions that name it or whose pattern matches it.
    pub subscriber_count: u64,
    /// Messages published on it.
    pub message_count: u64,
    /// When something was last published on it; none: not as far back as history goes.
    pub last_activity: Option<Time>,
    /// When it was first configured, subscribed to or used.
    pub created_at: Time,
    /// How its messages find their subscriptions.
    #[serde(rename = "type")]
    pub channel_type: ChannelType,
    /// `false`: its messages are treated as `persistent: false`.
    pub durable: bool,
    /// Whether the settings go with the last subscription that names it.
    pub auto_delete: bool,
    /// Whether the subscriptions that name it must be one service's.
    pub exclusive: bool,
    /// Its arguments, as they were given.
    pub arguments: Map<String, Value>,
    /// Whether it has settings of its own; else it has the defaults.
    pub configured: bool,
    /// When its settings were last written.
    pub updated_at: Option<Time>,
}

/// A page of channels.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ChannelList {
    /// By name.
    pub channels: Vec<ChannelInfo>,
    /// Leads to the next page; none: this is the last.
    pub next_cursor: Option<String>,
}

/// What a channel is configured with. What is left out gets its default: this replaces all that was there.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(example = json!({
        "type": "topic",
        "durable": true,
        "arguments": { "x-message-ttl": 86_400_000, "x-max-length": 100_000, "x-overflow": "reject-publish" },
    }))]
pub struct ChannelRequest {
    /// How its messages find their subscriptions; `topic` by default.
    #[serde(rename = "type", deserialize_with = "named_type")]
    pub channel_type: Option<ChannelType>,
    /// `false`: its messages are treated as `persistent: false`. `true` by default.
    pub durable: Option<bool>,
    /// Whether the settings go with the last subscription that names it; `false` by default.
    pub auto_delete: Option<bool>,
    /// Whether the subscriptions that name it must be one service's; `false` by default.
    pub exclusive: Option<bool>,
    /// `x-message-ttl`, `x-max-length`, `x-overflow`, and notes of one's own.
    #[serde(deserialize_with = "object::unique")]
    pub arguments: Option<Map<String, Value>>,
}

/// What is left of a channel whose settings were forgotten.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ChannelForgotten {
    /// Whether it is as was asked for.
    pub success: bool,
    /// The channel.
    pub channel: String,
    /// Whether there were settings.
    pub settings_forgotten: bool,
    /// What that means, for people.
    pub message: String,
}

/// Lists channels by name.
///
/// Those that are configured, subscribed to by name, or were used within 90 days.
#[utoipa::path(
    get,
    path = "/v1/channels",
    operation_id = "list_channels",
    tag = "channels",
    params(PageQuery),
    responses(
        (status = 200, description = "A page.", body = ChannelList),
        WithQuery,
        Always,
    ),
)]
pub async fn list(State(app): State<Arc<App>>, uri: Uri) -> ApiResult<Json<ChannelList>> {
    let asked = query::pairs(&uri, &["limit", "cursor"])?;
    let limit = page::limit(asked.get("limit").map(|limit| query::number("limit", limit)).transpose()?)?;
    let after = page::position(asked.get("cursor").map(String::as_str))?;
    let after =
        after.map(|after| ChannelName::new(&after).map_err(|_| page::strange_cursor())).transpose()?;
    let tenant = app.caller().tenant;
    let names = all_names(&app, &tenant).await?;
    let mut names: Vec<ChannelName> =
        names.into_iter().filter(|name| after.as_ref().is_none_or(|after| name > after)).collect();
    let more = names.len() > limit;
    names.truncate(limit);
    let next_cursor = names.last().filter(|_| more).map(|last| page::cursor(last.as_str()));
    let channels = infos(&app, &tenant, &names).await?.into_iter().flatten().collect();
    Ok(Json(ChannelList { channels, next_cursor }))
}

/// The names of a tenant's channels: configured, subscribed to by name, or used within 90 days.
pub(super) async fn all_names(app: &App, tenant: &Tenant) -> ApiResult<BTreeSet<ChannelName>> {
    app.channels.follow().await?;
    let mut names: BTreeSet<ChannelName> = app.channels.names(tenant)?.into_iter().collect();
    names.extend(figures::channels(app, tenant, None, usize::MAX).await?);
    let published = app.store.active_channels(tenant, 0).await?;
    names.extend(published.iter().filter_map(|name| ChannelName::new(name).ok()));
    Ok(names)
}

/// Shows a channel.
#[utoipa::path(
    get,
    path = "/v1/channels/{name}",
    operation_id = "show_channel",
    tag = "channels",
    params(ChannelPath),
    responses(
        (status = 200, description = "The channel.", body = ChannelInfo),
        ByName,
        Always,
    ),
)]
pub async fn show(State(app): State<Arc<App>>, Named(name): Named) -> ApiResult<Json<ChannelInfo>> {
    let tenant = app.caller().tenant;
    let unknown = || ApiError::not_found("channel", &name);
    let name = ChannelName::new(&name).map_err(|_| unknown())?;
    app.channels.follow().await?;
    one(&app, &tenant, &name).await?.map(Json).ok_or_else(unknown)
}

/// Configures a channel.
///
/// What is left out gets its default: this replaces all that was there. Every instance sees it within a second.
#[utoipa::path(
    put,
    path = "/v1/channels/{name}",
    operation_id = "configure_channel",
    tag = "channels",
    params(ChannelPath),
    request_body = ChannelRequest,
    responses(
        (status = 200, description = "It had settings.", body = ChannelInfo),
        (status = 201, description = "It had none.", body = ChannelInfo),
        (
            status = 409,
            description = "`channel_exclusive`: several services subscribe to it; or too many channels are \
                configured.",
            body = ErrorResponse,
        ),
        WithBody,
        Always,
    ),
)]
pub async fn put(State(app): State<Arc<App>>, Named(name): Named, request: Request) -> ApiResult<Response> {
    let tenant = app.caller().tenant;
    let name = ChannelName::new(&name)?;
    let wanted: ChannelRequest = body::json_unique(request, MAX_BODY).await?;
    let arguments = Arguments::new(wanted.arguments.unwrap_or_default()).map_err(|error| {
        let field =
            if error.argument.is_empty() { "arguments" } else { &format!("arguments.{}", error.argument) };
        ApiError::field(field, error.to_string())
    })?;
    let now = Time::from_millis(app.clock.now_ms());
    let before = match app.store.channel(&tenant, &name).await {
        // What cannot be read is mended by what is written now.
        Err(StoreError::Reply(_)) => None,
        before => before?,
    };
    let settings = ChannelSettings {
        tenant: tenant.clone(),
        name: name.clone(),
        channel_type: wanted.channel_type.unwrap_or_default(),
        durable: wanted.durable.unwrap_or(true),
        auto_delete: wanted.auto_delete.unwrap_or(false),
        exclusive: wanted.exclusive.unwrap_or(false),
        arguments,
        created_at: before.map_or(now, |before| before.created_at),
        updated_at: now,
    };
    let is_new = app.store.put_channel(&settings, app.config.max_channels).await?;
    app.channels.follow().await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    let subscribers = app.channels.subscribers(&tenant, &name)?;
    let figures = figures_of(&app, &tenant, std::slice::from_ref(&name)).await?.pop().unwrap_or_default();
    Ok((status, Json(info(&name, Some(&settings), &subscribers, &figures))).into_response())
}

/// Forgets a channel's settings.
///
/// It has the defaults from then on; its messages and subscriptions stay.
#[utoipa::path(
    delete,
    path = "/v1/channels/{name}",
    operation_id = "forget_channel",
    tag = "channels",
    params(ChannelPath),
    responses(
        (status = 200, description = "It has the defaults.", body = ChannelForgotten),
        ByName,
        Always,
    ),
)]
pub async fn forget(State(app): State<Arc<App>>, Named(name): Named) -> ApiResult<Json<ChannelForgotten>> {
    let tenant = app.caller().tenant;
    let unknown = || ApiError::not_found("channel", &name);
    let name = ChannelName::new(&name).map_err(|_| unknown())?;
    let settings_forgotten = app.store.forget_channel(&tenant, &name).await?;
    app.channels.follow().await?;
    if !settings_forgotten && one(&app, &tenant, &name).await?.is_none() {
        return Err(unknown());
    }
    let message = if settings_forgotten {
        "the channel's settings are forgotten: it has the defaults from now on; its messages and subscriptions stay"
    } else {
        "the channel had no settings of its own; its messages and subscriptions stay"
    };
    let (channel, message) = (name.to_string(), message.to_owned());
    Ok(Json(ChannelForgotten { success: true, channel, settings_forgotten, message }))
}

/// A type by its name alone: derived code also takes an object.
fn named_type<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ChannelType>, D::Error> {
    let name = Option::<String>::deserialize(deserializer)?;
    name.map(|name| name.parse().map_err(D::Error::custom)).transpose()
}

async fn one(app: &App, tenant: &Tenant, name: &ChannelName) -> ApiResult<Option<ChannelInfo>> {
    Ok(infos(app, tenant, std::slice::from_ref(name)).await?.pop().flatten())
}

/// What there is to say of channels, in the order asked for; nothing of one that was neither configured nor
/// subscribed to by name, and on which nothing was published as far back as history goes.
pub(super) async fn infos(
    app: &App,
    tenant: &Tenant,
    names: &[ChannelName],
) -> ApiResult<Vec<Option<ChannelInfo>>> {
    let figures = figures_of(app, tenant, names).await?;
    let mut infos = Vec::with_capacity(names.len());
    for (name, figures) in names.iter().zip(&figures) {
        // Every pattern is asked about every channel: others have their turn in between.
        tokio::task::yield_now().await;
        let settings = app.channels.settings(tenant, name)?;
        let subscribers = app.channels.subscribers(tenant, name)?;
        let is_there =
            settings.is_some() || subscribers.named_since.is_some() || figures.last_activity.is_some();
        infos.push(is_there.then(|| info(name, settings.as_deref(), &subscribers, figures)));
    }
    Ok(infos)
}

fn info(
    name: &ChannelName,
    settings: Option<&ChannelSettings>,
    subscribers: &Subscribers,
    figures: &Figures,
) -> ChannelInfo {
    let configured_at = settings.map(|settings| settings.created_at);
    let first = [configured_at, subscribers.named_since, figures.first_use].into_iter().flatten().min();
    ChannelInfo {
        name: name.to_string(),
        subscriber_count: subscribers.active,
        message_count: figures.message_count,
        last_activity: figures.last_activity,
        created_at: first.unwrap_or_default(),
        channel_type: settings.map(|settings| settings.channel_type).unwrap_or_default(),
        durable: settings.is_none_or(|settings| settings.durable),
        auto_delete: settings.is_some_and(|settings| settings.auto_delete),
        exclusive: settings.is_some_and(|settings| settings.exclusive),
        arguments: settings.map(|settings| settings.arguments.source().clone()).unwrap_or_default(),
        configured: settings.is_some(),
        updated_at: settings.map(|settings| settings.updated_at),
    }
}

/// What is known of a channel's use.
#[derive(Debug, Clone, Default)]
struct Figures {
    message_count: u64,
    last_activity: Option<Time>,
    first_use: Option<Time>,
}

/// What is known of channels' use, in the order asked for. The one place where it is found.
async fn figures_of(app: &App, tenant: &Tenant, names: &[ChannelName]) -> ApiResult<Vec<Figures>> {
    let scopes: Vec<Scope<'_>> = names.iter().map(Scope::Channel).collect();
    let totals = figures::totals(app, tenant, &scopes).await?;
    let published = app.store.last_publishes(tenant, names).await?;
    Ok(totals
        .into_iter()
        .zip(published)
        .map(|(total, published_ms)| {
            // A channel that is one of too many has no figures, and yet was published on.
            let last_ms = total.as_ref().and_then(|total| total.last_ms).max(published_ms);
            let first_ms =
                total.as_ref().filter(|total| total.last_ms.is_some()).map(|total| total.created_ms);
            Figures {
                message_count: total.map_or(0, |total| total.figures[Count::Published]),
                last_activity: last_ms.map(Time::from_millis),
                first_use: first_ms.or(published_ms).map(Time::from_millis),
            }
        })
        .collect())
}
