//! Notifications: as messages, and in streams of server-sent events.

use std::{sync::Arc, time::Duration};

use postroad_testkit::wait::eventually;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::kit::{Api, PATIENCE, Town, ask, field, is_time, judge, refused, take};

/// An open stream, as a browser reads it.
struct Events {
    head: String,
    connection: TcpStream,
    raw: Vec<u8>,
    text: String,
}

/// One event.
#[derive(Debug, Clone, PartialEq)]
struct Event {
    id: String,
    data: Option<Value>,
}

impl Events {
    /// Opens one; what is answered instead is an error.
    async fn open(api: &Api, query: &str, header: &str) -> Self {
        let mut connection = TcpStream::connect(api.address()).await.unwrap();
        let host = api.address();
        let request =
            format!("GET /v1/notifications/stream?{query} HTTP/1.1\r\nhost: {host}\r\n{header}\r\n");
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut events = Self { head: String::new(), connection, raw: Vec::new(), text: String::new() };
        while events.head.is_empty() {
            assert!(events.read().await, "no head: {:?}", String::from_utf8_lossy(&events.raw));
            if let Some(end) = events.raw.windows(4).position(|four| four == b"\r\n\r\n") {
                events.head = String::from_utf8(events.raw.drain(..end + 4).collect()).unwrap();
            }
        }
        assert!(events.head.starts_with("HTTP/1.1 200 "), "{}", events.head);
        events
    }

    /// Reads some more; `false` at the end.
    async fn read(&mut self) -> bool {
        let mut some = [0; 4096];
        let read =
            tokio::time::timeout(PATIENCE, self.connection.read(&mut some)).await.expect("more of a stream");
        let read = read.unwrap_or(0);
        self.raw.extend(&some[..read]);
        read > 0
    }

    /// Takes whole chunks out of what was read.
    fn unchunk(&mut self) {
        while let Some(end) = self.raw.windows(2).position(|two| two == b"\r\n") {
            let size = usize::from_str_radix(std::str::from_utf8(&self.raw[..end]).unwrap(), 16).unwrap();
            if self.raw.len() < end + 2 + size + 2 {
                return;
            }
            self.text.push_str(std::str::from_utf8(&self.raw[end + 2..end + 2 + size]).unwrap());
            self.raw.drain(..end + 2 + size + 2);
        }
    }

    /// The next event; `None` at the end.
    async fn next(&mut self) -> Option<Event> {
        loop {
            self.unchunk();
            if let Some(end) = self.text.find("\n\n") {
                let block: String = self.text.drain(..end + 2).collect();
                let value = |name: &str| {
                    block.lines().find_map(|line| line.strip_prefix(name)).map(str::trim).map(str::to_owned)
                };
                if let Some(id) = value("id:") {
                    let data = value("data:").map(|data| serde_json::from_str(&data).unwrap());
                    return Some(Event { id, data });
                }
                continue;
            }
            if !self.read().await {
                return None;
            }
        }
    }

    /// The titles of the next events that show something.
    async fn titles(&mut self, count: usize) -> Vec<String> {
        let mut titles = Vec::new();
        while titles.len() < count {
            let event = self.next().await.expect("the stream goes on");
            titles.extend(event.data.map(|data| data["title"].as_str().unwrap().to_owned()));
        }
        titles
    }
}

async fn notify(api: &Api, title: &str, change: Value) -> Value {
    let mut request = json!({ "notification_type": "info", "title": title, "message": "m" });
    for (name, value) in change.as_object().unwrap() {
        request[name] = value.clone();
    }
    api.post("/v1/notifications", request).await.expect(202)
}

