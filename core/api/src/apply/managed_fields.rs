//! The entries of `metadata.managedFields`.

use std::cmp::Ordering;

use serde_json::{Map, Value};

use super::field_set::{FieldSet, FieldSetError};

/// How many entries of the operation Update are kept apart.
const MAX_UPDATE_MANAGERS: usize = 10;
/// The manager that takes the place of the oldest ones beyond that.
const OLD_UPDATES: &str = "ancient-changes";

/// What a manager did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    /// It applied a configuration.
    Apply,
    /// It wrote in any other way.
    Update,
}

/// Who an entry is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ManagerKey {
    pub operation: Operation,
    pub manager: String,
    pub api_version: String,
    pub subresource: String,
}

impl ManagerKey {
    /// Whether it is the same manager. An applier is the same in every version.
    pub(super) fn is(&self, other: &ManagerKey) -> bool {
        self.operation == other.operation
            && self.manager == other.manager
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }

    /// The entry of a manager with its set of fields.
    pub(super) fn into_entry(self, time: Option<&str>, fields: Value) -> Value {
        let mut entry = Map::new();
        let operation = match self.operation {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        };
        entry.insert("manager".into(), self.manager.into());
        entry.insert("operation".into(), operation.into());
        entry.insert("apiVersion".into(), self.api_version.into());
        if let Some(time) = time {
            entry.insert("time".into(), time.into());
        }
        entry.insert("fieldsType".into(), "FieldsV1".into());
        entry.insert("fieldsV1".into(), fields);
        if !self.subresource.is_empty() {
            entry.insert("subresource".into(), self.subresource.into());
        }
        Value::Object(entry)
    }

    /// As messages name it: `"kubectl" using apps/v1`.
    pub(super) fn display(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == Operation::Update {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }
}

/// One entry.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub key: ManagerKey,
    pub time: Option<String>,
    pub fields: FieldSet,
    /// The entry as it is stored, while nothing was changed in it. Where there is nothing in `fields`, it was not read.
    original: Option<Value>,
}

/// All entries of an object.
#[derive(Clone, Debug, Default)]
pub(super) struct Entries(Vec<Entry>);

fn fields_of(value: &Value) -> Result<FieldSet, FieldSetError> {
    match value.get("fieldsV1") {
        None | Some(Value::Null) => Ok(FieldSet::default()),
        Some(fields) => FieldSet::from_value(fields),
    }
}

fn decode(value: &Value) -> Result<Entry, FieldSetError> {
    let mut entry = decode_head(value)?;
    entry.fields = fields_of(value)?;
    Ok(entry)
}

/// Reads who an entry is about.
fn decode_head(value: &Value) -> Result<Entry, FieldSetError> {
    let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let operation = match value.get("operation").and_then(Value::as_str) {
        Some("Apply") => Operation::Apply,
        Some("Update") => Operation::Update,
        other => return Err(FieldSetError::Element(other.unwrap_or_default().to_owned())),
    };
    let key = ManagerKey {
        operation,
        manager: text("manager"),
        api_version: text("apiVersion"),
        subresource: text("subresource"),
    };
    let time = value.get("time").and_then(Value::as_str).map(str::to_owned);
    Ok(Entry { key, time, fields: FieldSet::default(), original: None })
}

/// The entries of those who manage an object's number of replicas, as its `autoscaling/v1` `Scale` shows them. `path` is
/// where the object has the number.
pub fn scale_entries(entries: &[Value], path: &[&str]) -> Vec<Value> {
    let manages = |entry: &&Value| {
        let fields = entry.get("fieldsV1");
        path.iter()
            .try_fold(fields, |fields, name| Some(fields?.get(format!("f:{name}"))))
            .flatten()
            .is_some()
    };
    let shown = |entry: &Value| {
        let mut entry = entry.clone();
        if let Value::Object(fields) = &mut entry {
            fields.insert("apiVersion".into(), "autoscaling/v1".into());
            fields.insert("fieldsV1".into(), serde_json::json!({"f:spec": {"f:replicas": {}}}));
        }
        entry
    };
    entries.iter().filter(manages).map(shown).collect()
}

impl Entry {
    pub(super) fn new(key: ManagerKey, time: &str, fields: FieldSet) -> Self {
        Entry { key, time: Some(time.to_owned()), fields, original: None }
    }

    /// Takes fields from the manager.
    pub(super) fn take(&mut self, fields: &FieldSet) {
        if self.fields.subtract(fields) {
            self.original = None;
        }
    }

    fn encode(self) -> Value {
        match self.original {
            Some(original) => original,
            None => self.key.into_entry(self.time.as_deref(), self.fields.into_value()),
        }
    }

