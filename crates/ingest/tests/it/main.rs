//! The API as its callers meet it: over real sockets, on a real Redis.

mod bulk;
mod callbacks;
mod channels;
mod cloudevents;
mod commands;
mod deliveries;
mod events;
mod health;
mod health_checks;
mod kit;
mod notifications;
mod outage;
mod publish;
mod refused;
mod refused_messages;
mod refused_subscriptions;
mod subscriptions;
