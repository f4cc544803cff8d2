//! Publishing in flights: what comes while one flight is out goes with the next.
//!
//! No timer and no waiting when idle: a lone message flies at once. Under load flights grow by themselves.
//! Messages whose partition is ours to choose all go where the next flight goes, so that a flight is one
//! script and not one for each partition; the next flight goes to the next partition.
//! When Redis is away a flight is repeated for a while, which is safe for every message whose id is
//! remembered: the first time counts. A caller waits no longer than its patience, however long the flights before
//! its own take; who has gone by take-off stays behind.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use postroad_model::time::millis;
use postroad_store::{Acceptance, Accepted, Backoff, DelayLimits, Store, StoreError};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, timeout_at},
};

use crate::admission::Admission;

/// With so many messages a flight is full; a bulk is never divided.
const MOST: usize = 1_000;
/// With so many bytes a flight is full.
const MOST_BYTES: usize = 4 << 20;
/// The most messages that one script takes at a time, so that none runs for long.
const PER_SCRIPT: usize = 200;

/// With less than this left, no other try is made.
const LAST_CALL: Duration = Duration::from_millis(50);

/// What became of each message, in order.
pub type Landed = Vec<Result<Accepted, StoreError>>;

struct Boarding {
    messages: Vec<(u16, Acceptance)>,
    /// Until when it is waited for.
    deadline: Instant,
    landed: oneshot::Sender<Landed>,
}

/// Where messages get on.
#[derive(Clone)]
pub struct Gate {
    boarding: mpsc::UnboundedSender<Boarding>,
    next: Arc<AtomicU16>,
    admission: Arc<Admission>,
    patience: Duration,
}

impl Gate {
    /// Opens it. The task ends when every gate is gone.
    pub fn open(
        store: Store,
        admission: Arc<Admission>,
        window: Duration,
        patience: Duration,
        delayed: DelayLimits,
    ) -> Self {
        let (boarding, receiver) = mpsc::unbounded_channel();
        // Instances begin apart, so that they do not go round in step.
        let next = Arc::new(AtomicU16::new(rand::random::<u16>() % store.layout().partitions));
        tokio::spawn(fly_forever(store, receiver, Arc::clone(&next), window, delayed));
        Self { boarding, next, admission, patience }
    }

    /// The partition that the next flight goes to.
    pub fn next_partition(&self) -> u16 {
        self.next.load(Ordering::Relaxed)
    }

    /// Stores messages, each in its partition. Returns once Redis holds them, or says why not.
    pub async fn store(&self, messages: Vec<(u16, Acceptance)>) -> Landed {
        let count = messages.len();
        if let Err(full) = self.admission.check() {
            return (0..count).map(|_| Err(full.clone())).collect();
        }
        let (landed, result) = oneshot::channel();
        let away = |why: &str| (0..count).map(|_| Err(StoreError::Unavailable(why.into()))).collect();
        let deadline = Instant::now() + self.patience;
        if self.boarding.send(Boarding { messages, deadline, landed }).is_err() {
            return away("stopping");
        }
        match timeout_at(deadline, result).await {
            Ok(landed) => landed.unwrap_or_else(|_| away("stopping")),
            Err(_) => away("no answer in time"),
        }
    }
}

async fn fly_forever(
    store: Store,
    mut boarding: mpsc::UnboundedReceiver<Boarding>,
    next: Arc<AtomicU16>,
    window: Duration,
    delayed: DelayLimits,
) {
    let window_ms = millis(window);
    while let Some(first) = boarding.recv().await {
        next.store((next.load(Ordering::Relaxed) + 1) % store.layout().partitions, Ordering::Relaxed);
        let mut seats: Vec<(u16, Acceptance)> = Vec::new();
        let mut landings = Vec::new();
        let mut deadline = Instant::now();
        let mut bytes = 0;
        let mut party = Some(first);
        while let Some(Boarding { messages, deadline: until, landed }) = party {
            if !landed.is_closed() {
                deadline = deadline.max(until);
                bytes += messages.iter().map(|(_, message)| message.entry.size()).sum::<usize>();
                landings.push((messages.len(), landed));
                seats.extend(messages);
            }
            let has_room = seats.len() < MOST && bytes < MOST_BYTES;
            party = if has_room { boarding.try_recv().ok() } else { None };
        }
        let mut results = fly(&store, seats, window_ms, delayed, deadline).await.into_iter();
        for (count, landed) in landings {
            // A caller that has gone does not mind.
            let _ = landed.send(results.by_ref().take(count).collect());
        }
    }
}

