//! What a strict decoder remarks about a text: fields that its schema has not, and fields that are named twice.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::Schema;
use super::strict::is_free;

/// Remarks that are made about one text at most.
const MAX_FAULTS: usize = 100;
/// Lines that are told of a YAML text at most, since each takes another reading.
const MAX_LINES: usize = 16;

/// Texts such as `unknown field "spec.foo"` and `duplicate field "spec.x"` about a JSON text, in its order and each
/// once. Without a schema every field is known. Text that is no JSON has none: its fault is found by the decoder.
pub fn json_faults(schema: Option<&Schema>, json: &[u8]) -> Vec<String> {
    let mut faults = Faults::default();
    let mut text = serde_json::Deserializer::from_slice(json);
    match (Walk { schema, faults: &mut faults }).deserialize(&mut text) {
        Ok(()) => faults.found,
        Err(_) => Vec::new(),
    }
}

/// The keys that occur twice in one map of a YAML text, as the reader of YAML tells them: a line each, which is that of
/// the value. `None` if there are none.
pub fn yaml_faults(yaml: &[u8]) -> Option<String> {
    let mut text = String::from("yaml: unmarshal errors:");
    let mut found = 0;
    while found < MAX_LINES {
        let mut search = Search { left: found, key: None };
        let outcome = Keys(&mut search).deserialize(serde_yaml_ng::Deserializer::from_slice(yaml));
        let (Err(error), Some(key)) = (outcome, search.key) else { break };
        let line = error.location().map_or(1, |location| location.line());
        text.push_str(&format!("\n  line {line}: key {key:?} already set in map"));
        found += 1;
    }
    (found > 0).then_some(text)
}

#[derive(Default)]
struct Faults {
    path: String,
    found: Vec<String>,
}

impl Faults {
    fn add(&mut self, what: &str) {
        let text = format!("{what} field {:?}", self.path);
        if self.found.len() < MAX_FAULTS && !self.found.contains(&text) {
            self.found.push(text);
        }
    }
}

/// Goes through a value of a schema.
struct Walk<'a> {
    schema: Option<&'a Schema>,
    faults: &'a mut Faults,
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let schema = self.schema.and_then(|schema| schema.items.as_deref());
        let length = self.faults.path.len();
        for at in 0.. {
            self.faults.path.push_str(&format!("[{at}]"));
            let item = items.next_element_seed(Walk { schema, faults: &mut *self.faults })?;
            self.faults.path.truncate(length);
            if item.is_none() {
                break;
            }
        }
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        let length = self.faults.path.len();
        while let Some(name) = fields.next_key::<String>()? {
            if length > 0 {
                self.faults.path.push('.');
            }
            self.faults.path.push_str(&name);
            let field = self.schema.and_then(|schema| schema.field(&name));
            if field.is_none() && self.schema.is_some_and(|schema| !is_free(schema)) {
                self.faults.add("unknown");
                fields.next_value::<IgnoredAny>()?;
            } else {
                if !seen.insert(name) {
                    self.faults.add("duplicate");
                }
                fields
                    .next_value_seed(Walk { schema: field.map(AsRef::as_ref), faults: &mut *self.faults })?;
            }
            self.faults.path.truncate(length);
        }
        Ok(())
    }
}

/// Looks for a key that occurs twice.
struct Search {
    /// How many are passed by.
    left: usize,
    /// The one that was found, at whose value reading ended.
    key: Option<String>,
}

struct Keys<'a>(&'a mut Search);

impl<'de> DeserializeSeed<'de> for Keys<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Keys<'_> {
    /// Ends the reading at the value of the key that was looked for.
    fn scalar<E: Error>(self) -> Result<(), E> {
        match self.0.key {
            Some(_) => Err(E::custom("found")),
            None => Ok(()),
        }
    }
}

impl<'de> Visitor<'de> for Keys<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("YAML")
    }
    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        self.scalar()
    }
    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        self.scalar()
    }
    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        self.scalar()
    }
    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.scalar()
    }
    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        self.scalar()
    }
    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.scalar()
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        if self.0.key.is_some() {
            return Err(A::Error::custom("found"));
        }
        while items.next_element_seed(Keys(&mut *self.0))?.is_some() {}
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        if self.0.key.is_some() {
            return Err(A::Error::custom("found"));
        }
        let mut seen = HashSet::new();
        while let Some(name) = fields.next_key_seed(crate::document::Name)? {
            if seen.contains(&name) {
                match self.0.left {
                    0 => self.0.key = Some(name),
                    _ => self.0.left -= 1,
                }
            } else {
                seen.insert(name);
            }
            fields.next_value_seed(Keys(&mut *self.0))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::GroupVersionKind;

    #[test]
    fn unknown_and_duplicate_fields_are_told_in_the_order_of_the_text() {
        let pod = Schema::builtin(&GroupVersionKind::new("", "v1", "Pod")).unwrap();
        let text = br#"{"kind":"Pod","spec":{"x":{"a":1,"a":2},"hostPID":true,"x":1,"hostPID":false,
            "containers":[{"imagee":"b"}]},"metadata":{"labels":{"a":"1","a":"2"}}}"#;
        assert_eq!(
            json_faults(Some(&pod), text),
            [
                r#"unknown field "spec.x""#,
                r#"duplicate field "spec.hostPID""#,
                r#"unknown field "spec.containers[0].imagee""#,
                r#"duplicate field "metadata.labels.a""#,
            ]
        );
        assert_eq!(json_faults(None, br#"{"x":{"a":1,"a":2}}"#), [r#"duplicate field "x.a""#]);
        assert!(json_faults(None, b"{").is_empty());
    }

    #[test]
    fn keys_of_yaml_that_occur_twice_are_told_by_the_lines_of_their_values() {
        let text = b"kind: ConfigMap\ndata: {}\nkind: b\nspec:\n  x: 1\n  x: 2\ndata:\n  y: 1\n";
        assert_eq!(
            yaml_faults(text).unwrap(),
            "yaml: unmarshal errors:\n  line 3: key \"kind\" already set in map\n  line 6: key \"x\" already set in map\n  line 8: key \"data\" already set in map"
        );
        assert_eq!(yaml_faults(b"a: 1\nb: [{a: 1}, {a: 2}]\n"), None);
        assert_eq!(yaml_faults(b"a: ["), None);
    }
}
