//! What is known of a variable before it has a value: its type, its fields, and how large it may be.

use std::collections::BTreeMap;
use std::sync::Arc;

use keelson_api::Schema;
use keelson_api::names::CEL_RESERVED;
use keelson_api::schema::{ListType, SchemaType};

use crate::types::Type;

/// The size in bytes of the largest request, which bounds whatever no schema bounds.
const MAX_REQUEST: u64 = 3 * 1024 * 1024;

/// The declaration of a value that is read from a document.
#[derive(Clone, Debug, PartialEq)]
pub struct Declaration {
    /// The type in expressions.
    pub ty: Type,
    /// How the document's value is read.
    pub shape: Shape,
    /// The largest number of bytes, items or entries; `None` where nothing bounds it.
    pub max: Option<u64>,
    /// The least number of bytes that the value takes in a request.
    pub least: u64,
}

/// How a document's value is read.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    /// By its JSON type.
    Dynamic,
    /// As the type says.
    Scalar,
    /// A list: its items, and when two lists are equal.
    List(Arc<Declaration>, ListType),
    /// A map, by its values.
    Map(Arc<Declaration>),
    /// Named fields.
    Object(Arc<ObjectType>),
}

/// An object's type.
#[derive(Clone, Debug, Default)]
pub struct ObjectType {
    /// Its name in messages.
    pub name: String,
    /// Its fields, by their name in expressions.
    pub fields: BTreeMap<String, Field>,
}

impl PartialEq for ObjectType {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

/// A field of an object.
#[derive(Clone, Debug)]
pub struct Field {
    /// Its name in the document.
    pub name: String,
    /// What is known of it.
    pub declaration: Arc<Declaration>,
}

pub(crate) static DYNAMIC: Declaration =
    Declaration { ty: Type::Dyn, shape: Shape::Dynamic, max: None, least: 1 };

impl Declaration {
    /// A value of which nothing is known.
    pub fn dynamic() -> Arc<Self> {
        Arc::new(DYNAMIC.clone())
    }

    /// A value of a simple or opaque type.
    pub fn of(ty: Type) -> Arc<Self> {
        let shape = if ty == Type::Dyn { Shape::Dynamic } else { Shape::Scalar };
        Arc::new(Self { ty, shape, max: None, least: 1 })
    }

    /// A list.
    pub fn list(items: Arc<Self>) -> Arc<Self> {
        let ty = Type::list(items.ty.clone());
        Arc::new(Self { ty, shape: Shape::List(items, ListType::Atomic), max: None, least: 2 })
    }

    /// A map with texts for keys.
    pub fn map(values: Arc<Self>) -> Arc<Self> {
        let ty = Type::map(Type::String, values.ty.clone());
        Arc::new(Self { ty, shape: Shape::Map(values), max: None, least: 2 })
    }

    /// An object with these fields, which expressions call by their names as they are.
    pub fn object(name: &str, fields: impl IntoIterator<Item = (String, Arc<Self>)>) -> Arc<Self> {
        let fields =
            fields.into_iter().map(|(name, declaration)| (name.clone(), Field { name, declaration }));
        Arc::new(Self::from_object(ObjectType { name: name.to_owned(), fields: fields.collect() }, 2))
    }

    fn from_object(object: ObjectType, least: u64) -> Self {
        let object = Arc::new(object);
        Self { ty: Type::Object(Arc::clone(&object)), shape: Shape::Object(object), max: None, least }
    }

