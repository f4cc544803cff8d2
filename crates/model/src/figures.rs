//! Figures: what was published, delivered and refused on a channel, and how long it took.
//!
//! One [`Figures`] counts whatever happened to one channel (or to a tenant as a whole) within some time: a
//! moment in a daemon's memory, a minute, an hour, or since the channel's first use. They are added up, never
//! averaged, so what two instances counted, or sixty minutes, make one true whole; rates, means and quantiles
//! are only ever computed from the sum.
//!
//! * [`Count`]: what is counted. [`Histogram`]: how long something took, within 6 %.
//! * [`attempt`]: what one attempt's outcome and verdict add.
//! * [`span`]: which rows of minutes and hours a range of time is made of.
//! * [`pack`]: how they are written, so that Redis can add them up.

mod attempt;
mod histogram;
mod pack;
pub mod span;

use std::ops::Index;

pub use attempt::Judged;
pub use histogram::Histogram;

/// What is counted. The number of each is part of the stored format: none is ever given to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Count {
    /// Messages stored.
    Published = 0,
    /// Bytes of their payloads, before compression.
    PublishedBytes = 1,
    /// Publishes that were refused or failed.
    PublishErrors = 2,
    /// Attempts: requests to subscribers, and deliveries handed out by a pull.
    Attempted = 3,
    /// Deliveries that reached their subscriber: answered 2xx, or handed out by a pull.
    Consumed = 4,
    /// Deliveries settled as done.
    Acknowledged = 5,
    /// Deliveries to which the subscriber said no: explicitly, not by failing.
    Rejected = 6,
    /// Attempts beyond a delivery's first.
    Redelivered = 7,
    /// Attempts that failed.
    Failed = 8,
    /// Deliveries that were dead-lettered.
    Dead = 9,
    /// Calls that were to acknowledge.
    AcknowledgeCalls = 10,
    /// Of those, the ones that failed.
    AcknowledgeErrors = 11,
    /// Calls that were to reject.
    RejectCalls = 12,
    /// Of those, the ones that failed.
    RejectErrors = 13,
    /// Messages that no subscription matched.
    Unroutable = 14,
}

impl Count {
    /// Every one, by its number.
    const ALL: [Self; 15] = [
        Self::Published,
        Self::PublishedBytes,
        Self::PublishErrors,
        Self::Attempted,
        Self::Consumed,
        Self::Acknowledged,
        Self::Rejected,
        Self::Redelivered,
        Self::Failed,
        Self::Dead,
        Self::AcknowledgeCalls,
        Self::AcknowledgeErrors,
        Self::RejectCalls,
        Self::RejectErrors,
        Self::Unroutable,
    ];

    /// Whether it tells of something that happened on the channel, rather than of a call that came to nothing.
    fn is_activity(self) -> bool {
        !matches!(
            self,
            Self::PublishErrors
                | Self::AcknowledgeCalls
                | Self::AcknowledgeErrors
                | Self::RejectCalls
                | Self::RejectErrors
        )
    }
}

/// The figures of one channel, or of a tenant as a whole, over some time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Figures {
    counts: [u64; Count::ALL.len()],
    /// Microseconds from a publish being read to its being stored.
    pub publish_time: Histogram,
    /// Microseconds that requests to subscribers took, whatever their answer.
    pub consume_time: Histogram,
    /// Milliseconds from a message's acceptance to its delivery, retries and waiting included.
    pub delivery_time: Histogram,
}

impl Index<Count> for Figures {
    type Output = u64;

    fn index(&self, count: Count) -> &u64 {
        &self.counts[count as usize]
    }
}

impl Figures {
    /// Counts.
    pub fn add(&mut self, count: Count, more: u64) {
        let sum = &mut self.counts[count as usize];
        *sum = sum.saturating_add(more);
    }

    /// Counts a message that was stored.
    pub fn published(&mut self, bytes: u64, micros: u64) {
        self.add(Count::Published, 1);
        self.add(Count::PublishedBytes, bytes);
        self.publish_time.record(micros);
    }

    /// Adds everything that another counted.
    pub fn merge(&mut self, other: &Self) {
        for (sum, more) in self.counts.iter_mut().zip(other.counts) {
            *sum = sum.saturating_add(more);
        }
        self.publish_time.merge(&other.publish_time);
        self.consume_time.merge(&other.consume_time);
        self.delivery_time.merge(&other.delivery_time);
    }

    /// Whether anything happened on the channel: refused calls alone bring none into being.
    pub fn has_activity(&self) -> bool {
        Count::ALL.into_iter().any(|count| count.is_activity() && self[count] > 0)
    }

