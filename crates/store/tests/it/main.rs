//! Each move on a real Redis: before, move, after; moved again, too late, on junk, and while Redis is full, away
//! or emptied. Every table ends by comparing what lies in the lanes (`kit/ledger.rs`).

#![allow(unreachable_pub, reason = "one program, many tables")]

mod kit;

mod accept;
mod again;
mod apply;

mod backlog;
mod bounds;
mod brake;
mod chain;
mod channel;
mod copies;
mod dead;
mod delayed;
mod faults;
mod find;
mod hurt;
mod index;
mod job;
mod kinds;
mod large;
mod lost;
mod mend;
mod moves;
mod order;
mod owner;
mod prepare;
mod presence;
mod promote;
mod pull;
mod rate;
mod readers;
mod settle;
mod signals;
mod subscribe;
mod sweep;
mod take;
mod tally;
mod trim;
mod uptime;
mod walk;
