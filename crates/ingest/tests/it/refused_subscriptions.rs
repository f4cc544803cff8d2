//! What no subscription may be, when it is created and when it is changed, and how none may be asked for.

use serde_json::{Value, json};

use crate::{
    kit::{Refusals, Refused, Town, ask, field, path_of, subscription},
    refused::{Kind, check_bodies, with, wrong_types},
};

fn right() -> Value {
    let mut request = subscription();
    request["channel"] = json!("orders");
    request
}

const FIELDS: &[(&str, Kind, bool)] = &[
    ("service_name", Kind::Text, true),
    ("callback_url", Kind::Text, false),
    ("channel", Kind::Text, true),
    ("filter_criteria", Kind::Object, false),
    ("routing_key", Kind::Text, false),
    ("header_match", Kind::Object, false),
    ("headers", Kind::Object, false),
    ("headers.x", Kind::Text, false),
    ("max_retries", Kind::Count, false),
    ("retry_delay", Kind::Number, false),
    ("retry_policy", Kind::Object, false),
    ("retry_policy.max_retries", Kind::Count, false),
    ("retry_policy.retry_delay", Kind::Number, false),
    ("retry_policy.backoff_multiplier", Kind::Number, false),
    ("prefetch_count", Kind::Count, false),
    ("auto_ack", Kind::Flag, false),
    ("ack_timeout", Kind::Count, false),
    ("batch_size", Kind::Count, false),
    ("rate_limit", Kind::Count, false),
    ("ordered", Kind::Flag, false),
    ("dead_letter_queue", Kind::Text, false),
];

