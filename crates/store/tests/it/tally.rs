//! tally: rows that add up, once each, bounded, also while Redis is full; and reading them back.

use std::time::Duration;

use super::kit::*;
use postroad_model::{
    delivery::Progress,
    figures::{
        Count, Figures,
        span::{HOUR_MS, KEEP_HOURS_MS, KEEP_MINUTES_MS, MINUTE_MS, Span},
    },
    names::{ChannelName, Tenant},
};
use postroad_store::{Flush, MOST_CHANNELS, Row, Scope, StoreError, Tallied};

const ALL: Span = Span { from_ms: 0, to_ms: u64::MAX };

fn channel(name: &str) -> ChannelName {
    ChannelName::new(name).unwrap()
}

/// So many messages published, each of so many bytes and in so many microseconds.
fn published(count: u64, micros: u64) -> Figures {
    let mut figures = Figures::default();
    (0..count).for_each(|_| figures.published(100, micros));
    figures
}

fn refused() -> Figures {
    let mut figures = Figures::default();
    figures.add(Count::PublishErrors, 1);
    figures
}

fn row(name: &str, figures: &Figures) -> Row {
    let channel = (!name.is_empty()).then(|| channel(name));
    Row { tenant: Tenant::single(), channel, figures: figures.clone() }
}

/// A flush of one row, which ended so long ago and began a second before that.
fn flush(number: u64, ago: Duration, row: Row) -> Flush {
    let partition = LAYOUT.partition_of_figures(&row.tenant, row.channel.as_ref());
    Flush { partition, number, began: ago + Duration::from_secs(1), ended: ago, rows: vec![row] }
}

impl Road {
    async fn tally(&self, me: &str, flush: &Flush) -> Result<Tallied, StoreError> {
        self.store.tally(me, std::slice::from_ref(flush)).await?.pop().unwrap()
    }

    /// Counts on a channel, so long ago.
    async fn counted(&self, number: u64, name: &str, ago: Duration, figures: &Figures) -> Tallied {
        self.tally("ingest-a", &flush(number, ago, row(name, figures))).await.unwrap()
    }

    async fn figures_keys(&self) -> Vec<String> {
        self.texts(&["KEYS", "test:{p*:figures:*"]).await
    }

    async fn total(&self, name: &str) -> Option<Figures> {
        let name = channel(name);
        let totals = self.store.totals(&Tenant::single(), &[Scope::Channel(&name)]).await.unwrap();
        totals.into_iter().next().unwrap().map(|total| total.figures)
    }

    async fn within(&self, name: &str, span: Span) -> Figures {
        let (name, now) = (channel(name), self.now().await);
        let all = self.store.figures(&Tenant::single(), &[Scope::Channel(&name)], span, now).await;
        all.unwrap().remove(0)
    }
}

const JUST_NOW: Duration = Duration::ZERO;
const ADDED: Tallied = Tallied::Added { passed: 0 };

#[tokio::test]
async fn what_instances_count_adds_up_by_minute_by_hour_and_in_all() {
    let road = Road::new().await;
    let mut expected = Figures::default();
    for (at, number) in (0u64..30).zip(1..) {
        let mut figures = published(at % 4, 1 << at);
        figures.pulled(Progress { attempts: 1, reclaims: 0 }, at * at * 1_000);
        figures.add(Count::PublishedBytes, 1 << (at + 10));
        expected.merge(&figures);
        let flush = flush(number, JUST_NOW, row("orders", &figures));
        for me in ["ingest-a", "worker-b"] {
            assert_eq!(road.tally(me, &flush).await.unwrap(), ADDED);
        }
    }
    expected.merge(&expected.clone());
    assert_eq!(road.total("orders").await.as_ref(), Some(&expected));
    assert_eq!(road.within("orders", ALL).await, expected, "by hour");
    let now = road.now().await;
    let (name, day) = (channel("orders"), Span::last(24 * HOUR_MS, now));
    let series = road.store.series(&Tenant::single(), Scope::Channel(&name), day, now).await.unwrap();
    let mut sum = Figures::default();
    for (at, figures) in &series {
        assert!(at % MINUTE_MS == 0 && (*at..at + 3 * MINUTE_MS).contains(&now), "{at} at {now}");
        sum.merge(figures);
    }
    assert_eq!(sum, expected, "by minute");
    assert_eq!(road.total("other").await, None);
    let totals = road.store.totals(&Tenant::new("b").unwrap(), &[Scope::Channel(&name)]).await.unwrap();
    assert_eq!(totals, [None], "another tenant's");
}

