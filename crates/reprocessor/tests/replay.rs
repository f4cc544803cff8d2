//! Replay jobs: what they move, how much, how fast, and that nothing that happens to their runner matters.

mod kit;

use std::{
    collections::HashSet,
    sync::Mutex,
    time::{Duration, Instant},
};

use axum::http::{Method, StatusCode};
use kit::*;
use postroad_daemon::stop::Stop;
use postroad_model::{
    delivery::{DeadReason, Place},
    names::Tenant,
};
use postroad_reprocessor::job::run::Ended;
use postroad_store::{JobState, LinkConfig, ReplayState, Store};
use postroad_testkit::{proxy::Proxy, wait::eventually};
use serde_json::json;

const DONE: Ended = Ended::Finished(JobState::Done);

/// Every accepted message is in exactly one of a subscription's two places.
async fn conserved(road: &Road, sub: &postroad_model::subscription::Subscription, total: usize) {
    let mut refs = road.refs(&road.work_key(sub)).await;
    refs.extend(road.refs(&road.dead_key(sub)).await);
    assert_eq!(refs.len(), total, "nothing is lost or doubled");
    assert_eq!(refs.into_iter().collect::<HashSet<_>>().len(), total, "nothing is there twice");
}

#[tokio::test]
async fn a_dry_run_counts_what_a_replay_moves() {
    let road = Road::new().await;
    let (one, two) = (road.subscribe(|_| {}).await, road.subscribe(|_| {}).await);
    let bad = Dies { status: Some(503), ..Dies::default() };
    road.bury(&one, &ids("a", 30), &Dies::default()).await;
    road.bury(&one, &ids("b", 20), &bad).await;
    road.bury(&two, &ids("c", 300), &bad).await;
    let (status, count) = road.post("/v1/dlq/replay", json!({ "dry_run": true, "status_code": 503 })).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!((&count["matched"], &count["would_move"]), (&json!(320), &json!(320)));
    let by_sub: Vec<_> =
        count["subscriptions"].as_array().unwrap().iter().map(|row| row["would_move"].as_u64()).collect();
    assert_eq!(by_sub.into_iter().flatten().sum::<u64>(), 320);
    let (_, limited) = road.post("/v1/dlq/replay", json!({ "dry_run": true, "limit": 25 })).await;
    assert_eq!((&limited["matched"], &limited["would_move"]), (&json!(350), &json!(25)));
    assert_eq!((road.dead(&one).await, road.dead(&two).await), (50, 300), "nothing was done");

    let id = road.replay(json!({ "status_code": 503 })).await;
    assert_eq!(road.progress(&id).await["state"], "waiting");
    let stop = Stop::new();
    assert_eq!(road.runner("r-1", &stop).run(&id, &|_| {}).await.unwrap(), DONE);
    let progress = road.progress(&id).await;
    assert_eq!((&progress["state"], &progress["moved"]), (&json!("done"), &json!(320)));
    assert_eq!((&progress["skipped"], &progress["scanned"]), (&json!(0), &json!(350)));
    assert_eq!((&progress["letters"], &progress["matched"]), (&json!(350), &json!(null)));
    assert_eq!((road.queued(&one).await, road.queued(&two).await), (20, 300));
    assert_eq!((road.dead(&one).await, road.dead(&two).await), (30, 0));
    conserved(&road, &one, 50).await;
    // The lanes have forgotten the job; its record has not.
    for lane in 0..4 {
        let key = road.keys.key(postroad_store::keys::Tag::Lane(lane), "jobs");
        assert_eq!(road.redis(&["EXISTS", &key]).await.int(), Some(0));
    }
    let (status, body) = road.ask(Method::DELETE, &format!("/v1/dlq/replays/{id}"), None).await;
    assert_eq!((status, &body["error_code"]), (StatusCode::CONFLICT, &json!("job_finished")));
}

