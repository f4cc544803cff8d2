//! Which rows a range of time is made of.
//!
//! Figures by minute are kept for [`KEEP_MINUTES_MS`], by hour for [`KEEP_HOURS_MS`]. A range counts every minute that
//! it touches, and where it begins or ends further back than minutes are kept, every hour that it touches.
//! Whole hours are read as hours, so that a month costs no more than it must.

use std::ops::Range;

/// Milliseconds of a minute.
pub const MINUTE_MS: u64 = 60_000;
/// Milliseconds of an hour.
pub const HOUR_MS: u64 = 60 * MINUTE_MS;
/// For how long figures are kept by minute: 48 hours.
pub const KEEP_MINUTES_MS: u64 = 48 * HOUR_MS;
/// For how long they are kept by hour, and the totals of a channel that is not used: 90 days.
pub const KEEP_HOURS_MS: u64 = 90 * 24 * HOUR_MS;

/// From one point in time to another, in milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The first millisecond.
    pub from_ms: u64,
    /// The first one that no longer belongs to it.
    pub to_ms: u64,
}

/// The rows of a span: minutes and hours, numbered since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rows {
    /// Minutes before the first whole hour.
    pub head: Range<u64>,
    /// Hours.
    pub hours: Range<u64>,
    /// Minutes behind the last whole hour.
    pub tail: Range<u64>,
}

impl Span {
    /// The last so many milliseconds, the running minute included.
    pub fn last(ms: u64, now_ms: u64) -> Self {
        Self { from_ms: now_ms.saturating_sub(ms), to_ms: now_ms + 1 }
    }

    /// The rows that it is made of, at most 90 days back. A span that reaches up to now has the running hour whole.
    pub fn rows(self, now_ms: u64) -> Rows {
        let from = self.from_ms.max(now_ms.saturating_sub(KEEP_HOURS_MS));
        let to = if self.to_ms > now_ms { open_end(now_ms) } else { self.to_ms };
        if to <= from {
            return Rows { head: 0..0, hours: 0..0, tail: 0..0 };
        }
        let by_minute = now_ms.saturating_sub(KEEP_MINUTES_MS).next_multiple_of(HOUR_MS);
        let unit = |at: u64| if at >= by_minute { MINUTE_MS } else { HOUR_MS };
        let from = from - from % unit(from);
        let to = to.next_multiple_of(unit(to));
        let (first, last) = (from.div_ceil(HOUR_MS), to / HOUR_MS);
        if first > last {
            return Rows { head: from / MINUTE_MS..to / MINUTE_MS, hours: 0..0, tail: 0..0 };
        }
        Rows { head: from / MINUTE_MS..first * 60, hours: first..last, tail: last * 60..to / MINUTE_MS }
    }

    /// The rows of a series: by minute as far back as there are minutes, by hour before.
    pub fn series(self, now_ms: u64) -> Rows {
        let Rows { head, hours, tail } = self.rows(now_ms);
        let by_minute = now_ms.saturating_sub(KEEP_MINUTES_MS).div_ceil(HOUR_MS);
        if head.end > head.start && hours.is_empty() && tail.is_empty() {
            return Rows { head, hours, tail };
        }
        let cut = by_minute.clamp(hours.start, hours.end);
        if head.is_empty() {
            return Rows { head, hours: hours.start..cut, tail: cut * 60..tail.end };
        }
        // It begins where there are minutes, so there are minutes all along.
        Rows { head: head.start..tail.end, hours: 0..0, tail: 0..0 }
    }
}

