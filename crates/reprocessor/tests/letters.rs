//! Looking at dead letters: every filter, pages, one letter whole, tenancy, hostile input.

mod kit;

use std::collections::HashSet;

use axum::http::{Method, StatusCode};
use kit::*;
use postroad_model::{
    delivery::DeadReason,
    message::{Payload, PayloadKind},
    names::{ChannelName, Tenant},
    subscription::Channels,
};
use serde_json::json;

#[tokio::test]
async fn every_filter_finds_what_it_names() {
    let road = Road::new().await;
    let orders = road.subscribe(|_| {}).await;
    let bills = road
        .subscribe(|sub| {
            sub.selector.channels = Channels::Channel(ChannelName::new("bills").unwrap());
            sub.dead_letter_queue = Some(ChannelName::new("bills.dlq").unwrap());
        })
        .await;
    let base = Dies::default();
    let pause = || tokio::time::sleep(std::time::Duration::from_millis(5));
    road.bury(&orders, &ids("plain", 2), &base).await;
    pause().await;
    let loud =
        Dies { status: Some(503), error: Some("answered 503"), response: Some("Teapot"), ..base.clone() };
    road.bury_one(&orders, "loud", &loud).await;
    pause().await;
    let rejected = Dies { reason: DeadReason::Rejected, status: None, ..base.clone() };
    road.bury_one(&orders, "rejected", &rejected).await;
    pause().await;
    let bill =
        Dies { channel: "bills", payload: json_payload("{\"to\":\"Gr\u{f6}\u{df}e & Co\"}"), ..base.clone() };
    road.bury_one(&bills, "bill", &bill).await;

    let all = ["bill", "rejected", "loud", "plain-1", "plain-0"];
    let list = async |query: &str| message_ids(&road.get(&format!("/v1/dlq/messages?{query}")).await);
    assert_eq!(list("").await, all, "newest first");
    assert_eq!(list(&format!("subscription_id={}", orders.id)).await, all[1..]);
    assert_eq!(list("channel=bills").await, ["bill"]);
    assert_eq!(list("queue=bills").await, ["bill"]);
    assert_eq!(list("queue=bills.dlq").await, ["bill"]);
    assert!(list("channel=bills.dlq").await.is_empty());
    assert_eq!(list("reason=rejected").await, ["rejected"]);
    assert_eq!(list("status_code=503").await, ["loud"]);
    assert_eq!(list("text=teapot").await, ["loud"], "in a response, whatever the case");
    assert_eq!(list("text=ANSWERED%20503").await, ["loud"], "in an error");
    assert_eq!(list("text=Gr%C3%B6%C3%9Fe").await, ["bill"], "in a payload");
    assert_eq!(list("channel=orders&reason=retries_exhausted&status_code=500").await, ["plain-1", "plain-0"]);
    assert!(list("subscription_id=sub_none").await.is_empty());
    assert_eq!(list("limit=2").await, all[..2]);

    let rows = road.get("/v1/dlq/messages").await;
    let died = |at: usize| rows["messages"][at]["died_at"].as_str().unwrap().to_owned();
    assert_eq!(list(&format!("from={}", died(1))).await, all[..2]);
    assert_eq!(list(&format!("to={}", died(2))).await, all[2..]);
    assert_eq!(list(&format!("from={}&to={}", died(2), died(1))).await, all[1..3]);
    let row = &rows["messages"][2];
    assert_eq!(row["last_status_code"], 503);
    assert_eq!(row["last_error"], "answered 503");
    assert_eq!((&row["attempts"], &row["channel"]), (&json!(1), &json!("orders")));
    assert_eq!((&row["service_name"], &row["routing_key"]), (&json!("shop"), &json!("eu.new")));
    assert_eq!(row["subscription_id"], json!(orders.id));
    assert!(row["published_at"].as_str().unwrap() <= row["died_at"].as_str().unwrap());
}

