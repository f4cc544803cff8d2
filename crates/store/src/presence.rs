//! Being among the living: every instance says once a second that it is there, what it is and how it does.

use std::time::Duration;

use crate::{Members, Store, StoreError};
use postroad_model::time::millis;

/// How often an instance is heard.
pub const HEARTBEAT: Duration = Duration::from_secs(1);
/// After how long a silent one counts as gone.
pub const GONE: Duration = Duration::from_secs(5);

/// An instance's name: `<kind>-<random>`. Its kind is known by it.
pub fn instance_name(kind: &str, random: u64) -> String {
    format!("{kind}-{random:012x}", random = random & 0xffff_ffff_ffff)
}

impl Members {
    /// The names of a kind.
    pub fn of_kind(&self, kind: &str) -> Vec<String> {
        let is = |name: &str| name.strip_prefix(kind).is_some_and(|rest| rest.starts_with('-'));
        self.members.iter().filter(|member| is(&member.name)).map(|member| member.name.clone()).collect()
    }
}

impl Store {
    /// Says that an instance is there, and hears who else is.
    pub async fn announce(&self, me: &str, about: &str) -> Result<Members, StoreError> {
        self.heartbeat(me, about, millis(GONE)).await
    }

    /// Who is there.
    pub async fn living(&self) -> Result<Members, StoreError> {
        self.members(millis(GONE)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Member;

    #[test]
    fn kinds_are_told_by_name() {
        let name = instance_name("worker", 0xabc);
        assert_eq!(name, "worker-000000000abc");
        let member = |name: &str| Member { name: name.into(), about: "{}".into(), age_ms: 0 };
        let members =
            Members { now_ms: 0, members: vec![member(&name), member("worker2-1"), member("router-1")] };
        assert_eq!(members.of_kind("worker"), [name]);
    }
}
