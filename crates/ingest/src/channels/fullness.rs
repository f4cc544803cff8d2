//! Whether a channel with `reject-publish` takes more.
//!
//! The queues that a channel feeds are looked at when something is published on it, at most once a second for
//! each channel; whoever publishes in between is judged by what was seen. Nobody looks at channels on which
//! nothing is published.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use postroad_model::channel::ChannelSettings;
use postroad_store::StoreError;

use super::Channels;

/// For how long a figure counts.
const FRESH: Duration = Duration::from_secs(1);
/// After how long without a look a channel is forgotten.
const IDLE: Duration = Duration::from_secs(60);
/// How many queues are asked for in one go.
const BATCH: usize = 500;

/// What was last seen, by channel.
#[derive(Default)]
pub(super) struct Fullness {
    seen: Mutex<HashMap<String, Arc<Seen>>>,
}

/// The last look at one channel; held while somebody looks, so that only one does.
type Seen = tokio::sync::Mutex<Option<Figure>>;

#[derive(Clone, Copy)]
struct Figure {
    /// When the look began.
    at: Instant,
    /// The most that were seen waiting in one queue: all queues', or that of the first found full.
    waiting: u64,
}

impl Fullness {
    /// Refuses a channel, `<tenant>/<name>`, while in some queue that it feeds `most` wait, or more.
    pub(super) async fn check(
        &self,
        channels: &Channels,
        channel: &str,
        settings: &ChannelSettings,
        most: u64,
    ) -> Result<(), StoreError> {
        let seen = self.of(channel);
        let mut seen = seen.lock().await;
        let waiting = match *seen {
            Some(figure) if figure.at.elapsed() < FRESH => figure.waiting,
            _ => {
                let at = Instant::now();
                let waiting = look(channels, settings, most).await?;
                *seen = Some(Figure { at, waiting });
                waiting
            }
        };
        if waiting < most {
            return Ok(());
        }
        Err(StoreError::ChannelFull { channel: settings.name.to_string(), waiting, most })
    }

    fn of(&self, channel: &str) -> Arc<Seen> {
        let mut all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seen) = all.get(channel) {
            return Arc::clone(seen);
        }
        // What somebody holds is in use.
        all.retain(|_, seen| {
            seen.try_lock().map_or(true, |seen| seen.is_some_and(|figure| figure.at.elapsed() < IDLE))
        });
        Arc::clone(all.entry(channel.to_owned()).or_default())
    }
}

/// The most that wait in one of the queues. One that is full is enough.
async fn look(channels: &Channels, settings: &ChannelSettings, most: u64) -> Result<u64, StoreError> {
    let ids = channels.subscribers(&settings.tenant, &settings.name)?.ids;
    let mut highest = 0;
    for ids in ids.chunks(BATCH) {
        highest = channels.0.store.waiting(ids).await?.into_iter().max().unwrap_or(0).max(highest);
        if highest >= most {
            break;
        }
    }
    Ok(highest)
}
