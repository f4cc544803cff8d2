//! `POST /v1/events` and the catalogue of their types.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::kit::{Api, PATIENCE, Town, ask, field, is_time, judge, refused, take};

async fn message(api: &Api, id: &str) -> Value {
    api.get(&format!("/v1/messages/{id}")).await.expect(200)
}

/// The reference's example, field for field.
#[tokio::test]
async fn an_event_is_the_references_event() {
    let town = Town::new().await;
    let api = town.api().await;
    let request = json!({
        "event_type": "user.created",
        "source_service": "user-auth-service",
        "event_data": { "plan": "free", "big": 12_345_678_901_234_567_890_u64 },
        "entity_type": "user",
        "entity_id": 123,
        "company_id": 1,
        "user_id": "u-456",
        "before_data": {},
        "after_data": { "email": "user@example.com" },
        "correlation_id": "request-uuid",
        "metadata": { "source": "registration" },
    });
    let mut answer = api.post("/v1/events", request.clone()).await.expect(202);
    let [id, at] = take(&mut answer, ["event_id", "published_at"]);
    let id = id.as_str().unwrap();
    assert!(id.starts_with("evt_") && is_time(&at), "{id} {at}");
    let expected = json!({
        "success": true, "event_type": "user.created", "channels": ["events.user.created"], "error": null,
        "registered": true,
    });
    assert_eq!(answer, expected);

    let message = message(&api, id).await;
    let names = ["channel", "routing_key", "service_name"].map(|name| message[name].as_str().unwrap());
    assert_eq!(names, ["events.user.created", "user.created", "user-auth-service"]);
    assert_eq!(message["metadata"]["correlation_id"], "request-uuid");
    let mut event = message["payload"].clone();
    let [stamp] = take(&mut event, ["timestamp"]);
    assert!(is_time(&stamp));
    let mut expected = request;
    expected["id"] = json!(id);
    expected["type"] = json!("event");
    assert_eq!(event, expected);
}

#[tokio::test]
async fn little_needs_to_be_said() {
    let town = Town::new().await;
    let api = town.api().await;
    let nulls = json!({
        "event_type": "a", "source_service": null, "event_data": null, "correlation_id": null, "metadata": null,
        "entity_type": null, "entity_id": null, "company_id": null, "user_id": null, "before_data": null,
        "after_data": null,
    });
    for request in [json!({ "event_type": "a" }), nulls] {
        let answer = api.post("/v1/events", request).await.expect(202);
        assert_eq!(answer["registered"], false, "nobody knows it, and it goes its way");
        let mut event = message(&api, answer["event_id"].as_str().unwrap()).await["payload"].clone();
        let [stamp, id] = take(&mut event, ["timestamp", "id"]);
        assert!(is_time(&stamp) && id == answer["event_id"]);
        let expected = json!({
            "source_service": "anonymous", "type": "event", "event_type": "a", "event_data": {},
            "correlation_id": id, "metadata": {},
        });
        assert_eq!(event, expected);
    }
}

#[tokio::test]
async fn an_idempotency_key_counts_once_on_any_instance() {
    let town = Town::new().await;
    let (one, two) = (town.api().await, town.api().await);
    let send = |event_type: &str| {
        ask("POST", "/v1/events")
            .header("idempotency-key", "k")
            .json(json!({ "event_type": event_type, "correlation_id": "c" }).to_string())
    };
    let mut first = one.send(&send("user.created")).await.expect(202);
    assert_eq!(first.get("duplicate"), None);
    first["duplicate"] = json!(true);
    for (api, event_type) in [(&one, "user.created"), (&two, "user.created")] {
        assert_eq!(api.send(&send(event_type)).await.expect(200), first);
    }
    let other = two.send(&send("user.deleted")).await.expect(200);
    assert_eq!((&other["event_type"], &other["channels"]), (&first["event_type"], &first["channels"]));
    assert_eq!(town.stored().await, 1);
}

