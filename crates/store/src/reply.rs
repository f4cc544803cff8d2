//! Reading what scripts reply.

use bytes::Bytes;
use redis::Value;

use crate::{StreamId, entry::Entry, error::StoreError};

/// A reply that is not what the script's contract says.
pub(crate) fn odd(what: &str, value: &Value) -> StoreError {
    let shown: String = format!("{value:?}").chars().take(200).collect();
    StoreError::Reply(format!("{what}: {shown}"))
}

/// A reply that lacks a part.
pub(crate) fn short(what: &str) -> StoreError {
    StoreError::Reply(format!("{what}: a part is missing"))
}

pub(crate) fn array(value: Value) -> Result<Vec<Value>, StoreError> {
    match value {
        Value::Array(items) => Ok(items),
        Value::Nil => Ok(Vec::new()),
        other => Err(odd("an array was expected", &other)),
    }
}

pub(crate) fn int(value: &Value) -> Result<i64, StoreError> {
    match value {
        Value::Int(n) => Ok(*n),
        Value::BulkString(bytes) => std::str::from_utf8(bytes)
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| odd("a number", value)),
        other => Err(odd("a number was expected", other)),
    }
}

pub(crate) fn count(value: &Value) -> Result<u64, StoreError> {
    u64::try_from(int(value)?).map_err(|_| odd("a count was expected", value))
}

pub(crate) fn bytes(value: Value) -> Result<Bytes, StoreError> {
    match value {
        Value::BulkString(bytes) => Ok(bytes.into()),
        Value::SimpleString(text) => Ok(text.into()),
        Value::Okay => Ok(Bytes::from_static(b"OK")),
        Value::Nil => Ok(Bytes::new()),
        Value::Int(n) => Ok(n.to_string().into()),
        other => Err(odd("a string was expected", &other)),
    }
}

pub(crate) fn text(value: Value) -> Result<String, StoreError> {
    match value {
        Value::BulkString(bytes) => {
            String::from_utf8(bytes).map_err(|error| StoreError::Reply(format!("no UTF-8: {error}")))
        }
        Value::SimpleString(text) => Ok(text),
        Value::Okay => Ok("OK".into()),
        Value::Nil => Ok(String::new()),
        Value::Int(n) => Ok(n.to_string()),
        other => Err(odd("a string was expected", &other)),
    }
}

pub(crate) fn stream_id(value: Value) -> Result<StreamId, StoreError> {
    text(value)?.parse().map_err(StoreError::Reply)
}

/// The fields of a stream entry: names and values in turn.
#[derive(Default)]
pub(crate) struct Fields(Vec<(Vec<u8>, Bytes)>);

impl Fields {
    pub(crate) fn read(value: Value) -> Result<Self, StoreError> {
        let mut fields = Vec::new();
        let mut items = array(value)?.into_iter();
        while let (Some(name), Some(content)) = (items.next(), items.next()) {
            fields.push((bytes(name)?.into(), bytes(content)?));
        }
        Ok(Self(fields))
    }

    pub(crate) fn take(&mut self, name: &str) -> Option<Bytes> {
        self.0
            .iter_mut()
            .find(|(known, _)| known == name.as_bytes())
            .map(|(_, content)| std::mem::take(content))
    }

    pub(crate) fn take_text(&mut self, name: &str) -> String {
        self.take(name).map(|content| String::from_utf8_lossy(&content).into_owned()).unwrap_or_default()
    }

    pub(crate) fn take_number(&mut self, name: &str) -> u64 {
        self.take_text(name).parse().unwrap_or(0)
    }

    /// The entry's record. What is no entry comes out as one that does not decode.
    pub(crate) fn entry(&mut self) -> Entry {
        Entry { record: self.take("m").unwrap_or_default() }
    }

    /// Everything, as it is, for whoever has to look at an entry that cannot be read.
    pub(crate) fn raw(self) -> Vec<(Vec<u8>, Bytes)> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_odd_is_shown_in_part() {
        let long = Value::BulkString("ü".repeat(500).into_bytes());
        for value in [long, Value::Int(-1), Value::Array(vec![Value::Nil])] {
            let shown = odd("here", &value).to_string();
            assert!(shown.contains("here: ") && shown.len() < 500, "{shown}");
        }
        assert!(short("there").to_string().contains("a part is missing"));
    }

    #[test]
    fn values_are_read_as_what_they_can_be() {
        let bulk = |text: &str| Value::BulkString(text.into());
        assert_eq!((int(&bulk("-7")).unwrap(), count(&Value::Int(7)).unwrap()), (-7, 7));
        assert!(int(&bulk("7.5")).is_err() && int(&Value::Nil).is_err() && count(&Value::Int(-1)).is_err());
        assert!(array(Value::Nil).unwrap().is_empty() && array(Value::Int(1)).is_err());
        for (value, expected) in [
            (Value::Okay, "OK"),
            (Value::Nil, ""),
            (Value::Int(3), "3"),
            (bulk("b"), "b"),
            (Value::SimpleString("s".into()), "s"),
        ] {
            assert_eq!(text(value.clone()).unwrap(), expected);
            assert_eq!(bytes(value).unwrap(), expected.as_bytes());
        }
        assert!(text(Value::Array(vec![])).is_err() && bytes(Value::Array(vec![])).is_err());
        assert!(text(Value::BulkString(vec![0xff])).is_err());
        assert!(stream_id(bulk("1-2")).is_ok() && stream_id(bulk("1")).is_err());
    }

    #[test]
    fn a_field_is_taken_once() {
        let row = ["a", "1", "b", "x", "odd one out"].map(|text| Value::BulkString(text.into()));
        let mut fields = Fields::read(Value::Array(row.into())).unwrap();
        assert_eq!((fields.take_number("a"), fields.take_number("a"), fields.take_number("b")), (1, 0, 0));
        assert_eq!(fields.take_text("c"), "");
        assert_eq!(fields.raw().len(), 2);
    }
}
