//! Replay jobs: dead letters back into their queues, or history to subscriptions once more, by the thousand, at a
//! rate, up to a limit.
//!
//! A job is a record in Redis. [`desk`] makes it, shows it and stops it; [`tend`] is how a reprocessor finds
//! jobs that nobody runs; [`run`] runs one, and can be killed at any time: whoever takes the job next goes on
//! from its cursor, and what was moved is neither moved again nor miscounted (see `postroad_store`'s `job.lua`).
//!
//! `move_on` moves dead letters. Such a job goes through the subscriptions that had some when it was made, each up to
//! the letter that was the newest then, so that what dies again is not moved in a circle. A subscription whose queue is
//! full is put aside until there is room, and keeps none of the others waiting. `history` replays history: jobs that
//! the API makes, for one message or for what one subscription matches of a time. `tenure` is what both have in
//! common.

pub mod desk;
mod history;
mod move_on;
mod pace;
mod route;
pub mod run;
mod spec;
pub mod tend;
mod tenure;

pub use spec::Spec;
