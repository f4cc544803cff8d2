//! `postroad listen`, `publish` and `subscriptions`, over `postroad dev`.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use crate::common::{PATIENCE, Running, dev, postroad, run, stderr, stdout};
use postroad_cli::api::Api;
use postroad_model::signature::SecretKey;
use rustix::process::Signal;
use serde_json::{Value, json};

/// Waits until a file has so many lines of JSON.
async fn lines(file: &Path, count: usize) -> Vec<Value> {
    let end = Instant::now() + PATIENCE;
    loop {
        let text = fs::read_to_string(file).unwrap_or_default();
        if text.lines().count() >= count {
            return text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        }
        assert!(Instant::now() < end, "only {text:?} arrived");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_listener_subscribes_verifies_and_leaves() {
    let scratch = tempfile::tempdir().unwrap();
    let (_dev, api) = dev(&scratch.path().join("data"), |_| ()).await;
    let out = scratch.path().join("out.ndjson");
    let mut command = postroad(&["listen", "--listen", "127.0.0.1:0", "--api", &api, "--json"]);
    command.args(["--channel-pattern", "a.*", "--routing-key", "k.#", "--filter", r#"{"n":[1,2]}"#]);
    let mut listener = Running::start({
        command.arg("--out").arg(&out);
        command
    });
    let listed = async || stdout(&run(&["subscriptions", "--api", &api, "--json"]).await);
    let end = Instant::now() + PATIENCE;
    while listed().await.is_empty() {
        assert!(Instant::now() < end, "it does not subscribe");
    }
    let table = stdout(&run(&["subscriptions", "--api", &api]).await);
    assert!(table.contains("pattern=a.* key=k.# filter={\"n\":[1,2]}"), "{table}");

    let file = scratch.path().join("in.ndjson");
    let text = r#"{"channel":"a.b","payload":{"n": 1}}
        {"channel":"a.b","payload":{"n":3}}

        {"channel":"b","payload":{"n":1}}
        {"channel":"a.c","routing_key":"other","payload":{"n":1}}
        {"channel":"a.c","payload":{"n":2},"metadata":{"message_id":"msg_last"}}"#;
    fs::write(&file, text).unwrap();
    let ndjson = [
        "publish",
        "--api",
        &api,
        "--ndjson",
        file.to_str().unwrap(),
        "--routing-key",
        "k.x",
        "--service",
        "s",
    ];
    let published = run(&ndjson).await;
    assert_eq!(stdout(&published), "5 published, 0 refused\n", "{}", stderr(&published));

    let arrived = lines(&out, 2).await;
    let mut bodies: Vec<String> = arrived.iter().map(|line| line["body"]["payload"].to_string()).collect();
    bodies.sort();
    assert_eq!(bodies, [r#"{"n":1}"#, r#"{"n":2}"#]);
    assert!(
        arrived.iter().all(|line| line["verified"] == true && line["routing_key"] == "k.x"),
        "{arrived:?}"
    );
    let printed = listener.line_with("msg_last").await;
    assert_eq!(serde_json::from_str::<Value>(&printed).unwrap()["channel"], "a.c");

    listener.signal(Signal::INT);
    assert_eq!(listener.exit_code().await, Some(0));
    assert_eq!(listed().await, "", "the subscription went with it");
}

#[tokio::test]
async fn what_is_not_genuine_is_answered_401_and_told() {
    let scratch = tempfile::tempdir().unwrap();
    let (_dev, api) = dev(&scratch.path().join("data"), |_| ()).await;
    let secret = SecretKey::from_bytes(&[7; 32]).unwrap().to_text();
    let out = scratch.path().join("out.ndjson");
    let mut command = postroad(&["listen", "--listen", "127.0.0.1:0", "--secret", &secret, "--quiet"]);
    command.arg("--out").arg(&out);
    let mut listener = Running::start_telling(command);
    let told = listener.line_with("listening at ").await;
    let url = told.split_whitespace().find(|word| word.starts_with("http")).unwrap();
    let url = format!("{}hook", url.trim_end_matches(';'));
    let subscribe = ["subscribe", "--api", &api, "--service", "s", "--callback-url", &url, "--channel", "c"];
    let subscribed = run(&[&subscribe[..], &["--retry-delay", "0.1"]].concat()).await;
    assert!(stdout(&subscribed).lines().nth(1).unwrap().starts_with("whsec_"), "{}", stderr(&subscribed));
    let published = run(&["publish", "--api", &api, "--channel", "c", "--payload", "hello"]).await;
    let id = stdout(&published).trim().to_owned();
    for (line, attempt) in lines(&out, 2).await.iter().zip(1..) {
        let told = ["message_id", "path", "reason"].map(|name| line[name].as_str().unwrap());
        assert_eq!(told, [id.as_str(), "/hook", "no webhook-signature matches"]);
        assert_eq!(
            (&line["verified"], &line["status"], &line["attempt"]),
            (&json!(false), &json!(401), &json!(attempt))
        );
        assert_eq!(line["body"]["payload"], "hello");
    }
    listener.signal(Signal::TERM);
    assert_eq!(listener.exit_code().await, Some(0));
}

#[tokio::test]
async fn what_a_bad_receiver_refuses_becomes_a_dead_letter() {
    let scratch = tempfile::tempdir().unwrap();
    let (mut dev, api) = dev(&scratch.path().join("data"), |_| ()).await;
    let told = dev.line_with("  dead letters  ").await;
    let dead_letters = told.split_whitespace().last().unwrap().strip_suffix("/v1/dlq").unwrap();
    let dead_letters = Api::new(dead_letters).unwrap();
    let mut command = postroad(&["listen", "--listen", "127.0.0.1:0", "--api", &api, "--channel", "c"]);
    command.args(["--status", "503", "--max-retries", "1", "--retry-delay", "0"]);
    let mut listener = Running::start(command);
    while stdout(&run(&["subscriptions", "--api", &api]).await).is_empty() {}
    let published = run(&["publish", "--api", &api, "--channel", "c", "--payload", "hello"]).await;
    let id = stdout(&published).trim().to_owned();
    for attempt in ["attempt 1/2", "attempt 2/2"] {
        let line = listener.line_with(&id).await;
        assert!(line.contains(attempt) && line.contains("answered 503"), "{line}");
    }
    let end = Instant::now() + PATIENCE;
    loop {
        let overview = dead_letters.get("v1/dlq").await.unwrap();
        if overview["total"] == 1 {
            break;
        }
        assert!(Instant::now() < end, "{overview}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn an_api_that_is_not_there_names_the_way_out() {
    let output = run(&["publish", "--api", "http://127.0.0.1:1", "--channel", "c", "--payload", "x"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("postroad dev"), "{}", stderr(&output));
    let output = run(&["listen", "--listen", "127.0.0.1:0", "--routing-key", "x"]).await;
    assert!(stderr(&output).contains("--channel"), "{}", stderr(&output));
}
