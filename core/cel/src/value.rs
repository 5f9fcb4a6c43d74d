//! The values of expressions. What comes from a document is read where it is looked at, and not before.

mod compare;
mod json;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use keelson_api::schema::ListType;
use serde_json::Value as Json;

use crate::authorizer::AuthorizerValue;
use crate::declaration::{Declaration, ObjectType};
use crate::error::EvalError;
use crate::quantity::Quantity;
use crate::types::Type;

pub(crate) use compare::{compare, equal};
pub(crate) use json::{duration_text, parse_timestamp, read};

/// A value.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    /// Null.
    Null,
    /// True or false.
    Bool(bool),
    /// A signed number.
    Int(i64),
    /// An unsigned number.
    Uint(u64),
    /// A floating-point number.
    Double(f64),
    /// A text.
    String(Text<'a>),
    /// Bytes.
    Bytes(Arc<[u8]>),
    /// A point in time.
    Timestamp(Timestamp),
    /// A span of time, in nanoseconds.
    Duration(i64),
    /// A list.
    List(List<'a>),
    /// A map, or an object.
    Map(Map<'a>),
    /// A value that may be missing.
    Optional(Option<Arc<Value<'a>>>),
    /// A type.
    Type(Type),
    /// A value that only functions look into.
    Opaque(Opaque<'a>),
}

/// A text, of the document or of the expression.
#[derive(Clone, Debug)]
pub enum Text<'a> {
    /// Another's.
    Borrowed(&'a str),
    /// Made by the expression.
    Owned(Arc<str>),
}

impl Text<'_> {
    /// The text.
    pub fn as_str(&self) -> &str {
        match self {
            Text::Borrowed(text) => text,
            Text::Owned(text) => text,
        }
    }
}

/// A list.
#[derive(Clone, Debug)]
pub enum List<'a> {
    /// A list of a document, with what is known of its items.
    Json(&'a [Json], &'a Declaration, &'a ListType),
    /// A list that the expression made.
    Owned(Arc<Vec<Value<'a>>>),
}

/// A map or an object.
#[derive(Clone, Debug)]
pub enum Map<'a> {
    /// A map of a document, with what is known of its values.
    Json(&'a serde_json::Map<String, Json>, &'a Declaration),
    /// An object of a document.
    Object(&'a serde_json::Map<String, Json>, &'a ObjectType),
    /// A map that the expression made.
    Owned(Arc<BTreeMap<Key, Value<'a>>>),
    /// An object that the expression made.
    Message(Arc<Message<'a>>),
    /// Fields that are computed when they are looked at.
    Lazy(&'a dyn Fields<'a>),
}

/// An object that an expression made, such as `Object{spec: Object.spec{replicas: 1}}`.
#[derive(Clone, Debug)]
pub struct Message<'a> {
    /// The type's name.
    pub name: String,
    /// The fields that were set.
    pub fields: BTreeMap<String, Value<'a>>,
}

impl Message<'_> {
    fn misnamed(&self, path: &str, found: &mut Vec<String>) {
        if self.name != path {
            found.push(format!(
                "unexpected type name {:?}, expected {path:?}, which matches field name path from root Object type",
                self.name
            ));
        }
        for (field, value) in &self.fields {
            value.misnamed_below(&format!("{path}.{field}"), found);
        }
    }
}

/// Fields that are computed when they are looked at.
pub trait Fields<'a>: Send + Sync + std::fmt::Debug {
    /// The field of a name; `None` where there is none.
    fn field(&'a self, name: &str) -> Option<Result<Value<'a>, EvalError>>;

    /// The names of those that are told one by one.
    fn names(&self) -> Vec<Arc<str>> {
        Vec::new()
    }
}

/// The key of a map.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// True or false.
    Bool(bool),
    /// A number; unsigned ones are the same keys.
    Number(i128),
    /// A text.
    Text(Arc<str>),
}

/// A value that only functions look into.
#[derive(Clone, Debug)]
pub enum Opaque<'a> {
    /// A quantity.
    Quantity(Quantity),
    /// A version.
    Semver(Arc<semver::Version>),
    /// An address.
    Ip(std::net::IpAddr),
    /// A network with an address in it.
    Cidr(ipnet::IpNet),
    /// A URL.
    Url(Arc<url::Url>),
    /// The format of a text.
    Format(crate::functions::Format),
    /// A question to the authorizer, or its answer.
    Authorizer(AuthorizerValue<'a>),
}

impl Opaque<'_> {
    fn type_name(&self) -> &'static str {
        match self {
            Opaque::Quantity(_) => "kubernetes.Quantity",
            Opaque::Semver(_) => "kubernetes.Semver",
            Opaque::Ip(_) => "net.IP",
            Opaque::Cidr(_) => "net.CIDR",
            Opaque::Url(_) => "kubernetes.URL",
            Opaque::Format(_) => "kubernetes.NamedFormat",
            Opaque::Authorizer(value) => value.type_name(),
        }
    }
}