#[tokio::test]
async fn what_dies_again_is_not_moved_in_a_circle() {
    let road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    road.bury(&sub, &ids("a", 300), &Dies::default()).await;
    let id = road.replay(json!({ "rate": 1_000 })).await;
    let (stop, dies) = (Stop::new(), Dies::default());
    let runner = road.runner("r-1", &stop);
    let run = runner.run(&id, &|_| {});
    let mut died = 0;
    tokio::pin!(run);
    let ended = loop {
        tokio::select! {
            ended = &mut run => break ended.unwrap(),
            () = tokio::time::sleep(Duration::from_millis(10)) => {
                died += road.end(&sub, 1_000, Place::Dead(DeadReason::RetriesExhausted), &dies).await;
            }
        }
    };
    assert_eq!(ended, DONE);
    assert!(died > 0, "some died again while the job ran");
    assert_eq!(road.progress(&id).await["moved"], 300);
    conserved(&road, &sub, 300).await;
}

#[tokio::test]
async fn a_limit_holds_and_the_oldest_go_first() {
    let road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    road.bury(&sub, &ids("a", 250), &Dies::default()).await;
    let before = road.refs(&road.dead_key(&sub)).await;
    let id = road.replay(json!({ "limit": 130, "subscription_id": sub.id })).await;
    assert_eq!(road.runner("r-1", &Stop::new()).run(&id, &|_| {}).await.unwrap(), DONE);
    assert_eq!(road.refs(&road.work_key(&sub)).await, before[..130]);
    assert_eq!(road.refs(&road.dead_key(&sub)).await, before[130..]);
    let progress = road.progress(&id).await;
    assert_eq!(
        (&progress["moved"], &progress["limit"], &progress["matched"]),
        (&json!(130), &json!(130), &json!(250))
    );
}

#[tokio::test]
async fn a_rate_is_kept_smoothly() {
    let road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    road.bury(&sub, &ids("a", 120), &Dies::default()).await;
    let id = road.replay(json!({ "rate": 60 })).await;
    let seen: Mutex<Vec<(Duration, u64)>> = Mutex::default();
    let began = Instant::now();
    let stop = Stop::new();
    let runner = road.runner("r-1", &stop);
    let tell = |progress: &postroad_reprocessor::job::run::Seen| {
        seen.lock().unwrap().push((began.elapsed(), progress.moved));
    };
    assert_eq!(runner.run(&id, &tell).await.unwrap(), DONE);
    assert!(began.elapsed() > Duration::from_millis(1_700), "{:?}", began.elapsed());
    let seen = seen.into_inner().unwrap();
    assert!(seen.len() > 10, "{seen:?}");
    for (after, moved) in seen {
        // Never ahead of the rate by more than what may be caught up, in whole seconds or in parts of them.
        let allowed = after.as_secs_f64() * 60.0 + 12.0;
        assert!(f64::from(u32::try_from(moved).unwrap()) <= allowed, "{moved} after {after:?}");
    }
}

#[tokio::test]
async fn killed_again_and_again_it_moves_each_once_and_its_limit_holds() {
    let road = Road::new().await;
    let (one, two) = (road.subscribe(|_| {}).await, road.subscribe(|_| {}).await);
    road.bury(&one, &ids("a", 1_500), &Dies::default()).await;
    road.bury(&two, &ids("b", 1_500), &Dies::default()).await;
    let id = road.replay(json!({ "limit": 2_345 })).await;
    let stop = Stop::new();
    let mut kills = 0;
    let ended = loop {
        let runner = road.runner(&format!("r-{kills}"), &stop);
        let life = Duration::from_millis(4 + 3 * (kills % 7) + kills / 10);
        match tokio::time::timeout(life, runner.run(&id, &|_| {})).await {
            Err(_) => {
                kills += 1;
                assert!(kills < 500, "{}", road.progress(&id).await);
                // Its lease runs out, as it is not there to renew it.
                tokio::time::sleep(Duration::from_millis(if kills % 2 == 0 { 210 } else { 1 })).await;
            }
            Ok(Ok(Ended::Lost)) => tokio::time::sleep(Duration::from_millis(210)).await,
            Ok(ended) => break ended.unwrap(),
        }
    };
    assert_eq!(ended, DONE);
    assert!(kills > 3, "{kills} kills");
    let progress = road.progress(&id).await;
    assert_eq!(
        (&progress["moved"], &progress["state"]),
        (&json!(2_345), &json!("done")),
        "after {kills} kills"
    );
    assert_eq!(road.queued(&one).await + road.queued(&two).await, 2_345);
    conserved(&road, &one, 1_500).await;
    conserved(&road, &two, 1_500).await;
}

