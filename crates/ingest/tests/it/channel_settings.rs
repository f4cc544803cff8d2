//! `/v1/channels`: what is configured, shown, listed and forgotten.

use serde_json::{Value, json};

use crate::kit::{Answer, Town, ask, is_time, judge, path_of, refused, take};

/// `ChannelInfo` of the reference, then what is said besides; without its times.
fn info(name: &str, change: &Value) -> Value {
    let mut info = json!({
        "name": name, "subscriber_count": 0, "message_count": 0,
        "type": "topic", "durable": true, "auto_delete": false, "exclusive": false, "arguments": {},
        "configured": true,
    });
    for (name, value) in change.as_object().unwrap() {
        info[name] = value.clone();
    }
    info
}

/// The channel, with what the reference says of its times checked: `last_activity`, `created_at`.
fn timeless(mut channel: Value) -> (Value, [Value; 3]) {
    let times = take(&mut channel, ["last_activity", "created_at", "updated_at"]);
    assert!(is_time(&times[1]), "{times:?}");
    assert!([&times[0], &times[2]].iter().all(|time| time.is_null() || is_time(time)), "{times:?}");
    (channel, times)
}

#[tokio::test]
async fn a_channel_is_configured_shown_and_forgotten() {
    let town = Town::new().await;
    let (one, two) = (town.api().await, town.api().await);
    let path = "/v1/channels/orders%2Feu:new";
    let gone = |answer: &Answer| {
        judge(answer, refused(404, "not_found", "", "there is no channel \"orders/eu:new\"")).unwrap();
    };
    gone(&one.get(path).await);
    gone(&one.delete(path).await);

    let (first, [last, created, updated]) = timeless(one.put(path, json!({})).await.expect(201));
    assert_eq!(first, info("orders/eu:new", &json!({})));
    assert_eq!((&last, &updated), (&Value::Null, &created));
    let everything = json!({
        "type": "headers", "durable": false, "auto_delete": true, "exclusive": true,
        "arguments": {
            "x-message-ttl": 60_000, "x-max-length": 10, "x-overflow": "reject-publish", "owner": ["a", null],
        },
    });
    let (second, [_, still, later]) = timeless(two.put(path, everything.clone()).await.expect(200));
    assert_eq!(second, info("orders/eu:new", &everything));
    assert!(still == created && later.as_str() >= updated.as_str());
    for api in [&one, &two] {
        assert_eq!(timeless(api.get(path).await.expect(200)).0, second);
    }
    // What is left out gets its default.
    let direct = json!({ "type": "direct", "durable": null });
    assert_eq!(timeless(one.put(path, direct).await.expect(200)).0["durable"], true);
    let third = timeless(two.get(path).await.expect(200)).0;
    assert_eq!(third, info("orders/eu:new", &json!({ "type": "direct" })));

    let mut answer = two.delete(path).await.expect(200);
    let [message] = take(&mut answer, ["message"]);
    assert_eq!(answer, json!({ "success": true, "channel": "orders/eu:new", "settings_forgotten": true }));
    assert!(message.as_str().unwrap().contains("are forgotten"), "{message}");
    for api in [&one, &two] {
        gone(&api.get(path).await);
        gone(&api.delete(path).await);
    }
}

#[tokio::test]
async fn a_channel_appears_on_first_use() {
    let town = Town::new().await;
    let api = town.api().await;
    api.publish(json!({ "channel": "published", "payload": {} })).await.expect(202);
    let named = api.subscribe(json!({ "channel": "named" })).await;
    api.subscribe(json!({ "channel_pattern": "p*" })).await;
    let (published, [last, created, updated]) = timeless(api.get("/v1/channels/published").await.expect(200));
    let mut expected = info("published", &json!({ "configured": false }));
    (expected["subscriber_count"], expected["message_count"]) = (json!(1), json!(1));
    assert_eq!((published, updated), (expected, Value::Null));
    assert!(is_time(&last) && created.as_str() <= last.as_str(), "{created} {last}");

    let (shown, [last, created, _]) = timeless(api.get("/v1/channels/named").await.expect(200));
    assert_eq!((&shown["subscriber_count"], last), (&json!(1), Value::Null));
    assert_eq!(created, named["created_at"]);
    api.post(&format!("{}/pause", path_of(&named)), json!({})).await.expect(200);
    assert_eq!(
        api.get("/v1/channels/named").await.expect(200)["subscriber_count"],
        0,
        "only active ones count"
    );

    // There is nothing to forget, and that is said.
    for name in ["published", "named"] {
        let answer = api.delete(&format!("/v1/channels/{name}")).await.expect(200);
        assert_eq!((&answer["success"], &answer["settings_forgotten"]), (&json!(true), &json!(false)));
        assert!(answer["message"].as_str().unwrap().contains("had no settings"), "{answer}");
    }
    api.delete(&path_of(&named)).await.expect(200);
    api.get("/v1/channels/named").await.refusal().unwrap();
    // A pattern alone makes no channel.
    assert_eq!(api.get("/v1/channels/p").await.status, 404);
}

