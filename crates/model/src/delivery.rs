//! One message for one subscription: an attempt's outcome in, a verdict out.
//!
//! [`judge`] is the only place where it is decided what becomes of a delivery. A refused request, a lost
//! worker and a missed acknowledgment are all outcomes and take this one path.

use serde::{Deserialize, Serialize};

use crate::{subscription::RetryPolicy, time::Time};

/// Why a request got no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// No whole answer within the time allowed.
    Timeout,
    /// The connection could not be made.
    Connect,
    /// The name did not resolve.
    Dns,
    /// TLS could not be agreed on.
    Tls,
    /// The connection broke, or what came was no HTTP.
    Broken,
    /// The address may not be called (see [`crate::egress`]).
    Blocked,
}

impl Failure {
    /// As attempts record it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Connect => "connect",
            Self::Dns => "dns",
            Self::Tls => "tls",
            Self::Broken => "broken",
            Self::Blocked => "blocked",
        }
    }
}

/// What became of a delivery that someone held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The subscriber answered.
    Answered {
        /// The status code.
        status: u16,
        /// The answer's `Retry-After`, as milliseconds from now.
        retry_after_ms: Option<u64>,
    },
    /// The request failed.
    Failed(Failure),
    /// The subscriber said no: `success: false`, or a reject that asks for another try.
    Refused,
    /// The subscriber said no and wants no other try.
    Rejected,
    /// The acknowledgment did not come in time.
    AckMissed,
    /// The worker that held it is gone, or froze past its lease.
    WorkerLost,
    /// Its time to live ended before it could be delivered.
    Expired,
    /// It was taken and not tried: given back.
    Unsent,
}

/// Why a delivery is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeadReason {
    /// Every attempt failed.
    RetriesExhausted,
    /// The subscriber rejected it for good.
    Rejected,
    /// Its time to live ended.
    Expired,
    /// Whoever took it was lost, again and again.
    WorkerLost,
    /// The subscription's queue was full.
    QueueFull,
    /// The channel's `x-max-length` pushed it out.
    Maxlen,
    /// It could not be decoded.
    Undecodable,
}

impl DeadReason {
    /// Every reason.
    pub const ALL: [Self; 7] = [
        Self::RetriesExhausted,
        Self::Rejected,
        Self::Expired,
        Self::WorkerLost,
        Self::QueueFull,
        Self::Maxlen,
        Self::Undecodable,
    ];

    /// As the API and the dead letters write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RetriesExhausted => "retries_exhausted",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::WorkerLost => "worker_lost",
            Self::QueueFull => "queue_full",
            Self::Maxlen => "maxlen",
            Self::Undecodable => "undecodable",
        }
    }

    /// Reads what [`DeadReason::as_str`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }
}

/// How far a delivery has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Attempts made and failed so far.
    pub attempts: u32,
    /// How often whoever held it was lost. Counted apart: three deploys must not bury a healthy delivery.
    pub reclaims: u32,
}

impl Progress {
    /// Lost this often, it runs alone in its worker, so that it can take nothing else with it.
    pub const ALONE_AFTER: u32 = 3;
    /// Lost this often, it is dead.
    pub const DEAD_AFTER: u32 = 5;

    /// Whether it must run with nothing beside it.
    pub fn runs_alone(self) -> bool {
        self.reclaims >= Self::ALONE_AFTER
    }
}

/// Where a delivery goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Done.
    Settled,
    /// Delivered, and waiting for its acknowledgment.
    AwaitingAck,
    /// To be tried again after so many milliseconds.
    Later {
        /// From now, by Redis's clock.
        delay_ms: u64,
    },
    /// To be tried again as soon as there is room.
    Again,
    /// Dead.
    Dead(DeadReason),
}

/// What an outcome says about the subscriber as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It answered well.
    Good,
    /// It failed.
    Bad,
    /// Nothing was learned.
    Unknown,
}

/// What holds back a whole subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// Nothing.
    No,
    /// Not before so many milliseconds from now (429 or 503 with `Retry-After`).
    For {
        /// From now, by Redis's clock.
        ms: u64,
    },
    /// 410: a minute's hold; a second one after it disables the subscription.
    Gone,
}

/// What becomes of a delivery, and what it says about its subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Where the delivery goes.
    pub place: Place,
    /// Progress from here on.
    pub progress: Progress,
    /// What was learned about the subscriber.
    pub health: Health,
    /// Whether the whole subscription waits.
    pub hold: Hold,
}

