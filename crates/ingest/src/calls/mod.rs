//! The calls, by what they are about.

pub mod command_responses;
pub mod commands;
pub mod event_types;
pub mod events;
pub mod health;
pub mod messages;
pub mod subscriptions;
