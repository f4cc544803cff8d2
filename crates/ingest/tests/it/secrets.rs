//! `POST /v1/subscriptions/{id}/rotate-secret`: while both secrets sign, a subscriber may verify by either.

use std::time::{SystemTime, UNIX_EPOCH};

use postroad_model::signature::{SecretKey, SignatureHeaders, TOLERANCE_S, verify};
use postroad_testkit::{
    receiver::{Receiver, Recorded},
    wait::eventually,
};
use serde_json::{Value, json};

use crate::kit::{Api, PATIENCE, Refusals, Town, ask, field, is_time, path_of, refused, take};

fn trusts(secret: &str, request: &Recorded) -> bool {
    let header = |name| request.header(name).unwrap();
    let headers = SignatureHeaders {
        id: header("webhook-id"),
        timestamp: header("webhook-timestamp"),
        signature: header("webhook-signature"),
    };
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    verify(&SecretKey::parse(secret).unwrap(), headers, &request.body, now_s, TOLERANCE_S).is_ok()
}

async fn rotate(api: &Api, subscription: &Value, body: Value) -> Value {
    api.post(&format!("{}/rotate-secret", path_of(subscription)), body).await.expect(200)
}

fn secret_of(answer: &Value) -> &str {
    answer["secret"].as_str().unwrap()
}

/// A secret of so many bytes.
fn secret(bytes: usize) -> String {
    assert_eq!(bytes % 3, 0);
    format!("whsec_{}", "c2Fm".repeat(bytes / 3))
}

#[tokio::test]
async fn both_sign_for_a_while_and_then_only_the_new_one() {
    let town = Town::with_loopback().await;
    let (api, receiver) = (town.api().await, Receiver::start().await.unwrap());
    let _delivering = town.deliver().await;
    let created = api.subscribe(json!({ "channel": "a", "callback_url": receiver.url("/in") })).await;
    let next = async |count: usize| -> Recorded {
        api.publish(json!({ "channel": "a", "payload": {} })).await.expect(202);
        Recorded::clone(&receiver.wait_for("/in", count, PATIENCE).await.unwrap()[count - 1])
    };
    let first = next(1).await;
    assert!(trusts(secret_of(&created), &first));

    // No body: a day of grace.
    let path = format!("{}/rotate-secret", path_of(&created));
    let rotated = api.send(&ask("POST", &path)).await.expect(200);
    assert_ne!(secret_of(&rotated), secret_of(&created));
    let second = next(2).await;
    assert!(trusts(secret_of(&rotated), &second) && trusts(secret_of(&created), &second));
    let signatures = second.header("webhook-signature").unwrap();
    assert_eq!(signatures.split(' ').count(), 2);
    let mut alone = second.clone();
    let newest = signatures.split(' ').next().unwrap().parse().unwrap();
    alone.headers.insert("webhook-signature", newest);
    assert!(trusts(secret_of(&rotated), &alone), "the new one stands first");

    // A second of grace for both; the third that comes is the caller's own.
    let own = secret(24);
    let third = rotate(&api, &created, json!({ "grace_seconds": 1, "secret": own })).await;
    assert_eq!((secret_of(&third), &third["live_secrets"]), (own.as_str(), &json!(3)));
    let mut count = 2;
    let last = eventually(PATIENCE, "the old ones to run out", async || {
        count += 1;
        let request = next(count).await;
        assert!(trusts(&own, &request));
        let signatures = request.header("webhook-signature").unwrap().split(' ').count();
        if signatures == 1 { Ok(request) } else { Err(format!("{signatures} sign")) }
    })
    .await
    .unwrap();
    assert!(!trusts(secret_of(&rotated), &last) && !trusts(secret_of(&created), &last));

    // None at all.
    let fourth = rotate(&api, &created, json!({ "grace_seconds": 0 })).await;
    assert_eq!((&fourth["previous_secret_expires_at"], &fourth["live_secrets"]), (&Value::Null, &json!(1)));
    let request = next(count + 1).await;
    assert!(trusts(secret_of(&fourth), &request) && !trusts(&own, &request));
}

#[tokio::test]
async fn a_rotation_is_answered_with_the_subscription() {
    let town = Town::new().await;
    let api = town.api().await;
    let mut created = api.subscribe(json!({ "channel": "a" })).await;
    let mut rotated = rotate(&api, &created, json!({ "grace_seconds": 604_800 })).await;
    let [old] = take(&mut created, ["secret"]);
    let [new, end, live] = take(&mut rotated, ["secret", "previous_secret_expires_at", "live_secrets"]);
    assert_eq!(rotated, created);
    assert!(new != old && is_time(&end) && live == 2, "{new} {end} {live}");
    let shown = api.get(&path_of(&created)).await;
    for secret in [old, new] {
        assert!(!shown.text().contains(secret.as_str().unwrap()), "shown once only");
    }
    assert!(shown.json()["updated_at"].as_str() > shown.json()["created_at"].as_str());
    // One that is pulled has a secret too.
    let pulled = api.subscribe(json!({ "channel": "a", "callback_url": null })).await;
    rotate(&api, &pulled, json!({})).await;
}

#[tokio::test]
async fn at_most_ten_sign_at_a_time() {
    let town = Town::new().await;
    let api = town.api().await;
    let created = api.subscribe(json!({ "channel": "a" })).await;
    for live in 2..=10 {
        assert_eq!(rotate(&api, &created, json!({})).await["live_secrets"], live);
    }
    let refusals = Refusals::of(&town, &api).await;
    let path = format!("{}/rotate-secret", path_of(&created));
    let full = refused(409, "limit_reached", "", "10 secrets");
    refusals.check("the eleventh", &ask("POST", &path), full).await;
    refusals.end();
    assert_eq!(rotate(&api, &created, json!({ "grace_seconds": 0 })).await["live_secrets"], 1);
}

#[tokio::test]
async fn what_is_wrong_with_a_rotation_is_told() {
    let town = Town::new().await;
    let api = town.api().await;
    let created = api.subscribe(json!({ "channel": "a" })).await;
    let refusals = Refusals::of(&town, &api).await;
    let path = format!("{}/rotate-secret", path_of(&created));
    let current = secret_of(&created);
    for (body, expected) in [
        (json!({ "grace_seconds": 604_801 }), field("grace_seconds", "604801 must be 0 to 604800")),
        (json!({ "grace_seconds": -1 }), field("grace_seconds", "-1")),
        (json!({ "grace_seconds": 1.5 }), field("grace_seconds", "1.5")),
        (json!({ "grace": 1 }), field("grace", "unknown field")),
        (json!({ "secret": "hush" }), field("secret", "whsec_")),
        (json!({ "secret": "whsec_?" }), field("secret", "base64")),
        (json!({ "secret": secret(21) }), field("secret", "24 to 64")),
        (json!({ "secret": secret(66) }), field("secret", "24 to 64")),
        (json!({ "secret": current }), field("secret", "signs already")),
        (json!([]), field("body", "array")),
    ] {
        let case = format!("{body}");
        let answer = refusals.send(&ask("POST", &path).json(body.to_string())).await;
        assert!(!answer.text().contains(&secret(21)) && !answer.text().contains(current));
        refusals.note(&case, &answer, crate::kit::judge(&answer, expected)).await;
    }
    let unknown = refused(404, "not_found", "", "subscription");
    refusals.check("unknown", &ask("POST", "/v1/subscriptions/sub_x/rotate-secret"), unknown).await;
    refusals.end();
}
