//! Several deliveries in one request, and what an answer means to each.

use postroad_model::{
    message::PayloadKind,
    subscription::{Format, Subscription},
};
use postroad_store::trace::Lies;
use postroad_testkit::receiver::{Answer, Behaviour, Recorded};
use serde_json::{Value, json};

use crate::kit::{Road, message, messages};

fn batches(subscription: &mut Subscription) {
    subscription.batch_size = 10;
}

/// What a request holds: of each delivery its message and the number of the attempt.
fn held(request: &Recorded) -> Vec<(String, u64)> {
    let body = request.json().unwrap();
    let deliveries = body["deliveries"].as_array().unwrap_or_else(|| panic!("{body}"));
    assert_eq!(body.as_object().unwrap().len(), 1, "{body}");
    let text = |delivery: &Value| delivery["message_id"].as_str().unwrap().to_owned();
    deliveries
        .iter()
        .map(|delivery| (text(delivery), delivery["delivery_attempt"].as_u64().unwrap()))
        .collect()
}

/// The same of all requests, in some order that is always the same.
fn all_held(requests: &[impl AsRef<Recorded>]) -> Vec<Vec<(String, u64)>> {
    let mut all: Vec<_> = requests.iter().map(|request| held(request.as_ref())).collect();
    all.sort_by_key(|held| (held[0].1, held[0].0.clone()));
    all
}

fn of(members: &[(&str, u64)]) -> Vec<(String, u64)> {
    members.iter().map(|(id, attempt)| ((*id).to_owned(), *attempt)).collect()
}

#[tokio::test]
async fn what_one_take_brings_goes_together() {
    let mut road = Road::new().await;
    let subscription = road.subscribe(|subscription| subscription.batch_size = 3).await;
    let at = road.queue(&subscription, &messages(&["a", "b", "c", "d", "e"])).await;
    let _working = road.work().await;
    let received = road.received(2).await;
    let expected = [of(&[("a", 1), ("b", 1), ("c", 1)]), of(&[("d", 1), ("e", 1)])];
    assert_eq!(all_held(&received), expected);
    assert_eq!(received[0].header("content-type"), Some("application/json"));
    assert!(received[0].header("webhook-id").unwrap().starts_with("bat_"));
    let state = road.settled(&subscription).await;
    assert_eq!((state.delivered, state.failed, state.dead), (5, 0, 0));
    for at in at {
        assert_eq!(road.tried(at).await, (vec![(1, Some(200), None)], Lies::Gone));
    }
    // One that comes alone is a batch of one, at once.
    road.queue(&subscription, &messages(&["f"])).await;
    assert_eq!(held(&road.received(3).await[2]), of(&[("f", 1)]));
}

#[tokio::test]
async fn those_that_an_answer_names_are_tried_again_alone() {
    let mut road = Road::new().await;
    let subscription = road.subscribe(batches).await;
    let at = road.queue(&subscription, &messages(&["a", "b", "c"])).await;
    let failed = json!({ "failed": [
        { "message_id": "b", "error": "no \u{7} such order" },
    ]});
    road.receiver.on("/in", Behaviour::first(1, Answer::status(202).json(&failed)).then(Answer::ok()));
    let _working = road.work().await;
    let received = road.received(2).await;
    assert_eq!(held(&received[0]), of(&[("a", 1), ("b", 1), ("c", 1)]));
    assert_eq!(held(&received[1]), of(&[("b", 2)]));
    assert_ne!(received[0].header("webhook-id"), received[1].header("webhook-id"));
    let state = road.settled(&subscription).await;
    assert_eq!((state.delivered, state.failed, state.dead), (3, 1, 0));
    let error = "failed in a batch: no \u{fffd} such order".to_owned();
    let attempts = vec![(1, Some(202), Some(error)), (2, Some(200), None)];
    assert_eq!(road.tried(at[1]).await, (attempts, Lies::Gone));
    assert_eq!(road.tried(at[0]).await, (vec![(1, Some(202), None)], Lies::Gone));
}

