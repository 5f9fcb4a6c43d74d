//! The messages of the protocol, from generated data that is read when it is first asked for.

use std::collections::HashMap;
use std::io::Read;
use std::sync::OnceLock;

use smallvec::SmallVec;

/// `{MESSAGE: {TAG: [JSON NAME, TYPE, MESSAGE, KEEPS ZERO]}}`, gzip.
static DATA: &[u8] = include_bytes!("../../data/protobuf.json.gz");

/// A field as the data has it: JSON name, type, message, whether its zero is kept.
type Row = (String, String, Option<String>, bool);

/// All messages.
pub(super) struct Table {
    names: HashMap<Box<str>, usize>,
    messages: Vec<Layout>,
}

/// One message.
pub(super) struct Layout {
    pub(super) form: Form,
    /// By tag.
    fields: Vec<Field>,
    /// Places in `fields`, by the fields' JSON names.
    by_name: Vec<u16>,
}

/// One field.
pub(super) struct Field {
    pub(super) tag: u32,
    /// Empty for a message whose fields are the parent's.
    pub(super) json: Box<str>,
    pub(super) shape: Shape,
    pub(super) scalar: Scalar,
    /// Its zero was said.
    pub(super) keeps_zero: bool,
}

/// How many values a field has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    One,
    List,
    Map,
}

/// What a single value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scalar {
    Text,
    Bytes,
    Integer,
    Boolean,
    Double,
    Message(usize),
}

/// How JSON writes a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// As an object of its fields.
    Object,
    /// As a text of whole seconds.
    Time,
    /// As a text of microseconds.
    MicroTime,
    /// As a text.
    Quantity,
    /// As a number or a text.
    IntOrString,
    /// As whatever it is: the message holds JSON.
    Embedded,
    /// As a list: a type of its own, such as the values of `extra`.
    Items,
    /// As a schema or a boolean.
    SchemaOrBool,
    /// As a schema or a list of schemas.
    SchemaOrArray,
    /// As a schema or a list of names.
    SchemaOrNames,
}

/// A field found by its JSON name: the tags of the messages that it is embedded in, and itself.
pub(super) struct Found<'a> {
    pub(super) within: SmallVec<[u32; 2]>,
    pub(super) field: &'a Field,
}

impl Table {
    pub(super) fn get() -> &'static Self {
        static ALL: OnceLock<Table> = OnceLock::new();
        ALL.get_or_init(|| {
            let mut text = Vec::new();
            // The data is a part of the program; that it can be read is tested.
            let read = flate2::read::GzDecoder::new(DATA).read_to_end(&mut text);
            let rows = read.ok().and_then(|_| serde_json::from_slice(&text).ok());
            Table::new(rows.unwrap_or_default())
        })
    }

    fn new(rows: HashMap<String, HashMap<u32, Row>>) -> Self {
        let names: HashMap<Box<str>, usize> =
            rows.keys().enumerate().map(|(place, name)| (name.as_str().into(), place)).collect();
        let messages = rows.iter().map(|(name, rows)| Layout::new(name, rows, &names)).collect();
        Table { names, messages }
    }

    pub(super) fn layout(&self, message: usize) -> Option<&Layout> {
        self.messages.get(message)
    }

    /// The message of a kind: by its group's usual place, or among those that every group shares.
    pub(super) fn find(&self, api_version: &str, kind: &str) -> Option<usize> {
        let (group, version) = api_version.split_once('/').unwrap_or(("core", api_version));
        let short = group.split('.').next().unwrap_or(group);
        let place = match group {
            "apiextensions.k8s.io" => {
                format!("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.{version}.{kind}")
            }
            "apiregistration.k8s.io" => {
                format!("io.k8s.kube-aggregator.pkg.apis.apiregistration.{version}.{kind}")
            }
            "rbac.authorization.k8s.io" => format!("io.k8s.api.rbac.{version}.{kind}"),
            "flowcontrol.apiserver.k8s.io" => format!("io.k8s.api.flowcontrol.{version}.{kind}"),
            // Not every group is Kubernetes' own.
            _ if group == "core" || group.ends_with(".k8s.io") || !group.contains('.') => {
                format!("io.k8s.api.{short}.{version}.{kind}")
            }
            _ => String::new(),
        };
        let shared = || format!("io.k8s.apimachinery.pkg.apis.meta.v1.{kind}");
        let found = self.names.get(place.as_str()).copied();
        found.or_else(|| self.names.get(shared().as_str()).copied())
    }
}

