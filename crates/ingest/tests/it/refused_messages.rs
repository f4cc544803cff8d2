//! What no message may be, at each of the three calls that publish.

use serde_json::{Value, json};

use crate::{
    channels::gzip,
    kit::{Ask, Refusals, Refused, Town, ask, field, judge, no_json, refused},
    refused::{Kind, check_bodies, with, wrong_types},
};

fn right() -> Value {
    json!({ "channel": "orders", "payload": { "n": 1 } })
}

fn single() -> Ask {
    ask("POST", "/v1/messages")
}

fn bulk() -> Ask {
    ask("POST", "/v1/messages/bulk")
}

const FIELDS: &[(&str, Kind, bool)] = &[
    ("channel", Kind::Text, true),
    ("metadata", Kind::Object, false),
    ("service_name", Kind::Text, false),
    ("persistent", Kind::Flag, false),
    ("routing_key", Kind::Text, false),
    ("ordering_key", Kind::Text, false),
    ("deliver_at", Kind::Text, false),
    ("delay_seconds", Kind::Count, false),
    ("metadata.message_id", Kind::Text, false),
    ("metadata.correlation_id", Kind::Text, false),
    ("metadata.reply_to", Kind::Text, false),
    ("metadata.content_type", Kind::Text, false),
    ("metadata.content_encoding", Kind::Text, false),
    ("metadata.priority", Kind::Text, false),
    ("metadata.ttl", Kind::Count, false),
    ("metadata.timestamp", Kind::Text, false),
    ("metadata.headers", Kind::Object, false),
];

