//! An apply: a manager says which fields it wants, and gets them unless they are someone else's.

use serde_json::{Value, json};

use super::Write;
use super::compare::{Comparison, compare_objects};
use super::config::faults;
use super::field_set::FieldSet;
use super::managed_fields::{Entries, Entry, ManagerKey, Operation};
use super::merge::merge_fields;
use super::prune::{fields, prune};
use super::reconcile::reconcile;
use super::shape::applied_set;
use super::versions::{Versions, converted};
use super::{last_applied, track};
use crate::kinds::GroupVersionKind;
use crate::object::{Object, format_time};
use crate::status::Status;

/// The manager of what was there before the first apply.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// A field that someone else manages with another value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Who manages it: `"NAME" using VERSION`, or `"NAME"` for an applier.
    pub manager: String,
    /// The field, such as `.spec.replicas`.
    pub path: String,
}

/// Why an apply is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// The configuration has managed fields.
    #[error("metadata.managedFields must be nil")]
    ManagedFields,
    /// The configuration does not fit the schema.
    #[error("failed to create typed patch object ({object}): {}", listed(.faults))]
    Configuration {
        /// `NAMESPACE/NAME; GROUP/VERSION, Kind=KIND`.
        object: String,
        /// The faults, each with its path.
        faults: Vec<String>,
    },
    /// Others manage fields of the configuration.
    #[error("{}", conflict_message(.0))]
    Conflicts(Vec<Conflict>),
}

pub(super) fn listed(faults: &[String]) -> String {
    match faults {
        [one] => one.clone(),
        many => {
            let lines: Vec<String> = many.iter().map(|fault| format!("\n  {fault}")).collect();
            format!("errors:{}", lines.concat())
        }
    }
}

