//! What makes a process one of Postroad's daemons.
//!
//! `daemon` says how any process lives; `store` says where things lie. This crate is where the two meet, once
//! for all four daemons: the keys that all of them have ([`config`]), and the course that all of them take:
//! wait for a Redis that fits, say once a second that one lives and hear who else does, leave ([`life`]); and where
//! they count what happens on channels ([`tally`]).
//!
//! What a daemon *does* is not here.

pub mod config;
pub mod life;
pub mod tally;