#[tokio::test]
async fn answers_that_say_nothing_of_a_batch_deliver_it() {
    let mut road = Road::new().await;
    let subscription = road.subscribe(batches).await;
    for (n, answer) in ["thanks", "[7]", r#"{"failed":null}"#, r#"{"status":"ok"#].into_iter().enumerate() {
        let (a, b) = (format!("a{n}"), format!("b{n}"));
        road.queue(&subscription, &messages(&[&a, &b])).await;
        road.receiver.on("/in", Answer::ok().body(answer));
        let working = road.work().await;
        let state = road.settled(&subscription).await;
        assert_eq!((state.delivered, state.failed), ((2 * n + 2) as u64, 0), "{answer}");
        drop(working);
    }
}

#[tokio::test]
async fn a_list_of_failures_that_is_in_doubt_fails_all_of_them() {
    let answers = [
        r#"{"failed":[{"message_id":"a""#,
        r#"{"failed":"a"}"#,
        r#"{"failed":[{"message_id":"unheard-of","error":"?"}]}"#,
        r#"{"failed":["a",7]}"#,
    ];
    for answer in answers {
        let mut road = Road::new().await;
        let subscription = road.subscribe(batches).await;
        road.queue(&subscription, &messages(&["a", "b"])).await;
        road.receiver.on("/in", Behaviour::first(1, Answer::ok().body(answer)).then(Answer::ok()));
        let _working = road.work().await;
        let received = road.received(3).await;
        assert_eq!(
            all_held(&received),
            [of(&[("a", 1), ("b", 1)]), of(&[("a", 2)]), of(&[("b", 2)])],
            "{answer}"
        );
        let state = road.settled(&subscription).await;
        assert_eq!((state.delivered, state.failed, state.dead), (2, 2, 0), "{answer}");
    }
}