/// Where a span ends that reaches up to now: behind the running hour, and behind the next one in case that
/// Redis's clock is ahead.
fn open_end(now_ms: u64) -> u64 {
    now_ms - now_ms % HOUR_MS + 2 * HOUR_MS
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 1970-04-11 at 00:00: a hundred days after the beginning.
    const NOON: u64 = 100 * 24 * HOUR_MS;

    fn at(hour: i64, minute: u64) -> u64 {
        (NOON + minute * MINUTE_MS).checked_add_signed(hour * 3_600_000).unwrap()
    }

    fn minutes(rows: &Rows) -> Vec<u64> {
        let hours = rows.hours.clone().flat_map(|hour| hour * 60..(hour + 1) * 60);
        rows.head.clone().chain(hours).chain(rows.tail.clone()).collect()
    }

    #[test]
    fn whole_hours_are_read_as_hours() {
        let now = at(0, 30);
        let hour = NOON / HOUR_MS;
        let rows = |from_ms, to_ms| Span { from_ms, to_ms }.rows(now);
        // Within one hour.
        let within = rows(at(-1, 10), at(-1, 20) + 1);
        assert_eq!(
            within,
            Rows { head: (hour - 1) * 60 + 10..(hour - 1) * 60 + 21, hours: 0..0, tail: 0..0 }
        );
        // Over several.
        let over = rows(at(-3, 50) + 1, at(-1, 20));
        assert_eq!(
            over,
            Rows {
                head: (hour - 3) * 60 + 50..(hour - 2) * 60,
                hours: hour - 2..hour - 1,
                tail: (hour - 1) * 60..(hour - 1) * 60 + 20
            }
        );
        // Up to now, and beyond: the running hour whole.
        for to in [now + 1, u64::MAX] {
            let Rows { head, hours, tail } = rows(at(0, 10), to);
            assert_eq!((head, hours), (hour * 60 + 10..(hour + 1) * 60, hour + 1..hour + 2));
            assert!(tail.is_empty());
        }
        // Further back than minutes are kept: hours that are touched.
        let old = rows(at(-100, 30), at(-90, 1));
        assert_eq!(
            (old.head.is_empty(), old.hours, old.tail.is_empty()),
            (true, hour - 100..hour - 89, true)
        );
        // Further back than hours are kept.
        assert_eq!(rows(0, at(-1, 0)).hours.start, hour - 90 * 24);
        // Nothing, and the wrong way round.
        for (from, to) in [(now - 5, now - 5), (now - 5, now - 9), (now + HOUR_MS * 3, u64::MAX)] {
            assert!(minutes(&rows(from, to)).is_empty());
        }
    }

    #[test]
    fn a_series_has_minutes_where_there_are_minutes() {
        let now = at(0, 30);
        let hour = NOON / HOUR_MS;
        let of = |from_ms| Span { from_ms, to_ms: at(-1, 20) }.series(now);
        assert_eq!(of(at(-3, 50)).head, (hour - 3) * 60 + 50..(hour - 1) * 60 + 20);
        assert_eq!(of(at(-1, 10)).head, (hour - 1) * 60 + 10..(hour - 1) * 60 + 20);
        let long = of(at(-100, 0));
        assert_eq!((long.hours, long.tail), (hour - 100..hour - 47, (hour - 47) * 60..(hour - 1) * 60 + 20));
    }

    proptest! {
        #[test]
        fn every_minute_is_there_once_whatever_the_rows(from in 0u64..200, length in 1u64..200, now in 0u64..60) {
            // In quarters of an hour, within what is kept by minute and before it.
            let now_ms = at(0, now);
            let from_ms = at(-60, 0) + from * 900_000;
            let span = Span { from_ms, to_ms: (from_ms + length * 900_000).min(now_ms) };
            prop_assume!(span.from_ms < span.to_ms);
            let (rows, series) = (minutes(&span.rows(now_ms)), minutes(&span.series(now_ms)));
            prop_assert_eq!(&rows, &series);
            prop_assert!(rows.windows(2).all(|two| two[0] + 1 == two[1]), "{:?}", rows);
            prop_assert!(rows[0] <= from_ms / MINUTE_MS);
            prop_assert!(*rows.last().unwrap() >= (span.to_ms - 1) / MINUTE_MS);
            prop_assert!(rows[0] + 60 > from_ms / MINUTE_MS);
        }
    }
}