#[tokio::test]
async fn a_flush_that_is_sent_again_counts_once() {
    let road = Road::new().await;
    let first = flush(7, JUST_NOW, row("orders", &published(1, 5)));
    assert_eq!(road.tally("ingest-a", &first).await.unwrap(), ADDED);
    assert_eq!(road.tally("ingest-a", &first).await.unwrap(), Tallied::Before);
    assert_eq!(
        road.tally("ingest-b", &first).await.unwrap(),
        ADDED,
        "another's of the same number is another"
    );
    let second = Flush { number: 8, ..first.clone() };
    assert_eq!(road.tally("ingest-a", &second).await.unwrap(), ADDED);
    assert_eq!(road.tally("ingest-a", &first).await.unwrap(), Tallied::Before);
    assert_eq!(road.total("orders").await, Some(published(3, 5)));
}

#[tokio::test]
async fn everything_ends_by_itself() {
    let road = Road::new().await;
    road.counted(1, "orders", JUST_NOW, &published(1, 5)).await;
    road.counted(2, "", JUST_NOW, &published(1, 5)).await;
    let keys = road.figures_keys().await;
    assert!(keys.len() >= 8, "{keys:?}");
    for key in keys {
        let left = u64::try_from(road.number(&["PTTL", &key]).await).unwrap_or(0);
        let (least, most) = match key.split(":figures:").nth(1).unwrap().split(':').next().unwrap() {
            "minutes" => (KEEP_MINUTES_MS - MINUTE_MS, KEEP_MINUTES_MS + HOUR_MS),
            "hours" => (KEEP_HOURS_MS - MINUTE_MS, KEEP_HOURS_MS + 96 * HOUR_MS),
            "total" | "channels" => (KEEP_HOURS_MS - MINUTE_MS, KEEP_HOURS_MS),
            "by" => (KEEP_MINUTES_MS - MINUTE_MS, KEEP_MINUTES_MS),
            other => panic!("a key of kind {other:?}"),
        };
        assert!((least..=most).contains(&left), "{key}: {left}");
    }
    // What is so old that nobody keeps its minutes leaves none.
    road.counted(3, "old", Duration::from_secs(60 * 3_600), &published(1, 5)).await;
    let keys = road.figures_keys().await;
    let of = |kind: &str| keys.iter().filter(|key| key.contains(kind) && key.ends_with("/old")).count();
    assert_eq!((of(":minutes:"), of(":hours:"), of(":total:")), (0, 1, 1));
}

