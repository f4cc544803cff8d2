//! Jobs that replay history: to whom, how much, how fast, and that nothing that happens to their runner matters.

mod kit;

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use axum::http::{Method, StatusCode};
use kit::*;
use postroad_daemon::stop::Stop;
use postroad_model::{
    id::{MessageId, SubscriptionId},
    message::Message,
    names::{ChannelName, Tenant},
    subscription::{Channels, Subscription},
    time::Time,
};
use postroad_reprocessor::job::{run::Ended, tend::tend_forever};
use postroad_store::{
    Acceptance, Claim, Claimed, HistoryNote, HistoryReplay, IdKey, Job, JobState, Routed, Source, StreamId,
    entry::Entry,
};
use postroad_testkit::wait::eventually;

const DONE: Ended = Ended::Finished(JobState::Done);
const FAILED: Ended = Ended::Finished(JobState::Failed);
const PATIENCE: Duration = Duration::from_secs(20);

/// Accepts messages, as they are after a change.
async fn accept(road: &Road, ids: &[String], change: impl Fn(&mut Message)) {
    let accept = |id: &String| {
        let mut message = message(id, &Dies::default());
        change(&mut message);
        Acceptance {
            payload_bytes: 0,
            id: IdKey::new(&message.tenant, &message.id, None),
            remember: true,
            check: true,
            channel: format!("{}/{}", message.tenant, message.channel),
            entry: Entry::encode(&message, 1_000),
            due: None,
        }
    };
    for some in ids.chunks(500) {
        let flight = [(0, some.iter().map(accept).collect())];
        road.store.accept(&flight, TRACE).await.unwrap().remove(0).unwrap();
    }
}

/// What lies in ingress of one kind: what was published, or what was replayed.
async fn lies(road: &Road, is_replay: bool) -> Vec<(StreamId, Message)> {
    let all = road.store.history(0, StreamId::ZERO, StreamId::LAST, 100_000).await.unwrap();
    let of_kind = all.into_iter().filter(|entry| entry.first.is_some() == is_replay);
    of_kind.map(|entry| (entry.first.unwrap_or(entry.id), entry.entry.decode().unwrap())).collect()
}

async fn replayed(road: &Road) -> Vec<(String, Vec<SubscriptionId>)> {
    let row = |(_, message): (StreamId, Message)| (message.id.to_string(), message.targets.to_vec());
    lies(road, true).await.into_iter().map(row).collect()
}

async fn make(road: &Road, id: &str, tenant: &Tenant, replay: HistoryReplay) -> String {
    assert_eq!(road.store.make_history_job(id, tenant, &replay, 99).await.unwrap(), None);
    id.to_owned()
}

/// A job for everything of today that a subscription matches.
async fn all_of_today(
    road: &Road,
    id: &str,
    sub: &Subscription,
    rate: Option<f64>,
    limit: Option<u64>,
) -> String {
    let (from, to) = (Time::from_millis(0), Time::from_millis(u64::MAX / 2));
    let source = Source::Range { subscription: sub.id.clone(), from, to };
    make(road, id, &Tenant::single(), HistoryReplay::new(source, rate, limit)).await
}

/// A job for one message.
async fn one_message(road: &Road, job: &str, id: &str, to: Option<&[&Subscription]>) -> String {
    let at = lies(road, false).await.into_iter().find(|(_, message)| message.id.as_str() == id).unwrap().0;
    let subscriptions = to.map(|to| to.iter().map(|sub| sub.id.clone()).collect());
    let id = MessageId::new(id).unwrap();
    let source = Source::Message { id, partition: 0, at, subscriptions };
    make(road, job, &Tenant::single(), HistoryReplay::new(source, None, None)).await
}

async fn run(road: &Road, job: &str) -> Ended {
    road.runner("r-1", &Stop::new()).run(job, &|_| {}).await.unwrap()
}

async fn record(road: &Road, job: &str) -> (Job, HistoryNote) {
    let job = road.store.job(job).await.unwrap().unwrap();
    let is_new = job.note.is_empty();
    let note = if is_new { HistoryNote::default() } else { serde_json::from_str(&job.note).unwrap() };
    (job, note)
}

