//! A receiver records what it gets and answers as it was told.

use std::time::{Duration, Instant};

use bytes::Bytes;
use postroad_testkit::receiver::{Answer, Behaviour, Keep, Receiver};
use serde_json::json;

use crate::http::{Client, End, Exchange, post};

const SOON: Duration = Duration::from_secs(5);
const AWHILE: Duration = Duration::from_millis(150);

async fn exchange(receiver: &Receiver, answer: Answer, wait: Duration) -> Exchange {
    receiver.on("/hook", answer);
    post(receiver.addr(), "/hook", "webhook-id: msg_1\r\n", "{}", wait).await
}

#[tokio::test]
async fn a_request_is_recorded_and_answered() {
    let receiver = Receiver::start().await.unwrap();
    receiver.on("/hook", Answer::status(201).header("x-mark", "yes").json(&json!({"a": 1})));
    let headers = "webhook-id: msg_7\r\nx-many: 1\r\nx-many: 2\r\n";
    let begin = Instant::now();
    let exchange = post(receiver.addr(), "/hook?x=1", headers, r#"{"message_id":"msg_7"}"#, SOON).await;
    assert_eq!(exchange.end, End::Closed);
    assert!(exchange.answer.starts_with("HTTP/1.1 201 Created\r\n"), "{}", exchange.answer);
    assert!(exchange.answer.contains("x-mark: yes\r\n"), "{}", exchange.answer);
    assert!(exchange.answer.ends_with("\r\n\r\n{\"a\":1}"), "{}", exchange.answer);

    let all = receiver.received("/hook");
    let [request] = all.as_slice() else { panic!("{all:?}") };
    assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/hook"));
    assert_eq!((request.query.as_deref(), request.number, request.connection), (Some("x=1"), 1, 1));
    assert_eq!(request.header("webhook-id"), Some("msg_7"));
    assert_eq!(request.headers.get_all("x-many").iter().count(), 2);
    assert_eq!(request.field("/message_id"), Some(json!("msg_7")));
    assert_eq!(request.answered(), Some(201));
    assert!(request.at >= begin && request.at <= Instant::now());
    assert_eq!(receiver.url("/hook"), format!("http://{}/hook", receiver.addr()));
}

#[tokio::test]
async fn paths_are_apart_and_change_at_run_time() {
    let receiver = Receiver::start().await.unwrap();
    let mut client = Client::connect(receiver.addr()).await;
    receiver.on("/bad", Behaviour::first(1, Answer::status(500)).then(Answer::status(410)));
    for (path, status) in [("/good", 200), ("/bad", 500), ("/bad", 410), ("/good", 200)] {
        assert_eq!(client.post(path, "msg_1", Bytes::new()).await.unwrap().status(), status);
    }
    receiver.on("/bad", Behaviour::by(|request| Answer::status(if request.number == 3 { 202 } else { 204 })));
    for (id, status) in [("msg_2", 202), ("msg_1", 204)] {
        assert_eq!(client.post("/bad", id, Bytes::new()).await.unwrap().status(), status);
    }
    assert_eq!((receiver.count("/good"), receiver.count("/bad"), receiver.count("/none")), (2, 4, 0));
    assert_eq!(receiver.distinct("/bad", "webhook-id").into_iter().collect::<Vec<_>>(), ["msg_1", "msg_2"]);
    assert!(receiver.received("/bad").iter().all(|request| request.connection == 1));
    receiver.clear("/bad");
    assert_eq!((receiver.count("/good"), receiver.count("/bad")), (2, 0));
    assert_eq!(client.post("/bad", "msg_3", Bytes::new()).await.unwrap().status(), 204);
    receiver.clear_all();
    assert_eq!((receiver.count("/good"), receiver.count("/bad")), (0, 0));
}

#[tokio::test]
async fn a_delay_counts_as_in_flight_and_a_client_that_leaves_gets_no_answer() {
    let receiver = Receiver::start().await.unwrap();
    let begin = Instant::now();
    let delayed = exchange(&receiver, Answer::ok().delay(AWHILE), SOON).await;
    assert!(delayed.answer.starts_with("HTTP/1.1 200") && begin.elapsed() >= AWHILE);
    receiver.clear("/hook");
    let one = || post(receiver.addr(), "/hook", "", "", AWHILE / 2);
    let (a, b, c) = tokio::join!(one(), one(), one());
    assert!([a, b, c].iter().all(|given_up| given_up.end == End::StillOpen));
    assert_eq!(receiver.peak_in_flight("/hook"), 3);
    tokio::time::sleep(AWHILE).await;
    assert!(receiver.received("/hook").iter().all(|request| request.answered().is_none()));
}

#[tokio::test]
async fn waiting_ends_with_the_requests_or_with_what_came_instead() {
    let receiver = Receiver::start().await.unwrap();
    let addr = receiver.addr();
    let late = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(30)).await;
        for id in 1..=3 {
            post(addr, "/hook", &format!("webhook-id: msg_{id}\r\n"), "{}", SOON).await;
        }
        post(addr, "/other", "", "", SOON).await;
    });
    let all = receiver.wait_for("/hook", 3, SOON).await.unwrap();
    assert_eq!(all.len(), 3);
    late.await.unwrap();
    let error = receiver.wait_for("/hook", 4, Duration::from_millis(30)).await.unwrap_err().to_string();
    assert!(error.contains("for 4 requests to /hook; got 3\n"), "{error}");
    assert!(error.contains("#3 POST /hook webhook-id=msg_3 (2 bytes on connection 3) -> 200"), "{error}");
    assert!(error.contains("elsewhere: /other got 1"), "{error}");
}

