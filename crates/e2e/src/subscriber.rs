//! A subscription as a scenario holds it.

/// A subscription, and the receiver's path that it calls.
#[derive(Debug, Clone)]
pub struct Subscriber {
    /// The subscription's id.
    pub id: String,
    /// The scenario's name for it.
    pub name: String,
    /// The path at the receiver, `/<name>`.
    pub path: String,
    /// What signs.
    pub secret: String,
}
