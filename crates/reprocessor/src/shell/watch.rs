//! Watching a replay: a bar on a terminal, a line now and then elsewhere.

use std::{
    io::IsTerminal,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use super::print::clean;
use crate::job::{desk::Progress, run::Seen};

/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(2);

/// Whoever watches.
pub(super) enum Watch {
    Bar(ProgressBar),
    Lines(Mutex<Instant>),
    Nothing,
}

impl Watch {
    /// Watches a job, on standard error.
    pub(super) fn new(job: &Progress, json: bool) -> Self {
        if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new(job.letters);
            // A template that does not parse leaves the default one.
            if let Ok(style) =
                ProgressStyle::with_template("{bar:30} {pos}/{len} looked at, {msg} [{elapsed}]")
            {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(200));
            return Self::Bar(bar);
        }
        if json {
            return Self::Nothing;
        }
        eprintln!("job {}: {} dead letters to look at", job.job_id, job.letters);
        Self::Lines(Mutex::new(Instant::now()))
    }

    /// Shows how far it has come.
    pub(super) fn tell(&self, seen: &Seen) {
        let trouble =
            seen.trouble.as_deref().map(|trouble| format!(" ({})", clean(trouble))).unwrap_or_default();
        match self {
            Self::Nothing => {}
            Self::Bar(bar) if is_only_trouble(seen) => bar.set_message(format!("waiting{trouble}")),
            Self::Bar(bar) => {
                bar.set_position(seen.scanned);
                bar.set_message(format!("{} moved{trouble}", seen.moved));
            }
            Self::Lines(last) => {
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                if last.elapsed() < LINE_EVERY {
                    return;
                }
                *last = Instant::now();
                if is_only_trouble(seen) {
                    eprintln!("waiting{trouble}");
                } else {
                    eprintln!(
                        "{} moved, {} of {} looked at{trouble}",
                        seen.moved, seen.scanned, seen.letters
                    );
                }
            }
        }
    }

    /// Clears what was drawn.
    pub(super) fn end(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

/// Whether there are no figures, since Redis cannot be asked for them.
fn is_only_trouble(seen: &Seen) -> bool {
    seen.trouble.is_some() && seen.letters == 0
}