/// The path of what is set, its JSON, and the refusal; the same for a request and a patch.
fn wrong() -> Vec<(&'static str, String, Refused)> {
    let mut cases: Vec<(&'static str, String, Refused)> = wrong_types(FIELDS)
        .into_iter()
        // Null for a channel asks for none; see below.
        .filter(|(path, value, _)| (*path, *value) != ("channel", "null"))
        // An object is one in spite of what is in it.
        .map(|(path, value, expected)| (path, value.to_owned(), expected))
        .collect();
    let mut add = |path: &'static str, values: &[(Value, &'static str)]| {
        for (value, says) in values {
            cases.push((path, value.to_string(), field(path, says)));
        }
    };
    let long = "x".repeat(256);
    add("service_name", &[(json!(""), "is empty"), (json!(long), "256 bytes"), (json!("a\u{0}"), "control")]);
    add(
        "channel",
        &[
            (json!(""), "is empty"),
            (json!(long), "256 bytes"),
            (json!("a..b"), "empty word"),
            (json!("a.*"), "contains '*'"),
            (json!("a b"), "contains ' '"),
            (json!("a\n"), "contains '\\n'"),
            (json!("{p1}"), "contains '{'"),
        ],
    );
    add(
        "routing_key",
        &[
            (json!(long), "256 bytes"),
            (json!("a\u{0}"), "control"),
            (json!("#.#.#"), "3 `#` words"),
            (json!("#.a.#.b.#.c.#"), "4 `#` words"),
        ],
    );
    let many: serde_json::Map<String, Value> = (0..33).map(|n| (format!("h{n}"), json!(n))).collect();
    add(
        "header_match",
        &[
            (json!({ "x-match": "nonsense" }), "x-match of \"nonsense\""),
            (json!({ "x-match": null }), "x-match of null"),
            (json!({ "X-Match": ["all"] }), "x-match of [\"all\"]"),
            (json!({ "a": [1] }), "a list or an object"),
            (json!({ "a": {} }), "a list or an object"),
            (json!({ "": 1 }), "a name of 0 bytes"),
            (json!({ long.as_str(): 1 }), "a name of 256 bytes"),
            (json!({ "a": 1, "A": 2 }), "twice"),
            (json!({ "a": "x".repeat(1_025) }), "1025 bytes"),
            (json!(many), "33 headers"),
        ],
    );
    let filters = [
        (json!({}), "is an empty object"),
        (json!({ "a": [] }), "a: has an empty list"),
        (json!({ "a": {} }), "a: is an empty object"),
        (json!({ "a": { "b": [] } }), "a.b: has an empty list"),
        (json!({ "a": [["b"]] }), "a: has a list within"),
        (json!({ "a": [{ "unknown": 1 }] }), "a: unknown operator \"unknown\""),
        (json!({ "a": [{}] }), "a: "),
        (json!({ "a": [{ "prefix": 1 }] }), "a: prefix"),
        (json!({ "a": [{ "prefix": "x", "suffix": "y" }] }), "a: "),
        (json!({ "a": [{ "numeric": [] }] }), "a: numeric"),
        (json!({ "a": [{ "numeric": [">", "5"] }] }), "a: numeric"),
        (json!({ "a": [{ "numeric": [">", 5, "<", 1] }] }), "a: no number lies in"),
        (json!({ "a": [{ "numeric": ["~", 5] }] }), "a: numeric"),
        (json!({ "a": [{ "exists": "yes" }] }), "a: exists takes true or false"),
        (json!({ "a": [{ "cidr": "10.0.0.0/40" }] }), "a: \"10.0.0.0/40\" is no network"),
        (json!({ "a": [{ "wildcard": "a**b" }] }), "a: wildcard"),
        (json!({ "a": [{ "wildcard": "*a".repeat(60) }] }), "a: wildcard"),
        (json!({ "a": [{ "anything-but": [] }] }), "a: anything-but"),
        (json!({ "prefix": "x" }), "prefix: is an operator outside a list"),
        (json!({ "a": ["x".repeat(17 << 10)] }), "at most 16384 are allowed"),
    ];
    for (filter, says) in filters {
        cases.push(("filter_criteria", filter.to_string(), field("filter_criteria", says)));
    }
    let deep = format!("{}1{}", "{\"a\":".repeat(64), "}".repeat(64));
    cases.push(("filter_criteria", deep, crate::kit::no_json("64 deep")));
    for value in ["101", "4294967295"] {
        for path in ["max_retries", "retry_policy.max_retries"] {
            cases.push((path, value.into(), field(path, "must be at most 100")));
        }
    }
    for value in ["-1", "-0.001", "3600.001", "1e300", "-1e300", "18446744073709551616"] {
        for path in ["retry_delay", "retry_policy.retry_delay"] {
            cases.push((path, value.into(), field(path, "must be 0 to 3600 seconds")));
        }
    }
    for value in ["0", "0.99", "-2", "100.01", "1e300"] {
        let path = "retry_policy.backoff_multiplier";
        cases.push((path, value.into(), field(path, "must be 1 to 100")));
    }
    for value in ["0", "10001", "4294967295"] {
        cases.push(("prefetch_count", value.into(), field("prefetch_count", "must be 1 to 10000")));
    }
    for (path, values, says) in [
        ("ack_timeout", ["0", "43201"], "must be 1 to 43200"),
        ("batch_size", ["0", "1001"], "must be 1 to 1000"),
        ("rate_limit", ["0", "100001"], "must be 1 to 100000"),
        ("dead_letter_queue", ["\"\"", "\"a b\""], ""),
        ("format", ["\"xml\"", "7"], "format"),
    ] {
        for value in values {
            cases.push((path, value.into(), field(path, says)));
        }
    }
    for (path, value) in [("max_retries", "-1"), ("prefetch_count", "-1"), ("prefetch_count", "4294967296")] {
        cases.push((path, value.into(), field(path, path)));
    }
    for (path, value, name) in [
        ("headers", r#"{"a":"1","a":"2"}"#, "headers.a"),
        ("filter_criteria", r#"{"a":{"b":[1],"b":[2]}}"#, "filter_criteria.a.b"),
        ("header_match", r#"{"a":1,"a":2}"#, "header_match.a"),
        ("retry_policy", r#"{"max_retries":1,"max_retries":2}"#, "retry_policy.max_retries"),
    ] {
        cases.push((path, value.into(), field(name, "duplicate field")));
    }
    for value in [r#"{"surprise":1}"#, r#"{"surprise":null}"#] {
        cases.push(("retry_policy", value.into(), field("retry_policy.surprise", "unknown field")));
    }
    cases
}

/// Patterns stand in the place of a channel.
fn wrong_patterns() -> Vec<(Value, Refused)> {
    let says = |says| field("channel_pattern", says);
    vec![
        (json!(""), says("is empty")),
        (json!("x".repeat(256)), says("256 bytes")),
        (json!("*a".repeat(17)), says("17 `*`")),
        (json!(7), says("channel_pattern")),
        (json!(["a"]), says("channel_pattern")),
        (json!({}), says("channel_pattern")),
        (json!(true), says("channel_pattern")),
    ]
}

fn pulled(name: &str, value: impl Into<Value>) -> Value {
    json!({ "service_name": "a", "channel": "a", name: value.into() })
}

fn batches(format: &str) -> Value {
    let mut request = right();
    (request["format"], request["batch_size"]) = (json!(format), json!(2));
    request
}

#[tokio::test]
async fn creating() {
    let town = Town::new().await;
    let api = town.api().await;
    let refusals = Refusals::of(&town, &api).await;
    let call = || ask("POST", "/v1/subscriptions");
    check_bodies(&refusals, "create", &call(), &right()).await;
    for (path, value, expected) in wrong() {
        let ask = call().json(with(&right(), path, &value));
        refusals.check(&format!("{path} = {value:.60}"), &ask, expected).await;
    }
    for (pattern, expected) in wrong_patterns() {
        let mut request = subscription();
        request["channel_pattern"] = pattern.clone();
        refusals.check(&format!("pattern {pattern:.60}"), &call().json(request.to_string()), expected).await;
    }
    let mut both = right();
    both["channel_pattern"] = json!("a*");
    let mut null = right();
    null["channel"] = Value::Null;
    for (case, request, expected) in [
        ("both", both, field("channel_pattern", "exclude each other")),
        ("neither", subscription(), field("channel", "one of channel and channel_pattern")),
        ("no channel", null, field("channel", "one of channel and channel_pattern")),
        (
            "no service",
            json!({ "callback_url": "https://example.com", "channel": "a" }),
            field("service_name", "missing"),
        ),
        ("pulled, auto_ack", pulled("auto_ack", true), field("auto_ack", "needs a callback_url")),
        ("pulled, format", pulled("format", "raw"), field("format", "needs a callback_url")),
        ("pulled, headers", pulled("headers", json!({ "a": "1" })), field("headers", "has none")),
        ("raw batches", batches("raw"), field("batch_size", "cannot go with format = \"raw\"")),
        (
            "binary batches",
            batches("cloudevents-binary"),
            field("batch_size", "cannot go with format = \"cloudevents-binary\""),
        ),
        ("nothing", json!({}), field("service_name", "missing")),
    ] {
        refusals.check(case, &call().json(request.to_string()), expected).await;
    }
    refusals.end();
}

#[tokio::test]
async fn changing() {
    let town = Town::new().await;
    let api = town.api().await;
    let path =
        path_of(&api.subscribe(json!({ "channel": "orders", "headers": { "x-token": "hush" } })).await);
    let refusals = Refusals::of(&town, &api).await;
    let call = || ask("PATCH", &path);
    check_bodies(&refusals, "patch", &call(), &json!({ "service_name": "other", "max_retries": 1 })).await;
    for (path, value, expected) in wrong() {
        let ask = call().json(with(&json!({}), path, &value));
        refusals.check(&format!("{path} = {value:.60}"), &ask, expected).await;
    }
    for (pattern, expected) in wrong_patterns() {
        let patch = json!({ "channel_pattern": pattern });
        refusals.check(&format!("pattern {pattern:.60}"), &call().json(patch.to_string()), expected).await;
    }
    for (patch, expected) in [
        (json!({ "callback_url": null }), field("headers", "has none")),
        (json!({ "channel": null }), field("channel", "one of channel and channel_pattern")),
        (json!({ "channel": "a", "channel_pattern": "a*" }), field("channel_pattern", "exclude each other")),
        (json!({ "service_name": "other", "max_retries": 101 }), field("max_retries", "at most 100")),
        (json!({ "subscription_id": "other" }), field("subscription_id", "unknown field")),
        (json!({ "status": "paused" }), field("status", "unknown field")),
        (json!({ "secret": "whsec_" }), field("secret", "unknown field")),
        (json!({ "created_at": null }), field("created_at", "unknown field")),
        (json!({ "company_id": "other" }), field("company_id", "unknown field")),
    ] {
        refusals.check(&patch.to_string(), &call().json(patch.to_string()), expected).await;
    }
    refusals.end();
}

#[tokio::test]
async fn listing() {
    let town = Town::new().await;
    let api = town.api().await;
    api.subscribe(json!({ "channel": "orders" })).await;
    let refusals = Refusals::of(&town, &api).await;
    let number = "no number that it can be";
    for (query, name, says) in [
        ("limit=0", "limit", "must be 1 to 500"),
        ("limit=501", "limit", "must be 1 to 500"),
        ("limit=18446744073709551615", "limit", "must be 1 to 500"),
        ("limit=18446744073709551616", "limit", number),
        ("limit=-1", "limit", number),
        ("limit=1.5", "limit", number),
        ("limit=1e2", "limit", number),
        ("limit=NaN", "limit", number),
        ("limit=ten", "limit", number),
        ("limit=", "limit", number),
        ("limit", "limit", number),
        ("limit=%201", "limit", number),
        ("limit=1&limit=2", "limit", "twice"),
        ("cursor=!!", "cursor", "none that this server gave"),
        ("cursor=YS5i", "cursor", "none that this server gave"),
        ("cursor=_w", "cursor", "none that this server gave"),
        ("cursor=", "cursor", "none that this server gave"),
        ("cursor=AAAA", "cursor", "none that this server gave"),
        ("status=", "status", "active, paused and disabled are"),
        ("status=ACTIVE", "status", "\"ACTIVE\" is none"),
        ("status=cancelled", "status", "\"cancelled\" is none"),
        ("status=active&status=paused", "status", "twice"),
        ("service=%ff", "service", "no UTF-8"),
        ("service_name=a%c3", "service_name", "no UTF-8"),
        ("channel=%ed%a0%80", "channel", "no UTF-8"),
        ("surprise=1", "surprise", "no query name here"),
        ("Limit=1", "Limit", "no query name here"),
        ("=1", "", "no query name here"),
        ("company_id=other", "company_id", "no query name here"),
    ] {
        let ask = ask("GET", format!("/v1/subscriptions?{query}"));
        refusals.check(query, &ask, field(name, says)).await;
    }
    refusals.end();
}
