//! Acknowledgments, wherever the delivery lies when they come.

use postroad_model::delivery::Outcome;
use serde_json::{Value, json};
use tokio::join;

use crate::{
    kit::{Answer, Api, Town, judge, path_of, refused},
    road::Road,
};

const FINE: Outcome = Outcome::Answered { status: 200, retry_after_ms: None };

/// A town with a subscription that acknowledges for itself, and one message on its way to it.
struct Scene {
    town: Town,
    api: Api,
    road: Road,
    subscription: Value,
}

impl Scene {
    async fn new() -> Self {
        Self::with(json!({ "auto_ack": false, "max_retries": 1, "retry_delay": 60 })).await
    }

    async fn with(change: Value) -> Self {
        let town = Road::town().await;
        let api = town.api().await;
        let mut wanted = json!({ "channel": "orders" });
        for (name, value) in change.as_object().unwrap() {
            wanted[name] = value.clone();
        }
        let subscription = api.subscribe(wanted).await;
        let road = Road::of(&town);
        let mut scene = Self { town, api, road, subscription };
        scene.publish("order").await;
        scene
    }

    async fn publish(&mut self, id: &str) {
        let message = json!({ "channel": "orders", "payload": {}, "metadata": { "message_id": id } });
        self.api.publish(message).await.expect(202);
        self.road.route(&[&self.subscription]).await;
    }

    async fn say(&self, id: &str, body: Value) -> Answer {
        self.api.post(&format!("/v1/messages/{id}/ack"), body).await
    }

    async fn done(&self) -> Answer {
        self.say("order", json!({ "message_id": "order", "success": true })).await
    }

    async fn failed(&self) -> Answer {
        self.say("order", json!({ "success": false, "error": "no stock" })).await
    }

    async fn rejected(&self) -> Value {
        let body = json!({ "reject": [{ "message_id": "order", "requeue": false, "error": "nonsense" }] });
        let answer = self.api.post(&format!("{}/ack", path_of(&self.subscription)), body).await;
        answer.json()["results"][0].clone()
    }

    fn answer(&self, status: &str) -> Value {
        json!({
            "success": true, "message_id": "order", "status": status,
            "subscription_id": self.subscription["subscription_id"],
        })
    }

    async fn state(&self) -> String {
        let shown = self.api.get("/v1/messages/order/deliveries").await.expect(200);
        shown["deliveries"][0]["state"].as_str().unwrap().to_owned()
    }

    async fn info(&self) -> Value {
        self.api.get(&path_of(&self.subscription)).await.expect(200)
    }

    /// Nothing is left of it in its queue, and it was delivered once.
    async fn is_settled_once(&self) {
        let info = self.info().await;
        assert_eq!((&info["queued"], &info["dead_letters"]), (&json!(0), &json!(0)));
        assert_eq!(self.state().await, "delivered");
    }
}

