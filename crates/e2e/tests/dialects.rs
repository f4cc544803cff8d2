//! Two APIs, one backbone: what either publishes the other's subscribers get, one message goes out in every form there
//! is, and either API acknowledges it, also before a webhook was answered, or not at all.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use postroad_e2e::load::Post;
use postroad_e2e::{Kind, Subscriber, Town, all_to_all, signature};
use postroad_testkit::receiver::{Answer, Keep, Recorded};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(10);

async fn town() -> Result<Arc<Town>> {
    Town::builder().keep(Keep::Everything).start().await
}

async fn call(town: &Town, path: &str, body: Value) -> Result<Value> {
    town.api(Kind::Ingest, 0)?.post(path, body.to_string()).await?.expect(200)
}

async fn get(town: &Town, path: &str) -> Result<Value> {
    town.api(Kind::Ingest, 0)?.get(path).await?.expect(200)
}

/// One subscription's delivery of a message, as `/v1` tells it.
async fn delivery(town: &Town, message: &str, subscriber: &Subscriber) -> Result<Value> {
    let shown = get(town, &format!("/v1/messages/{message}/deliveries")).await?;
    let rows = shown["deliveries"].as_array().context("deliveries")?;
    let row = rows.iter().find(|row| row["subscription_id"] == subscriber.id.as_str());
    row.cloned().with_context(|| format!("no delivery for {}: {shown}", subscriber.name))
}

