//! Health messages, and the last one of each service.

use serde_json::{Value, json};

use crate::kit::{Town, ask, field, is_time, judge, refused, take};

#[tokio::test]
async fn a_health_check_is_a_message_and_the_last_one_is_kept() {
    let town = Town::new().await;
    let (one, two) = (town.api().await, town.api().await);
    let request = json!({
        "service_name": "user-auth-service", "status": "degraded", "details": { "db": "slow" }, "version": "1.2",
        "correlation_id": "c",
    });
    let mut receipt = one.post("/v1/health-checks", request.clone()).await.expect(202);
    let [id, at] = take(&mut receipt, ["health_check_id", "timestamp"]);
    assert!(id.as_str().unwrap().starts_with("hlt_") && is_time(&at), "{id} {at}");
    let expected = json!({
        "success": true, "service_name": "user-auth-service", "channel": "health.user-auth-service",
        "correlation_id": "c", "error": null,
    });
    assert_eq!(receipt, expected);
    let message = one.get(&format!("/v1/messages/{}", id.as_str().unwrap())).await.expect(200);
    let names = ["channel", "routing_key", "service_name"].map(|name| message[name].as_str().unwrap());
    assert_eq!(names, ["health.user-auth-service", "degraded", "user-auth-service"]);
    let mut content = message["payload"].clone();
    let [stamp] = take(&mut content, ["timestamp"]);
    assert!(is_time(&stamp));
    let mut expected = request;
    expected["id"] = id;
    expected["type"] = json!("health_check");
    expected["source_service"] = json!("user-auth-service");
    assert_eq!(content, expected);

    one.post("/v1/health-checks", json!({ "service_name": "billing", "status": "healthy" }))
        .await
        .expect(202);
    let mut list = two.get("/v1/services").await.expect(200);
    assert_eq!(list["next_cursor"], Value::Null);
    let auth = &mut list["services"][1];
    let [seen, age] = take(auth, ["last_seen", "age_seconds"]);
    assert!(seen == at && (0.0..60.0).contains(&age.as_f64().unwrap()), "{seen} {age}");
    let expected = json!({
        "service_name": "user-auth-service", "status": "degraded", "details": { "db": "slow" }, "version": "1.2",
    });
    assert_eq!(*auth, expected);
    assert_eq!(list["services"][0]["details"], json!({}));

    two.post("/v1/health-checks", json!({ "service_name": "billing", "status": "unhealthy" }))
        .await
        .expect(202);
    let list = one.get("/v1/services?limit=1").await.expect(200);
    assert_eq!(list["services"].as_array().unwrap().len(), 1);
    assert_eq!(list["services"][0]["status"], "unhealthy");
    let next = format!("/v1/services?limit=1&cursor={}", list["next_cursor"].as_str().unwrap());
    let list = one.get(&next).await.expect(200);
    assert_eq!(
        (&list["services"][0]["service_name"], &list["next_cursor"]),
        (&json!("user-auth-service"), &Value::Null)
    );
}

#[tokio::test]
async fn a_repeated_key_does_not_bring_back_what_was() {
    let town = Town::new().await;
    let api = town.api().await;
    let keyed = |status: &str| {
        ask("POST", "/v1/health-checks")
            .header("idempotency-key", "k")
            .json(json!({ "service_name": "a", "status": status }).to_string())
    };
    let first = api.send(&keyed("unhealthy")).await.expect(202);
    api.post("/v1/health-checks", json!({ "service_name": "a", "status": "healthy" })).await.expect(202);
    let again = api.send(&keyed("unhealthy")).await.expect(200);
    assert_eq!((&again["health_check_id"], &again["duplicate"]), (&first["health_check_id"], &json!(true)));
    assert_eq!(api.get("/v1/services").await.expect(200)["services"][0]["status"], "healthy");
}

#[tokio::test]
async fn what_is_wrong_is_named_and_changes_nothing() {
    let town = Town::new().await;
    let api = town.api().await;
    let large = json!({ "x": "x".repeat(8 << 10) });
    let table = [
        (json!({ "status": "healthy" }), field("service_name", "missing")),
        (json!({ "service_name": "a" }), field("status", "missing")),
        (json!({ "service_name": "", "status": "healthy" }), field("service_name", "empty")),
        (json!({ "service_name": "a b", "status": "healthy" }), field("service_name", "' '")),
        (json!({ "service_name": "a", "status": "fine" }), field("status", "healthy")),
        (
            json!({ "service_name": "a", "status": "healthy", "details": 1 }),
            field("details", "not an object"),
        ),
        (json!({ "service_name": "a", "status": "healthy", "version": "a\n" }), field("version", "control")),
        (
            json!({ "service_name": "a", "status": "healthy", "details": large }),
            refused(413, "body_too_large", "body", "8192"),
        ),
    ];
    let before = town.dump().await;
    for (request, expected) in table {
        let answer = api.post("/v1/health-checks", request).await;
        judge(&answer, expected).unwrap_or_else(|problem| panic!("{problem}: {}", answer.text()));
    }
    for (query, name) in [("limit=0", "limit"), ("limit=501", "limit"), ("cursor=!", "cursor"), ("x=1", "x")]
    {
        assert_eq!(api.get(&format!("/v1/services?{query}")).await.expect(422)["details"]["field"], name);
    }
    assert_eq!(town.dump().await, before);
}
