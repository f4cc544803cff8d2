//! Signals: who hears what, who stops hearing, and what a broken connection costs.

use std::time::Duration;

use postroad_store::{LinkConfig, Signal, Store, StoreError, keys::Tag, signals::BUFFER, signals::Receiver};
use postroad_testkit::{proxy::Proxy, redis::PrivateRedis, redis::Reply, wait::eventually};

use crate::kit::{LAYOUT, Road};

const PATIENCE: Duration = Duration::from_secs(20);

fn payload(text: &str) -> Signal {
    Signal::Payload(text.to_owned().into())
}

async fn heard(receiver: &mut Receiver) -> Signal {
    tokio::time::timeout(PATIENCE, receiver.recv()).await.expect("a signal")
}

/// Another instance on the same Redis.
fn another(road: &Road) -> Store {
    Store::new(LinkConfig::new(road.redis.url()), "test", LAYOUT).unwrap()
}

/// How many connections listen to a channel.
async fn listeners(road: &Road, tag: Tag, name: &str) -> i64 {
    let channel = road.keys.key(tag, name);
    let reply = road.redis(&["PUBSUB", "NUMSUB", &channel]).await;
    reply.items()[1].int().unwrap()
}

async fn until_listeners(road: &Road, name: &str, expected: i64) {
    eventually(PATIENCE, format!("{expected} listeners of {name}"), async || {
        match listeners(road, Tag::Ctl, name).await {
            count if count == expected => Ok(()),
            count => Err(format!("{count} listen")),
        }
    })
    .await
    .unwrap();
}

async fn connections(road: &Road) -> i64 {
    let list = road.redis(&["CLIENT", "LIST", "TYPE", "pubsub"]).await.text().unwrap();
    i64::try_from(list.lines().filter(|line| !line.is_empty()).count()).unwrap()
}

#[tokio::test]
async fn everybody_who_listens_hears_it() {
    let road = Road::new().await;
    let other = another(&road);
    let (here, there) = (road.store.signals(), other.signals());
    let mut one = here.subscribe(Tag::Partition(1), "bell").await.unwrap();
    let mut two = here.clone().subscribe(Tag::Partition(1), "bell").await.unwrap();
    let mut three = there.subscribe(Tag::Partition(1), "bell").await.unwrap();
    let mut elsewhere = there.subscribe(Tag::Partition(0), "bell").await.unwrap();
    // It was confirmed: the server knows of both connections already.
    assert_eq!(listeners(&road, Tag::Partition(1), "bell").await, 2);

    road.store.signal(Tag::Partition(1), "bell", b"rust").await.unwrap();
    let prefix = road.keys.key(Tag::Partition(1), "");
    let script = "return redis.call('PUBLISH', KEYS[1] .. 'bell', 'lua')";
    assert_eq!(road.number(&["EVAL", script, "1", &prefix]).await, 2);
    road.store.signal(Tag::Partition(0), "bell", b"\xff\x00").await.unwrap();

    for receiver in [&mut one, &mut two, &mut three] {
        assert_eq!(heard(receiver).await, payload("rust"));
        assert_eq!(heard(receiver).await, payload("lua"));
    }
    assert_eq!(heard(&mut elsewhere).await, Signal::Payload(b"\xff\x00".to_vec().into()));
    assert_eq!(connections(&road).await, 2, "one connection for each instance");
    road.store.signal(Tag::Ctl, "nobody", b"listens").await.unwrap();
}

#[tokio::test]
async fn the_last_to_leave_ends_the_subscription() {
    let road = Road::new().await;
    let signals = road.store.signals();
    assert_eq!(connections(&road).await, 0, "nothing is opened before it is needed");
    let one = signals.subscribe(Tag::Ctl, "bell").await.unwrap();
    let mut two = signals.subscribe(Tag::Ctl, "bell").await.unwrap();
    let keep = signals.subscribe(Tag::Ctl, "keep").await.unwrap();
    drop(one);
    road.store.signal(Tag::Ctl, "bell", b"1").await.unwrap();
    assert_eq!(heard(&mut two).await, payload("1"));
    drop(two);
    until_listeners(&road, "bell", 0).await;
    assert_eq!(listeners(&road, Tag::Ctl, "keep").await, 1);

    // Leaving and coming at the same time, and giving up before one was let in.
    for round in 0..50 {
        let early = signals.subscribe(Tag::Ctl, "bell");
        let _ = tokio::time::timeout(Duration::from_micros(round * 20), early).await;
        let mut late = signals.subscribe(Tag::Ctl, "bell").await.unwrap();
        assert_eq!(listeners(&road, Tag::Ctl, "bell").await, 1, "round {round}");
        let said = round.to_string();
        road.store.signal(Tag::Ctl, "bell", said.as_bytes()).await.unwrap();
        assert_eq!(heard(&mut late).await, payload(&said));
    }
    until_listeners(&road, "bell", 0).await;
    drop(keep);
    eventually(PATIENCE, "the connection to be closed", async || match connections(&road).await {
        0 => Ok(()),
        some => Err(format!("{some} connections")),
    })
    .await
    .unwrap();
    let mut again = signals.subscribe(Tag::Ctl, "bell").await.unwrap();
    road.store.signal(Tag::Ctl, "bell", b"2").await.unwrap();
    assert_eq!(heard(&mut again).await, payload("2"));
}

