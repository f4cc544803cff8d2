//! A runner's time with a job: page by page through its route, batch by batch back into the queues.

use postroad_model::id::SubscriptionId;
use postroad_model::time::millis;
use postroad_store::{Job, JobState, ReplayState, StreamId};
use tokio::time::Instant;

use super::{
    pace::Pace,
    route::{Ahead, Leg, Route},
    run::{Runner, Seen, Tell},
    spec::{Cursor, Note, Plan, Spec, write},
    tenure::{Left, Tenure},
};
use crate::{
    dead::{Walk, queue},
    error::Error,
    filter::Filter,
};

/// What became of a batch.
enum Batch {
    Moved,
    /// The queue is full; whether something was moved before.
    Full(bool),
    Lost,
}

pub(super) struct DeadLetters<'a> {
    runner: &'a Runner,
    job: Job,
    /// The job's name with this tenure's epoch.
    mine: String,
    filter: Filter,
    limit: Option<u64>,
    letters: u64,
    route: Route,
    under_way: Option<Leg>,
    pace: Pace,
    moved: u64,
    note: Note,
    saved: Instant,
    tell: Tell<'a>,
}

impl Tenure for DeadLetters<'_> {
    fn runner(&self) -> &Runner {
        self.runner
    }

    fn saved(&self) -> Instant {
        self.saved
    }

    fn moved(&self) -> u64 {
        self.moved
    }

    async fn save(&mut self, state: JobState) -> Result<bool, Error> {
        self.saved = Instant::now();
        self.note.waiting_for = self.route.waiting();
        let cursor = write(&self.route.cursor(self.under_way.as_ref()));
        let (store, me) = (&self.runner.store, &self.runner.me);
        (self.tell)(&self.seen());
        store.save_job(&self.job.id, me, state, &cursor, &write(&self.note)).await.map_err(Error::Jobs)
    }

    async fn go(&mut self) -> Result<Left, Error> {
        loop {
            let left = match self.route.ahead(Instant::now()) {
                _ if self.left() == 0 => Some(Left::Through),
                Ahead::End => Some(Left::Through),
                Ahead::Nothing(due) => self.wait_until(due).await?,
                Ahead::Leg(leg) => self.leg(leg).await?,
            };
            if let Some(left) = left {
                return Ok(left);
            }
        }
    }
}

