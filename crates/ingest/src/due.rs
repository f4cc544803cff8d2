//! When a message is due: what `deliver_at` and `delay_seconds` may say.

use postroad_api::error::{ApiError, ApiResult};
use postroad_model::time::Time;
use postroad_store::Due;

/// The longest that a message may wait: 30 days, in seconds.
pub const MAX_DELAY_SECONDS: u64 = 30 * 86_400;

/// Reads what a publisher asked for; `None`: at once, which is also what a time that has passed means. `now_ms` is
/// the API's clock; a delay counts by Redis's, from when the message is stored.
///
/// # Errors
///
/// 422 where both are given, or more than [`MAX_DELAY_SECONDS`] lie before it.
pub fn asked(deliver_at: Option<Time>, delay_seconds: Option<i64>, now_ms: u64) -> ApiResult<Option<Due>> {
    const MAX_MS: u64 = MAX_DELAY_SECONDS * 1_000;
    match (deliver_at, delay_seconds) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(ApiError::field(
            "delay_seconds",
            "deliver_at and delay_seconds are both given; give the one that you mean",
        )),
        (Some(at), None) if at.as_millis() > now_ms.saturating_add(MAX_MS) => {
            let latest = Time::from_millis(now_ms.saturating_add(MAX_MS));
            Err(ApiError::field(
                "deliver_at",
                format!("deliver_at = {at} lies more than 30 days ahead; {latest} is the latest"),
            ))
        }
        (Some(at), None) => Ok((at.as_millis() > now_ms).then_some(Due::At(at.as_millis()))),
        (None, Some(seconds)) => match u64::try_from(seconds) {
            Ok(0) => Ok(None),
            Ok(seconds @ 1..=MAX_DELAY_SECONDS) => Ok(Some(Due::After(seconds * 1_000))),
            _ => Err(ApiError::field(
                "delay_seconds",
                format!("delay_seconds = {seconds} must be 0 to {MAX_DELAY_SECONDS}"),
            )),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000;

    #[test]
    fn what_is_asked_is_read_and_what_is_too_much_refused_by_name() {
        let at = |ms: u64| Some(Time::from_millis(ms));
        let most = MAX_DELAY_SECONDS * 1_000;
        for (deliver_at, delay, due) in [
            (None, None, None),
            (None, Some(0), None),
            (at(NOW), None, None),
            (at(0), None, None),
            (at(NOW + 1), None, Some(Due::At(NOW + 1))),
            (at(NOW + most), None, Some(Due::At(NOW + most))),
            (None, Some(1), Some(Due::After(1_000))),
            (None, Some(2_592_000), Some(Due::After(most))),
        ] {
            assert_eq!(asked(deliver_at, delay, NOW).unwrap(), due);
        }
        for (deliver_at, delay, field) in [
            (at(NOW + most + 1), None, "deliver_at"),
            (at(u64::MAX), None, "deliver_at"),
            (None, Some(2_592_001), "delay_seconds"),
            (None, Some(-1), "delay_seconds"),
            (at(NOW), Some(0), "delay_seconds"),
        ] {
            let error = asked(deliver_at, delay, NOW).unwrap_err();
            assert_eq!((error.status.as_u16(), &error.details["field"]), (422, &field.into()));
        }
    }
}
