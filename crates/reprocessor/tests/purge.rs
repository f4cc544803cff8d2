//! Purging and exporting.

mod kit;

use axum::http::{Method, StatusCode};
use kit::*;
use postroad_model::message::{Payload, PayloadKind};
use serde_json::{Value, json};

#[tokio::test]
async fn a_purge_needs_the_right_count() {
    let road = Road::new().await;
    let (one, two) = (road.subscribe(|_| {}).await, road.subscribe(|_| {}).await);
    let bad = Dies { status: Some(503), ..Dies::default() };
    road.bury(&one, &ids("a", 40), &Dies::default()).await;
    road.bury(&one, &ids("b", 30), &bad).await;
    road.bury(&two, &ids("c", 20), &bad).await;
    let dead = async || (road.dead(&one).await, road.dead(&two).await);
    for body in [json!({ "status_code": 503 }), json!({ "status_code": 503, "confirm": null })] {
        let (status, answer) = road.post("/v1/dlq/purge", body).await;
        assert_eq!(
            (status, &answer["details"]["field"]),
            (StatusCode::UNPROCESSABLE_ENTITY, &json!("confirm"))
        );
    }
    for confirm in [0, 49, 51, 90] {
        let (status, answer) =
            road.post("/v1/dlq/purge", json!({ "status_code": 503, "confirm": confirm })).await;
        assert_eq!((status, &answer["error_code"]), (StatusCode::CONFLICT, &json!("count_differs")));
        assert_eq!(answer["details"]["matching"], 50);
        assert!(answer["error"].as_str().unwrap().contains("nothing was purged"), "{answer}");
        assert_eq!(dead().await, (70, 20));
    }
    let (status, answer) = road.post("/v1/dlq/purge", json!({ "status_code": 503, "confirm": 50 })).await;
    assert_eq!((status, &answer["purged"]), (StatusCode::OK, &json!(50)));
    assert_eq!(dead().await, (40, 0));
    assert_eq!(road.get("/v1/dlq").await["subscriptions"], 1, "an empty queue is not listed");
    let (status, answer) = road.post("/v1/dlq/purge", json!({ "status_code": 503, "confirm": 0 })).await;
    assert_eq!((status, &answer["purged"]), (StatusCode::OK, &json!(0)));
}

#[tokio::test]
async fn an_export_is_every_letter_whole_on_a_line_of_its_own() {
    let road = Road::new().await;
    let (one, two) = (road.subscribe(|_| {}).await, road.subscribe(|_| {}).await);
    let pretty = Dies { payload: json_payload("{\n  \"a\": 1\n}"), ..Dies::default() };
    road.bury(&one, &ids("a", 700), &pretty).await;
    let large = Payload { kind: PayloadKind::Bytes, body: vec![7; 200_000].into() };
    road.bury(&two, &ids("b", 30), &Dies { payload: large, status: Some(503), ..Dies::default() }).await;
    let (status, text) = road.ask_text(Method::GET, "/v1/dlq/export", None).await;
    assert_eq!(status, StatusCode::OK);
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 730);
    let mut found: Vec<&str> = lines.iter().map(|line| line["message_id"].as_str().unwrap()).collect();
    found.sort_unstable();
    found.dedup();
    assert_eq!(found.len(), 730);
    assert_eq!(
        (&lines[0]["payload"], &lines[0]["attempt_log"][0]["status_code"]),
        (&json!({ "a": 1 }), &json!(500))
    );
    assert!(text.ends_with('\n'));
    let (_, text) = road.ask_text(Method::GET, "/v1/dlq/export?status_code=503", None).await;
    assert_eq!(text.lines().count(), 30);
}
