//! respond, notify, health, event_type: what the kinds of messages leave behind.

use std::time::Duration;

use postroad_model::{id::MessageId, names::Tenant};
use postroad_store::{
    EventTypeBounds, PutEventType, Responded, Response, ServiceHealth, Signal, StoreError, StreamId,
    TailBounds, keys::Tag,
};

use crate::kit::{LAYOUT, Road};

const BOUNDS: TailBounds =
    TailBounds { entries: 5, keep: Duration::from_secs(60), remember: Duration::from_secs(30) };
const TYPES: EventTypeBounds = EventTypeBounds { types: 3, bytes: 200 };

fn id(text: &str) -> MessageId {
    MessageId::new(text).unwrap()
}

fn tenants() -> [Tenant; 2] {
    [Tenant::single(), Tenant::new("other").unwrap()]
}

/// Redis takes nothing that adds while `what` runs.
async fn when_full<T: std::fmt::Debug>(road: &Road, what: impl Future<Output = Result<T, StoreError>>) {
    road.redis(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let refused = what.await.unwrap_err();
    road.redis(&["CONFIG", "SET", "maxmemory", "0"]).await;
    assert!(matches!(refused, StoreError::Full(_)), "{refused}");
}

#[tokio::test]
async fn the_first_answer_counts() {
    let road = Road::new().await;
    let [tenant, other] = tenants();
    let (store, command) = (&road.store, id("cmd_1"));
    let mut waiting = store.await_response(&tenant, &command).await.unwrap();
    assert_eq!(store.response(&tenant, &command).await.unwrap(), None);
    when_full(&road, store.respond(&tenant, &command, "{}", None, 60_000)).await;

    let before = road.now().await;
    let Responded::First(first) =
        store.respond(&tenant, &command, "{\"n\":1}", Some(before + 60_000), 60_000).await.unwrap()
    else {
        panic!("nobody was before")
    };
    assert!(first.at_ms >= before && !first.late && first.answer == "{\"n\":1}");
    assert!(matches!(waiting.recv().await, Signal::Payload(_)));
    for answer in ["{\"n\":1}", "{\"n\":2}"] {
        let again = store.respond(&tenant, &command, answer, Some(1), 60_000).await.unwrap();
        assert_eq!(again, Responded::Before(first.clone()));
    }
    assert_eq!(store.response(&tenant, &command).await.unwrap(), Some(first));
    assert_eq!(store.response(&other, &command).await.unwrap(), None, "another tenant's");
    let partition = LAYOUT.partition_of_id(&tenant, &command);
    let key = road.partition_key(partition, "response:default/cmd_1");
    assert!((1..=60_000).contains(&road.number(&["PTTL", &key]).await));

    let due = road.now().await - 1;
    let late = store.respond(&other, &command, "{}", Some(due), 60_000).await.unwrap();
    assert!(matches!(late, Responded::First(Response { late: true, .. })), "{late:?}");
    let whenever = store.respond(&tenant, &id("cmd_2"), "{}", None, 60_000).await.unwrap();
    assert!(matches!(whenever, Responded::First(Response { late: false, .. })), "{whenever:?}");
}

#[tokio::test]
async fn of_many_answers_at_once_one_counts() {
    let road = Road::new().await;
    let [tenant, _] = tenants();
    let mut answering = tokio::task::JoinSet::new();
    for n in 0..50 {
        let (store, tenant) = (road.store.clone(), tenant.clone());
        answering.spawn(async move {
            let answer = format!("{{\"n\":{n}}}");
            (answer.clone(), store.respond(&tenant, &id("cmd_1"), &answer, None, 60_000).await.unwrap())
        });
    }
    let answers = answering.join_all().await;
    let first: Vec<_> =
        answers.iter().filter(|(_, responded)| matches!(responded, Responded::First(_))).collect();
    let [(winner, Responded::First(counts))] = &first[..] else { panic!("{first:?}") };
    assert_eq!(winner, &counts.answer);
    for (_, responded) in &answers {
        let (Responded::First(response) | Responded::Before(response)) = responded;
        assert_eq!(response, counts);
    }
}

#[tokio::test]
async fn tails_share_one_line_of_ids() {
    let road = Road::new().await;
    let [tenant, other] = tenants();
    let store = &road.store;
    assert_eq!(store.newest_notification(&tenant).await.unwrap(), StreamId::ZERO);
    when_full(&road, store.notify(&tenant, "all", &id("n"), b"x", BOUNDS)).await;
    let mut listening = store.listen_to_tail(&tenant, "all").await.unwrap();
    let mut ids = Vec::new();
    for n in 0..6 {
        let tail = if n % 2 == 0 { "all" } else { "u/7" };
        let name = format!("n{n}");
        let notified = store.notify(&tenant, tail, &id(&name), name.as_bytes(), BOUNDS).await.unwrap();
        assert!(!notified.duplicate);
        ids.push(notified.at);
    }
    assert!(ids.is_sorted() && ids.windows(2).all(|two| two[0] != two[1]), "{ids:?}");
    assert_eq!(store.newest_notification(&tenant).await.unwrap(), ids[5]);
    for at in [0, 2, 4] {
        assert_eq!(listening.recv().await, Signal::Payload(ids[at].to_string().into()));
    }
    // Again, by whoever did not hear that it was done.
    let again = store.notify(&tenant, "all", &id("n0"), b"other", BOUNDS).await.unwrap();
    assert_eq!((again.at, again.duplicate), (ids[0], true));
    // Another tenant's are another's.
    assert_eq!(store.newest_notification(&other).await.unwrap(), StreamId::ZERO);
    let both = ["all".to_owned(), "u/7".to_owned()];
    assert!(store.notifications(&other, &both, StreamId::ZERO, 10).await.unwrap().entries.is_empty());

    let page = store.notifications(&tenant, &both, StreamId::ZERO, 10).await.unwrap();
    let expected: Vec<_> = ids.iter().enumerate().map(|(n, at)| (*at, format!("n{n}").into())).collect();
    assert_eq!((page.entries, page.more), (expected.clone(), false));
    // Cut short, nothing is passed over: neither in one tail nor between them.
    let (mut after, mut read) = (StreamId::ZERO, Vec::new());
    loop {
        let page = store.notifications(&tenant, &both, after, 2).await.unwrap();
        read.extend(page.entries);
        after = read.last().unwrap().0;
        if !page.more {
            break;
        }
    }
    assert_eq!(read, expected);
}

#[tokio::test]
async fn tails_are_bounded() {
    let road = Road::new().await;
    let [tenant, _] = tenants();
    let store = &road.store;
    let tail = ["u/1".to_owned()];
    for n in 0..9 {
        store.notify(&tenant, "u/1", &id(&format!("n{n}")), b"x", BOUNDS).await.unwrap();
    }
    let page = store.notifications(&tenant, &tail, StreamId::ZERO, 100).await.unwrap();
    assert_eq!(page.entries.len(), 5);
    let Reach { key, partition } = reach(&road, "tail:default/u/1").await;
    assert!((1..=60_000).contains(&road.number(&["PTTL", &key]).await));
    let notified = road.partition_key(partition, "notified:default/n8");
    assert!((1..=30_000).contains(&road.number(&["PTTL", &notified]).await));
    // What is too old goes with the next.
    tokio::time::sleep(Duration::from_millis(5)).await;
    let brief = TailBounds { keep: Duration::from_millis(1), ..BOUNDS };
    store.notify(&tenant, "u/1", &id("last"), b"x", brief).await.unwrap();
    assert!(road.length(&key).await <= 1);
}

#[tokio::test]
async fn ids_of_tails_rise_though_the_clock_does_not() {
    let road = Road::new().await;
    let [tenant, _] = tenants();
    let first = road.store.notify(&tenant, "all", &id("a"), b"x", BOUNDS).await.unwrap().at;
    let Reach { partition, .. } = reach(&road, "tail:default/all").await;
    let ahead = StreamId { ms: first.ms + 3_600_000, seq: 7 };
    road.redis(&["HSET", &road.partition_key(partition, "tails"), "default", &ahead.to_string()]).await;
    let next = road.store.notify(&tenant, "all", &id("b"), b"x", BOUNDS).await.unwrap().at;
    assert_eq!(next, StreamId { seq: 8, ..ahead });
}

/// Where a key lies.
struct Reach {
    key: String,
    partition: u16,
}

async fn reach(road: &Road, name: &str) -> Reach {
    for partition in 0..LAYOUT.partitions {
        let key = road.partition_key(partition, name);
        if road.number(&["EXISTS", &key]).await == 1 {
            return Reach { key, partition };
        }
    }
    panic!("{name} lies nowhere")
}

#[tokio::test]
async fn a_ticket_opens_once() {
    let road = Road::new().await;
    let store = &road.store;
    store.put_ticket("tkt_1", "opens", Duration::from_secs(60)).await.unwrap();
    let key = road.keys.key(Tag::Ctl, "ticket:tkt_1");
    assert!((1..=60_000).contains(&road.number(&["PTTL", &key]).await));
    assert_eq!(store.take_ticket("tkt_1").await.unwrap().as_deref(), Some("opens"));
    assert_eq!(store.take_ticket("tkt_1").await.unwrap(), None);
    assert_eq!(store.take_ticket("tkt_2").await.unwrap(), None);
}

#[tokio::test]
async fn the_last_health_of_each_service_is_kept() {
    let road = Road::new().await;
    let [tenant, other] = tenants();
    let store = &road.store;
    let health = |service: &str, record: &str, at_ms| ServiceHealth {
        service: service.to_owned(),
        record: record.to_owned(),
        at_ms,
    };
    when_full(&road, store.keep_health(&tenant, &health("a", "x", 1), 3)).await;
    for (service, record, at, is_later) in
        [("b", "b1", 20, true), ("a", "a1", 10, true), ("a", "a0", 5, false), ("a", "a2", 30, true)]
    {
        assert_eq!(store.keep_health(&tenant, &health(service, record, at), 3).await.unwrap(), is_later);
    }
    let heard = store.services(&tenant, None, 10).await.unwrap();
    assert_eq!(heard.services, [health("a", "a2", 30), health("b", "b1", 20)]);
    assert!(!heard.more && heard.now_ms > 1_700_000_000_000);
    assert!(store.services(&other, None, 10).await.unwrap().services.is_empty());
    // The one that was heard the longest ago goes.
    for (service, at) in [("c", 40), ("d", 50)] {
        store.keep_health(&tenant, &health(service, "x", at), 3).await.unwrap();
    }
    let names = async |after: Option<&str>, most| {
        let page = store.services(&tenant, after, most).await.unwrap();
        let names: Vec<String> = page.services.into_iter().map(|health| health.service).collect();
        (names.join(" "), page.more)
    };
    assert_eq!(names(None, 10).await, ("a c d".into(), false));
    assert_eq!(names(None, 2).await, ("a c".into(), true));
    assert_eq!(names(Some("c"), 2).await, ("d".into(), false));
    assert_eq!(names(Some("x"), 2).await, (String::new(), false));
    let Reach { key, .. } = reach(&road, "services:default").await;
    assert_eq!(road.number(&["HLEN", &key]).await, 3);
}

#[tokio::test]
async fn event_types_are_registered_changed_and_removed() {
    let road = Road::new().await;
    let [tenant, other] = tenants();
    let store = &road.store;
    assert_eq!(store.event_types(&tenant).await.unwrap(), postroad_store::EventTypes::default());
    when_full(&road, store.put_event_type(&tenant, "a", "{}", TYPES)).await;
    let put = async |name: &str, record: &str| match store.put_event_type(&tenant, name, record, TYPES).await
    {
        Ok(PutEventType::Put { record, new }) => (record, new),
        other => panic!("{other:?}"),
    };
    let (first, new) = put("a", "{ \"n\": 1 }").await;
    assert!(new && first.made_ms == first.changed_ms);
    let (changed, new) = put("a", "{}").await;
    assert!(!new && changed.version > first.version && changed.made_ms == first.made_ms);
    assert_eq!(store.event_types_version(&tenant).await.unwrap(), changed.version);
    assert_eq!(store.event_types_version(&other).await.unwrap(), 0);
    let types = store.event_types(&tenant).await.unwrap();
    assert_eq!((types.version, types.records), (changed.version, vec![changed.clone()]));
    assert!(store.event_types(&other).await.unwrap().records.is_empty());

    put("b", "{}").await;
    put("c", "{}").await;
    let before = store.event_types_version(&tenant).await.unwrap();
    assert_eq!(store.put_event_type(&tenant, "d", "{}", TYPES).await.unwrap(), PutEventType::TooMany(3));
    let large = format!("\"{}\"", "x".repeat(150));
    let refused = store.put_event_type(&tenant, "a", &large, TYPES).await.unwrap();
    assert!(matches!(refused, PutEventType::TooLarge(201..)), "{refused:?}");
    assert_eq!(store.event_types_version(&tenant).await.unwrap(), before, "refused is unchanged");

    // Removing makes room.
    assert!(store.remove_event_type(&tenant, "a").await.unwrap());
    assert!(!store.remove_event_type(&tenant, "a").await.unwrap());
    assert!(store.event_types_version(&tenant).await.unwrap() > before);
    let (again, new) = put("a", "{}").await;
    assert!(new && again.version > changed.version, "no state has a version twice");
}
