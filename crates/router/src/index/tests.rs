//! The index against the definition of matching.

use bytes::Bytes;
use postroad_model::{
    filter::Filter,
    id::MessageId,
    matching::{Candidate, json_view, wants},
    message::{Metadata, Payload, PayloadKind, Priority},
    names::{RoutingKey, ServiceName},
    time::Time,
};
use proptest::{prelude::*, sample::Index as Pick};
use serde_json::{Value, json};

use super::*;

const CHANNEL_TYPES: [ChannelType; 4] =
    [ChannelType::Topic, ChannelType::Direct, ChannelType::Fanout, ChannelType::Headers];

fn subscription(id: &str, tenant: &str, selector: &Value) -> Arc<Subscription> {
    let mut whole = json!({
        "id": id, "tenant": tenant, "service_name": "s", "secrets": [],
        "retry": {"max_retries": 0, "retry_delay_ms": 0, "backoff_multiplier": 1.0},
        "auto_ack": true, "ack_timeout": 30, "batch_size": 1, "prefetch_count": 1, "status": "active",
        "created_at": "2024-01-01T00:00:00Z", "updated_at": "2024-01-01T00:00:00Z",
    });
    for (name, value) in selector.as_object().unwrap() {
        whole[name] = value.clone();
    }
    Arc::new(serde_json::from_value(whole).unwrap())
}

fn message(
    tenant: &str,
    channel: &str,
    key: Option<&str>,
    headers: &Value,
    kind: PayloadKind,
    body: &str,
) -> Message {
    Message {
        tenant: Tenant::new(tenant).unwrap(),
        id: MessageId::new("m").unwrap(),
        channel: ChannelName::new(channel).unwrap(),
        routing_key: key.map(|key| RoutingKey::new(key).unwrap()),
        ordering_key: None,
        service: ServiceName::new("s").unwrap(),
        priority: Priority::Normal,
        persistent: true,
        expires_after_ms: None,
        generation: 0,
        targets: Arc::new([]),
        test: false,
        trace: None,
        metadata: Metadata {
            message_id: MessageId::new("m").unwrap(),
            correlation_id: None,
            reply_to: None,
            content_type: kind.default_content_type().into(),
            content_encoding: None,
            priority: Priority::Normal,
            ttl: None,
            timestamp: Time::default(),
            headers: serde_json::from_value(headers.clone()).unwrap_or_default(),
        },
        payload: Payload { kind, body: Bytes::copy_from_slice(body.as_bytes()) },
    }
}

/// The ids that the index finds, sorted.
fn found(index: &mut Index, message: &Message, channel_type: ChannelType) -> Vec<String> {
    let mut out = Vec::new();
    index.matches(message, channel_type, &mut out);
    let mut ids: Vec<String> = out.iter().map(|subscription| subscription.id.to_string()).collect();
    ids.sort();
    ids
}

/// The ids that the definition finds, sorted.
fn defined(all: &[Arc<Subscription>], message: &Message, channel_type: ChannelType) -> Vec<String> {
    let candidate = Candidate {
        tenant: &message.tenant,
        channel: &message.channel,
        channel_type,
        routing_key: message.routing_key.as_ref().map(RoutingKey::as_str),
        headers: &message.metadata.headers,
        payload: json_view(&message.payload),
    };
    let wanting = all.iter().filter(|subscription| wants(subscription, &candidate));
    let mut ids: Vec<String> = wanting.map(|subscription| subscription.id.to_string()).collect();
    ids.sort();
    ids
}

#[test]
fn targets_are_found_by_name_and_only_within_the_tenant() {
    let mut index = Index::new();
    for (id, tenant) in [("a", "t"), ("b", "t"), ("c", "u")] {
        index.insert(subscription(id, tenant, &json!({"channel": "elsewhere"})));
    }
    let mut message = message("t", "x", None, &json!({}), PayloadKind::Text, "");
    message.targets = ["b", "c", "b", "gone"].map(|id| SubscriptionId::new(id).unwrap()).into();
    let mut out = Vec::new();
    index.targets(&message, &mut out);
    let ids: Vec<&str> = out.iter().map(|subscription| subscription.id.as_str()).collect();
    assert_eq!(ids, ["b"]);
}

