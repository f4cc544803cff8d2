//! `deliver_at`, `delay_seconds` and `DELETE /v1/messages/{id}`.

use postroad_model::time::Time;
use serde_json::{Value, json};

use crate::kit::{Api, Town, ask, is_time, refused, take};

const WINDOW: u64 = 86_400_000;

async fn town() -> (Town, Api) {
    let mut town = Town::new().await;
    (town.config.base.layout.partitions, town.config.base.layout.lanes) = (1, 1);
    let api = town.api().await;
    (town, api)
}

fn ms(value: &Value) -> u64 {
    Time::parse(value.as_str().unwrap()).unwrap().as_millis()
}

fn named(id: &str, more: &Value) -> Value {
    let mut request = json!({ "channel": "orders", "payload": { "n": 1 }, "metadata": { "message_id": id } });
    for (name, value) in more.as_object().unwrap() {
        request[name] = value.clone();
    }
    request
}

/// Lets everything that waits be due, and moves it as a router would.
async fn let_time_pass(town: &Town) {
    const AGE: &str = "
        for _, key in ipairs(redis.call('KEYS', '*}:delayed')) do
          for _, member in ipairs(redis.call('ZRANGE', key, 0, -1)) do redis.call('ZADD', key, 1, member) end
        end";
    town.redis.command(&["EVAL", AGE, "0"]).await.unwrap();
    town.store().move_due(&[0], WINDOW, 100).await.unwrap().remove(0).unwrap();
}

#[tokio::test]
async fn a_message_is_scheduled_until_it_is_due() {
    let (town, api) = town().await;
    let (now_ms, _) = town.store().delayed(&[0]).await.unwrap();
    let in_an_hour = Time::from_millis(now_ms + 3_600_000);
    let asks = [
        named("by-time", &json!({ "deliver_at": in_an_hour, "delay_seconds": null })),
        named("by-delay", &json!({ "delay_seconds": 3_600 })),
        named("fleeting", &json!({ "delay_seconds": 3_600, "persistent": false })),
    ];
    for request in asks {
        let id = request["metadata"]["message_id"].as_str().unwrap().to_owned();
        let mut first = api.publish(request.clone()).await.expect(202);
        let [at, due] = take(&mut first, ["timestamp", "deliver_at"]);
        let expected = json!({
            "success": true, "message_id": id, "channel": "orders", "correlation_id": id, "error": null,
        });
        assert_eq!(first, expected);
        assert!((3_590_000..=3_600_000).contains(&(ms(&due) - ms(&at))), "{at} {due}");
        // Repeated, also without the delay, it is the first one's result.
        for request in [request, named(&id, &json!({}))] {
            let mut again = api.publish(request).await.expect(200);
            let [duplicate] = take(&mut again, ["duplicate"]);
            assert_eq!(duplicate, json!(true));
            assert_eq!((&again["timestamp"], &again["deliver_at"]), (&at, &due));
        }
        let path = format!("/v1/messages/{id}");
        let shown = api.get(&path).await.expect(200);
        assert_eq!((&shown["status"], &shown["deliveries"]), (&json!("scheduled"), &json!(0)));
        assert_eq!((&shown["published_at"], &shown["deliver_at"]), (&at, &due));
        assert_eq!((&shown["payload"], &shown["channel"]), (&json!({ "n": 1 }), &json!("orders")));
        let deliveries = api.get(&format!("{path}/deliveries")).await.expect(200);
        assert_eq!(deliveries, json!({ "message_id": id, "status": "scheduled", "deliveries": [] }));
        assert_eq!(town.stored().await, 0);

        let_time_pass(&town).await;
        let shown = api.get(&path).await.expect(200);
        assert_eq!((&shown["status"], &shown["published_at"]), (&json!("accepted"), &at));
        assert!(shown.get("deliver_at").is_none(), "{shown}");
        let mut again = api.publish(named(&id, &json!({}))).await.expect(200);
        let [timestamp] = take(&mut again, ["timestamp"]);
        assert_eq!((timestamp, again.get("deliver_at")), (at, None));
        let refusal = api.delete(&path).await.expect(409);
        assert_eq!(refusal["error_code"], "already_published");
        town.redis.command(&["FLUSHALL"]).await.unwrap();
    }
}

#[tokio::test]
async fn what_is_due_now_or_was_before_is_not_delayed() {
    let (town, api) = town().await;
    let due = [
        json!({ "deliver_at": "2024-01-15T12:30:00+02:00" }),
        json!({ "delay_seconds": 0 }),
        json!({ "deliver_at": null, "delay_seconds": null }),
    ];
    for (n, due) in due.into_iter().enumerate() {
        let id = format!("m{n}");
        let body = api.publish(named(&id, &due)).await.expect(202);
        assert!(body.get("deliver_at").is_none(), "{body}");
        assert_eq!(town.stored().await, n + 1);
        let refusal = api.delete(&format!("/v1/messages/{id}")).await.expect(409);
        assert_eq!(refusal["error_code"], "already_published");
    }
}