async fn got(town: &Town, subscriber: &Subscriber, count: usize) -> Result<Vec<Arc<Recorded>>> {
    let got = town.receiver.wait_for(&subscriber.path, count, PATIENCE).await?;
    for request in &got {
        signature::verify(&subscriber.secret, request).with_context(|| subscriber.name.clone())?;
    }
    Ok(got)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_api_publishes_the_others_subscribers_get() -> Result<()> {
    let town = town().await?;
    let outcome = both_ways(&town).await;
    town.explain(outcome).await
}

async fn both_ways(town: &Arc<Town>) -> Result<()> {
    let subscribers = [
        town.subscribe("v1", json!({ "channel": "delivery.events", "routing_key": "delivery.*" })).await?,
        town.subscribe_queue("queue", json!({ "queue": "delivery.events", "routing_key": "delivery.*" }))
            .await?,
    ];
    let payload = json!({ "event_type": "delivery_created", "delivery_id": "550e8400", "stops": [1, 2.5] });
    for (id, key) in [("of-v1", "delivery.created"), ("other-v1", "payment.created")] {
        let post = Post::new(id, "delivery.events").with("payload", payload.clone()).with("routing_key", key);
        town.publish(&post).await?;
    }
    for (id, key) in [("of-queue", "delivery.updated"), ("other-queue", "payment.created")] {
        let body = json!({
            "queue": "delivery.events", "message": payload, "routing_key": key, "message_id": id, "ttl": 3_600,
            "headers": { "content_type": "application/json", "priority": "high", "retry_count": 0 },
        });
        call(town, "/message-queue/publish", body).await?;
    }
    town.quiet(PATIENCE).await?;
    for subscriber in &subscribers {
        for request in got(town, subscriber, 2).await? {
            let body = request.json()?;
            ensure!(body["payload"] == payload, "{body}");
            ensure!(body["subscription_id"] == subscriber.id.as_str(), "{body}");
            ensure!(body["channel"] == "delivery.events" && body["delivery_attempt"] == 1, "{body}");
            ensure!(request.header("webhook-id") == body["message_id"].as_str(), "{body}");
            if body["message_id"] == "of-queue" {
                let metadata = &body["metadata"];
                ensure!(body["routing_key"] == "delivery.updated", "{body}");
                ensure!(metadata["priority"] == "high" && metadata["ttl"] == 3_600, "{body}");
                ensure!(metadata["headers"]["retry_count"] == 0, "{body}");
            }
        }
    }
    // Each API tells of the other's message.
    let shown = get(town, "/message-queue/messages/of-v1").await?;
    ensure!(shown["message"] == payload && shown["status"] == "delivered", "{shown}");
    ensure!(shown["consumed_at"].is_string() && shown["acknowledged_at"].is_string(), "{shown}");
    let shown = get(town, "/v1/messages/of-queue").await?;
    ensure!(shown["payload"] == payload && shown["status"] == "delivered", "{shown}");
    let shown = get(town, "/v1/messages/other-queue").await?;
    ensure!(shown["status"] == "unroutable", "{shown}");
    let messages = BTreeSet::from(["of-v1", "of-queue"].map(str::to_owned));
    let balance = town.conserved(&all_to_all(&subscribers, &messages)).await?;
    ensure!((balance.delivered, balance.duplicates) == (4, 0), "{balance}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_message_in_every_form() -> Result<()> {
    let town = town().await?;
    let outcome = every_form(&town).await;
    town.explain(outcome).await
}

/// As it is published: no two spellings of its numbers are the same to a subscriber.
const PAYLOAD: &str = r#"{"total": 1.50, "lines": [{"sku":"ä-1","n":1e2}], "note": null}"#;

async fn every_form(town: &Arc<Town>) -> Result<()> {
    let manual = |format: &str| json!({ "channel": "orders", "format": format, "auto_ack": false, "retry_delay": 0.1 });
    let native = town.subscribe("native", manual("native")).await?;
    let events = town.subscribe("events", manual("cloudevents")).await?;
    let raw = town.subscribe("raw", manual("raw")).await?;
    let binary =
        town.subscribe("binary", json!({ "channel": "orders", "format": "cloudevents-binary" })).await?;
    let batch = town.subscribe("batch", json!({ "channel": "orders", "batch_size": 5 })).await?;
    let pulled = town.subscribe("pulled", json!({ "channel": "orders", "callback_url": null })).await?;
    let metadata = json!({
        "message_id": "order-1", "correlation_id": "request-7", "reply_to": "answers", "priority": "high",
        "ttl": 3_600, "content_type": "application/json", "headers": { "x-shop": "north", "count": 2 },
    });
    let body = format!(
        r#"{{"channel":"orders","routing_key":"order.created","ordering_key":"c7","service_name":"shop",
            "payload":{PAYLOAD},"metadata":{metadata}}}"#
    );
    town.api(Kind::Ingest, 0)?.post("/v1/messages", body).await?.expect(202)?;

    // One shape, three ways to it: alone, in a batch, pulled.
    let alone = got(town, &native, 1).await?.remove(0);
    is_delivery(&alone.json()?, &native, &metadata)?;
    let text = String::from_utf8(alone.body.to_vec())?;
    ensure!(text.contains(&format!(r#""payload":{PAYLOAD},"#)), "the payload as it was published: {text}");
    let batched = got(town, &batch, 1).await?.remove(0);
    ensure!(batched.header("webhook-id").is_some_and(|id| id.starts_with("bat_")), "{batched}");
    let deliveries = batched.json()?["deliveries"].take();
    ensure!(deliveries.as_array().map(Vec::len) == Some(1), "{deliveries}");
    is_delivery(&deliveries[0], &batch, &metadata)?;
    let taken =
        call(town, &format!("/v1/subscriptions/{}/pull", pulled.id), json!({ "wait_seconds": 5 })).await?;
    ensure!(taken["deliveries"].as_array().map(Vec::len) == Some(1), "{taken}");
    is_delivery(&taken["deliveries"][0], &pulled, &metadata)?;
    let stamps = [&alone.json()?, &deliveries[0], &taken["deliveries"][0]].map(|d| d["metadata"].clone());
    ensure!(stamps[0] == stamps[1] && stamps[1] == stamps[2], "{stamps:?}");
    is_event(&got(town, &events, 1).await?[0], &got(town, &binary, 1).await?[0], &stamps[0])?;
    let plain = got(town, &raw, 1).await?.remove(0);
    ensure!(plain.body == PAYLOAD.as_bytes(), "{:?}", plain.body);
    for (name, value) in [
        ("content-type", "application/json"),
        ("postroad-channel", "orders"),
        ("postroad-routing-key", "order.created"),
    ] {
        ensure!(plain.header(name) == Some(value), "{name}: {:?}", plain.headers);
    }

    let subscribers = [native, events, raw, binary, batch, pulled];
    acknowledged_through_both(town, &subscribers).await?;
    let [native, events, raw, binary, ..] = subscribers;
    // What the receiver's log tells of: a batch has an id of its own, and what was pulled it never saw.
    let told = [native, events, raw, binary];
    let balance = town.conserved(&all_to_all(&told, &BTreeSet::from(["order-1".to_owned()]))).await?;
    // The rejected one was delivered twice.
    ensure!((balance.delivered, balance.duplicates) == (4, 1), "{balance}");
    Ok(())
}

fn is_delivery(delivery: &Value, subscriber: &Subscriber, metadata: &Value) -> Result<()> {
    ensure!(delivery["message_id"] == "order-1" && delivery["channel"] == "orders", "{delivery}");
    ensure!(delivery["subscription_id"] == subscriber.id.as_str(), "{delivery}");
    ensure!(delivery["payload"] == serde_json::from_str::<Value>(PAYLOAD)?, "{delivery}");
    ensure!(delivery["delivery_attempt"] == 1 && delivery["max_attempts"] == 4, "{delivery}");
    ensure!(delivery["routing_key"] == "order.created" && delivery["ordering_key"] == "c7", "{delivery}");
    ensure!(delivery["delivered_at"].is_string(), "{delivery}");
    for (name, value) in metadata.as_object().context("metadata")? {
        ensure!(delivery["metadata"][name] == *value, "{name} of {delivery}");
    }
    Ok(())
}

/// In both of HTTP's modes it is the same event.
fn is_event(structured: &Recorded, binary: &Recorded, metadata: &Value) -> Result<()> {
    ensure!(structured.header("content-type") == Some("application/cloudevents+json"), "{structured}");
    let event = structured.json()?;
    ensure!(event["data"] == serde_json::from_str::<Value>(PAYLOAD)?, "{event}");
    ensure!(binary.body == PAYLOAD.as_bytes(), "{:?}", binary.body);
    ensure!(binary.header("content-type") == event["datacontenttype"].as_str(), "{:?}", binary.headers);
    for (name, value) in [
        ("specversion", "1.0"),
        ("id", "order-1"),
        ("source", "/postroad/default/channels/orders"),
        ("type", "order.created"),
        ("time", metadata["timestamp"].as_str().context("timestamp")?),
        ("correlationid", "request-7"),
        ("partitionkey", "c7"),
    ] {
        ensure!(event[name] == value, "{name} of {event}");
        ensure!(binary.header(&format!("ce-{name}")) == Some(value), "{name} of {:?}", binary.headers);
    }
    Ok(())
}

/// v1's acknowledgment, the other API's, a rejection with what follows, and the batch of who pulls.
async fn acknowledged_through_both(town: &Town, subscribers: &[Subscriber; 6]) -> Result<()> {
    let [native, events, raw, binary, batch, pulled] = subscribers;
    for (subscriber, state) in [
        (native, "awaiting_ack"),
        (events, "awaiting_ack"),
        (raw, "awaiting_ack"),
        (binary, "delivered"),
        (batch, "delivered"),
        (pulled, "awaiting_ack"),
    ] {
        stands(town, subscriber, state).await?;
    }
    let ack = json!({ "message_id": "order-1", "subscription_id": native.id, "success": true });
    call(town, "/v1/messages/order-1/ack", ack).await?;
    stands(town, native, "delivered").await?;
    // The delivery of the service that speaks.
    let said =
        json!({ "acknowledged_by": "events", "processing_time": 12, "success": true, "notes": "done" });
    let answer = call(town, "/message-queue/messages/order-1/acknowledge", said).await?;
    ensure!(answer["acknowledged"] == true && answer["acknowledged_by"] == "events", "{answer}");
    stands(town, events, "delivered").await?;
    let said = json!({ "rejected_by": "raw", "reason": "not now", "requeue": true });
    let answer = call(town, "/message-queue/messages/order-1/reject", said).await?;
    ensure!(answer["rejected"] == true && answer["requeued"] == true, "{answer}");
    got(town, raw, 2).await?;
    stands(town, raw, "awaiting_ack").await?;
    let said = json!({ "acknowledged_by": "raw", "success": true });
    call(town, "/message-queue/messages/order-1/acknowledge", said).await?;
    let said = json!({ "acknowledge": ["order-1"] });
    let answer = call(town, &format!("/v1/subscriptions/{}/ack", pulled.id), said).await?;
    ensure!(answer["success"] == true && answer["results"][0]["message_id"] == "order-1", "{answer}");
    town.quiet(PATIENCE).await?;
    for subscriber in subscribers {
        stands(town, subscriber, "delivered").await?;
    }
    let shown = get(town, "/message-queue/messages/order-1").await?;
    ensure!(shown["status"] == "delivered" && shown["retry_count"] == 1, "{shown}");
    Ok(())
}

/// Waits until a delivery of `order-1` is in that state: a receiver has seen it before it is settled.
async fn stands(town: &Town, subscriber: &Subscriber, state: &str) -> Result<()> {
    postroad_testkit::wait::eventually(PATIENCE, format!("{} to be {state}", subscriber.name), async || {
        let delivery = delivery(town, "order-1", subscriber).await?;
        ensure!(delivery["state"] == state, "{delivery}");
        anyhow::Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_early_or_not_at_all() -> Result<()> {
    let town = town().await?;
    let outcome = acknowledgments(&town).await;
    town.explain(outcome).await
}

async fn acknowledgments(town: &Arc<Town>) -> Result<()> {
    let request = |channel: &str| json!({ "channel": channel, "auto_ack": false, "ack_timeout": 1, "max_retries": 3, "retry_delay": 0.1 });
    // One is done with the message while its webhook still waits for an answer.
    let slow = Answer::ok().delay(Duration::from_millis(700));
    let early = town.subscribe_answering("early", request("early"), slow).await?;
    town.publish(&Post::new("early-1", "early")).await?;
    let first = got(town, &early, 1).await?.remove(0);
    let ack = json!({ "subscription_id": early.id });
    let answer = call(town, "/v1/messages/early-1/ack", ack).await?;
    ensure!(answer["status"] == "delivered", "{answer}");
    ensure!(first.answered().is_none(), "the webhook was answered before it was acknowledged");
    let shown = delivery(town, "early-1", &early).await?;
    ensure!(shown["state"] == "delivered", "{shown}");

    // The other one answers 2xx and then forgets to acknowledge, once.
    let forgetful = town.subscribe("forgetful", request("forgetful")).await?;
    let asked = Instant::now();
    town.publish(&Post::new("forgetful-1", "forgetful")).await?;
    let both = got(town, &forgetful, 2).await?;
    ensure!(both[1].at - asked >= Duration::from_secs(1), "it had a second: {:?}", both[1].at - asked);
    ensure!(
        [0, 1].map(|n| both[n].field("/delivery_attempt")) == [Some(json!(1)), Some(json!(2))],
        "{both:?}"
    );
    let shown = delivery(town, "forgetful-1", &forgetful).await?;
    let attempts = shown["attempts"].as_array().context("attempts")?;
    // What is no attempt of ours has the number 0.
    let numbers: Vec<Option<u64>> = attempts.iter().map(|attempt| attempt["attempt"].as_u64()).collect();
    ensure!(numbers.starts_with(&[Some(1), Some(0)]), "{shown}");
    ensure!(attempts[1]["error"] == "no acknowledgment came in time", "{shown}");
    call(town, "/message-queue/messages/forgetful-1/acknowledge", json!({ "acknowledged_by": "forgetful" }))
        .await?;
    town.quiet(PATIENCE).await?;
    ensure!(delivery(town, "forgetful-1", &forgetful).await?["state"] == "delivered");
    // The early one's webhook was answered, too, and nothing came of it: no queue holds anything.
    let shown = delivery(town, "early-1", &early).await?;
    ensure!(shown["state"] == "delivered" && town.receiver.count(&early.path) == 1, "{shown}");
    let mut expected = all_to_all(&[early], &BTreeSet::from(["early-1".to_owned()]));
    expected.extend(all_to_all(&[forgetful], &BTreeSet::from(["forgetful-1".to_owned()])));
    let balance = town.conserved(&expected).await?;
    ensure!((balance.delivered, balance.duplicates) == (2, 1), "{balance}");
    Ok(())
}