#[tokio::test]
async fn a_message_goes_to_all_that_match_it_now_or_to_those_that_are_named() {
    let road = Road::new().await;
    let matching = road.subscribe(|_| {}).await;
    let elsewhere = Channels::Channel(ChannelName::new("elsewhere").unwrap());
    let other = road.subscribe(|sub| sub.selector.channels = elsewhere).await;
    let foreign = road.subscribe(|sub| sub.tenant = Tenant::new("other").unwrap()).await;
    let gone = road.subscribe(|_| {}).await;
    accept(&road, &ids("m", 3), |_| {}).await;
    road.cancel(&gone).await;
    let since = road.subscribe(|_| {}).await;

    let job = one_message(&road, "job_1", "m-1", None).await;
    assert_eq!(run(&road, &job).await, DONE);
    let mut expected = vec![matching.id.clone(), since.id.clone()];
    expected.sort();
    assert_eq!(replayed(&road).await, [("m-1".to_owned(), expected)]);
    let (done, note) = record(&road, &job).await;
    assert_eq!((done.moved, note.scanned, note.skipped), (Some(2), 1, 0));

    let job = one_message(&road, "job_2", "m-1", Some(&[&other, &foreign, &gone])).await;
    assert_eq!(run(&road, &job).await, DONE);
    assert_eq!(replayed(&road).await[1..], [("m-1".to_owned(), vec![other.id.clone()])]);
    let (done, note) = record(&road, &job).await;
    assert_eq!((done.moved, note.skipped), (Some(1), 2));
    let generations: Vec<u32> =
        lies(&road, true).await.into_iter().map(|(_, message)| message.generation).collect();
    assert_eq!(generations, [1, 2]);
}

/// More subscriptions than one entry names: all get it once, under one number.
#[tokio::test]
async fn a_message_for_very_many_goes_in_several_entries() {
    let road = Road::new().await;
    for _ in 0..1_100 {
        road.subscribe(|_| {}).await;
    }
    accept(&road, &ids("m", 1), |_| {}).await;
    let job = one_message(&road, "job_1", "m-0", None).await;
    assert_eq!(run(&road, &job).await, DONE);
    let entries = lies(&road, true).await;
    assert_eq!(entries.iter().map(|(_, message)| message.targets.len()).collect::<Vec<_>>(), [500, 500, 100]);
    assert!(entries.iter().all(|(_, message)| message.generation == 1));
    let mut targets: Vec<SubscriptionId> =
        entries.iter().flat_map(|(_, message)| message.targets.to_vec()).collect();
    targets.sort();
    targets.dedup();
    assert_eq!((targets.len(), record(&road, &job).await.0.moved), (1_100, Some(1_100)));
}

#[tokio::test]
async fn a_message_that_history_has_let_go_fails_its_job_and_says_so() {
    let road = Road::new().await;
    accept(&road, &ids("m", 1), |_| {}).await;
    let job = one_message(&road, "job_1", "m-0", None).await;
    let at = lies(&road, false).await[0].0;
    let key = road.keys.key(postroad_store::keys::Tag::Partition(0), "ingress");
    road.redis(&["XDEL", &key, &at.to_string()]).await;
    assert_eq!(run(&road, &job).await, FAILED);
    let (_, note) = record(&road, &job).await;
    assert!(note.error.unwrap().contains("history has let the message go"));
}

