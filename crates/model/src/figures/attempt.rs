//! What one attempt's outcome, and what was judged of it, add to the figures.

use super::{Count, Figures};
use crate::delivery::{Failure, Outcome, Place, Progress, Verdict};

/// A delivery that came to an outcome, and what was judged of it.
#[derive(Debug, Clone, Copy)]
pub struct Judged<'a> {
    /// The outcome.
    pub outcome: &'a Outcome,
    /// How far the delivery had come before.
    pub before: Progress,
    /// The verdict.
    pub verdict: &'a Verdict,
    /// Microseconds that the request took.
    pub took_us: u64,
    /// Milliseconds since the message was accepted.
    pub age_ms: u64,
}

impl Figures {
    /// Counts an outcome: of a request, or of a delivery that nobody attempted (an acknowledgment that did not
    /// come, a worker that was lost, a time to live that ended) or to which the subscriber said no.
    ///
    /// `Acknowledged` goes by the verdict; should two workers settle one delivery, it counts twice.
    pub fn judged(&mut self, judged: Judged<'_>) {
        let Judged { outcome, before, verdict, took_us, age_ms } = judged;
        match outcome {
            Outcome::Answered { status, .. } => {
                self.attempted(before);
                self.consume_time.record(took_us);
                if (200..300).contains(status) {
                    self.add(Count::Consumed, 1);
                    self.delivery_time.record(age_ms);
                }
            }
            Outcome::Failed(failure) => {
                self.attempted(before);
                if *failure != Failure::Blocked {
                    self.consume_time.record(took_us);
                }
            }
            Outcome::Refused | Outcome::Rejected => self.add(Count::Rejected, 1),
            Outcome::AckMissed | Outcome::WorkerLost | Outcome::Expired | Outcome::Unsent => {}
        }
        if verdict.progress.attempts > before.attempts {
            self.add(Count::Failed, 1);
        }
        match verdict.place {
            Place::Settled => self.add(Count::Acknowledged, 1),
            Place::Dead(_) => self.add(Count::Dead, 1),
            Place::AwaitingAck | Place::Later { .. } | Place::Again => {}
        }
    }

    /// Counts a delivery that was handed out by a pull.
    pub fn pulled(&mut self, before: Progress, age_ms: u64) {
        self.attempted(before);
        self.add(Count::Consumed, 1);
        self.delivery_time.record(age_ms);
    }

    fn attempted(&mut self, before: Progress) {
        self.add(Count::Attempted, 1);
        if before != Progress::default() {
            self.add(Count::Redelivered, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{delivery::judge, subscription::RetryPolicy};

    #[test]
    fn every_outcome_adds_what_it_means() {
        use Count::{Acknowledged, Attempted, Consumed, Dead, Failed, Redelivered, Rejected};
        let answered = |status| Outcome::Answered { status, retry_after_ms: None };
        let at = |attempts, reclaims| Progress { attempts, reclaims };
        // Outcome, before, whether a 2xx settles; what it counts, and how many requests were timed.
        #[rustfmt::skip]
        let table: &[(Outcome, Progress, bool, &[Count], u64)] = &[
            (answered(200), at(0, 0), true, &[Attempted, Consumed, Acknowledged], 1),
            (answered(200), at(0, 0), false, &[Attempted, Consumed], 1),
            (answered(204), at(1, 0), true, &[Attempted, Consumed, Acknowledged, Redelivered], 1),
            (answered(200), at(0, 1), true, &[Attempted, Consumed, Acknowledged, Redelivered], 1),
            (answered(500), at(0, 0), true, &[Attempted, Failed], 1),
            (answered(500), at(3, 0), true, &[Attempted, Failed, Redelivered, Dead], 1),
            (answered(410), at(0, 0), true, &[Attempted], 1),
            (Outcome::Failed(Failure::Timeout), at(0, 0), true, &[Attempted, Failed], 1),
            (Outcome::Failed(Failure::Blocked), at(0, 0), true, &[Attempted, Failed], 0),
            (Outcome::Refused, at(0, 0), false, &[Rejected, Failed], 0),
            (Outcome::Rejected, at(0, 0), false, &[Rejected, Failed, Dead], 0),
            (Outcome::AckMissed, at(0, 0), false, &[Failed], 0),
            (Outcome::WorkerLost, at(0, 0), true, &[], 0),
            (Outcome::WorkerLost, at(0, 4), true, &[Dead], 0),
            (Outcome::Expired, at(0, 0), true, &[Dead], 0),
            (Outcome::Unsent, at(0, 0), true, &[], 0),
        ];
        for (outcome, before, auto_ack, counts, timed) in table {
            let verdict = judge(&RetryPolicy::default(), *auto_ack, *before, outcome, 0.0);
            let mut figures = Figures::default();
            figures.judged(Judged { outcome, before: *before, verdict: &verdict, took_us: 9, age_ms: 7 });
            let mut expected = Figures::default();
            for count in *counts {
                expected.add(*count, 1);
            }
            assert_eq!(figures.counts, expected.counts, "{outcome:?} at {before:?}");
            assert_eq!(figures.consume_time.count(), *timed, "{outcome:?} at {before:?}");
            assert_eq!(figures.delivery_time.count(), figures[Consumed], "{outcome:?} at {before:?}");
        }
    }

    #[test]
    fn what_is_pulled_is_consumed_and_not_yet_acknowledged() {
        let mut figures = Figures::default();
        figures.pulled(Progress::default(), 12);
        figures.pulled(Progress { attempts: 1, reclaims: 0 }, 14);
        let counts =
            [Count::Attempted, Count::Consumed, Count::Redelivered, Count::Acknowledged].map(|c| figures[c]);
        assert_eq!((counts, figures.delivery_time.mean()), ([2, 2, 1, 0], 13.0));
    }
}
