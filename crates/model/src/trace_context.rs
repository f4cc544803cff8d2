//! W3C Trace Context: the `traceparent` header (<https://www.w3.org/TR/trace-context/>).

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{id::MessageId, placement::stable_hash};

/// A `traceparent`: which trace a request belongs to, and its parent span.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TraceParent {
    /// The trace; never zero.
    pub trace_id: u128,
    /// The parent span; never zero.
    pub parent_id: u64,
    /// Bit 0: sampled.
    pub flags: u8,
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.parent_id, self.flags)
    }
}

impl FromStr for TraceParent {
    type Err = String;

    /// Reads a header of version 00, or the part of a later version that 00 knows.
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is no traceparent");
        let hex = |part: &str, length: usize| {
            part.len() == length && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        };
        let mut parts = text.splitn(5, '-');
        let mut next = |length: usize| parts.next().filter(|part| hex(part, length)).ok_or_else(bad);
        let version = next(2)?;
        let (trace, parent, flags) = (next(32)?, next(16)?, next(2)?);
        if version == "ff" || (version == "00" && parts.next().is_some()) {
            return Err(bad());
        }
        let trace_id = u128::from_str_radix(trace, 16).map_err(|_| bad())?;
        let parent_id = u64::from_str_radix(parent, 16).map_err(|_| bad())?;
        let flags = u8::from_str_radix(flags, 16).map_err(|_| bad())?;
        if trace_id == 0 || parent_id == 0 {
            return Err(bad());
        }
        Ok(Self { trace_id, parent_id, flags: flags & 1 })
    }
}

impl TraceParent {
    /// The trace of a message that came without one: the same for all its attempts, and not sampled.
    pub fn of_message(id: &MessageId) -> Self {
        Self::of_text(id.as_str())
    }

    /// The trace of something that a text names: the same for the same text, and not sampled.
    pub fn of_text(name: &str) -> Self {
        let half = |salt: &str| u128::from(stable_hash(&[salt, name]));
        Self { trace_id: (half("high") << 64 | half("low")).max(1), parent_id: 1, flags: 0 }
    }
}

impl TryFrom<String> for TraceParent {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<TraceParent> for String {
    fn from(trace: TraceParent) -> String {
        trace.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_specifications_example_survives() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let parsed: TraceParent = text.parse().unwrap();
        assert_eq!(parsed.to_string(), text);
    }

    #[test]
    fn a_message_without_a_trace_has_one_of_its_own() {
        let of = |id: &str| TraceParent::of_message(&MessageId::new(id).unwrap());
        assert_eq!(of("a"), of("a"));
        assert_ne!(of("a").trace_id, of("b").trace_id);
        assert!(of("a").to_string().parse::<TraceParent>().is_ok());
    }

    #[test]
    fn later_versions_may_say_more() {
        let later = "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-the-future-holds";
        assert!(later.parse::<TraceParent>().is_ok());
    }

    #[test]
    fn what_the_specification_forbids_is_refused() {
        for bad in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert!(bad.parse::<TraceParent>().is_err(), "{bad}");
        }
    }
}
