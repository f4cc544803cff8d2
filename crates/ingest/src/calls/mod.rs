//! The calls, by what they are about.

pub mod acknowledgments;
pub mod channels;
pub mod explain;
pub mod figures;
pub mod health;
pub mod message_queue;
pub mod messages;
pub mod pull;
pub mod subscriptions;