#[tokio::test]
async fn it_hangs_closes_resets_and_talks_nonsense() {
    let receiver = Receiver::start().await.unwrap();
    let hung = exchange(&receiver, Answer::hang(), AWHILE).await;
    assert_eq!((hung.answer.as_str(), hung.end), ("", End::StillOpen));
    let closed = exchange(&receiver, Answer::close_without_answer(), SOON).await;
    assert_eq!((closed.answer.as_str(), closed.end), ("", End::Closed));
    let reset = exchange(&receiver, Answer::ok().header("x-a", "b").reset_after_headers(), SOON).await;
    assert!(reset.answer.starts_with("HTTP/1.1 200 OK\r\nx-a: b\r\n") && reset.answer.ends_with("\r\n\r\n"));
    assert_eq!(reset.end, End::Reset);
    let nonsense = exchange(&receiver, Answer::raw("HTTP/9.9 banana\r\n"), SOON).await;
    assert_eq!((nonsense.answer.as_str(), nonsense.end), ("HTTP/9.9 banana\r\n", End::Closed));
    assert_eq!(receiver.count("/hook"), 4);
    assert!(receiver.received("/hook").iter().all(|request| request.answered().is_none()));
}

#[tokio::test]
async fn it_sends_too_much() {
    let receiver = Receiver::start().await.unwrap();
    let endless = exchange(&receiver, Answer::status(500).endless_body(), SOON).await;
    assert!(endless.answer.starts_with("HTTP/1.1 500 Internal Server Error\r\n"));
    assert_eq!(endless.end, End::Enough);
    let huge = exchange(&receiver, Answer::ok().huge_headers(500_000), SOON).await;
    assert_eq!(huge.end, End::Closed);
    assert!((500_000..501_000).contains(&huge.answer.len()), "{}", huge.answer.len());
    assert!(huge.answer.ends_with("x\r\n\r\n") && huge.answer.contains("\r\nx-filler-60: x"));
}

#[tokio::test]
async fn it_sends_too_slowly() {
    let receiver = Receiver::start().await.unwrap();
    let body = exchange(&receiver, Answer::ok().slow_body(100), AWHILE * 2).await;
    let (head, sent) = body.answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK"));
    assert!((5..=35).contains(&sent.len()), "{}", sent.len());
    assert_eq!(body.end, End::StillOpen);
    let head = exchange(&receiver, Answer::ok().slow_head(50), AWHILE * 2).await;
    assert!((3..=18).contains(&head.answer.len()) && "HTTP/1.1 200 OK\r\n".starts_with(&head.answer));
    let whole = exchange(&receiver, Answer::ok().body("end").slow_head(2_000), SOON).await;
    assert!(whole.answer.ends_with("\r\n\r\nend") && whole.end == End::Closed);
}

#[tokio::test]
async fn dropping_it_cuts_everything() {
    let receiver = Receiver::start().await.unwrap();
    receiver.on("/hook", Answer::hang());
    let addr = receiver.addr();
    let hung = tokio::spawn(post(addr, "/hook", "", "", SOON));
    receiver.wait_for("/hook", 1, SOON).await.unwrap();
    drop(receiver);
    assert_ne!(hung.await.unwrap().end, End::StillOpen);
    assert!(tokio::net::TcpStream::connect(addr).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_thousand_requests_are_no_burden() {
    const CLIENTS: usize = 50;
    const EACH: usize = 400;
    let keep = Keep::only(&["webhook-id"], &["/message_id"]);
    let receiver = Receiver::start_keeping(keep).await.unwrap();
    receiver.on("/hook", Behaviour::random(0.1, 42, Answer::status(503), Answer::ok()));
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..CLIENTS {
        let mut client = Client::connect(receiver.addr()).await;
        clients.spawn(async move {
            let filler = "x".repeat(2_000);
            let mut refused = 0;
            for request in 0..EACH {
                let id = format!("msg_{}", number * EACH + request);
                let body = format!(r#"{{"message_id":"{id}","payload":"{filler}"}}"#);
                let answer = client.post("/hook", &id, body.into()).await.unwrap();
                refused += usize::from(answer.status() == 503);
            }
            refused
        });
    }
    let refused: usize = clients.join_all().await.iter().sum();
    let all = receiver.wait_for("/hook", CLIENTS * EACH, SOON).await.unwrap();
    assert_eq!(receiver.distinct("/hook", "webhook-id").len(), CLIENTS * EACH);
    assert_eq!(all.iter().filter(|request| request.answered() == Some(503)).count(), refused);
    assert!((1_700..2_300).contains(&refused), "{refused}");
    let last = all.last().unwrap();
    assert_eq!(last.field("/message_id").unwrap(), last.header("webhook-id").unwrap());
    assert!(last.body.is_empty() && last.body_bytes > 2_000);
    assert!(receiver.peak_in_flight("/hook") <= CLIENTS);
}
