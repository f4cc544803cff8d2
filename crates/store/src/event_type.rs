//! Event types that tenants have registered.

use postroad_model::names::Tenant;
use redis::{Pipeline, Value};

use crate::{
    Store,
    error::StoreError,
    keys::{self, Tag},
    link::checked,
    reply::{array, count, int, odd, text},
    script::{self, Call},
};

/// An event type's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventTypeRecord {
    /// Its name.
    pub name: String,
    /// A number that no other state of it has had.
    pub version: u64,
    /// When it was registered, by Redis's clock.
    pub made_ms: u64,
    /// When it was last changed.
    pub changed_ms: u64,
    /// What it is, as JSON.
    pub record: String,
}

/// A tenant's event types.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EventTypes {
    /// Rises with each change; what is here may be newer than it says.
    pub version: u64,
    /// In no order.
    pub records: Vec<EventTypeRecord>,
}

/// How much a tenant may register.
#[derive(Debug, Clone, Copy)]
pub struct EventTypeBounds {
    /// Types.
    pub types: u64,
    /// Bytes of all their records.
    pub bytes: u64,
}

/// What became of a registration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PutEventType {
    /// It is registered.
    Put {
        /// As it is now.
        record: EventTypeRecord,
        /// It was not there before.
        new: bool,
    },
    /// There are as many types already.
    TooMany(u64),
    /// There would be as many bytes.
    TooLarge(u64),
}

impl Store {
    /// event_type: registers an event type, or changes it.
    pub async fn put_event_type(
        &self,
        tenant: &Tenant,
        name: &str,
        record: &str,
        bounds: EventTypeBounds,
    ) -> Result<PutEventType, StoreError> {
        let reply = self.event_type(tenant, name, record, bounds).await?;
        let shown = reply.clone();
        let mut row = array(reply)?.into_iter();
        let mut next = || row.next().unwrap_or_default();
        match text(next())?.as_str() {
            "OK" => {
                let (version, made_ms, changed_ms) = (count(&next())?, count(&next())?, count(&next())?);
                let new = int(&next())? == 1;
                let (name, record) = (name.to_owned(), record.to_owned());
                let record = EventTypeRecord { name, version, made_ms, changed_ms, record };
                Ok(PutEventType::Put { record, new })
            }
            "MANY" => Ok(PutEventType::TooMany(count(&next())?)),
            "LARGE" => Ok(PutEventType::TooLarge(count(&next())?)),
            _ => Err(odd("event_type", &shown)),
        }
    }

    /// event_type: removes what was registered of an event type. `false` if nothing was.
    pub async fn remove_event_type(&self, tenant: &Tenant, name: &str) -> Result<bool, StoreError> {
        let reply = self.event_type(tenant, name, "", EventTypeBounds { types: 0, bytes: 0 }).await?;
        Ok(text(array(reply)?.into_iter().next().unwrap_or_default())? == "OK")
    }

    async fn event_type(
        &self,
        tenant: &Tenant,
        name: &str,
        record: &str,
        bounds: EventTypeBounds,
    ) -> Result<Value, StoreError> {
        let mut call = Call::new(&script::EVENT_TYPE, &self.keys, Tag::Ctl);
        call.arg(tenant.as_str()).arg(name).arg(record).arg(bounds.types).arg(bounds.bytes);
        script::call(&self.link, call).await
    }

    /// A number that rises with each change of a tenant's event types; 0 where nothing was ever registered.
    pub async fn event_types_version(&self, tenant: &Tenant) -> Result<u64, StoreError> {
        let mut command = redis::cmd("HGET");
        command.arg(self.keys.key(Tag::Ctl, keys::TYPES_VERSION)).arg(tenant.as_str());
        match self.link.command(&command).await? {
            Value::Nil => Ok(0),
            value => count(&value),
        }
    }

    /// All that a tenant has registered.
    pub async fn event_types(&self, tenant: &Tenant) -> Result<EventTypes, StoreError> {
        let mut ask = Pipeline::with_capacity(2);
        // In this order: a change in between leaves a version that is too low, which is found out.
        ask.cmd("HGET").arg(self.keys.key(Tag::Ctl, keys::TYPES_VERSION)).arg(tenant.as_str());
        ask.cmd("HGETALL").arg(self.keys.key(Tag::Ctl, &format!("{}{tenant}", keys::TYPES)));
        let mut answers = self.link.pipeline(&ask).await?.into_iter().map(checked);
        let mut next = || answers.next().unwrap_or(Ok(Value::Nil));
        let version = match next()? {
            Value::Nil => 0,
            value => count(&value)?,
        };
        let mut pairs = array(next()?)?.into_iter();
        let mut records = Vec::new();
        while let (Some(name), Some(row)) = (pairs.next(), pairs.next()) {
            records.extend(read(text(name)?, &text(row)?));
        }
        Ok(EventTypes { version, records })
    }
}

/// Reads `<version> <made at> <changed at> <record>`. What was put there by hand is none.
fn read(name: String, row: &str) -> Option<EventTypeRecord> {
    let mut parts = row.splitn(4, ' ');
    let mut number = || parts.next()?.parse().ok();
    let (version, made_ms, changed_ms) = (number()?, number()?, number()?);
    Some(EventTypeRecord { name, version, made_ms, changed_ms, record: parts.next()?.to_owned() })
}
