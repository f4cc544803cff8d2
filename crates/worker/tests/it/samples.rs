//! Tests: samples that are sent once, however that goes.

use postroad_model::subscription::Subscription;
use postroad_store::trace::Lies;
use postroad_testkit::receiver::Answer;

use crate::kit::{Road, Tried, messages};

/// A test of a subscriber that answers so: the attempts at it, the hold, and the subscription.
async fn test(road: &mut Road, answer: Answer, id: &str) -> (Vec<Tried>, Option<u64>, Subscription) {
    let subscription = road.subscribe(|subscription| subscription.auto_ack = false).await;
    let mut sample = messages(&[id]);
    sample[0].test = true;
    let at = road.queue(&subscription, &sample).await;
    road.receiver.on("/in", answer);
    let _working = road.work().await;
    let state = road.settled(&subscription).await;
    assert_eq!((state.delivered, state.failed, state.dead), (0, 0, 0), "it counts for nothing");
    let (attempts, lies) = road.tried(at[0]).await;
    assert_eq!(lies, Lies::Gone);
    (attempts, state.hold_ms, subscription)
}

#[tokio::test]
async fn a_test_is_sent_once_and_leaves_nothing_behind() {
    let mut road = Road::new().await;
    let busy = || Answer::status(503).header("retry-after", "600");
    let answers =
        [(Answer::ok(), 200), (Answer::status(500), 500), (Answer::status(410), 410), (busy(), 503)];
    for (n, (answer, status)) in answers.into_iter().enumerate() {
        let (attempts, hold, _) = test(&mut road, answer, &format!("t{n}")).await;
        assert_eq!(attempts.len(), 1, "{attempts:?}");
        assert_eq!((attempts[0].0, attempts[0].1), (1, Some(status)));
        assert_eq!(attempts[0].2.is_some(), status != 200);
        assert!(hold.is_none_or(|hold| hold == 0), "{hold:?}");
    }
    let received = road.receiver.received("/in");
    assert_eq!(received.len(), 4);
    assert!(received.iter().all(|request| request.header("postroad-test") == Some("true")));
    let (attempts, ..) = test(&mut road, Answer::close_without_answer(), "t9").await;
    assert!(attempts.len() == 1 && attempts[0].1.is_none() && attempts[0].2.is_some(), "{attempts:?}");
}
