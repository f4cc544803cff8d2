//! The API as its callers meet it: over real sockets, on a real Redis.

mod bulk;
mod callbacks;
mod channels;
mod delayed;
mod deliveries;
mod health;
mod kit;
mod outage;
mod publish;
mod refused;
mod refused_messages;
mod refused_subscriptions;
mod replays;
mod subscriptions;
