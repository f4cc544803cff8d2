//! Names that people choose: channels, routing keys, services, tenants.
//!
//! Each type holds a checked name; a value of it can be used without looking again.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// Why a name was refused: which rule it broke, in words for the person who chose it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {problem}")]
pub struct NameError {
    /// What the name was to be: `channel`, `routing_key`, …
    pub what: &'static str,
    /// The rule that it breaks.
    pub problem: String,
}

fn refuse<T>(what: &'static str, problem: impl Into<String>) -> Result<T, NameError> {
    Err(NameError { what, problem: problem.into() })
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $check:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and wraps a name.
            pub fn new(text: &str) -> Result<Self, NameError> {
                $check(text)?;
                Ok(Self(text.into()))
            }

            /// The name itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
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
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }
    };
}

name_type! {
    /// A channel's name: dot-separated, non-empty words of `A-Z a-z 0-9 _ - : /`, at most 255 bytes.
    ChannelName, check_channel
}

name_type! {
    /// A message's routing key: at most 255 bytes of text without control characters; dots separate its
    /// words, which may be empty (as in AMQP 0-9-1).
    RoutingKey, check_routing_key
}

name_type! {
    /// The key whose messages keep their order within a channel: 1 to 255 bytes of text without control
    /// characters.
    OrderingKey, check_ordering_key
}

name_type! {
    /// The service that publishes or subscribes: 1 to 255 bytes of text without control characters.
    ServiceName, check_service
}

name_type! {
    /// The tenant within which everything lives: 1 to 64 of `A-Z a-z 0-9 _ -`.
    Tenant, check_tenant
}

impl Tenant {
    /// The one tenant there is with `auth.mode = none`.
    pub fn single() -> Self {
        Self("default".into())
    }
}

/// The longest channel name, routing key, ordering key or service name, in bytes.
pub const MAX_NAME_BYTES: usize = 255;

fn check_channel(text: &str) -> Result<(), NameError> {
    const WHAT: &str = "channel";
    check_length(WHAT, text)?;
    for word in text.split('.') {
        if word.is_empty() {
            return refuse(
                WHAT,
                "has an empty word; write words separated by single dots, like `orders.created`",
            );
        }
        if let Some(bad) = word.chars().find(|c| !(c.is_ascii_alphanumeric() || "_-:/".contains(*c))) {
            return refuse(WHAT, format!("contains {bad:?}; words may hold A-Z a-z 0-9 _ - : /"));
        }
    }
    Ok(())
}

fn check_length(what: &'static str, text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return refuse(what, "is empty");
    }
    if text.len() > MAX_NAME_BYTES {
        return refuse(what, format!("is {} bytes long; at most {MAX_NAME_BYTES} are allowed", text.len()));
    }
    Ok(())
}

fn check_printable(what: &'static str, text: &str) -> Result<(), NameError> {
    match text.chars().find(|c| c.is_control()) {
        Some(bad) => refuse(what, format!("contains the control character {bad:?}")),
        None => Ok(()),
    }
}

fn check_routing_key(text: &str) -> Result<(), NameError> {
    const WHAT: &str = "routing_key";
    if !text.is_empty() {
        check_length(WHAT, text)?;
    }
    check_printable(WHAT, text)
}

fn check_ordering_key(text: &str) -> Result<(), NameError> {
    check_length("ordering_key", text)?;
    check_printable("ordering_key", text)
}

fn check_service(text: &str) -> Result<(), NameError> {
    check_length("service_name", text)?;
    check_printable("service_name", text)
}

fn check_tenant(text: &str) -> Result<(), NameError> {
    const WHAT: &str = "company_id";
    if text.is_empty() || text.len() > 64 {
        return refuse(WHAT, format!("is {} bytes long; 1 to 64 are allowed", text.len()));
    }
    match text.chars().find(|c| !(c.is_ascii_alphanumeric() || *c == '_' || *c == '-')) {
        Some(bad) => refuse(WHAT, format!("contains {bad:?}; A-Z a-z 0-9 _ - are allowed")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channel_names_are_dotted_words() {
        for good in ["a", "github.push", "delivery.events.dlq", "a-b_c:d/e.0", &"x".repeat(255)] {
            assert!(ChannelName::new(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "a.", ".a", "a..b", "a b", "a*", "ä", "a\n", "{p1}", &"x".repeat(256)] {
            assert!(ChannelName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_routing_key_may_be_empty_and_have_empty_words() {
        for good in ["", "a..b", ".", "push.created", "größe"] {
            assert!(RoutingKey::new(good).is_ok(), "{good}");
        }
        assert!(RoutingKey::new("a\u{0}b").is_err());
        assert!(RoutingKey::new(&"k".repeat(256)).is_err());
    }

    #[test]
    fn tenants_cannot_reach_into_key_syntax() {
        for bad in ["", "*", "{p0}", "a:b", "a/b", &"t".repeat(65)] {
            assert!(Tenant::new(bad).is_err(), "{bad}");
        }
        assert_eq!(Tenant::single().as_str(), "default");
    }

    #[test]
    fn refusals_name_the_thing_and_the_rule() {
        let error = ChannelName::new("a b").unwrap_err().to_string();
        assert_eq!(error, "channel contains ' '; words may hold A-Z a-z 0-9 _ - : /");
    }

    #[test]
    fn serde_checks_too() {
        assert!(serde_json::from_str::<ChannelName>("\"a b\"").is_err());
        assert_eq!(serde_json::to_string(&ChannelName::new("a.b").unwrap()).unwrap(), "\"a.b\"");
    }
}