#[tokio::test]
async fn one_who_is_slow_is_told_what_it_missed() {
    let road = Road::new().await;
    let signals = road.store.signals();
    let mut slow = signals.subscribe(Tag::Ctl, "bell").await.unwrap();
    let mut marker = signals.subscribe(Tag::Ctl, "marker").await.unwrap();
    let all = BUFFER + 10;
    for n in 0..all {
        road.store.signal(Tag::Ctl, "bell", n.to_string().as_bytes()).await.unwrap();
    }
    road.store.signal(Tag::Ctl, "marker", b"").await.unwrap();
    heard(&mut marker).await;
    assert_eq!(heard(&mut slow).await, Signal::Missed);
    for n in all - BUFFER..all {
        assert_eq!(heard(&mut slow).await, payload(&n.to_string()));
    }
}

#[tokio::test]
async fn many_channels_share_few_requests() {
    let road = Road::new().await;
    let signals = road.store.signals();
    let calls = async || -> u64 {
        let stats = road.redis(&["INFO", "commandstats"]).await;
        let line = stats.info("cmdstat_subscribe").unwrap_or_default();
        line.trim_start_matches("calls=").split(',').next().unwrap().parse().unwrap_or(0)
    };
    let mut joining = tokio::task::JoinSet::new();
    for n in 0..3_000 {
        let signals = signals.clone();
        joining.spawn(async move { signals.subscribe(Tag::Ctl, &format!("c{n}")).await.unwrap() });
    }
    let mut receivers = joining.join_all().await;
    assert!(calls().await < 300, "{} requests", calls().await);
    for n in 0..3_000 {
        road.store.signal(Tag::Ctl, &format!("c{n}"), b"x").await.unwrap();
    }
    for receiver in &mut receivers {
        assert_eq!(heard(receiver).await, payload("x"));
    }
}

#[tokio::test]
async fn a_connection_that_broke_is_made_anew_and_says_so() {
    let road = Road::new().await;
    let signals = road.store.signals();
    let mut one = signals.subscribe(Tag::Ctl, "one").await.unwrap();
    let mut two = signals.subscribe(Tag::Ctl, "two").await.unwrap();
    for round in 0..3 {
        let killed: Reply = road.redis(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        assert_eq!(killed.int(), Some(1), "round {round}");
        for receiver in [&mut one, &mut two] {
            assert_eq!(heard(receiver).await, Signal::Missed);
        }
        // Whoever was told that it may have missed something misses nothing from then on.
        road.store.signal(Tag::Ctl, "one", b"1").await.unwrap();
        road.store.signal(Tag::Ctl, "two", b"2").await.unwrap();
        assert_eq!((heard(&mut one).await, heard(&mut two).await), (payload("1"), payload("2")));
    }
}

#[tokio::test]
async fn while_redis_is_away_nobody_is_kept_waiting() {
    let road = Road::on_disk().await;
    let signals = road.store.signals();
    let mut there = signals.subscribe(Tag::Ctl, "there").await.unwrap();
    road.redis.kill().unwrap();
    for _ in 0..3 {
        let refused = signals.subscribe(Tag::Ctl, "new").await.unwrap_err();
        assert!(refused.is_transient(), "{refused}");
    }
    road.redis.restart().await.unwrap();
    assert_eq!(heard(&mut there).await, Signal::Missed);
    road.store.prepare_patiently().await.unwrap();
    let mut new = signals.subscribe(Tag::Ctl, "new").await.unwrap();
    road.store.signal(Tag::Ctl, "new", b"again").await.unwrap();
    assert_eq!(heard(&mut new).await, payload("again"));
    // Those that were refused left nothing behind.
    drop(new);
    until_listeners(&road, "new", 0).await;
}

/// Nothing is heard of a peer that has vanished, not even that it is gone: only asking tells.
#[tokio::test]
async fn a_silent_connection_is_found_out() {
    let redis = PrivateRedis::start().await.unwrap();
    let proxy = Proxy::start(redis.addr()).await.unwrap();
    let mut link = LinkConfig::new(redis.url_through(proxy.addr()));
    link.response_timeout = Duration::from_millis(300);
    let store = Store::new(link, "test", LAYOUT).unwrap();
    let mut bell = store.signals().subscribe(Tag::Ctl, "bell").await.unwrap();
    proxy.freeze();
    let refused = store.signals().subscribe(Tag::Ctl, "other").await.unwrap_err();
    assert!(matches!(refused, StoreError::Unavailable(_)), "{refused}");
    proxy.heal().await.unwrap();
    assert_eq!(heard(&mut bell).await, Signal::Missed);
    proxy.freeze();
    // Longer than it takes to ask and to give up.
    let silence = tokio::time::timeout(Duration::from_secs(4), bell.recv()).await;
    assert!(silence.is_err(), "{silence:?} out of nowhere");
    proxy.heal().await.unwrap();
    assert_eq!(heard(&mut bell).await, Signal::Missed);
    store.signal(Tag::Ctl, "bell", b"here").await.unwrap();
    assert_eq!(heard(&mut bell).await, payload("here"));
}
