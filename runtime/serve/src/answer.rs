//! Answers in MessagePack. Arrays have keys of bytes, which clients of openpi look for, or of text, as vla-eval has them.

use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

/// A value of an answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Answer {
    Nil,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    List(Vec<Answer>),
    Map(Vec<(&'static str, Answer)>),
    /// An array of floats.
    Array(Floats),
}

/// An array, of float64 or of float32.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Floats {
    pub(crate) numbers: Vec<f64>,
    pub(crate) shape: Vec<usize>,
    /// Whether it is rounded to 32 bits.
    pub(crate) single: bool,
    /// Whether its keys are text.
    pub(crate) text_keys: bool,
}

impl Floats {
    /// Rows of one length.
    pub(crate) fn rows(rows: &[Vec<f64>]) -> Floats {
        let columns = rows.first().map_or(0, Vec::len);
        Floats { numbers: rows.concat(), shape: vec![rows.len(), columns], single: false, text_keys: false }
    }
}

impl Answer {
    /// A text.
    pub(crate) fn text(text: impl Into<String>) -> Answer {
        Answer::Text(text.into())
    }

    /// As bytes of a frame.
    pub(crate) fn to_msgpack(&self) -> Vec<u8> {
        // Nothing here fails: every list says its length.
        rmp_serde::to_vec(self).unwrap_or_default()
    }
}

/// Bytes, as MessagePack tells them from text.
struct Binary<'a>(&'a [u8]);

impl Serialize for Binary<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(self.0)
    }
}

impl Serialize for Answer {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Answer::Nil => to.serialize_unit(),
            Answer::Bool(value) => to.serialize_bool(*value),
            Answer::Integer(value) => to.serialize_i64(*value),
            Answer::Float(value) => to.serialize_f64(*value),
            Answer::Text(text) => to.serialize_str(text),
            Answer::List(list) => {
                let mut items = to.serialize_seq(Some(list.len()))?;
                for item in list {
                    items.serialize_element(item)?;
                }
                items.end()
            }
            Answer::Map(entries) => {
                let mut map = to.serialize_map(Some(entries.len()))?;
                for (key, value) in entries {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
            Answer::Array(array) => array.serialize(to),
        }
    }
}

impl Serialize for Floats {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let (bytes, dtype): (Vec<u8>, &str) = match self.single {
            true => (self.numbers.iter().flat_map(|x| (*x as f32).to_le_bytes()).collect(), "<f4"),
            false => (self.numbers.iter().flat_map(|x| x.to_le_bytes()).collect(), "<f8"),
        };
        let mut map = to.serialize_map(Some(4))?;
        let keys = ["__ndarray__", "data", "dtype", "shape"];
        for key in keys {
            if self.text_keys {
                map.serialize_key(key)?;
            } else {
                map.serialize_key(&Binary(key.as_bytes()))?;
            }
            match key {
                "__ndarray__" => map.serialize_value(&true)?,
                "data" => map.serialize_value(&Binary(&bytes))?,
                "dtype" => map.serialize_value(dtype)?,
                _ => map.serialize_value(&self.shape)?,
            }
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_are_as_clients_look_for_them() {
        let array = Floats { numbers: vec![1.0], shape: vec![1, 1], single: true, text_keys: false };
        let bytes = Answer::Map(vec![("a", Answer::Array(array.clone()))]).to_msgpack();
        let wanted = b"\x81\xa1a\x84\xc4\x0b__ndarray__\xc3\xc4\x04data\xc4\x04\x00\x00\x80\x3f\xc4\x05dtype\xa3<f4\xc4\x05shape\x92\x01\x01";
        assert_eq!(bytes, wanted);
        let text = Answer::Array(Floats { text_keys: true, ..array }).to_msgpack();
        assert_eq!(&text[..13], b"\x84\xab__ndarray__");
    }
}
