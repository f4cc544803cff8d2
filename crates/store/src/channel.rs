//! Channels' settings, and what Redis knows of a channel besides.
//!
//! Settings lie under the control tag and are told of in the same stream of changes as subscriptions.

use postroad_model::{
    channel::ChannelSettings,
    id::SubscriptionId,
    names::{ChannelName, Tenant},
};
use redis::{Pipeline, Value};

use crate::{
    Store,
    control::Change,
    error::StoreError,
    keys::{self, Tag},
    link::checked,
    reply::{array, count, int, odd, text},
    script::{self, Call},
};

impl Store {
    /// Writes a channel's settings and tells of them: whether it had none before. `most` bounds the channels
    /// that a tenant may configure. Refused: an exclusive channel to which several services subscribe by name.
    pub async fn put_channel(&self, settings: &ChannelSettings, most: u64) -> Result<bool, StoreError> {
        let ChannelSettings { tenant, name, .. } = settings;
        let record =
            serde_json::to_string(settings).map_err(|error| StoreError::Refused(error.to_string()))?;
        Ok(self.configure(tenant, name, &record, most).await? == Some(false))
    }

    /// Forgets a channel's settings and tells of it: whether there were any.
    pub async fn forget_channel(&self, tenant: &Tenant, name: &ChannelName) -> Result<bool, StoreError> {
        Ok(self.configure(tenant, name, "", 0).await?.is_some())
    }

    /// channel: whether there were settings before; `None` where there was nothing to forget.
    async fn configure(
        &self,
        tenant: &Tenant,
        name: &ChannelName,
        record: &str,
        most: u64,
    ) -> Result<Option<bool>, StoreError> {
        let mut call = Call::new(&script::CHANNEL, &self.keys, Tag::Ctl);
        call.arg(tenant.as_str()).arg(field(tenant, name)).arg(record).arg(most);
        let value = script::call(&self.link, call).await?;
        let shown = value.clone();
        let mut parts = array(value)?.into_iter();
        let verdict = text(parts.next().unwrap_or_default())?;
        let detail = parts.next().unwrap_or_default();
        match verdict.as_str() {
            "OK" => Ok(Some(int(&parts.next().unwrap_or_default())? == 1)),
            "NONE" => Ok(None),
            "FULL" => Err(StoreError::TooManyChannels(count(&detail)?)),
            "SHARED" => Err(StoreError::Shared { channel: name.to_string(), services: count(&detail)? }),
            _ => Err(odd("channel", &shown)),
        }
    }

    /// A channel's settings.
    pub async fn channel(
        &self,
        tenant: &Tenant,
        name: &ChannelName,
    ) -> Result<Option<ChannelSettings>, StoreError> {
        let mut command = redis::cmd("HGET");
        command.arg(self.keys.key(Tag::Ctl, keys::SETTINGS)).arg(field(tenant, name));
        let record = text(self.link.command(&command).await?)?;
        if record.is_empty() {
            return Ok(None);
        }
        read(&record).map(Some)
    }

    /// Every channel's settings. To be read after [`Store::snapshot`]: its version is then the one from which
    /// on changes of both must be followed.
    pub async fn channels(&self) -> Result<Vec<ChannelSettings>, StoreError> {
        let mut all = Vec::new();
        let mut cursor = "0".to_owned();
        loop {
            let mut scan = redis::cmd("HSCAN");
            scan.arg(self.keys.key(Tag::Ctl, keys::SETTINGS)).arg(&cursor).arg("COUNT").arg(1_000);
            let mut parts = array(self.link.command(&scan).await?)?.into_iter();
            cursor = text(parts.next().unwrap_or_default())?;
            let mut pairs = array(parts.next().unwrap_or_default())?.into_iter();
            while let (Some(id), Some(record)) = (pairs.next(), pairs.next()) {
                match read(&text(record)?) {
                    Ok(settings) => all.push(settings),
                    Err(error) => {
                        let id = text(id)?;
                        tracing::error!(channel.id = id, %error, "a channel's settings cannot be read");
                    }
                }
            }
            if cursor == "0" {
                return Ok(all);
            }
        }
    }