#[tokio::test]
async fn of_a_time_a_subscription_gets_what_it_matches_in_order_and_no_replays() {
    let road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    let elsewhere = ChannelName::new("elsewhere").unwrap();
    accept(&road, &ids("before", 3), |_| {}).await;
    // Time goes on, by Redis's clock.
    let tick = async || {
        let time = road.store.delayed(&[]).await.unwrap().0;
        tokio::time::sleep(Duration::from_millis(3)).await;
        time
    };
    tick().await;
    let from = tick().await;
    accept(&road, &ids("a", 30), |_| {}).await;
    accept(&road, &ids("fleeting", 3), |message| message.persistent = false).await;
    accept(&road, &ids("elsewhere", 3), |message| message.channel = elsewhere.clone()).await;
    accept(&road, &ids("foreign", 3), |message| message.tenant = Tenant::new("other").unwrap()).await;
    let only = SubscriptionId::new("sub_only").unwrap();
    accept(&road, &ids("theirs", 3), |message| message.targets = [only.clone()].into()).await;
    accept(&road, &ids("b", 30), |_| {}).await;
    let earlier = one_message(&road, "job_0", "a-3", Some(&[&sub])).await;
    assert_eq!(run(&road, &earlier).await, DONE);
    tick().await;
    let to = tick().await;
    accept(&road, &ids("after", 3), |_| {}).await;

    let (from, to) = (Time::from_millis(from), Time::from_millis(to));
    let source = Source::Range { subscription: sub.id.clone(), from, to };
    let job = make(&road, "job_1", &Tenant::single(), HistoryReplay::new(source, None, None)).await;
    assert_eq!(run(&road, &job).await, DONE);
    let replayed = replayed(&road).await;
    let expected: Vec<String> = ids("a", 30).into_iter().chain(ids("b", 30)).collect();
    assert_eq!(replayed[1..].iter().map(|(id, _)| id.clone()).collect::<Vec<_>>(), expected);
    assert!(replayed.iter().all(|(_, targets)| *targets == [sub.id.clone()]));
    let numbers: HashMap<String, u32> = lies(&road, true)
        .await
        .into_iter()
        .skip(1)
        .map(|(_, message)| (message.id.to_string(), message.generation))
        .collect();
    assert!(numbers.iter().all(|(id, number)| *number == if id == "a-3" { 2 } else { 1 }), "{numbers:?}");
    assert_eq!(record(&road, &job).await.0.moved, Some(60));
}

#[tokio::test]
async fn another_tenants_job_reaches_nobody() {
    let road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    accept(&road, &ids("m", 3), |_| {}).await;
    let at = lies(&road, false).await[0].0;
    let other = Tenant::new("other").unwrap();
    let range = Source::Range {
        subscription: sub.id.clone(),
        from: Time::from_millis(0),
        to: Time::from_millis(u64::MAX / 2),
    };
    let job = make(&road, "job_1", &other, HistoryReplay::new(range, None, None)).await;
    assert_eq!(run(&road, &job).await, FAILED);
    let named = Source::Message {
        id: MessageId::new("m-0").unwrap(),
        partition: 0,
        at,
        subscriptions: Some(vec![sub.id.clone()]),
    };
    let job = make(&road, "job_2", &other, HistoryReplay::new(named, None, None)).await;
    assert_eq!(run(&road, &job).await, FAILED);
    assert!(replayed(&road).await.is_empty());
}

#[tokio::test]
async fn killed_again_and_again_it_adds_each_once_and_its_limit_holds() {
    let road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    accept(&road, &ids("m", 3_000), |_| {}).await;
    let job = all_of_today(&road, "job_1", &sub, None, Some(2_345)).await;
    let stop = Stop::new();
    let mut kills = 0;
    let ended = loop {
        let runner = road.runner(&format!("r-{kills}"), &stop);
        // Some lives are too short to save anything.
        let life = Duration::from_millis(15 + 15 * (kills % 7) + kills);
        match tokio::time::timeout(life, runner.run(&job, &|_| {})).await {
            Err(_) => {
                kills += 1;
                assert!(kills < 500, "{:?}", record(&road, &job).await);
                tokio::time::sleep(Duration::from_millis(if kills % 2 == 0 { 210 } else { 1 })).await;
            }
            Ok(Ok(Ended::Lost)) => tokio::time::sleep(Duration::from_millis(210)).await,
            Ok(ended) => break ended.unwrap(),
        }
    };
    assert_eq!(ended, DONE);
    assert!(kills > 3, "{kills} kills");
    let ids_in_order: Vec<String> = replayed(&road).await.into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids_in_order, ids("m", 2_345), "each once, in order, after {kills} kills");
    assert!(lies(&road, true).await.iter().all(|(_, message)| message.generation == 1));
    assert_eq!(record(&road, &job).await.0.moved, Some(2_345));
}

#[tokio::test]
async fn a_rate_is_kept() {
    let road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    accept(&road, &ids("m", 60), |_| {}).await;
    let job = all_of_today(&road, "job_1", &sub, Some(60.0), None).await;
    let began = Instant::now();
    assert_eq!(run(&road, &job).await, DONE);
    assert!(began.elapsed() > Duration::from_millis(800), "{:?}", began.elapsed());
    assert_eq!(replayed(&road).await.len(), 60);
}

