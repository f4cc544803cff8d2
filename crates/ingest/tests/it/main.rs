//! The API as its callers meet it: over real sockets, on a real Redis.

mod acknowledging;
mod bulk;
mod callbacks;
mod channel_rules;
mod channel_settings;
mod channels;
mod daemons;
mod deliveries;
mod explain;
mod figures;
mod health;
mod kit;
mod message_queue;
mod outage;
mod payloads;
mod publish;
mod pulling;
mod refused;
mod refused_channels;
mod refused_messages;
mod refused_subscriptions;
mod road;
mod samples;
mod secrets;
mod subscriptions;
