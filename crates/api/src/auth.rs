//! Who may call at all.
//!
//! `auth.mode = none` is for one machine: it goes only with a loopback listen address, and keeps out what
//! a web page in somebody's browser could send there.

use std::net::SocketAddr;

use anyhow::Context as _;
use axum::Router;
use postroad_daemon::{
    config::Docs,
    host_guard::{HostGuard, require_loopback},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

/// `[auth]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AuthSection {
    /// How callers are known.
    pub mode: AuthMode,
}

/// How callers are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthMode {
    /// Not at all: everybody on this machine is the one tenant.
    #[default]
    None,
}

/// What each key does, for the reference page.
pub const AUTH_DOCS: Docs =
    &[("auth.mode", "how callers are known: `none`, which goes only with a loopback `listen` address")];

/// The refusal of a call from elsewhere, before anything is known of it.
#[derive(Debug, Serialize, ToSchema)]
pub struct ForeignHost {
    /// For people: what is wrong, and the way out.
    pub error: &'static str,
    /// `foreign_host`.
    pub error_code: &'static str,
}

impl AuthSection {
    /// Refuses an address that others than this machine can reach.
    pub fn check(self, listen: SocketAddr) -> anyhow::Result<()> {
        match self.mode {
            AuthMode::None => require_loopback(listen).with_context(|| {
                format!("listen = {listen} cannot go with auth.mode = none: anybody who reaches it could do anything")
            }),
        }
    }

    /// Puts an API behind its guard.
    pub fn guard(self, app: Router) -> Router {
        match self.mode {
            AuthMode::None => {
                let refusal = ForeignHost {
                    error: "this server asks for no credentials, so it answers only to this machine: Host and Origin \
                            must be local",
                    error_code: "foreign_host",
                };
                app.layer(HostGuard::new(json!(refusal).to_string()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_authentication_only_loopback_will_do() {
        let auth = AuthSection::default();
        auth.check(([127, 0, 0, 1], 8080).into()).unwrap();
        let error = format!("{:#}", auth.check(([0, 0, 0, 0], 8080).into()).unwrap_err());
        assert!(error.contains("0.0.0.0:8080") && error.contains("auth.mode = none"), "{error}");
    }
}
