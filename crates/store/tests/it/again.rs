//! again: messages of history accepted once more, and the jobs that do so.

use std::sync::Arc;

use super::kit::*;
use postroad_model::{
    id::{MessageId, SubscriptionId},
    message::{Message, Priority},
    names::Tenant,
    subscription::Subscription,
    time::Time,
};
use postroad_store::{
    AcceptedAgain, Again, HistoryReplay, JobState, Linked, Source, StoreError, StreamId, entry::Accepted,
};

async fn first(road: &Road, id: &str) -> StreamId {
    road.accept(&[id]).await;
    road.store.history(0, StreamId::ZERO, END, 1_000).await.unwrap().last().unwrap().id
}

fn again(first: StreamId, id: &str, to: &[&Subscription]) -> Again {
    let targets: Arc<[SubscriptionId]> = to.iter().map(|sub| sub.id.clone()).collect();
    Again { first, part: String::new(), message: Message { targets, ..message(id, Priority::Normal) } }
}

async fn send(road: &Road, mine: &str, messages: &[Again]) -> Option<Vec<AcceptedAgain>> {
    road.store.accept_again(0, mine, messages, WINDOW).await.unwrap()
}

/// A job that a runner has taken and opened everything for: its name.
async fn job(road: &Road, id: &str) -> String {
    let source = Source::Message {
        id: MessageId::new("a").unwrap(),
        partition: 0,
        at: StreamId::ZERO,
        subscriptions: None,
    };
    let replay = HistoryReplay::new(source, None, None);
    assert_eq!(road.store.make_history_job(id, &Tenant::single(), &replay, 99).await.unwrap(), None);
    take(road, id, "r-1").await
}

async fn take(road: &Road, id: &str, me: &str) -> String {
    // Whoever has it is not heard of for longer than the lease.
    tokio::time::sleep(std::time::Duration::from_millis(3)).await;
    let mine = road.store.take_job(id, me, 1).await.unwrap().unwrap();
    road.store.open_job(&mine).await.unwrap();
    mine
}

async fn added(road: &Road, behind: StreamId) -> Vec<Accepted> {
    road.store.history(0, behind, END, 1_000).await.unwrap()
}

#[tokio::test]
async fn a_message_comes_again_as_it_was_with_the_next_generation_and_its_targets() {
    let road = Road::new().await;
    let (one, two) = (subscription(), subscription());
    let at = first(&road, "a").await;
    let mine = job(&road, "job_1").await;
    let done = send(&road, &mine, &[again(at, "a", &[&one, &two])]).await.unwrap();
    let entries = added(&road, at).await;
    assert_eq!((done[0].generation, done[0].at, entries.len()), (Some(1), entries[0].id, 1));
    assert_eq!(entries[0].first, Some(at));
    let expected = Message {
        generation: 1,
        targets: Arc::from([one.id.clone(), two.id.clone()]),
        ..message("a", Priority::Normal)
    };
    assert_eq!(entries[0].entry.decode().unwrap(), expected);
    assert_eq!(road.store.job_moved("job_1").await.unwrap(), 2, "deliveries are counted");

    // The same work again, by whichever runner, is not done again.
    for runner in ["r-1", "r-2"] {
        let mine = take(&road, "job_1", runner).await;
        let done = send(&road, &mine, &[again(at, "a", &[&one])]).await.unwrap();
        assert_eq!(done, [AcceptedAgain { generation: None, at: entries[0].id }]);
    }
    assert_eq!(added(&road, at).await.len(), 1);
    assert_eq!(road.store.job_moved("job_1").await.unwrap(), 2);
    // And its id still means the first one.
    assert!(matches!(
        road.accept(&["a"]).await[0],
        postroad_store::Accepted::Duplicate { at: same, .. } if same == at
    ));
    road.check().await;
}

#[tokio::test]
async fn each_replay_of_a_message_has_a_higher_number_and_all_of_one_job_the_same() {
    let road = Road::new().await;
    let sub = subscription();
    let (a, b) = (first(&road, "a").await, first(&road, "b").await);
    let (one, two) = (job(&road, "job_1").await, job(&road, "job_2").await);
    let part = |part: &str| Again { part: part.into(), ..again(a, "a", &[&sub]) };
    let numbers = async |mine: &str, messages: &[Again]| -> Vec<Option<u32>> {
        send(&road, mine, messages).await.unwrap().iter().map(|done| done.generation).collect()
    };
    assert_eq!(
        numbers(&one, &[part("x"), part("y"), again(b, "b", &[&sub])]).await,
        [Some(1), Some(1), Some(1)]
    );
    assert_eq!(numbers(&two, &[part("x")]).await, [Some(2)]);
    assert_eq!(numbers(&one, &[part("z"), part("x")]).await, [Some(3), None]);
    assert_eq!(numbers(&two, &[again(b, "b", &[&sub])]).await, [Some(2)]);
    let seen: Vec<(StreamId, u32)> = added(&road, b)
        .await
        .iter()
        .map(|entry| (entry.first.unwrap(), entry.entry.decode().unwrap().generation))
        .collect();
    assert_eq!(seen, [(a, 1), (a, 1), (b, 1), (a, 2), (a, 3), (b, 2)]);
    // What they are counted in goes with the time in which they came.
    let keys = road.texts(&["KEYS", "*again:*"]).await;
    assert_eq!(keys.len(), 1);
    let left = u64::try_from(road.number(&["PTTL", &keys[0]]).await).unwrap();
    assert!((WINDOW..=2 * WINDOW).contains(&left), "{left}");
}

