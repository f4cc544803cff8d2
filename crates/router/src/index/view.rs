//! A message as the index looks at it: its parts are read once, and only when something asks for them.

use std::cell::OnceCell;

use postroad_model::{
    filter::Event,
    matching::{ChannelType, json_view, routing_key_matches},
    message::Message,
    subscription::Selector,
};
use serde_json::{Map, Value};

pub(super) struct View<'a> {
    message: &'a Message,
    pub(super) channel_type: ChannelType,
    /// The number of this lookup, from 1.
    pub(super) lookup: u64,
    event: OnceCell<Option<Event>>,
}

impl<'a> View<'a> {
    pub(super) fn new(message: &'a Message, channel_type: ChannelType, lookup: u64) -> Self {
        Self { message, channel_type, lookup, event: OnceCell::new() }
    }

    pub(super) fn channel(&self) -> &'a str {
        self.message.channel.as_str()
    }

    /// The routing key; the empty one if there is none.
    pub(super) fn key(&self) -> &'a str {
        self.message.routing_key.as_ref().map_or("", |key| key.as_str())
    }

    pub(super) fn headers(&self) -> &Map<String, Value> {
        &self.message.metadata.headers
    }

    /// The payload, if filters can look at it.
    pub(super) fn event(&self) -> Option<&Event> {
        self.event.get_or_init(|| json_view(&self.message.payload).and_then(Event::parse)).as_ref()
    }

    /// Whether all conditions but the channel hold; `matching::matches` with its parts read once.
    pub(super) fn satisfies(&self, selector: &Selector) -> bool {
        let Selector { channels: _, routing_key, header_match, filter_criteria } = selector;
        routing_key.as_ref().is_none_or(|pattern| routing_key_matches(pattern, self.channel_type, self.key()))
            && header_match.as_ref().is_none_or(|header_match| header_match.matches(self.headers()))
            && filter_criteria
                .as_ref()
                .is_none_or(|filter| self.event().is_some_and(|event| filter.matches_event(event)))
    }
}
