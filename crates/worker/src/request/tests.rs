use std::sync::Arc;

use postroad_model::{
    egress::EgressPolicy,
    id::MessageId,
    message::{Metadata, Payload, PayloadKind, Priority},
    names::{ChannelName, OrderingKey, RoutingKey, ServiceName, Tenant},
    signature::{SecretKey, SignatureHeaders, verify},
    subscription::Subscription,
};
use serde_json::{Map, Value, json};

use super::*;

const NOW_MS: u64 = 1_705_321_800_123;
const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

fn target(format: &str, batch_size: u32) -> Target {
    let subscription: Subscription = serde_json::from_value(json!({
        "id": "sub_1", "tenant": "default", "service_name": "billing", "channel": "orders",
        "callback_url": "https://billing.example.com/in",
        "headers": { "x-api-key": "hush", "content-type": "text/evil" },
        "secrets": [{ "value": SECRET, "created_at": "2026-01-01T00:00:00Z" }],
        "retry": { "max_retries": 3, "retry_delay_ms": 1, "backoff_multiplier": 2.0 },
        "auto_ack": true, "ack_timeout": 30, "batch_size": batch_size, "prefetch_count": 32,
        "format": format, "status": "active",
        "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z",
    }))
    .unwrap();
    Target::new(subscription, &EgressPolicy::parse(["0.0.0.0/0"]).unwrap())
}

fn message(id: &str, kind: PayloadKind, body: &[u8]) -> Message {
    let id = MessageId::new(id).unwrap();
    Message {
        tenant: Tenant::single(),
        id: id.clone(),
        channel: ChannelName::new("orders.eu").unwrap(),
        routing_key: Some(RoutingKey::new("order.größer").unwrap()),
        ordering_key: Some(OrderingKey::new("customer \"7\"").unwrap()),
        service: ServiceName::new("shop").unwrap(),
        priority: Priority::Normal,
        persistent: true,
        expires_after_ms: None,
        generation: 0,
        targets: Arc::from([]),
        test: false,
        trace: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().unwrap()),
        metadata: Metadata {
            message_id: id,
            correlation_id: Some("c1".into()),
            reply_to: None,
            content_type: kind.default_content_type().into(),
            content_encoding: (kind == PayloadKind::Bytes).then(|| "base64".into()),
            priority: Priority::Normal,
            ttl: None,
            timestamp: Time::from_millis(1_700_000_000_123),
            headers: Map::new(),
        },
        payload: Payload { kind, body: Bytes::copy_from_slice(body) },
    }
}

fn json_message(id: &str) -> Message {
    message(id, PayloadKind::Json, br#"{"z":1.50, "a":1e400}"#)
}

fn built(format: &str, message: &Message) -> Request {
    let target = target(format, 1);
    build(&target, target.url.as_ref().unwrap(), Sending { message, attempt: 2 }, NOW_MS, 0xabc)
}

fn built_batch(target: &Target, messages: &[&Message]) -> Request {
    let sendings: Vec<Sending<'_>> = messages.iter().map(|message| Sending { message, attempt: 1 }).collect();
    let members: Vec<Vec<u8>> =
        sendings.iter().map(|sending| batch::member(target, *sending, NOW_MS)).collect();
    batch::build(target, target.url.as_ref().unwrap(), &sendings, &members, NOW_MS, 7)
}

fn body(request: &Request) -> &[u8] {
    request.body().and_then(Body::as_bytes).unwrap()
}

fn text(request: &Request) -> &str {
    std::str::from_utf8(body(request)).unwrap()
}

fn header<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    let mut values = request.headers().get_all(name).iter();
    let value = values.next()?.to_str().unwrap();
    assert!(values.next().is_none(), "{name} stands there twice");
    Some(value)
}

/// What every request must carry, whatever its format.
#[track_caller]
fn carries_the_usual(request: &Request, webhook_id: &str) {
    assert_eq!(header(request, "webhook-id"), Some(webhook_id));
    assert_eq!(header(request, "webhook-timestamp"), Some("1705321800"));
    assert_eq!(header(request, "x-api-key"), Some("hush"));
    assert_eq!(header(request, "user-agent"), Some(concat!("postroad/", env!("CARGO_PKG_VERSION"))));
    let signed = SignatureHeaders {
        id: webhook_id,
        timestamp: "1705321800",
        signature: header(request, "webhook-signature").unwrap(),
    };
    verify(&SecretKey::parse(SECRET).unwrap(), signed, body(request), 1_705_321_800, 0).unwrap();
}

const NATIVE: &str = concat!(
    r#"{"message_id":"m1","subscription_id":"sub_1","channel":"orders.eu","payload":{"z":1.50, "a":1e400},"#,
    r#""metadata":{"message_id":"m1","correlation_id":"c1","reply_to":null,"content_type":"application/json","#,
    r#""content_encoding":null,"priority":"normal","ttl":null,"timestamp":"2023-11-14T22:13:20.123Z","headers":{}},"#,
    r#""delivery_attempt":2,"max_attempts":4,"delivered_at":"2024-01-15T12:30:00.123Z","#,
    r#""routing_key":"order.größer","ordering_key":"customer \"7\""}"#,
);

