//! Commands and queries: where they go, and how they stand.

use serde::Serialize;

use crate::names::{ChannelName, NameError};

/// The longest time that a command may be given to be answered in: 30 days, in seconds.
pub const MAX_TIMEOUT: u64 = 30 * 86_400;

/// The channel of a command or query: `commands.<target_service>`, or `commands`.
pub fn channel(target_service: Option<&str>) -> Result<ChannelName, NameError> {
    match target_service {
        Some(service) => ChannelName::new(&format!("commands.{service}")),
        None => ChannelName::new("commands"),
    }
}

/// How a command stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum CommandStatus {
    /// Nobody has got it yet, or not everybody who is to.
    Pending,
    /// All who are to have got it; nobody has answered.
    Delivered,
    /// It was answered with success, in time or not.
    Completed,
    /// It was answered with failure, in time or not.
    Failed,
    /// Its time is over and nobody has answered.
    TimedOut,
}

/// How a command stands: `succeeded` is what its answer says, if there is one.
pub fn status(succeeded: Option<bool>, is_over: bool, is_delivered: bool) -> CommandStatus {
    match (succeeded, is_over, is_delivered) {
        (Some(true), _, _) => CommandStatus::Completed,
        (Some(false), _, _) => CommandStatus::Failed,
        (None, true, _) => CommandStatus::TimedOut,
        (None, false, true) => CommandStatus::Delivered,
        (None, false, false) => CommandStatus::Pending,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_more_than_the_time() {
        let table = [
            (status(Some(true), true, false), CommandStatus::Completed),
            (status(Some(false), true, true), CommandStatus::Failed),
            (status(None, true, true), CommandStatus::TimedOut),
            (status(None, false, true), CommandStatus::Delivered),
            (status(None, false, false), CommandStatus::Pending),
        ];
        assert!(table.iter().all(|(is, should)| is == should), "{table:?}");
    }

    #[test]
    fn a_target_is_part_of_the_channel() {
        assert_eq!(channel(None).unwrap().as_str(), "commands");
        assert_eq!(channel(Some("user-auth-service")).unwrap().as_str(), "commands.user-auth-service");
        assert!(channel(Some("a b")).is_err());
    }
}