/// The reference's example, field for field.
#[tokio::test]
async fn a_notification_is_the_references_notification() {
    let town = Town::new().await;
    let api = town.api().await;
    let request = json!({
        "source_service": "user-auth-service",
        "notification_type": "success",
        "title": "Welcome!",
        "message": "Account created\nsuccessfully",
        "target_user_id": 123,
        "company_id": 1,
        "channel": "auth",
        "priority": 3,
        "data": { "link": "/home" },
        "correlation_id": "c",
        "metadata": { "a": 1 },
    });
    let mut stream = Events::open(&api, "user_id=123", "").await;
    let mut receipt = api.post("/v1/notifications", request.clone()).await.expect(202);
    let [id, at, stream_id] = take(&mut receipt, ["notification_id", "timestamp", "stream_id"]);
    assert!(id.as_str().unwrap().starts_with("ntf_") && is_time(&at), "{id} {at}");
    let expected = json!({
        "success": true, "channel": "notifications.auth", "recipients": "user", "correlation_id": "c", "error": null,
    });
    assert_eq!(receipt, expected);

    let message = api.get(&format!("/v1/messages/{}", id.as_str().unwrap())).await.expect(200);
    assert_eq!(
        (&message["channel"], &message["routing_key"]),
        (&json!("notifications.auth"), &json!("success"))
    );
    assert_eq!(message["metadata"]["priority"], "high");
    let mut content = message["payload"].clone();
    let [stamp] = take(&mut content, ["timestamp"]);
    assert!(is_time(&stamp));
    let mut expected = request;
    expected["id"] = id;
    expected["type"] = json!("notification");
    assert_eq!(content, expected);
    // The stream shows the same, under its id there.
    assert_eq!(stream.next().await.unwrap().data, None, "where it begins");
    let shown = stream.next().await.unwrap();
    assert_eq!(
        shown,
        Event { id: stream_id.as_str().unwrap().to_owned(), data: Some(message["payload"].clone()) }
    );
    for header in ["content-type: text/event-stream\r\n", "cache-control: no-store\r\n"] {
        assert!(stream.head.contains(header), "{}", stream.head);
    }
}

#[tokio::test]
async fn little_needs_to_be_said() {
    let town = Town::new().await;
    let api = town.api().await;
    let receipt = notify(&api, "t", json!({})).await;
    assert_eq!((&receipt["recipients"], &receipt["channel"]), (&json!("broadcast"), &json!("notifications")));
    let path = format!("/v1/messages/{}", receipt["notification_id"].as_str().unwrap());
    let mut content = api.get(&path).await.expect(200)["payload"].clone();
    take(&mut content, ["timestamp", "id"]);
    let expected = json!({
        "source_service": "anonymous", "type": "notification", "notification_type": "info", "title": "t",
        "message": "m", "priority": 2, "correlation_id": receipt["notification_id"],
    });
    assert_eq!(content, expected);
    for (priority, level, name) in [
        (json!(1), 1, "low"),
        (json!(4), 4, "critical"),
        (json!("normal"), 2, "normal"),
        (json!("high"), 3, "high"),
    ] {
        let receipt = notify(&api, "t", json!({ "priority": priority })).await;
        let path = format!("/v1/messages/{}", receipt["notification_id"].as_str().unwrap());
        let message = api.get(&path).await.expect(200);
        let seen = (&message["payload"]["priority"], &message["metadata"]["priority"]);
        assert_eq!(seen, (&json!(level), &json!(name)));
    }
}

#[tokio::test]
async fn everybody_sees_what_is_for_them_on_any_instance() {
    let town = Town::new().await;
    let (one, two) = (town.api().await, town.api().await);
    notify(&one, "before", json!({})).await;
    let mut streams = [
        (Events::open(&one, "user_id=7&company_id=acme", "").await, "own company all"),
        (Events::open(&two, "user_id=7", "").await, "own all"),
        (Events::open(&two, "user_id=8&company_id=acme", "").await, "company all"),
        (Events::open(&one, "user_id=all&company_id=7", "").await, "all"),
    ];
    notify(&one, "own", json!({ "target_user_id": 7, "company_id": "acme" })).await;
    notify(&two, "company", json!({ "company_id": "acme" })).await;
    notify(&one, "all", json!({})).await;
    for (stream, expected) in &mut streams {
        let expected: Vec<&str> = expected.split(' ').collect();
        assert_eq!(stream.titles(expected.len()).await, expected);
    }
    // By whatever type it was named.
    notify(&one, "again", json!({ "target_user_id": "7" })).await;
    assert_eq!(streams[1].0.titles(1).await, ["again"]);
}