fn conflict_message(conflicts: &[Conflict]) -> String {
    if let [one] = conflicts {
        return format!("Apply failed with 1 conflict: conflict with {}: {}", one.manager, one.path);
    }
    let mut lines = Vec::new();
    let mut last = None;
    for conflict in conflicts {
        if last != Some(&conflict.manager) {
            lines.push(format!("conflicts with {}:", conflict.manager));
            last = Some(&conflict.manager);
        }
        lines.push(format!("- {}", conflict.path));
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}

impl ApplyError {
    /// The HTTP answer.
    pub fn to_status(&self) -> Status {
        match self {
            Self::ManagedFields => Status::bad_request(self.to_string()),
            // Upstream has no reason for it either.
            Self::Configuration { .. } => Status::new(500, "", self.to_string()),
            Self::Conflicts(conflicts) => {
                let causes: Vec<Value> = conflicts
                    .iter()
                    .map(|conflict| {
                        let message = format!("conflict with {}", conflict.manager);
                        json!({"reason": "FieldManagerConflict", "message": message, "field": conflict.path})
                    })
                    .collect();
                let mut status = Status::new(409, "Conflict", self.to_string());
                status.details = json!({ "causes": causes });
                status
            }
        }
    }
}

/// Merges a configuration into the live object (`None` creates it) and keeps the record of who manages what.
///
/// Both are in the version of the configuration. Fields that the manager applied before and no longer names go, unless
/// someone else has them too. A conflict refuses the whole, unless `force` takes the fields.
pub fn apply(
    live: Option<&Object>,
    config: &Object,
    force: bool,
    write: &Write<'_>,
) -> Result<Object, ApplyError> {
    if config.get(&["metadata", "managedFields"]).is_some_and(|entries| !entries.is_null()) {
        return Err(ApplyError::ManagedFields);
    }
    let schema = (write.schemas)(&config.gvk());
    let schema = schema.as_deref();
    let document = config.clone().into_value();
    let faults = faults(schema, &document);
    if !faults.is_empty() {
        return Err(ApplyError::Configuration { object: describe(config), faults });
    }
    let mut entries = match live {
        Some(live) => Entries::decode(live.managed_fields()).unwrap_or_default(),
        None => Entries::default(),
    };
    reconcile(&mut entries, config.kind(), write);
    let time = format_time(write.now);
    if let Some(live) = live.filter(|_| entries.is_empty()) {
        let key = ManagerKey {
            operation: Operation::Update,
            manager: BEFORE_FIRST_APPLY.to_owned(),
            api_version: live.api_version().to_owned(),
            subresource: write.subresource.to_owned(),
        };
        entries.give(key, &time, compare_objects(schema, None, live, write.scope()).added);
    }
    let mut merged = live.cloned().unwrap_or_default();
    merged.set_managed_fields(Vec::new());
    merge_fields(schema, &mut merged.0, &config.0);
    let key = ManagerKey {
        operation: Operation::Apply,
        manager: write.manager.to_owned(),
        api_version: config.api_version().to_owned(),
        subresource: write.subresource.to_owned(),
    };
    let last = entries.get(&key).cloned();
    entries.put(Entry::new(key.clone(), &time, applied_set(schema, config, write.scope())));
    if let Some(last) = last {
        let claimed = fields(schema, config);
        merged = prune_in_version(merged, &last, &claimed, &entries, write);
    }
    let changes = compare_objects(schema, live, &merged, write.scope());
    settle(live, &merged, changes, &mut entries, &key, force, write)?;
    merged.set_managed_fields(entries.encode());
    last_applied::refresh(&mut merged, config, write);
    match live {
        // Nothing but the time would be new.
        Some(live) if track::differ_in_times_alone(&merged, live) => Ok(live.clone()),
        Some(_) | None => Ok(merged),
    }
}

/// Prunes in the version in which the manager applied last.
fn prune_in_version(
    mut merged: Object,
    last: &Entry,
    claimed: &FieldSet,
    entries: &Entries,
    write: &Write<'_>,
) -> Object {
    let own = merged.gvk();
    let then = GroupVersionKind::from_api_version(&last.key.api_version, &own.kind);
    let Some(schema) = (write.schemas)(&then) else { return merged };
    if then == own {
        prune(Some(&schema), &mut merged, &last.fields, claimed, entries);
        return merged;
    }
    let mut older = converted(&merged, &then);
    prune(Some(&schema), &mut older, &last.fields, claimed, entries);
    converted(&older, &own)
}

/// Takes what changes from its managers, if that is allowed.
fn settle(
    live: Option<&Object>,
    merged: &Object,
    changes: Comparison,
    entries: &mut Entries,
    applier: &ManagerKey,
    force: bool,
    write: &Write<'_>,
) -> Result<(), ApplyError> {
    let mut versions = Versions::new(write, live, merged, changes);
    let mut found: Vec<(ManagerKey, FieldSet)> = Vec::new();
    for entry in entries.iter().filter(|entry| !entry.key.is(applier)) {
        let Some(changes) = versions.comparison(&entry.key.api_version) else { continue };
        let mut disputed = changes.modified.clone();
        disputed.add(changes.added.clone());
        let disputed = entry.fields.intersection(&disputed);
        if !disputed.is_empty() {
            found.push((entry.key.clone(), disputed));
        }
    }
    if !force && !found.is_empty() {
        let allowed = live.map_or_else(FieldSet::default, |live| last_applied::handed_over(live, write));
        let conflicts = conflicts(&found, &allowed);
        if !conflicts.is_empty() {
            return Err(ApplyError::Conflicts(conflicts));
        }
    }
    entries.retain(|entry| {
        if entry.key.is(applier) {
            return true;
        }
        let Some(changes) = versions.comparison(&entry.key.api_version) else { return false };
        if let Some((_, disputed)) = found.iter().find(|(key, _)| *key == entry.key) {
            entry.take(disputed);
        }
        entry.take(&changes.removed);
        true
    });
    Ok(())
}

fn conflicts(found: &[(ManagerKey, FieldSet)], allowed: &FieldSet) -> Vec<Conflict> {
    let mut conflicts = Vec::new();
    let mut sorted: Vec<&(ManagerKey, FieldSet)> = found.iter().collect();
    sorted.sort_by(|a, b| a.0.manager.cmp(&b.0.manager).then_with(|| a.0.cmp(&b.0)));
    for (key, disputed) in sorted {
        for path in disputed.difference(allowed).paths() {
            conflicts.push(Conflict { manager: key.display(), path });
        }
    }
    conflicts
}

fn describe(config: &Object) -> String {
    let gvk = config.gvk();
    format!(
        "{}/{}; {}/{}, Kind={}",
        config.namespace().unwrap_or_default(),
        config.name().unwrap_or_default(),
        gvk.group,
        gvk.version,
        gvk.kind
    )
}
