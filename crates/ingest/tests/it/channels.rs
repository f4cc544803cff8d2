//! `POST /v1/channels/{name}/messages`: the body is the payload.

use std::io::Write;

use base64::{Engine, engine::general_purpose::STANDARD};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};

use crate::kit::{Town, ask, is_time, take};

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn the_body_is_the_payload() {
    let town = Town::new().await;
    let api = town.api().await;
    let text = |text: &str| (json!(text), Value::Null);
    let bytes = |bytes: &[u8]| (json!(STANDARD.encode(bytes)), json!("base64"));
    let plain = "text/plain; charset=utf-8";
    // Content-Type, body; the payload with its encoding, and the content type that is shown.
    let table = [
        (
            "application/json",
            &br#" {"b":1.50,"a":[]} "#[..],
            (json!({ "b": 1.5, "a": [] }), Value::Null),
            "application/json",
        ),
        ("application/x+json; v=1", b"{}", (json!({}), Value::Null), "application/x+json; v=1"),
        ("application/json", b"[1, 2]", text("[1, 2]"), "application/json"),
        ("application/json", b"7", text("7"), "application/json"),
        ("application/json", b"null", text("null"), "application/json"),
        ("application/json", br#""a\u00e4""#, text("aä"), "application/json"),
        ("", "grün".as_bytes(), text("grün"), plain),
        ("", b"", text(""), plain),
        ("", b"\xff\x00", bytes(b"\xff\x00"), "application/octet-stream"),
        ("text/csv", b"a,b\n1,2\n", text("a,b\n1,2\n"), "text/csv"),
        ("text/plain; charset=latin1", b"gr\xfcn", bytes(b"gr\xfcn"), "text/plain; charset=latin1"),
        ("application/xml", b"<a/>", text("<a/>"), "application/xml"),
        ("image/png", b"\x89PNG", bytes(b"\x89PNG"), "image/png"),
        ("application/octet-stream", b"abc", bytes(b"abc"), "application/octet-stream"),
    ];
    for (content_type, body, (payload, encoding), shown_type) in table {
        for zipped in [false, true] {
            let mut ask = ask("POST", "/v1/channels/a.b/messages");
            if !content_type.is_empty() {
                ask = ask.header("content-type", content_type);
            }
            ask =
                if zipped { ask.header("content-encoding", "GZIP").body(gzip(body)) } else { ask.body(body) };
            let mut answer = api.send(&ask).await.expect(202);
            let [id, at] = take(&mut answer, ["message_id", "timestamp"]);
            assert!(is_time(&at), "{at}");
            let expected = json!({ "success": true, "channel": "a.b", "correlation_id": id, "error": null });
            assert_eq!(answer, expected);
            let shown = api.get(&format!("/v1/messages/{}", id.as_str().unwrap())).await.expect(200);
            let metadata = &shown["metadata"];
            let seen = (&shown["payload"], &metadata["content_encoding"], &metadata["content_type"]);
            assert_eq!(seen, (&payload, &encoding, &json!(shown_type)), "{content_type} {body:?}");
        }
    }
}

#[tokio::test]
async fn names_are_decoded_and_packages_unpacked() {
    let town = Town::new().await;
    let api = town.api().await;
    let asks = [
        (
            "orders%2Feu%3Anew",
            ask("POST", "/v1/channels/orders%2Feu%3Anew/messages").body("x"),
            "orders/eu:new",
        ),
        (
            "identity",
            ask("POST", "/v1/channels/a/messages").header("content-encoding", "identity").body("x"),
            "a",
        ),
        (
            "several members",
            ask("POST", "/v1/channels/a/messages")
                .header("content-encoding", "gzip")
                .body([gzip(b"x"), gzip(b"")].concat()),
            "a",
        ),
        (
            "as much as may be",
            ask("POST", "/v1/channels/a/messages")
                .header("content-encoding", "gzip")
                .body(gzip(&[b'x'; 256 << 10])),
            "a",
        ),
    ];
    for (case, ask, channel) in asks {
        let answer = api.send(&ask).await;
        assert_eq!((answer.status, &answer.json()["channel"]), (202, &json!(channel)), "{case}");
    }
}