/// What was added and has not been routed counts as if it lay in the queue.
#[tokio::test]
async fn a_queue_is_given_no_more_than_it_may_hold() {
    let road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    road.queue(&sub, &ids("m", 5), &Dies::default()).await;
    accept(&road, &ids("n", 20), |_| {}).await;
    let job = all_of_today(&road, "job_1", &sub, None, None).await;
    let stop = Stop::new();
    let runner = postroad_reprocessor::job::run::Runner { max_queued: 12, ..road.runner("r-1", &stop) };
    let claim = Claim { partition: 0, epoch: None, take: true };
    let claimed = road.store.claim("router", 60_000, &[claim]).await.unwrap().remove(0).unwrap();
    let Claimed::New { epoch, .. } = claimed else { panic!("{claimed:?}") };
    let watch = async {
        // 5 lie there, so 7 more; and once those were taken on (and away), the rest in parts.
        for expected in [7, 14, 21, 25] {
            eventually(PATIENCE, "as many as there is room for", async || {
                let (count, note) = (replayed(&road).await.len(), record(&road, &job).await.1);
                let waits = note.waits_for.is_some() || expected == 25;
                if count == expected && waits { Ok(()) } else { Err(format!("{count} {note:?}")) }
            })
            .await
            .unwrap();
            let upto = road.store.history(0, StreamId::ZERO, StreamId::LAST, 1_000).await.unwrap();
            let upto = upto.last().unwrap().id;
            let routed = Routed { partition: 0, epoch, upto, sent: vec![] };
            assert!(road.store.routed("router", &[routed]).await.unwrap().remove(0).unwrap());
        }
    };
    let (ended, ()) = tokio::join!(runner.run(&job, &|_| {}), watch);
    assert_eq!(ended.unwrap(), DONE);
}

#[tokio::test]
async fn while_redis_is_crowded_it_waits() {
    let road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    accept(&road, &ids("m", 5), |_| {}).await;
    let job = all_of_today(&road, "job_1", &sub, None, None).await;
    let used = road.redis(&["INFO", "memory"]).await.info("used_memory").unwrap();
    let used: u64 = used.parse().unwrap();
    road.redis(&["CONFIG", "SET", "maxmemory", &(used + used / 9).to_string()]).await;
    let stop = Stop::new();
    let runner = road.runner("r-1", &stop);
    let watch = async {
        eventually(PATIENCE, "it to wait", async || {
            let note = record(&road, &job).await.1;
            if note.waits_for.as_deref() == Some("memory in Redis") {
                Ok(())
            } else {
                Err(format!("{note:?}"))
            }
        })
        .await
        .unwrap();
        assert!(replayed(&road).await.is_empty());
        road.redis(&["CONFIG", "SET", "maxmemory", "0"]).await;
    };
    let (ended, ()) = tokio::join!(runner.run(&job, &|_| {}), watch);
    assert_eq!((ended.unwrap(), replayed(&road).await.len()), (DONE, 5));
}

/// Jobs of both kinds are found, run and ended by whoever tends; each API shows its own.
#[tokio::test]
async fn both_kinds_are_tended_and_shown_apart() {
    let road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    road.bury(&sub, &ids("dead", 3), &Dies::default()).await;
    accept(&road, &ids("m", 4), |_| {}).await;
    let dead = road.replay(serde_json::json!({})).await;
    let job = all_of_today(&road, "job_1", &sub, None, None).await;
    let stop = Stop::new();
    let tending = tokio::spawn(tend_forever(road.runner("r-1", &stop).into(), std::sync::Arc::default()));
    eventually(PATIENCE, "both to be done", async || {
        let states = [road.store.job(&dead).await.unwrap(), road.store.job(&job).await.unwrap()];
        let states = states.map(|job| job.unwrap().moved);
        if states == [Some(3), Some(7)] { Ok(()) } else { Err(format!("{states:?}")) }
    })
    .await
    .unwrap();
    stop.request();
    tending.await.unwrap();
    let (status, _) = road.ask(Method::GET, &format!("/v1/dlq/replays/{job}"), None).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(road.get("/v1/dlq/replays").await["replays"].as_array().unwrap().len(), 1);
}
