//! Payloads from the publisher's request to the subscriber's: what went in comes out, in each format.

use base64::{Engine, engine::general_purpose::STANDARD};
use postroad_testkit::receiver::{Receiver, Recorded};
use serde_json::{Value, json};

use crate::kit::{Api, PATIENCE, Town, ask};

const BYTES: [u8; 6] = [0, 159, 146, 150, b'\n', 0xff];

/// A subscriber of each format, at `/<format>`.
async fn subscribe(api: &Api, receiver: &Receiver) {
    for format in ["native", "cloudevents", "cloudevents-binary", "raw"] {
        let url = receiver.url(&format!("/{format}"));
        api.subscribe(json!({ "channel": "a", "callback_url": url, "format": format })).await;
    }
}

async fn newest(receiver: &Receiver, format: &str, count: usize) -> Recorded {
    let received = receiver.wait_for(&format!("/{format}"), count, PATIENCE).await.unwrap();
    Recorded::clone(&received[count - 1])
}

#[tokio::test]
async fn bytes_come_out_as_they_went_in() {
    let town = Town::with_loopback().await;
    let (api, receiver) = (town.api().await, Receiver::start().await.unwrap());
    let _delivering = town.deliver().await;
    subscribe(&api, &receiver).await;
    let encoded = STANDARD.encode(BYTES);
    let metadata = json!({ "content_encoding": "base64", "content_type": "image/x" });
    api.publish(json!({ "channel": "a", "payload": encoded, "metadata": metadata })).await.expect(202);
    let raw = ask("POST", "/v1/channels/a/messages").header("content-type", "image/x").body(BYTES);
    api.send(&raw).await.expect(202);
    for count in 1..=2 {
        let native: Value = newest(&receiver, "native", count).await.json().unwrap();
        assert_eq!(native["payload"], encoded);
        assert_eq!(native["metadata"]["content_encoding"], "base64");
        let event: Value = newest(&receiver, "cloudevents", count).await.json().unwrap();
        assert_eq!((&event["data_base64"], &event["datacontenttype"]), (&json!(encoded), &json!("image/x")));
        for format in ["cloudevents-binary", "raw"] {
            let request = newest(&receiver, format, count).await;
            assert_eq!((&request.body[..], request.header("content-type")), (&BYTES[..], Some("image/x")));
        }
    }
}

#[tokio::test]
async fn json_that_was_posted_raw_comes_out_raw() {
    let town = Town::with_loopback().await;
    let (api, receiver) = (town.api().await, Receiver::start().await.unwrap());
    let _delivering = town.deliver().await;
    subscribe(&api, &receiver).await;
    for (n, text) in
        [r#"{"z":1.50, "a":1}"#, "[1, 2.0]", "7.0", r#""say \"x\"""#, "null"].into_iter().enumerate()
    {
        let raw = ask("POST", "/v1/channels/a/messages").json(text);
        api.send(&raw).await.expect(202);
        for format in ["cloudevents-binary", "raw"] {
            let request = newest(&receiver, format, n + 1).await;
            assert_eq!(request.body, text, "{format}");
            assert_eq!(request.header("content-type"), Some("application/json"));
        }
        let event = newest(&receiver, "cloudevents", n + 1).await;
        let body = std::str::from_utf8(&event.body).unwrap();
        assert!(body.ends_with(&format!(r#""data":{text}}}"#)), "{body}");
        newest(&receiver, "native", n + 1).await;
    }
}