    /// Bytes of a message's payload, on average; 0 without any.
    pub fn mean_message_bytes(&self) -> f64 {
        share(self[Count::PublishedBytes], self[Count::Published])
    }

    /// Messages published a second, over so many.
    pub fn published_per_second(&self, seconds: f64) -> f64 {
        if seconds > 0.0 { float(self[Count::Published]) / seconds } else { 0.0 }
    }

    /// Failed attempts, as a share of all, 0 to 1.
    pub fn error_rate(&self) -> f64 {
        share(self[Count::Failed], self[Count::Attempted]).min(1.0)
    }

    /// Publishes that were refused or failed, as a share of all, 0 to 1.
    pub fn publish_error_rate(&self) -> f64 {
        let errors = self[Count::PublishErrors];
        share(errors, errors.saturating_add(self[Count::Published]))
    }

    /// Calls to acknowledge that failed, as a share of all, 0 to 1.
    pub fn acknowledge_error_rate(&self) -> f64 {
        share(self[Count::AcknowledgeErrors], self[Count::AcknowledgeCalls])
    }

    /// Calls to reject that failed, as a share of all, 0 to 1.
    pub fn reject_error_rate(&self) -> f64 {
        share(self[Count::RejectErrors], self[Count::RejectCalls])
    }
}

/// Microseconds as people read them: `5ms`, `0.42ms`, `1250ms`. Below 10 ms with two digits behind the point,
/// where they say something.
pub fn milliseconds(micros: f64) -> String {
    let ms = micros / 1_000.0;
    let text = if ms < 10.0 { format!("{ms:.2}") } else { format!("{ms:.0}") };
    let short = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{short}ms")
}

/// One number as a share of another; 0 of nothing.
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { float(part) / float(whole) }
}

#[expect(clippy::cast_precision_loss, reason = "figures for people: 53 bits are enough")]
fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_count_has_its_number() {
        for (number, count) in Count::ALL.into_iter().enumerate() {
            assert_eq!(count as usize, number);
        }
    }

    #[test]
    fn what_is_added_up_is_the_whole() {
        let (mut a, mut b) = (Figures::default(), Figures::default());
        a.published(100, 1_000);
        b.published(300, 3_000);
        b.add(Count::Dead, 2);
        a.merge(&b);
        assert_eq!((a[Count::Published], a[Count::PublishedBytes], a[Count::Dead]), (2, 400, 2));
        assert_eq!((a.publish_time.count(), a.publish_time.mean()), (2, 2_000.0));
        assert_eq!((a.mean_message_bytes(), a.published_per_second(4.0)), (200.0, 0.5));
        a.add(Count::Published, u64::MAX);
        assert_eq!(a[Count::Published], u64::MAX, "rather than around the corner");
    }

    #[test]
    fn rates_are_shares_and_nothing_has_none() {
        let mut figures = Figures::default();
        let rates = |figures: &Figures| {
            [
                figures.error_rate(),
                figures.publish_error_rate(),
                figures.acknowledge_error_rate(),
                figures.reject_error_rate(),
            ]
        };
        assert_eq!(rates(&figures), [0.0; 4]);
        assert_eq!((figures.mean_message_bytes(), figures.published_per_second(0.0)), (0.0, 0.0));
        for (count, number) in [
            (Count::Attempted, 4),
            (Count::Failed, 1),
            (Count::Published, 3),
            (Count::PublishErrors, 1),
            (Count::AcknowledgeCalls, 4),
            (Count::AcknowledgeErrors, 1),
            (Count::RejectCalls, 8),
            (Count::RejectErrors, 2),
        ] {
            figures.add(count, number);
        }
        assert_eq!(rates(&figures), [0.25; 4]);
    }

    #[test]
    fn refused_calls_are_no_activity() {
        let mut figures = Figures::default();
        for count in [Count::PublishErrors, Count::AcknowledgeCalls, Count::RejectErrors] {
            figures.add(count, 1);
        }
        assert!(!figures.has_activity());
        figures.add(Count::Unroutable, 1);
        assert!(figures.has_activity());
    }

    #[test]
    fn times_are_written_as_people_read_them() {
        for (micros, text) in [
            (0.0, "0ms"),
            (420.0, "0.42ms"),
            (5_000.0, "5ms"),
            (5_100.0, "5.1ms"),
            (9_999.0, "10ms"),
            (12_345.0, "12ms"),
            (20_000.0, "20ms"),
            (1_250_400.0, "1250ms"),
        ] {
            assert_eq!(milliseconds(micros), text);
        }
    }
}
