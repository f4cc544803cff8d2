//! What is wrong with the network now.

use std::time::Duration;

use super::Direction;

#[derive(Debug, Clone, Default)]
pub(super) struct Faults {
    pub(super) delay: Duration,
    pub(super) bytes_per_second: Option<u32>,
    pub(super) frozen: bool,
    pub(super) lost: Option<Direction>,
    pub(super) cut: bool,
    /// How often all connections were reset: one that was born under an earlier count must go.
    pub(super) resets: u64,
}

impl Faults {
    pub(super) fn heal(&mut self) {
        *self = Self { resets: self.resets, ..Self::default() };
    }
}