/// Wrong messages: the path of what is set, its JSON, and the refusal.
fn wrong_messages() -> Vec<(&'static str, String, Refused)> {
    let mut cases: Vec<(&'static str, String, Refused)> = wrong_types(FIELDS)
        .into_iter()
        .map(|(path, value, expected)| (path, value.to_owned(), expected))
        .collect();
    let long = |most: usize| "x".repeat(most + 1);
    let mut texts = |path: &'static str, values: &[(&str, &'static str)]| {
        for (value, says) in values {
            cases.push((path, json!(value).to_string(), field(path, says)));
        }
    };
    texts(
        "channel",
        &[
            ("", "is empty"),
            (&long(255), "256 bytes"),
            (".", "empty word"),
            (".a", "empty word"),
            ("a.", "empty word"),
            ("a..b", "empty word"),
            ("a b", "contains ' '"),
            ("a*", "contains '*'"),
            ("#", "contains '#'"),
            ("ä", "contains 'ä'"),
            ("a\n", "contains '\\n'"),
            ("a\u{0}", "contains '\\0'"),
            ("{p1}", "contains '{'"),
            ("a\\b", "contains '\\\\'"),
        ],
    );
    texts(
        "metadata.message_id",
        &[
            ("", "0 bytes"),
            (&long(128), "129 bytes"),
            ("a.b", "contains '.'"),
            ("a b", "contains ' '"),
            ("a/b", "contains '/'"),
            ("{p1}", "contains '{'"),
            ("a\r\n", "contains '\\r'"),
            ("a\u{0}", "contains '\\0'"),
            ("ä", "contains 'ä'"),
            ("*", "contains '*'"),
        ],
    );
    for path in ["routing_key", "ordering_key", "service_name"] {
        texts(
            path,
            &[(&long(255), "256 bytes"), ("a\u{0}", "control character"), ("a\u{7f}", "control character")],
        );
    }
    texts("ordering_key", &[("", "is empty")]);
    texts("service_name", &[("", "is empty")]);
    for path in
        ["metadata.correlation_id", "metadata.reply_to", "metadata.content_type", "metadata.content_encoding"]
    {
        texts(
            path,
            &[(&long(255), "256 bytes"), ("a\r\nb", "control character"), ("\u{0}", "control character")],
        );
    }
    texts(
        "metadata.priority",
        &[
            ("", "low, normal, high and critical are"),
            ("urgent", "\"urgent\" is no priority"),
            ("HIGH", "\"HIGH\" is no priority"),
            ("high ", "\"high \" is no priority"),
            ("2", "\"2\" is no priority"),
        ],
    );
    texts(
        "metadata.timestamp",
        &[
            ("", "no RFC 3339 time"),
            ("yesterday", "no RFC 3339 time"),
            ("2024-01-15", "no RFC 3339 time"),
            ("2024-01-15T12:30:00", "no RFC 3339 time"),
            ("2024-13-45T99:99:99Z", "no RFC 3339 time"),
            ("99999-01-01T00:00:00Z", "no RFC 3339 time"),
            ("1969-12-31T23:59:59Z", "before 1970"),
            ("1705321800", "no RFC 3339 time"),
        ],
    );
    for value in ["0", "-1", "-9223372036854775808", "315360001", "9223372036854775807"] {
        cases.push(("metadata.ttl", value.to_owned(), field("metadata.ttl", "must be 1 to 315360000")));
    }
    let many: serde_json::Map<String, Value> = (0..65).map(|n| (n.to_string(), json!(n))).collect();
    let headers = |says| field("metadata.headers", says);
    cases.push(("metadata.headers", json!(many).to_string(), headers("65 headers are too many")));
    let large = json!({ "a": "x".repeat(16 << 10) }).to_string();
    cases.push(("metadata.headers", large, headers("16387 bytes are too large")));
    let twice = r#"{"a":1,"b":2,"a":3}"#.to_owned();
    cases.push(("metadata.headers", twice, field("metadata.headers.a", "duplicate field")));
    let twice = r#"{"a":{"b":1,"b":1}}"#.to_owned();
    cases.push(("metadata.headers", twice, field("metadata.headers.a.b", "duplicate field")));
    let twice = r#"{"ttl":1,"ttl":2}"#.to_owned();
    cases.push(("metadata", twice, field("metadata.ttl", "duplicate field")));
    let surprise = r#"{"surprise":1}"#.to_owned();
    cases.push(("metadata", surprise, field("metadata.surprise", "unknown field")));
    let must_be = field("payload", "must be an object, a string, or bytes as base64");
    for value in ["null", "1", "-1.5", "1e400", "true", "[]", "[{}]"] {
        cases.push(("payload", value.to_owned(), must_be));
    }
    cases.push(("payload", r#""\ud800""#.to_owned(), field("payload", "no string")));
    let size = 256 << 10;
    let large = refused(413, "message_too_large", "payload", "262145 bytes");
    cases.push(("payload", format!("\"{}\"", "x".repeat(size + 1)), large));
    cases.push(("payload", format!("{{\"a\":\"{}\"}}", "x".repeat(size - 7)), large));
    cases
}

/// Wrong messages of which two fields are at fault.
fn wrong_pairs() -> Vec<(&'static str, Value, Refused)> {
    let base64 = |payload: Value| json!({ "channel": "a", "payload": payload, "metadata": { "content_encoding": "base64" } });
    vec![
        ("no channel", json!({ "payload": {} }), field("channel", "missing field")),
        ("no payload", json!({ "channel": "a" }), field("payload", "missing field")),
        ("nothing", json!({}), field("channel", "missing field")),
        ("an object as base64", base64(json!({})), field("payload", "content_encoding says base64")),
        ("no base64", base64(json!("%%%")), field("payload", "no base64")),
        ("base64 without its end", base64(json!("YQ")), field("payload", "no base64")),
        ("base64 for URLs", base64(json!("_-8=")), field("payload", "no base64")),
        ("base64 in lines", base64(json!("YWFh\nYWFh")), field("payload", "no base64")),
    ]
}

#[tokio::test]
async fn a_single_one() {
    let town = Town::new().await;
    let api = town.api().await;
    let refusals = Refusals::of(&town, &api).await;
    check_bodies(&refusals, "publish", &single(), &right()).await;
    for (path, value, expected) in wrong_messages() {
        let ask = single().json(with(&right(), path, &value));
        refusals.check(&format!("{path} = {value:.60}"), &ask, expected).await;
    }
    for (case, body, expected) in wrong_pairs() {
        refusals.check(case, &single().json(body.to_string()), expected).await;
    }
    for (case, key, says) in KEYS {
        let ask = single().header("idempotency-key", key).json(right().to_string());
        refusals.check(case, &ask, field("Idempotency-Key", says)).await;
    }
    refusals.end();
}

const KEYS: [(&str, &[u8], &str); 4] = [
    ("an empty key", b"", "1 to 255 bytes"),
    ("a long key", &[b'k'; 256], "1 to 255 bytes"),
    ("a key that is no ASCII", "ä".as_bytes(), "visible ASCII"),
    ("a key that is no text", b"\xff", "visible ASCII"),
];

#[tokio::test]
async fn one_in_a_bulk() {
    let town = Town::new().await;
    let api = town.api().await;
    let refusals = Refusals::of(&town, &api).await;
    let singles = wrong_messages()
        .into_iter()
        .map(|(path, value, expected)| {
            (format!("{path} = {value:.60}"), with(&right(), path, &value), expected)
        })
        .chain(
            wrong_pairs()
                .into_iter()
                .map(|(case, body, expected)| (case.to_owned(), body.to_string(), expected)),
        )
        // What is no JSON is none as a whole.
        .filter(|(_, _, expected)| expected.status != 400);
    for (case, message, expected) in singles {
        // Those around it are right, and are not published either.
        let body = format!(r#"{{"messages":[{0},{message},{0}],"fail_on_error":true}}"#, right());
        let answer = refusals.send(&bulk().json(body)).await;
        let mut verdict = judge(&answer, Refused { status: 422, ..expected });
        if verdict.is_ok() && answer.json()["details"]["index"] != 1 {
            verdict = Err("names another index".into());
        }
        refusals.note(&format!("fail_on_error: {case}"), &answer, verdict).await;

        let answer = refusals.send(&bulk().json(format!(r#"{{"messages":[{message}]}}"#))).await;
        let row = &answer.json()["results"][0];
        let is_right = answer.status == 207
            && (&row["success"], &row["error_code"]) == (&json!(false), &json!(expected.code))
            && row["status_code"] == expected.status
            && row["error"].as_str().unwrap_or_default().contains(expected.says);
        let verdict = if is_right { Ok(()) } else { Err("the row is not right".into()) };
        refusals.note(&format!("alone: {case}"), &answer, verdict).await;
    }
    refusals.end();
}

#[tokio::test]
async fn a_bulk_as_a_whole() {
    let town = Town::new().await;
    let api = town.api().await;
    let refusals = Refusals::of(&town, &api).await;
    let right = json!({ "messages": [right()] });
    check_bodies(&refusals, "bulk", &bulk(), &right).await;
    let fields = [
        ("messages", Kind::List, true),
        ("service_name", Kind::Text, false),
        ("fail_on_error", Kind::Flag, true),
    ];
    for (path, value, expected) in wrong_types(&fields) {
        // A list is what it takes, whatever is in it.
        let ask = bulk().json(with(&right, path, value));
        refusals.check(&format!("{path} = {value}"), &ask, expected).await;
    }
    for (path, value, expected) in [
        ("messages", "[]".to_owned(), field("messages", "0 messages")),
        (
            "messages",
            json!(vec![json!({ "channel": "a", "payload": {} }); 1_001]).to_string(),
            field("messages", "1001 messages"),
        ),
        ("messages", json!(vec![Value::Null; 100_000]).to_string(), field("messages", "100000 messages")),
        ("messages", format!("[{0},{0}", right["messages"][0]), no_json("no JSON")),
        ("service_name", json!("").to_string(), field("service_name", "is empty")),
        ("service_name", json!("x".repeat(256)).to_string(), field("service_name", "256 bytes")),
        ("service_name", json!("a\n").to_string(), field("service_name", "control character")),
    ] {
        let ask = bulk().json(with(&right, path, &value));
        refusals.check(&format!("{path} = {value:.60}"), &ask, expected).await;
    }
    refusals.check("no messages", &bulk().json("{}"), field("messages", "missing field")).await;
    for (case, key, says) in KEYS {
        let ask = bulk().header("idempotency-key", key).json(right.to_string());
        refusals.check(case, &ask, field("Idempotency-Key", says)).await;
    }
    for (case, row) in
        [("null", "null"), ("a number", "7"), ("an array", r#"["a",{}]"#), ("a string", "\"a\"")]
    {
        let body = format!(r#"{{"messages":[{row}],"fail_on_error":true}}"#);
        let answer = refusals.send(&bulk().json(body)).await;
        refusals.note(case, &answer, judge(&answer, field("body", "message 0: "))).await;
    }
    refusals.end();
}

#[tokio::test]
async fn a_body_as_it_is() {
    let town = Town::new().await;
    let api = town.api().await;
    let refusals = Refusals::of(&town, &api).await;
    let raw = |name: &str| ask("POST", format!("/v1/channels/{name}/messages"));
    let long = "x".repeat(256);
    for (name, says) in [
        ("", "is empty"),
        ("a%20b", "contains ' '"),
        ("a..b", "empty word"),
        (".", "empty word"),
        ("%2e%2e", "empty word"),
        ("a*", "contains '*'"),
        ("%23", "contains '#'"),
        ("a%00", "contains '\\0'"),
        ("a%0a", "contains '\\n'"),
        ("%C3%A4", "contains 'ä'"),
        ("%7Bp1%7D", "contains '{'"),
        ("a+b", "contains '+'"),
        ("a%25", "contains '%'"),
        (&long, "256 bytes"),
    ] {
        refusals.check(&format!("channel {name:.20}"), &raw(name).body("x"), field("channel", says)).await;
    }
    for name in ["%ff", "a%c3", "%ed%a0%80"] {
        let expected = refused(400, "invalid_path", "path", "UTF-8");
        refusals.check(&format!("channel {name}"), &raw(name).body("x"), expected).await;
    }
    let nested = "[".repeat(10_000) + &"]".repeat(10_000);
    let bodies: [(&str, &[u8], &'static str); 9] = [
        ("empty", b"", "no JSON"),
        ("words", b"not json", "no JSON"),
        ("half", b"{\"a\":", "no JSON"),
        ("more behind", b"{} {}", "no JSON"),
        ("bad UTF-8", b"{\"a\":\"\xff\"}", "no JSON"),
        ("not a number", b"NaN", "no JSON"),
        ("nested", nested.as_bytes(), "64 deep"),
        ("nested without end", &[b'['; 10_000], "64 deep"),
        ("a byte order mark", b"\xef\xbb\xbf{}", "no JSON"),
    ];
    for (case, body, says) in bodies {
        for content_type in ["application/json", "application/x+json; v=1"] {
            let ask = raw("a").header("content-type", content_type).body(body);
            refusals.check(&format!("{content_type} {case}"), &ask, no_json(says)).await;
        }
    }
    let large = refused(413, "body_too_large", "body", "larger than 262144 bytes");
    for size in [(256 << 10) + 1, 10 << 20] {
        refusals.check(&format!("{size} bytes"), &raw("a").body(vec![b'x'; size]), large).await;
    }
    let zipped = |body: &[u8]| raw("a").header("content-encoding", "gzip").body(body);
    let no_gzip = refused(400, "invalid_gzip", "body", "no gzip");
    let whole = gzip(b"some text");
    for (case, body) in [
        ("empty", &b""[..]),
        ("plain", b"some text"),
        ("half", &whole[..whole.len() - 4]),
        ("with more behind", &[&whole[..], b"x"].concat()),
        ("spoilt", &[&whole[..12], &[0xff; 8], &whole[14..]].concat()),
    ] {
        refusals.check(&format!("gzip that is {case}"), &zipped(body), no_gzip).await;
    }
    let bomb = refused(413, "message_too_large", "body", "more than 262144 bytes");
    refusals.check("gzip of 32 MiB", &zipped(&gzip(&vec![0; 32 << 20])), bomb).await;
    let coding = refused(415, "unsupported_encoding", "Content-Encoding", "not understood");
    for name in ["br", "deflate", "gzip, gzip", "gzip;q=1", "identity, gzip", "\u{e4}"] {
        let ask = raw("a").header("content-encoding", name).body(&whole);
        refusals.check(&format!("content-encoding {name}"), &ask, coding).await;
    }
    let twice =
        raw("a").header("content-encoding", "gzip").header("content-encoding", "gzip").body(gzip(&whole));
    refusals.check("gzip in gzip", &twice, coding).await;
    let content_type = |value: &[u8]| raw("a").header("content-type", value).body("x");
    let expected = |says| field("Content-Type", says);
    refusals
        .check("a content type that is no text", &content_type(b"text/\xff"), expected("visible ASCII"))
        .await;
    refusals.check("a long content type", &content_type(&[b'x'; 256]), expected("256 bytes")).await;
    for (case, key, says) in KEYS {
        let ask = raw("a").header("idempotency-key", key).body("x");
        refusals.check(case, &ask, field("Idempotency-Key", says)).await;
    }
    refusals.end();
}