#[tokio::test]
async fn what_is_wrong_is_named_and_changes_nothing() {
    let town = Town::new().await;
    let api = town.api().await;
    let large = json!({ "event_type": "a", "event_data": { "x": "x".repeat(256 << 10) } });
    let table = [
        (json!({}), field("event_type", "missing")),
        (json!({ "event_type": "" }), field("event_type", "empty")),
        (json!({ "event_type": "a b" }), field("event_type", "' '")),
        (json!({ "event_type": "x".repeat(249) }), field("event_type", "256 bytes")),
        (json!({ "event_type": 1 }), field("event_type", "string")),
        (json!({ "event_type": "a", "event_data": [] }), field("event_data", "not an object")),
        (json!({ "event_type": "a", "metadata": "x" }), field("metadata", "not an object")),
        (json!({ "event_type": "a", "after_data": 1 }), field("after_data", "not an object")),
        (json!({ "event_type": "a", "entity_id": 1.5 }), field("entity_id", "whole number or a string")),
        (json!({ "event_type": "a", "user_id": "" }), field("user_id", "0 bytes")),
        (json!({ "event_type": "a", "company_id": "a\n" }), field("company_id", "control")),
        (json!({ "event_type": "a", "entity_type": "a\u{0}" }), field("entity_type", "control")),
        (json!({ "event_type": "a", "source_service": "" }), field("source_service", "empty")),
        (json!({ "event_type": "a", "correlation_id": "x".repeat(256) }), field("correlation_id", "256")),
        (json!({ "event_type": "a", "extra": 1 }), field("extra", "unknown field")),
        (large, refused(413, "message_too_large", "payload", "at most 262144")),
    ];
    let before = town.dump().await;
    for (request, expected) in table {
        let answer = api.post("/v1/events", request.clone()).await;
        judge(&answer, expected)
            .unwrap_or_else(|problem| panic!("{request:.200}: {problem}: {}", answer.text()));
    }
    assert_eq!(town.dump().await, before);
}

#[tokio::test]
async fn the_catalogue_holds_what_the_reference_lists() {
    let town = Town::new().await;
    let api = town.api().await;
    let list = api.get("/v1/event-types").await.expect(200);
    assert_eq!(
        list["categories"],
        json!(["User", "Company", "Partner", "Currency", "System", "Audit", "Menu", "Security"])
    );
    let types = list["event_types"].as_array().unwrap();
    let named: BTreeSet<&str> = types.iter().map(|one| one["event_type"].as_str().unwrap()).collect();
    // Every `- `a.b` - …` line of the reference, and those that the contract adds.
    let reference = "user.created user.updated user.deleted user.logged_in user.logged_out user.password_changed \
        user.locked user.unlocked company.created company.updated company.activated company.deactivated \
        partner.created partner.updated partner.address_added partner.contact_added currency.rate_updated \
        service.started service.stopped security.violation audit.log_created menu.created menu.updated menu.deleted \
        role.assigned role.revoked permission.changed";
    assert_eq!(named, reference.split_whitespace().collect());
    assert_eq!(named.len(), types.len());
    let expected = json!({
        "event_type": "user.created", "category": "User", "description": "New user registered", "builtin": true,
        "schema": null, "version": null, "created_at": null, "updated_at": null,
    });
    assert_eq!(types[0], expected);
    assert_eq!(api.get("/v1/event-types/user.created").await.expect(200), expected);
    let menu = api.get("/v1/event-types?category=menu").await.expect(200);
    assert_eq!(menu["event_types"].as_array().unwrap().len(), 3);
    api.get("/v1/event-types/no.such").await.expect(404);
    assert_eq!(api.get("/v1/event-types?limit=1").await.expect(422)["details"]["field"], "limit");
}

#[tokio::test]
async fn a_schema_holds_on_every_instance_within_a_second() {
    let town = Town::new().await;
    let (one, two) = (town.api().await, town.api().await);
    let event = json!({ "event_type": "order.shipped", "event_data": { "items": [{ "count": 0 }] } });
    // Both know that there is nothing registered.
    for api in [&one, &two] {
        assert_eq!(api.post("/v1/events", event.clone()).await.expect(202)["registered"], false);
    }
    let schema = json!({
        "type": "object", "required": ["items"],
        "properties": { "items": { "items": { "properties": { "count": { "type": "integer", "minimum": 1 } } } } },
    });
    let request = json!({ "category": "Orders", "description": "An order left", "schema": schema });
    let mut put =
        one.send(&ask("PUT", "/v1/event-types/order.shipped").json(request.to_string())).await.expect(201);
    let [created, updated, version] = take(&mut put, ["created_at", "updated_at", "version"]);
    assert!(is_time(&created) && created == updated && version.is_u64(), "{created} {updated} {version}");
    let expected = json!({
        "event_type": "order.shipped", "category": "Orders", "description": "An order left", "builtin": false,
        "schema": schema,
    });
    assert_eq!(put, expected);

    let violated = |answer: &crate::kit::Answer| {
        judge(answer, refused(422, "schema_violation", "event_data", "/items/0/count"))
    };
    let here = one.post("/v1/events", event.clone()).await;
    violated(&here).unwrap();
    assert_eq!(here.refusal().unwrap()["details"]["path"], "/items/0/count");
    let there = async || violated(&two.post("/v1/events", event.clone()).await);
    postroad_testkit::wait::eventually(PATIENCE, "the other instance to know", there).await.unwrap();
    let good = json!({ "event_type": "order.shipped", "event_data": { "items": [{ "count": 1 }] } });
    assert_eq!(two.post("/v1/events", good.clone()).await.expect(202)["registered"], true);
    // What the data leaves out, it leaves out.
    let none = json!({ "event_type": "order.shipped", "after_data": { "items": [] } });
    assert_eq!(one.post("/v1/events", none).await.refusal().unwrap()["details"]["path"], "");

    let changed = json!({ "schema": { "type": "object" } });
    let changed =
        two.send(&ask("PUT", "/v1/event-types/order.shipped").json(changed.to_string())).await.expect(200);
    assert!(changed["version"].as_u64() > version.as_u64() && changed["created_at"] == created);
    assert_eq!(changed["category"], "Custom");
    let loose = async || match one.post("/v1/events", event.clone()).await.status {
        202 => Ok(()),
        status => Err(format!("{status}")),
    };
    postroad_testkit::wait::eventually(PATIENCE, "the change to be known", loose).await.unwrap();

    assert_eq!(one.delete("/v1/event-types/order.shipped").await.expect(200)["success"], true);
    one.delete("/v1/event-types/order.shipped").await.expect(404);
    one.get("/v1/event-types/order.shipped").await.expect(404);
}

