//! Business events: their types, and the catalogue of those that everybody knows.

use crate::names::{ChannelName, NameError};

/// What stands before an event's type in the channel it goes to.
pub const CHANNEL_PREFIX: &str = "events.";

/// An event type: dot-separated words, as a channel's name has them; with `events.` in front of it, it is one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EventType(ChannelName);

impl EventType {
    /// Checks a type.
    pub fn new(text: &str) -> Result<Self, NameError> {
        ChannelName::new(&format!("{CHANNEL_PREFIX}{text}"))
            .map(Self)
            .map_err(|error| NameError { what: "event_type", ..error })
    }

    /// The type.
    pub fn as_str(&self) -> &str {
        &self.0.as_str()[CHANNEL_PREFIX.len()..]
    }

    /// The channel that events of it go to.
    pub fn channel(&self) -> &ChannelName {
        &self.0
    }

    /// What the catalogue says of it; `None` for a type that somebody made up.
    pub fn known(&self) -> Option<&'static Known> {
        CATALOGUE.iter().find(|known| known.event_type == self.as_str())
    }
}

/// A type of the catalogue.
#[derive(Debug, PartialEq, Eq)]
pub struct Known {
    /// The type.
    pub event_type: &'static str,
    /// One of [`CATEGORIES`].
    pub category: &'static str,
    /// What has happened.
    pub description: &'static str,
}

/// The categories of the catalogue.
pub const CATEGORIES: [&str; 8] =
    ["User", "Company", "Partner", "Currency", "System", "Audit", "Menu", "Security"];
/// The category of types that were registered without one.
pub const CUSTOM: &str = "Custom";

const fn known(category: &'static str, event_type: &'static str, description: &'static str) -> Known {
    Known { event_type, category, description }
}

/// The types that everybody knows.
pub const CATALOGUE: &[Known] = &[
    known("User", "user.created", "New user registered"),
    known("User", "user.updated", "User profile updated"),
    known("User", "user.deleted", "User account deleted"),
    known("User", "user.logged_in", "User login"),
    known("User", "user.logged_out", "User logout"),
    known("User", "user.password_changed", "Password updated"),
    known("User", "user.locked", "Account locked"),
    known("User", "user.unlocked", "Account unlocked"),
    known("Company", "company.created", "New company created"),
    known("Company", "company.updated", "Company details updated"),
    known("Company", "company.activated", "Company activated"),
    known("Company", "company.deactivated", "Company deactivated"),
    known("Partner", "partner.created", "New partner created"),
    known("Partner", "partner.updated", "Partner details updated"),
    known("Partner", "partner.address_added", "Partner address added"),
    known("Partner", "partner.contact_added", "Partner contact added"),
    known("Currency", "currency.rate_updated", "Exchange rate updated"),
    known("System", "service.started", "Service startup"),
    known("System", "service.stopped", "Service shutdown"),
    known("Audit", "audit.log_created", "Audit log entry"),
    known("Menu", "menu.created", "Menu entry created"),
    known("Menu", "menu.updated", "Menu entry updated"),
    known("Menu", "menu.deleted", "Menu entry deleted"),
    known("Security", "security.violation", "Security incident"),
    known("Security", "role.assigned", "Role assigned to a user"),
    known("Security", "role.revoked", "Role revoked from a user"),
    known("Security", "permission.changed", "Permission changed"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_one_and_every_category_has_some() {
        for category in CATEGORIES {
            assert!(CATALOGUE.iter().any(|known| known.category == category), "{category}");
        }
        for known in CATALOGUE {
            assert!(CATEGORIES.contains(&known.category), "{known:?}");
            let event_type = EventType::new(known.event_type).unwrap();
            assert_eq!(event_type.known(), Some(known));
            assert_eq!(event_type.channel().as_str(), format!("events.{}", known.event_type));
        }
        assert_eq!(CATALOGUE.len(), 27);
    }

    #[test]
    fn types_are_dotted_words() {
        assert_eq!(EventType::new("order.shipped").unwrap().known(), None);
        for bad in ["", "a..b", ".a", "a b", "a*", &"x".repeat(249)] {
            assert!(EventType::new(bad).unwrap_err().to_string().starts_with("event_type "), "{bad}");
        }
        assert!(EventType::new(&"x".repeat(248)).is_ok());
    }
}
