//! The record after a write that is no apply: what it changed is its manager's alone.

use serde_json::{Map, Value};

use super::Write;
use super::compare::{all_objects, compare_objects};
use super::managed_fields::{Entries, ManagerKey, Operation};
use super::reconcile::reconcile;
use super::versions::Versions;
use crate::object::{Object, format_time};

/// Sets `metadata.managedFields` of the new state of an object, given the live one (`None` on creation).
///
/// A writer of the object itself may have set entries of its own: those count, `[{}]` takes the record away, and an
/// empty list stands for the live entries, as does one that cannot be read. Where an object has no record, none is begun.
pub fn track(live: Option<&Object>, new: &mut Object, write: &Write<'_>) {
    let sent = take_managed_fields(new);
    let Some(live) = live else {
        track_creation(new, &sent, write);
        return;
    };
    let kept = live.managed_fields();
    let is_own = write.subresource.is_empty() && !sent.is_empty() && sent != kept;
    if is_own && is_reset(&sent) {
        return;
    }
    let own = is_own.then(|| Entries::decode(&sent)).and_then(Result::ok).filter(|own| !own.is_empty());
    if own.is_none() && kept.is_empty() {
        return;
    }
    let schema = (write.schemas)(&new.gvk());
    let changes = compare_objects(schema.as_deref(), Some(live), new, write.scope());
    // Who sends the entries back has made the copy that the new state needs.
    let kept = || if sent == kept { sent } else { kept.to_vec() };
    let is_same = changes.is_same();
    if is_same && own.is_none() {
        new.set_managed_fields(kept());
        return;
    }
    let mut gained = changes.added.clone();
    gained.add(changes.modified.clone());
    let mut versions = Versions::new(write, Some(live), new, changes);
    let entries = match own {
        Some(own) => Ok(own),
        None if write.schema_changes => Entries::decode(&kept()),
        None => Entries::take(kept(), |key, fields| match versions.comparison(&key.api_version) {
            Some(changes) => changes.sets().any(|set| set.touches(fields)),
            None => true,
        }),
    };
    let Ok(mut entries) = entries else { return };
    reconcile(&mut entries, new.kind(), write);
    if !is_same {
        entries.retain(|entry| match versions.comparison(&entry.key.api_version) {
            Some(changes) => {
                changes.sets().for_each(|set| entry.take(set));
                true
            }
            None => false,
        });
        if !gained.is_empty() {
            entries.give(key(new, write), &format_time(write.now), gained);
        }
        entries.cap();
    }
    new.set_managed_fields(entries.encode());
}

fn track_creation(new: &mut Object, sent: &[Value], write: &Write<'_>) {
    let schema = (write.schemas)(&new.gvk());
    if sent.is_empty() || is_reset(sent) {
        // The common case: one entry, written without a set in between.
        let fields = all_objects(schema.as_deref(), new, write.scope());
        if !fields.is_empty() {
            let entry = key(new, write).into_entry(Some(&format_time(write.now)), Value::Object(fields));
            new.set_managed_fields(vec![entry]);
        }
        return;
    }
    let added = compare_objects(schema.as_deref(), None, new, write.scope()).added;
    let mut entries = Entries::decode(sent).unwrap_or_default();
    for entry in entries.iter_mut() {
        entry.take(&added);
    }
    entries.give(key(new, write), &format_time(write.now), added);
    new.set_managed_fields(entries.encode());
}

fn key(object: &Object, write: &Write<'_>) -> ManagerKey {
    ManagerKey {
        operation: Operation::Update,
        manager: write.manager.to_owned(),
        api_version: object.api_version().to_owned(),
        subresource: write.subresource.to_owned(),
    }
}

fn take_managed_fields(object: &mut Object) -> Vec<Value> {
    if object.metadata().is_none() {
        return Vec::new();
    }
    match object.metadata_mut().remove("managedFields") {
        Some(Value::Array(entries)) => entries,
        _ => Vec::new(),
    }
}

fn is_reset(entries: &[Value]) -> bool {
    matches!(entries, [Value::Object(entry)] if entry.is_empty())
}

/// Whether two states of an object are the same but for the times in their managed fields: such a change is not written.
pub fn differ_in_times_alone(a: &Object, b: &Object) -> bool {
    let is_same = |a: &Map<String, Value>, b: &Map<String, Value>, but: &str| {
        a.len() == b.len() && a.iter().all(|(field, value)| field == but || b.get(field) == Some(value))
    };
    let (Some(of_a), Some(of_b)) = (a.metadata(), b.metadata()) else { return false };
    let entry = |a: &Value, b: &Value| match (a, b) {
        (Value::Object(a), Value::Object(b)) => is_same(a, b, "time"),
        (a, b) => a == b,
    };
    is_same(&a.0, &b.0, "metadata")
        && is_same(of_a, of_b, "managedFields")
        && a.managed_fields().len() == b.managed_fields().len()
        && a.managed_fields().iter().zip(b.managed_fields()).all(|(a, b)| entry(a, b))
}
