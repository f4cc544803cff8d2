//! 329 GitHub webhooks to five subscriptions: each gets exactly what it should, signed, byte for byte.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use postroad_e2e::balance::Expected;
use postroad_e2e::signature::verify;
use postroad_e2e::{Subscriber, Town};
use postroad_testkit::payloads::{GithubPayload, github};
use postroad_testkit::receiver::Keep;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_subscription_gets_exactly_what_it_should() -> Result<()> {
    let town = Town::builder().daemons(2, 2, 2).keep(Keep::Everything).start().await?;
    let outcome = scenario(&town).await;
    town.explain(outcome).await
}

/// Whether a webhook is what a subscription asks for, in plain code.
type Rule = fn(&GithubPayload, &Value) -> bool;
/// What a subscription asks for, and the same in plain code.
type Wish = (&'static str, Value, Rule);

fn wishes() -> Vec<Wish> {
    vec![
        ("exact", json!({ "channel": "github.pull_request" }), |hook, _| hook.event == "pull_request"),
        ("glob", json!({ "channel_pattern": "github.*iss[u]e*" }), |hook, _| hook.event.contains("issue")),
        ("topic", json!({ "channel_pattern": "github.*", "routing_key": "#.created" }), |hook, _| {
            hook.action.as_deref() == Some("created")
        }),
        (
            "filter",
            json!({
                "channel_pattern": "*",
                "filter_criteria": {
                    "action": [{ "anything-but": ["deleted"] }],
                    "repository": { "private": [false], "owner": { "login": [{ "prefix": "Codertocat" }] } },
                },
            }),
            |_, payload| {
                let repository = &payload["repository"];
                payload["action"].as_str().is_some_and(|action| action != "deleted")
                    && repository["private"] == json!(false)
                    && repository["owner"]["login"]
                        .as_str()
                        .is_some_and(|login| login.starts_with("Codertocat"))
            },
        ),
        ("everything", json!({ "channel_pattern": "*" }), |_, _| true),
    ]
}

/// The parts of a delivery that are compared.
#[derive(Deserialize)]
struct Delivered {
    message_id: String,
    subscription_id: String,
    channel: String,
    routing_key: String,
    payload: Box<RawValue>,
    delivery_attempt: u32,
}

async fn scenario(town: &Town) -> Result<()> {
    let mut subscribers: Vec<(Subscriber, Rule)> = Vec::new();
    for (name, request, rule) in wishes() {
        subscribers.push((town.subscribe(name, request).await?, rule));
    }

    // Half one by one, half in bulk, and the payload's text untouched in both.
    let hooks = github();
    let texts: Vec<String> = hooks.iter().enumerate().map(|(n, hook)| request(n, hook)).collect();
    let ingest = town.api(postroad_e2e::Kind::Ingest, 0)?;
    let (single, bulk) = texts.split_at(texts.len() / 2);
    for text in single {
        ingest.post("/v1/messages", text.clone()).await?.expect(202)?;
    }
    let other = town.api(postroad_e2e::Kind::Ingest, 1)?;
    for part in bulk.chunks(50) {
        let body = format!("{{\"messages\":[{}]}}", part.join(","));
        other.post("/v1/messages/bulk", body).await?.expect(202)?;
    }
    town.quiet(Duration::from_secs(60)).await?;

    let payloads: Vec<Value> =
        hooks.iter().map(|hook| serde_json::from_str(hook.payload.get())).collect::<Result<_, _>>()?;
    let expected: Vec<Expected> = subscribers
        .iter()
        .map(|(subscriber, rule)| Expected {
            subscriber: subscriber.clone(),
            messages: (0..hooks.len())
                .filter(|n| rule(&hooks[*n], &payloads[*n]))
                .map(|n| format!("gh-{n}"))
                .collect(),
        })
        .collect();
    let balance = town.conserved(&expected).await?;
    ensure!(balance.duplicates == 0 && balance.dead == 0, "{balance}");
    let counts: BTreeMap<&str, usize> =
        expected.iter().map(|e| (e.subscriber.name.as_str(), e.messages.len())).collect();
    ensure!(counts.values().all(|count| *count > 10), "a rule that asserts nothing: {counts:?}");
    let sets: BTreeSet<&BTreeSet<String>> = expected.iter().map(|e| &e.messages).collect();
    ensure!(sets.len() == expected.len(), "two rules that are the same: {counts:?}");

    let mut verified = 0;
    for Expected { subscriber, .. } in &expected {
        for request in town.receiver.received(&subscriber.path) {
            verify(&subscriber.secret, &request)?;
            let delivered: Delivered = serde_json::from_slice(&request.body)?;
            let number: usize = delivered.message_id.strip_prefix("gh-").context("the id")?.parse()?;
            let hook = &hooks[number];
            ensure!(delivered.payload.get() == hook.payload.get(), "the payload of {request} differs");
            ensure!(
                delivered.channel == hook.channel() && delivered.routing_key == hook.routing_key(),
                "the names of {request} differ"
            );
            ensure!(
                delivered.subscription_id == subscriber.id && delivered.delivery_attempt == 1,
                "{request}"
            );
            ensure!(request.header("webhook-id") == Some(&delivered.message_id), "{request}");
            verified += 1;
        }
    }
    // The verifier can say no.
    let request = &town.receiver.received(&subscribers[0].0.path)[0];
    ensure!(verify(&subscribers[1].0.secret, request).is_err(), "a foreign secret verifies");
    let errors = town.errors_logged()?;
    ensure!(errors.is_empty(), "errors were logged: {errors:?}");
    println!("github: {balance}; {verified} signatures and bodies verified; {counts:?}");
    Ok(())
}

fn request(number: usize, hook: &GithubPayload) -> String {
    format!(
        r#"{{"channel":"{}","routing_key":"{}","metadata":{{"message_id":"gh-{number}"}},"payload":{}}}"#,
        hook.channel(),
        hook.routing_key(),
        hook.payload.get()
    )
}