impl<'a> DeadLetters<'a> {
    #[expect(
        clippy::too_many_arguments,
        reason = "the record's parts, each read and checked by its only caller"
    )]
    pub(super) fn new(
        runner: &'a Runner,
        job: Job,
        mine: String,
        spec: &Spec,
        filter: Filter,
        plan: Plan,
        cursor: &Cursor,
        note: Note,
        moved: u64,
        tell: Tell<'a>,
    ) -> Self {
        let now = Instant::now();
        Self {
            runner,
            job,
            mine,
            filter,
            limit: spec.limit,
            letters: spec.letters,
            route: Route::new(plan, cursor, now),
            under_way: None,
            pace: Pace::new(spec.rate, now),
            moved,
            note,
            saved: now,
            tell,
        }
    }

    fn seen(&self) -> Seen {
        let waiting = self.note.waiting_for.iter().map(SubscriptionId::as_str).collect::<Vec<_>>().join(", ");
        Seen {
            moved: self.moved,
            skipped: self.note.skipped,
            scanned: self.note.scanned,
            letters: self.letters,
            trouble: (!waiting.is_empty()).then(|| format!("full queues: {waiting}")),
        }
    }

    /// How many letters may still be moved.
    fn left(&self) -> usize {
        let left = self.limit.map_or(u64::MAX, |limit| limit.saturating_sub(self.moved));
        usize::try_from(left).unwrap_or(usize::MAX)
    }

    /// Goes through one subscription, to its end or until its queue is full.
    async fn leg(&mut self, leg: Leg) -> Result<Option<Left>, Error> {
        let (id, after, upto) = (leg.subscription.clone(), leg.after, leg.upto);
        self.under_way = Some(leg);
        let mut walk = Walk::new(id.clone(), after, upto).narrowed(&self.filter);
        loop {
            let page = self.look(&mut walk).await?;
            if page.is_empty() {
                self.under_way = None;
                return Ok(None);
            }
            let mut rest = &page[..];
            while !rest.is_empty() {
                if let Some(left) = self.wait_until(self.pace.due()).await? {
                    return Ok(Some(left));
                }
                let most = self.pace.batch().min(self.left());
                if most == 0 {
                    return Ok(Some(Left::Through));
                }
                let (some, more) = rest.split_at(upto_match(rest, most));
                match self.batch(&id, some).await? {
                    Batch::Moved => {}
                    Batch::Full(has_moved) => {
                        if let Some(leg) = self.under_way.take() {
                            self.route.put_aside(leg, has_moved, Instant::now());
                        }
                        return Ok(None);
                    }
                    Batch::Lost => return Ok(Some(Left::Lost)),
                }
                self.note.scanned += some.len() as u64;
                if let (Some(leg), Some((last, _))) = (&mut self.under_way, some.last()) {
                    leg.after = *last;
                }
                rest = more;
            }
        }
    }

    /// The next letters, and whether each is meant. Of a subscription that is gone there are none.
    async fn look(&self, walk: &mut Walk) -> Result<Vec<(StreamId, bool)>, Error> {
        let store = &self.runner.store;
        let _place = self.runner.places.acquire().await;
        let Some(queue) = queue(store, &self.job.tenant, &walk.subscription).await? else {
            return Ok(Vec::new());
        };
        let page = walk.next(store).await?;
        let is_meant = |letter| self.filter.matches(&self.job.tenant, &queue, letter);
        Ok(page.iter().map(|letter| (letter.dead.id.entry, is_meant(letter))).collect())
    }

    /// Moves those of a few letters that are meant.
    async fn batch(&mut self, id: &SubscriptionId, some: &[(StreamId, bool)]) -> Result<Batch, Error> {
        let ids: Vec<StreamId> = some.iter().filter(|(_, is_meant)| *is_meant).map(|(id, _)| *id).collect();
        if ids.is_empty() {
            return Ok(Batch::Moved);
        }
        let Runner { store, max_queued, retention, .. } = self.runner;
        let trace_ms = millis(*retention);
        let mut has_mended = false;
        loop {
            let replay = store.replay_dead(id, &self.mine, *max_queued, trace_ms, &ids);
            let replayed = replay.await.map_err(Error::Move)?;
            self.moved += replayed.moved;
            self.runner.metrics.replayed.inc_by(replayed.moved);
            self.pace.spent(replayed.moved, Instant::now());
            let asked = ids.len() as u64;
            match replayed.state {
                ReplayState::Done => self.note.skipped += asked - replayed.moved.min(asked),
                ReplayState::Full => {
                    self.note.scanned += replayed.moved;
                    return Ok(Batch::Full(replayed.moved > 0));
                }
                ReplayState::Lost => return Ok(Batch::Lost),
                ReplayState::Unknown if !has_mended => {
                    has_mended = true;
                    if self.mend(id).await? {
                        continue;
                    }
                    self.note.skipped += asked;
                }
                ReplayState::Gone | ReplayState::Unknown => self.note.skipped += asked,
            }
            return Ok(Batch::Moved);
        }
    }

    /// Gives a lane back the settings that it lost; `false` if there are none.
    async fn mend(&self, id: &SubscriptionId) -> Result<bool, Error> {
        let store = &self.runner.store;
        let Some(found) = store.subscription(id).await.map_err(Error::Move)? else { return Ok(false) };
        let applied = store.apply(&found.subscription, found.change, self.runner.limits).await;
        applied.map(|_| true).map_err(Error::Move)
    }
}

/// How many letters lead to the `most`-th that is meant, it included; all, if there are not so many.
pub(super) fn upto_match(letters: &[(StreamId, bool)], most: usize) -> usize {
    let mut meant = letters.iter().enumerate().filter(|(_, (_, is_meant))| *is_meant);
    meant.nth(most - 1).map_or(letters.len(), |(at, _)| at + 1)
}
