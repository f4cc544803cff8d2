//! The calls, by what they are about.

pub mod acknowledgments;
pub mod health;
pub mod message_queue;
pub mod messages;
pub mod pull;
pub mod subscriptions;
