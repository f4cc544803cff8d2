//! The calls, by what they are about.

pub mod acknowledgments;
pub mod channels;
pub mod cloudevents;
pub mod command_responses;
pub mod commands;
pub mod delayed;
pub mod event_types;
pub mod events;
pub mod explain;
pub mod figures;
pub mod health;
pub mod health_checks;
pub mod message_queue;
pub mod messages;
pub mod notification_streams;
pub mod notifications;
pub mod pull;
pub mod replays;
pub mod subscriptions;
