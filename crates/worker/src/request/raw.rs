//! `raw`: the payload as it was published, and nothing around it.

use http::{HeaderName, HeaderValue};
use postroad_model::{cloud_event::CloudEvent, message::Message, names::RoutingKey};

use super::{Content, content_type};

const CHANNEL: HeaderName = HeaderName::from_static("postroad-channel");
const ROUTING_KEY: HeaderName = HeaderName::from_static("postroad-routing-key");

/// The payload's bytes. Where the message comes from stands in headers, as far as it can stand in one.
pub(super) fn content(message: &Message) -> Content {
    let (media_type, body) = CloudEvent::plain(message);
    let routing_key = message.routing_key.as_ref().map(RoutingKey::as_str);
    let headers = [(CHANNEL, Some(message.channel.as_str())), (ROUTING_KEY, routing_key)]
        .into_iter()
        .filter_map(|(name, text)| Some((name, text.filter(|text| text.is_ascii())?)))
        .filter_map(|(name, text)| Some((name, HeaderValue::from_str(text).ok()?)))
        .collect();
    Content { content_type: media_type.map(content_type), headers, body }
}