#[tokio::test]
async fn a_stream_goes_on_where_it_was_left() {
    let town = Town::new().await;
    let (one, two) = (town.api().await, town.api().await);
    let mut first = Events::open(&one, "user_id=7", "").await;
    let begin = first.next().await.unwrap().id;
    let mut ids = Vec::new();
    for n in 0..5 {
        let to = if n % 2 == 0 { json!({ "target_user_id": 7 }) } else { json!({}) };
        ids.push(notify(&two, &n.to_string(), to).await["stream_id"].as_str().unwrap().to_owned());
    }
    assert_eq!(first.titles(5).await, ["0", "1", "2", "3", "4"]);
    drop(first);
    // Before anything was shown, in the middle, all of it, and by an address that the browser's word outdoes.
    let header = |id: &str| format!("last-event-id: {id}\r\n");
    for (query, header, from) in [
        ("user_id=7".to_owned(), header(&begin), 0),
        ("user_id=7".to_owned(), header(&ids[2]), 3),
        (format!("user_id=7&last_event_id={}", ids[3]), String::new(), 4),
        (format!("user_id=7&last_event_id={}", ids[0]), header(&ids[1]), 2),
        ("user_id=7&last_event_id=0".to_owned(), String::new(), 0),
    ] {
        let mut stream = Events::open(&two, &query, &header).await;
        let expected: Vec<String> = (from..5).map(|n| n.to_string()).collect();
        assert_eq!(stream.titles(expected.len()).await, expected, "{query} {header}");
    }
    // At its end, and from a place that never was: what comes.
    let far = "9999999999999-7";
    for id in [ids[4].as_str(), far] {
        let mut stream = Events::open(&one, "user_id=7", &header(id)).await;
        notify(&two, "next", json!({})).await;
        assert_eq!(stream.titles(1).await, ["next"]);
    }
}

/// While many are published by two instances, a reader that goes away and comes back again and again, to either
/// one, sees each exactly once and in order.
#[tokio::test]
async fn each_is_shown_exactly_once_from_the_tail_to_what_comes() {
    const ALL: usize = 300;
    let town = Town::new().await;
    let apis = [Arc::new(town.api().await), Arc::new(town.api().await)];
    let mut publishing = tokio::task::JoinSet::new();
    for (n, api) in apis.iter().cloned().enumerate() {
        publishing.spawn(async move {
            for m in 0..ALL / 2 {
                let to = [json!({ "target_user_id": 7 }), json!({ "company_id": "c" }), json!({})];
                notify(&api, &format!("{n}-{m}"), to[m % 3].clone()).await;
            }
        });
    }
    let (mut seen, mut last, mut visits) = (Vec::new(), "0".to_owned(), 0);
    while seen.len() < ALL {
        let header = format!("last-event-id: {last}\r\n");
        let mut stream = Events::open(&apis[visits % 2], "user_id=7&company_id=c", &header).await;
        visits += 1;
        for _ in 0..(1 + visits % 40).min(ALL - seen.len()) {
            let event = loop {
                let event = stream.next().await.unwrap();
                if event.data.is_some() {
                    break event;
                }
            };
            seen.push(event.data.unwrap()["title"].as_str().unwrap().to_owned());
            last = event.id;
        }
    }
    publishing.join_all().await;
    let unique: std::collections::BTreeSet<&String> = seen.iter().collect();
    assert_eq!(unique.len(), ALL, "in {visits} visits");
    for n in 0..2 {
        let own: Vec<usize> =
            seen.iter().filter_map(|title| title.strip_prefix(&format!("{n}-"))?.parse().ok()).collect();
        assert!(own.is_sorted(), "each publisher's order holds: {own:?}");
    }
}