#[test]
fn a_subscription_is_replaced_and_removed() {
    let mut index = Index::new();
    let to = |channel: &str| message("t", channel, None, &json!({}), PayloadKind::Text, "");
    index.insert(subscription("a", "t", &json!({"channel": "x"})));
    index.insert(subscription("b", "t", &json!({"pattern": "*"})));
    index.insert(subscription("c", "u", &json!({"pattern": "*"})));
    assert_eq!(index.len(), 3);
    assert_eq!(found(&mut index, &to("x"), ChannelType::Topic), ["a", "b"]);
    index.insert(subscription("a", "t", &json!({"channel": "y"})));
    assert_eq!(index.len(), 3);
    assert_eq!(found(&mut index, &to("x"), ChannelType::Topic), ["b"]);
    assert_eq!(found(&mut index, &to("y"), ChannelType::Topic), ["a", "b"]);
    let id = |id: &str| SubscriptionId::new(id).unwrap();
    assert_eq!(index.get(&id("a")).unwrap().channel_pattern(), "y");
    for gone in ["a", "b", "a"] {
        index.remove(&id(gone));
        assert!(index.get(&id(gone)).is_none());
    }
    assert_eq!(found(&mut index, &to("y"), ChannelType::Topic), Vec::<String>::new());
    index.remove(&id("c"));
    assert!(index.is_empty() && index.tenants.is_empty(), "nothing is left behind");
}

#[test]
fn out_is_appended_to() {
    let mut index = Index::new();
    index.insert(subscription("a", "t", &json!({"channel": "x"})));
    let message = message("t", "x", None, &json!({}), PayloadKind::Text, "");
    let mut out = Vec::new();
    index.matches(&message, ChannelType::Topic, &mut out);
    index.matches(&message, ChannelType::Topic, &mut out);
    assert_eq!(out.len(), 2);
}

