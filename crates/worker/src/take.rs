//! take: from ready tokens to deliveries under way.

use std::{collections::HashMap, time::Duration};

use postroad_store::{Backoff, Lease, Room, StoreError, StreamId};
use tracing::{info, warn};

use crate::{
    batch::Batches,
    deliver::{deliver, unsent, waiting},
    places::Free,
    shared::Shared,
    targets::Known,
};

/// The most lanes that one flight visits.
const LANES: usize = 16;
/// How long a wait for tokens lasts when none come.
const BLOCK: Duration = Duration::from_secs(1);
/// After so many waits without a token all are looked at again.
const QUIET: u32 = 5;
/// When suspects that were put off are due again, at the earliest.
const PUT_OFF: Duration = Duration::from_millis(200);

/// Takes and delivers until it is dropped.
pub async fn take_forever(shared: Shared) {
    // Before that it is not known what has expired.
    shared.redis_clock.heard().await;
    let mut backoff = Backoff::default();
    let mut ill = false;
    let mut ill_lanes = HashMap::new();
    loop {
        match take(&shared, &mut ill_lanes).await {
            Ok(()) => {
                if ill {
                    info!("taking goes on");
                    ill = false;
                }
                backoff.reset();
            }
            Err(error) => {
                shared.outage.failed(&error);
                if !ill {
                    warn!(%error, "taking waits for Redis");
                    ill = true;
                }
                backoff.wait().await;
                // The reply that was lost may have handed something out.
                let lanes: Vec<u16> = (0..shared.store.layout().lanes).collect();
                give_back_unknown(&shared, &lanes).await;
                shared.lanes.heat(lanes);
            }
        }
    }
}

async fn give_back_unknown(shared: &Shared, lanes: &[u16]) {
    match shared.store.disown(&shared.me, lanes, &shared.places.handles()).await {
        Ok(0) => {}
        Ok(given) => info!(given, "gave back deliveries whose taking was not heard of"),
        Err(error) => {
            warn!(%error, "could not give back what was perhaps taken; it is reclaimed after its lease");
        }
    }
}

/// One look at hot lanes, waiting for places and tokens as needed.
async fn take(shared: &Shared, ill: &mut HashMap<u16, Backoff>) -> Result<(), StoreError> {
    let free = loop {
        let free = shared.places.free();
        if free.all > 0 {
            break free;
        }
        shared.places.freed().await;
    };
    let hot = shared.lanes.take_hot(LANES.min(free.all));
    if hot.is_empty() {
        shared.lanes.looked();
        shared.lanes.heated().await;
        return Ok(());
    }
    let passed = shared.lanes.passed();
    let behind = |lane: &u16| passed.get(lane).copied().unwrap_or_default();
    let suspect = if shared.places.holds_suspect() { None } else { shared.lanes.next_suspect(&hot) };
    let flight: Vec<(u16, Room)> = hot
        .iter()
        .map(|lane| {
            let suspects = usize::from(suspect == Some(*lane));
            (*lane, Room { behind: behind(lane), suspects, ..room(shared, free, hot.len()) })
        })
        .collect();
    let answers = shared.store.take(&shared.me, &flight).await?;
    let (mut leases, mut refused, mut away) = (Vec::new(), Vec::new(), None);
    for (lane, answer) in hot.into_iter().zip(answers) {
        match answer {
            Ok(taken) => {
                if ill.remove(&lane).is_some() {
                    shared.lanes.is_well(lane);
                    info!(lane, "taking from a lane goes on");
                }
                leases.extend(taken.leases);
                if taken.put_off > 0 {
                    shared.lanes.put_off(lane);
                    shared.lanes.due_in(lane, PUT_OFF);
                }
                if let Some(wait) = taken.wait {
                    shared.lanes.due_in(lane, wait);
                }
                match taken.passed {
                    Some(upto) => shared.lanes.pass(lane, upto),
                    // Of what lies behind tokens that were passed over, the watch tells.
                    None if taken.left && behind(&lane) == StreamId::ZERO => shared.lanes.heat([lane]),
                    None => {}
                }
            }
            Err(error) if error.is_transient() => away = Some(error),
            Err(error) => refused.push((lane, error)),
        }
    }
    start(shared, leases).await;
    // A lane's share was used up, and others' was not.
    if shared.places.free().spare > 0 {
        shared.lanes.forget_passed();
    }
    for (lane, error) in refused {
        let backoff = ill.entry(lane).or_insert_with(|| {
            warn!(lane, %error, "a lane refuses to be taken from; it is asked again later");
            Backoff::default()
        });
        shared.lanes.rest(lane, backoff.next_delay());
        // What went before the refusal stands.
        give_back_unknown(shared, &[lane]).await;
    }
    away.map_or(Ok(()), Err)
}

