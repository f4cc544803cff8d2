//! When the API was ready, minute by minute.

use redis::{Pipeline, Value};

use crate::{
    Store,
    error::StoreError,
    keys::{self, Tag},
    link::checked,
    reply::int,
};

const MINUTES: u64 = 1_440;
/// How far back it is looked, in days, today included.
const DAYS: u64 = 31;

impl Store {
    /// Notes that an API is ready in this minute, by Redis's clock.
    pub async fn note_ready(&self) -> Result<(), StoreError> {
        let minute = self.clock().await? / 60_000;
        let key = self.up_key(minute / MINUTES);
        let mut pipeline = Pipeline::with_capacity(2);
        pipeline.cmd("SETBIT").arg(&key).arg(minute % MINUTES).arg(1);
        pipeline.cmd("EXPIRE").arg(&key).arg((DAYS + 1) * 86_400);
        for answer in self.link.pipeline(&pipeline).await? {
            checked(answer)?;
        }
        Ok(())
    }

    /// The share of minutes in which an API was ready, 0 to 1, from the first one of the last 31 days until now. The
    /// running minute counts only where it was noted.
    pub async fn uptime(&self) -> Result<f64, StoreError> {
        let now = self.clock().await? / 60_000;
        let today = now / MINUTES;
        let days: Vec<u64> = (today.saturating_sub(DAYS - 1)..=today).collect();
        let mut pipeline = Pipeline::with_capacity(2 * days.len());
        for day in &days {
            let key = self.up_key(*day);
            pipeline.cmd("BITCOUNT").arg(&key);
            pipeline.cmd("BITPOS").arg(&key).arg(1);
        }
        pipeline.cmd("GETBIT").arg(self.up_key(today)).arg(now % MINUTES);
        let mut answers = self.link.pipeline(&pipeline).await?.into_iter();
        let mut next = || int(&checked(answers.next().unwrap_or(Value::Int(0)))?);
        let (mut ready, mut first) = (0, None);
        for day in days {
            let (count, position) = (next()?, next()?);
            ready += u64::try_from(count).unwrap_or(0);
            if let (None, Ok(position)) = (first, u64::try_from(position)) {
                first = Some(day * MINUTES + position);
            }
        }
        let until = if next()? == 1 { now + 1 } else { now };
        let Some(first) = first else { return Ok(0.0) };
        let all = until.saturating_sub(first).max(1);
        #[expect(clippy::cast_precision_loss, reason = "minutes of a month")]
        Ok((ready as f64 / all as f64).min(1.0))
    }

    fn up_key(&self, day: u64) -> String {
        self.keys.key(Tag::Ctl, &format!("{}{day}", keys::UP))
    }
}