/// What makes `quamina` 0.7.0 panic at the 256th.
#[test]
fn hundreds_of_filters_accept_the_same_value() {
    let mut index = Index::new();
    for n in 0..1_000 {
        let filter = match n % 4 {
            0 => json!({"type": ["x", format!("y{n}")]}),
            1 => json!({"type": [{"prefix": "x"}], "n": [{"exists": false}]}),
            2 => json!({"amount": [{"numeric": ["<", n + 10]}]}),
            _ => json!({"type": [{"anything-but": format!("y{n}")}]}),
        };
        index.insert(subscription(
            &format!("s{n}"),
            "t",
            &json!({"channel": "c", "filter_criteria": filter}),
        ));
    }
    let message = message("t", "c", None, &json!({}), PayloadKind::Json, r#"{"type":"x","amount":5}"#);
    assert_eq!(found(&mut index, &message, ChannelType::Topic).len(), 1_000);
}

#[test]
fn every_operator_is_found_by_its_value() {
    let long = "ü".repeat(3_000);
    let table = [
        (json!("x"), json!("x"), json!("y")),
        (json!(300), json!(3e2), json!("300")),
        (json!(null), json!(null), json!(false)),
        (json!(true), json!(true), json!("true")),
        (json!({"prefix": "ü"}), json!(long), json!("x")),
        (json!({"suffix": "ü"}), json!(long), json!("ux")),
        (json!({"equals-ignore-case": "ÜX"}), json!("üx"), json!("ü")),
        (json!({"prefix": {"equals-ignore-case": "aÜ"}}), json!(format!("A{long}")), json!("ü")),
        (json!({"suffix": {"equals-ignore-case": "Üa"}}), json!(format!("{long}A")), json!("ü")),
        (json!({"wildcard": "x*"}), json!("xy"), json!("yx")),
        (json!({"wildcard": "*x"}), json!("yx"), json!("xy")),
        (json!({"wildcard": "*ab*b*"}), json!("xabb"), json!("b")),
        (json!({"wildcard": "*"}), json!(""), json!(1)),
        (json!({"numeric": [">", 1, "<", 2]}), json!(1.5), json!(2)),
        (json!({"numeric": [">=", 1e300]}), json!(1e301), json!(1)),
        (json!({"numeric": ["<", -1]}), json!(-1.5), json!("-2")),
        (
            json!({"numeric": ["=", 9_007_199_254_740_993_u64]}),
            json!(9_007_199_254_740_993_u64),
            json!(9_007_199_254_740_992_u64),
        ),
        (json!({"cidr": "10.0.0.0/8"}), json!("10.200.3.4"), json!("11.0.0.0")),
        (json!({"cidr": "0.0.0.0/0"}), json!("1.2.3.4"), json!("::1")),
        (json!({"cidr": "2001:db8::7/32"}), json!("2001:db8:1::2"), json!("2001:db9::")),
        (json!({"cidr": "::/0"}), json!("::1"), json!("1.2.3.4")),
        (json!({"exists": true}), json!([[0]]), json!({"p": 1})),
        (json!({"exists": false}), json!([]), json!([0])),
        (json!({"anything-but": {"suffix": "y"}}), json!(["y", "x"]), json!("xy")),
    ];
    let mut index = Index::new();
    let operators: Vec<Value> = table.iter().map(|(operator, ..)| operator.clone()).collect();
    for (n, operator) in operators.iter().enumerate() {
        let selector = json!({"channel": "c", "filter_criteria": {"p": [operator]}});
        index.insert(subscription(&format!("s{n:02}"), "t", &selector));
    }
    for (n, (operator, matching, other)) in table.iter().enumerate() {
        for (value, expected) in [(matching, true), (other, false)] {
            let body = json!({ "p": value }).to_string();
            let message = message("t", "c", None, &json!({}), PayloadKind::Json, &body);
            let found = found(&mut index, &message, ChannelType::Topic);
            assert_eq!(found.contains(&format!("s{n:02}")), expected, "{operator} {value}");
        }
    }
}

#[test]
fn thousands_of_patterns_come_and_go_between_messages() {
    let mut index = Index::new();
    let pattern = |n: usize| json!({"pattern": format!("orders.*.c{n}")});
    let to = |n: usize| message("t", &format!("orders.eu.c{n}"), None, &json!({}), PayloadKind::Text, "");
    for n in 0..3_000 {
        index.insert(subscription(&format!("s{n}"), "t", &pattern(n)));
        assert_eq!(found(&mut index, &to(n), ChannelType::Topic), [format!("s{n}")]);
        assert_eq!(found(&mut index, &to(n / 2), ChannelType::Topic), [format!("s{}", n / 2)]);
    }
    for n in 0..3_000 {
        index.remove(&SubscriptionId::new(&format!("s{n}")).unwrap());
        assert_eq!(found(&mut index, &to(n), ChannelType::Topic), Vec::<String>::new());
        if n < 2_999 {
            assert_eq!(found(&mut index, &to(2_999), ChannelType::Topic), ["s2999"]);
        }
    }
    assert!(index.tenants.is_empty());
}

fn selector() -> impl Strategy<Value = Value> {
    let channels = prop_oneof![
        4 => prop::sample::select(vec!["a", "a.b", "a.bc", "b"]).prop_map(|name| json!({ "channel": name })),
        4 => r"([abc.*?]|\[ab\]|\[\^b|\\\.){1,5}".prop_map(|glob| json!({ "pattern": glob })),
    ];
    let key = prop::sample::select(vec![
        "", "#", "*", "a", "a.b", "a.*", "*.b", "a.#", "#.b", "#.a.#", "a.#.b.#", "*.#",
    ]);
    let header = prop_oneof![
        prop::sample::select(vec!["1", "x"]).prop_map(Value::from),
        Just(json!(1)),
        Just(json!(true)),
        Just(json!(null)),
    ];
    let headers = prop::collection::btree_map("[hi]|x-h", header, 0..3);
    let mode = prop::option::of(prop::sample::select(vec!["all", "any", "all-with-x", "any-with-x"]));
    let header_match = (headers, mode).prop_map(|(headers, mode)| {
        let mode = mode.map(|mode| ("x-match".to_owned(), json!(mode)));
        Value::Object(headers.into_iter().chain(mode).collect())
    });
    (
        channels,
        prop::option::of(key),
        prop::option::weighted(0.3, header_match),
        prop::option::weighted(0.4, filter()),
    )
        .prop_map(|(mut selector, key, header_match, filter)| {
            let parts = [
                ("routing_key", key.map(Value::from)),
                ("header_match", header_match),
                ("filter_criteria", filter),
            ];
            for (name, part) in parts {
                if let Some(part) = part {
                    selector[name] = part;
                }
            }
            selector
        })
}

fn filter() -> impl Strategy<Value = Value> {
    let alternative = prop::sample::select(vec![
        json!("x"),
        json!("xy"),
        json!(""),
        json!(1),
        json!(2.5),
        json!(true),
        json!(false),
        json!(null),
        json!({"prefix": "x"}),
        json!({"prefix": ""}),
        json!({"prefix": {"equals-ignore-case": "X"}}),
        json!({"suffix": "y"}),
        json!({"suffix": {"equals-ignore-case": "Y"}}),
        json!({"suffix": "ü"}),
        json!({"equals-ignore-case": "XY"}),
        json!({"equals-ignore-case": "Ü"}),
        json!({"wildcard": "x*y"}),
        json!({"wildcard": "*y"}),
        json!({"wildcard": "*x*"}),
        json!({"wildcard": "*"}),
        json!({"numeric": [">", 0]}),
        json!({"numeric": ["<=", 1]}),
        json!({"numeric": [">", 0, "<", 3]}),
        json!({"numeric": ["=", 1]}),
        json!({"numeric": [">=", -1e9, "<=", 2.5]}),
        json!({"exists": true}),
        json!({"exists": false}),
        json!({"cidr": "10.0.0.0/8"}),
        json!({"anything-but": "x"}),
        json!({"anything-but": [1, 2]}),
        json!({"anything-but": {"prefix": "x"}}),
    ]);
    let leaf = prop::collection::vec(alternative, 1..3).prop_map(Value::from).boxed();
    let fields = |names: &'static str, inner: BoxedStrategy<Value>| {
        prop::collection::btree_map(names, inner, 1..3)
            .prop_map(|fields| Value::Object(fields.into_iter().collect()))
    };
    let nested = prop_oneof![3 => leaf.clone(), 1 => fields("[pq]", leaf.clone())].boxed();
    let either = prop::collection::vec(fields("[rs]", leaf), 2..4);
    (fields("[pq]|p\\.q", nested), prop::option::weighted(0.3, either))
        .prop_map(|(mut fields, either)| {
            if let Some(either) = either {
                fields["$or"] = Value::from(either);
            }
            fields
        })
        .prop_filter("too many wildcards", |filter| serde_json::from_value::<Filter>(filter.clone()).is_ok())
}

