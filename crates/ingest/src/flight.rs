//! Publishing in flights: what comes while one flight is out goes with the next.
//!
//! No timer and no waiting when idle: a lone message flies at once. Under load flights grow by themselves.
//! Messages whose partition is ours to choose all go where the next flight goes, so that a flight is one
//! script and not one for each partition; the next flight goes to the next partition.
//! When Redis is away a flight is repeated for a while, which is safe for every message whose id is
//! remembered: the first time counts. A caller waits no longer than its patience, however long the flights before
//! its own take; who has gone by take-off stays behind.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use postroad_member::tally::Tally;
use postroad_model::{figures::Count, time::millis};
use postroad_store::{Acceptance, Accepted, Backoff, DelayLimits, Store, StoreError};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, timeout, timeout_at},
};

use crate::{admission::Admission, channels::Channels};

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
    began: Instant,
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
    channels: Channels,
    tally: Tally,
    patience: Duration,
}

impl Gate {
    /// Opens it. The task ends when every gate is gone.
    pub fn open(
        store: Store,
        admission: Arc<Admission>,
        channels: Channels,
        tally: Tally,
        window: Duration,
        patience: Duration,
        delayed: DelayLimits,
    ) -> Self {
        let (boarding, receiver) = mpsc::unbounded_channel();
        // Instances begin apart, so that they do not go round in step.
        let next = Arc::new(AtomicU16::new(rand::random::<u16>() % store.layout().partitions));
        tokio::spawn(fly_forever(store, tally.clone(), receiver, Arc::clone(&next), window, delayed));
        Self { boarding, next, admission, channels, tally, patience }
    }

    /// The partition that the next flight goes to.
    pub fn next_partition(&self) -> u16 {
        self.next.load(Ordering::Relaxed)
    }

    /// Stores messages, each in its partition. Returns once Redis holds them, or says why not. Those whose
    /// channel takes no more are refused, the others go. Either way they are counted on their channels, also where
    /// the caller has gone meanwhile.
    pub async fn store(&self, messages: Vec<(u16, Acceptance)>) -> Landed {
        let count = messages.len();
        if let Err(full) = self.admission.check() {
            count_refused(&self.tally, &messages);
            return (0..count).map(|_| Err(full.clone())).collect();
        }
        let began = Instant::now();
        let deadline = began + self.patience;
        let Ok(refused) = timeout_at(deadline, self.refused(&messages)).await else {
            let late = || Err(StoreError::Unavailable("no answer in time".into()));
            count_refused(&self.tally, &messages);
            return (0..count).map(|_| late()).collect();
        };
        if refused.iter().all(Option::is_none) {
            return self.board(messages, began, deadline).await;
        }
        let (admitted, turned_away): (Vec<_>, Vec<_>) =
            messages.into_iter().zip(&refused).partition(|(_, refused)| refused.is_none());
        let all = |some: Vec<((u16, Acceptance), _)>| {
            some.into_iter().map(|(message, _)| message).collect::<Vec<_>>()
        };
        let admitted = all(admitted);
        count_refused(&self.tally, &all(turned_away));
        let mut landed = if admitted.is_empty() {
            Vec::new().into_iter()
        } else {
            self.board(admitted, began, deadline).await.into_iter()
        };
        let unanswered = || Err(StoreError::Reply("a message without an answer".into()));
        let one = |refused: Option<_>| refused.map_or_else(|| landed.next().unwrap_or_else(unanswered), Err);
        refused.into_iter().map(one).collect()
    }

    /// Whether a channel, given as `<tenant>/<name>`, takes messages now; see [`Channels::admit`].
    pub async fn admit(&self, channel: &str) -> Result<(), StoreError> {
        let late = |_| Err(StoreError::Unavailable("no answer in time".into()));
        timeout(self.patience, self.channels.admit(channel)).await.unwrap_or_else(late)
    }

