//! Temporary directories and the logs that lie in them.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, Result};
use tempfile::TempDir;

/// A log's last bytes are enough to explain a failure.
const TAIL_BYTES: u64 = 64 * 1024;

/// A directory that is removed on drop, unless `POSTROAD_TEST_KEEP` is set.
pub(crate) fn directory(name: &str) -> Result<TempDir> {
    let mut directory = tempfile::Builder::new()
        .prefix(&format!("postroad-{name}-"))
        .tempdir()
        .context("cannot create a temporary directory")?;
    directory.disable_cleanup(std::env::var_os("POSTROAD_TEST_KEEP").is_some());
    Ok(directory)
}

/// The last `lines` lines of the file, or a remark in brackets when there is nothing to show.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    let text = match last_bytes(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => return format!("[no log at {}: {error}]", path.display()),
    };
    let all: Vec<&str> = text.lines().collect();
    if all.is_empty() {
        return "[the log is empty]".to_owned();
    }
    all[all.len().saturating_sub(lines)..].join("\n")
}

fn last_bytes(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_is_the_last_lines() {
        let directory = directory("tail").unwrap();
        let log = directory.path().join("a.log");
        assert!(tail(&log, 2).starts_with("[no log"));
        std::fs::write(&log, "").unwrap();
        assert_eq!(tail(&log, 2), "[the log is empty]");
        std::fs::write(&log, "one\ntwo\nthree\n").unwrap();
        assert_eq!(tail(&log, 2), "two\nthree");
        assert_eq!(tail(&log, 9), "one\ntwo\nthree");
    }

    #[test]
    fn a_huge_log_is_not_read_whole() {
        let directory = directory("tail").unwrap();
        let log = directory.path().join("a.log");
        std::fs::write(&log, "x".repeat(1_000_000) + "\nlast").unwrap();
        assert_eq!(tail(&log, 1), "last");
        assert!(last_bytes(&log).unwrap().len() as u64 <= TAIL_BYTES);
    }
}
