//! `GET /v1/messages/{id}/deliveries`, for deliveries moved by hand through all that can become of them.

use std::time::Duration;

use postroad_model::{
    delivery::{Attempt, DeadReason, Health, Hold, Place, Progress, Verdict},
    id::SubscriptionId,
};
use postroad_store::{
    ChainLink, Circuit, Claim, Claimed, Lease, Placed, Room, Routed, Settlement, Store, StreamId,
};
use serde_json::{Value, json};

use crate::kit::{Api, Town, is_time, path_of, take};

const TRACE: u64 = 86_400_000;

/// Routes everything in the one partition to a subscription of the one lane.
async fn route(store: &Store, to: &str) {
    let end = StreamId { ms: u64::MAX, seq: u64::MAX };
    let all = store.history(0, StreamId::ZERO, end, 1_000).await.unwrap();
    let to = vec![SubscriptionId::new(to).unwrap()];
    let last = all.last().unwrap().id;
    let placed = |accepted| Placed {
        accepted,
        keep: true,
        rank: 1,
        expires_ms: None,
        line: None,
        max_length: None,
        to: to.clone(),
    };
    // The last one is for nobody.
    let entries = all[..all.len() - 1].iter().map(placed).collect();
    let link = ChainLink { partition: 0, prev: StreamId::ZERO, last, entries };
    store.enqueue(&[(0, vec![link])], TRACE).await.unwrap().pop().unwrap().unwrap();
    let claim = Claim { partition: 0, epoch: None, take: true };
    let claimed = store.claim("router-1", 60_000, &[claim]).await.unwrap().pop().unwrap().unwrap();
    let Claimed::New { epoch, .. } = claimed else { panic!("{claimed:?}") };
    let routed = Routed { partition: 0, epoch, upto: last, sent: vec![(0, last)] };
    assert!(store.routed("router-1", &[routed]).await.unwrap().pop().unwrap().unwrap());
}

async fn settle(store: &Store, lease: Lease, place: Place, attempt: Attempt) {
    let settlement = Settlement {
        verdict: Verdict {
            place,
            progress: Progress { attempts: 1, reclaims: 0 },
            health: Health::Good,
            hold: Hold::No,
        },
        attempt: Some(attempt),
        lease,
        ack_timeout: Duration::from_secs(30),
    };
    let circuit = Circuit {
        failures: 0,
        lasting: Duration::ZERO,
        open: Duration::from_secs(1),
        open_max: Duration::from_secs(1),
    };
    let settled = store.settle("w-1", &[(0, vec![settlement])], circuit, TRACE).await.unwrap();
    assert_eq!(settled.into_iter().next().unwrap().unwrap().stale, 0);
}

async fn deliveries(api: &Api, id: &str) -> (Value, Vec<Value>) {
    let mut body = api.get(&format!("/v1/messages/{id}/deliveries")).await.expect(200);
    let [message, status, rows] = take(&mut body, ["message_id", "status", "deliveries"]);
    assert_eq!((message, body), (json!(id), json!({})));
    let shown = api.get(&format!("/v1/messages/{id}")).await.expect(200);
    let rows = rows.as_array().unwrap().clone();
    assert_eq!((&shown["status"], &shown["deliveries"]), (&status, &json!(rows.len())));
    (status, rows)
}

