//! Counting, as Redis comes to see it.

use std::time::Duration;

use postroad_member::tally::Tally;
use postroad_model::{
    figures::{Count, Figures},
    names::{ChannelName, Tenant},
    placement::Layout,
};
use postroad_store::{LinkConfig, Scope, Store};
use postroad_testkit::{
    redis::{Fsync, PrivateRedis},
    wait::eventually,
};

const PATIENCE: Duration = Duration::from_secs(20);

fn store(redis: &PrivateRedis) -> Store {
    Store::new(LinkConfig::new(redis.url()), "test", Layout { partitions: 3, lanes: 1 }).unwrap()
}

fn publish(tally: &Tally, channel: &ChannelName, count: u64) {
    for micros in 0..count {
        tally.on(&Tenant::single(), Some(channel), |figures| figures.published(10, micros));
    }
}

/// What Redis says of a channel, and of its tenant.
async fn published(store: &Store, channel: &ChannelName) -> [u64; 2] {
    let scopes = [Scope::Channel(channel), Scope::Tenant];
    let totals = store.totals(&Tenant::single(), &scopes).await.unwrap();
    let count = |at: usize| totals[at].as_ref().map_or(0, |total| total.figures[Count::Published]);
    [count(0), count(1)]
}

#[tokio::test]
async fn what_is_counted_comes_to_redis_by_itself_and_at_once_where_it_is_asked_for() {
    let redis = PrivateRedis::start().await.unwrap();
    let (store, orders) = (store(&redis), ChannelName::new("orders").unwrap());
    let (a, b) =
        (Tally::open(store.clone(), "ingest-a".into()), Tally::open(store.clone(), "ingest-b".into()));
    publish(&a, &orders, 100);
    publish(&b, &orders, 11);
    a.on(&Tenant::single(), None, |figures| figures.add(Count::PublishErrors, 1));
    a.flush().await.unwrap();
    assert!(published(&store, &orders).await[0] >= 100, "what one has counted itself is there");
    eventually(PATIENCE, "the other's to come by itself", async || {
        let seen = published(&store, &orders).await;
        if seen == [111, 111] { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await
    .unwrap();
    // The last flush, of one that stops.
    publish(&b, &orders, 5);
    b.close().await;
    assert_eq!(published(&store, &orders).await, [116, 116]);
    let whole = store.totals(&Tenant::single(), &[Scope::Tenant]).await.unwrap().remove(0).unwrap();
    assert_eq!(whole.figures[Count::PublishErrors], 1);
    // Nothing to tell, nothing told.
    let commands = async || {
        let info = redis.command(&["INFO", "commandstats"]).await.unwrap().text().unwrap();
        info.lines().filter(|line| line.starts_with("cmdstat_eval")).map(str::to_owned).collect::<Vec<_>>()
    };
    let before = commands().await;
    a.flush().await.unwrap();
    assert_eq!(commands().await, before);
}

#[tokio::test]
async fn what_is_counted_while_redis_is_away_or_full_comes_later_and_once() {
    let redis = PrivateRedis::builder().append_only(Fsync::Always).start().await.unwrap();
    let (store, orders) = (store(&redis), ChannelName::new("orders").unwrap());
    let tally = Tally::open(store.clone(), "worker-a".into());
    publish(&tally, &orders, 3);
    tally.flush().await.unwrap();
    redis.kill().unwrap();
    publish(&tally, &orders, 4);
    assert!(tally.flush().await.is_err());
    publish(&tally, &orders, 5);
    assert!(tally.flush().await.is_err());
    redis.restart().await.unwrap();
    eventually(PATIENCE, "it to come by itself", async || {
        let seen = published(&store, &orders).await;
        if seen == [12, 12] { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await
    .unwrap();

    redis.command(&["CONFIG", "SET", "maxmemory", "1"]).await.unwrap();
    publish(&tally, &orders, 6);
    assert!(tally.flush().await.is_err());
    redis.command(&["CONFIG", "SET", "maxmemory", "0"]).await.unwrap();
    tally.flush().await.unwrap();
    assert_eq!(published(&store, &orders).await, [18, 18]);
}

#[tokio::test]
async fn a_flush_that_is_given_up_counts_once() {
    let redis = PrivateRedis::start().await.unwrap();
    let (store, orders) = (store(&redis), ChannelName::new("orders").unwrap());
    let tally = Tally::open(store.clone(), "ingest-a".into());
    let mut all = 0;
    for round in 0..50u64 {
        publish(&tally, &orders, round);
        all += round;
        // A caller who has gone takes the flush with it, wherever it is.
        let _ = tokio::time::timeout(Duration::from_micros(round * 20), tally.flush()).await;
    }
    tally.flush().await.unwrap();
    assert_eq!(published(&store, &orders).await, [all, all]);
    let mut expected = Figures::default();
    (0..50).for_each(|round| (0..round).for_each(|micros| expected.published(10, micros)));
    let total = store.totals(&Tenant::single(), &[Scope::Channel(&orders)]).await.unwrap().remove(0);
    assert_eq!(total.unwrap().figures, expected);
}

/// What counting costs: `cargo test -p postroad-member --release -- --ignored --nocapture the_cost`.
#[tokio::test]
#[ignore = "a measurement"]
async fn the_cost_of_counting() {
    const TIMES: u32 = 1_000_000;
    let redis = PrivateRedis::start().await.unwrap();
    let (store, orders) = (store(&redis), ChannelName::new("orders").unwrap());
    let (tally, tenant) = (Tally::open(store, "ingest-a".into()), Tenant::single());
    let began = std::time::Instant::now();
    for n in 0..u64::from(TIMES) {
        tally.on(&tenant, Some(&orders), |figures| figures.published(1_000, 500 + n * 7 % 1_000));
    }
    println!("one message counted: {:?}", began.elapsed() / TIMES);
    // A flush of one channel and its tenant: what it costs Redis.
    let used = async || {
        let info = redis.command(&["INFO", "commandstats"]).await.unwrap().text().unwrap();
        let usec = |line: &str| line.split("usec=").nth(1)?.split(',').next()?.parse::<u64>().ok();
        info.lines().filter(|line| line.starts_with("cmdstat_eval")).filter_map(usec).sum::<u64>()
    };
    tally.flush().await.unwrap();
    for channels in [1u64, 20] {
        let names: Vec<_> = (0..channels).map(|n| ChannelName::new(&format!("c.{n}")).unwrap()).collect();
        let before = used().await;
        for round in 0..500 {
            for name in &names {
                for n in 0..50 {
                    tally.on(&Tenant::single(), Some(name), |figures| {
                        figures.published(1_000, 500 + (round * 50 + n) * 7 % 1_000);
                        figures.consume_time.record(900 + n * 31);
                        figures.delivery_time.record(1 + n / 4);
                    });
                }
            }
            tally.flush().await.unwrap();
        }
        let (took, rows) = (used().await - before, 500 * (channels + 1));
        println!("a flush of {} rows: {} µs of Redis a row", channels + 1, took / rows);
    }
}
