//! Identifiers: a readable prefix, then a sortable part, then at least 96 random bits.
//!
//! The list of prefixes is the list of functions [`mint`] is called with; see [`Kind`].
//! An id that Postroad makes is `<prefix>_` + 10 characters of time (milliseconds, so that ids sort by
//! when they were made) + for messages 2 characters of partition + 20 characters of randomness (100 bits),
//! in lower-case Crockford base 32.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::names::NameError;

/// Everything that gets an id, and its prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `msg_`: a plain message.
    Message,
    /// `evt_`: a business event.
    Event,
    /// `cmd_`: a command.
    Command,
    /// `qry_`: a query.
    Query,
    /// `ntf_`: a notification.
    Notification,
    /// `hlt_`: a health message.
    Health,
    /// `sub_`: a subscription.
    Subscription,
    /// `job_`: a replay job.
    Job,
    /// `req_`: one HTTP request.
    Request,
    /// `tkt_`: a ticket that opens a stream once.
    Ticket,
}

impl Kind {
    /// The prefix, with its underscore.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Message => "msg_",
            Self::Event => "evt_",
            Self::Command => "cmd_",
            Self::Query => "qry_",
            Self::Notification => "ntf_",
            Self::Health => "hlt_",
            Self::Subscription => "sub_",
            Self::Job => "job_",
            Self::Request => "req_",
            Self::Ticket => "tkt_",
        }
    }
}

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const TIME_CHARS: usize = 10;
const PARTITION_CHARS: usize = 2;
const RANDOM_CHARS: usize = 20;

/// The most partitions that an id can carry.
pub const MAX_PARTITIONS: u16 = 1 << (5 * PARTITION_CHARS);

fn push_base32(out: &mut String, value: u128, chars: usize) {
    for at in (0..chars).rev() {
        let index = usize::try_from((value >> (5 * at)) & 31).expect("five bits fit");
        out.push(char::from(ALPHABET[index]));
    }
}

/// Makes an id from the time in milliseconds and at least 100 random bits.
pub fn mint(kind: Kind, now_ms: u64, random: u128) -> String {
    let mut id = String::with_capacity(4 + TIME_CHARS + RANDOM_CHARS);
    id.push_str(kind.prefix());
    push_base32(&mut id, u128::from(now_ms), TIME_CHARS);
    push_base32(&mut id, random, RANDOM_CHARS);
    id
}

/// Makes an id that carries the partition in which its message lies.
pub fn mint_in_partition(kind: Kind, now_ms: u64, partition: u16, random: u128) -> String {
    let mut id = String::with_capacity(4 + TIME_CHARS + PARTITION_CHARS + RANDOM_CHARS);
    id.push_str(kind.prefix());
    push_base32(&mut id, u128::from(now_ms), TIME_CHARS);
    push_base32(&mut id, u128::from(partition), PARTITION_CHARS);
    push_base32(&mut id, random, RANDOM_CHARS);
    id
}

/// The partition that an id made by [`mint_in_partition`] carries; `None` for any other id.
pub fn carried_partition(id: &str) -> Option<u16> {
    let (prefix, rest) = id.split_once('_')?;
    if prefix.len() != 3 || rest.len() != TIME_CHARS + PARTITION_CHARS + RANDOM_CHARS {
        return None;
    }
    let digit = |byte: u8| ALPHABET.iter().position(|known| *known == byte);
    let mut partition = 0u16;
    for (at, byte) in rest.bytes().enumerate() {
        let value = u16::try_from(digit(byte)?).expect("below 32");
        if (TIME_CHARS..TIME_CHARS + PARTITION_CHARS).contains(&at) {
            partition = partition * 32 + value;
        }
    }
    Some(partition)
}

/// The longest id, in bytes.
pub const MAX_ID_BYTES: usize = 128;

fn check(what: &'static str, text: &str) -> Result<(), NameError> {
    if text.is_empty() || text.len() > MAX_ID_BYTES {
        return Err(NameError {
            what,
            problem: format!("is {} bytes long; 1 to {MAX_ID_BYTES} are allowed", text.len()),
        });
    }
    match text.chars().find(|c| !(c.is_ascii_alphanumeric() || *c == '_' || *c == '-')) {
        Some(bad) => {
            Err(NameError { what, problem: format!("contains {bad:?}; A-Z a-z 0-9 _ - are allowed") })
        }
        None => Ok(()),
    }
}

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and wraps an id: 1 to 128 of `A-Z a-z 0-9 _ -`.
            pub fn new(text: &str) -> Result<Self, NameError> {
                check($what, text)?;
                Ok(Self(text.into()))
            }

            /// The id itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(&text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0.as_ref().to_owned()
            }
        }
    };
}

id_type! {
    /// A message's id: chosen by the publisher or made here; what a receiver deduplicates by. It is
    /// signed as part of `webhook-id`, which is why it may hold no dot.
    MessageId, "message_id"
}

id_type! {
    /// A subscription's id.
    SubscriptionId, "subscription_id"
}

id_type! {
    /// A replay job's id.
    JobId, "job_id"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_time_and_carry_their_partition() {
        let early = mint_in_partition(Kind::Message, 1_700_000_000_000, 7, u128::MAX);
        let late = mint_in_partition(Kind::Message, 1_700_000_000_001, 3, 0);
        assert!(early < late);
        assert_eq!(carried_partition(&early), Some(7));
        assert_eq!(carried_partition(&late), Some(3));
        assert_eq!(early.len(), 36);
        assert!(MessageId::new(&early).is_ok());
    }

    #[test]
    fn foreign_ids_carry_no_partition() {
        for id in [
            "",
            "msg_",
            "msg_123456789",
            "550e8400-e29b-41d4-a716-446655440000",
            "msg_iiiiiiiiiiiiiiiiiiiiiiiiiiiiiiii",
        ] {
            assert_eq!(carried_partition(id), None, "{id}");
        }
        assert_eq!(carried_partition(&mint(Kind::Subscription, 1, 2)), None);
    }

    #[test]
    fn the_largest_partition_fits() {
        let id = mint_in_partition(Kind::Event, 0, MAX_PARTITIONS - 1, 0);
        assert_eq!(carried_partition(&id), Some(MAX_PARTITIONS - 1));
    }

    #[test]
    fn ids_refuse_what_a_signature_or_a_key_could_misread() {
        for bad in ["", "a.b", "{p1}", "a b", "é", &"x".repeat(129)] {
            assert!(MessageId::new(bad).is_err(), "{bad}");
        }
        assert!(MessageId::new(&"x".repeat(128)).is_ok());
    }
}
