//! `postroad demo`, as it is shown to people.

use std::fs;

use crate::common::{PATIENCE, Running, postroad, run, stderr, stdout};
use rustix::process::Signal;
use serde_json::Value;
use tokio::time::timeout;

#[tokio::test]
async fn the_demo_delivers_everything_and_ends_by_itself() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("demo");
    // The second time, it meets what the first has left in the folder.
    for _ in 0..2 {
        let output = run(&["demo", "--data-dir", folder.to_str().unwrap()]).await;
        let said = stdout(&output);
        assert_eq!(output.status.code(), Some(0), "{said}{}", stderr(&output));
        assert!(said.contains("All is well"), "{said}");
        let total = said.lines().find(|line| line.starts_with("all ")).unwrap();
        let counts: Vec<&str> = total.split_whitespace().skip(1).take(4).collect();
        assert_eq!(counts, ["499"; 4], "{said}");
        let arrived = fs::read_to_string(folder.join("arrived.ndjson")).unwrap();
        let lines: Vec<Value> = arrived.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(lines.len() >= 499 && lines.iter().all(|line| line["verified"] == true));
        assert!(!folder.join("redis.running").exists(), "Redis is stopped with it");
    }
}

#[tokio::test]
async fn the_demo_stays_when_asked() {
    let scratch = tempfile::tempdir().unwrap();
    let mut demo = Running::start(postroad(&[
        "demo",
        "--stay",
        "--data-dir",
        scratch.path().join("demo").to_str().unwrap(),
    ]));
    let line = demo.line_with("postroad publish --api").await;
    let api = line.split_whitespace().skip_while(|word| *word != "--api").nth(1).unwrap().to_owned();
    let publish = ["publish", "--api", &api, "--channel", "github.push", "--payload", r#"{"hello":1}"#];
    let published = run(&publish).await;
    let id = stdout(&published).trim().to_owned();
    let shown = timeout(PATIENCE, demo.line_with(&id)).await.unwrap();
    assert!(shown.contains("github.push") && shown.contains("verified"), "{shown}");
    demo.signal(Signal::INT);
    assert_eq!(demo.exit_code().await, Some(0));
}