/// The most that a `Retry-After` is honoured for.
pub const RETRY_AFTER_CAP_MS: u64 = 3_600_000;

/// The share of a delay that jitter may add.
const JITTER: f64 = 0.1;

/// Milliseconds as a whole number; never negative, never more than a year.
pub(crate) fn millis(value: f64) -> u64 {
    const YEAR: f64 = 365.0 * 86_400_000.0;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to what fits just before"
    )]
    let whole = value.clamp(0.0, YEAR) as u64;
    whole
}

/// Decides what becomes of a delivery.
///
/// `auto_ack` is the subscription's; `jitter` is a random number in `0.0..1.0`. Jitter is only ever added,
/// so nothing is tried before a promised time.
pub fn judge(
    policy: &RetryPolicy,
    auto_ack: bool,
    progress: Progress,
    outcome: &Outcome,
    jitter: f64,
) -> Verdict {
    let stay = |place, health| Verdict { place, progress, health, hold: Hold::No };
    match *outcome {
        Outcome::Answered { status: 200..=299, .. } => {
            stay(if auto_ack { Place::Settled } else { Place::AwaitingAck }, Health::Good)
        }
        Outcome::Answered { status: 410, .. } => {
            Verdict { hold: Hold::Gone, ..stay(Place::Again, Health::Unknown) }
        }
        Outcome::Answered { status, retry_after_ms } => {
            let wait = retry_after_ms.map_or(0, |ms| ms.min(RETRY_AFTER_CAP_MS));
            let hold =
                if wait > 0 && matches!(status, 429 | 503) { Hold::For { ms: wait } } else { Hold::No };
            Verdict { hold, ..failed(policy, progress, wait, jitter) }
        }
        Outcome::Failed(_) | Outcome::AckMissed | Outcome::Refused => failed(policy, progress, 0, jitter),
        Outcome::Rejected => {
            let progress = Progress { attempts: progress.attempts + 1, ..progress };
            Verdict { progress, ..stay(Place::Dead(DeadReason::Rejected), Health::Unknown) }
        }
        Outcome::WorkerLost => {
            let progress = Progress { reclaims: progress.reclaims + 1, ..progress };
            let place = if progress.reclaims >= Progress::DEAD_AFTER {
                Place::Dead(DeadReason::WorkerLost)
            } else {
                Place::Again
            };
            Verdict { progress, ..stay(place, Health::Unknown) }
        }
        Outcome::Expired => stay(Place::Dead(DeadReason::Expired), Health::Unknown),
        Outcome::Unsent => stay(Place::Again, Health::Unknown),
    }
}

/// Decides what becomes of a test ([`crate::message::Message::test`]): once it was attempted it is over, however
/// that went, and it says nothing of the subscriber. One that was not attempted waits like any other.
pub fn judge_test(progress: Progress, outcome: &Outcome) -> Verdict {
    match outcome {
        Outcome::Unsent | Outcome::WorkerLost => judge(&RetryPolicy::default(), true, progress, outcome, 0.0),
        _ => Verdict { place: Place::Settled, progress, health: Health::Unknown, hold: Hold::No },
    }
}

fn failed(policy: &RetryPolicy, before: Progress, not_before_ms: u64, jitter: f64) -> Verdict {
    // An attempt that came to its end shows that this delivery kills no workers.
    let progress = Progress { attempts: before.attempts + 1, reclaims: 0 };
    let place = if progress.attempts >= policy.max_attempts() {
        Place::Dead(DeadReason::RetriesExhausted)
    } else {
        let delay = policy.delay_ms(progress.attempts).max(not_before_ms);
        let added = jitter.clamp(0.0, 1.0) * JITTER * f64::from(u32::try_from(delay).unwrap_or(u32::MAX));
        Place::Later { delay_ms: delay + millis(added) }
    };
    Verdict { place, progress, health: Health::Bad, hold: Hold::No }
}

/// One attempt, as it is kept with the delivery and shown to people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Its number, from 1. What was no attempt that came to an end says 0: a worker that was lost, an
    /// acknowledgment that was missed, what a subscriber says of itself.
    #[serde(rename = "n")]
    pub number: u32,
    /// When it began, by the worker's clock.
    #[serde(rename = "at")]
    pub started_at_ms: u64,
    /// How long it took.
    #[serde(rename = "ms")]
    pub duration_ms: u64,
    /// The answer's status code.
    #[serde(rename = "code", default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// What went wrong, in words.
    #[serde(rename = "err", default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The first bytes of the answer, at most [`Attempt::RESPONSE_BYTES`].
    #[serde(rename = "body", default, skip_serializing_if = "Option::is_none")]
    pub response: Option<String>,
}