/// Flies until every message has landed or it is too late for all of them.
async fn fly(
    store: &Store,
    seats: Vec<(u16, Acceptance)>,
    window_ms: u64,
    delayed: DelayLimits,
    deadline: Instant,
) -> Landed {
    let mut backoff = Backoff::default();
    let mut landed: Vec<Option<Result<Accepted, StoreError>>> = seats.iter().map(|_| None).collect();
    let mut waiting: Vec<(usize, u16, Acceptance)> = seats
        .into_iter()
        .enumerate()
        .map(|(seat, (partition, message))| (seat, partition, message))
        .collect();
    loop {
        let (later, at_once) = waiting.into_iter().partition(|(_, _, message)| message.due.is_some());
        let (mut flight, mut order) = arrange(at_once);
        let (later, later_order) = arrange(later);
        let (accepted, delayed) =
            tokio::join!(store.accept(&flight, window_ms), store.delay(&later, window_ms, delayed));
        let mut answers = each(accepted, flight.len());
        answers.extend(each(delayed, later.len()));
        flight.extend(later);
        order.extend(later_order);
        waiting = Vec::new();
        let left = deadline.saturating_duration_since(Instant::now());
        for (((partition, messages), seats), answer) in flight.into_iter().zip(order).zip(answers) {
            match answer {
                Ok(results) => {
                    for (seat, result) in seats.into_iter().zip(results) {
                        landed[seat] = Some(match result {
                            Accepted::NoRoom => Err(StoreError::TooManyDelayed),
                            result => Ok(result),
                        });
                    }
                }
                Err(error) => {
                    let again = matches!(error, StoreError::Unavailable(_)) && left > LAST_CALL;
                    for (seat, mut message) in seats.into_iter().zip(messages) {
                        // Whether it was stored is unknown: only a remembered id tells.
                        if again && message.remember {
                            message.check = true;
                            waiting.push((seat, partition, message));
                        } else {
                            landed[seat] = Some(Err(error.clone()));
                        }
                    }
                }
            }
        }
        if waiting.is_empty() {
            let missing = || Err(StoreError::Reply("a message without an answer".into()));
            return landed.into_iter().map(|result| result.unwrap_or_else(missing)).collect();
        }
        // The last try is before the deadline: what nobody waits for should not be stored.
        sleep(backoff.next_delay().min(left / 2)).await;
    }
}

/// A flight's answers, one for each of its scripts, also where none came.
fn each<T>(
    answers: Result<Vec<Result<T, StoreError>>, StoreError>,
    count: usize,
) -> Vec<Result<T, StoreError>> {
    answers.unwrap_or_else(|error| (0..count).map(|_| Err(error.clone())).collect())
}

type Arranged = (Vec<(u16, Vec<Acceptance>)>, Vec<Vec<usize>>);

/// Groups messages by partition, a bounded number to a script.
fn arrange(waiting: Vec<(usize, u16, Acceptance)>) -> Arranged {
    let mut partitions: BTreeMap<u16, (Vec<Acceptance>, Vec<usize>)> = BTreeMap::new();
    let (mut flight, mut order) = (Vec::new(), Vec::new());
    for (seat, partition, message) in waiting {
        let (messages, seats) = partitions.entry(partition).or_default();
        messages.push(message);
        seats.push(seat);
        if messages.len() == PER_SCRIPT {
            flight.push((partition, std::mem::take(messages)));
            order.push(std::mem::take(seats));
        }
    }
    for (partition, (messages, seats)) in partitions {
        if !messages.is_empty() {
            flight.push((partition, messages));
            order.push(seats);
        }
    }
    (flight, order)
}