#[tokio::test]
async fn a_stream_lives_through_an_outage_of_redis() {
    let redis = postroad_testkit::redis::PrivateRedis::builder();
    let redis = redis.append_only(postroad_testkit::redis::Fsync::Always).start().await.unwrap();
    let town = Town::on(redis);
    let api = town.api().await;
    let mut stream = Events::open(&api, "user_id=7", "").await;
    notify(&api, "before", json!({})).await;
    assert_eq!(stream.titles(1).await, ["before"]);
    town.redis.restart().await.unwrap();
    let again = async || {
        let request = json!({ "notification_type": "info", "title": "after", "message": "m" });
        let send = ask("POST", "/v1/notifications").header("idempotency-key", "k").json(request.to_string());
        match api.send(&send).await.status {
            200 | 202 => Ok(()),
            status => Err(status),
        }
    };
    eventually(PATIENCE, "publishing to work again", again).await.unwrap();
    notify(&api, "later", json!({})).await;
    assert_eq!(stream.titles(2).await, ["after", "later"]);
}

#[tokio::test]
async fn an_idempotency_key_is_shown_once() {
    let town = Town::new().await;
    let (one, two) = (town.api().await, town.api().await);
    let mut stream = Events::open(&one, "user_id=7", "").await;
    let request = json!({ "notification_type": "error", "title": "once", "message": "m" });
    let send = ask("POST", "/v1/notifications").header("idempotency-key", "k").json(request.to_string());
    let first = one.send(&send).await.expect(202);
    let again = two.send(&send).await.expect(200);
    assert_eq!((&again["stream_id"], &again["duplicate"]), (&first["stream_id"], &json!(true)));
    notify(&two, "next", json!({})).await;
    assert_eq!(stream.titles(2).await, ["once", "next"]);
}

#[tokio::test]
async fn what_was_published_but_not_shown_is_shown_when_it_is_repeated() {
    let town = Town::new().await;
    let api = town.api().await;
    let request = json!({ "notification_type": "error", "title": "late", "message": "m" });
    let send = ask("POST", "/v1/notifications").header("idempotency-key", "k").json(request.to_string());
    api.send(&send).await.expect(202);
    // As if this instance had been killed in between.
    for key in ["tail:default/all", "tails", "notified:*"] {
        let keys = town.redis.command(&["KEYS", &format!("*}}:{key}")]).await.unwrap();
        for key in keys.items() {
            town.redis.command(&["DEL", &key.text().unwrap()]).await.unwrap();
        }
    }
    api.send(&send).await.expect(200);
    let mut stream = Events::open(&api, "user_id=7&last_event_id=0", "").await;
    assert_eq!(stream.titles(1).await, ["late"]);
}

#[tokio::test]
async fn a_ticket_opens_one_stream() {
    let town = Town::new().await;
    let (one, two) = (town.api().await, town.api().await);
    let request = json!({ "user_id": 7, "company_id": "acme" });
    let mut ticket = one.post("/v1/notifications/tickets", request).await.expect(201);
    let [name, expires] = take(&mut ticket, ["ticket", "expires_at"]);
    assert!(is_time(&expires) && ticket == json!({ "expires_in": 60 }), "{expires} {ticket}");
    let name = name.as_str().unwrap();
    assert!(name.starts_with("tkt_") && name.len() == 34, "{name}");
    let mut stream = Events::open(&two, &format!("ticket={name}"), "").await;
    notify(&one, "own", json!({ "target_user_id": 7 })).await;
    notify(&one, "company", json!({ "company_id": "acme" })).await;
    assert_eq!(stream.titles(2).await, ["own", "company"]);
    for ticket in [name, "tkt_unknown", "", "{p0}", &"x".repeat(99)] {
        let answer =
            one.get(&format!("/v1/notifications/stream?ticket={}", ticket.replace('{', "%7B"))).await;
        judge(&answer, refused(401, "invalid_ticket", "ticket", "ask for another")).unwrap();
    }
}