impl<'a> Value<'a> {
    /// A value of a document, as it was declared.
    pub fn from_json(json: &'a Json, declaration: &'a Declaration) -> Self {
        read(json, declaration)
    }

    /// A value of a document of which nothing is known.
    pub fn dynamic(json: &'a Json) -> Self {
        read(json, &crate::declaration::DYNAMIC)
    }

    /// A text.
    pub fn text(text: impl Into<Arc<str>>) -> Self {
        Value::String(Text::Owned(text.into()))
    }

    /// A list.
    pub fn list(items: Vec<Value<'a>>) -> Self {
        Value::List(List::Owned(Arc::new(items)))
    }

    /// An optional value.
    pub fn optional(value: Option<Value<'a>>) -> Self {
        Value::Optional(value.map(Arc::new))
    }

    /// Whether it is the value true.
    pub fn is_true(&self) -> bool {
        matches!(self, Value::Bool(true))
    }

    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        }
    }

    /// The type that it has at run time.
    pub fn type_of(&self) -> Type {
        match self {
            Value::Null => Type::Null,
            Value::Bool(_) => Type::Bool,
            Value::Int(_) => Type::Int,
            Value::Uint(_) => Type::Uint,
            Value::Double(_) => Type::Double,
            Value::String(_) => Type::String,
            Value::Bytes(_) => Type::Bytes,
            Value::Timestamp(_) => Type::Timestamp,
            Value::Duration(_) => Type::Duration,
            Value::List(_) => Type::list(Type::Dyn),
            Value::Map(Map::Message(message)) => Type::message(&message.name),
            Value::Map(Map::Object(_, object)) => Type::message(&object.name),
            Value::Map(_) => Type::map(Type::Dyn, Type::Dyn),
            Value::Optional(_) => Type::optional(Type::Dyn),
            Value::Type(_) => Type::Type,
            Value::Opaque(opaque) => Type::Opaque(opaque.type_name()),
        }
    }

    /// The objects in an object that the expression made whose types are not named after the fields that lead to them.
    /// Lists and maps between have no names.
    pub fn misnamed(&self) -> Vec<String> {
        let mut found = Vec::new();
        if let Value::Map(Map::Message(message)) = self {
            message.misnamed(&message.name, &mut found);
        }
        found
    }

    fn misnamed_below(&self, path: &str, found: &mut Vec<String>) {
        // What is of a document has no such objects in it.
        if let Value::Map(Map::Message(message)) = self {
            message.misnamed(path, found);
        } else if let Value::Map(Map::Owned(entries)) = self {
            entries.values().for_each(|value| value.misnamed_below(path, found));
        } else if let Value::List(List::Owned(items)) = self {
            items.iter().for_each(|item| item.misnamed_below(path, found));
        }
    }

    /// The number of characters, bytes, items or entries; 1 for everything else. This is the size by which work is
    /// measured.
    pub(crate) fn size(&self) -> u64 {
        let size = match self {
            Value::String(text) => text.as_str().len(),
            Value::Bytes(bytes) => bytes.len(),
            Value::List(list) => list.len(),
            Value::Map(map) => map.len(),
            Value::Opaque(Opaque::Cidr(cidr)) => usize::from(cidr.max_prefix_len()) / 8,
            Value::Opaque(Opaque::Ip(ip)) => {
                if ip.is_ipv4() {
                    4
                } else {
                    16
                }
            }
            _ => 1,
        };
        u64::try_from(size).unwrap_or(u64::MAX)
    }
}

