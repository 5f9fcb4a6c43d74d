//! Which names a definition gets. Names are unique in their group: who comes later than another, waits.

use serde_json::{Map, Value, json};

use super::definition;
use crate::object::Object;

/// The names that others have in a group.
#[derive(Clone, Debug, Default)]
pub struct Taken {
    resources: Vec<String>,
    kinds: Vec<String>,
}

impl Taken {
    /// Adds the names of a built-in resource.
    pub fn add_builtin(&mut self, resource: &crate::kinds::ResourceInfo) {
        self.resources.push(resource.plural.clone());
        self.resources.push(resource.singular.clone());
        self.resources.extend(resource.short_names.iter().cloned());
        self.kinds.extend([resource.kind.clone(), resource.list_kind.clone()]);
    }

    /// Adds the names that another definition was given.
    pub fn add_definition(&mut self, definition: &Object) {
        let Some(names) = definition.get(&["status", "acceptedNames"]) else { return };
        let text = |field: &str| names[field].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        self.resources.extend(text("plural"));
        self.resources.extend(text("singular"));
        let short = names["shortNames"].as_array().into_iter().flatten();
        self.resources.extend(short.filter_map(Value::as_str).map(str::to_owned));
        self.kinds.extend(text("kind"));
        self.kinds.extend(text("listKind"));
    }
}

/// One condition's state: its status, reason and message.
struct Outcome {
    status: bool,
    reason: &'static str,
    message: String,
}

/// Whether a condition of a definition holds.
pub fn is_true(definition: &Object, kind: &str) -> bool {
    let conditions =
        definition.get(&["status", "conditions"]).and_then(Value::as_array).into_iter().flatten();
    conditions.into_iter().any(|condition| condition["type"] == kind && condition["status"] == "True")
}

/// Brings a definition's status up to its spec: the names it has, the versions it stores, and its conditions.
/// `now` is written as the time of a change.
pub fn settle(definition: &mut Object, taken: &Taken, now: jiff::Timestamp) {
    let wanted = definition.get(&["spec", "names"]).cloned().unwrap_or_else(|| json!({}));
    let current = definition.get(&["status", "acceptedNames"]).cloned().unwrap_or_else(|| json!({}));
    let (accepted, conflict) = accept(&wanted, &current, taken);
    let whole = conflict.is_none();
    let status = definition.0.entry("status").or_insert_with(super::defaults::empty_status);
    if !status.is_object() {
        *status = super::defaults::empty_status();
    }
    definition.set(&["status", "acceptedNames"], accepted);
    let established = is_true(definition, "Established");
    let names = conflict.unwrap_or(Outcome {
        status: true,
        reason: "NoConflicts",
        message: "no conflicts found".to_owned(),
    });
    set_condition(definition, "NamesAccepted", &names, now);
    let outcome = if whole || established {
        Outcome {
            status: true,
            reason: "InitialNamesAccepted",
            message: "the initial names have been accepted".to_owned(),
        }
    } else {
        Outcome { status: false, reason: "NotAccepted", message: "not all names are accepted".to_owned() }
    };
    set_condition(definition, "Established", &outcome, now);
    store_version(definition);
}

/// Notes in a definition that its objects are being deleted.
pub fn set_terminating(definition: &mut Object, now: jiff::Timestamp) {
    let message = "CustomResource deletion is in progress".to_owned();
    let outcome = Outcome { status: true, reason: "InstanceDeletionInProgress", message };
    set_condition(definition, "Terminating", &outcome, now);
}

fn store_version(definition: &mut Object) {
    let Some(version) = definition::storage_version(definition).map(str::to_owned) else { return };
    let stored = definition.get(&["status", "storedVersions"]).and_then(Value::as_array).cloned();
    let mut stored = stored.unwrap_or_default();
    if !stored.iter().any(|known| known == version.as_str()) {
        stored.push(version.into());
    }
    definition.set(&["status", "storedVersions"], stored.into());
}