#[tokio::test]
async fn pages_neither_skip_nor_repeat_while_letters_die_and_go() {
    let road = Road::new().await;
    let mut expected = HashSet::new();
    let mut subs = Vec::new();
    for n in 0..3 {
        let sub = road.subscribe(|_| {}).await;
        for part in 0..2 {
            let ids = ids(&format!("m{n}-{part}"), 220);
            road.bury(&sub, &ids, &Dies::default()).await;
            expected.extend(ids);
        }
        subs.push(sub);
    }
    let (mut seen, mut pages, mut uri) = (Vec::new(), 0, "/v1/dlq/messages?limit=97".to_owned());
    let mut died: Vec<String> = Vec::new();
    loop {
        let answer = road.get(&uri).await;
        let rows = answer["messages"].as_array().unwrap();
        died.extend(rows.iter().map(|row| row["died_at"].as_str().unwrap().to_owned()));
        seen.extend(message_ids(&answer));
        pages += 1;
        if pages == 3 {
            road.bury(&subs[1], &ids("late", 30), &Dies::default()).await;
            // What was shown may go without a trace in later pages.
            let gone = answer["messages"][0]["id"].as_str().unwrap().parse().unwrap();
            let postroad_store::DeadLetterId { subscription, entry } = gone;
            assert_eq!(road.store.purge_dead(&subscription, &[entry]).await.unwrap(), 1);
        }
        let Some(cursor) = answer["next_cursor"].as_str() else { break };
        uri = format!("/v1/dlq/messages?limit=97&cursor={cursor}");
    }
    assert_eq!(seen.len(), expected.len());
    assert_eq!(seen.iter().cloned().collect::<HashSet<_>>(), expected);
    assert!(died.is_sorted_by(|a, b| a >= b), "newest first over all subscriptions");
    assert_eq!(pages, 14, "1320 letters in pages of 97");
}

#[tokio::test]
async fn looking_for_a_needle_pauses_and_goes_on() {
    let road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    let rare = Dies { status: Some(418), ..Dies::default() };
    road.bury_one(&sub, "needle", &rare).await;
    let hay = Dies { payload: Payload { kind: PayloadKind::Text, body: "x".into() }, ..Dies::default() };
    road.bury(&sub, &ids("hay", 12_000), &hay).await;
    let (mut uri, mut found, mut pages) = ("/v1/dlq/messages?status_code=418".to_owned(), Vec::new(), 0);
    loop {
        let answer = road.get(&uri).await;
        assert!(answer["scanned"].as_u64().unwrap() <= 10_200, "{answer}");
        found.extend(message_ids(&answer));
        pages += 1;
        let Some(cursor) = answer["next_cursor"].as_str() else { break };
        uri = format!("/v1/dlq/messages?status_code=418&cursor={cursor}");
    }
    assert_eq!((found, pages), (vec!["needle".to_owned()], 2));

    let overview = road.get("/v1/dlq").await;
    assert_eq!(overview["total"], 12_001);
    let row = &overview["queues"][0];
    assert_eq!((&row["count"], &row["sampled"], &row["exact"]), (&json!(12_001), &json!(200), &json!(true)));
}