    /// What a schema says of a value; `None` where it says too little for an expression to look at the value. A root is
    /// a whole object, of which apiVersion, kind and the names in metadata can be seen. `name` is the type's name.
    pub fn from_schema(schema: &Schema, is_root: bool, name: &str) -> Option<Arc<Self>> {
        from_schema(schema, is_root, name).map(Arc::new)
    }
}

fn size(bound: Option<usize>) -> Option<u64> {
    bound.and_then(|bound| u64::try_from(bound).ok())
}

fn from_schema(schema: &Schema, is_root: bool, name: &str) -> Option<Declaration> {
    let limits = schema.constraints.as_deref();
    let scalar = |ty: Type, least: u64| Declaration { ty, shape: Shape::Scalar, max: None, least };
    match schema.kind {
        SchemaType::Any if is_root => Some(object(schema, is_root, name)),
        SchemaType::Any => None,
        SchemaType::IntOrString => Some(Declaration { max: Some(MAX_REQUEST - 2), ..DYNAMIC.clone() }),
        SchemaType::Boolean => Some(scalar(Type::Bool, 4)),
        SchemaType::Integer => Some(scalar(Type::Int, 1)),
        SchemaType::Number => Some(scalar(Type::Double, 1)),
        SchemaType::String => Some(text(schema)),
        SchemaType::Array => {
            let items = schema.items.as_deref()?;
            let items = from_schema(items, items.embedded, &format!("{name}.@idx"))?;
            let max = limits.and_then(|limits| size(limits.max_items));
            let max = max.unwrap_or((MAX_REQUEST - 2) / (items.least + 1));
            let ty = Type::list(items.ty.clone());
            let shape = Shape::List(Arc::new(items), schema.list.clone());
            Some(Declaration { ty, shape, max: Some(max), least: 2 })
        }
        SchemaType::Object => match schema.additional.as_deref() {
            Some(values) => {
                let values = from_schema(values, values.embedded, &format!("{name}.@elem"))?;
                let max = limits.and_then(|limits| size(limits.max_properties));
                let max = max.unwrap_or(MAX_REQUEST / (values.least + 6));
                let ty = Type::map(Type::String, values.ty.clone());
                Some(Declaration { ty, shape: Shape::Map(Arc::new(values)), max: Some(max), least: 2 })
            }
            None => Some(object(schema, is_root, name)),
        },
    }
}

fn text(schema: &Schema) -> Declaration {
    let longest = schema.constraints.as_deref().and_then(|limits| size(limits.max_length));
    let (ty, max, least) = match schema.format.as_deref() {
        Some("byte") => (Type::Bytes, longest.unwrap_or(MAX_REQUEST - 2), 2),
        // A duration such as 1h2m3s is at least `"0s"`, a date `"2006-01-02"`.
        Some("duration") => (Type::Duration, MAX_REQUEST - 2, 2),
        Some("date") => (Type::Timestamp, 10, 12),
        Some("date-time" | "datetime") => (Type::Timestamp, 30, 22),
        _ => {
            let listed =
                schema.values.iter().filter_map(|value| value.as_str()).map(|text| text.len() as u64);
            let max = match (longest, listed.max()) {
                // A character takes up to four bytes.
                (Some(length), _) => length.saturating_mul(4),
                (None, Some(length)) => length,
                (None, None) => MAX_REQUEST - 2,
            };
            (Type::String, max, 2)
        }
    };
    Declaration { ty, shape: Shape::Scalar, max: Some(max), least }
}

fn object(schema: &Schema, is_root: bool, name: &str) -> Declaration {
    let mut fields = BTreeMap::new();
    let mut least = 2;
    for (own, property) in &schema.properties {
        let below = format!("{name}.{own}");
        let declared = match own.as_str() {
            "metadata" if is_root => Some(metadata(&below)),
            _ => from_schema(property, property.embedded, &below),
        };
        let (Some(declaration), Some(escaped)) = (declared, escape(own)) else { continue };
        if schema.required.contains(own) && property.default.is_none() {
            least += own.len() as u64 + declaration.least + 4;
        }
        fields.insert(escaped, Field { name: own.clone(), declaration: Arc::new(declaration) });
    }
    Declaration::from_object(ObjectType { name: name.to_owned(), fields }, least)
}

/// Of metadata, expressions see the names alone.
fn metadata(name: &str) -> Declaration {
    let text = Declaration { ty: Type::String, shape: Shape::Scalar, max: Some(MAX_REQUEST - 2), least: 2 };
    let text = Arc::new(text);
    let fields = ["name", "generateName"]
        .map(|own| (own.to_owned(), Field { name: own.to_owned(), declaration: Arc::clone(&text) }));
    Declaration::from_object(ObjectType { name: name.to_owned(), fields: fields.into() }, 2)
}

/// The name that a field has in expressions; `None` where it can have none.
pub fn escape(name: &str) -> Option<String> {
    if CEL_RESERVED.contains(&name) {
        return Some(format!("__{name}__"));
    }
    let first = name.chars().next()?;
    if first.is_ascii_digit()
        || !name.chars().all(|it| it.is_ascii_alphanumeric() || matches!(it, '_' | '.' | '-' | '/'))
    {
        return None;
    }
    let name = name.replace("__", "__underscores__");
    Some(name.replace('.', "__dot__").replace('-', "__dash__").replace('/', "__slash__"))
}
