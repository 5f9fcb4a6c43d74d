//! Documents read from any format, with bounded work: how deep they nest, and how much they are once aliases have
//! been replaced by what they stand for.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

pub mod json_text;
pub mod yaml_text;

/// The deepest document that is taken. A list and a watch nest deeper still, and readers stop at 128.
pub const MAX_DEPTH: usize = 100;
/// The most that a document may be, in bytes: those of its texts, and a few for each value.
pub const MAX_WEIGHT: usize = 12 << 20;
/// What a value weighs beside its text.
const VALUE: usize = 8;

/// Reads a document.
pub fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
    Bounded { weight: &Cell::new(0), depth: 0 }.deserialize(deserializer)
}

#[derive(Clone, Copy)]
struct Bounded<'a> {
    weight: &'a Cell<usize>,
    depth: usize,
}

impl<'a> Bounded<'a> {
    fn weigh<E: Error>(self, bytes: usize) -> Result<(), E> {
        self.weight.set(self.weight.get().saturating_add(bytes + VALUE));
        if self.weight.get() > MAX_WEIGHT {
            return Err(E::custom("the document is too large once its aliases are replaced"));
        }
        Ok(())
    }

    fn deeper<E: Error>(self) -> Result<Bounded<'a>, E> {
        self.weigh(0)?;
        if self.depth == MAX_DEPTH {
            return Err(E::custom(format!("exceeded max depth of {MAX_DEPTH}")));
        }
        Ok(Bounded { depth: self.depth + 1, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Bounded<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a document")
    }
    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        self.weigh(0).map(|()| value.into())
    }
    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        self.weigh(0).map(|()| value.into())
    }
    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        self.weigh(0).map(|()| value.into())
    }
    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        self.weigh(0).map(|()| value.into())
    }
    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        self.weigh(value.len()).map(|()| value.into())
    }
    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        self.weigh(0).map(|()| Value::Null)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(inner)? {
            list.push(item);
        }
        Ok(list.into())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut map = Map::new();
        while let Some(name) = fields.next_key_seed(Name)? {
            inner.weigh(name.len())?;
            let value = fields.next_value_seed(inner)?;
            map.insert(name, value);
        }
        Ok(map.into())
    }
}

/// The name of a field. YAML may write one as a number or as true.
pub(crate) struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = String;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for Name {
    type Value = String;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }
    fn visit_str<E>(self, name: &str) -> Result<String, E> {
        Ok(name.to_owned())
    }
    fn visit_i64<E>(self, name: i64) -> Result<String, E> {
        Ok(name.to_string())
    }
    fn visit_u64<E>(self, name: u64) -> Result<String, E> {
        Ok(name.to_string())
    }
    fn visit_bool<E>(self, name: bool) -> Result<String, E> {
        Ok(name.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Result<Value, serde_json::Error> {
        read(&mut serde_json::Deserializer::from_str(text))
    }

    #[test]
    fn a_document_is_read_as_it_is() {
        let text = r#"{"a":[1,-2,1.5,null,true,"x"],"b":{}}"#;
        assert_eq!(json(text).unwrap(), serde_json::from_str::<Value>(text).unwrap());
    }

    #[test]
    fn nesting_and_size_are_bounded() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(json(&nested(MAX_DEPTH)).is_ok());
        assert!(
            json(&nested(MAX_DEPTH + 1)).unwrap_err().to_string().starts_with("exceeded max depth of 100")
        );
        assert!(json(&format!("[{}0]", "0,".repeat(2 << 20))).is_err());
    }
}
