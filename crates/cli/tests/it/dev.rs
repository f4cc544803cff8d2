//! `postroad dev`, from outside: what stays over a restart, and what it says when it cannot start.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::symlink,
    path::Path,
    time::{Duration, Instant},
};

use crate::common::{PATIENCE, dev, ended, postroad, run, stderr, stdout};
use postroad_cli::api::Api;
use rustix::process::Signal;

async fn publish(api: &str, id: &str) {
    let line = ["publish", "--api", api, "--channel", "kept", "--payload", r#"{"n":1}"#, "--id", id];
    let output = run(&line).await;
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stdout(&output).trim(), id);
}

async fn is_kept(api: &str, id: &str) -> bool {
    Api::new(api).unwrap().deliveries(id).await.is_ok()
}

/// Whether a process with this id is there and is no zombie.
fn lives(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn redis_of(folder: &Path) -> u32 {
    let noted = fs::read_to_string(folder.join("redis.running")).unwrap();
    noted.split_whitespace().next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_restart_keeps_everything() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("data");
    let (first, api) = dev(&folder, |_| ()).await;
    publish(&api, "msg_kept").await;
    let redis = redis_of(&folder);
    first.signal(Signal::TERM);
    assert_eq!(first.exit_code().await, Some(0));
    assert!(!folder.join("redis.running").exists() && !lives(redis), "Redis is stopped with it");

    let (second, api) = dev(&folder, |_| ()).await;
    assert!(is_kept(&api, "msg_kept").await);
    second.signal(Signal::INT);
    assert_eq!(second.exit_code().await, Some(0));
}

#[tokio::test]
async fn a_kill_loses_nothing_either() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("data");
    let (first, api) = dev(&folder, |_| ()).await;
    publish(&api, "msg_kept").await;
    let redis = redis_of(&folder);
    first.signal(Signal::KILL);
    assert_eq!(first.exit_code().await, None);
    // The kernel ends Redis with it, where there is the program that asks for that.
    let end = Instant::now() + PATIENCE;
    while Path::new("/usr/bin/setpriv").exists() && lives(redis) {
        assert!(Instant::now() < end, "Redis outlives it");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (_second, api) = dev(&folder, |_| ()).await;
    assert!(is_kept(&api, "msg_kept").await);
}

#[tokio::test]
async fn a_redis_that_was_left_behind_is_taken_over() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("data");
    // Without setpriv on PATH, nothing ends Redis when its parent is killed.
    let bare = scratch.path().join("bin");
    fs::create_dir(&bare).unwrap();
    let server = std::env::split_paths(&std::env::var_os("PATH").unwrap())
        .map(|folder| folder.join("redis-server"))
        .find(|program| program.exists())
        .unwrap();
    symlink(server, bare.join("redis-server")).unwrap();
    let (first, api) = dev(&folder, |command| {
        command.env("PATH", &bare);
    })
    .await;
    publish(&api, "msg_kept").await;
    let left = redis_of(&folder);
    first.signal(Signal::KILL);
    assert_eq!(first.exit_code().await, None);
    assert!(lives(left));

    let (_second, api) = dev(&folder, |_| ()).await;
    assert!(is_kept(&api, "msg_kept").await);
    assert!(!lives(left) && redis_of(&folder) != left);
}

#[tokio::test]
async fn a_taken_port_names_the_flag() {
    let scratch = tempfile::tempdir().unwrap();
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = held.local_addr().unwrap().to_string();
    for flag in ["--listen", "--dead-letter-listen", "--router-listen", "--worker-listen"] {
        let mut command = postroad(&["dev", "--any-port", "--data-dir"]);
        command.arg(scratch.path()).args([flag, &taken]);
        // What was asked for by name must be had, even so.
        let output = ended(command).await;
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(&taken) && said.contains(flag), "{said}");
    }
}

#[tokio::test]
async fn a_folder_in_use_is_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let (_first, _) = dev(scratch.path(), |_| ()).await;
    let mut command = postroad(&["dev", "--any-port", "--data-dir"]);
    command.arg(scratch.path());
    let output = ended(command).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("already runs on the data folder"), "{}", stderr(&output));
}

#[tokio::test]
async fn a_missing_redis_server_says_how_to_install_it() {
    let scratch = tempfile::tempdir().unwrap();
    let mut command = postroad(&["dev", "--any-port", "--data-dir"]);
    command.arg(scratch.path()).env("PATH", scratch.path()).env_remove("POSTROAD_REDIS_SERVER");
    let output = ended(command).await;
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("apt-get install redis-server") && said.contains("--redis-url"), "{said}");
}

#[tokio::test]
async fn what_is_no_key_is_refused_before_anything_starts() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("data");
    let mut command = postroad(&["dev", "--set", "worker.max_in_flihgt=1", "--data-dir"]);
    command.arg(&folder);
    let output = ended(command).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("worker.max_in_flight") && !folder.exists(), "{}", stderr(&output));
}