#[tokio::test]
async fn what_is_cancelled_is_never_delivered_and_says_so() {
    let (town, api) = town().await;
    let mut due = api.publish(named("a", &json!({ "delay_seconds": 60 }))).await.expect(202);
    let [due] = take(&mut due, ["deliver_at"]);
    let mut first = api.delete("/v1/messages/a").await.expect(200);
    let [at, deliver_at] = take(&mut first, ["cancelled_at", "deliver_at"]);
    assert!(is_time(&at) && deliver_at == due, "{at} {deliver_at}");
    assert_eq!(first, json!({ "success": true, "message_id": "a", "cancelled": true }));
    let mut again = api.delete("/v1/messages/a").await.expect(200);
    let [same, deliver_at] = take(&mut again, ["cancelled_at", "deliver_at"]);
    assert_eq!((same, deliver_at, again), (at.clone(), Value::Null, first));

    let shown = api.get("/v1/messages/a").await.expect(200);
    let expected = json!({
        "message_id": "a", "status": "cancelled", "published_at": null, "cancelled_at": at, "deliveries": 0,
    });
    assert_eq!(shown, expected);
    let deliveries = api.get("/v1/messages/a/deliveries").await.expect(200);
    assert_eq!(deliveries["status"], "cancelled");
    for request in [named("a", &json!({})), named("a", &json!({ "delay_seconds": 1 }))] {
        assert_eq!(api.publish(request).await.expect(200)["duplicate"], true);
    }
    let_time_pass(&town).await;
    assert_eq!(town.stored().await, 0);
    for unknown in ["b", "%ff", "a.b"] {
        let answer = api.delete(&format!("/v1/messages/{unknown}")).await;
        assert!([400, 404].contains(&answer.status), "{}", answer.text());
        answer.refusal().unwrap();
    }
}

#[tokio::test]
async fn one_id_under_several_keys_is_cancelled_under_all() {
    let town = Town::new().await;
    let api = town.api().await;
    for key in ["k", "l", "m", "n"] {
        let request = named("a", &json!({ "delay_seconds": 60, "ordering_key": key }));
        api.publish(request.clone()).await.expect(202);
        assert_eq!(api.publish(request).await.expect(200)["duplicate"], true);
    }
    assert_eq!(api.get("/v1/messages/a").await.expect(200)["status"], "scheduled");
    api.delete("/v1/messages/a").await.expect(200);
    let (_, waiting) = town.store().delayed(&[0, 1, 2, 3]).await.unwrap();
    assert!(waiting.iter().all(|waiting| waiting.messages == 0), "{waiting:?}");
}

#[tokio::test]
async fn a_bulk_may_hold_both_and_a_bound_refuses_only_what_is_above_it() {
    let mut town = Town::new().await;
    (town.config.base.layout.partitions, town.config.ingest.max_delayed) = (1, 2);
    let api = town.api().await;
    let messages = [
        named("now", &json!({})),
        named("later-1", &json!({ "delay_seconds": 60 })),
        named("both", &json!({ "delay_seconds": 60, "deliver_at": "2024-01-15T12:30:00Z" })),
        named("later-2", &json!({ "delay_seconds": 60 })),
        named("later-3", &json!({ "delay_seconds": 60 })),
        named("later-1", &json!({ "delay_seconds": 60 })),
    ];
    let body = api.post("/v1/messages/bulk", json!({ "messages": messages })).await.expect(207);
    assert_eq!((&body["published_count"], &body["failed_count"]), (&json!(4), &json!(2)));
    let rows: Vec<(Option<u64>, bool, bool)> = body["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            (row["status_code"].as_u64(), row.get("deliver_at").is_some(), row.get("duplicate").is_some())
        })
        .collect();
    let (fine, later) = ((None, false, false), (None, true, false));
    let (wrong, full, again) = ((Some(422), false, false), (Some(429), false, false), (None, true, true));
    assert_eq!(rows, [fine, later, wrong, later, full, again]);
    assert_eq!(town.stored().await, 1);

    let answer = api.publish(named("later-3", &json!({ "delay_seconds": 60 }))).await;
    assert_eq!(answer.header("retry-after"), Some("60"));
    assert_eq!(answer.expect(429)["error_code"], "too_many_delayed");
    api.publish(named("later-3", &json!({}))).await.expect(202);
}

#[tokio::test]
async fn a_full_redis_takes_nothing_for_later_and_still_lets_go() {
    let (town, api) = town().await;
    api.publish(named("a", &json!({ "delay_seconds": 60 }))).await.expect(202);
    town.full(true).await;
    let refusal = api.publish(named("b", &json!({ "delay_seconds": 60 }))).await.expect(503);
    assert_eq!(refusal["error_code"], "storage_full");
    api.delete("/v1/messages/a").await.expect(200);
    let judged = crate::kit::judge(
        &api.send(&ask("DELETE", "/v1/messages/b")).await,
        refused(404, "not_found", "", "there is no message"),
    );
    judged.unwrap();
    town.full(false).await;
}
