//! tally, and reading what it has added up: figures of channels and of tenants as a whole.
//!
//! Everything of one channel lies in one partition, found by hashing tenant and channel. Every row is bounded
//! by its own end: minutes by 48 hours, hours by 90 days, totals and the lists of channels by 90 days without
//! activity; the number of a tenant's channels by [`MOST_CHANNELS`].

use std::{ops::Range, time::Duration};

use postroad_model::{
    figures::{
        Figures,
        span::{HOUR_MS, KEEP_HOURS_MS, KEEP_MINUTES_MS, MINUTE_MS, Rows, Span},
    },
    names::{ChannelName, Tenant},
    time::millis,
};
use redis::{Pipeline, Value};

use crate::{
    Store,
    error::StoreError,
    keys::{self, Tag},
    link::checked,
    reply::{array, bytes, int, text},
    script::{self, Call},
};

/// About how many channels of one tenant have figures of their own: so many are dealt out evenly to the
/// partitions. What happens on others counts for the tenant as a whole.
pub const MOST_CHANNELS: u64 = 10_000;
/// The share of `maxmemory`, in percent, above which channels get no new rows of minutes and hours.
const SHARE: u8 = 70;
/// Hours in one hash.
const BLOCK: u64 = 96;
/// How many scopes are read in one flight.
const FLIGHT: usize = 50;

/// Whose figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope<'a> {
    /// The tenant's as a whole.
    Tenant,
    /// A channel's.
    Channel(&'a ChannelName),
}

impl<'a> Scope<'a> {
    fn channel(self) -> Option<&'a ChannelName> {
        match self {
            Self::Tenant => None,
            Self::Channel(name) => Some(name),
        }
    }
}

/// What an instance has counted, of one partition. Sent again it counts once.
#[derive(Debug, Clone)]
pub struct Flush {
    /// The partition, by `Layout::partition_of_figures`.
    pub partition: u16,
    /// Its number, higher than that of every flush of this instance that went to the partition before.
    pub number: u64,
    /// How long ago its counting began.
    pub began: Duration,
    /// How long ago its counting ended.
    pub ended: Duration,
    /// The rows.
    pub rows: Vec<Row>,
}

/// What an instance has counted of one channel, or of a tenant as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The tenant.
    pub tenant: Tenant,
    /// The channel; none for the tenant as a whole.
    pub channel: Option<ChannelName>,
    /// The figures.
    pub figures: Figures,
}

/// What became of a flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tallied {
    /// It was added.
    Added {
        /// Rows that were passed over: of channels beyond [`MOST_CHANNELS`], or on which nothing ever happened.
        passed: u64,
    },
    /// It was added before.
    Before,
}

/// Figures since a channel's, or a tenant's, first use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Total {
    /// The figures.
    pub figures: Figures,
    /// First use, by Redis's clock.
    pub created_ms: u64,
    /// Last activity, by Redis's clock; none where calls were refused and nothing else has happened.
    pub last_ms: Option<u64>,
}

impl Store {
    /// tally: adds what the instance `me` has counted. Each flush is added whole or not at all.
    pub async fn tally(
        &self,
        me: &str,
        flushes: &[Flush],
    ) -> Result<Vec<Result<Tallied, StoreError>>, StoreError> {
        let most = MOST_CHANNELS.div_ceil(self.layout.partitions.into());
        let calls: Vec<Call> = flushes
            .iter()
            .map(|flush| {
                let mut call = Call::new(&script::TALLY, &self.keys, Tag::Partition(flush.partition));
                call.arg(me).arg(flush.number).arg(millis(flush.began)).arg(millis(flush.ended));
                call.arg(most).arg(KEEP_MINUTES_MS).arg(KEEP_HOURS_MS).arg(SHARE);
                for Row { tenant, channel, figures } in &flush.rows {
                    call.arg(name(tenant, channel.as_ref()));
                    call.arg(u8::from(figures.has_activity())).arg(figures.pack());
                }
                call
            })
            .collect();
        let answers = script::fly(&self.link, &calls).await?;
        Ok(answers.into_iter().map(|answer| read_tallied(answer?)).collect())
    }

