//! The calls, by what they are about.

pub mod channels;
pub mod explain;
pub mod health;
pub mod messages;
pub mod subscriptions;