#[tokio::test]
async fn streams_are_bounded_and_end_with_the_instance() {
    let mut town = Town::new().await;
    town.config.ingest.max_streams = 1;
    let (one, two) = (town.api().await, town.api().await);
    let mut stream = Events::open(&one, "user_id=7", "").await;
    stream.next().await.unwrap();
    let refusal = one.get("/v1/notifications/stream?user_id=8").await;
    judge(&refusal, refused(503, "too_many_waiting", "", "1 open streams")).unwrap();
    // A place is free again once its reader has gone, and nobody listens for it any more.
    let mut other = Events::open(&two, "user_id=8", "").await;
    other.next().await.unwrap();
    drop(other);
    notify(&one, "for nobody", json!({ "target_user_id": 8 })).await;
    let free = async || {
        notify(&one, "for nobody", json!({ "target_user_id": 8 })).await;
        let answer = two.get("/v1/notifications/stream?user_id=").await;
        if answer.status == 422 { Ok(()) } else { Err(answer.text()) }
    };
    eventually(PATIENCE, "the place to be free", free).await.unwrap();
    drop(one);
    let end = tokio::time::timeout(Duration::from_secs(5), stream.next()).await.expect("an end in time");
    assert_eq!(end, None);
}

#[tokio::test]
async fn what_is_wrong_is_named_and_changes_nothing() {
    let town = Town::new().await;
    let api = town.api().await;
    let with = |name: &str, value: Value| {
        let mut request = json!({ "notification_type": "info", "title": "t", "message": "m" });
        request[name] = value;
        request
    };
    let large = "x".repeat(16 << 10);
    let table = [
        (json!({}), field("notification_type", "missing")),
        (with("notification_type", json!("fatal")), field("notification_type", "success")),
        (with("title", json!("")), field("title", "0 bytes")),
        (with("title", json!("x".repeat(256))), field("title", "256 bytes")),
        (with("message", json!("")), field("message", "empty")),
        (with("message", json!(large)), refused(413, "body_too_large", "body", "16384")),
        (with("target_user_id", json!("")), field("target_user_id", "0 bytes")),
        (with("target_user_id", json!(1.5)), field("target_user_id", "whole number")),
        (with("target_user_id", json!("x".repeat(129))), field("target_user_id", "129 bytes")),
        (with("company_id", json!("a\u{0}")), field("company_id", "control")),
        (with("channel", json!("a b")), field("channel", "' '")),
        (with("channel", json!("")), field("channel", "empty")),
        (with("priority", json!(0)), field("priority", "1 to 4")),
        (with("priority", json!(5)), field("priority", "1 to 4")),
        (with("priority", json!("urgent")), field("priority", "critical")),
        (with("data", json!([])), field("data", "not an object")),
        (with("broadcast", json!(true)), field("broadcast", "unknown field")),
    ];
    let before = town.dump().await;
    for (request, expected) in table {
        let answer = api.post("/v1/notifications", request).await;
        judge(&answer, expected).unwrap_or_else(|problem| panic!("{problem}: {}", answer.text()));
    }
    for (query, expected) in [
        ("", field("user_id", "missing")),
        ("user_id=", field("user_id", "0 bytes")),
        ("user_id=a%00", field("user_id", "control")),
        ("user_id=7&company_id=", field("company_id", "0 bytes")),
        ("user_id=7&last_event_id=x", field("last_event_id", "no id")),
        ("user_id=7&ticket=x", field("user_id", "without a ticket")),
        ("user=7", field("user", "no query name")),
    ] {
        let answer = api.get(&format!("/v1/notifications/stream?{query}")).await;
        judge(&answer, expected).unwrap_or_else(|problem| panic!("{query}: {problem}: {}", answer.text()));
    }
    let answer =
        api.send(&ask("GET", "/v1/notifications/stream?user_id=7").header("last-event-id", "1.5")).await;
    judge(&answer, field("Last-Event-ID", "no id")).unwrap();
    let answer = api.post("/v1/notifications/tickets", json!({})).await;
    judge(&answer, field("user_id", "missing")).unwrap();
    assert_eq!(town.dump().await, before);
}