    /// Figures since first use, in the order asked for; `None` where there are none.
    pub async fn totals(
        &self,
        tenant: &Tenant,
        scopes: &[Scope<'_>],
    ) -> Result<Vec<Option<Total>>, StoreError> {
        let mut pipeline = Pipeline::with_capacity(scopes.len());
        for scope in scopes {
            let key = self.figures_key(tenant, *scope, keys::FIGURES_TOTAL);
            pipeline.cmd("HMGET").arg(key).arg("row").arg("created").arg("last");
        }
        let answers = self.link.pipeline(&pipeline).await?;
        answers.into_iter().map(|answer| read_total(checked(answer)?)).collect()
    }

    /// Figures of a span of time, in the order asked for, from the rows that [`Span::rows`] tells. `now_ms` is
    /// Redis's clock ([`Store::clock`]).
    pub async fn figures(
        &self,
        tenant: &Tenant,
        scopes: &[Scope<'_>],
        span: Span,
        now_ms: u64,
    ) -> Result<Vec<Figures>, StoreError> {
        let rows = span.rows(now_ms);
        let mut all = Vec::with_capacity(scopes.len());
        for some in scopes.chunks(FLIGHT) {
            for points in self.rows(tenant, some, &rows).await? {
                let mut sum = Figures::default();
                points.iter().for_each(|(_, figures)| sum.merge(figures));
                all.push(sum);
            }
        }
        Ok(all)
    }

    /// Figures of a span of time, row by row: when each begins, in milliseconds, and what was counted in it.
    /// Rows are minutes as far back as there are minutes, hours before; those without figures are left out.
    pub async fn series(
        &self,
        tenant: &Tenant,
        scope: Scope<'_>,
        span: Span,
        now_ms: u64,
    ) -> Result<Vec<(u64, Figures)>, StoreError> {
        Ok(self.rows(tenant, &[scope], &span.series(now_ms)).await?.pop().unwrap_or_default())
    }

    /// A tenant's channels that have figures and on which something happened since a time, by name, behind
    /// `after`.
    pub async fn channels_of(
        &self,
        tenant: &Tenant,
        since_ms: u64,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ChannelName>, StoreError> {
        let mut pipeline = Pipeline::new();
        for partition in 0..self.layout.partitions {
            let key =
                self.keys.key(Tag::Partition(partition), &format!("{}{tenant}", keys::FIGURES_CHANNELS));
            pipeline.cmd("ZRANGE").arg(key).arg(since_ms).arg("+inf").arg("BYSCORE");
        }
        let mut names = Vec::new();
        for answer in self.link.pipeline(&pipeline).await? {
            for channel in array(checked(answer)?)? {
                let channel = text(channel)?;
                if after.is_none_or(|after| channel.as_str() > after) {
                    names.push(channel);
                }
            }
        }
        names.sort_unstable();
        // What was put there by hand is no channel.
        Ok(names.iter().filter_map(|channel| ChannelName::new(channel).ok()).take(limit).collect())
    }

    /// Whether something was published on a channel within the retention time, whether or not it has figures.
    pub async fn is_active_channel(
        &self,
        tenant: &Tenant,
        channel: &ChannelName,
    ) -> Result<bool, StoreError> {
        let mut pipeline = Pipeline::new();
        for partition in 0..self.layout.partitions {
            let key = self.keys.key(Tag::Partition(partition), keys::CHANNELS);
            pipeline.cmd("ZSCORE").arg(key).arg(name(tenant, Some(channel)));
        }
        for answer in self.link.pipeline(&pipeline).await? {
            if checked(answer)? != Value::Nil {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn figures_key(&self, tenant: &Tenant, scope: Scope<'_>, prefix: &str) -> String {
        let channel = scope.channel();
        let tag = Tag::Partition(self.layout.partition_of_figures(tenant, channel));
        self.keys.key(tag, &format!("{prefix}{}", name(tenant, channel)))
    }

    /// Per scope the rows there are, each with when it begins.
    async fn rows(
        &self,
        tenant: &Tenant,
        scopes: &[Scope<'_>],
        rows: &Rows,
    ) -> Result<Vec<Vec<(u64, Figures)>>, StoreError> {
        let mut reads: Vec<Read> = Vec::new();
        reads.extend(hashes(&rows.head, 60).map(|read| Read::new(keys::FIGURES_MINUTES, MINUTE_MS, read)));
        reads.extend(hashes(&rows.hours, BLOCK).map(|read| Read::new(keys::FIGURES_HOURS, HOUR_MS, read)));
        reads.extend(hashes(&rows.tail, 60).map(|read| Read::new(keys::FIGURES_MINUTES, MINUTE_MS, read)));
        let mut pipeline = Pipeline::with_capacity(scopes.len() * reads.len());
        for scope in scopes {
            for Read { prefix, hash, first, fields, .. } in &reads {
                let key = self.figures_key(tenant, *scope, &format!("{prefix}{hash}:"));
                let command = pipeline.cmd("HMGET").arg(key);
                for row in *first..*first + fields {
                    command.arg(row);
                }
            }
        }
        let mut answers = self.link.pipeline(&pipeline).await?.into_iter();
        let mut all = Vec::with_capacity(scopes.len());
        for _ in scopes {
            let mut points = Vec::new();
            for (read, answer) in reads.iter().zip(answers.by_ref()) {
                for (value, at) in array(checked(answer)?)?.into_iter().zip(read.begins()..) {
                    if let Some(figures) = read_row(value)? {
                        points.push((at * read.width, figures));
                    }
                }
            }
            all.push(points);
        }
        Ok(all)
    }
}

/// Rows of one hash.
struct Read {
    prefix: &'static str,
    /// Milliseconds of a row.
    width: u64,
    hash: u64,
    /// How many rows a hash has.
    size: u64,
    first: u64,
    fields: u64,
}

impl Read {
    fn new(prefix: &'static str, width: u64, (hash, size, first, fields): (u64, u64, u64, u64)) -> Self {
        Self { prefix, width, hash, size, first, fields }
    }

    /// The number of the first row, among all that there ever were.
    fn begins(&self) -> u64 {
        self.hash * self.size + self.first
    }
}

/// The hashes of `size` rows in which some rows lie: hash, size, first row in it, how many.
fn hashes(rows: &Range<u64>, size: u64) -> impl Iterator<Item = (u64, u64, u64, u64)> {
    let Range { start, end } = rows.clone();
    (start / size..end.div_ceil(size)).filter_map(move |hash| {
        let (first, last) = (start.max(hash * size), end.min((hash + 1) * size));
        (first < last).then(|| (hash, size, first - hash * size, last - first))
    })
}

fn name(tenant: &Tenant, channel: Option<&ChannelName>) -> String {
    format!("{tenant}/{}", channel.map_or("", ChannelName::as_str))
}

fn read_tallied(value: Value) -> Result<Tallied, StoreError> {
    let mut parts = array(value)?.into_iter();
    let mut next = || int(&parts.next().unwrap_or_default());
    Ok(match next()? {
        ..0 => Tallied::Before,
        _ => Tallied::Added { passed: u64::try_from(next()?).unwrap_or(0) },
    })
}

/// What is no row, such as junk that was put there by hand, is none.
fn read_row(value: Value) -> Result<Option<Figures>, StoreError> {
    match value {
        Value::Nil => Ok(None),
        value => Ok(Figures::unpack(&bytes(value)?)),
    }
}

fn read_total(value: Value) -> Result<Option<Total>, StoreError> {
    let mut parts = array(value)?.into_iter();
    let mut next = || parts.next().unwrap_or(Value::Nil);
    let (row, created, last) = (next(), text(next())?, text(next())?);
    let Ok(created_ms) = created.parse() else { return Ok(None) };
    let figures = read_row(row)?.unwrap_or_default();
    Ok(Some(Total { figures, created_ms, last_ms: last.parse().ok() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_in_their_hashes() {
        let of = |rows: Range<u64>| hashes(&rows, 60).collect::<Vec<_>>();
        assert_eq!(of(0..0), []);
        assert_eq!(of(130..140), [(2, 60, 10, 10)]);
        assert_eq!(of(110..190), [(1, 60, 50, 10), (2, 60, 0, 60), (3, 60, 0, 10)]);
        assert_eq!(of(60..120), [(1, 60, 0, 60)]);
        let read = Read::new("", MINUTE_MS, of(130..140)[0]);
        assert_eq!(read.begins(), 130);
    }
}
