//! The result, as a table and in words.

use std::time::Duration;

use super::{
    judge::{Verdict, percentile},
    plan::{WISHES, Wish},
};
use crate::text::aligned;

/// The table: a line for each subscription and one for all.
pub fn table(verdicts: &[Verdict]) -> Vec<String> {
    let head = ["SUBSCRIPTION", "SELECTS", "EXPECTED", "ARRIVED", "VERIFIED", "EQUAL", "P50", "P99"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(WISHES.iter().zip(verdicts).map(|(Wish { name, selects, .. }, it)| row(name, selects, it)));
    let mut latencies: Vec<Duration> = verdicts.iter().flat_map(|it| it.latencies.iter().copied()).collect();
    latencies.sort_unstable();
    let sum = |of: fn(&Verdict) -> usize| verdicts.iter().map(of).sum();
    let all = Verdict {
        expected: sum(|it| it.expected),
        arrived: sum(|it| it.arrived),
        verified: sum(|it| it.verified),
        equal: sum(|it| it.equal),
        latencies,
        ..Verdict::default()
    };
    rows.push(row("all", "", &all));
    aligned(&rows, &[2, 3, 4, 5, 6, 7])
}

fn row(name: &str, selects: &str, verdict: &Verdict) -> Vec<String> {
    let Verdict { expected, arrived, verified, equal, latencies, .. } = verdict;
    let counts = [expected, arrived, verified, equal].map(ToString::to_string);
    let times = [50, 99].map(|percent| format!("{} ms", percentile(latencies, percent).as_millis()));
    [name, selects].map(str::to_owned).into_iter().chain(counts).chain(times).collect()
}

/// How many of a kind of fault are told singly.
const TOLD: usize = 10;

/// What is not as it should be, a line each; `name` says which webhook is at a place.
pub fn faults(verdicts: &[Verdict], name: impl Fn(usize) -> String) -> Vec<String> {
    let mut lines = Vec::new();
    for (wish, verdict) in WISHES.iter().zip(verdicts) {
        let missing: Vec<String> = verdict.missing.iter().map(|place| name(*place)).collect();
        for (what, faults) in [
            ("did not arrive", &missing),
            ("should not have arrived", &verdict.extra),
            ("is wrong", &verdict.wrong),
        ] {
            lines.extend(faults.iter().take(TOLD).map(|fault| format!("{}: {fault} {what}", wish.name)));
            if faults.len() > TOLD {
                lines.push(format!("{}: {} more {what}", wish.name, faults.len() - TOLD));
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_sums_up() {
        let verdicts: Vec<Verdict> = (1..=5)
            .map(|n| Verdict {
                expected: n,
                arrived: n,
                verified: n,
                equal: n,
                latencies: vec![Duration::from_millis(10); n],
                ..Verdict::default()
            })
            .collect();
        let table = table(&verdicts);
        assert_eq!(table.len(), 7);
        let words: Vec<&str> = table[6].split_whitespace().collect();
        assert_eq!(words, ["all", "15", "15", "15", "15", "10", "ms", "10", "ms"]);
    }

    #[test]
    fn faults_are_named_but_not_without_end() {
        let bad = Verdict { missing: (0..12).collect(), extra: vec!["msg_x".into()], ..Verdict::default() };
        let lines = faults(&[bad], |place| format!("webhook {place}"));
        assert_eq!(lines.len(), 12);
        assert_eq!(lines[0], "exact: webhook 0 did not arrive");
        assert_eq!(lines[10], "exact: 2 more did not arrive");
        assert_eq!(lines[11], "exact: msg_x should not have arrived");
    }
}
