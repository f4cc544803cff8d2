//! The calls, by what they are about.

pub mod delayed;
pub mod health;
pub mod messages;
pub mod replays;
pub mod subscriptions;
