//! A daemon is started, measured, frozen and ended.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::Duration;

use postroad_testkit::process::Daemon;
use postroad_testkit::wait::eventually;

const SOON: Duration = Duration::from_secs(5);
const NO_ENV: [(&str, &str); 0] = [];

fn shell(script: &str) -> Daemon {
    Daemon::spawn("shell", "/bin/sh", ["-c", script], [("GREETING", "hello")]).unwrap()
}

async fn logged(daemon: &Daemon, text: &str) {
    let said = eventually(SOON, format!("{text:?} in the log"), async || {
        let log = daemon.log_tail(50);
        if log.contains(text) { Ok(()) } else { Err(log) }
    });
    said.await.unwrap();
}

#[tokio::test]
async fn it_gets_its_environment_and_not_the_test_s() {
    let daemon = shell("echo $GREETING; echo cargo=$CARGO_MANIFEST_DIR; pwd; env >&2");
    assert!(daemon.wait_exit(SOON).await.unwrap().success());
    let log = daemon.log_tail(50);
    assert!(log.contains("hello\ncargo=\n"), "{log}");
    assert!(log.contains(daemon.directory().to_str().unwrap()), "{log}");
    assert!(log.contains("PATH="), "{log}");
    let error = daemon.check_running().unwrap_err().to_string();
    assert!(error.contains("shell (process ") && error.contains("has ended (exit status: 0)"), "{error}");
}

#[tokio::test]
async fn terminate_asks_and_kill_does_not() {
    let daemon = shell("trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.01; done");
    logged(&daemon, "up").await;
    daemon.check_running().unwrap();
    daemon.terminate().unwrap();
    assert_eq!(daemon.wait_exit(SOON).await.unwrap().code(), Some(3));
    logged(&daemon, "bye").await;
    assert!(daemon.terminate().is_err(), "the process id is free for others now");

    let daemon = Daemon::spawn("sleeper", "/bin/sleep", ["60"], NO_ENV).unwrap();
    assert_eq!(daemon.kill().unwrap().signal(), Some(9));
    assert_eq!(daemon.kill().unwrap().signal(), Some(9));
}

#[tokio::test]
async fn paused_it_uses_no_cpu_and_running_it_does() {
    let daemon = shell("while :; do :; done");
    let burnt = async |least: f64| {
        eventually(SOON, "CPU time", async || match daemon.cpu_seconds().unwrap() {
            used if used >= least => Ok(used),
            used => Err(format!("{used} s")),
        })
        .await
        .unwrap()
    };
    burnt(0.05).await;
    assert!(daemon.rss_bytes().unwrap() > 100_000);
    daemon.pause().unwrap();
    // The signal takes effect at the next tick.
    tokio::time::sleep(Duration::from_millis(30)).await;
    let before = daemon.cpu_seconds().unwrap();
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert!(daemon.cpu_seconds().unwrap() - before < 0.011);
    daemon.resume().unwrap();
    burnt(before + 0.05).await;
    daemon.kill().unwrap();
    assert!(daemon.rss_bytes().is_err());
}

#[tokio::test]
async fn drop_kills_it() {
    let daemon = Daemon::spawn("sleeper", "/bin/sleep", ["60"], NO_ENV).unwrap();
    let (proc, directory) = (format!("/proc/{}", daemon.pid()), daemon.directory().to_owned());
    assert!(Path::new(&proc).exists());
    drop(daemon);
    assert!(!Path::new(&proc).exists() && !directory.exists());
}

/// Not a test: what the next one runs as a process of its own.
#[tokio::test]
#[ignore = "helper of the next test"]
async fn helper_that_starts_a_child_and_is_killed() {
    let daemon = Daemon::spawn("grandchild", "/bin/sleep", ["60"], NO_ENV).unwrap();
    // Whoever is killed while its child still becomes what it is to be, leaves it behind.
    let name = format!("/proc/{}/comm", daemon.pid());
    while std::fs::read_to_string(&name).unwrap().trim() != "sleep" {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!("grandchild={}.", daemon.pid());
    tokio::time::sleep(Duration::from_secs(60)).await;
}

#[tokio::test]
async fn a_killed_test_takes_its_children_along() {
    let args = ["--exact", "process::helper_that_starts_a_child_and_is_killed", "--ignored", "--nocapture"];
    // What the killed one cannot tidy up goes with this directory.
    let scratch = tempfile::tempdir().unwrap();
    let envs = [("TMPDIR", scratch.path())];
    let test = Daemon::spawn("test", std::env::current_exe().unwrap(), args, envs).unwrap();
    logged(&test, "grandchild=").await;
    let log = test.log_tail(50);
    let pid = log.split_once("grandchild=").unwrap().1.split_once('.').unwrap().0.to_owned();
    test.kill().unwrap();
    let gone = eventually(SOON, "the grandchild to die", async || {
        // It may stay as a zombie where nobody reaps orphans.
        match std::fs::read_to_string(format!("/proc/{pid}/status")) {
            Ok(status) if !status.contains("State:\tZ") => Err(status),
            _ => Ok(()),
        }
    });
    gone.await.unwrap();
}