impl Layout {
    fn new(name: &str, rows: &HashMap<u32, Row>, names: &HashMap<Box<str>, usize>) -> Self {
        let field = |(tag, row): (&u32, &Row)| {
            let (json, kind, message, keeps_zero) = row;
            let (shape, kind) = match kind.split_at(kind.len().saturating_sub(1)) {
                ("R", kind) => (Shape::List, kind),
                ("M", kind) => (Shape::Map, kind),
                (_, kind) => (Shape::One, kind),
            };
            let scalar = match kind {
                "s" => Scalar::Text,
                "i" => Scalar::Integer,
                "b" => Scalar::Boolean,
                "d" => Scalar::Double,
                "m" => Scalar::Message(*names.get(message.as_deref()?)?),
                _ => Scalar::Bytes,
            };
            Some(Field { tag: *tag, json: json.as_str().into(), shape, scalar, keeps_zero: *keeps_zero })
        };
        let mut fields: Vec<Field> = rows.iter().filter_map(field).collect();
        fields.sort_by_key(|field| field.tag);
        let mut by_name: Vec<u16> = (0..u16::try_from(fields.len()).unwrap_or(u16::MAX)).collect();
        by_name.sort_by(|a, b| fields[usize::from(*a)].json.cmp(&fields[usize::from(*b)].json));
        Layout { form: Form::of(name), fields, by_name }
    }

    /// The field with a tag.
    pub(super) fn tagged(&self, tag: u32) -> Option<&Field> {
        let place = self.fields.binary_search_by_key(&tag, |field| field.tag).ok()?;
        self.fields.get(place)
    }

    /// The field with a JSON name, here or in a message that is embedded here.
    pub(super) fn named<'a>(&'a self, table: &'a Table, name: &str) -> Option<Found<'a>> {
        if name.is_empty() {
            return None;
        }
        let place = self.by_name.binary_search_by(|place| (*self.fields[usize::from(*place)].json).cmp(name));
        if let Ok(place) = place {
            let field = &self.fields[usize::from(self.by_name[place])];
            return Some(Found { within: SmallVec::new(), field });
        }
        // Names that are empty stand first.
        for place in &self.by_name {
            let outer = &self.fields[usize::from(*place)];
            let (true, Scalar::Message(inner)) = (outer.json.is_empty(), outer.scalar) else { break };
            if let Some(mut found) = table.layout(inner).and_then(|layout| layout.named(table, name)) {
                found.within.insert(0, outer.tag);
                return Some(found);
            }
        }
        None
    }
}

impl Form {
    fn of(name: &str) -> Self {
        let short = name.rsplit('.').next().unwrap_or(name);
        match short {
            "ExtraValue" | "Verbs" => return Form::Items,
            "JSON" => return Form::Embedded,
            "JSONSchemaPropsOrBool" => return Form::SchemaOrBool,
            "JSONSchemaPropsOrArray" => return Form::SchemaOrArray,
            "JSONSchemaPropsOrStringArray" => return Form::SchemaOrNames,
            _ if !name.starts_with("io.k8s.apimachinery.") => return Form::Object,
            _ => {}
        }
        match short {
            "Time" | "Timestamp" => Form::Time,
            "MicroTime" => Form::MicroTime,
            "Quantity" => Form::Quantity,
            "IntOrString" => Form::IntOrString,
            "RawExtension" | "FieldsV1" => Form::Embedded,
            _ => Form::Object,
        }
    }
}