#[tokio::test]
async fn cut_off_from_redis_it_counts_what_it_did_not_hear_of() {
    let road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    road.bury(&sub, &ids("a", 2_000), &Dies::default()).await;
    let proxy = Proxy::start(road.redis.addr()).await.unwrap();
    let mut link = LinkConfig::new(road.redis.url_through(proxy.addr()));
    link.response_timeout = Duration::from_millis(300);
    let far = Store::new(link, "test", road.store.layout()).unwrap();
    let id = road.replay(json!({ "limit": 1_777 })).await;
    let stop = Stop::new();
    let runner = road.runner_on(far, "r-far", &stop);
    let cutting = async {
        for n in 0u64..40 {
            tokio::time::sleep(Duration::from_millis(5 + n % 5 * 7)).await;
            proxy.reset_connections();
        }
        std::future::pending::<()>().await;
    };
    let ended = tokio::select! {
        ended = runner.run(&id, &|_| {}) => ended.unwrap(),
        () = cutting => unreachable!("without an end"),
    };
    assert_eq!(ended, DONE);
    assert_eq!(road.progress(&id).await["moved"], 1_777);
    assert_eq!(road.queued(&sub).await, 1_777);
    conserved(&road, &sub, 2_000).await;
}

#[tokio::test]
async fn a_runner_that_was_frozen_moves_nothing_any_more() {
    let road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    road.bury(&sub, &ids("a", 20), &Dies::default()).await;
    let entries: Vec<_> =
        road.store.dead_letters(&sub.id, postroad_store::StreamId::ZERO, None, 20).await.unwrap();
    let entries: Vec<_> = entries.iter().map(|letter| letter.id.entry).collect();
    let id = road.replay(json!({ "limit": 10 })).await;
    let frozen = road.store.take_job(&id, "r-frozen", 50).await.unwrap().unwrap();
    assert_eq!(road.store.open_job(&frozen).await.unwrap(), 0);
    assert!(road.store.save_job(&id, "r-frozen", JobState::Running, "", "").await.unwrap());
    let moved = road.store.replay_dead(&sub.id, &frozen, 100, TRACE, &entries[..4]).await.unwrap();
    assert_eq!((moved.moved, moved.state), (4, ReplayState::Done));
    assert_eq!(road.store.take_job(&id, "r-2", 10_000).await.unwrap(), None, "it is held");
    tokio::time::sleep(Duration::from_millis(60)).await;
    let second = road.store.take_job(&id, "r-2", 50).await.unwrap().unwrap();
    assert_eq!(road.store.open_job(&second).await.unwrap(), 4);
    let late = road.store.replay_dead(&sub.id, &frozen, 100, TRACE, &entries[4..8]).await.unwrap();
    assert_eq!((late.moved, late.state), (0, ReplayState::Lost));
    assert!(!road.store.save_job(&id, "r-frozen", JobState::Running, "", "").await.unwrap());
    // Nor can it open the lanes again: a higher epoch has.
    road.store.open_job(&frozen).await.unwrap();
    let late = road.store.replay_dead(&sub.id, &frozen, 100, TRACE, &entries[4..8]).await.unwrap();
    assert_eq!(late.state, ReplayState::Lost);
    tokio::time::sleep(Duration::from_millis(210)).await;
    assert_eq!(road.runner("r-3", &Stop::new()).run(&id, &|_| {}).await.unwrap(), DONE);
    let late = road.store.replay_dead(&sub.id, &second, 100, TRACE, &entries).await.unwrap();
    assert_eq!((late.moved, late.state), (0, ReplayState::Lost), "after the end neither");
    assert_eq!((road.queued(&sub).await, road.dead(&sub).await), (10, 10));
    assert_eq!(road.progress(&id).await["moved"], 10);
}