fn any_message() -> impl Strategy<Value = Message> {
    let scalar = prop::sample::select(vec![
        json!("x"),
        json!("xy"),
        json!("xay"),
        json!("y"),
        json!(""),
        json!("XY"),
        json!("ü"),
        json!("Ü"),
        json!("10.1.2.3"),
        json!(0),
        json!(1),
        json!(1.0),
        json!(2),
        json!(2.5),
        json!(3),
        json!(true),
        json!(false),
        json!(null),
    ]);
    let payload = scalar.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map("[pqrs]|p\\.q", inner, 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    });
    let object = prop::collection::btree_map("[pqrs]|p\\.q", payload, 0..4)
        .prop_map(|fields| Value::Object(fields.into_iter().collect()).to_string());
    let body = prop_oneof![
        8 => object.prop_map(|text| (PayloadKind::Json, text)),
        1 => Just((PayloadKind::Text, " {\"p\":\"x\"}".to_owned())),
        1 => Just((PayloadKind::Text, "{broken".to_owned())),
        1 => Just((PayloadKind::Bytes, "text".to_owned())),
    ];
    let header =
        prop::sample::select(vec![json!("1"), json!(1), json!("x"), json!(true), json!(null), json!([1])]);
    let headers = prop::collection::btree_map("[hHi]|x-h", header, 0..3).prop_map(|headers| json!(headers));
    (
        prop::sample::select(vec!["t", "u"]),
        prop::sample::select(vec!["a", "a.b", "a.bc", "b", "a-b", "c.b.a"]),
        prop::option::of(prop::sample::select(vec!["", "a", "b", "a.b", "a.a.b", "a..b", "b.a", "#", "a.*"])),
        headers,
        body,
    )
        .prop_map(|(tenant, channel, key, headers, (kind, body))| {
            message(tenant, channel, key, &headers, kind, &body)
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn agrees_with_the_definition(
        selectors in prop::collection::vec((prop::sample::select(vec!["t", "t", "t", "u"]), selector()), 1..60),
        steps in prop::collection::vec((any::<Pick>(), any::<Pick>(), any_message()), 1..40),
    ) {
        let mut index = Index::new();
        let mut all: Vec<Arc<Subscription>> = Vec::new();
        let given: Vec<_> = selectors
            .iter()
            .enumerate()
            .map(|(n, (tenant, selector))| subscription(&format!("s{n}"), tenant, selector))
            .collect();
        for subscription in &given {
            index.insert(Arc::clone(subscription));
            all.push(Arc::clone(subscription));
        }
        for (removed, added, message) in steps {
            for channel_type in CHANNEL_TYPES {
                prop_assert_eq!(found(&mut index, &message, channel_type), defined(&all, &message, channel_type));
            }
            if !all.is_empty() {
                let gone = all.swap_remove(removed.index(all.len()));
                index.remove(&gone.id);
            }
            // Put one (back), under an id that may be taken, so that it replaces another.
            let mut new = (**added.get(&given)).clone();
            new.id = removed.get(&given).id.clone();
            all.retain(|subscription| subscription.id != new.id);
            all.push(Arc::new(new.clone()));
            index.insert(Arc::new(new));
            prop_assert_eq!(index.len(), all.len());
        }
        for subscription in &all {
            index.remove(&subscription.id);
        }
        prop_assert!(index.is_empty() && index.tenants.is_empty());
    }
}
