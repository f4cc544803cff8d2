//! `POST /v1/explain`.

use serde_json::{Value, json};

use crate::kit::{Refusals, Town, ask, field, judge, path_of, refused, take};

fn message() -> Value {
    json!({
        "channel": "orders.eu", "payload": { "total": 7 }, "routing_key": "order.new",
        "metadata": { "ttl": 60, "headers": { "kind": "new" } },
    })
}

#[tokio::test]
async fn each_subscription_says_what_decided() {
    let town = Town::new().await;
    let api = town.api().await;
    let topic = [
        (json!({ "channel": "orders" }), Some("channel"), "it listens to channel \"orders\""),
        (json!({ "channel_pattern": "orders.?" }), Some("channel_pattern"), "does not match the channel"),
        (json!({ "channel": "orders.eu", "routing_key": "*.old" }), Some("routing_key"), "topic pattern"),
        (
            json!({ "channel": "orders.eu", "routing_key": "order.*", "header_match": { "kind": "old" } }),
            Some("header_match"),
            "header \"kind\" is not \"old\"",
        ),
        (
            json!({ "channel_pattern": "*", "filter_criteria": { "total": [{ "numeric": [">", 7] }] } }),
            Some("filter_criteria"),
            "does not match the payload",
        ),
        (
            json!({ "channel_pattern": "orders.*", "filter_criteria": { "total": [7] } }),
            None,
            "everything that it names matches: channel_pattern, filter_criteria",
        ),
        (json!({ "channel": "orders.eu", "routing_key": "order.#" }), None, "channel, routing_key"),
    ];
    let mut ids = Vec::new();
    for (selector, ..) in &topic {
        ids.push(api.subscribe(selector.clone()).await["subscription_id"].clone());
    }
    let before = town.dump().await;
    let mut answer = api.post("/v1/explain", message()).await.expect(200);
    assert_eq!(town.dump().await, before, "nothing is stored");
    let [mut rows] = take(&mut answer, ["subscriptions"]);
    let expected = json!({
        "channel": "orders.eu", "channel_type": "topic", "routing_key": "order.new", "persistent": true,
        "expires_after_ms": 60_000, "matched": 2, "next_cursor": null,
    });
    assert_eq!(answer, expected);
    let rows = rows.as_array_mut().unwrap();
    assert!(rows.is_sorted_by_key(|row| row["subscription_id"].to_string()));
    for ((_, condition, says), id) in topic.iter().zip(&ids) {
        let row = rows.iter_mut().find(|row| row["subscription_id"] == *id).unwrap();
        let [explanation] = take(row, ["explanation"]);
        assert!(explanation.as_str().unwrap().contains(says), "{explanation}");
        let expected = json!({
            "subscription_id": id, "service_name": "billing", "matched": condition.is_none(),
            "condition": condition, "status": "active", "parked": false,
        });
        assert_eq!(*row, expected);
    }
    assert_eq!(rows.len(), topic.len());
}

#[tokio::test]
async fn the_channels_settings_and_who_is_paused_are_seen() {
    let town = Town::new().await;
    let (api, other) = (town.api().await, town.api().await);
    let exact = api.subscribe(json!({ "channel": "orders.eu", "routing_key": "order.new" })).await;
    api.subscribe(json!({ "channel": "orders.eu", "routing_key": "order.*" })).await;
    api.post(&format!("{}/pause", path_of(&exact)), json!({})).await.expect(200);
    let arguments = json!({ "x-message-ttl": 500 });
    let settings = json!({ "type": "direct", "durable": false, "arguments": arguments });
    api.put("/v1/channels/orders.eu", settings).await.expect(201);
    let answer = other.post("/v1/explain", message()).await.expect(200);
    let about =
        ["channel_type", "persistent", "expires_after_ms", "matched"].map(|name| answer[name].clone());
    assert_eq!(about, [json!("direct"), json!(false), json!(500), json!(1)]);
    for row in answer["subscriptions"].as_array().unwrap() {
        let is_exact = row["subscription_id"] == exact["subscription_id"];
        assert_eq!((&row["matched"], &row["parked"]), (&json!(is_exact), &json!(is_exact)));
        let says =
            if is_exact { "it is paused, so the delivery would be parked" } else { "on a direct channel" };
        assert!(row["explanation"].as_str().unwrap().contains(says), "{row}");
    }
    let text = json!({ "channel": "orders.eu", "payload": "text" });
    let answer = api.post("/v1/explain", text).await.expect(200);
    assert_eq!((&answer["routing_key"], &answer["matched"]), (&Value::Null, &json!(0)));
}

#[tokio::test]
async fn what_could_not_be_published_is_not_explained() {
    let town = Town::new().await;
    let api = town.api().await;
    let refusals = Refusals::of(&town, &api).await;
    let explain = || ask("POST", "/v1/explain");
    crate::refused::check_bodies(&refusals, "explain", &explain(), &json!({ "channel": "a", "payload": {} }))
        .await;
    let cases = [
        (json!({ "payload": {} }), field("channel", "missing field")),
        (json!({ "channel": "a b", "payload": {} }), field("channel", "contains ' '")),
        (json!({ "channel": "a" }), field("payload", "missing field")),
        (json!({ "channel": "a", "payload": 7 }), field("payload", "must be an object")),
        (
            json!({ "channel": "a", "payload": "x".repeat(300 << 10) }),
            refused(413, "message_too_large", "payload", "at most 262144"),
        ),
        (
            json!({ "channel": "a", "payload": {}, "metadata": { "ttl": 0 } }),
            field("metadata.ttl", "must be 1 to"),
        ),
    ];
    for (body, expected) in cases {
        refusals.check("a wrong message", &explain().json(body.to_string()), expected).await;
    }
    for query in ["cursor=!", "cursor=YSBi", "limit=1"] {
        let ask = ask("POST", format!("/v1/explain?{query}")).json(r#"{"channel":"a","payload":{}}"#);
        let name = query.split('=').next().unwrap();
        let answer = refusals.send(&ask).await;
        let verdict =
            judge(&answer, refused(422, "invalid_field", name.to_owned().leak(), name.to_owned().leak()));
        refusals.note(query, &answer, verdict).await;
    }
    refusals.end();
}