/// The names that are free, those of before where they are not, and the last conflict.
fn accept(wanted: &Value, current: &Value, taken: &Taken) -> (Value, Option<Outcome>) {
    let mut accepted = current.as_object().cloned().unwrap_or_default();
    let mut conflict = None;
    let mut clash = |reason, name: &str| {
        let message = format!("{name:?} is already in use");
        conflict = Some(Outcome { status: false, reason, message });
    };
    let fields = [
        ("plural", "PluralConflict", &taken.resources),
        ("singular", "SingularConflict", &taken.resources),
        ("kind", "KindConflict", &taken.kinds),
        ("listKind", "ListKindConflict", &taken.kinds),
    ];
    for (field, reason, taken) in fields {
        let Some(name) = wanted[field].as_str() else { continue };
        if current[field] != name && taken.iter().any(|other| other == name) {
            clash(reason, name);
        } else {
            accepted.insert(field.to_owned(), name.into());
        }
    }
    let short: Vec<&str> =
        wanted["shortNames"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let had = current["shortNames"].as_array();
    let is_own = |name: &str| had.is_some_and(|had| had.iter().any(|own| own == name));
    let busy = short.iter().find(|name| !is_own(name) && taken.resources.iter().any(|other| other == *name));
    match busy {
        Some(name) => clash("ShortNamesConflict", name),
        None => copy(&mut accepted, wanted, "shortNames"),
    }
    copy(&mut accepted, wanted, "categories");
    for field in ["plural", "kind"] {
        accepted.entry(field).or_insert_with(|| "".into());
    }
    (accepted.into(), conflict)
}

fn copy(to: &mut Map<String, Value>, from: &Value, field: &str) {
    match from.get(field).filter(|value| !value.is_null()) {
        Some(value) => drop(to.insert(field.to_owned(), value.clone())),
        None => drop(to.remove(field)),
    }
}

fn set_condition(definition: &mut Object, kind: &str, outcome: &Outcome, now: jiff::Timestamp) {
    let list = definition.get(&["status", "conditions"]).and_then(Value::as_array).cloned();
    let mut list = list.unwrap_or_default();
    let word = if outcome.status { "True" } else { "False" };
    let before = list.iter().find(|condition| condition["type"] == kind);
    let same = before.filter(|condition| condition["status"] == word);
    let since = same.and_then(|condition| condition.get("lastTransitionTime").cloned());
    let condition = json!({
        "type": kind, "status": word, "reason": outcome.reason, "message": outcome.message,
        "lastTransitionTime": since.unwrap_or_else(|| crate::object::format_time(now).into()),
    });
    match list.iter_mut().find(|condition| condition["type"] == kind) {
        Some(place) => *place = condition,
        None => list.push(condition),
    }
    definition.set(&["status", "conditions"], list.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(plural: &str, kind: &str, short: &str) -> Object {
        let value = json!({"metadata": {"name": format!("{plural}.x.io")}, "spec": {
            "group": "x.io", "versions": [{"name": "v1", "served": true, "storage": true}],
            "names": {"plural": plural, "singular": kind.to_lowercase(), "kind": kind, "listKind": format!("{kind}List"),
                "shortNames": [short]}}});
        Object::from_value(value).unwrap()
    }

    #[test]
    fn free_names_are_accepted_and_establish_a_definition() {
        let mut it = definition("foos", "Foo", "f");
        settle(&mut it, &Taken::default(), jiff::Timestamp::UNIX_EPOCH);
        assert!(is_true(&it, "NamesAccepted") && is_true(&it, "Established"));
        assert_eq!(it.get_str(&["status", "acceptedNames", "listKind"]), Some("FooList"));
        assert_eq!(it.get(&["status", "storedVersions"]), Some(&json!(["v1"])));
    }

    #[test]
    fn a_name_that_another_has_keeps_a_definition_from_being_established() {
        let mut first = definition("foos", "Foo", "f");
        settle(&mut first, &Taken::default(), jiff::Timestamp::UNIX_EPOCH);
        let mut taken = Taken::default();
        taken.add_definition(&first);
        let mut second = definition("fools", "Foo", "fl");
        settle(&mut second, &taken, jiff::Timestamp::UNIX_EPOCH);
        assert!(!is_true(&second, "NamesAccepted") && !is_true(&second, "Established"));
        let conditions = second.get(&["status", "conditions"]).unwrap();
        assert_eq!(conditions[0]["reason"], "ListKindConflict");
        assert_eq!(conditions[0]["message"], "\"FooList\" is already in use");
        // Once the other is gone, the names are free.
        settle(&mut second, &Taken::default(), jiff::Timestamp::UNIX_EPOCH);
        assert!(is_true(&second, "Established"));
    }
}
