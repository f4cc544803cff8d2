//! Figures: percentiles, CPU time by process, and how they are shown.

use std::{collections::BTreeMap, fs, time::Duration};

use serde_json::{Map, Value, json};

/// Latencies in microseconds.
#[derive(Debug, Clone, Default)]
pub struct Latencies(Vec<u64>);

impl Latencies {
    /// Of these.
    pub fn new(mut all: Vec<u64>) -> Self {
        all.sort_unstable();
        Self(all)
    }

    /// All of several together.
    pub fn merged(all: Vec<Self>) -> Self {
        Self::new(all.into_iter().flat_map(|some| some.0).collect())
    }

    /// The value below which this share of them lies, in milliseconds.
    pub fn percentile_ms(&self, share: f64) -> f64 {
        if self.0.is_empty() {
            return f64::NAN;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index into a list that fits into memory"
        )]
        let at = ((self.0.len() as f64 * share).ceil() as usize).clamp(1, self.0.len()) - 1;
        number(self.0[at]) / 1_000.0
    }
}

/// A count as a number to reckon with.
#[expect(clippy::cast_precision_loss, reason = "counts here are far below 2^53")]
pub fn number(count: u64) -> f64 {
    count as f64
}

/// CPU time that a process has used, user and system.
pub fn cpu(pid: u32) -> Duration {
    const TICKS: u64 = 100;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    // Fields 14 and 15 of the file, counted from 1; what is left begins at field 3.
    Duration::from_millis((ticks(11) + ticks(12)) * 1_000 / TICKS)
}

/// CPU time by process, between two looks.
#[derive(Debug, Clone, Default)]
pub struct CpuUse(BTreeMap<String, Duration>);

impl CpuUse {
    /// A look at processes, by name; those of one name are added up.
    pub fn look<'a>(processes: impl IntoIterator<Item = (&'a str, u32)>) -> Self {
        let mut all = BTreeMap::new();
        for (name, pid) in processes {
            *all.entry(name.to_owned()).or_insert(Duration::ZERO) += cpu(pid);
        }
        Self(all)
    }

    /// What was used since an earlier look.
    pub fn since(&self, earlier: &Self) -> Self {
        let since = |(name, used): (&String, &Duration)| {
            (name.clone(), used.saturating_sub(earlier.0.get(name).copied().unwrap_or_default()))
        };
        Self(self.0.iter().map(since).collect())
    }

    /// Microseconds for each of so many things, by process.
    pub fn micros_each(&self, count: u64) -> BTreeMap<String, f64> {
        let each = |used: &Duration| used.as_secs_f64() * 1e6 / number(count.max(1));
        self.0.iter().map(|(name, used)| (name.clone(), each(used))).collect()
    }
}

/// One row of the report: a figure, and what it is measured against.
#[derive(Debug, Clone)]
pub struct Row {
    /// The scenario.
    pub scenario: &'static str,
    /// What was varied.
    pub case: String,
    /// Figures by name, with their unit in the name.
    pub figures: Vec<(String, f64)>,
}

impl Row {
    /// A row without figures yet.
    pub fn new(scenario: &'static str, case: impl Into<String>) -> Self {
        Self { scenario, case: case.into(), figures: Vec::new() }
    }

    /// Adds a figure.
    pub fn with(mut self, name: impl Into<String>, value: f64) -> Self {
        self.figures.push((name.into(), value));
        self
    }

    /// Adds CPU microseconds by process, and their sum over the road: the daemons and Redis.
    pub fn with_cpu(mut self, each: &BTreeMap<String, f64>) -> Self {
        const ROAD: [&str; 5] = ["redis", "ingest", "router", "worker", "reprocessor"];
        let road =
            each.iter().filter(|(name, _)| ROAD.contains(&name.as_str())).map(|(_, micros)| micros).sum();
        self.figures.push(("road_cpu_us".into(), road));
        for (name, micros) in each {
            self.figures.push((format!("{name}_cpu_us"), *micros));
        }
        self
    }

    /// A figure.
    pub fn get(&self, name: &str) -> f64 {
        self.figures.iter().find(|(known, _)| known == name).map_or(f64::NAN, |(_, value)| *value)
    }

    fn json(&self) -> Value {
        let figures: Map<String, Value> = self
            .figures
            .iter()
            .map(|(name, value)| (name.clone(), json!((value * 1_000.0).round() / 1_000.0)))
            .collect();
        json!({ "scenario": self.scenario, "case": self.case, "figures": figures })
    }
}

/// Prints rows as a table for people.
pub fn print_table(rows: &[Row]) {
    for row in rows {
        println!("{:<14} {}", row.scenario, row.case);
        for (name, value) in &row.figures {
            println!("    {name:<34} {value:>14.2}");
        }
    }
}

/// All rows as JSON.
pub fn to_json(rows: &[Row]) -> Value {
    rows.iter().map(Row::json).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let latencies = Latencies::new((1..=100).map(|n| n * 1_000).collect());
        assert!((latencies.percentile_ms(0.5) - 50.0).abs() < 1e-9);
        assert!((latencies.percentile_ms(0.99) - 99.0).abs() < 1e-9);
        assert!((latencies.percentile_ms(1.0) - 100.0).abs() < 1e-9);
        assert!(Latencies::default().percentile_ms(0.5).is_nan());
    }

    #[test]
    fn this_process_uses_cpu() {
        let me = std::process::id();
        let before = CpuUse::look([("me", me)]);
        let begun = std::time::Instant::now();
        while begun.elapsed() < Duration::from_millis(50) {}
        let used = CpuUse::look([("me", me)]).since(&before).micros_each(1);
        assert!(used["me"] > 10_000.0, "{used:?}");
    }
}
