//! Routers as a whole, on a real Redis.

#![allow(unreachable_pub, reason = "one program, many tables")]

mod due;
mod kit;
mod targets;
