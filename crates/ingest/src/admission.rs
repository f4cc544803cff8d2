//! Whether messages are accepted at all: not while Redis is nearly full.
//!
//! What was accepted must get through, and routing, delivering and dead letters need room of their own. So the
//! door closes before Redis refuses writes, and opens by itself when deliveries or retention have made room.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use postroad_daemon::stop::Stop;
use postroad_store::{Store, StoreError};
use tracing::{info, warn};

/// Between two looks at Redis's memory while there is plenty.
const RARELY: Duration = Duration::from_secs(1);
/// Between two looks when it might fill up within a second.
const OFTEN: Duration = Duration::from_millis(100);
/// Below this share of the bound there is plenty.
const PLENTY: f64 = 0.7;

/// The door.
#[derive(Debug)]
pub struct Admission {
    closed: AtomicBool,
    max_memory_percent: u8,
}

impl Admission {
    /// A door that closes when Redis uses so much of its `maxmemory`.
    pub fn new(max_memory_percent: u8) -> Self {
        Self { closed: AtomicBool::new(false), max_memory_percent }
    }

    /// Refuses while the door is closed.
    pub fn check(&self) -> Result<(), StoreError> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(StoreError::Full(format!(
                "more than {} % of its memory is used",
                self.max_memory_percent
            )));
        }
        Ok(())
    }

    /// Opens and closes the door until told to stop. A Redis that is away leaves it as it is: storing fails
    /// anyway.
    pub async fn watch(&self, store: &Store, stop: &Stop) {
        loop {
            let pause = match store.memory_used().await {
                Ok(used) => self.saw(used),
                Err(_) => RARELY,
            };
            if !stop.sleep(pause).await {
                return;
            }
        }
    }

    /// What is used, as a share of what there is. How long until the next look.
    fn saw(&self, used: f64) -> Duration {
        let bound = f64::from(self.max_memory_percent) / 100.0;
        let closed = used >= bound;
        match (self.closed.swap(closed, Ordering::Relaxed), closed) {
            (false, true) => warn!(
                used_percent = (used * 100.0).round(),
                "Redis is nearly full: publishing is refused until there is room again"
            ),
            (true, false) => info!("publishing is accepted again"),
            _ => {}
        }
        if used < bound * PLENTY { RARELY } else { OFTEN }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_door_closes_at_its_bound_and_opens_again() {
        let door = Admission::new(80);
        assert_eq!(door.saw(0.1), RARELY);
        assert_eq!(door.saw(0.79), OFTEN);
        door.check().unwrap();
        assert_eq!(door.saw(0.8), OFTEN);
        assert!(matches!(door.check(), Err(StoreError::Full(_))));
        door.saw(0.5);
        door.check().unwrap();
    }
}