#[tokio::test]
async fn a_long_answer_is_read_to_its_end() {
    let mut road = Road::new().await;
    let subscription = road.subscribe(|subscription| subscription.batch_size = 40).await;
    let ids: Vec<String> = (0..40).map(|n| format!("m{n}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    road.queue(&subscription, &messages(&ids)).await;
    let rows: Vec<Value> =
        ids.iter().map(|id| json!({ "message_id": id, "error": "x".repeat(6_000) })).collect();
    let answer = Answer::ok().json(&json!({ "failed": rows }));
    road.receiver.on("/in", Behaviour::first(1, answer).then(Answer::ok()));
    let _working = road.work().await;
    assert_eq!(road.received(41).await.len(), 41);
    let state = road.settled(&subscription).await;
    assert_eq!((state.delivered, state.failed), (40, 40));
}

#[tokio::test]
async fn members_of_a_failed_batch_are_tried_again_one_by_one() {
    let mut road = Road::new().await;
    let refusals = [Answer::status(500).json(&json!({ "failed": [] })), Answer::close_without_answer()];
    for (n, refusal) in refusals.into_iter().enumerate() {
        let subscription = road.subscribe(batches).await;
        let ids = ["a", "b", "c"].map(|id| format!("{id}{n}"));
        let ids = [ids[0].as_str(), ids[1].as_str(), ids[2].as_str()];
        let at = road.queue(&subscription, &messages(&ids)).await;
        road.receiver.clear("/in");
        road.receiver.on("/in", Behaviour::first(1, refusal).then(Answer::ok()));
        let working = road.work().await;
        let received = road.received(4).await;
        let expected =
            [of(&ids.map(|id| (id, 1))), of(&[(ids[0], 2)]), of(&[(ids[1], 2)]), of(&[(ids[2], 2)])];
        assert_eq!(all_held(&received), expected);
        let state = road.settled(&subscription).await;
        assert_eq!((state.delivered, state.failed, state.dead), (3, 3, 0));
        for at in at {
            let (attempts, lies) = road.tried(at).await;
            assert_eq!((attempts.len(), lies), (2, Lies::Gone));
            assert!(attempts[0].2.is_some() && attempts[1] == (2, Some(200), None), "{attempts:?}");
        }
        drop(working);
    }
}

#[tokio::test]
async fn each_is_judged_by_its_own_attempts_and_ends_alone() {
    let mut road = Road::new().await;
    let subscription = road.subscribe(batches).await;
    road.queue(&subscription, &messages(&["a", "b"])).await;
    road.receiver.on(
        "/in",
        Behaviour::by(|request| match held(request).as_slice() {
            [(id, _)] if id == "b" => Answer::ok(),
            _ => Answer::status(500),
        }),
    );
    let _working = road.work().await;
    let state = road.settled(&subscription).await;
    assert_eq!((state.delivered, state.dead), (1, 1));
    // The batch; a twice more; b once more.
    assert_eq!(road.receiver.count("/in"), 4);
}

#[tokio::test]
async fn a_hold_holds_all_of_them() {
    let mut road = Road::new().await;
    let subscription = road.subscribe(batches).await;
    road.queue(&subscription, &messages(&["a", "b"])).await;
    let busy = Answer::status(429).header("retry-after", "2");
    road.receiver.on("/in", Behaviour::first(1, busy).then(Answer::ok()));
    let _working = road.work().await;
    let received = road.received(3).await;
    assert_eq!(all_held(&received), [of(&[("a", 1), ("b", 1)]), of(&[("a", 2)]), of(&[("b", 2)])]);
    let waited = received[1].at - received[0].at;
    assert!(waited.as_millis() >= 1_990, "{waited:?}");
    road.settled(&subscription).await;
}

#[tokio::test]
async fn no_request_grows_beyond_a_mebibyte() {
    let mut road = Road::new().await;
    let subscription = road.subscribe(|subscription| subscription.batch_size = 1_000).await;
    // Small in Redis, so that one take brings all of them.
    let large = "a".repeat(200 << 10);
    let mut all: Vec<_> =
        (0..12).map(|n| message(&format!("m{n}"), PayloadKind::Text, large.clone())).collect();
    // One that is alone with its bytes: every quote takes two.
    all.push(message("huge", PayloadKind::Text, "\"".repeat(700 << 10)));
    road.queue(&subscription, &all).await;
    let _working = road.work().await;
    let state = road.settled(&subscription).await;
    assert_eq!(state.delivered, 13);
    let received = road.receiver.received("/in");
    let counts: Vec<usize> = all_held(&received).iter().map(Vec::len).collect();
    assert_eq!(counts.iter().sum::<usize>(), 13);
    assert!(counts.contains(&5), "{counts:?}");
    for request in received {
        let held = held(&request);
        let is_huge = held[0].0 == "huge" && held.len() == 1;
        assert!(request.body_bytes <= 1 << 20 || is_huge, "{held:?} in {request}");
    }
}

#[tokio::test]
async fn what_has_expired_is_dead_and_not_sent() {
    let mut road = Road::new().await;
    let subscription = road.subscribe(batches).await;
    let mut all = messages(&["a", "late", "b"]);
    all[1].metadata.ttl = Some(0);
    road.queue(&subscription, &all).await;
    let _working = road.work().await;
    let received = road.received(1).await;
    assert_eq!(held(&received[0]), of(&[("a", 1), ("b", 1)]));
    let state = road.settled(&subscription).await;
    assert_eq!((state.delivered, state.dead), (2, 1));
}

#[tokio::test]
async fn generations_and_tests_go_apart() {
    let mut road = Road::new().await;
    let subscription = road.subscribe(batches).await;
    let mut all = messages(&["a", "b", "c", "d"]);
    (all[1].generation, all[2].generation, all[3].test) = (1, 1, true);
    road.queue(&subscription, &all).await;
    let _working = road.work().await;
    let received = road.received(3).await;
    let expected = [of(&[("a", 1)]), of(&[("b", 1), ("c", 1)]), of(&[("d", 1)])];
    assert_eq!(all_held(&received), expected);
    for request in &received {
        let generation = if held(request).len() == 2 { "1" } else { "0" };
        assert_eq!(request.header("postroad-generation"), Some(generation));
    }
    road.settled(&subscription).await;
}

#[tokio::test]
async fn a_2xx_of_a_batch_begins_the_wait_for_each_acknowledgment() {
    let mut road = Road::new().await;
    let subscription = road
        .subscribe(|subscription| {
            (subscription.auto_ack, subscription.format) = (false, Format::Cloudevents);
            batches(subscription);
        })
        .await;
    let at = road.queue(&subscription, &messages(&["a", "b"])).await;
    let _working = road.work().await;
    road.received(1).await;
    for at in at {
        postroad_testkit::wait::eventually(crate::kit::PATIENCE, "the wait to begin", async || {
            match road.tried(at).await {
                (attempts, Lies::AwaitingAck(due)) if attempts == [(1, Some(200), None)] && due > 0 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await
        .unwrap();
    }
}
