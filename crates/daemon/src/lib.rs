//! How a process lives.
//!
//! Every daemon is configured, says what it does, listens, can be asked how it is, and stops when it is
//! told to. None of that knows what a message is or what Redis is: it is all here, and each daemon's
//! `main.rs` is a table of contents over it.
//!
//! The cast, in the order of a life:
//!
//! * [`cli`]: the flags that all daemons share.
//! * [`config`]: defaults, file, environment, flags; [`common`]: the keys that all daemons share.
//! * [`process`]: the course of it all, [`process::run_main`]; and the [`process::Context`] that a daemon
//!   gets from outside, so that a test or a process with several daemons can give it another.
//! * [`telemetry`]: log lines. The only thing here that is global to the process.
//! * [`stop`]: stopping on request, in order and under a deadline; [`clock`]: what time it is.
//! * [`serve`]: HTTP/1.1 over a listener, safe against clients that stall; [`body`]: request bodies,
//!   bounded; [`host_guard`]: keeps web pages out of a daemon without authentication.
//! * [`health`] and [`metrics`]: `/livez`, `/readyz`, `/metrics`.
//!
//! What is guaranteed: an unknown or bad configuration key stops the start and is named; secrets are
//! neither printed nor logged from here; after SIGTERM or SIGINT a daemon has left within its grace and a
//! few seconds, with exit code 0 if it stopped by itself; no client can hold a connection by being slow.
//! What is not: that a daemon finishes or gives back its work. It is given the time, and must do so itself.

pub mod body;
pub mod cli;
pub mod clock;
pub mod common;
pub mod config;
pub mod health;
pub mod host_guard;
pub mod metrics;
pub mod process;
pub mod serve;
pub mod stop;
pub mod telemetry;