#[tokio::test]
async fn the_overview_sums_up_queues_and_reasons() {
    let road = Road::new().await;
    let sub = road
        .subscribe(|sub| {
            sub.selector.channels = Channels::Pattern(postroad_model::glob::Glob::new("*").unwrap());
        })
        .await;
    let answered = Dies { status: Some(503), error: Some("answered 503"), ..Dies::default() };
    road.bury(&sub, &ids("a", 3), &answered).await;
    let late = |error| Dies { status: Some(0), error: Some(error), ..Dies::default() };
    road.bury_one(&sub, "b", &late("timeout: no answer within 15000 ms")).await;
    road.bury_one(&sub, "c", &late("timeout: no answer within 14999 ms")).await;
    road.bury_one(&sub, "d", &Dies { channel: "bills", ..Dies::default() }).await;
    let overview = road.get("/v1/dlq").await;
    assert_eq!((&overview["total"], &overview["subscriptions"]), (&json!(6), &json!(1)));
    assert_eq!(overview["sample_limit"], 200);
    let rows = overview["queues"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!((&rows[0]["queue"], &rows[0]["count"]), (&json!("bills"), &json!(1)));
    assert_eq!((&rows[1]["queue"], &rows[1]["count"]), (&json!("orders"), &json!(5)));
    let reasons = json!([
        { "reason": "retries_exhausted", "status_code": 503, "count": 3 },
        { "reason": "retries_exhausted", "error": "timeout: no answer within # ms", "count": 2 },
    ]);
    assert_eq!(rows[1]["reasons"], reasons);
    assert!(rows[1]["oldest"].as_str().unwrap() <= rows[1]["newest"].as_str().unwrap());
    // A page of subscriptions at a time.
    let other = road.subscribe(|_| {}).await;
    road.bury_one(&other, "e", &Dies::default()).await;
    let first = road.get("/v1/dlq?limit=1").await;
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = road.get(&format!("/v1/dlq?limit=1&cursor={cursor}")).await;
    assert_eq!(
        (&second["queues"][0]["subscription_id"], &second["next_cursor"]),
        (&json!(other.id), &json!(null))
    );
}

#[tokio::test]
async fn a_letter_is_shown_whole_by_its_id_or_its_messages() {
    let road = Road::new().await;
    let (one, two) = (road.subscribe(|_| {}).await, road.subscribe(|_| {}).await);
    let dies = Dies {
        payload: json_payload("{\"big\": 1e400,\n \"a\":1}"),
        response: Some("no"),
        ..Dies::default()
    };
    let first = road.bury_one(&one, "m", &dies).await;
    tokio::time::sleep(std::time::Duration::from_millis(3)).await;
    let second = road.bury_one(&two, "m", &dies).await;
    let (status, text) = road.ask_text(Method::GET, &format!("/v1/dlq/messages/{first}"), None).await;
    assert_eq!(status, StatusCode::OK, "{text}");
    assert!(text.contains("\"payload\":{\"big\": 1e400,  \"a\":1}"), "byte for byte, on one line: {text}");
    assert!(text.contains("\"metadata\":{\"message_id\":\"m\","), "{text}");
    assert!(
        text.contains("\"response\":\"no\"") && text.contains("\"attempt_log\":[{\"attempt\":1"),
        "{text}"
    );
    assert!(!text.contains("others"), "{text}");
    let (_, text) = road.ask_text(Method::GET, "/v1/dlq/messages/m", None).await;
    assert!(text.contains(&format!("\"id\":\"{second}\"")), "the newest: {text}");
    assert!(text.contains(&format!("\"others\":[\"{first}\"]")), "{text}");
    for (payload, shown) in [
        (Payload { kind: PayloadKind::Text, body: "a\nb".into() }, json!("a\nb")),
        (Payload { kind: PayloadKind::Bytes, body: vec![0, 255].into() }, json!("AP8=")),
    ] {
        let id = road.bury_one(&one, "n", &Dies { payload, ..Dies::default() }).await;
        assert_eq!(road.get(&format!("/v1/dlq/messages/{id}")).await["payload"], shown);
    }
}

#[tokio::test]
async fn what_cannot_be_read_shows_its_bytes_and_why() {
    let road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    let key = road.dead_key(&sub);
    let deads = road.lane_key(&sub, "deads");
    road.redis(&["XADD", &key, "5-1", "m", "1 junk\nbody", "reason", "undecodable", "died", "7"]).await;
    road.redis(&["XADD", &key, "5-2", "colour", "red"]).await;
    road.redis(&["XADD", &key, "5-3", "m", "9 {}\n", "died", "x"]).await;
    road.redis(&["SADD", &deads, sub.id.as_str()]).await;
    let list = road.get("/v1/dlq/messages").await;
    assert_eq!(message_ids(&list), ["?", "?", "?"]);
    assert!(list["messages"][0]["undecodable"].as_str().unwrap().contains("format 9"), "{list}");
    let shown = road.get(&format!("/v1/dlq/messages/{}.5-1", sub.id)).await;
    assert_eq!((&shown["reason"], &shown["message_id"]), (&json!("undecodable"), &json!(null)));
    assert_eq!(shown["raw"], json!({ "record_base64": "MSBqdW5rCmJvZHk=" }));
    let shown = road.get(&format!("/v1/dlq/messages/{}.5-2", sub.id)).await;
    assert_eq!(shown["raw"]["fields_base64"], json!({ "colour": "cmVk" }));
    assert!(shown["undecodable"].as_str().unwrap().contains("undecodable"), "{shown}");
    assert_eq!(message_ids(&road.get("/v1/dlq/messages?text=JUNK").await), ["?"]);
    assert_eq!(message_ids(&road.get("/v1/dlq/messages?reason=undecodable").await), ["?"]);
    assert_eq!(road.get("/v1/dlq").await["total"], 3);
}

#[tokio::test]
async fn another_tenants_letters_are_nowhere() {
    let road = Road::new().await;
    let other = Tenant::new("other").unwrap();
    let theirs = road.subscribe(|sub| sub.tenant = other.clone()).await;
    let mine = road.subscribe(|_| {}).await;
    let foreign = Dies { tenant: other, ..Dies::default() };
    let in_theirs = road.bury_one(&theirs, "secret", &foreign).await;
    // Its subscription is mine by its record, the letter is not.
    let strayed = road.bury_one(&mine, "strayed", &foreign).await;
    road.bury_one(&mine, "mine", &Dies::default()).await;
    assert_eq!(message_ids(&road.get("/v1/dlq/messages").await), ["mine"]);
    let query = format!("/v1/dlq/messages?subscription_id={}", theirs.id);
    assert!(message_ids(&road.get(&query).await).is_empty());
    for id in [&in_theirs, &strayed, "secret", "strayed"] {
        let (status, _) = road.ask(Method::GET, &format!("/v1/dlq/messages/{id}"), None).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{id}");
    }
    let overview = road.get("/v1/dlq").await;
    assert_eq!(overview["queues"].as_array().unwrap().len(), 1, "{overview}");
    let (_, export) = road.ask_text(Method::GET, "/v1/dlq/export", None).await;
    assert_eq!(export.lines().count(), 1);
    assert!(!export.contains("secret") && !export.contains("strayed"), "{export}");
    let (_, count) = road.post("/v1/dlq/replay", json!({ "dry_run": true })).await;
    assert_eq!(count["matched"], 1, "{count}");
    let (status, _) = road.post("/v1/dlq/purge", json!({ "confirm": 1 })).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!((road.dead(&theirs).await, road.dead(&mine).await), (1, 1));
}

#[tokio::test]
async fn hostile_ids_and_queries_are_refused_by_name() {
    let road = Road::new().await;
    road.subscribe(|_| {}).await;
    let long = "x".repeat(5_000);
    for id in [
        "nothing",
        "sub_0.1-1",
        "sub_0.",
        "a.b.c",
        ".1-1",
        "sub_0.99999999999999999999999-0",
        "sub_0.-1-0",
        "%7Bl0%7D",
        "..%2F..%2Fetc",
        "%00",
        "%ff%fe",
        "%F0%9F%92%80",
        "a%0d%0ab",
        &long,
    ] {
        for path in ["messages", "replays"] {
            let (status, body) = road.ask(Method::GET, &format!("/v1/dlq/{path}/{id}"), None).await;
            assert_eq!(status, StatusCode::NOT_FOUND, "{id}: {body}");
            assert_eq!(body["error_code"], "not_found", "{id}");
        }
        let (status, _) = road.ask(Method::DELETE, &format!("/v1/dlq/replays/{id}"), None).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{id}");
    }
    for (query, field) in [
        ("reason=bored", "reason"),
        ("status_code=abc", "status_code"),
        ("from=tomorrow", "from"),
        ("to=1969-01-01T00:00:00Z", "to"),
        ("queue=a%20b", "queue"),
        ("channel=", "channel"),
        ("subscription_id=%7Bl0%7D", "subscription_id"),
        ("text=", "text"),
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("cursor=junk!", "cursor"),
        ("cursor=anVuaw", "cursor"),
        ("company_id=other", "company_id"),
        ("queue=a&queue=b", "queue"),
    ] {
        let (status, body) = road.ask(Method::GET, &format!("/v1/dlq/messages?{query}"), None).await;
        assert_eq!(
            (status, &body["details"]["field"]),
            (StatusCode::UNPROCESSABLE_ENTITY, &json!(field)),
            "{query}"
        );
        assert!(body["error"].as_str().unwrap().contains(field), "{body}");
    }
    let (status, body) = road.ask(Method::GET, "/v1/dlq/export?limit=1", None).await;
    assert_eq!((status, &body["details"]["field"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("limit")));
    let (status, _) = road.ask(Method::PUT, "/v1/dlq", None).await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
}
