//! A worker as subscribers meet it: over real sockets, on a real Redis.

mod batches;
mod formats;
mod kit;
mod samples;