#[tokio::test]
async fn a_span_has_the_minutes_and_hours_that_it_touches() {
    let road = Road::new().await;
    // Minutes ago, each with a number of messages that tells which are there.
    let hours = |hours: u64| hours * 60;
    let ago = [0, 3, 90, hours(20), hours(47), hours(60), hours(24 * 30), hours(24 * 80)];
    for (at, (minutes, number)) in ago.into_iter().zip(1..).enumerate() {
        road.counted(number, "orders", Duration::from_secs(minutes * 60), &published(1 << at, 5)).await;
    }
    let now = road.now().await;
    let sum = async |from: u64, to: u64| {
        let span = Span { from_ms: now - from * MINUTE_MS, to_ms: now - to * MINUTE_MS };
        road.within("orders", span).await[Count::Published]
    };
    let all = (1 << ago.len()) - 1;
    assert_eq!(road.within("orders", ALL).await[Count::Published], all);
    // By minute: from and to are widened to whole minutes, and each flush began a second before.
    assert_eq!(sum(5, 2).await, 0b10);
    assert_eq!(sum(92, 2).await, 0b110);
    assert_eq!(sum(92, 6).await, 0b100);
    assert_eq!(sum(hours(46), hours(1)).await, 0b1100);
    // By hour.
    assert_eq!(sum(hours(70), hours(50)).await, 0b10_0000);
    assert_eq!(sum(hours(24 * 85), hours(50)).await, 0b1110_0000);
    assert_eq!(sum(hours(24 * 60), hours(24 * 50)).await, 0);
    // The last day, as channels' activity is told.
    let day = Span::last(24 * HOUR_MS, now);
    assert_eq!(road.within("orders", day).await[Count::Published], 0b1111);
    // Its series has minutes while there are minutes, and hours before.
    let (name, tenant) = (channel("orders"), Tenant::single());
    let series = road.store.series(&tenant, Scope::Channel(&name), ALL, now).await.unwrap();
    let rows: Vec<u64> = series.iter().map(|(_, figures)| figures[Count::Published]).collect();
    // 47 hours ago may lie before the first whole hour that is kept by minute.
    assert_eq!(rows.iter().sum::<u64>(), all);
    assert!(series.windows(2).all(|two| two[0].0 < two[1].0) && rows.len() >= 7, "{rows:?}");
    assert!(series[0].0 % HOUR_MS == 0, "80 days ago there are only hours");
}

#[tokio::test]
async fn many_are_read_at_once_in_order() {
    let road = Road::new().await;
    let names: Vec<ChannelName> = (0..120).map(|n| channel(&format!("c.{n}"))).collect();
    for (name, number) in names.iter().zip(1u64..) {
        road.counted(number, name.as_str(), JUST_NOW, &published(number, 5)).await;
    }
    let scopes: Vec<Scope<'_>> = names.iter().map(Scope::Channel).collect();
    let (tenant, now) = (Tenant::single(), road.now().await);
    let figures = road.store.figures(&tenant, &scopes, ALL, now).await.unwrap();
    let counts: Vec<u64> = figures.iter().map(|figures| figures[Count::Published]).collect();
    assert_eq!(counts, (1..=120).collect::<Vec<_>>());
    let totals = road.store.totals(&tenant, &scopes).await.unwrap();
    for (total, figures) in totals.into_iter().zip(figures) {
        let total = total.unwrap();
        assert_eq!(total.figures, figures);
        assert!(total.created_ms <= total.last_ms.unwrap() && total.last_ms.unwrap() <= now);
    }

    // A tenant's list is one, whatever the partitions, and can be paged through.
    let mut sorted: Vec<&str> = names.iter().map(ChannelName::as_str).collect();
    sorted.sort_unstable();
    let mut listed: Vec<ChannelName> = Vec::new();
    loop {
        let after = listed.last().map(ChannelName::as_str);
        let page = road.store.channels_of(&tenant, 0, after, 50).await.unwrap();
        if page.is_empty() {
            break;
        }
        listed.extend(page);
    }
    assert_eq!(listed.iter().map(ChannelName::as_str).collect::<Vec<_>>(), sorted);
    assert!(road.store.channels_of(&tenant, now + 1, None, 50).await.unwrap().is_empty(), "none since");
    assert!(road.store.channels_of(&Tenant::new("b").unwrap(), 0, None, 50).await.unwrap().is_empty());
}

