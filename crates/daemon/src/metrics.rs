//! The metrics that every daemon has: its build and its process.

use std::{fmt, fs, time::Duration};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge, info::Info},
    registry::Registry,
};

/// A registry with `build_info` and the `process_…` metrics, to which a daemon adds its own.
pub fn registry(version: &'static str) -> Registry {
    let mut registry = Registry::default();
    registry.register("build", "The build that runs", Info::new([("version", version)]));
    registry.register_collector(Box::new(Process));
    registry
}

/// What the operating system says about this process. Off Linux there is nothing to read, and no metric.
#[derive(Debug)]
struct Process;

/// Ticks of the CPU clock a second. A constant of the interface on Linux, whatever the kernel's own rate.
const TICKS: u64 = 100;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut put = |name: &str, help: &str, metric: &dyn Encodable| metric.put(&mut encoder, name, help);
        if let Some(stat) = Stat::read() {
            put(
                "process_cpu_seconds",
                "CPU time used, in user and system mode",
                &ConstCounter::new(stat.cpu.as_secs_f64()),
            )?;
            put("process_threads", "Threads of the process", &ConstGauge::new(stat.threads))?;
            if let Some(boot) = boot_seconds() {
                let started = boot + stat.started_after_boot.as_secs_f64();
                put(
                    "process_start_time_seconds",
                    "When the process started, in seconds since 1970",
                    &ConstGauge::new(started),
                )?;
            }
        }
        for (field, name, help) in [
            ("VmRSS", "process_resident_memory_bytes", "Memory in RAM"),
            ("VmSize", "process_virtual_memory_bytes", "Address space used"),
        ] {
            if let Some(bytes) = status_bytes(field) {
                put(name, help, &ConstGauge::new(bytes))?;
            }
        }
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            // One of them is this directory's own.
            let open = u32::try_from(open.count()).unwrap_or(u32::MAX).saturating_sub(1);
            put("process_open_fds", "Open file descriptors", &ConstGauge::new(open))?;
        }
        if let Some(most) = open_files_limit() {
            put("process_max_fds", "The most file descriptors that may be open", &ConstGauge::new(most))?;
        }
        Ok(())
    }
}

trait Encodable {
    fn put(&self, encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str) -> fmt::Result;
}

impl<M: EncodeMetric> Encodable for M {
    fn put(&self, encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str) -> fmt::Result {
        self.encode(encoder.encode_descriptor(name, help, None, self.metric_type())?)
    }
}

/// Parts of `/proc/self/stat` (proc(5)).
struct Stat {
    cpu: Duration,
    threads: i64,
    started_after_boot: Duration,
}

impl Stat {
    fn read() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/self/stat").ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        // The second field is the program's name in parentheses, and may hold anything.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        let ticks = |count: u64| Duration::from_millis(count * (1_000 / TICKS));
        Some(Self {
            cpu: ticks(number(14)? + number(15)?),
            threads: i64::try_from(number(20)?).ok()?,
            started_after_boot: ticks(number(22)?),
        })
    }
}

fn boot_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime ")).and_then(|seconds| seconds.trim().parse().ok())
}

fn status_bytes(field: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let value = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    value.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kilobytes| kilobytes * 1_024)
}

/// The soft limit; `None` also where there is none.
fn open_files_limit() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn the_process_is_measured() {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry("0")).unwrap();
        let value = |name: &str| -> f64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().unwrap()
        };
        assert!(value("process_cpu_seconds_total") >= 0.0);
        assert!(value("process_resident_memory_bytes") > 100_000.0);
        assert!(value("process_virtual_memory_bytes") > value("process_resident_memory_bytes"));
        assert!(value("process_open_fds") >= 3.0);
        assert!(value("process_max_fds") >= value("process_open_fds"));
        assert!(value("process_threads") >= 1.0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let age = now - value("process_start_time_seconds");
        assert!((-2.0..3_600.0).contains(&age), "{age} seconds old");
    }

    #[test]
    fn a_programs_name_may_hold_anything() {
        let text = "1 (a) b) (c) S 0 0 0 0 0 0 0 0 0 0 150 50 0 0 20 0 7 0 400 0";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.cpu, stat.threads), (Duration::from_secs(2), 7));
        assert_eq!(stat.started_after_boot, Duration::from_secs(4));
        assert!(Stat::parse("1 (a").is_none());
        assert!(Stat::parse("1 (a) S").is_none());
    }
}
