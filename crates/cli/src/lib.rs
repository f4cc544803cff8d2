//! The command line for people.
//!
//! `postroad dev` is the whole of Postroad in one process, over a Redis of its own; `postroad listen` a
//! receiver that shows what arrives and can play a bad one; `publish`, `subscribe` and `subscriptions` speak
//! to the API as any service would. `postroad demo` puts them together and proves, with real webhooks, that
//! everything arrives where it should.
//!
//! The cast: [`dev`] starts daemons in this process (each exactly as its own binary would run) and
//! [`dev::redis`] the Redis below them; [`api`] is the client that all other commands use; [`listen`] holds
//! the receiver, which [`demo`] uses too.
//!
//! What it guarantees: an error names the value and the way out, and the exit code is 0 only when all was
//! done. What it does not: `dev` is for one machine and one person; it keeps data over a restart, but is no
//! way to run Postroad for others.

pub mod api;
#[expect(unreachable_pub, reason = "what its private modules hold is for all of it")]
mod bench;
pub mod bind;
pub mod command;
pub mod demo;
pub mod dev;
pub mod listen;
pub mod publish;
pub mod selection;
pub mod subscribe;
pub mod subscriptions;
pub mod text;

use postroad_daemon::process::Program;

pub use command::main;

/// This program.
pub const PROGRAM: Program = Program { name: "postroad", version: env!("CARGO_PKG_VERSION") };
