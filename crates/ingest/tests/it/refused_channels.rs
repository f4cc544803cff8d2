//! What no channel may be configured with.

use serde_json::{Value, json};

use crate::{
    kit::{Refusals, Refused, Town, ask, field, refused},
    refused::{Kind, check_bodies, with, wrong_types},
};

fn right() -> Value {
    json!({ "durable": true, "arguments": { "x-max-length": 3 } })
}

const FIELDS: &[(&str, Kind, bool)] = &[
    ("type", Kind::Text, false),
    ("durable", Kind::Flag, false),
    ("auto_delete", Kind::Flag, false),
    ("exclusive", Kind::Flag, false),
    ("arguments", Kind::Object, false),
];

#[tokio::test]
async fn settings_are_checked_before_anything_is_stored() {
    let town = Town::new().await;
    let api = town.api().await;
    api.put("/v1/channels/orders", right()).await.expect(201);
    let refusals = Refusals::of(&town, &api).await;
    let put = || ask("PUT", "/v1/channels/orders");
    check_bodies(&refusals, "put", &put(), &right()).await;
    let mut cases: Vec<(&str, String, Refused)> = wrong_types(FIELDS)
        .into_iter()
        .map(|(path, value, refusal)| (path, value.to_owned(), refusal))
        .collect();
    for (value, says) in [("Topic", "fanout and headers are"), ("x-consistent-hash", "is no channel type")] {
        cases.push(("type", json!(value).to_string(), field("type", says)));
    }
    let (ttl, length) = ("arguments.x-message-ttl", "arguments.x-max-length");
    for value in ["0", "-1", "1.5", "315360000001", "\"60\"", "null", "{}", "18446744073709551616"] {
        cases.push((ttl, value.to_owned(), field(ttl, "whole number from 1 to 315360000000")));
    }
    for value in ["0", "-1", "1000001", "true", "[]"] {
        cases.push((length, value.to_owned(), field(length, "whole number from 1 to 1000000")));
    }
    let overflow = "arguments.x-overflow";
    for value in ["\"reject-publish-dlx\"", "\"Drop-Head\"", "1", "null"] {
        cases.push((overflow, value.to_owned(), field(overflow, "drop-head and reject-publish are known")));
    }
    for name in ["arguments.x-expires", "arguments.x-dead-letter-exchange", "arguments.X-Message-TTL"] {
        cases.push((name, "1".to_owned(), field(name, "is no argument here")));
    }
    cases.push(("arguments", json!({ "": 1 }).to_string(), field("arguments", "0 bytes")));
    cases.push(("arguments", r#"{"a":1,"a":2}"#.to_owned(), field("arguments.a", "duplicate field")));
    let large = json!({ "note": "n".repeat(16 << 10) }).to_string();
    cases.push(("arguments", large, field("arguments", "at most 16384")));
    for (path, value, expected) in cases {
        let body = if path.starts_with("arguments.") {
            let name = path.split_once('.').unwrap().1;
            format!(r#"{{"arguments":{{"{name}":{value}}}}}"#)
        } else {
            with(&right(), path, &value)
        };
        refusals.check(&format!("{path} = {value:.40}"), &put().json(body), expected).await;
    }
    refusals.end();
}

#[tokio::test]
async fn names_that_are_none_are_refused_and_lead_nowhere() {
    let town = Town::new().await;
    let api = town.api().await;
    let refusals = Refusals::of(&town, &api).await;
    let gone = refused(404, "not_found", "", "there is no channel");
    let unread = refused(400, "invalid_path", "path", "UTF-8");
    let long = "x".repeat(256);
    let names: [(&str, &'static str); 9] = [
        (&long, "256 bytes"),
        ("%20", "contains"),
        ("a%20b", "contains"),
        ("a..b", "empty word"),
        (".", "empty word"),
        ("*", "contains"),
        ("%7Bctl%7D", "contains"),
        ("a%0A", "contains"),
        ("%C3%A4", "contains"),
    ];
    for (name, says) in names {
        let path = format!("/v1/channels/{name}");
        refusals
            .check(&format!("PUT {path:.40}"), &ask("PUT", &path).json("{}"), field("channel", says))
            .await;
        for method in ["GET", "DELETE"] {
            refusals.check(&format!("{method} {path:.40}"), &ask(method, &path), gone).await;
        }
    }
    for method in ["GET", "PUT", "DELETE"] {
        refusals.check(method, &ask(method, "/v1/channels/%ff").json("{}"), unread).await;
    }
    refusals.end();
}
