//! `cloudevents` and `cloudevents-binary`: CloudEvents 1.0 in HTTP's two modes.

use http::{HeaderName, HeaderValue};
use postroad_model::cloud_event::{CloudEvent, STRUCTURED_JSON};

use super::{Content, Sending, content_type};

/// The media type of one event in structured mode.
pub(super) const ONE: &str = STRUCTURED_JSON;

/// An event in the JSON event format.
pub(super) fn structured(Sending { message, attempt }: Sending<'_>) -> Vec<u8> {
    CloudEvent::of(message, attempt).to_json()
}

/// An event in binary mode. `Content-Type` stands for `datacontenttype`.
pub(super) fn binary(Sending { message, attempt }: Sending<'_>) -> Content {
    let binary = CloudEvent::of(message, attempt).to_binary();
    let headers = binary.headers.into_iter().filter_map(|(name, value)| {
        Some((name.parse::<HeaderName>().ok()?, HeaderValue::try_from(value).ok()?))
    });
    Content {
        content_type: binary.content_type.map(content_type),
        headers: headers.collect(),
        body: binary.body,
    }
}
