//! The calls, by what they are about.

pub mod figures;
pub mod health;
pub mod messages;
pub mod subscriptions;