#[tokio::test]
async fn pages_lead_through_all_of_them() {
    let town = Town::new().await;
    let api = town.api().await;
    assert_eq!(api.get("/v1/channels").await.expect(200), json!({ "channels": [], "next_cursor": null }));
    for n in 0..3 {
        api.put(&format!("/v1/channels/c{n}"), json!({})).await.expect(201);
        api.publish(json!({ "channel": format!("b{n}"), "payload": {} })).await.expect(202);
        api.publish(json!({ "channel": format!("c{n}"), "payload": {} })).await.expect(202);
    }
    api.subscribe(json!({ "channel": "a" })).await;
    api.subscribe(json!({ "channel": "c1" })).await;
    let names = ["a", "b0", "b1", "b2", "c0", "c1", "c2"];
    for limit in [1, 2, 6, 7, 500] {
        let (mut seen, mut cursor, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let page = api.get(&format!("/v1/channels?limit={limit}{cursor}")).await.expect(200);
            let rows = page["channels"].as_array().unwrap();
            assert!(!rows.is_empty() && rows.len() <= limit);
            seen.extend(rows.clone());
            pages += 1;
            let Some(next) = page["next_cursor"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        let seen_names: Vec<&str> = seen.iter().map(|row| row["name"].as_str().unwrap()).collect();
        assert_eq!((seen_names, pages), (names.to_vec(), names.len().div_ceil(limit)));
        for row in seen {
            let name = row["name"].as_str().unwrap();
            assert_eq!(api.get(&format!("/v1/channels/{name}")).await.expect(200), row);
        }
    }
    for query in
        ["limit=0", "limit=501", "limit=x", "cursor=!", "cursor=YSBi", "type=topic", "limit=1&limit=1"]
    {
        let answer = api.get(&format!("/v1/channels?{query}")).await;
        assert_eq!((answer.status, answer.refusal().is_ok()), (422, true), "{query}: {}", answer.text());
    }
}

#[tokio::test]
async fn a_tenant_configures_so_many_and_no_more() {
    let mut town = Town::new().await;
    town.config.ingest.max_channels = 2;
    let api = town.api().await;
    for name in ["a", "b"] {
        api.put(&format!("/v1/channels/{name}"), json!({})).await.expect(201);
    }
    let before = town.dump().await;
    let answer = api.put("/v1/channels/c", json!({})).await;
    judge(&answer, refused(409, "too_many_channels", "", "configured 2 channels, the most")).unwrap();
    assert_eq!(town.dump().await, before);
    api.put("/v1/channels/a", json!({ "type": "fanout" })).await.expect(200);
    api.delete("/v1/channels/b").await.expect(200);
    api.put("/v1/channels/c", json!({})).await.expect(201);
}

#[tokio::test]
async fn settings_that_cannot_be_read_are_mended_by_writing_them() {
    let town = Town::new().await;
    let api = town.api().await;
    town.redis.command(&["HSET", "test:{ctl}:channels", "default/a", "no json"]).await.unwrap();
    town.redis.command(&["HSET", "test:{ctl}:configured", "default", "1"]).await.unwrap();
    api.put("/v1/channels/a", json!({ "type": "direct" })).await.expect(200);
    assert_eq!(api.get("/v1/channels/a").await.expect(200)["type"], "direct");
}

#[tokio::test]
async fn a_name_is_read_out_of_its_path() {
    let town = Town::new().await;
    let api = town.api().await;
    let asked = ask("PUT", "/v1/channels/a%2Eb%3Ac").json("{}");
    assert_eq!(api.send(&asked).await.expect(201)["name"], "a.b:c");
}
