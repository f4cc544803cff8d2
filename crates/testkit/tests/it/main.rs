//! The testkit against real processes and sockets.

mod http;
mod process;
mod proxy;
mod receiver;
mod redis;