#[tokio::test]
async fn a_stop_is_final_once_it_has_answered() {
    let road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    road.bury(&sub, &ids("a", 2_000), &Dies::default()).await;
    let id = road.replay(json!({ "rate": 1_000 })).await;
    let stop = Stop::new();
    let runner = road.runner("r-1", &stop);
    let stopping = async {
        eventually(Duration::from_secs(10), "some to be moved", async || match road.queued(&sub).await {
            0..=50 => Err("none yet"),
            _ => Ok(()),
        })
        .await
        .unwrap();
        let (status, answer) = road.ask(Method::DELETE, &format!("/v1/dlq/replays/{id}"), None).await;
        assert_eq!((status, &answer["state"]), (StatusCode::OK, &json!("stopped")));
        (answer["moved"].as_u64().unwrap(), road.queued(&sub).await as u64)
    };
    let (ended, (moved, queued)) = tokio::join!(runner.run(&id, &|_| {}), stopping);
    assert_eq!(ended.unwrap(), Ended::Finished(JobState::Stopped));
    assert_eq!(
        (moved, queued),
        (road.queued(&sub).await as u64, moved),
        "nothing was moved after the answer"
    );
    assert!(moved < 2_000);
    let (status, again) = road.ask(Method::DELETE, &format!("/v1/dlq/replays/{id}"), None).await;
    assert_eq!(
        (status, &again["state"], &again["moved"]),
        (StatusCode::OK, &json!("stopped"), &json!(moved))
    );
    conserved(&road, &sub, 2_000).await;
    // What is left can be replayed by another job.
    let rest = road.replay(json!({})).await;
    assert_eq!(road.runner("r-2", &stop).run(&rest, &|_| {}).await.unwrap(), DONE);
    assert_eq!(road.progress(&rest).await["moved"], 2_000 - moved);
}

