//! What the kernel counts about a process.

use std::path::PathBuf;

use anyhow::{Context, Result};

/// `USER_HZ`, in which /proc counts time: 100 on every Linux that we run on.
const TICKS_PER_SECOND: f64 = 100.0;

pub(super) fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = read(pid, "stat")?;
    parse_cpu_seconds(&stat).with_context(|| format!("cannot read the CPU time from {stat:?}"))
}

pub(super) fn rss_bytes(pid: u32) -> Result<u64> {
    let status = read(pid, "status")?;
    parse_rss_bytes(&status).with_context(|| format!("process {pid} holds no memory (it has ended)"))
}

fn read(pid: u32, file: &str) -> Result<String> {
    let path = PathBuf::from(format!("/proc/{pid}/{file}"));
    std::fs::read_to_string(&path).with_context(|| format!("cannot read {}: has it ended?", path.display()))
}

/// Fields 14 and 15, utime and stime. The second field is the name, which may hold anything in its parentheses.
fn parse_cpu_seconds(stat: &str) -> Option<f64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some((f64::from(user) + f64::from(system)) / TICKS_PER_SECOND)
}

fn parse_rss_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_time_is_found_behind_any_name() {
        let stat = "42 (a) 1 (b) S 1 42 42 0 -1 4194304 100 0 0 0 250 125 0 0 20 0 1 0 1 1 1";
        assert_eq!(parse_cpu_seconds(stat), Some(3.75));
        assert_eq!(parse_cpu_seconds("42 (a) S 1"), None);
    }

    #[test]
    fn memory_is_in_bytes() {
        assert_eq!(parse_rss_bytes("Name:\tx\nVmRSS:\t    12 kB\n"), Some(12_288));
        assert_eq!(parse_rss_bytes("Name:\tx\n"), None);
    }

    #[test]
    fn this_process_has_some_of_both() {
        let pid = std::process::id();
        assert!(cpu_seconds(pid).unwrap() >= 0.0);
        assert!(rss_bytes(pid).unwrap() > 500_000);
    }
}
