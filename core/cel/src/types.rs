//! The types of expressions, and when one may stand for another.

use std::fmt;
use std::sync::Arc;

use crate::declaration::ObjectType;

/// The type of an expression.
#[derive(Clone, Debug, PartialEq)]
pub enum Type {
    /// Anything: what it is shows at run time.
    Dyn,
    /// The value null.
    Null,
    /// True or false.
    Bool,
    /// A signed number of 64 bits.
    Int,
    /// An unsigned number of 64 bits.
    Uint,
    /// A floating-point number.
    Double,
    /// A text.
    String,
    /// Bytes.
    Bytes,
    /// A point in time.
    Timestamp,
    /// A span of time.
    Duration,
    /// A list.
    List(Arc<Type>),
    /// A map, by the types of its keys and values.
    Map(Arc<(Type, Type)>),
    /// A value that may be missing.
    Optional(Arc<Type>),
    /// A type.
    Type,
    /// A value that only functions look into, such as a quantity.
    Opaque(&'static str),
    /// A document with named fields.
    Object(Arc<ObjectType>),
    /// A type that is found out; only inside of the checker and of signatures.
    Param(usize),
}

impl Type {
    /// The type of lists of a type.
    pub fn list(item: Type) -> Self {
        Self::List(Arc::new(item))
    }

    /// The type of maps.
    pub fn map(key: Type, value: Type) -> Self {
        Self::Map(Arc::new((key, value)))
    }

    /// The type of optional values.
    pub fn optional(value: Type) -> Self {
        Self::Optional(Arc::new(value))
    }

    /// The name by which a type is told from another where both are named; that of faults of expressions is shorter.
    pub fn full_name(&self) -> String {
        match self {
            Self::Null => "null_type".to_owned(),
            Self::Timestamp => "google.protobuf.Timestamp".to_owned(),
            Self::Duration => "google.protobuf.Duration".to_owned(),
            Self::List(item) => format!("list({})", item.full_name()),
            Self::Map(entry) => format!("map({}, {})", entry.0.full_name(), entry.1.full_name()),
            Self::Optional(value) => format!("optional_type({})", value.full_name()),
            Self::Object(object) => object.name.clone(),
            Self::Dyn
            | Self::Bool
            | Self::Int
            | Self::Uint
            | Self::Double
            | Self::String
            | Self::Bytes
            | Self::Type
            | Self::Opaque(_)
            | Self::Param(_) => self.to_string(),
        }
    }

    /// The type of objects that an expression makes, such as `Object` or `JSONPatch`.
    pub fn message(name: &str) -> Self {
        Self::Object(Arc::new(ObjectType { name: name.to_owned(), ..ObjectType::default() }))
    }

    /// Whether null may stand for a value of this type.
    fn takes_null(&self) -> bool {
        matches!(
            self,
            Self::Null
                | Self::Timestamp
                | Self::Duration
                | Self::Opaque(_)
                | Self::Object(_)
                | Self::Optional(_)
        )
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dyn => f.write_str("dyn"),
            Self::Null => f.write_str("null"),
            Self::Bool => f.write_str("bool"),
            Self::Int => f.write_str("int"),
            Self::Uint => f.write_str("uint"),
            Self::Double => f.write_str("double"),
            Self::String => f.write_str("string"),
            Self::Bytes => f.write_str("bytes"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::Duration => f.write_str("duration"),
            Self::Type => f.write_str("type"),
            Self::List(item) => write!(f, "list({item})"),
            Self::Map(entry) => write!(f, "map({}, {})", entry.0, entry.1),
            Self::Optional(value) => write!(f, "optional_type({value})"),
            Self::Opaque(name) => f.write_str(name),
            Self::Object(object) => f.write_str(&object.name),
            Self::Param(index) => write!(f, "_var{index}"),
        }
    }
}

/// What has been found out about parameters.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bound(Vec<Option<Type>>);

impl Bound {
    /// A parameter of which nothing is known yet.
    pub(crate) fn fresh(&mut self) -> Type {
        self.0.push(None);
        Type::Param(self.0.len() - 1)
    }

    /// A signature's type, with its parameters `0..` replaced by those that begin at `base`.
    pub(crate) fn instance(ty: &Type, base: usize) -> Type {
        match ty {
            Type::Param(index) => Type::Param(base + index),
            Type::List(item) => Type::list(Self::instance(item, base)),
            Type::Map(entry) => Type::map(Self::instance(&entry.0, base), Self::instance(&entry.1, base)),
            Type::Optional(value) => Type::optional(Self::instance(value, base)),
            other => other.clone(),
        }
    }

    /// Makes room for parameters; the number of the first.
    pub(crate) fn reserve(&mut self, count: usize) -> usize {
        let base = self.0.len();
        self.0.resize(base + count, None);
        base
    }

    /// The type with all that is known filled in; what is unknown becomes anything if so asked.
    pub(crate) fn resolve(&self, ty: &Type, to_dyn: bool) -> Type {
        match ty {
            Type::Param(index) => match self.0.get(*index) {
                Some(Some(found)) => self.resolve(found, to_dyn),
                _ if to_dyn => Type::Dyn,
                _ => ty.clone(),
            },
            Type::List(item) => Type::list(self.resolve(item, to_dyn)),
            Type::Map(entry) => Type::map(self.resolve(&entry.0, to_dyn), self.resolve(&entry.1, to_dyn)),
            Type::Optional(value) => Type::optional(self.resolve(value, to_dyn)),
            other => other.clone(),
        }
    }

    fn occurs(&self, index: usize, ty: &Type) -> bool {
        match self.resolve(ty, false) {
            Type::Param(other) => other == index,
            Type::List(item) => self.occurs(index, &item),
            Type::Map(entry) => self.occurs(index, &entry.0) || self.occurs(index, &entry.1),
            Type::Optional(value) => self.occurs(index, &value),
            _ => false,
        }
    }

    /// Whether a value of type `from` may stand where `to` is wanted; parameters are bound so that it may.
    pub(crate) fn assign(&mut self, to: &Type, from: &Type) -> bool {
        let before = self.0.clone();
        let fits = self.try_assign(to, from);
        if !fits {
            self.0 = before;
        }
        fits
    }

    fn try_assign(&mut self, to: &Type, from: &Type) -> bool {
        let (to, from) = (self.shallow(to), self.shallow(from));
        match (&to, &from) {
            (Type::Param(left), Type::Param(right)) if left == right => true,
            (Type::Param(index), other) | (other, Type::Param(index)) => {
                if self.occurs(*index, other) {
                    return false;
                }
                self.0[*index] = Some(other.clone());
                true
            }
            (Type::Dyn, _) | (_, Type::Dyn) => true,
            (Type::Null, other) | (other, Type::Null) if other.takes_null() => true,
            (Type::List(left), Type::List(right)) | (Type::Optional(left), Type::Optional(right)) => {
                self.try_assign(left, right)
            }
            (Type::Map(left), Type::Map(right)) => {
                self.try_assign(&left.0, &right.0) && self.try_assign(&left.1, &right.1)
            }
            (left, right) => left == right,
        }
    }

    fn shallow(&self, ty: &Type) -> Type {
        let mut ty = ty;
        while let Type::Param(index) = ty {
            match self.0.get(*index) {
                Some(Some(found)) => ty = found,
                _ => break,
            }
        }
        ty.clone()
    }
}