#[track_caller]
fn is(answer: &Answer, expected: (u16, &'static str)) {
    let (status, code) = expected;
    judge(answer, refused(status, code, "", ""))
        .unwrap_or_else(|problem| panic!("{problem}: {}", answer.text()));
}

#[tokio::test]
async fn after_the_webhooks_answer() {
    let scene = Scene::new().await;
    let lease = scene.road.take("w-1").await.remove(0);
    scene.road.settle("w-1", lease, &FINE).await;
    assert_eq!(scene.state().await, "awaiting_ack");
    assert_eq!(scene.done().await.expect(200), scene.answer("delivered"));
    scene.is_settled_once().await;
    // Its timer finds nothing.
    assert!(scene.road.promote_early(&scene.town, "w-1").await.missed.is_empty());
    scene.is_settled_once().await;
}

#[tokio::test]
async fn before_the_webhooks_own_answer() {
    for answer in [FINE, Outcome::Answered { status: 500, retry_after_ms: None }] {
        let scene = Scene::new().await;
        let lease = scene.road.take("w-1").await.remove(0);
        assert_eq!(scene.done().await.expect(200), scene.answer("delivered"));
        // The worker's word comes too late, whatever it is.
        assert_eq!(scene.road.settle("w-1", lease, &answer).await.stale, 1);
        scene.is_settled_once().await;
        assert_eq!(scene.info().await["message_count"], 1);
    }
}

#[tokio::test]
async fn after_the_lease_of_whoever_had_it() {
    let scene = Scene::new().await;
    let _lost = scene.road.take("w-gone").await;
    tokio::time::sleep(std::time::Duration::from_millis(3)).await;
    let lease = std::time::Duration::from_millis(1);
    let swept = scene.road.store.sweep("w-2", lease, 0, 0, &["w-2".into()], &[]).await.unwrap();
    for lost in swept.lost {
        scene.road.settle("w-2", lost, &Outcome::WorkerLost).await;
    }
    assert_eq!(scene.state().await, "queued");
    assert_eq!(scene.done().await.expect(200), scene.answer("delivered"));
    assert!(scene.road.take("w-2").await.is_empty());
    scene.is_settled_once().await;
}

#[tokio::test]
async fn after_its_time_was_over() {
    let scene = Scene::new().await;
    let lease = scene.road.take("w-1").await.remove(0);
    scene.road.settle("w-1", lease, &FINE).await;
    for missed in scene.road.promote_early(&scene.town, "w-1").await.missed {
        scene.road.settle("w-1", missed, &Outcome::AckMissed).await;
    }
    assert_eq!(scene.state().await, "retry_scheduled");
    assert_eq!(scene.done().await.expect(200), scene.answer("delivered"));
    scene.is_settled_once().await;
    scene.road.promote_early(&scene.town, "w-1").await;
    assert!(scene.road.take("w-1").await.is_empty(), "the retry that was scheduled finds nothing");
}

#[tokio::test]
async fn twice() {
    let scene = Scene::new().await;
    let lease = scene.road.take("w-1").await.remove(0);
    scene.road.settle("w-1", lease, &FINE).await;
    for _ in 0..3 {
        assert_eq!(scene.done().await.expect(200), scene.answer("delivered"));
    }
    scene.is_settled_once().await;
    assert_eq!(scene.info().await["message_count"], 1);
}

#[tokio::test]
async fn from_two_places_at_once() {
    for _ in 0..10 {
        let scene = Scene::new().await;
        let other = scene.town.api().await;
        let lease = scene.road.take("w-1").await.remove(0);
        scene.road.settle("w-1", lease, &FINE).await;
        let body = json!({ "success": true });
        let (one, two) = join!(scene.done(), other.post("/v1/messages/order/ack", body));
        assert_eq!(
            (one.expect(200), two.expect(200)),
            (scene.answer("delivered"), scene.answer("delivered"))
        );
        scene.is_settled_once().await;
        assert_eq!(scene.info().await["message_count"], 1);
    }
}

#[tokio::test]
async fn yes_and_no_at_once_end_in_one_of_them() {
    for _ in 0..10 {
        let scene = Scene::new().await;
        let other = scene.town.api().await;
        let lease = scene.road.take("w-1").await.remove(0);
        scene.road.settle("w-1", lease, &FINE).await;
        let no = json!({ "success": false });
        let (yes, no) = join!(scene.done(), other.post("/v1/messages/order/ack", no));
        // Yes wins wherever the delivery lies; no counts only if it came first.
        assert_eq!(yes.expect(200), scene.answer("delivered"));
        assert!([200, 409].contains(&no.status), "{}", no.text());
        scene.is_settled_once().await;
    }
}

#[tokio::test]
async fn before_it_was_handed_out() {
    let scene = Scene::new().await;
    is(&scene.failed().await, (409, "not_delivered"));
    assert_eq!(scene.rejected().await["error_code"], "not_delivered");
    assert_eq!(scene.done().await.expect(200), scene.answer("delivered"));
    assert!(scene.road.take("w-1").await.is_empty());
    scene.is_settled_once().await;
}

#[tokio::test]
async fn no_is_a_failed_attempt_and_said_twice_counts_once() {
    let scene = Scene::new().await;
    let lease = scene.road.take("w-1").await.remove(0);
    scene.road.settle("w-1", lease, &FINE).await;
    for _ in 0..3 {
        assert_eq!(scene.failed().await.expect(200), scene.answer("retry_scheduled"));
    }
    scene.road.promote_early(&scene.town, "w-1").await;
    let lease = scene.road.take("w-1").await.remove(0);
    assert_eq!(lease.tries.progress.attempts, 1);
    // In flight still, the last of its attempts: it is dead, and the worker too late.
    assert_eq!(scene.failed().await.expect(200), scene.answer("dead"));
    assert_eq!(scene.road.settle("w-1", lease, &FINE).await.stale, 1);
    assert_eq!(scene.failed().await.expect(200), scene.answer("dead"));
    assert_eq!(scene.state().await, "dead");
    let shown = scene.api.get("/v1/messages/order/deliveries").await.expect(200);
    let errors: Vec<&Value> = shown["deliveries"][0]["attempts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|attempt| &attempt["error"])
        .collect();
    assert_eq!(
        errors,
        [&Value::Null, &json!("refused by anonymous: no stock"), &json!("refused by anonymous: no stock")]
    );
}

#[tokio::test]
async fn of_a_dead_letter() {
    let scene = Scene::with(json!({ "auto_ack": false, "max_retries": 0 })).await;
    let lease = scene.road.take("w-1").await.remove(0);
    scene.road.settle("w-1", lease, &Outcome::Answered { status: 500, retry_after_ms: None }).await;
    is(&scene.done().await, (409, "delivery_dead"));
    assert_eq!(scene.rejected().await["error_code"], "delivery_dead");
    assert_eq!(scene.failed().await.expect(200), scene.answer("dead"));
    assert_eq!(scene.info().await["dead_letters"], 1);
}

#[tokio::test]
async fn rejected_it_is_dead_wherever_it_was() {
    for place in ["in flight", "awaiting", "scheduled"] {
        let scene = Scene::new().await;
        let lease = scene.road.take("w-1").await.remove(0);
        match place {
            "in flight" => {}
            "awaiting" => drop(scene.road.settle("w-1", lease, &FINE).await),
            _ => drop(
                scene
                    .road
                    .settle("w-1", lease, &Outcome::Answered { status: 500, retry_after_ms: None })
                    .await,
            ),
        }
        for _ in 0..2 {
            let row = scene.rejected().await;
            assert_eq!((&row["success"], &row["status"]), (&json!(true), &json!("dead")), "{place}: {row}");
        }
        let shown = scene.api.get("/v1/messages/order/deliveries").await.expect(200);
        assert_eq!(shown["deliveries"][0]["dead_reason"], "rejected", "{place}");
        is(&scene.done().await, (409, "delivery_dead"));
        scene.road.promote_early(&scene.town, "w-1").await;
        assert!(scene.road.take("w-1").await.is_empty(), "{place}");
    }
}

#[tokio::test]
async fn what_is_acknowledged_cannot_be_refused() {
    let scene = Scene::new().await;
    let lease = scene.road.take("w-1").await.remove(0);
    scene.road.settle("w-1", lease, &FINE).await;
    scene.done().await.expect(200);
    is(&scene.failed().await, (409, "already_acknowledged"));
    assert_eq!(scene.rejected().await["error_code"], "already_acknowledged");
    scene.is_settled_once().await;
}

#[tokio::test]
async fn what_there_is_not() {
    let mut scene = Scene::new().await;
    let other = scene.api.subscribe(json!({ "channel": "else" })).await;
    is(&scene.say("nobody", json!({ "success": true })).await, (404, "no_delivery"));
    let of = |id: &Value| json!({ "success": true, "subscription_id": id });
    is(&scene.say("order", of(&other["subscription_id"])).await, (404, "no_delivery"));
    is(&scene.say("order", of(&json!("sub_nobody"))).await, (404, "not_found"));
    // With two that it went to, one has to be named.
    let message = json!({ "channel": "orders", "payload": {}, "metadata": { "message_id": "both" } });
    scene.api.publish(message).await.expect(202);
    let both = [&scene.subscription.clone(), &other];
    scene.road.route(&both).await;
    let answer = scene.say("both", json!({ "success": true })).await;
    judge(&answer, refused(409, "ambiguous_subscription", "subscription_id", "2 subscriptions")).unwrap();
    for created in both {
        scene.say("both", of(&created["subscription_id"])).await.expect(200);
    }
}