#[tokio::test]
async fn refused_calls_bring_no_channel_into_being() {
    let road = Road::new().await;
    let passed = Tallied::Added { passed: 1 };
    assert_eq!(road.counted(1, "typo", JUST_NOW, &refused()).await, passed);
    assert_eq!(road.total("typo").await, None);
    assert!(road.store.channels_of(&Tenant::single(), 0, None, 9).await.unwrap().is_empty());
    // They count for a channel that there is, and for the tenant, and are no activity of either.
    road.counted(2, "orders", Duration::from_secs(60), &published(1, 5)).await;
    let name = channel("orders");
    let last = async || {
        let totals =
            road.store.totals(&Tenant::single(), &[Scope::Channel(&name), Scope::Tenant]).await.unwrap();
        totals.into_iter().map(|total| total.map(|total| total.last_ms)).collect::<Vec<_>>()
    };
    let before = last().await;
    assert_eq!(road.counted(3, "orders", JUST_NOW, &refused()).await, ADDED);
    assert_eq!(road.counted(4, "", JUST_NOW, &refused()).await, ADDED);
    assert_eq!(last().await, [before[0], Some(None)]);
    let partition = LAYOUT.partition_of_figures(&Tenant::single(), Some(&name));
    let total = road.partition_key(partition, "figures:total:default/orders");
    road.redis(&["PEXPIRE", &total, "100000"]).await;
    assert_eq!(road.counted(5, "orders", JUST_NOW, &refused()).await, ADDED);
    assert!(road.number(&["PTTL", &total]).await <= 100_000, "refused calls do not keep it");
    assert_eq!(road.total("orders").await.unwrap()[Count::PublishErrors], 2);
}

#[tokio::test]
async fn a_tenant_has_so_many_channels_and_no_more() {
    let road = Road::new().await;
    let partition = LAYOUT.partition_of_figures(&Tenant::single(), Some(&channel("one.more")));
    let index = road.partition_key(partition, "figures:channels:default");
    let most = MOST_CHANNELS / u64::from(LAYOUT.partitions);
    let now = road.now().await;
    let fill = "for n = 1, ARGV[2] do redis.call('ZADD', KEYS[1], ARGV[1], 'c' .. n) end";
    road.redis(&["EVAL", fill, "1", &index, &now.to_string(), &most.to_string()]).await;
    let passed = Tallied::Added { passed: 1 };
    assert_eq!(road.counted(1, "one.more", JUST_NOW, &published(1, 5)).await, passed);
    assert_eq!(road.total("one.more").await, None);
    // The tenant itself is always counted.
    assert_eq!(road.counted(2, "", JUST_NOW, &published(1, 5)).await, ADDED);
    // One that was not used for 90 days makes room.
    let long_ago = (now - KEEP_HOURS_MS - 1).to_string();
    road.redis(&["ZADD", &index, &long_ago, "c1"]).await;
    assert_eq!(road.counted(3, "one.more", JUST_NOW, &published(1, 5)).await, ADDED);
    assert_eq!(road.number(&["ZCARD", &index]).await, i64::try_from(most).unwrap());
}

#[tokio::test]
async fn a_full_redis_takes_no_figures_and_a_nearly_full_one_no_new_rows() {
    let road = Road::new().await;
    road.counted(1, "orders", JUST_NOW, &published(1, 5)).await;
    let before = road.figures_keys().await.len();
    road.redis(&["CONFIG", "SET", "maxmemory", "1"]).await;
    for number in [2, 3] {
        let refused = road.tally("ingest-a", &flush(number, JUST_NOW, row("orders", &published(1, 5)))).await;
        assert!(matches!(refused, Err(StoreError::Full(_))), "{refused:?}");
    }
    road.redis(&["CONFIG", "SET", "maxmemory", "0"]).await;
    assert_eq!(road.figures_keys().await.len(), before);
    assert_eq!(road.total("orders").await, Some(published(1, 5)), "nothing was added");
    assert_eq!(road.counted(2, "orders", JUST_NOW, &published(1, 5)).await, ADDED, "the same flush, now");

    // Nearly full: more than 70 % is used.
    let info = road.redis(&["INFO", "memory"]).await.text().unwrap();
    let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap().trim();
    let most = (used.parse::<u64>().unwrap() * 10 / 8).to_string();
    road.redis(&["CONFIG", "SET", "maxmemory", &most]).await;
    let hour_ago = Duration::from_secs(3_600);
    assert_eq!(road.counted(3, "orders", hour_ago, &published(1, 5)).await, ADDED);
    assert_eq!(road.counted(4, "orders", JUST_NOW, &published(1, 5)).await, ADDED);
    assert_eq!(road.counted(5, "", hour_ago, &published(1, 5)).await, ADDED);
    road.redis(&["CONFIG", "SET", "maxmemory", "0"]).await;
    assert_eq!(road.total("orders").await, Some(published(4, 5)), "totals go on");
    let now = road.now().await;
    let earlier = Span { from_ms: now - 62 * MINUTE_MS, to_ms: now - 59 * MINUTE_MS };
    assert_eq!(road.within("orders", earlier).await, Figures::default());
    let whole = road.store.figures(&Tenant::single(), &[Scope::Tenant], earlier, now).await.unwrap();
    assert_eq!(whole, [published(1, 5)], "the tenant's own go on");
}

