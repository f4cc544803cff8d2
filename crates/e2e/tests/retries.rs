//! Failures as a subscriber meets them: the schedule, `Retry-After`, 410, exhaustion; and subscribers that
//! answer as nobody should.
//!
//! That a second 410 a minute after the first disables a subscription is shown with `E2E_FULL=1` only.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::Method;
use postroad_e2e::balance::Expected;
use postroad_e2e::load::Post;
use postroad_e2e::{Kind, Subscriber, Town, all_to_all, full};
use postroad_testkit::receiver::{Answer, Behaviour};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_failure_is_met_as_promised() -> Result<()> {
    let town = Town::builder().start().await?;
    let outcome = async {
        // They wait more than they work, so they wait together; the checks of the whole come after.
        let (a, b, c, d) = tokio::join!(schedule(&town), seconds(&town), date(&town), gone(&town));
        let expected: Vec<Expected> = [a?, b?, c?, d?].concat();
        town.conserved(&expected).await
    };
    let outcome = outcome.await;
    println!("retries: {}", town.explain(outcome).await?);
    Ok(())
}

async fn deliveries(town: &Town, message: &str) -> Result<Value> {
    let path = format!("/v1/messages/{message}/deliveries");
    town.api(Kind::Ingest, 0)?.get(&path).await?.expect(200)
}

/// The times between the requests that a path got.
fn gaps(town: &Town, subscriber: &Subscriber) -> Vec<f64> {
    let times: Vec<Instant> = town.receiver.received(&subscriber.path).iter().map(|r| r.at).collect();
    times.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect()
}

fn one(subscriber: &Subscriber, messages: &[&str]) -> Vec<Expected> {
    let messages: BTreeSet<String> = messages.iter().map(|id| (*id).to_owned()).collect();
    all_to_all(std::slice::from_ref(subscriber), &messages)
}

/// 0.3 s, 0.6 s, 1.2 s, each with at most a tenth on top, then dead with every attempt on record.
async fn schedule(town: &Town) -> Result<Vec<Expected>> {
    let policy = json!({ "max_retries": 3, "retry_delay": 0.3, "backoff_multiplier": 2 });
    let request = json!({ "channel": "schedule", "retry_policy": policy });
    let answer = Answer::status(500).body("no, never");
    let subscriber = town.subscribe_answering("schedule", request, answer).await?;
    town.publish(&Post::new("schedule-1", "schedule")).await?;
    town.receiver.wait_for(&subscriber.path, 4, Duration::from_secs(10)).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let gaps = gaps(town, &subscriber);
    ensure!(gaps.len() == 3, "{gaps:.2?}: an attempt too many or too few");
    for (gap, delay) in gaps.iter().zip([0.3, 0.6, 1.2]) {
        // Redis counts whole milliseconds.
        ensure!(*gap >= delay - 0.002, "{gap:.3} s is before {delay} s");
        ensure!(*gap <= delay * 1.1 + 0.5, "{gap:.3} s is long after {delay} s");
    }
    let census = town.census().await?;
    let dead = census.dead.iter().find(|dead| dead.message == "schedule-1").context("no dead letter")?;
    ensure!(dead.reason == "retries_exhausted" && dead.attempts.len() == 4, "{dead:?}");
    let shown = deliveries(town, "schedule-1").await?;
    let delivery = &shown["deliveries"][0];
    ensure!(delivery["state"] == "dead" && delivery["dead_reason"] == "retries_exhausted", "{shown}");
    let attempts = delivery["attempts"].as_array().context("attempts")?;
    ensure!(attempts.len() == 4, "{shown}");
    for (number, attempt) in attempts.iter().enumerate() {
        ensure!(
            attempt["attempt"] == number + 1
                && attempt["status_code"] == 500
                && attempt["response"] == "no, never",
            "{shown}"
        );
    }
    println!("schedule of 0.3 s × 2: {gaps:.3?} s");
    Ok(one(&subscriber, &["schedule-1"]))
}

/// `Retry-After: 2` on a 500 delays that delivery, and no other.
async fn seconds(town: &Town) -> Result<Vec<Expected>> {
    let request = json!({ "channel": "seconds", "retry_policy": { "max_retries": 3, "retry_delay": 0.1 } });
    let behaviour = Behaviour::first(1, Answer::status(500).header("retry-after", "2")).then(Answer::ok());
    let subscriber = town.subscribe_answering("seconds", request, behaviour).await?;
    town.publish(&Post::new("seconds-1", "seconds")).await?;
    town.receiver.wait_for(&subscriber.path, 1, Duration::from_secs(5)).await?;
    town.publish(&Post::new("seconds-2", "seconds")).await?;
    let got = town.receiver.wait_for(&subscriber.path, 3, Duration::from_secs(10)).await?;
    let ids: Vec<_> = got.iter().filter_map(|request| request.header("webhook-id")).collect();
    ensure!(ids == ["seconds-1", "seconds-2", "seconds-1"], "{ids:?}");
    let waited = (got[2].at - got[0].at).as_secs_f64();
    ensure!((1.998..8.0).contains(&waited), "waited {waited:.2} s for Retry-After: 2");
    Ok(one(&subscriber, &["seconds-1", "seconds-2"]))
}