#[tokio::test]
async fn a_type_of_the_catalogue_may_get_a_schema_and_lose_it() {
    let town = Town::new().await;
    let api = town.api().await;
    let put = async |body: Value| {
        api.send(&ask("PUT", "/v1/event-types/user.created").json(body.to_string())).await
    };
    let answer = put(json!({ "category": "User", "schema": { "required": ["email"] } })).await.expect(201);
    assert_eq!((&answer["builtin"], &answer["description"]), (&json!(true), &json!("New user registered")));
    judge(&put(json!({ "category": "Mine" })).await, field("category", "User")).unwrap();
    api.post("/v1/events", json!({ "event_type": "user.created" })).await.expect(422);
    let list = api.get("/v1/event-types").await.expect(200);
    assert_eq!(list["event_types"][0]["schema"], json!({ "required": ["email"] }));
    assert_eq!(list["event_types"].as_array().unwrap().len(), 27);
    api.delete("/v1/event-types/user.created").await.expect(200);
    api.post("/v1/events", json!({ "event_type": "user.created" })).await.expect(202);
    api.get("/v1/event-types/user.created").await.expect(200);
}

#[tokio::test]
async fn registrations_are_checked_and_bounded() {
    let mut town = Town::new().await;
    town.config.ingest.max_event_types = 2;
    let api = town.api().await;
    let put = async |name: &str, body: Value| {
        api.send(&ask("PUT", format!("/v1/event-types/{name}")).json(body.to_string())).await
    };
    let mut deep = json!({});
    for _ in 0..40 {
        deep = json!({ "not": deep });
    }
    let table = [
        ("a%20b", json!({}), field("event_type", "' '")),
        ("a", json!({ "schema": { "$ref": "http://example.com/x" } }), field("schema", "leads out")),
        ("a", json!({ "schema": { "properties": { "a": { "$ref": "#" } } } }), field("schema", "itself")),
        ("a", json!({ "schema": deep }), field("schema", "deep")),
        ("a", json!({ "schema": { "type": 1 } }), field("schema", "/type")),
        ("a", json!({ "schema": { "enum": ["x".repeat(64 << 10)] } }), field("schema", "bytes long")),
        ("a", json!({ "schema": [] }), field("schema", "object")),
        ("a", json!({ "category": "" }), field("category", "0 bytes")),
        ("a", json!({ "description": "a\u{7}" }), field("description", "control")),
        ("a", json!({ "name": 1 }), field("name", "unknown field")),
    ];
    let before = town.dump().await;
    for (name, body, expected) in table {
        let answer = put(name, body.clone()).await;
        judge(&answer, expected)
            .unwrap_or_else(|problem| panic!("{body:.200}: {problem}: {}", answer.text()));
    }
    let twice = ask("PUT", "/v1/event-types/a").json(r#"{"schema":{"type":"object","type":"string"}}"#);
    assert_eq!(api.send(&twice).await.status, 422);
    assert_eq!(town.dump().await, before);
    put("a", json!({})).await.expect(201);
    put("b", json!({ "schema": null })).await.expect(201);
    put("a", json!({ "description": "again" })).await.expect(200);
    judge(&put("c", json!({})).await, refused(409, "too_many_event_types", "", "2 event types")).unwrap();
}