    /// For each message, why its channel does not take it, if so.
    async fn refused(&self, messages: &[(u16, Acceptance)]) -> Vec<Option<StoreError>> {
        let mut verdicts: HashMap<&str, Option<StoreError>> = HashMap::new();
        for (_, message) in messages {
            let channel = message.channel.as_str();
            if !verdicts.contains_key(channel) {
                verdicts.insert(channel, self.channels.admit(channel).await.err());
            }
        }
        messages.iter().map(|(_, message)| verdicts[message.channel.as_str()].clone()).collect()
    }

    /// Gets messages on the next flight, and waits for it to land.
    async fn board(&self, messages: Vec<(u16, Acceptance)>, began: Instant, deadline: Instant) -> Landed {
        let count = messages.len();
        let (landed, result) = oneshot::channel();
        let away = |why: &str| (0..count).map(|_| Err(StoreError::Unavailable(why.into()))).collect();
        if self.boarding.send(Boarding { messages, began, deadline, landed }).is_err() {
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
    tally: Tally,
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
        let mut tickets: Vec<Ticket> = Vec::new();
        let mut deadline = Instant::now();
        let mut bytes = 0;
        let mut party = Some(first);
        while let Some(Boarding { messages, began, deadline: until, landed }) = party {
            if landed.is_closed() {
                count_refused(&tally, &messages);
            } else {
                deadline = deadline.max(until);
                bytes += messages.iter().map(|(_, message)| message.entry.size()).sum::<usize>();
                landings.push((messages.len(), landed));
                tickets.extend(messages.iter().map(|(_, message)| Ticket::of(message, began)));
                seats.extend(messages);
            }
            let has_room = seats.len() < MOST && bytes < MOST_BYTES;
            party = if has_room { boarding.try_recv().ok() } else { None };
        }
        let results = fly(&store, seats, window_ms, delayed, deadline).await;
        // Before anybody hears of it: who asks then finds it counted.
        count_landed(&tally, &tickets, &results);
        let mut results = results.into_iter();
        for (count, landed) in landings {
            // A caller that has gone does not mind.
            let _ = landed.send(results.by_ref().take(count).collect());
        }
    }
}

/// What is counted of a message.
struct Ticket {
    /// `<tenant>/<channel>`.
    channel: String,
    payload_bytes: usize,
    /// Its id was the publisher's choice.
    chosen: bool,
    began: Instant,
}

impl Ticket {
    fn of(message: &Acceptance, began: Instant) -> Self {
        Self {
            channel: message.channel.clone(),
            payload_bytes: message.payload_bytes,
            chosen: message.check,
            began,
        }
    }
}

fn count_landed(tally: &Tally, tickets: &[Ticket], results: &[Result<Accepted, StoreError>]) {
    let now = Instant::now();
    tally.many(|counting| {
        for (ticket, result) in tickets.iter().zip(results) {
            let Ticket { channel, payload_bytes, chosen, began } = ticket;
            let (tenant, channel) = channel.split_once('/').unwrap_or((channel, ""));
            match result {
                // It was counted when it was new. Where the id was made here, that is now: the first answer got lost.
                Ok(Accepted::Duplicate { .. }) if *chosen => {}
                Ok(_) => counting.on(tenant, channel, |figures| {
                    let micros = now.saturating_duration_since(*began).as_micros();
                    let bytes = u64::try_from(*payload_bytes).unwrap_or(u64::MAX);
                    figures.published(bytes, u64::try_from(micros).unwrap_or(u64::MAX));
                }),
                Err(_) => counting.on(tenant, channel, |figures| figures.add(Count::PublishErrors, 1)),
            }
        }
    });
}

fn count_refused(tally: &Tally, messages: &[(u16, Acceptance)]) {
    tally.many(|counting| {
        for (_, message) in messages {
            let (tenant, channel) = message.channel.split_once('/').unwrap_or((&message.channel, ""));
            counting.on(tenant, channel, |figures| figures.add(Count::PublishErrors, 1));
        }
    });
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