/// `Retry-After` as a date, on a 503: the whole subscription waits.
async fn date(town: &Town) -> Result<Vec<Expected>> {
    let until = SystemTime::now() + Duration::from_secs(4);
    let date = httpdate::fmt_http_date(until);
    let until = httpdate::parse_http_date(&date)?;
    let request = json!({ "channel": "date", "retry_policy": { "max_retries": 3, "retry_delay": 0.1 } });
    let behaviour = Behaviour::first(1, Answer::status(503).header("retry-after", &date)).then(Answer::ok());
    let subscriber = town.subscribe_answering("date", request, behaviour).await?;
    town.publish(&Post::new("date-1", "date")).await?;
    let first = town.receiver.wait_for(&subscriber.path, 1, Duration::from_secs(2)).await?;
    // The answer has to be judged and settled before the hold is in force.
    let deadline = Instant::now() + Duration::from_secs(2);
    while deliveries(town, "date-1").await?["deliveries"][0]["state"] != "retry_scheduled" {
        ensure!(Instant::now() < deadline, "the refusal of {} is not settled", first[0]);
    }
    town.publish(&Post::new("date-2", "date")).await?;
    let got = town.receiver.wait_for(&subscriber.path, 3, Duration::from_secs(10)).await?;
    let now = SystemTime::now();
    for request in &got[1..] {
        let at = now - request.at.elapsed();
        ensure!(
            at + Duration::from_millis(2) >= until && at < until + Duration::from_secs(6),
            "{request} came {:?} after, {:?} before the date",
            at.duration_since(until).unwrap_or_default(),
            until.duration_since(at).unwrap_or_default()
        );
    }
    Ok(one(&subscriber, &["date-1", "date-2"]))
}

/// 410 holds the subscription and counts no attempt; a second one after a minute disables it.
async fn gone(town: &Town) -> Result<Vec<Expected>> {
    let events = town.subscribe("events", json!({ "channel": "postroad.events" })).await?;
    let request = json!({ "channel": "gone", "retry_policy": { "max_retries": 3, "retry_delay": 0.1 } });
    let subscriber = town.subscribe_answering("gone", request, Answer::status(410)).await?;
    town.publish(&Post::new("gone-1", "gone")).await?;
    town.receiver.wait_for(&subscriber.path, 1, Duration::from_secs(5)).await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    town.publish(&Post::new("gone-2", "gone")).await?;
    tokio::time::sleep(Duration::from_secs(4)).await;
    ensure!(town.receiver.count(&subscriber.path) == 1, "{}", town.receiver.describe(&subscriber.path));
    for message in ["gone-1", "gone-2"] {
        let shown = deliveries(town, message).await?;
        ensure!(shown["deliveries"][0]["state"] == "queued", "{shown}");
    }
    let mut expected = one(&subscriber, &["gone-1", "gone-2"]);
    if !full() {
        return Ok(expected);
    }
    let event = town.receiver.wait_for(&events.path, 1, Duration::from_secs(90)).await?;
    ensure!(town.receiver.count(&subscriber.path) == 2, "{}", town.receiver.describe(&subscriber.path));
    let api = town.api(Kind::Ingest, 0)?;
    let path = format!("/v1/subscriptions/{}", subscriber.id);
    let shown = api.get(&path).await?.expect(200)?;
    ensure!(shown["status"] == "disabled" && shown["status_reason"].is_string(), "{shown}");
    ensure!(shown["queued"] == 2, "{shown}");
    // Its owner mends it and resumes it: what was parked arrives.
    town.receiver.on(&subscriber.path, Answer::ok());
    api.call(Method::POST, &format!("{path}/resume"), &[], Bytes::new()).await?.expect(200)?;
    town.receiver.wait_for(&subscriber.path, 4, Duration::from_secs(10)).await?;
    let id = event[0].header("webhook-id").context("no webhook-id")?.to_owned();
    expected.extend(all_to_all(&[events], &[id].into()));
    Ok(expected)
}

