//! Labels in little memory.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

/// What a label selector looks at.
pub trait LabelSet {
    /// The value of a label.
    fn label(&self, key: &str) -> Option<&str>;
}

impl LabelSet for Map<String, Value> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }
}

/// An object's labels as one text, `a=b,c=d`: neither keys nor values hold these signs. A map of them takes ten times the
/// memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(Box<str>);

impl Labels {
    /// Each label with its value.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.split(',').filter_map(|label| label.split_once('='))
    }

    /// The value of a label.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.iter().find_map(|(known, value)| (known == key).then_some(value))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As they stand in a document.
    pub fn to_map(&self) -> Map<String, Value> {
        self.iter().map(|(key, value)| (key.to_owned(), value.into())).collect()
    }
}

impl LabelSet for Labels {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key)
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;

        impl<'de> Visitor<'de> for Read {
            type Value = Labels;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of labels")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Labels, A::Error> {
                let mut text = String::new();
                while let Some(key) = map.next_key::<String>()? {
                    let Value::String(value) = map.next_value()? else { continue };
                    if !text.is_empty() {
                        text.push(',');
                    }
                    text += &key;
                    text.push('=');
                    text += &value;
                }
                Ok(Labels(text.into()))
            }

            fn visit_unit<E>(self) -> Result<Labels, E> {
                Ok(Labels::default())
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Labels, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Labels::default())
            }
        }

        deserializer.deserialize_any(Read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Labels {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn labels_are_found_by_their_whole_key() {
        let labels = read(r#"{"app": "web", "example.com/app": "x", "empty": ""}"#);
        assert_eq!(labels.get("app"), Some("web"));
        assert_eq!(labels.get("example.com/app"), Some("x"));
        assert_eq!(labels.get("empty"), Some(""));
        assert_eq!((labels.get("ap"), labels.get("")), (None, None));
        assert_eq!(
            labels.to_map(),
            *serde_json::json!({"app": "web", "example.com/app": "x", "empty": ""}).as_object().unwrap()
        );
    }

    #[test]
    fn a_document_without_labels_has_none() {
        assert!(read("{}").is_empty() && read("null").is_empty() && read("[1]").is_empty());
        assert_eq!(read("{}").iter().count(), 0);
    }
}