    /// The manager's fields, which the entry then has no more.
    fn take_all(&mut self) -> FieldSet {
        let fields = std::mem::take(&mut self.fields);
        match self.original.take() {
            Some(original) if fields.is_empty() => fields_of(&original).unwrap_or_default(),
            Some(_) | None => fields,
        }
    }

    fn is_empty(&self) -> bool {
        self.fields.is_empty() && self.original.is_none()
    }

    /// By operation, then the oldest first.
    fn order(&self, other: &Entry) -> Ordering {
        let by = |entry: &Entry| (entry.key.operation, entry.time.clone());
        by(self).cmp(&by(other)).then_with(|| self.key.cmp(&other.key))
    }
}

impl Entries {
    /// Reads entries that a client may have written.
    pub(super) fn decode(list: &[Value]) -> Result<Self, FieldSetError> {
        let mut entries = Entries::default();
        for value in list {
            let entry = decode(value)?;
            match entries.0.iter_mut().find(|own| own.key.is(&entry.key)) {
                // The last one of the same manager counts.
                Some(own) => *own = entry,
                None => entries.0.push(entry),
            }
        }
        Ok(entries)
    }

    /// Takes entries as the server stored them. The fields of those that are not touched are not read.
    pub(super) fn take(
        list: Vec<Value>,
        mut is_touched: impl FnMut(&ManagerKey, &Value) -> bool,
    ) -> Result<Self, FieldSetError> {
        let mut entries = Vec::with_capacity(list.len() + 1);
        for value in list {
            let mut entry = decode_head(&value)?;
            if is_touched(&entry.key, value.get("fieldsV1").unwrap_or(&Value::Null)) {
                entry.fields = fields_of(&value)?;
            }
            entry.original = Some(value);
            entries.push(entry);
        }
        Ok(Entries(entries))
    }

    /// In the order in which they are stored; those without fields are left out.
    pub(super) fn encode(mut self) -> Vec<Value> {
        self.0.retain(|entry| !entry.is_empty());
        self.0.sort_by(Entry::order);
        self.0.into_iter().map(Entry::encode).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.0.iter()
    }

    pub(super) fn get(&self, key: &ManagerKey) -> Option<&Entry> {
        self.0.iter().find(|entry| entry.key.is(key))
    }

    /// Puts an entry in the place of that of the same manager.
    pub(super) fn put(&mut self, entry: Entry) {
        self.0.retain(|own| !own.key.is(&entry.key));
        self.0.push(entry);
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.0.iter_mut()
    }

    /// Changes the fields of entries that were read as a whole; the function says whether it did.
    pub(super) fn change_fields(&mut self, mut change: impl FnMut(&ManagerKey, &mut FieldSet) -> bool) {
        for entry in &mut self.0 {
            if change(&entry.key, &mut entry.fields) {
                entry.original = None;
            }
        }
    }

    /// Keeps the entries for which a function says so; it may change them.
    pub(super) fn retain(&mut self, keep: impl FnMut(&mut Entry) -> bool) {
        self.0.retain_mut(keep);
    }

    /// Gives fields to a manager.
    pub(super) fn give(&mut self, key: ManagerKey, time: &str, mut fields: FieldSet) {
        if let Some(own) = self.0.iter_mut().find(|own| own.key.is(&key)) {
            fields.add(own.take_all());
        }
        self.put(Entry::new(key, time, fields));
    }

    /// Merges the oldest entries of the operation Update when there are too many.
    pub(super) fn cap(&mut self) {
        self.0.retain(|entry| !entry.is_empty());
        let is_update = |entry: &Entry| entry.key.operation == Operation::Update;
        let mut count = self.0.iter().filter(|entry| is_update(entry)).count();
        if count <= MAX_UPDATE_MANAGERS {
            return;
        }
        self.0.sort_by(Entry::order);
        let mut first_of: Vec<ManagerKey> = Vec::new();
        let updates: Vec<ManagerKey> =
            self.0.iter().filter(|entry| is_update(entry)).map(|entry| entry.key.clone()).collect();
        for key in updates {
            if count <= MAX_UPDATE_MANAGERS {
                break;
            }
            let Some(first) = first_of.iter().find(|first| first.api_version == key.api_version) else {
                first_of.push(key);
                continue;
            };
            let bucket = ManagerKey {
                operation: Operation::Update,
                manager: OLD_UPDATES.to_owned(),
                api_version: key.api_version.clone(),
                subresource: String::new(),
            };
            let mut fields = FieldSet::default();
            let mut time = None;
            let first = first.clone();
            self.0.retain_mut(|entry| {
                let merged = entry.key == key || entry.key == first || entry.key == bucket;
                if merged {
                    if entry.key == key {
                        time = entry.time.take();
                    }
                    fields.add(entry.take_all());
                }
                !merged
            });
            self.0.push(Entry { key: bucket, time, fields, original: None });
            count -= 1;
        }
    }
}
