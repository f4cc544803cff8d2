//! Who calls.

use postroad_model::names::{ServiceName, Tenant};

/// Whoever makes a call.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The tenant whose things the call sees.
    pub tenant: Tenant,
    /// The user or service.
    pub subject: ServiceName,
}

impl Caller {
    /// The one caller that there is with `auth.mode = none`.
    pub fn anonymous() -> Self {
        Self {
            tenant: Tenant::single(),
            subject: ServiceName::new("anonymous")
                .unwrap_or_else(|_| unreachable!("a constant that is a name")),
        }
    }
}