#[tokio::test]
async fn a_full_queue_waits_for_room_and_keeps_no_other_waiting() {
    let road = Road::new().await;
    let (full, other) = (road.subscribe(|_| {}).await, road.subscribe(|_| {}).await);
    road.bury(&full, &ids("a", 50), &Dies::default()).await;
    road.bury(&other, &ids("b", 7), &Dies::default()).await;
    let id = road.replay(json!({})).await;
    let stop = Stop::new();
    let mut runner = road.runner("r-1", &stop);
    runner.max_queued = 10;
    let draining = async {
        eventually(Duration::from_secs(10), "the job to wait for one queue", async || {
            let progress = road.progress(&id).await;
            let waits = progress["waiting_for"] == json!([full.id]);
            if waits && progress["moved"] == 17 { Ok(()) } else { Err(progress) }
        })
        .await
        .unwrap();
        assert_eq!((road.queued(&full).await, road.queued(&other).await), (10, 7));
        let mut settled = 0;
        while settled < 50 {
            assert!(road.queued(&full).await <= 10);
            settled += road.end(&full, 4, Place::Settled, &Dies::default()).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let (ended, ()) = tokio::join!(runner.run(&id, &|_| {}), draining);
    assert_eq!(ended.unwrap(), DONE);
    let progress = road.progress(&id).await;
    assert_eq!(
        (&progress["moved"], &progress["skipped"], &progress["scanned"]),
        (&json!(57), &json!(0), &json!(57))
    );
    assert_eq!(progress["waiting_for"], json!([]));
}

#[tokio::test]
async fn cancelled_subscriptions_are_skipped_and_lost_settings_mended() {
    let road = Road::new().await;
    let (cancelled, gone, bare) =
        (road.subscribe(|_| {}).await, road.subscribe(|_| {}).await, road.subscribe(|_| {}).await);
    for (sub, name) in [(&cancelled, "a"), (&gone, "b"), (&bare, "c")] {
        road.bury(sub, &ids(name, 5), &Dies::default()).await;
    }
    let id = road.replay(json!({})).await;
    // One is cancelled while the job waits, one in the lane only (so far), and one lane lost its settings.
    road.cancel(&cancelled).await;
    road.redis(&["HSET", &road.lane_key(&gone, &format!("sub:{}", gone.id)), "status", "cancelled"]).await;
    road.redis(&["DEL", &road.lane_key(&bare, &format!("sub:{}", bare.id))]).await;
    assert_eq!(road.runner("r-1", &Stop::new()).run(&id, &|_| {}).await.unwrap(), DONE);
    let progress = road.progress(&id).await;
    assert_eq!((&progress["moved"], &progress["skipped"]), (&json!(5), &json!(5)), "{progress}");
    assert_eq!((road.queued(&bare).await, road.queued(&gone).await), (5, 0));
    assert_eq!(road.end(&bare, 9, Place::Settled, &Dies::default()).await, 5, "it can be delivered again");
}

#[tokio::test]
async fn a_full_redis_still_lets_letters_go_back() {
    let road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    road.bury(&sub, &ids("a", 300), &Dies::default()).await;
    road.redis(&["CONFIG", "SET", "maxmemory", "1mb"]).await;
    assert!(road.redis.command(&["SET", "x", "y"]).await.unwrap_err().to_string().contains("OOM"));
    let id = road.replay(json!({ "limit": 200 })).await;
    assert_eq!(road.runner("r-1", &Stop::new()).run(&id, &|_| {}).await.unwrap(), DONE);
    assert_eq!((road.queued(&sub).await, road.dead(&sub).await), (200, 100));
    let (status, answer) = road.post("/v1/dlq/purge", json!({ "confirm": 100 })).await;
    assert_eq!((status, &answer["purged"]), (StatusCode::OK, &json!(100)));
}

#[tokio::test]
async fn a_queues_bytes_are_a_bound_too_and_a_rank_that_is_none_is_normal() {
    let road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    road.bury(&sub, &ids("a", 20), &Dies::default()).await;
    let settings = road.lane_key(&sub, &format!("sub:{}", sub.id));
    road.redis(&["HSET", &settings, "max_bytes", "1000"]).await;
    let dead = road.store.dead_letters(&sub.id, postroad_store::StreamId::ZERO, None, 20).await.unwrap();
    let entries: Vec<_> = dead.iter().map(|letter| letter.id.entry).collect();
    let replayed = road.store.replay_dead(&sub.id, "job_1", 1_000, TRACE, &entries).await.unwrap();
    assert_eq!(replayed.state, ReplayState::Full);
    let size = dead[0].entry.size() as u64;
    assert_eq!(replayed.moved, 1_000 / size, "as many as fit");
    road.redis(&["HSET", &settings, "max_bytes", "10"]).await;
    let more = road.store.replay_dead(&sub.id, "job_1", 1_000, TRACE, &entries).await.unwrap();
    assert_eq!((more.moved, more.state), (0, ReplayState::Full));
    road.end(&sub, 100, Place::Settled, &Dies::default()).await;
    let alone = road.store.replay_dead(&sub.id, "job_1", 1_000, TRACE, &entries).await.unwrap();
    assert_eq!((alone.moved, alone.state), (1, ReplayState::Full), "one larger than the bound goes alone");

    let key = road.dead_key(&sub);
    let last = entries.last().unwrap();
    let odd = format!("{}-{}", last.ms + 1, 0);
    road.redis(&["XADD", &key, &odd, "m", "1 {}\n", "t", "1", "rank", "x"]).await;
    road.redis(&["HSET", &settings, "max_bytes", "100000"]).await;
    let queued = road.queued(&sub).await;
    let moved =
        road.store.replay_dead(&sub.id, "job_1", 1_000, TRACE, &[odd.parse().unwrap()]).await.unwrap();
    assert_eq!((moved.moved, road.queued(&sub).await), (1, queued + 1));
}

#[tokio::test]
async fn jobs_are_a_tenants_own_listed_and_bounded() {
    let road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    road.bury(&sub, &ids("a", 3), &Dies::default()).await;
    let theirs = Tenant::new("other").unwrap();
    let spec = r#"{"kind":"dead_letters","filter":{},"letters":0}"#;
    assert_eq!(road.store.make_job("job_theirs", &theirs, spec, "[]", None, 1).await.unwrap(), None);
    assert_eq!(road.store.make_job("job_more", &theirs, spec, "[]", None, 1).await.unwrap(), Some(1));
    for method in [Method::GET, Method::DELETE] {
        let (status, _) = road.ask(method, "/v1/dlq/replays/job_theirs", None).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
    }
    assert_eq!(road.store.job("job_theirs").await.unwrap().unwrap().state, JobState::Waiting);
    // A job of another kind is none of these.
    let history = r#"{"kind":"history"}"#;
    road.store.make_job("job_history", &Tenant::single(), history, "", None, 9).await.unwrap();
    let mut made = Vec::new();
    for _ in 0..4 {
        made.push(road.replay(json!({ "limit": 1 })).await);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    made.reverse();
    let ids = |answer: &serde_json::Value| -> Vec<String> {
        let rows = answer["replays"].as_array().unwrap();
        rows.iter().map(|row| row["job_id"].as_str().unwrap().to_owned()).collect()
    };
    let list = road.get("/v1/dlq/replays?limit=3").await;
    assert_eq!(ids(&list), made[..3]);
    let cursor = list["next_cursor"].as_str().unwrap();
    let rest = road.get(&format!("/v1/dlq/replays?limit=3&cursor={cursor}")).await;
    assert_eq!((ids(&rest), &rest["next_cursor"]), (made[3..].to_vec(), &json!(null)));
    for _ in 0..15 {
        road.replay(json!({ "limit": 1 })).await;
    }
    let (status, body) = road.post("/v1/dlq/replay", json!({ "limit": 1 })).await;
    assert_eq!((status, &body["error_code"]), (StatusCode::CONFLICT, &json!("too_many_jobs")));
}

#[tokio::test]
async fn a_thousand_jobs_are_remembered_and_open_ones_never_forgotten() {
    let road = Road::new().await;
    let spec = r#"{"kind":"dead_letters","filter":{},"letters":0}"#;
    let tenant = Tenant::single();
    let open = road.replay(json!({})).await;
    for n in 0..1_010 {
        let id = format!("job_{n}");
        assert_eq!(road.store.make_job(&id, &tenant, spec, "[]", None, 5).await.unwrap(), None);
        assert_eq!(road.store.stop_job(&id).await.unwrap(), Some(JobState::Waiting));
        road.store.end_job(&id).await.unwrap();
    }
    let (ids, counts) = road.store.look_at_jobs(1_000, 10).await.unwrap();
    assert_eq!(ids, std::slice::from_ref(&open), "the others are over and ended");
    let count = |state| counts.iter().find(|(known, _)| *known == state).map(|(_, count)| *count);
    assert_eq!((count(JobState::Waiting), count(JobState::Stopped)), (Some(1), Some(1_000)));
    assert!(road.store.job("job_0").await.unwrap().is_none());
    assert!(road.store.job("job_1009").await.unwrap().is_some());
    let conflict = road.store.make_job("job_1009", &tenant, spec, "[]", None, 5).await.unwrap_err();
    assert!(matches!(conflict, postroad_store::StoreError::Conflict(_)), "{conflict}");
    assert!(road.store.end_job(&open).await.is_err(), "an open job cannot be ended");
}

#[tokio::test]
async fn bad_orders_are_refused_by_name() {
    let road = Road::new().await;
    for (body, field) in [
        (json!({ "rate": 0 }), "rate"),
        (json!({ "rate": "fast" }), "rate"),
        (json!({ "limit": 0 }), "limit"),
        (json!({ "limit": -1 }), "limit"),
        (json!({ "dry_run": 1 }), "dry_run"),
        (json!({ "status_code": "x" }), "status_code"),
        (json!({ "reason": "bored" }), "reason"),
        (json!({ "confirm": 1 }), "confirm"),
        (json!({ "company_id": "other" }), "company_id"),
    ] {
        let (status, answer) = road.post("/v1/dlq/replay", body.clone()).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{body}: {answer}");
        assert_eq!(answer["details"]["field"], field, "{answer}");
    }
    let (status, _) = road.ask(Method::POST, "/v1/dlq/replay", None).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "everything must be asked for as {{}}");
    assert_eq!(road.get("/v1/dlq/replays").await["replays"], json!([]));
}

#[tokio::test]
async fn a_job_whose_record_is_spoilt_fails_and_says_why() {
    let road = Road::new().await;
    let spec = r#"{"kind":"dead_letters","filter":{},"letters":0}"#;
    road.store.make_job("job_1", &Tenant::single(), spec, "no plan", None, 9).await.unwrap();
    let ended = road.runner("r-1", &Stop::new()).run("job_1", &|_| {}).await.unwrap();
    assert_eq!(ended, Ended::Finished(JobState::Failed));
    let progress = road.progress("job_1").await;
    assert_eq!(progress["state"], "failed");
    assert!(progress["error"].as_str().unwrap().contains("its plan"), "{progress}");
}