const EVENT: &str = concat!(
    r#"{"specversion":"1.0","id":"m1","source":"/postroad/default/channels/orders.eu","type":"order.größer","#,
    r#""correlationid":"c1","partitionkey":"customer \"7\"","postroadattempt":2,"postroadchannel":"orders.eu","#,
    r#""time":"2023-11-14T22:13:20.123Z","traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01","#,
    r#""datacontenttype":"application/json","data":{"z":1.50, "a":1e400}}"#,
);

#[test]
fn one_delivery_in_each_format() {
    let message = json_message("m1");
    for (format, content_type, expected) in [
        ("native", "application/json", NATIVE),
        ("cloudevents", "application/cloudevents+json", EVENT),
        ("cloudevents-binary", "application/json", r#"{"z":1.50, "a":1e400}"#),
        ("raw", "application/json", r#"{"z":1.50, "a":1e400}"#),
    ] {
        let request = built(format, &message);
        assert_eq!(text(&request), expected, "{format}");
        assert_eq!(header(&request, "content-type"), Some(content_type), "{format}");
        carries_the_usual(&request, "m1");
        assert_eq!(header(&request, "postroad-generation"), Some("0"));
        assert_eq!(header(&request, "postroad-test"), None);
        // The publisher's trace goes on with a span of this attempt's.
        let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000abc-01";
        assert_eq!(header(&request, "traceparent"), Some(traceparent));
    }
}

#[test]
fn attributes_stand_in_headers_and_nothing_stands_there_twice() {
    let request = built("cloudevents-binary", &json_message("m1"));
    for (name, value) in [
        ("ce-specversion", "1.0"),
        ("ce-id", "m1"),
        ("ce-source", "/postroad/default/channels/orders.eu"),
        ("ce-type", "order.gr%C3%B6%C3%9Fer"),
        ("ce-time", "2023-11-14T22:13:20.123Z"),
        ("ce-partitionkey", "customer%20%227%22"),
        ("ce-correlationid", "c1"),
        ("ce-traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("ce-postroadchannel", "orders.eu"),
        ("ce-postroadattempt", "2"),
    ] {
        assert_eq!(header(&request, name), Some(value), "{name}");
    }
    assert_eq!(header(&request, "ce-datacontenttype"), None);
    let others = ["native", "cloudevents", "raw"].map(|format| built(format, &json_message("m1")));
    for request in others {
        assert!(request.headers().keys().all(|name| !name.as_str().starts_with("ce-")));
    }
}

#[test]
fn an_event_that_came_in_goes_out_as_the_same() {
    let mut message = json_message("m1");
    let headers = json!({
        "ce-specversion": "1.0", "ce-id": "e 1", "ce-source": "/erp", "ce-type": "t", "ce-own": 7, "other": "x",
        "ce-datacontenttype": null, "ce-data": "none",
    });
    message.metadata.headers = headers.as_object().unwrap().clone();
    message.payload = Payload { kind: PayloadKind::Text, body: Bytes::new() };
    let request = built("cloudevents", &message);
    assert_eq!(text(&request), r#"{"specversion":"1.0","id":"e 1","source":"/erp","type":"t","own":7}"#);
    carries_the_usual(&request, "m1");
    let request = built("cloudevents-binary", &message);
    assert_eq!((header(&request, "ce-id"), header(&request, "ce-own")), (Some("e%201"), Some("7")));
    assert_eq!((header(&request, "content-type"), body(&request)), (None, &b""[..]));
    carries_the_usual(&request, "m1");
}

#[test]
fn bytes_come_out_as_they_went_in() {
    let message = message("m1", PayloadKind::Bytes, &[0, 159, 146, 150]);
    let native: Value = serde_json::from_slice(body(&built("native", &message))).unwrap();
    assert_eq!(
        (&native["payload"], &native["metadata"]["content_encoding"]),
        (&json!("AJ+Slg=="), &json!("base64"))
    );
    let event: Value = serde_json::from_slice(body(&built("cloudevents", &message))).unwrap();
    assert_eq!((&event["data_base64"], event.get("data")), (&json!("AJ+Slg=="), None));
    for format in ["raw", "cloudevents-binary"] {
        let request = built(format, &message);
        assert_eq!(body(&request), &[0, 159, 146, 150]);
        assert_eq!(header(&request, "content-type"), Some("application/octet-stream"));
        carries_the_usual(&request, "m1");
    }
}

#[test]
fn raw_says_where_it_comes_from_as_far_as_a_header_can() {
    let mut message = message("m1", PayloadKind::Text, "größe".as_bytes());
    let request = built("raw", &message);
    assert_eq!(
        (text(&request), header(&request, "content-type")),
        ("größe", Some("text/plain; charset=utf-8"))
    );
    assert_eq!(header(&request, "postroad-channel"), Some("orders.eu"));
    assert_eq!(header(&request, "postroad-routing-key"), None);
    message.routing_key = Some(RoutingKey::new("order.new").unwrap());
    message.metadata.content_type = "text/x; name=\"é\"".into();
    let request = built("raw", &message);
    assert_eq!(header(&request, "postroad-routing-key"), Some("order.new"));
    assert_eq!(header(&request, "content-type"), Some("application/octet-stream"));
}

#[test]
fn replays_and_tests_say_so() {
    let mut message = json_message("m1");
    (message.generation, message.test, message.trace) = (3, true, None);
    for format in ["native", "cloudevents", "cloudevents-binary", "raw"] {
        let request = built(format, &message);
        assert_eq!(header(&request, "postroad-generation"), Some("3"));
        assert_eq!(header(&request, "postroad-test"), Some("true"));
        let trace: TraceParent = header(&request, "traceparent").unwrap().parse().unwrap();
        assert_eq!((trace.trace_id, trace.parent_id), (TraceParent::of_message(&message.id).trace_id, 0xabc));
    }
}

#[test]
fn a_batch_is_signed_as_a_whole() {
    let (one, two) = (json_message("m1"), message("m2", PayloadKind::Text, b"x"));
    for (format, content_type, open, close) in [
        ("native", "application/json", r#"{"deliveries":["#, "]}"),
        ("cloudevents", "application/cloudevents-batch+json", "[", "]"),
    ] {
        let target = target(format, 10);
        let inner = |message: &Message| {
            let member = batch::member(&target, Sending { message, attempt: 1 }, NOW_MS);
            String::from_utf8(member).unwrap()
        };
        let both = built_batch(&target, &[&one, &two]);
        assert_eq!(text(&both), format!("{open}{},{}{close}", inner(&one), inner(&two)));
        assert_eq!(header(&both, "content-type"), Some(content_type));
        let id = header(&both, "webhook-id").unwrap();
        assert!(id.starts_with("bat_") && id.len() == 36 && MessageId::new(id).is_ok(), "{id}");
        carries_the_usual(&both, id);
        // The same when it is sent again as it was, and another when anything in it is.
        assert_eq!(header(&built_batch(&target, &[&one, &two]), "webhook-id"), Some(id));
        let alone = built_batch(&target, &[&one]);
        assert_eq!(text(&alone), format!("{open}{}{close}", inner(&one)));
        assert_ne!(header(&alone, "webhook-id"), Some(id));
        let trace =
            |request: &Request| header(request, "traceparent").unwrap().parse::<TraceParent>().unwrap();
        assert_eq!(trace(&alone).trace_id, one.trace.unwrap().trace_id);
        assert_ne!(trace(&both).trace_id, one.trace.unwrap().trace_id);
    }
}

#[test]
fn batches_are_cut_by_number_bytes_and_generation() {
    use batch::{MAX_BYTES, cut};
    /// Deliveries, the most together, and how many go into each request.
    type Row<'a> = (&'a [(usize, Option<u32>)], usize, &'a [usize]);
    let half = MAX_BYTES / 2;
    // The frame of {"deliveries":[ and ]} takes 17 bytes and a comma one.
    #[rustfmt::skip]
    let table: &[Row<'_>] = &[
        (&[], 5, &[]),
        (&[(9, Some(0)); 5], 5, &[5]),
        (&[(9, Some(0)); 5], 2, &[2, 2, 1]),
        (&[(9, Some(0)); 2], 0, &[1, 1]),
        (&[(half, Some(0)), (half - 18, Some(0))], 9, &[2]),
        (&[(half, Some(0)), (half - 17, Some(0))], 9, &[1, 1]),
        (&[(half, Some(0)), (half, Some(0)), (9, Some(0))], 9, &[1, 2]),
        (&[(2 * MAX_BYTES, Some(0)), (9, Some(0)), (9, Some(0))], 9, &[1, 2]),
        (&[(9, Some(0)), (2 * MAX_BYTES, Some(0)), (9, Some(0))], 9, &[1, 1, 1]),
        (&[(9, Some(0)), (9, Some(1)), (9, Some(1)), (9, Some(0))], 9, &[1, 2, 1]),
        (&[(9, Some(0)), (9, None), (9, None), (9, Some(0))], 9, &[1, 1, 1, 1]),
    ];
    for (deliveries, most, parts) in table {
        assert_eq!(cut(deliveries, *most), *parts, "{deliveries:?} at most {most}");
    }
}

#[test]
fn a_cut_batch_stays_within_its_bytes() {
    let target = target("native", 1_000);
    let large = message("m1", PayloadKind::Text, &vec![b'a'; 200 << 10]);
    let member = batch::member(&target, Sending { message: &large, attempt: 1 }, NOW_MS);
    let parts = batch::cut(&[(member.len(), Some(0)); 12], 1_000);
    assert_eq!(parts, [5, 5, 2]);
    assert!(body(&built_batch(&target, &[&large; 5])).len() <= batch::MAX_BYTES);
    assert!(body(&built_batch(&target, &[&large; 6])).len() > batch::MAX_BYTES);
}