#[tokio::test]
async fn junk_counts_as_nothing_and_stops_nothing() {
    let road = Road::new().await;
    road.counted(1, "orders", JUST_NOW, &published(1, 5)).await;
    let keys = road.figures_keys().await;
    for key in keys.iter().filter(|key| key.ends_with("/orders")) {
        for field in road.texts(&["HKEYS", key]).await {
            if !["created", "last"].contains(&field.as_str()) {
                road.redis(&["HSET", key, &field, "junk"]).await;
            }
        }
    }
    assert_eq!(road.total("orders").await, Some(Figures::default()));
    assert_eq!(road.counted(2, "orders", JUST_NOW, &published(2, 5)).await, ADDED);
    assert_eq!(road.total("orders").await, Some(published(2, 5)));
    // A key of another type: the flush is refused, as one that need not be sent again.
    let partition = LAYOUT.partition_of_figures(&Tenant::single(), Some(&channel("orders")));
    let total = road.partition_key(partition, "figures:total:default/orders");
    road.redis(&["SET", &total, "junk"]).await;
    let refused = road.tally("ingest-a", &flush(3, JUST_NOW, row("orders", &published(1, 5)))).await;
    assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
}

/// How much a channel takes that is used every minute: `cargo test -p postroad-store --release -- --ignored
/// --nocapture figures_of_a_busy_channel`.
#[tokio::test]
#[ignore = "a measurement"]
async fn the_memory_of_figures_of_a_busy_channel() {
    for (name, a_minute) in [("quiet", 1), ("middling", 60), ("busy", 6_000)] {
        let road = Road::new().await;
        let size = async |pattern: &str| {
            let sum = "local sum = 0 for _, key in ipairs(redis.call('KEYS', ARGV[1])) do
                sum = sum + redis.call('MEMORY', 'USAGE', key, 'SAMPLES', 0) end return sum";
            road.number(&["EVAL", sum, "0", pattern]).await
        };
        let mut number = 0;
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        for minute in 0..24 * 60 {
            let mut figures = Figures::default();
            for _ in 0..a_minute {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                // Times that lie between a half and four times the usual one, most of them below it.
                let spread =
                    |usual: u64, bits: u64| usual / 2 + usual * ((bits & 7) * ((bits >> 3) & 7)) / 14;
                figures.published(1_000, spread(800, random >> 33));
                let outcome =
                    postroad_model::delivery::Outcome::Answered { status: 200, retry_after_ms: None };
                let before = Progress::default();
                let verdict =
                    postroad_model::delivery::judge(&subscription().retry, true, before, &outcome, 0.0);
                figures.judged(postroad_model::figures::Judged {
                    outcome: &outcome,
                    before,
                    verdict: &verdict,
                    took_us: spread(4_000, random >> 40),
                    age_ms: spread(8, random >> 47),
                });
            }
            number += 1;
            let ago = Duration::from_secs(minute * 60);
            assert_eq!(road.counted(number, "orders", ago, &figures).await, ADDED);
        }
        let (minutes, hours) = (size("*:minutes:*").await, size("*:hours:*").await);
        println!("{name} ({a_minute} a minute): a day by minute {minutes} bytes, by hour {hours} bytes");
        let started = std::time::Instant::now();
        let figures = published(500, 700);
        for _ in 0..2_000 {
            number += 1;
            road.counted(number, "orders", JUST_NOW, &figures).await;
        }
        println!("one row added: {:?}, with its round trip", started.elapsed() / 2_000);
    }
}