#[tokio::test]
async fn each_says_where_it_lies_and_what_it_has_been_through() {
    let mut town = Town::new().await;
    (town.config.base.layout.partitions, town.config.base.layout.lanes) = (1, 1);
    let (api, store) = (town.api().await, town.store());
    let created = api.subscribe(json!({ "channel": "a" })).await;
    let subscription = created["subscription_id"].as_str().unwrap();
    let places = [
        ("delivered", Some(Place::Settled), Value::Null),
        ("retry_scheduled", Some(Place::Later { delay_ms: 600_000 }), Value::Null),
        ("awaiting_ack", Some(Place::AwaitingAck), Value::Null),
        ("dead", Some(Place::Dead(DeadReason::RetriesExhausted)), json!("retries_exhausted")),
        ("expired", Some(Place::Dead(DeadReason::Expired)), json!("expired")),
        ("in_flight", None, Value::Null),
    ];
    let ids = places.iter().map(|(state, ..)| *state).chain(["queued", "unroutable"]);
    for id in ids.clone() {
        api.publish(json!({ "channel": "a", "payload": {}, "metadata": { "message_id": id } }))
            .await
            .expect(202);
        assert_eq!(deliveries(&api, id).await, (json!("accepted"), vec![]));
    }
    route(&store, subscription).await;
    for id in ids.clone().take(7) {
        assert_eq!(deliveries(&api, id).await.0, "queued");
    }
    assert_eq!(deliveries(&api, "unroutable").await, (json!("unroutable"), vec![]));

    let room = Room { free: 6, spare: 6, quantum: 6, quantum_bytes: 1 << 20, ..Room::UNBOUNDED };
    let taken = store.take("w-1", &[(0, room)]).await.unwrap().pop().unwrap().unwrap();
    assert_eq!(taken.leases.len(), places.len());
    for (lease, (state, place, _)) in taken.leases.into_iter().zip(&places) {
        let Some(place) = place else { continue };
        let attempt = Attempt {
            number: 1,
            started_at_ms: 1_705_321_800_123,
            duration_ms: 7,
            status: Some(503),
            error: Some(format!("{state}: answered 503")),
            response: Some("sorry\u{1f600}".into()),
        };
        settle(&store, lease, *place, attempt).await;
    }
    for (state, place, dead_reason) in &places {
        let (status, mut rows) = deliveries(&api, state).await;
        assert_eq!((status, rows.len()), (json!(state), 1));
        let [queued_at, due_at, consumed_at, acknowledged_at] =
            take(&mut rows[0], ["queued_at", "due_at", "consumed_at", "acknowledged_at"]);
        assert!(consumed_at.is_null(), "it was answered with 503");
        assert_eq!(is_time(&acknowledged_at), *state == "delivered", "{acknowledged_at}");
        assert!(is_time(&queued_at), "{queued_at}");
        let is_due = ["retry_scheduled", "awaiting_ack"].contains(state);
        assert!(if is_due { is_time(&due_at) } else { due_at.is_null() }, "{state}: {due_at}");
        let attempt = json!({
            "attempt": 1,
            "started_at": "2024-01-15T12:30:00.123Z",
            "duration_ms": 7,
            "status_code": 503,
            "error": format!("{state}: answered 503"),
            "response": "sorry\u{1f600}",
        });
        let expected = json!({
            "subscription_id": subscription,
            "state": state,
            "dead_reason": dead_reason,
            "attempts": if place.is_some() { vec![attempt] } else { vec![] },
        });
        assert_eq!(rows[0], expected);
    }
    let info = api.get(&path_of(&created)).await.expect(200);
    let figures = ["message_count", "queued", "dead_letters"].map(|name| info[name].as_u64().unwrap());
    assert_eq!(figures, [1, 4, 2], "{info}");

    api.delete(&path_of(&created)).await.expect(200);
    for id in ["queued", "in_flight", "retry_scheduled", "awaiting_ack"] {
        assert_eq!(deliveries(&api, id).await.0, "cancelled", "{id}");
    }
    assert_eq!(deliveries(&api, "delivered").await.0, "delivered");
}

#[tokio::test]
async fn a_command_is_pending_then_delivered_then_answered() {
    let mut town = Town::new().await;
    (town.config.base.layout.partitions, town.config.base.layout.lanes) = (1, 1);
    let (api, store) = (town.api().await, town.store());
    let created = api.subscribe(json!({ "channel": "commands.billing" })).await;
    let command = async || {
        let request = json!({ "command_type": "charge", "target_service": "billing" });
        let receipt = api.post("/v1/commands", request).await.expect(202);
        format!("/v1/commands/{}", receipt["command_id"].as_str().unwrap())
    };
    let (first, nobodys) = (command().await, command().await);
    let state = async |path: &str| {
        let state = api.get(path).await.expect(200);
        (state["status"].as_str().unwrap().to_owned(), state["delivery_status"].as_str().unwrap().to_owned())
    };
    let is = |status: &str, delivery: &str| (status.to_owned(), delivery.to_owned());
    assert_eq!(state(&first).await, is("pending", "accepted"));
    route(&store, created["subscription_id"].as_str().unwrap()).await;
    assert_eq!(state(&first).await, is("pending", "queued"));
    assert_eq!(state(&nobodys).await, is("pending", "unroutable"));
    let room = Room { free: 6, spare: 6, quantum: 6, quantum_bytes: 1 << 20, ..Room::UNBOUNDED };
    let mut taken = store.take("w-1", &[(0, room)]).await.unwrap().pop().unwrap().unwrap();
    let attempt = Attempt {
        number: 1,
        started_at_ms: 1,
        duration_ms: 1,
        status: Some(204),
        error: None,
        response: None,
    };
    settle(&store, taken.leases.pop().unwrap(), Place::Settled, attempt).await;
    assert_eq!(state(&first).await, is("delivered", "delivered"));
    api.post(&format!("{first}/response"), json!({})).await.expect(201);
    assert_eq!(state(&first).await, is("completed", "delivered"));
}