/// One way to misbehave: what is answered, and whether the delivery counts as made.
fn manners() -> Vec<(&'static str, Answer, bool)> {
    vec![
        // Its status came, and enough of its body was read.
        ("endless", Answer::ok().endless_body(), true),
        ("endless-500", Answer::status(500).endless_body(), false),
        ("slow-body", Answer::ok().slow_body(1), false),
        ("slow-head", Answer::ok().slow_head(1), false),
        ("headers", Answer::ok().huge_headers(10 << 20), false),
        ("reset", Answer::ok().reset_after_headers(), false),
        ("close", Answer::close_without_answer(), false),
        ("hang", Answer::hang(), false),
        ("nonsense", Answer::raw("this is no HTTP\r\n\r\n"), false),
        ("bad-chunk", Answer::raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"), false),
        ("empty", Answer::raw(""), false),
        ("redirect", Answer::status(302).header("location", "http://127.0.0.1:1/"), false),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_subscribers_harm_nobody() -> Result<()> {
    let town = Town::builder().start().await?;
    let outcome = hostile(&town).await;
    town.explain(outcome).await
}

async fn hostile(town: &Arc<Town>) -> Result<()> {
    const TIMEOUT_MS: u64 = 1_000;
    let policy = json!({ "max_retries": 1, "retry_delay": 0.1 });
    let mut rogues = Vec::new();
    for (name, answer, made) in manners() {
        let request = json!({ "channel": "hostile", "retry_policy": policy });
        rogues.push((town.subscribe_answering(name, request, answer).await?, made));
    }
    let healthy = town.subscribe("healthy", json!({ "channel_pattern": "*" })).await?;
    let before = town.daemon(Kind::Worker, 0)?.rss_bytes()?;
    let hostile: Vec<Post> = (0..5).map(|n| Post::new(format!("hostile-{n}"), "hostile")).collect();
    town.publish_bulk(&hostile).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let until = Arc::clone(&stop);
    let make = |n| Post::new(format!("healthy-{n}"), "healthy");
    let load = town.load(2, Duration::from_millis(10), make, move |_| until.load(Ordering::Relaxed));
    tokio::time::sleep(Duration::from_secs(3)).await;
    stop.store(true, Ordering::Relaxed);
    let mut accepted = load.done().await?;
    let published = Instant::now();
    let own = accepted.len() + hostile.len();
    town.receiver.wait_for(&healthy.path, own, Duration::from_secs(20)).await?;
    let tail = published.elapsed();
    town.quiet(Duration::from_secs(20)).await?;

    let hostile: BTreeSet<String> = hostile.into_iter().map(|post| post.id).collect();
    accepted.extend(hostile.iter().cloned());
    let mut expected = all_to_all(std::slice::from_ref(&healthy), &accepted);
    let subscribers: Vec<Subscriber> = rogues.iter().map(|(subscriber, _)| subscriber.clone()).collect();
    expected.extend(all_to_all(&subscribers, &hostile));
    // The receiver knows no answer of a rogue, so what it made of them is asked of the traces.
    let census = town.census().await?;
    let mut longest = 0;
    for (subscriber, made) in &rogues {
        for message in &hostile {
            let traced = census.traces.get(&(message.clone(), subscriber.id.clone())).context("no trace")?;
            let places: Vec<&str> = traced.attempts.iter().map(|(place, _)| place.as_str()).collect();
            let wanted: &[&str] = if *made { &["s"] } else { &["l", "d=retries_exhausted"] };
            ensure!(places == wanted, "{} of {message}: {places:?}", subscriber.name);
            for (_, attempt) in &traced.attempts {
                let took = attempt["ms"].as_u64().context("an attempt's duration")?;
                ensure!(took <= TIMEOUT_MS + 300, "{}: an attempt took {took} ms", subscriber.name);
                longest = longest.max(took);
            }
        }
    }
    let after = town.daemon(Kind::Worker, 0)?.rss_bytes()?;
    ensure!(after < before + (64 << 20), "the worker grew from {before} to {after} bytes");
    // Of what counts as made the receiver cannot know: it is left out of the balance.
    let unseen: BTreeSet<&str> =
        rogues.iter().filter(|(_, made)| *made).map(|(subscriber, _)| subscriber.id.as_str()).collect();
    expected.retain(|expected| !unseen.contains(expected.subscriber.id.as_str()));
    let balance = town.conserved(&expected).await?;
    ensure!(balance.duplicates == 0 && balance.queued == 0, "{balance}");
    println!(
        "{} hostile subscribers: the longest attempt took {longest} ms, the healthy one had all of {own} \
         {tail:.0?} after the last publish, the worker grew by {} KiB; {balance}",
        rogues.len(),
        after.saturating_sub(before) >> 10
    );
    Ok(())
}
