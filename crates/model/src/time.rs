//! Points in time: milliseconds since the Unix epoch inside, RFC 3339 in UTC outside.

use std::{fmt, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A duration in whole milliseconds, as Redis is told it. What is longer than that can say is for ever.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A point in time with millisecond precision. Written as RFC 3339 in UTC (`2024-01-15T12:30:00.123Z`);
/// read from RFC 3339 with any offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(u64);

impl Time {
    /// From milliseconds since the Unix epoch.
    pub fn from_millis(ms: u64) -> Self {
        Self(ms)
    }

    /// Milliseconds since the Unix epoch.
    pub fn as_millis(self) -> u64 {
        self.0
    }

    /// Reads RFC 3339. Times before 1970 are refused.
    pub fn parse(text: &str) -> Result<Self, String> {
        let stamp: Timestamp = text
            .parse()
            .map_err(|_| format!("{text:?} is no RFC 3339 time, such as 2024-01-15T12:30:00Z"))?;
        u64::try_from(stamp.as_millisecond()).map(Self).map_err(|_| format!("{text:?} lies before 1970"))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = i64::try_from(self.0).unwrap_or(i64::MAX);
        match Timestamp::from_millisecond(ms) {
            Ok(stamp) => write!(f, "{stamp:.3}"),
            Err(_) => f.write_str("9999-12-30T22:00:00.000Z"),
        }
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_in_utc() {
        let time = Time::parse("2024-01-15T13:30:00+01:00").unwrap();
        assert_eq!(time.to_string(), "2024-01-15T12:30:00.000Z");
        assert_eq!(Time::from_millis(1_705_321_800_123).to_string(), "2024-01-15T12:30:00.123Z");
        assert_eq!(serde_json::to_string(&time).unwrap(), "\"2024-01-15T12:30:00.000Z\"");
    }

    #[test]
    fn nonsense_is_refused_and_names_itself() {
        for bad in ["", "yesterday", "2024-01-15", "1969-12-31T23:59:59Z"] {
            assert!(Time::parse(bad).unwrap_err().contains(bad));
        }
    }

    #[test]
    fn far_ends_do_not_panic() {
        assert!(Time::from_millis(u64::MAX).to_string().starts_with("9999"));
        assert_eq!(Time::from_millis(0).to_string(), "1970-01-01T00:00:00.000Z");
    }
}
