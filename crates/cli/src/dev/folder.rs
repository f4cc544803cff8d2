//! The data folder: who may use it, and what is kept of the Redis that did.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{Read, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};

/// A data folder, held by this process alone until it is dropped or the process dies.
#[derive(Debug)]
pub struct DataFolder {
    path: PathBuf,
    /// The system lets go of the lock with the process, however that ends.
    _lock: File,
}

/// The Redis that was last started in a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastRedis {
    /// Its process.
    pub pid: u32,
    /// Its port on 127.0.0.1.
    pub port: u16,
}

impl DataFolder {
    /// Makes the folder where there is none, and takes hold of it.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        // There are messages and secrets in it: nobody else's.
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .and_then(|()| DirBuilder::new().recursive(true).mode(0o700).create(path.join("redis")))
            .with_context(|| {
                format!("the data folder {shown} cannot be made; name another with --data-dir")
            })?;
        let path = path.canonicalize().with_context(|| format!("the data folder {shown} cannot be used"))?;
        let lock = hold(&path)?;
        let ignore = path.join(".gitignore");
        if !ignore.exists() {
            fs::write(&ignore, "*\n").with_context(|| format!("{} cannot be written", ignore.display()))?;
        }
        Ok(Self { path, _lock: lock })
    }

    /// Where it is, from the root.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where Redis keeps its files.
    pub fn redis_files(&self) -> PathBuf {
        self.path.join("redis")
    }

    /// Where Redis writes its log.
    pub fn redis_log(&self) -> PathBuf {
        self.path.join("redis.log")
    }

    /// The Redis that was last started here; none after a clean stop.
    pub fn last_redis(&self) -> Option<LastRedis> {
        let text = fs::read_to_string(self.record()).ok()?;
        let (pid, port) = text.trim().split_once(' ')?;
        Some(LastRedis { pid: pid.parse().ok()?, port: port.parse().ok()? })
    }

    /// Notes which Redis runs here now.
    pub fn note_redis(&self, redis: Option<LastRedis>) -> anyhow::Result<()> {
        let record = self.record();
        let noted = match redis {
            Some(LastRedis { pid, port }) => fs::write(&record, format!("{pid} {port}\n")),
            None if record.exists() => fs::remove_file(&record),
            None => Ok(()),
        };
        noted.with_context(|| format!("{} cannot be written", record.display()))
    }

    /// `PROCESS PORT`.
    fn record(&self) -> PathBuf {
        self.path.join("redis.running")
    }
}

fn hold(folder: &Path) -> anyhow::Result<File> {
    let path = folder.join("lock");
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = opened.with_context(|| format!("{} cannot be opened", path.display()))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            bail!(
                "process {} already runs on the data folder {}; stop it, or name another folder with --data-dir",
                holder.trim(),
                folder.display()
            );
        }
        Err(TryLockError::Error(error)) => {
            return Err(error).with_context(|| format!("{} cannot be locked", path.display()));
        }
    }
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .with_context(|| format!("{} cannot be written", path.display()))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_at_a_time_uses_a_folder() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("a/b");
        let held = DataFolder::open(&path).unwrap();
        assert!(held.redis_files().is_dir());
        assert_eq!(fs::read_to_string(path.join(".gitignore")).unwrap(), "*\n");
        let error = DataFolder::open(&path).unwrap_err().to_string();
        assert!(error.contains(&std::process::id().to_string()) && error.contains("--data-dir"), "{error}");
        drop(held);
        DataFolder::open(&path).unwrap();
    }

    #[test]
    fn the_last_redis_is_remembered() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(scratch.path()).unwrap();
        assert_eq!(folder.last_redis(), None);
        let redis = LastRedis { pid: 12, port: 34 };
        folder.note_redis(Some(redis)).unwrap();
        assert_eq!(folder.last_redis(), Some(redis));
        folder.note_redis(None).unwrap();
        folder.note_redis(None).unwrap();
        assert_eq!(folder.last_redis(), None);
    }

    #[test]
    fn what_is_no_folder_is_named() {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("file");
        fs::write(&file, "").unwrap();
        let error = DataFolder::open(&file).unwrap_err().to_string();
        assert!(error.contains(&file.display().to_string()) && error.contains("--data-dir"), "{error}");
    }
}