impl Attempt {
    /// How much of an answer is kept.
    pub const RESPONSE_BYTES: usize = 256;
    /// The error of one whose worker was lost.
    pub const LOST: &'static str = "the worker that held it was lost";

    /// When it began.
    pub fn started_at(&self) -> Time {
        Time::from_millis(self.started_at_ms)
    }
}

/// Reads a `Retry-After` header (RFC 9110, section 10.2.3): seconds or a date. Milliseconds from
/// `now_ms`; `None` for anything else.
pub fn parse_retry_after(text: &str, now_ms: u64) -> Option<u64> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return Some(text.parse::<u64>().unwrap_or(u64::MAX).saturating_mul(1_000));
    }
    let at = httpdate::parse_http_date(text).ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(crate::time::millis(at).saturating_sub(now_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RetryPolicy =
        RetryPolicy { max_retries: 2, retry_delay_ms: 1_000, backoff_multiplier: 3.0 };

    fn at(attempts: u32, reclaims: u32) -> Progress {
        Progress { attempts, reclaims }
    }

    fn answered(status: u16) -> Outcome {
        Outcome::Answered { status, retry_after_ms: None }
    }

    #[test]
    fn words_are_those_that_are_stored() {
        use Failure::{Blocked, Broken, Connect, Dns, Timeout, Tls};
        for failure in [Timeout, Connect, Dns, Tls, Broken, Blocked] {
            assert_eq!(serde_json::to_value(failure).unwrap(), failure.as_str());
        }
        for reason in DeadReason::ALL {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
            assert_eq!(DeadReason::parse(reason.as_str()), Some(reason));
        }
        assert_eq!(DeadReason::parse("moonlight"), None);
    }

    #[test]
    fn every_outcome_leads_somewhere() {
        use DeadReason::{Expired, Rejected, RetriesExhausted, WorkerLost};
        use Place::{Again, AwaitingAck, Dead, Later, Settled};
        let later = |delay_ms| Later { delay_ms };
        #[rustfmt::skip]
        let table: &[(bool, Progress, Outcome, Place, Progress)] = &[
            (true,  at(0, 0), answered(200),                       Settled,                at(0, 0)),
            (true,  at(2, 4), answered(204),                       Settled,                at(2, 4)),
            (false, at(0, 0), answered(202),                       AwaitingAck,            at(0, 0)),
            (true,  at(0, 0), answered(302),                       later(1_000),           at(1, 0)),
            (true,  at(0, 0), answered(404),                       later(1_000),           at(1, 0)),
            (true,  at(1, 0), answered(500),                       later(3_000),           at(2, 0)),
            (true,  at(0, 4), answered(500),                       later(1_000),           at(1, 0)),
            (true,  at(2, 0), answered(500),                       Dead(RetriesExhausted), at(3, 0)),
            (true,  at(0, 0), answered(410),                       Again,                  at(0, 0)),
            (true,  at(2, 0), answered(410),                       Again,                  at(2, 0)),
            (true,  at(0, 0), Outcome::Failed(Failure::Timeout),   later(1_000),           at(1, 0)),
            (true,  at(2, 0), Outcome::Failed(Failure::Blocked),   Dead(RetriesExhausted), at(3, 0)),
            (false, at(0, 0), Outcome::AckMissed,                  later(1_000),           at(1, 0)),
            (false, at(0, 0), Outcome::Refused,                    later(1_000),           at(1, 0)),
            (false, at(0, 0), Outcome::Rejected,                   Dead(Rejected),         at(1, 0)),
            (true,  at(1, 0), Outcome::WorkerLost,                 Again,                  at(1, 1)),
            (true,  at(1, 3), Outcome::WorkerLost,                 Again,                  at(1, 4)),
            (true,  at(1, 4), Outcome::WorkerLost,                 Dead(WorkerLost),       at(1, 5)),
            (true,  at(1, 0), Outcome::Expired,                    Dead(Expired),          at(1, 0)),
            (true,  at(1, 1), Outcome::Unsent,                     Again,                  at(1, 1)),
        ];
        for (auto_ack, before, outcome, place, after) in table {
            let verdict = judge(&POLICY, *auto_ack, *before, outcome, 0.0);
            assert_eq!((verdict.place, verdict.progress), (*place, *after), "{outcome:?} at {before:?}");
        }
    }

    #[test]
    fn a_test_is_over_once_it_was_attempted() {
        for outcome in [
            answered(200),
            answered(410),
            Outcome::Answered { status: 503, retry_after_ms: Some(9_000) },
            Outcome::Failed(Failure::Timeout),
            Outcome::Expired,
        ] {
            let verdict = judge_test(at(0, 1), &outcome);
            let silent = Verdict {
                place: Place::Settled,
                progress: at(0, 1),
                health: Health::Unknown,
                hold: Hold::No,
            };
            assert_eq!(verdict, silent, "{outcome:?}");
        }
        for outcome in [Outcome::Unsent, Outcome::WorkerLost] {
            assert_eq!(judge_test(at(0, 0), &outcome).place, Place::Again, "{outcome:?}");
        }
    }

    #[test]
    fn jitter_is_only_added() {
        for jitter in [0.0, 0.3, 1.0, 7.0, -1.0] {
            let Place::Later { delay_ms } = judge(&POLICY, true, at(0, 0), &answered(500), jitter).place
            else {
                panic!("a retry was due");
            };
            assert!((1_000..=1_100).contains(&delay_ms), "{delay_ms}");
        }
    }

    #[test]
    fn retry_after_only_ever_delays() {
        let ask = |status, ms| {
            let outcome = Outcome::Answered { status, retry_after_ms: Some(ms) };
            judge(&POLICY, true, at(0, 0), &outcome, 0.0)
        };
        assert_eq!(ask(500, 200).place, Place::Later { delay_ms: 1_000 });
        assert_eq!(ask(500, 5_000).place, Place::Later { delay_ms: 5_000 });
        assert_eq!(ask(500, 5_000).hold, Hold::No);
        assert_eq!(ask(429, 5_000).hold, Hold::For { ms: 5_000 });
        assert_eq!(ask(503, u64::MAX).hold, Hold::For { ms: RETRY_AFTER_CAP_MS });
        assert_eq!(ask(503, u64::MAX).place, Place::Later { delay_ms: RETRY_AFTER_CAP_MS });
        assert_eq!(ask(429, 0).hold, Hold::No);
    }

    #[test]
    fn a_410_holds_the_subscription() {
        let verdict = judge(&POLICY, true, at(0, 0), &answered(410), 0.5);
        assert_eq!((verdict.hold, verdict.health), (Hold::Gone, Health::Unknown));
    }

    #[test]
    fn only_the_subscribers_own_doing_counts_against_it() {
        for (outcome, health) in [
            (answered(200), Health::Good),
            (answered(500), Health::Bad),
            (Outcome::Failed(Failure::Dns), Health::Bad),
            (Outcome::AckMissed, Health::Bad),
            (Outcome::WorkerLost, Health::Unknown),
            (Outcome::Expired, Health::Unknown),
            (Outcome::Unsent, Health::Unknown),
            (Outcome::Rejected, Health::Unknown),
        ] {
            assert_eq!(judge(&POLICY, true, at(0, 0), &outcome, 0.0).health, health, "{outcome:?}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = 784_111_777_000; // Sun, 06 Nov 1994 08:49:37 GMT
        assert_eq!(parse_retry_after("120", now), Some(120_000));
        assert_eq!(parse_retry_after(" 0 ", now), Some(0));
        assert_eq!(parse_retry_after("99999999999999999999", now), Some(u64::MAX));
        assert_eq!(parse_retry_after("Sun, 06 Nov 1994 08:49:47 GMT", now), Some(10_000));
        assert_eq!(parse_retry_after("Sun, 06 Nov 1994 08:49:07 GMT", now), Some(0));
        for bad in ["", "soon", "-1", "1.5", "+3"] {
            assert_eq!(parse_retry_after(bad, now), None, "{bad}");
        }
    }

    #[test]
    fn reasons_read_back() {
        for reason in DeadReason::ALL {
            assert_eq!(DeadReason::parse(reason.as_str()), Some(reason));
            assert_eq!(serde_json::to_string(&reason).unwrap(), format!("\"{}\"", reason.as_str()));
        }
        assert_eq!(DeadReason::parse("bored"), None);
    }

    #[test]
    fn a_lost_delivery_ends_alone() {
        assert!(!at(9, 2).runs_alone());
        assert!(at(0, 3).runs_alone());
    }
}
