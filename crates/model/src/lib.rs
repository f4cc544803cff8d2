//! What Postroad means.
//!
//! The nouns (message, channel, subscription, delivery, attempt, dead letter) and the rules that decide
//! about them: which subscription matches which message, what an attempt's outcome leads to, what a
//! signature covers, which addresses may be called. Everything here is a pure function of its arguments:
//! no I/O, no async, no clock, no randomness. Whoever needs the time or a random number passes it in, so
//! every rule can be tested by table and by property.
//!
//! The cast, in the order in which one message meets it:
//!
//! * [`names`] and [`id`]: what things may be called.
//! * [`message`]: what a publisher hands over, as it is kept from then on.
//! * [`channel`]: what somebody configured about the channel that it goes to.
//! * [`subscription`]: what a service asked to be sent, where to and how.
//! * [`glob`], [`topic`], [`filter`] and [`matching`]: does this subscription want this message?
//! * [`event`], [`command`], [`notification`]: the kinds of messages; [`json_schema`]: what an event type may ask.
//! * [`cloud_event`]: messages that came as CloudEvents, or are sent as such.
//! * [`delivery`]: one message for one subscription: outcome in, verdict out.
//! * [`signature`], [`egress`], [`trace_context`]: what a request to a subscriber must carry and must
//!   never reach.
//! * [`figures`]: what all of that adds up to.
//!
//! With the feature `openapi`, what the APIs show has a schema.
//!
//! What is *not* here: how any of it is stored (`postroad-store`) or sent (`postroad-worker`).

pub mod channel;
pub mod cloud_event;
pub mod command;
pub mod dead_letter;
pub mod delivery;
pub mod egress;
pub mod event;
pub mod figures;
pub mod filter;
pub mod glob;
pub mod id;
pub mod json_scan;
pub mod json_schema;
pub mod matching;
pub mod message;
pub mod message_delivery;
pub mod names;
pub mod notification;
#[cfg(feature = "openapi")]
pub mod openapi;
pub mod placement;
pub mod signature;
pub mod subscription;
pub mod time;
pub mod topic;
pub mod trace_context;
