//! JSON objects, read more strictly than serde reads them.
//!
//! Derived code also takes a list, for the members in their order, and maps keep the last of two members with
//! one name. Other readers of the same text may see something else there: a guess is worse than a refusal.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::{Map, Value, value::RawValue};
use utoipa::ToSchema;

/// Any JSON without a doubled name at any depth.
#[derive(Debug)]
pub struct Unique(pub Value);

/// An object or null; for `deserialize_with`.
pub fn only<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    deserializer.deserialize_option(Only(PhantomData))
}

/// An object, none of whose members is named twice at any depth, or null; for `deserialize_with`.
pub fn unique<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Map<String, Value>>, D::Error> {
    struct Members(Map<String, Value>);
    impl<'de> Deserialize<'de> for Members {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            match Unique::deserialize(deserializer)?.0 {
                Value::Object(members) => Ok(Self(members)),
                _ => Err(D::Error::custom("not an object")),
            }
        }
    }
    Ok(only::<D, Members>(deserializer)?.map(|members| members.0))
}

/// An object as it was written, byte for byte: what JSON's readers make of it is theirs.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = Object)]
pub struct RawObject(pub Box<RawValue>);

impl RawObject {
    /// `{}`.
    pub fn empty() -> Self {
        Self(RawValue::from_string("{}".into()).unwrap_or_else(|_| unreachable!("that is JSON")))
    }
}

impl<'de> Deserialize<'de> for RawObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        if raw.get().starts_with('{') { Ok(Self(raw)) } else { Err(D::Error::custom("not an object")) }
    }
}

struct Only<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Only<T> {
    type Value = Option<T>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_none<E>(self) -> Result<Option<T>, E> {
        Ok(None)
    }
    fn visit_unit<E>(self) -> Result<Option<T>, E> {
        Ok(None)
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<T>, D::Error> {
        deserializer.deserialize_map(self)
    }
    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Option<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(members)).map(Some)
    }
}

fn read<'de, A: MapAccess<'de>>(mut members: A) -> Result<Map<String, Value>, A::Error> {
    let mut object = Map::new();
    while let Some(name) = members.next_key::<String>()? {
        if object.contains_key(&name) {
            return Err(A::Error::custom(format!("duplicate field `{name}`")));
        }
        object.insert(name, members.next_value::<Unique>()?.0);
    }
    Ok(object)
}

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Anything;
        impl<'de> Visitor<'de> for Anything {
            type Value = Unique;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }
            fn visit_unit<E>(self) -> Result<Unique, E> {
                Ok(Unique(Value::Null))
            }
            fn visit_bool<E>(self, value: bool) -> Result<Unique, E> {
                Ok(Unique(value.into()))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Unique, E> {
                Ok(Unique(value.into()))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Unique, E> {
                Ok(Unique(value.into()))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Unique, E> {
                Ok(Unique(value.into()))
            }
            fn visit_str<E>(self, value: &str) -> Result<Unique, E> {
                Ok(Unique(value.into()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Unique, A::Error> {
                let mut list = Vec::new();
                while let Some(Unique(item)) = items.next_element()? {
                    list.push(item);
                }
                Ok(Unique(list.into()))
            }
            fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Unique, A::Error> {
                read(members).map(|object| Unique(object.into()))
            }
        }
        deserializer.deserialize_any(Anything)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_once_is_read_as_ever() {
        let text = r#"{"a":[1,-2,3.5,true,null,{"b":"c"}],"b":{}}"#;
        let Unique(read) = serde_json::from_str(text).unwrap();
        assert_eq!(read, serde_json::from_str::<Value>(text).unwrap());
    }

    #[derive(Debug, Deserialize, PartialEq)]
    struct Outer {
        #[serde(default, deserialize_with = "only")]
        inner: Option<Inner>,
        #[serde(default, deserialize_with = "unique")]
        free: Option<Map<String, Value>>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    struct Inner {
        count: u8,
    }

    #[test]
    fn only_objects_are_objects() {
        let read = |text: &str| serde_json::from_str::<Outer>(text);
        let outer = read(r#"{"inner":{"count":1},"free":{"a":[]}}"#).unwrap();
        assert_eq!((outer.inner, outer.free.unwrap().len()), (Some(Inner { count: 1 }), 1));
        for nothing in ["{}", r#"{"inner":null,"free":null}"#] {
            assert_eq!(read(nothing).unwrap(), Outer { inner: None, free: None });
        }
        for value in ["[]", "[1]", "\"a\"", "1", "true"] {
            for name in ["inner", "free"] {
                let error = read(&format!("{{\"{name}\":{value}}}")).unwrap_err().to_string();
                assert!(error.contains("expected an object"), "{error}");
            }
        }
        assert!(read(r#"{"free":{"a":1,"a":1}}"#).unwrap_err().to_string().contains("duplicate field `a`"));
    }

    #[test]
    fn raw_objects_stay_as_they_are_written() {
        let text = r#"{"z": 1.50,"a":[1e400,  {"a":1,"a":2}]}"#;
        let raw: RawObject = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&raw).unwrap(), text);
        assert_eq!(serde_json::to_string(&RawObject::empty()).unwrap(), "{}");
        for other in ["[]", "1", "\"{}\"", "null"] {
            assert!(serde_json::from_str::<RawObject>(other).is_err(), "{other}");
        }
    }

    #[test]
    fn a_doubled_name_is_refused_at_any_depth() {
        for text in [r#"{"a":1,"a":1}"#, r#"[{"x":{"a":1,"b":2,"\u0061":3}}]"#] {
            let error = serde_json::from_str::<Unique>(text).unwrap_err().to_string();
            assert!(error.starts_with("duplicate field `a`"), "{error}");
        }
    }
}
