//! What commands were answered.

use postroad_model::{id::MessageId, names::Tenant};
use redis::Value;

use crate::{
    Store,
    error::StoreError,
    keys::{self, Tag},
    reply::{array, count, int, text},
    script::{self, Call},
    signals::Receiver,
};

/// An answer, as it lies in Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// What was answered, as JSON.
    pub answer: String,
    /// When it came, by Redis's clock.
    pub at_ms: u64,
    /// It came after it was due.
    pub late: bool,
}

/// What became of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Responded {
    /// It is the one that counts.
    First(Response),
    /// There was one before, which counts.
    Before(Response),
}

impl Store {
    /// respond: answers a command; the first answer counts. `due_ms` is by when it was due, `keep_ms` how long it
    /// is kept. Whoever waits for it ([`Store::await_response`]) is told.
    pub async fn respond(
        &self,
        tenant: &Tenant,
        command: &MessageId,
        answer: &str,
        due_ms: Option<u64>,
        keep_ms: u64,
    ) -> Result<Responded, StoreError> {
        let (tag, name) = self.response_place(tenant, command);
        let mut call = Call::new(&script::RESPOND, &self.keys, tag);
        call.arg(name)
            .arg(answer)
            .arg(due_ms.map(|due| due.to_string()).unwrap_or_default())
            .arg(keep_ms.max(1));
        let mut row = array(script::call(&self.link, call).await?)?.into_iter();
        let first = int(&row.next().unwrap_or_default())? == 1;
        let response = read(row)?;
        Ok(if first { Responded::First(response) } else { Responded::Before(response) })
    }

    /// What a command was answered, if it was.
    pub async fn response(
        &self,
        tenant: &Tenant,
        command: &MessageId,
    ) -> Result<Option<Response>, StoreError> {
        let (tag, name) = self.response_place(tenant, command);
        let mut ask = redis::cmd("HMGET");
        ask.arg(self.keys.key(tag, &format!("{}{name}", keys::RESPONSE))).arg(&["answer", "at", "late"]);
        let row = array(self.link.command(&ask).await?)?;
        if matches!(row.first(), None | Some(Value::Nil)) {
            Ok(None)
        } else {
            read(row.into_iter()).map(Some)
        }
    }

    /// Listens to a command's answer: after this, [`Store::response`] finds what came before, and a signal tells
    /// what comes.
    pub async fn await_response(&self, tenant: &Tenant, command: &MessageId) -> Result<Receiver, StoreError> {
        let (tag, name) = self.response_place(tenant, command);
        self.signals().subscribe(tag, &format!("{}{name}", keys::RESPONSE)).await
    }

    /// Where an answer lies: in the partition that the command's id carries or stands for.
    fn response_place(&self, tenant: &Tenant, command: &MessageId) -> (Tag, String) {
        let partition = self.layout.partition_of_id(tenant, command);
        (Tag::Partition(partition), format!("{tenant}/{command}"))
    }
}

fn read(mut row: impl Iterator<Item = Value>) -> Result<Response, StoreError> {
    let mut next = || row.next().unwrap_or_default();
    Ok(Response { answer: text(next())?, at_ms: count(&next())?, late: text(next())? == "1" })
}
