//! Ports on the loopback interface.

use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

/// Below every system's ephemeral range; so is the same port plus 10,000, where a Redis Cluster node's bus lies.
const CANDIDATES: Range<u16> = 10_000..22_768;

/// Where this process starts to look: processes that run at once should not all try the same ports.
static NEXT: LazyLock<AtomicU32> = LazyLock::new(|| {
    let since_boot = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().subsec_nanos();
    AtomicU32::new(std::process::id().wrapping_mul(7_919).wrapping_add(since_boot))
});

/// A port on 127.0.0.1 that nobody listens on, never given out twice by this process (until it has tried all).
///
/// There is a race: the port is not held, and another process may take it before the caller does. So, hold a
/// listener where the code under test takes one, and where it does not, treat "address in use" as a reason to ask
/// again (as [`PrivateRedis`](crate::redis::PrivateRedis) does).
///
/// Binding port 0 would be no better and in one way worse: such ports are of the ephemeral range. While a server
/// is down for a test, the source port of any outgoing connection may be the server's own, so that it cannot come
/// back; a client that keeps retrying a dead loopback port can even connect to itself. Hence ports below that
/// range, if the system has room there.
pub fn free() -> Result<u16> {
    if ephemeral_range_starts_at().is_some_and(|start| start >= u32::from(CANDIDATES.end)) {
        let span = u32::from(CANDIDATES.end - CANDIDATES.start);
        for _ in 0..span {
            let offset = NEXT.fetch_add(1, Ordering::Relaxed) % span;
            let port = CANDIDATES.start + u16::try_from(offset).context("the span fits a port")?;
            if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return Ok(port);
            }
        }
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port on 127.0.0.1")?;
    Ok(listener.local_addr()?.port())
}

fn ephemeral_range_starts_at() -> Option<u32> {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    range.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ports_are_free_and_differ() {
        let ports: HashSet<u16> = (0..200).map(|_| free().unwrap()).collect();
        assert_eq!(ports.len(), 200);
        for port in ports {
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        }
    }

    #[test]
    fn a_taken_port_is_not_given() {
        let held: Vec<TcpListener> =
            (0..50).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, free().unwrap())).unwrap()).collect();
        let port = free().unwrap();
        assert!(held.iter().all(|listener| listener.local_addr().unwrap().port() != port));
    }
}
