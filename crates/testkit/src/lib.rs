//! The outside world for tests: a private Redis, scripted receivers, a network that cuts and delays.
//!
//! Postroad's tests drive the real thing. This crate is everything *around* the real thing, and nothing of it:
//! it depends on no other crate of the workspace and mocks none of our code.
//!
//! # The cast
//! - [`redis::PrivateRedis`]: a real `redis-server` on its own port and directory, to kill, freeze, fill, restart.
//! - [`process::Daemon`]: one of our binaries as a child process, to kill, freeze, stop and measure.
//! - [`receiver::Receiver`]: a webhook receiver that records all it gets and answers as it was told, however badly.
//! - [`proxy::Proxy`]: a TCP hop in front of any server, to delay, cut, freeze, half-open and throttle.
//! - [`wait::eventually`]: the only way to wait for a state; when it gives up it says the last state it saw.
//! - [`ports::free`]: a loopback port that no client's outgoing connection can take.
//! - [`payloads::github`]: real GitHub webhooks as input.
//!
//! # What it guarantees
//! - Nothing outlives its test: children die with the value that started them, with a panic and (where `setpriv`
//!   of util-linux is installed, as on any Debian) even with a `SIGKILL` of the test itself.
//! - A failure explains itself: errors carry the tail of the child's log, or the last requests seen. A child that
//!   is dropped by a panicking test prints its log. `POSTROAD_TEST_KEEP=1` keeps the directories.
//! - Faults take `&self`, so that a task can break things while the test looks on.
//!
//! # What it does not
//! No retries, no assertions about Postroad, no panics of its own (but for a header that is no header in
//! [`receiver::Answer::header`]). Errors are `anyhow`, not an enum as elsewhere in the house: their only reader
//! is the person in front of a failed test. Linux only, where it reads `/proc`.

mod child;
pub mod payloads;
pub mod ports;
pub mod process;
pub mod proxy;
pub mod receiver;
pub mod redis;
mod scratch;
pub mod wait;
