//! The calls, by what they are about.

pub mod cloudevents;
pub mod command_responses;
pub mod commands;
pub mod event_types;
pub mod events;
pub mod health;
pub mod health_checks;
pub mod messages;
pub mod notification_streams;
pub mod notifications;
pub mod subscriptions;
