//! Brings the record of fields into line with a schema that was changed since it was written.

use super::Write;
use super::field_set::FieldSet;
use super::managed_fields::Entries;
use crate::kinds::GroupVersionKind;
use crate::schema::{ListType, Schema, SchemaType};

/// Who had fields of what is owned as a whole by now has the whole. In the other direction nothing is changed: who had
/// the whole has that, and none of its fields.
pub(super) fn reconcile(entries: &mut Entries, kind: &str, write: &Write<'_>) {
    if !write.schema_changes {
        return;
    }
    entries.change_fields(|key, fields| {
        let gvk = GroupVersionKind::from_api_version(&key.api_version, kind);
        (write.schemas)(&gvk).is_some_and(|schema| fold(&schema, fields))
    });
}

fn is_whole(schema: &Schema) -> bool {
    match schema.kind {
        SchemaType::Object => schema.atomic,
        SchemaType::Array => schema.list == ListType::Atomic,
        _ => false,
    }
}

/// Whether anything was changed.
fn fold(schema: &Schema, set: &mut FieldSet) -> bool {
    let mut is_changed = false;
    for (element, below) in set.children_mut() {
        let found = match element.as_field() {
            Some(name) => schema.field(name),
            None => schema.items.as_ref(),
        };
        let Some(found) = found else { continue };
        if !is_whole(found) {
            is_changed |= fold(found, below);
        } else if below.children().next().is_some() {
            *below = FieldSet::leaf();
            is_changed = true;
        }
    }
    is_changed
}
