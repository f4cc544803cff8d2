//! Notifications' tails, and the tickets that open them.
//!
//! A tail holds the newest notifications for one user, one company or everybody of a tenant. All tails of a
//! tenant lie in one partition and share one line of ids: a position in it says how far a reader of several
//! tails is.

use std::time::Duration;

use bytes::Bytes;
use postroad_model::{id::MessageId, names::Tenant, placement::stable_hash, time::millis};
use redis::{Pipeline, Value};

use crate::{
    Store, StreamId,
    error::StoreError,
    keys::{self, Tag},
    link::checked,
    reply::{Fields, array, int, stream_id, text},
    script::{self, Call},
    signals::Receiver,
};

/// How much a tail holds.
#[derive(Debug, Clone, Copy)]
pub struct TailBounds {
    /// The newest so many.
    pub entries: u64,
    /// For so long.
    pub keep: Duration,
    /// How long an id is remembered.
    pub remember: Duration,
}

/// What became of a notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notified {
    /// Its id in its tail.
    pub at: StreamId,
    /// It was there before.
    pub duplicate: bool,
}

/// Some of what lies in tails behind a position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TailPage {
    /// By rising id.
    pub entries: Vec<(StreamId, Bytes)>,
    /// There is more behind the last of them.
    pub more: bool,
}

impl Store {
    /// notify: puts a notification into a tail and tells who listens to it. Repeating it with the same id, while
    /// that is remembered, changes nothing.
    pub async fn notify(
        &self,
        tenant: &Tenant,
        tail: &str,
        id: &MessageId,
        content: &[u8],
        bounds: TailBounds,
    ) -> Result<Notified, StoreError> {
        let mut call = Call::new(&script::NOTIFY, &self.keys, self.tenant_tag(tenant));
        call.arg(tenant.as_str()).arg(tail).arg(id.as_str()).arg(content).arg(bounds.entries);
        call.arg(millis(bounds.keep).max(1)).arg(millis(bounds.remember).max(1));
        let mut row = array(script::call(&self.link, call).await?)?.into_iter();
        let duplicate = int(&row.next().unwrap_or_default())? == 0;
        Ok(Notified { at: stream_id(row.next().unwrap_or_default())?, duplicate })
    }

    /// The newest position in a tenant's tails.
    pub async fn newest_notification(&self, tenant: &Tenant) -> Result<StreamId, StoreError> {
        let mut command = redis::cmd("HGET");
        command.arg(self.keys.key(self.tenant_tag(tenant), keys::TAILS)).arg(tenant.as_str());
        match self.link.command(&command).await? {
            Value::Nil => Ok(StreamId::ZERO),
            value => stream_id(value),
        }
    }

    /// What lies in some tails behind a position, in order; at most about `most` entries.
    pub async fn notifications(
        &self,
        tenant: &Tenant,
        tails: &[String],
        after: StreamId,
        most: usize,
    ) -> Result<TailPage, StoreError> {
        let mut pipeline = Pipeline::with_capacity(tails.len());
        for tail in tails {
            let key = self.keys.key(self.tenant_tag(tenant), &tail_name(tenant, tail));
            pipeline.cmd("XRANGE").arg(key).arg(format!("({after}")).arg("+").arg("COUNT").arg(most);
        }
        let mut page = TailPage { entries: Vec::new(), more: false };
        let mut known_upto = StreamId::LAST;
        for answer in self.link.pipeline(&pipeline).await? {
            let rows = array(checked(answer)?)?;
            let is_cut = rows.len() >= most;
            for row in rows {
                let mut row = array(row)?.into_iter();
                let id = stream_id(row.next().unwrap_or_default())?;
                let mut fields = Fields::read(row.next().unwrap_or_default())?;
                page.entries.push((id, fields.take("n").unwrap_or_default()));
            }
            if is_cut && let Some((last, _)) = page.entries.last() {
                // What lies behind it in the others comes after what is still in this one.
                known_upto = known_upto.min(*last);
                page.more = true;
            }
        }
        page.entries.retain(|(id, _)| *id <= known_upto);
        page.entries.sort_by_key(|(id, _)| *id);
        Ok(page)
    }

    /// Listens to a tail.
    pub async fn listen_to_tail(&self, tenant: &Tenant, tail: &str) -> Result<Receiver, StoreError> {
        self.signals().subscribe(self.tenant_tag(tenant), &tail_name(tenant, tail)).await
    }

    /// Puts a ticket down, to be taken up once within its time.
    pub async fn put_ticket(&self, ticket: &str, opens: &str, valid: Duration) -> Result<(), StoreError> {
        let mut command = redis::cmd("SET");
        command.arg(self.ticket_key(ticket)).arg(opens).arg("PX").arg(millis(valid).max(1));
        self.link.command(&command).await.map(drop)
    }

    /// Takes a ticket up: what it opens. It is gone after that.
    pub async fn take_ticket(&self, ticket: &str) -> Result<Option<String>, StoreError> {
        let mut command = redis::cmd("GETDEL");
        command.arg(self.ticket_key(ticket));
        match self.link.command(&command).await? {
            Value::Nil => Ok(None),
            value => text(value).map(Some),
        }
    }

    fn ticket_key(&self, ticket: &str) -> String {
        self.keys.key(Tag::Ctl, &format!("{}{ticket}", keys::TICKET))
    }

    /// The partition of what a tenant has one of.
    pub(crate) fn tenant_tag(&self, tenant: &Tenant) -> Tag {
        let share = stable_hash(&["tenant", tenant.as_str()]) % u64::from(self.layout.partitions);
        Tag::Partition(u16::try_from(share).unwrap_or_default())
    }
}

fn tail_name(tenant: &Tenant, tail: &str) -> String {
    format!("{}{tenant}/{tail}", keys::TAIL)
}
