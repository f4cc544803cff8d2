//! What Postroad's HTTP APIs share.
//!
//! The API of `postroad-ingest` and the dead-letter API of `postroad-reprocessor` are one contract to those
//! who call them: they refuse in the same words ([`error`]), read bodies by the same rules ([`body`]), know
//! their callers in the same way ([`caller`]), write numbers alike ([`number`]), page alike ([`page`]) and describe
//! what they refuse in the same words ([`openapi`]). What they are about is not here.

pub mod auth;
pub mod body;
pub mod caller;
pub mod error;
pub mod number;
pub mod object;
pub mod openapi;
pub mod page;
pub mod path;
pub mod query;