    /// When something was last published on channels, by Redis's clock, in the order asked for; as far back as
    /// history goes.
    pub async fn last_publishes(
        &self,
        tenant: &Tenant,
        names: &[ChannelName],
    ) -> Result<Vec<Option<u64>>, StoreError> {
        let mut pipeline = Pipeline::new();
        for name in names {
            for partition in 0..self.layout.partitions {
                let key = self.keys.key(Tag::Partition(partition), keys::CHANNELS);
                pipeline.cmd("ZSCORE").arg(key).arg(field(tenant, name));
            }
        }
        let mut answers = self.link.pipeline(&pipeline).await?.into_iter().map(checked);
        let mut all = Vec::with_capacity(names.len());
        for _ in names {
            let mut newest = None;
            for answer in answers.by_ref().take(usize::from(self.layout.partitions)) {
                let score = text(answer?)?;
                newest = newest.max(score.parse().ok());
            }
            all.push(newest);
        }
        Ok(all)
    }

    /// How many deliveries wait in subscriptions' queues, in the order asked for: all but those that are out at
    /// a worker or await their acknowledgment.
    pub async fn waiting(&self, ids: &[SubscriptionId]) -> Result<Vec<u64>, StoreError> {
        const RANKS: usize = 4;
        let mut pipeline = Pipeline::with_capacity(ids.len() * 2 * RANKS);
        for id in ids {
            let tag = Tag::Lane(self.layout.lane_of(id));
            for rank in 0..RANKS {
                let queue = self.keys.key(tag, &format!("{}{id}:{rank}", keys::WORK));
                pipeline.cmd("XLEN").arg(&queue);
                pipeline.cmd("XPENDING").arg(&queue).arg(keys::GROUP);
            }
        }
        let mut answers = self.link.pipeline(&pipeline).await?.into_iter().map(checked);
        let mut all = Vec::with_capacity(ids.len());
        for _ in ids {
            let mut waiting = 0;
            for _ in 0..RANKS {
                // No queue, one that was never taken from, or a key that is none.
                let mut known = || match answers.next().unwrap_or(Ok(Value::Nil)) {
                    Err(StoreError::Refused(_)) => Ok(Value::Nil),
                    answer => answer,
                };
                let (entries, pending) = (known()?, known()?);
                let entries = if entries == Value::Nil { 0 } else { count(&entries)? };
                waiting += entries.saturating_sub(out(pending)?);
            }
            all.push(waiting);
        }
        Ok(all)
    }
}

/// What `XPENDING` says is neither due again, nor scheduled, nor held.
fn out(pending: Value) -> Result<u64, StoreError> {
    let Some(consumers) = array(pending)?.into_iter().nth(3) else { return Ok(0) };
    let mut out = 0;
    for consumer in array(consumers)? {
        let mut consumer = array(consumer)?.into_iter();
        let name = text(consumer.next().unwrap_or_default())?;
        if !["again", "later", "held"].contains(&name.as_str()) {
            out += text(consumer.next().unwrap_or_default())?.parse().unwrap_or(0);
        }
    }
    Ok(out)
}

fn field(tenant: &Tenant, name: &ChannelName) -> String {
    format!("{tenant}/{name}")
}

fn read(record: &str) -> Result<ChannelSettings, StoreError> {
    serde_json::from_str(record)
        .map_err(|error| StoreError::Reply(format!("a channel's settings cannot be read: {error}")))
}

/// A change of kind `channel`, or why it is none that can be read.
pub(crate) fn read_change(id: &str, record: &str) -> Result<Change, String> {
    if !record.is_empty() {
        return serde_json::from_str(record)
            .map(|settings| Change::Channel(Box::new(settings)))
            .map_err(|error| error.to_string());
    }
    let (tenant, name) = id.split_once('/').ok_or("no tenant in front of a channel")?;
    let named = Tenant::new(tenant).and_then(|tenant| Ok((tenant, ChannelName::new(name)?)));
    named.map(|(tenant, name)| Change::ChannelForgotten(tenant, name)).map_err(|error| error.to_string())
}
