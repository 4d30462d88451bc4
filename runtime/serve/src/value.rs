//! What a client sent, as a tree: of JSON or MessagePack, in the order in which it was written.
//!
//! Its size is bounded before it is there: a number in a list takes twenty times the bytes that it has on the wire, and so do
//! empty lists. Texts and bytes are borrowed from the message where they stand in it.

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

/// Most values of a message: more than a request has by far, since arrays are one each.
const VALUES_MAX: usize = 65_536;
/// The same where arrays may be lists: a picture of 591x591.
pub(crate) const LISTED_MAX: usize = 1 << 20;
/// Most keys of a map.
const KEYS_MAX: usize = 256;
/// Deepest nesting. Requests have four.
const DEPTH_MAX: u32 = 16;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    Nil,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(Cow<'a, str>),
    Bytes(Cow<'a, [u8]>),
    List(Vec<Value<'a>>),
    /// Keys may have been bytes. One that stands twice is refused.
    Map(Vec<(Cow<'a, str>, Value<'a>)>),
}

impl<'a> Value<'a> {
    /// Of a JSON text.
    ///
    /// # Errors
    ///
    /// Where it is none, or holds more than is taken.
    pub(crate) fn from_json(text: &'a [u8]) -> Result<Value<'a>, String> {
        Value::from_json_of(text, VALUES_MAX)
    }

    /// As [`Value::from_json`], of at most `values_max` values.
    ///
    /// # Errors
    ///
    /// As [`Value::from_json`].
    pub(crate) fn from_json_of(text: &'a [u8], values_max: usize) -> Result<Value<'a>, String> {
        let mut json = serde_json::Deserializer::from_slice(text);
        let left = Cell::new(values_max);
        let value = Seed { left: &left, depth: 0 }.deserialize(&mut json);
        let value = value.map_err(|error| format!("it is no JSON that is taken: {error}"))?;
        json.end().map_err(|error| format!("it is no JSON that is taken: {error}"))?;
        Ok(value)
    }

    /// Of a message in MessagePack.
    ///
    /// # Errors
    ///
    /// Where it is none, or holds more than is taken.
    pub(crate) fn from_msgpack(bytes: &'a [u8]) -> Result<Value<'a>, String> {
        let left = Cell::new(VALUES_MAX);
        let mut rest = rmp_serde::Deserializer::from_read_ref(bytes);
        rest.set_max_depth(2 * DEPTH_MAX as usize);
        let value = Seed { left: &left, depth: 0 }.deserialize(&mut rest);
        let value = value.map_err(|error| format!("it is no MessagePack that is taken: {error}"))?;
        // What is read behind the end is no marker of a value.
        match IgnoredAny::deserialize(&mut rest) {
            Err(rmp_serde::decode::Error::InvalidMarkerRead(_)) => Ok(value),
            Ok(_) | Err(_) => Err("it has bytes behind its end".to_owned()),
        }
    }

    /// The value of a key.
    pub(crate) fn get(&self, key: &str) -> Option<&Value<'a>> {
        match self {
            Value::Map(entries) => entries.iter().find(|(name, _)| name == key).map(|(_, value)| value),
            _ => None,
        }
    }

    /// The entries of a map; none of anything else.
    pub(crate) fn entries(&self) -> &[(Cow<'a, str>, Value<'a>)] {
        match self {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// A text.
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A number.
    pub(crate) fn number(&self) -> Option<f64> {
        match self {
            Value::Integer(n) => Some(*n as f64),
            Value::Float(x) => Some(*x),
            _ => None,
        }
    }

    /// What it is, for errors.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Value::Nil => "null",
            Value::Bool(_) => "a boolean",
            Value::Integer(_) | Value::Float(_) => "a number",
            Value::Text(_) => "a text",
            Value::Bytes(_) => "bytes",
            Value::List(_) => "a list",
            Value::Map(_) => "an object",
        }
    }
}

/// Reads a value, with what is left of the bounds.
#[derive(Clone, Copy)]
struct Seed<'l> {
    left: &'l Cell<usize>,
    depth: u32,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value<'de>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value<'de>, D::Error> {
        if self.depth > DEPTH_MAX {
            return Err(D::Error::custom(format!("it is nested deeper than {DEPTH_MAX}")));
        }
        let left = self.left.get().checked_sub(1);
        let too_many =
            || D::Error::custom("it has too many values; send arrays as arrays, or in binary form");
        self.left.set(left.ok_or_else(too_many)?);
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value<'de>, E> {
        Ok(Value::Nil)
    }

    fn visit_none<E>(self) -> Result<Value<'de>, E> {
        Ok(Value::Nil)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value<'de>, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value<'de>, E> {
        Ok(Value::Integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value<'de>, E> {
        Ok(i64::try_from(value).map_or(Value::Float(value as f64), Value::Integer))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value<'de>, E> {
        Ok(Value::Float(value))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Value<'de>, E> {
        Ok(Value::Text(Cow::Borrowed(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value<'de>, E> {
        Ok(Value::Text(Cow::Owned(value.to_owned())))
    }

    fn visit_string<E>(self, value: String) -> Result<Value<'de>, E> {
        Ok(Value::Text(Cow::Owned(value)))
    }

    fn visit_borrowed_bytes<E>(self, value: &'de [u8]) -> Result<Value<'de>, E> {
        Ok(Value::Bytes(Cow::Borrowed(value)))
    }

    fn visit_bytes<E>(self, value: &[u8]) -> Result<Value<'de>, E> {
        Ok(Value::Bytes(Cow::Owned(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value<'de>, A::Error> {
        let deeper = Seed { depth: self.depth + 1, ..self };
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(deeper)? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value<'de>, A::Error> {
        let deeper = Seed { depth: self.depth + 1, ..self };
        let mut map: Vec<(Cow<'de, str>, Value<'de>)> = Vec::new();
        while let Some(key) = entries.next_key_seed(deeper)? {
            let key = match key {
                Value::Text(key) => key,
                Value::Bytes(Cow::Borrowed(key)) => {
                    Cow::Borrowed(std::str::from_utf8(key).map_err(A::Error::custom)?)
                }
                Value::Bytes(Cow::Owned(key)) => {
                    Cow::Owned(String::from_utf8(key).map_err(A::Error::custom)?)
                }
                Value::Integer(key) => Cow::Owned(key.to_string()),
                other => return Err(A::Error::custom(format!("a key is {}", other.kind()))),
            };
            if map.len() >= KEYS_MAX {
                return Err(A::Error::custom(format!("it has more than {KEYS_MAX} keys")));
            }
            if map.iter().any(|(name, _)| *name == key) {
                return Err(A::Error::custom(format!("`{key}` stands twice")));
            }
            map.push((key, entries.next_value_seed(deeper)?));
        }
        Ok(Value::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_keeps_its_order() {
        let value = Value::from_json(br#"{"z": 1, "a": [null, true, -2.5, "x\ny"], "m": {}}"#).unwrap();
        let keys: Vec<&str> = value.entries().iter().map(|(key, _)| key.as_ref()).collect();
        assert_eq!(keys, ["z", "a", "m"]);
        let list = vec![Value::Nil, Value::Bool(true), Value::Float(-2.5), Value::Text("x\ny".into())];
        assert_eq!(value.get("a"), Some(&Value::List(list)));
    }

    #[test]
    fn msgpack_takes_keys_of_bytes() {
        // {b"data": bin 1 2, "n": -3}
        let bytes = b"\x82\xc4\x04data\xc4\x02\x01\x02\xa1n\xfd";
        let value = Value::from_msgpack(bytes).unwrap();
        assert_eq!(value.get("data"), Some(&Value::Bytes(Cow::Borrowed(&[1, 2]))));
        assert_eq!(value.get("n").and_then(Value::number), Some(-3.0));
    }

    #[test]
    fn what_is_hostile_is_refused() {
        let many = format!("[{}0]", "0,".repeat(100_000));
        assert!(Value::from_json(many.as_bytes()).unwrap_err().contains("too many values"));
        let deep = "[".repeat(100);
        assert!(Value::from_json(deep.as_bytes()).unwrap_err().contains("deeper than 16"));
        assert!(Value::from_json(br#"{"a": 1, "a": 2}"#).unwrap_err().contains("`a` stands twice"));
        assert!(Value::from_json(b"{} x").is_err());
        // Lists that say that they are long.
        assert!(Value::from_msgpack(b"\xdd\xff\xff\xff\xff\x01").is_err());
        assert!(Value::from_msgpack(b"\xc6\xff\xff\xff\xff\x01").is_err());
        assert!(Value::from_msgpack(&[0x91; 100]).is_err());
        assert!(Value::from_msgpack(b"\x01\x01").unwrap_err().contains("behind its end"));
        assert!(Value::from_msgpack(b"").is_err());
    }
}
