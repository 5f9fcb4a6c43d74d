//! Takes out of an object what its applier has given up.

use super::field_set::FieldSet;
use super::managed_fields::Entries;
use super::shape::{applied, remove, with_named_fields};
use crate::object::Object;
use crate::schema::Schema;

/// Removes the fields that the applier had applied last time, and that neither its new configuration nor anyone else
/// owns. `config` is what the new configuration sets, with its name; `entries` are all owners of today.
///
/// A struct or item that was in the last configuration and has nothing left goes too.
pub(super) fn prune(
    schema: Option<&Schema>,
    merged: &mut Object,
    last: &FieldSet,
    config: &FieldSet,
    entries: &Entries,
) {
    if last.is_empty() {
        return;
    }
    let named = |set: FieldSet| with_named_fields(schema, set);
    let fields_of = |object: &Object| named(fields(schema, object));
    let last = named(last.clone());
    let all = fields_of(merged);
    let mut rest = merged.clone();
    remove(schema, &mut rest.0, &last);
    // Gives back what is owned.
    let mut kept = config.clone();
    for entry in entries.iter() {
        kept.add(entry.fields.clone());
    }
    let mut kept = named(kept);
    kept.add(fields_of(&rest));
    rest = merged.clone();
    remove(schema, &mut rest.0, &all.difference(&kept));
    // What was around the owned fields is given back with them, unless the applier had it alone.
    let gone = all.difference(&fields_of(&rest)).intersection(&last);
    remove(schema, &mut merged.0, &gone);
}

/// All fields of an object, its names too.
pub(super) fn fields(schema: Option<&Schema>, object: &Object) -> FieldSet {
    applied(schema, &object.clone().into_value())
}
