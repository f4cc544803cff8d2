//! Which answer a request gets.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::{Answer, Recorded};

/// A rule that gives each request of a path its answer. An [`Answer`] alone is a rule too.
pub struct Behaviour(Box<dyn Fn(&Recorded) -> Answer + Send + Sync>);

impl Behaviour {
    /// Whatever the closure says. It sees the whole request, also what the receiver won't keep of it, and runs
    /// on the connection's task with no lock held; it must not block.
    pub fn by(rule: impl Fn(&Recorded) -> Answer + Send + Sync + 'static) -> Self {
        Self(Box::new(rule))
    }

    /// The first `n` requests so; what comes after, [`Script`] asks for. Counted from when it is set.
    pub fn first(n: usize, behaviour: impl Into<Self>) -> Script {
        Script { steps: vec![(n, behaviour.into())] }
    }

    /// Each request as `failing` with this probability (0 to 1), else as `otherwise`. The same seed gives the nth
    /// request the same fate in every run.
    pub fn random(probability: f64, seed: u64, failing: impl Into<Self>, otherwise: impl Into<Self>) -> Self {
        let (failing, otherwise) = (failing.into(), otherwise.into());
        let next = AtomicU64::new(0);
        Self::by(move |request| {
            let dice = fraction(seed, next.fetch_add(1, Ordering::Relaxed));
            if dice < probability { failing.answer(request) } else { otherwise.answer(request) }
        })
    }

    pub(super) fn answer(&self, request: &Recorded) -> Answer {
        (self.0)(request)
    }
}

impl From<Answer> for Behaviour {
    fn from(answer: Answer) -> Self {
        Self::by(move |_| answer.clone())
    }
}

impl fmt::Debug for Behaviour {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Behaviour")
    }
}

/// Behaviours one after the other; complete with [`Script::then`].
#[derive(Debug)]
#[must_use = "a script is a behaviour only with its end: then(…)"]
pub struct Script {
    steps: Vec<(usize, Behaviour)>,
}

impl Script {
    /// The next `n` requests so.
    pub fn next(mut self, n: usize, behaviour: impl Into<Behaviour>) -> Self {
        self.steps.push((n, behaviour.into()));
        self
    }

    /// All further requests so.
    pub fn then(self, behaviour: impl Into<Behaviour>) -> Behaviour {
        let last = behaviour.into();
        let arrived = AtomicUsize::new(0);
        Behaviour::by(move |request| {
            let mut index = arrived.fetch_add(1, Ordering::Relaxed);
            for (length, behaviour) in &self.steps {
                if index < *length {
                    return behaviour.answer(request);
                }
                index -= length;
            }
            last.answer(request)
        })
    }
}

/// SplitMix64: the nth number of a seed in [0, 1), whatever order threads ask in.
fn fraction(seed: u64, n: u64) -> f64 {
    let mut mixed = seed.wrapping_add(n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    let upper = u32::try_from(mixed >> 32).unwrap_or(u32::MAX);
    f64::from(upper) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statuses(behaviour: &Behaviour, n: usize) -> Vec<u16> {
        let request = Recorded::sample();
        (0..n).map(|_| behaviour.answer(&request).status.as_u16()).collect()
    }

    #[test]
    fn a_script_goes_step_by_step() {
        let script = Behaviour::first(2, Answer::status(500)).next(1, Answer::status(429)).then(Answer::ok());
        assert_eq!(statuses(&script, 5), [500, 500, 429, 200, 200]);
    }

    #[test]
    fn chance_is_about_right_and_repeats_itself() {
        let random = |seed| Behaviour::random(0.3, seed, Answer::status(500), Answer::ok());
        let fates = statuses(&random(7), 10_000);
        let failures = fates.iter().filter(|status| **status == 500).count();
        assert!((2_800..3_200).contains(&failures), "{failures}");
        assert_eq!(fates, statuses(&random(7), 10_000));
        assert_ne!(fates, statuses(&random(8), 10_000));
    }

    #[test]
    fn never_and_always_are_meant_so() {
        let never = Behaviour::random(0.0, 1, Answer::status(500), Answer::ok());
        let always = Behaviour::random(1.0, 1, Answer::status(500), Answer::ok());
        assert!(statuses(&never, 1_000).iter().all(|status| *status == 200));
        assert!(statuses(&always, 1_000).iter().all(|status| *status == 500));
    }

    #[test]
    fn a_closure_decides_by_the_request() {
        let rule = Behaviour::by(|request| Answer::status(if request.path == "/sample" { 204 } else { 500 }));
        assert_eq!(statuses(&rule, 1), [204]);
    }
}
