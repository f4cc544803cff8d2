//! Notifications: what they tell people, how urgently, and whom.

use serde::{Deserialize, Serialize};

use crate::{
    message::Priority,
    names::{ChannelName, NameError},
};

/// What a notification is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum NotificationType {
    /// Something went well.
    Success,
    /// Something to know.
    Info,
    /// Something to look at.
    Warning,
    /// Something went wrong.
    Error,
}

impl NotificationType {
    /// As the API writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// The priority that a notification's number stands for: 1 low, 2 normal, 3 high, 4 critical.
pub fn priority_of(level: i64) -> Option<Priority> {
    u8::try_from(level).ok().and_then(|level| Priority::from_rank(level.checked_sub(1)?))
}

/// The number of a priority.
pub fn level_of(priority: Priority) -> u8 {
    priority.rank() + 1
}

/// The channel of a notification: `notifications.<channel>`, or `notifications`.
pub fn channel(channel: Option<&str>) -> Result<ChannelName, NameError> {
    match channel {
        Some(channel) => ChannelName::new(&format!("notifications.{channel}")),
        None => ChannelName::new("notifications"),
    }
}

/// Whom a notification is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recipients {
    /// One user.
    User(String),
    /// All users of a company.
    Company(String),
    /// All users of the tenant.
    Everybody,
}

impl Recipients {
    /// As the API writes it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::User(_) => "user",
            Self::Company(_) => "company",
            Self::Everybody => "broadcast",
        }
    }

    /// The tail that keeps what they are told.
    pub fn tail(&self) -> String {
        match self {
            Self::User(user) => format!("u/{user}"),
            Self::Company(company) => format!("c/{company}"),
            Self::Everybody => "all".to_owned(),
        }
    }
}

/// The tails that a user's stream shows: the user's own, the company's if one is named, and everybody's.
pub fn tails(user: &str, company: Option<&str>) -> Vec<String> {
    let company = company.map(|company| Recipients::Company(company.to_owned()));
    [Some(Recipients::User(user.to_owned())), company, Some(Recipients::Everybody)]
        .iter()
        .flatten()
        .map(Recipients::tail)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_priorities() {
        let numbers = [1, 2, 3, 4].map(|level| priority_of(level).unwrap());
        assert_eq!(numbers, Priority::ALL);
        assert!(numbers.iter().zip(1..).all(|(priority, level)| level_of(*priority) == level));
        for none in [0, 5, -1, i64::MIN, i64::MAX] {
            assert_eq!(priority_of(none), None, "{none}");
        }
    }

    #[test]
    fn no_users_name_is_anothers_tail() {
        assert_eq!(tails("7", None), ["u/7", "all"]);
        assert_eq!(tails("all", Some("7")), ["u/all", "c/7", "all"]);
        assert_eq!(Recipients::Everybody.tail(), "all");
    }

    #[test]
    fn channels_are_named() {
        assert_eq!(channel(None).unwrap().as_str(), "notifications");
        assert_eq!(channel(Some("auth")).unwrap().as_str(), "notifications.auth");
        assert!(channel(Some("a b")).is_err() && channel(Some("")).is_err());
    }
}