/// Each lane of a flight gets its part of the free places.
fn room(shared: &Shared, free: Free, lanes: usize) -> Room {
    let part = |of: usize| if of == 0 { 0 } else { (of / lanes).max(1) };
    Room {
        free: part(free.all),
        spare: part(free.spare),
        quantum: shared.config.quantum,
        quantum_bytes: shared.config.quantum_bytes,
        bytes: part(free.bytes.min(Room::UNBOUNDED.bytes)),
        ..Room::UNBOUNDED
    }
}

/// Sets deliveries on their way.
async fn start(shared: &Shared, leases: Vec<Lease>) {
    if leases.is_empty() {
        return;
    }
    let places: Vec<_> = leases.iter().map(|lease| shared.places.take(lease)).collect();
    shared.metrics.in_flight.set(i64::try_from(shared.places.taken()).unwrap_or(i64::MAX));
    match shared.targets.of(&leases).await {
        Ok(known) => {
            let mut batches = Batches::default();
            for ((lease, place), known) in leases.into_iter().zip(places).zip(known) {
                match known {
                    Known::Target(target) if target.batches() => {
                        batches.add(&target, lease, place);
                    }
                    Known::Target(target) => {
                        tokio::spawn(deliver(shared.clone(), lease, target, place));
                    }
                    Known::Unreadable => shared.settle(waiting(lease), Some(place)),
                    // Its queue is gone, and this with it.
                    Known::Cancelled => {}
                }
            }
            batches.start(shared);
        }
        Err(error) => {
            warn!(%error, "could not read subscriptions' settings; giving their deliveries back");
            for (lease, place) in leases.into_iter().zip(places) {
                shared.settle(unsent(lease), Some(place));
            }
        }
    }
}

/// Waits for tokens, without taking any, until it is dropped.
pub async fn watch_forever(shared: Shared) {
    let mut backoff = Backoff::default();
    let mut reader = None;
    let mut quiet = 0;
    loop {
        let result = async {
            let mut open = match reader.take() {
                Some(open) => open,
                None => shared.store.ready_reader().await?,
            };
            let from = shared.lanes.wait_from();
            let mut lanes = open.wait(&shared.store, &from, BLOCK).await?;
            // What was passed over meanwhile is no news; the next wait tells of what lies behind it.
            let passed = shared.lanes.wait_from();
            lanes.retain(|lane| passed.get(lane).is_none_or(|upto| from.get(lane) == Some(upto)));
            Ok::<_, StoreError>((open, lanes))
        };
        match result.await {
            Ok((open, lanes)) => {
                reader = Some(open);
                backoff.reset();
                quiet = if lanes.is_empty() { quiet + 1 } else { 0 };
                shared.lanes.heat(lanes);
            }
            Err(error) => {
                // One lane's stream may be none: looking at all finds out which, and lets it rest.
                if !error.is_transient() {
                    shared.lanes.heat(0..shared.store.layout().lanes);
                }
                backoff.wait().await;
            }
        }
        // The same tokens would be seen again before they are taken.
        while !shared.lanes.is_cool() {
            shared.lanes.cooled().await;
        }
        shared.lanes.wake();
        // A place may have been freed without a settlement, or just before a token was passed over.
        if shared.places.free().spare > 0 || quiet >= QUIET {
            quiet = 0;
            shared.lanes.forget_passed();
        }
    }
}
