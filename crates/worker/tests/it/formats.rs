//! The formats, read by other people's libraries: Standard Webhooks' own and CloudEvents' own.

use cloudevents::{AttributesReader, Data, Event, binding::http::to_event};
use postroad_model::{
    message::{Message, PayloadKind},
    names::{OrderingKey, RoutingKey},
    subscription::Format,
};
use postroad_testkit::receiver::Recorded;
use serde_json::{Value, json};
use standardwebhooks::Webhook;

use crate::kit::{Road, SECRET, message, messages};

/// One message to a subscriber of each format. What it got.
async fn delivered(format: Format, batch_size: u32, messages: &[Message]) -> Recorded {
    let mut road = Road::new().await;
    let subscription = road
        .subscribe(|subscription| (subscription.format, subscription.batch_size) = (format, batch_size))
        .await;
    road.queue(&subscription, messages).await;
    let _working = road.work().await;
    let request = Recorded::clone(&road.received(1).await[0]);
    assert_eq!(road.settled(&subscription).await.delivered, messages.len() as u64);
    assert_eq!(request.header("x-api-key"), Some("hush"));
    assert!(request.header("user-agent").unwrap().starts_with("postroad/"));
    assert!(request.header("traceparent").is_some());
    request
}

fn order() -> Message {
    let mut order = message("m1", PayloadKind::Json, r#"{"total": 1.50}"#);
    order.routing_key = Some(RoutingKey::new("order.created").unwrap());
    order.ordering_key = Some(OrderingKey::new("c7").unwrap());
    order
}

/// A text with what a signature over anything but the sent bytes would miss.
fn text() -> Message {
    message("m1", PayloadKind::Text, "größe \"\\\n\u{1f600}")
}

#[tokio::test]
async fn standard_webhooks_own_library_trusts_every_format() {
    for format in Format::ALL {
        for message in [order(), text()] {
            let request = delivered(format, 1, &[message]).await;
            assert_eq!(request.header("webhook-id"), Some("m1"));
            Webhook::new(SECRET).unwrap().verify(&request.body, &request.headers).unwrap();
            let mut changed = request.body.to_vec();
            changed.push(b' ');
            assert!(Webhook::new(SECRET).unwrap().verify(&changed, &request.headers).is_err());
        }
        if format.batches() {
            let request = delivered(format, 9, &messages(&["a", "b"])).await;
            Webhook::new(SECRET).unwrap().verify(&request.body, &request.headers).unwrap();
        }
    }
}

fn is_our_order(event: &Event) {
    assert_eq!((event.id(), event.ty()), ("m1", "order.created"));
    assert_eq!(event.source(), "/postroad/default/channels/orders");
    assert_eq!(event.datacontenttype(), Some("application/json"));
    assert_eq!(event.time().unwrap().timestamp_millis(), 1_700_000_000_123);
    for (name, value) in [("partitionkey", "c7"), ("postroadchannel", "orders"), ("postroadattempt", "1")] {
        assert_eq!(event.extension(name).unwrap().to_string(), value, "{name}");
    }
    let data: Value = match event.data().unwrap() {
        Data::Json(value) => value.clone(),
        Data::Binary(bytes) => serde_json::from_slice(bytes).unwrap(),
        Data::String(text) => serde_json::from_str(text).unwrap(),
    };
    assert_eq!(data, json!({ "total": 1.5 }));
}

#[tokio::test]
async fn cloud_events_own_library_reads_both_modes() {
    for (format, content_type) in [
        (Format::Cloudevents, "application/cloudevents+json"),
        (Format::CloudeventsBinary, "application/json"),
    ] {
        let request = delivered(format, 1, &[order()]).await;
        assert_eq!(request.header("content-type"), Some(content_type));
        is_our_order(&to_event(&request.headers, request.body.to_vec()).unwrap());
    }
}

#[tokio::test]
async fn cloud_events_own_library_reads_what_is_no_json() {
    let request = delivered(Format::Cloudevents, 1, &[text()]).await;
    let event = to_event(&request.headers, request.body.to_vec()).unwrap();
    assert_eq!(event.data(), Some(&Data::String("größe \"\\\n\u{1f600}".into())));
    let bytes = message("m1", PayloadKind::Bytes, vec![0, 159, 146, 150]);
    for format in [Format::Cloudevents, Format::CloudeventsBinary] {
        let request = delivered(format, 1, std::slice::from_ref(&bytes)).await;
        let event = to_event(&request.headers, request.body.to_vec()).unwrap();
        assert_eq!(event.data(), Some(&Data::Binary(vec![0, 159, 146, 150])));
        assert_eq!(event.datacontenttype(), Some("application/octet-stream"));
    }
}

#[tokio::test]
async fn a_batch_of_events_is_a_list_of_them() {
    let request = delivered(Format::Cloudevents, 9, &[order(), text()]).await;
    assert_eq!(request.header("content-type"), Some("application/cloudevents-batch+json"));
    let events: Vec<Event> = serde_json::from_slice(&request.body).unwrap();
    assert_eq!(events.len(), 2);
    is_our_order(&events[0]);
}

#[tokio::test]
async fn an_event_goes_out_as_it_came_in() {
    let mut message = message("m1", PayloadKind::Json, r#"{"a":1}"#);
    let headers = json!({
        "ce-specversion": "1.0", "ce-id": "e-1", "ce-source": "/erp/7", "ce-type": "com.example.t", "ce-own": 7,
        "ce-subject": "invoice 9",
    });
    message.metadata.headers = headers.as_object().unwrap().clone();
    let request = delivered(Format::Cloudevents, 1, std::slice::from_ref(&message)).await;
    assert_eq!(request.header("webhook-id"), Some("m1"));
    let event = to_event(&request.headers, request.body.to_vec()).unwrap();
    assert_eq!((event.id(), event.source().as_str(), event.ty()), ("e-1", "/erp/7", "com.example.t"));
    assert_eq!(event.subject(), Some("invoice 9"));
    assert_eq!(event.iter_extensions().count(), 1);
    let request = delivered(Format::CloudeventsBinary, 1, &[message]).await;
    assert_eq!(request.header("ce-subject"), Some("invoice%209"));
    assert_eq!(&request.body[..], br#"{"a":1}"#);
}
