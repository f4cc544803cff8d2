//! settle: verdicts back to Redis, many in one flight.
//!
//! Whatever has come to its end while a flight was out goes with the next one: no timer, no waiting when
//! idle. A flight of unknown outcome is sent again as it is; leases make that safe.

use std::collections::BTreeMap;

use postroad_store::{Backoff, Settlement};
use tokio::sync::mpsc::UnboundedReceiver;
use tracing::{info, warn};

use crate::{
    places::Place,
    shared::{Outgoing, Shared},
};

/// The most settlements in one flight.
const MOST: usize = 1_000;

/// Settles until every sender is gone and everything is settled.
pub async fn settle_forever(shared: Shared, mut outgoing: UnboundedReceiver<Outgoing>) {
    let mut batch = Vec::with_capacity(MOST);
    while outgoing.recv_many(&mut batch, MOST).await > 0 {
        let mut lanes: BTreeMap<u16, (Vec<Settlement>, Vec<Place>)> = BTreeMap::new();
        for Outgoing { settlement, place } in batch.drain(..) {
            let (settlements, places) = lanes.entry(settlement.lease.lane).or_default();
            settlements.push(settlement);
            places.extend(place);
        }
        let (mut flight, mut places) = (Vec::with_capacity(lanes.len()), BTreeMap::new());
        for (lane, (settlements, held)) in lanes {
            flight.push((lane, settlements));
            places.insert(lane, held);
        }
        fly(&shared, flight, places).await;
    }
}

/// Sends a flight until every lane has taken its part, and frees the places.
async fn fly(
    shared: &Shared,
    mut flight: Vec<(u16, Vec<Settlement>)>,
    mut places: BTreeMap<u16, Vec<Place>>,
) {
    let trace_ms = u64::try_from(shared.config.retention.as_millis()).unwrap_or(u64::MAX);
    let mut backoff = Backoff::default();
    let mut ill = false;
    while !flight.is_empty() {
        let answers = match shared.store.settle(&shared.me, &flight, shared.config.circuit, trace_ms).await {
            Ok(answers) => answers,
            Err(error) => flight.iter().map(|_| Err(error.clone())).collect(),
        };
        let mut left = Vec::new();
        for ((lane, settlements), answer) in flight.into_iter().zip(answers) {
            match answer {
                Ok(settled) => {
                    drop(places.remove(&lane));
                    shared.metrics.stale.inc_by(settled.stale);
                    shared.metrics.disabled.inc_by(u64::try_from(settled.disabled.len()).unwrap_or(0));
                    if let Some(due) = settled.next_due {
                        shared.lanes.due_in(lane, due);
                    }
                    if settled.ready {
                        shared.lanes.heat([lane]);
                    }
                }
                Err(error) => {
                    if !ill {
                        warn!(lane, %error, "settling waits for Redis");
                        ill = true;
                    }
                    left.push((lane, settlements));
                }
            }
        }
        flight = left;
        if !flight.is_empty() {
            backoff.wait().await;
        }
    }
    if ill {
        info!("settling goes on");
    }
    shared.metrics.in_flight.set(i64::try_from(shared.places.taken()).unwrap_or(i64::MAX));
    if shared.places.free().spare > 0 {
        shared.lanes.forget_passed();
    }
}
