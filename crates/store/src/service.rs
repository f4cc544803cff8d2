//! The last health message of each service.

use postroad_model::names::Tenant;
use redis::{Pipeline, Value};

use crate::{
    Store,
    error::StoreError,
    keys,
    link::checked,
    reply::{array, count, int, text},
    script::{self, Call},
};

/// A service's last health message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceHealth {
    /// The service.
    pub service: String,
    /// The message's record, as JSON.
    pub record: String,
    /// When it was accepted, by Redis's clock.
    pub at_ms: u64,
}

/// A page of services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicesPage {
    /// Redis's clock.
    pub now_ms: u64,
    /// By name.
    pub services: Vec<ServiceHealth>,
    /// There are more behind the last of them.
    pub more: bool,
}

impl Store {
    /// health: keeps a service's health message, if none was accepted after it. Beyond `most` services of the
    /// tenant the one heard longest ago is forgotten.
    pub async fn keep_health(
        &self,
        tenant: &Tenant,
        health: &ServiceHealth,
        most: u64,
    ) -> Result<bool, StoreError> {
        let mut call = Call::new(&script::HEALTH, &self.keys, self.tenant_tag(tenant));
        call.arg(tenant.as_str()).arg(&health.service).arg(&health.record).arg(health.at_ms).arg(most);
        Ok(int(&script::call(&self.link, call).await?)? == 1)
    }

    /// Services by name, behind one of them; at most so many.
    pub async fn services(
        &self,
        tenant: &Tenant,
        after: Option<&str>,
        most: usize,
    ) -> Result<ServicesPage, StoreError> {
        let tag = self.tenant_tag(tenant);
        let services = self.keys.key(tag, &format!("{}{tenant}", keys::SERVICES));
        let heard = self.keys.key(tag, &format!("{}{tenant}", keys::HEARD));
        let mut ask = Pipeline::with_capacity(2);
        ask.cmd("TIME");
        ask.cmd("HKEYS").arg(&services);
        let mut answers = self.link.pipeline(&ask).await?.into_iter().map(checked);
        let mut next = || answers.next().unwrap_or(Ok(Value::Nil));
        let time: Vec<u64> = array(next()?)?.iter().map(count).collect::<Result<_, _>>()?;
        let now_ms = time.first().unwrap_or(&0) * 1_000 + time.get(1).unwrap_or(&0) / 1_000;
        let mut names: Vec<String> = array(next()?)?.into_iter().map(text).collect::<Result<_, _>>()?;
        names.retain(|name| after.is_none_or(|after| name.as_str() > after));
        names.sort_unstable();
        let more = names.len() > most;
        names.truncate(most);
        if names.is_empty() {
            return Ok(ServicesPage { now_ms, services: Vec::new(), more });
        }
        let mut ask = Pipeline::with_capacity(2);
        ask.cmd("HMGET").arg(&services).arg(&names);
        ask.cmd("ZMSCORE").arg(&heard).arg(&names);
        let mut answers = self.link.pipeline(&ask).await?.into_iter().map(checked);
        let mut next = || answers.next().unwrap_or(Ok(Value::Nil));
        let (records, times) = (array(next()?)?, array(next()?)?);
        let mut services = Vec::with_capacity(names.len());
        for ((service, record), at) in names.into_iter().zip(records).zip(times) {
            // Forgotten in between.
            if matches!(record, Value::Nil) || matches!(at, Value::Nil) {
                continue;
            }
            services.push(ServiceHealth { service, record: text(record)?, at_ms: count(&at)? });
        }
        Ok(ServicesPage { now_ms, services, more })
    }
}