#[tokio::test]
async fn only_the_runner_of_a_job_adds_and_nobody_once_it_was_stopped() {
    let road = Road::new().await;
    let sub = subscription();
    let at = first(&road, "a").await;
    let old = job(&road, "job_1").await;
    let new = take(&road, "job_1", "r-2").await;
    assert_eq!(send(&road, &old, &[again(at, "a", &[&sub])]).await, None, "another has it");
    assert!(send(&road, &new, &[again(at, "a", &[&sub])]).await.is_some());
    assert_eq!(road.store.stop_job("job_1").await.unwrap(), Some(JobState::Running));
    road.store.end_job("job_1").await.unwrap();
    let other = Again { part: "more".into(), ..again(at, "a", &[&sub]) };
    assert_eq!(send(&road, &new, &[other]).await, None, "it was stopped");
    assert_eq!(added(&road, at).await.len(), 1);
    let record = road.store.job("job_1").await.unwrap().unwrap();
    assert_eq!((record.state, record.moved), (JobState::Stopped, Some(1)));
    assert_eq!(road.number(&["EXISTS", &road.partition_key(0, "jobs")]).await, 0, "nothing is left of it");
}

#[tokio::test]
async fn a_full_redis_refuses_and_the_gate_is_passed() {
    let road = Road::new().await;
    let sub = subscription();
    let at = first(&road, "a").await;
    let mine = job(&road, "job_1").await;
    road.redis(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let refused = road.store.accept_again(0, &mine, &[again(at, "a", &[&sub])], WINDOW).await.unwrap_err();
    assert!(matches!(refused, StoreError::Full(_)), "{refused}");
    road.redis(&["CONFIG", "SET", "maxmemory", "0"]).await;
    assert_eq!((added(&road, at).await.len(), road.store.job_moved("job_1").await.unwrap()), (0, 0));
    road.redis(&["HSET", &road.partition_key(0, "door"), "gate", "another server"]).await;
    road.redis(&["SCRIPT", "FLUSH"]).await;
    let done = send(&road, &mine, &[again(at, "a", &[&sub])]).await.unwrap();
    assert!(done[0].at.ms >= at.ms + 60_000);
}

/// All of a message's deliveries are in one trace, whichever replay they belong to.
#[tokio::test]
async fn a_replay_goes_on_with_the_first_ones_trace() {
    let mut road = Road::new().await;
    let sub = road.subscribe(|_| {}).await;
    let at = road.queue(&sub, &["a"]).await[0];
    let lease = road.take_one("w-1", &sub).await;
    road.outcome("w-1", &sub, lease, &answered(200)).await;
    let lane = LAYOUT.lane_of(&sub.id);
    for name in ["job_1", "job_2"] {
        let mine = job(&road, name).await;
        send(&road, &mine, &[again(at, "a", &[&sub])]).await.unwrap();
        let entry = added(&road, at).await.pop().unwrap();
        let reply = road.send(lane, 0, entry.id, vec![place(&entry, &[&sub.id], Priority::Normal)]).await;
        assert_eq!(reply.links, [Linked::Ok]);
    }
    let trace = road.store.locate(0, at).await.unwrap().remove(0);
    assert_eq!((trace.lines.len(), trace.located.len()), (4, 3), "{trace:?}");
    let lease = road.take("w-1", &sub).await.leases.remove(0);
    road.outcome("w-1", &sub, lease, &answered(200)).await;
    assert_eq!(road.store.locate(0, at).await.unwrap()[0].lines.len(), 5, "and what becomes of it too");
    for entry in added(&road, at).await {
        assert!(road.store.locate(0, entry.id).await.unwrap().is_empty(), "it has none of its own");
    }
    // One that keeps no history keeps none as a replay.
    let entry = added(&road, at).await.pop().unwrap();
    let later = Accepted { id: StreamId { ms: entry.id.ms + 1, ..entry.id }, ..entry };
    let placed = postroad_store::Placed { keep: false, ..place(&later, &[&sub.id], Priority::Normal) };
    road.send(lane, 0, later.id, vec![placed]).await;
    assert_eq!(road.store.locate(0, at).await.unwrap()[0].lines.len(), 5);
    road.check().await;
}

#[tokio::test]
async fn a_job_of_a_time_ends_where_history_ended_when_it_was_made() {
    let road = Road::new().await;
    let at = first(&road, "a").await;
    let source = Source::Range {
        subscription: subscription().id,
        from: Time::from_millis(1),
        to: Time::from_millis(2),
    };
    let replay = HistoryReplay::new(source, None, Some(3));
    road.store.make_history_job("job_1", &Tenant::single(), &replay, 1).await.unwrap();
    first(&road, "b").await;
    let plan = road.store.job_plan("job_1").await.unwrap();
    assert_eq!(serde_json::from_str::<Vec<StreamId>>(&plan).unwrap(), [at, StreamId::ZERO]);
    let job = road.store.job("job_1").await.unwrap().unwrap();
    assert_eq!(HistoryReplay::read(&job.spec), Some(replay.clone()));
    let open = road.store.make_history_job("job_2", &Tenant::single(), &replay, 1).await.unwrap();
    assert_eq!(open, Some(1), "a tenant's open jobs are bounded");
}
