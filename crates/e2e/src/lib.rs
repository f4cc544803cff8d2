//! Starts every daemon for real and asserts conservation after each scenario.
//!
//! A scenario builds a [`Town`]: a private Redis, any number of ingests, routers and workers as real
//! processes, and a receiver that stands for all subscribers. It subscribes and publishes through the API
//! like anybody would, breaks things while that goes on, waits until the town is quiet and takes stock.
//!
//! # The cast
//! - [`Town`]: the processes, to kill, pause, stop and restart by kind and number.
//! - [`api::Api`]: an HTTP client of our own for the API.
//! - [`load`]: publishers that know the ids of all they publish and repeat what was not answered.
//! - [`census::Census`]: everything that lies in Redis, seen in one moment.
//! - [`balance::Balance`]: publisher's log, census and receiver's log against each other.
//! - [`signature::verify`]: Standard Webhooks once more, written apart from the code that signs.
//!
//! # What a balance asserts
//! For every accepted message and every subscription that it should reach (which the scenario knows, not
//! the code under test): a 2xx of the receiver, or a dead letter, or an entry in a queue, else it is *lost*;
//! exactly one entry that its queues were ever given (*routed once*, from what Redis counts per stream and
//! from the traces); nothing for subscriptions that it should not reach; queues, `live` sets, tokens, timers, marks and records of what was sent agree with
//! each other; every daemon that should run does, and none has panicked. Extra 2xx answers are counted as
//! *duplicates*: what may be of them is for the scenario to say.
//!
//! # What this crate does not
//! It calls nothing of Postroad's but the names of keys: what matches, what is signed and what is lost is
//! worked out here again, more simply. No retries of flakes.
//!
//! `cargo test -p postroad-e2e` needs the binaries: `cargo build --workspace --bins` first. With `E2E_FULL=1`
//! scenarios run at the size at which they are specified.

pub mod api;
pub mod balance;
pub mod census;
pub mod load;
pub mod signature;
mod slot;
mod subscriber;
mod town;

pub use self::slot::Kind;
pub use self::subscriber::Subscriber;
pub use self::town::{At, Builder, Town, all_to_all};

/// Whether scenarios run at full size (`E2E_FULL=1`).
pub fn full() -> bool {
    std::env::var_os("E2E_FULL").is_some_and(|value| value != "0" && !value.is_empty())
}

/// One of two sizes: the full one with `E2E_FULL=1`.
pub fn size<T>(normal: T, at_full: T) -> T {
    if full() { at_full } else { normal }
}