impl<'a> List<'a> {
    /// The number of items.
    pub fn len(&self) -> usize {
        match self {
            List::Json(items, ..) => items.len(),
            List::Owned(items) => items.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// An item.
    pub fn get(&self, index: usize) -> Option<Value<'a>> {
        match self {
            List::Json(items, declaration, _) => items.get(index).map(|item| read(item, declaration)),
            List::Owned(items) => items.get(index).cloned(),
        }
    }

    /// The items.
    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> + '_ {
        (0..self.len()).filter_map(|index| self.get(index))
    }
}

impl<'a> Map<'a> {
    /// The number of entries.
    pub fn len(&self) -> usize {
        match self {
            Map::Json(fields, _) | Map::Object(fields, _) => fields.len(),
            Map::Owned(entries) => entries.len(),
            Map::Message(message) => message.fields.len(),
            Map::Lazy(_) => 1,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of a field or of a text key.
    pub fn field(&self, name: &str) -> Result<Option<Value<'a>>, EvalError> {
        Ok(match self {
            Map::Json(fields, declaration) => fields.get(name).map(|value| read(value, declaration)),
            Map::Object(fields, object) => match object.fields.get(name) {
                // Null is taken for a missing field.
                Some(field) => {
                    let value = fields.get(&field.name).filter(|value| !value.is_null());
                    value.map(|value| read(value, &field.declaration))
                }
                None => None,
            },
            Map::Owned(entries) => entries.get(&Key::Text(name.into())).cloned(),
            Map::Message(message) => message.fields.get(name).cloned(),
            Map::Lazy(fields) => {
                let fields: &'a dyn Fields<'a> = *fields;
                fields.field(name).transpose()?
            }
        })
    }

    /// The value of a key.
    pub fn get(&self, key: &Key) -> Result<Option<Value<'a>>, EvalError> {
        match (self, key) {
            (Map::Owned(entries), key) => Ok(entries.get(key).cloned()),
            (map, Key::Text(name)) => map.field(name),
            _ => Ok(None),
        }
    }

    /// The keys.
    pub fn keys(&self) -> Vec<Key> {
        match self {
            Map::Json(fields, _) => fields.keys().map(|name| Key::Text(name.as_str().into())).collect(),
            Map::Object(fields, object) => {
                let is_set = |name: &str| fields.get(name).is_some_and(|value| !value.is_null());
                let known = object.fields.iter().filter(|(_, field)| is_set(&field.name));
                known.map(|(name, _)| Key::Text(name.as_str().into())).collect()
            }
            Map::Owned(entries) => entries.keys().cloned().collect(),
            Map::Message(message) => {
                message.fields.keys().map(|name| Key::Text(name.as_str().into())).collect()
            }
            Map::Lazy(fields) => fields.names().into_iter().map(Key::Text).collect(),
        }
    }

    /// The entries.
    pub(crate) fn entries(&self) -> Result<Vec<(Key, Value<'a>)>, EvalError> {
        let keys = self.keys().into_iter();
        keys.filter_map(|key| match self.get(&key) {
            Ok(value) => value.map(|value| Ok((key, value))),
            Err(error) => Some(Err(error)),
        })
        .collect()
    }
}

impl Key {
    /// The key that a value is.
    pub(crate) fn of(value: &Value<'_>) -> Option<Self> {
        match value {
            Value::Bool(it) => Some(Key::Bool(*it)),
            Value::Int(it) => Some(Key::Number(i128::from(*it))),
            Value::Uint(it) => Some(Key::Number(i128::from(*it))),
            #[allow(clippy::cast_possible_truncation)]
            Value::Double(it) if it.fract() == 0.0 && it.abs() < 1e18 => Some(Key::Number(*it as i128)),
            Value::String(text) => Some(Key::Text(text.as_str().into())),
            _ => None,
        }
    }

    /// The value that the key is.
    pub(crate) fn value<'a>(&self) -> Value<'a> {
        match self {
            Key::Bool(it) => Value::Bool(*it),
            Key::Number(it) => match i64::try_from(*it) {
                Ok(it) => Value::Int(it),
                Err(_) => Value::Uint(u64::try_from(*it).unwrap_or_default()),
            },
            Key::Text(text) => Value::String(Text::Owned(Arc::clone(text))),
        }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Key::Bool(it) => write!(f, "{it}"),
            Key::Number(it) => write!(f, "{it}"),
            Key::Text(it) => f.write_str(it),
        }
    }
}
