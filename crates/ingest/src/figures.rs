//! Figures for whoever asks: of channels and of a tenant, since their first use or over a span of time.
//!
//! What this instance has counted and not told yet goes to Redis first, so that it shows what it has done; what
//! others have counted is there within a moment (see `postroad_member::tally`).

use std::collections::BTreeMap;

use postroad_api::error::{ApiError, ApiResult};
use postroad_model::{
    figures::{
        Figures,
        span::{KEEP_HOURS_MS, MINUTE_MS, Span},
    },
    names::{ChannelName, Tenant},
    time::Time,
};
use postroad_store::{Scope, StoreError, Total};

use crate::App;

/// What a query may ask for a span of time with.
pub const DATES: [&str; 2] = ["date_from", "date_to"];
/// Rates are told over the running minute and so many before it, where no dates are given.
const RATE_MINUTES: u64 = 4;
const DAY_MS: u64 = 24 * 60 * MINUTE_MS;

/// From when to when: as asked; everything where nothing was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Dates {
    /// `date_from`.
    pub from: Option<Time>,
    /// `date_to`.
    pub to: Option<Time>,
}

impl Dates {
    /// Reads `date_from` and `date_to`.
    pub fn read(asked: &BTreeMap<&'static str, String>) -> ApiResult<Self> {
        let date = |name: &'static str| {
            let text = asked.get(name);
            text.map(|text| {
                Time::parse(text).map_err(|error| ApiError::field(name, format!("{name}: {error}")))
            })
        };
        let dates = Self { from: date(DATES[0]).transpose()?, to: date(DATES[1]).transpose()? };
        match dates {
            Self { from: Some(from), to: Some(to) } if from > to => {
                let message = format!("date_from = {from} lies behind date_to = {to}");
                Err(ApiError::field("date_from", message))
            }
            dates => Ok(dates),
        }
    }

    /// The span; `None` where nothing was asked. `date_to` belongs to it. Without `date_from` it begins as far back as there are figures.
    fn span(self, now_ms: u64) -> Option<Span> {
        (self != Self::default()).then(|| Span {
            from_ms: self.from.map_or(now_ms.saturating_sub(KEEP_HOURS_MS), Time::as_millis),
            to_ms: self.to.map_or(u64::MAX, |to| to.as_millis().saturating_add(1)),
        })
    }
}

/// Figures of one channel, or of a tenant.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// What was counted.
    pub figures: Figures,
    /// Messages published a second: over the span that was asked for, else over the last minutes; and no longer
    /// than the channel has been there.
    pub per_second: f64,
    /// Messages published within the last 24 hours.
    pub last_day: u64,
    /// First use.
    pub created: Time,
    /// Last activity.
    pub last: Option<Time>,
}

/// Figures of some channels, or of the tenant, in the order asked for; `None` where there are none.
pub async fn seen(
    app: &App,
    tenant: &Tenant,
    scopes: &[Scope<'_>],
    dates: Dates,
) -> Result<Vec<Option<Seen>>, StoreError> {
    let totals = totals(app, tenant, scopes).await?;
    let store = &app.store;
    let now_ms = store.clock().await?;
    let span = dates.span(now_ms);
    let recent = Span { from_ms: now_ms - now_ms % MINUTE_MS - RATE_MINUTES * MINUTE_MS, to_ms: now_ms + 1 };
    let rated = span.unwrap_or(recent);
    let published = store.figures(tenant, scopes, rated, now_ms).await?;
    let last_day = store.figures(tenant, scopes, Span::last(DAY_MS, now_ms), now_ms).await?;
    Ok(totals
        .into_iter()
        .zip(published)
        .zip(last_day)
        .map(|((total, published), last_day)| {
            let Total { figures, created_ms, last_ms } = total?;
            Some(Seen {
                per_second: published.published_per_second(seconds(rated, created_ms, now_ms)),
                figures: if span.is_some() { published } else { figures },
                last_day: last_day[postroad_model::figures::Count::Published],
                created: Time::from_millis(created_ms),
                last: last_ms.map(Time::from_millis),
            })
        })
        .collect())
}

/// Figures since first use, in the order asked for; `None` where there are none.
pub async fn totals(
    app: &App,
    tenant: &Tenant,
    scopes: &[Scope<'_>],
) -> Result<Vec<Option<Total>>, StoreError> {
    // Where Redis takes none it may still tell what it has; where it is away reading fails as well.
    let _ = app.tally.flush().await;
    app.store.totals(tenant, scopes).await
}

/// A page of a tenant's channels on which something happened within 90 days, by name, behind `after`.
pub async fn channels(
    app: &App,
    tenant: &Tenant,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<ChannelName>, StoreError> {
    let _ = app.tally.flush().await;
    app.store.channels_of(tenant, 0, after, limit).await
}

/// The seconds of a span in which something can have happened, at least one.
fn seconds(span: Span, created_ms: u64, now_ms: u64) -> f64 {
    let from = span.from_ms.max(created_ms);
    let ms = span.to_ms.min(now_ms).saturating_sub(from).max(1_000);
    #[expect(clippy::cast_precision_loss, reason = "less than a century")]
    let seconds = ms as f64 / 1_000.0;
    seconds
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(dates: &[(&'static str, &str)]) -> ApiResult<Dates> {
        Dates::read(&dates.iter().map(|(name, text)| (*name, (*text).to_owned())).collect())
    }

    #[test]
    fn dates_are_read_and_refused_by_name() {
        let (early, late) = ("2026-01-01T00:00:00Z", "2026-01-31T23:59:59+01:00");
        let now = Time::parse("2026-02-01T00:00:00Z").unwrap().as_millis();
        assert_eq!(read(&[]).unwrap().span(now), None);
        let both = read(&[("date_from", early), ("date_to", late)]).unwrap().span(now).unwrap();
        assert_eq!(both.from_ms, Time::parse(early).unwrap().as_millis());
        assert_eq!(both.to_ms, Time::parse(late).unwrap().as_millis() + 1);
        let from = read(&[("date_from", early)]).unwrap().span(now).unwrap();
        assert_eq!((from.from_ms, from.to_ms), (both.from_ms, u64::MAX));
        assert_eq!(read(&[("date_to", late)]).unwrap().span(now).unwrap().from_ms, now - KEEP_HOURS_MS);
        for (dates, field) in [
            (vec![("date_from", "yesterday")], "date_from"),
            (vec![("date_to", "2026-01-01")], "date_to"),
            (vec![("date_from", late), ("date_to", early)], "date_from"),
        ] {
            assert_eq!(read(&dates).unwrap_err().details["field"], field);
        }
    }

    #[test]
    fn a_rate_is_over_the_time_that_there_was() {
        let span = Span { from_ms: 100_000, to_ms: 400_001 };
        assert_eq!(seconds(span, 0, 400_000), 300.0);
        assert_eq!(seconds(span, 390_000, 400_000), 10.0);
        assert_eq!(seconds(span, 400_000, 400_000), 1.0);
        assert_eq!(seconds(Span { to_ms: u64::MAX, ..span }, 0, 200_000), 100.0);
        assert_eq!(seconds(span, 0, 50_000), 1.0);
    }
}
