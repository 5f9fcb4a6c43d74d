//! Which names a definition gets. Names are unique in their group: who comes later than another, waits.

use serde_json::{Map, Value, json};

use super::definition;
use super::validation::{self, Approval};
use crate::object::Object;
use crate::validation::webhook;

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

/// The status of a new definition: nothing is known of it but the version in which it stores.
pub fn begin(definition: &mut Object) {
    definition.0.insert("status".to_owned(), super::defaults::empty_status());
    store_version(definition);
}

/// One condition's state: its status, reason and message.
struct Outcome {
    status: bool,
    reason: &'static str,
    message: String,
}

impl Outcome {
    fn new(status: bool, reason: &'static str, message: impl Into<String>) -> Self {
        Outcome { status, reason, message: message.into() }
    }
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
    let is_whole = conflict.is_none();
    let status = definition.0.entry("status").or_insert_with(super::defaults::empty_status);
    if !status.is_object() {
        *status = super::defaults::empty_status();
    }
    definition.set(&["status", "acceptedNames"], accepted);
    let names = conflict.unwrap_or_else(|| Outcome::new(true, "NoConflicts", "no conflicts found"));
    set_condition(definition, "NamesAccepted", &names, now);
    let outcome = if webhook::has_bad_authority(definition) {
        Outcome::new(false, "InvalidCABundle", "The conversion webhook CABundle is invalid")
    } else if is_whole || is_true(definition, "Established") {
        Outcome::new(true, "InitialNamesAccepted", "the initial names have been accepted")
    } else {
        Outcome::new(false, "NotAccepted", "not all names are accepted")
    };
    set_condition(definition, "Established", &outcome, now);
    approve(definition, now);
    store_version(definition);
    if definition.deletion_timestamp().is_some() {
        end(definition, now);
    }
}

/// Says of a definition in a group of the Kubernetes community whether that one has approved of it.
fn approve(definition: &mut Object, now: jiff::Timestamp) {
    if !validation::is_protected(definition.get_str(&["spec", "group"]).unwrap_or_default()) {
        return;
    }
    let (state, why) = Approval::of(definition);
    let (status, reason) = match state {
        Approval::Missing => (false, "MissingAnnotation"),
        Approval::Bypassed => (false, "UnapprovedAnnotation"),
        Approval::Approved => (true, "ApprovedAnnotation"),
        Approval::Invalid => (false, "InvalidAnnotation"),
    };
    set_condition(
        definition,
        "KubernetesAPIApprovalPolicyConformant",
        &Outcome::new(status, reason, why),
        now,
    );
}

/// Notes in a definition how far the deletion of its objects is: it ends with the finalizer.
fn end(definition: &mut Object, now: jiff::Timestamp) {
    if !definition.finalizers().any(|name| name == super::CLEANUP) {
        let done = Outcome::new(false, "InstanceDeletionCompleted", "removed all instances");
        return set_condition(definition, "Terminating", &done, now);
    }
    // That it failed holds until it has succeeded.
    if !is_true(definition, "Terminating") {
        let message = "CustomResource deletion is in progress";
        let begun = Outcome::new(true, "InstanceDeletionInProgress", message);
        set_condition(definition, "Terminating", &begun, now);
    }
}

/// Notes in a definition that its objects could not be deleted.
pub fn set_deletion_failed(definition: &mut Object, why: &str, now: jiff::Timestamp) {
    let message = format!("could not issue all deletes: {why}");
    set_condition(definition, "Terminating", &Outcome::new(true, "InstanceDeletionFailed", message), now);
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
    let in_use = |name: &str| format!("{name:?} is already in use");
    let fields = [
        ("plural", "PluralConflict", Some(&taken.resources)),
        ("singular", "SingularConflict", Some(&taken.resources)),
        ("shortNames", "ShortNamesConflict", None),
        ("kind", "KindConflict", Some(&taken.kinds)),
        ("listKind", "ListKindConflict", Some(&taken.kinds)),
    ];
    for (field, reason, others) in fields {
        let busy: Vec<String> = match others {
            None => clashes(wanted, current, taken).map(in_use).collect(),
            Some(taken) => {
                let name = wanted[field].as_str().filter(|name| current[field] != **name);
                name.filter(|name| taken.iter().any(|other| other == name)).map(in_use).into_iter().collect()
            }
        };
        match &busy[..] {
            [] if others.is_none() => copy(&mut accepted, wanted, field),
            [] => {
                if let Some(name) = wanted[field].as_str() {
                    accepted.insert(field.to_owned(), name.into());
                }
            }
            [one] => conflict = Some(Outcome::new(false, reason, one.as_str())),
            several => {
                conflict = Some(Outcome::new(false, reason, format!("[{}]", several.join(", "))));
            }
        }
    }
    copy(&mut accepted, wanted, "categories");
    for field in ["plural", "kind"] {
        accepted.entry(field).or_insert_with(|| "".into());
    }
    (accepted.into(), conflict)
}

/// The short names that others have.
fn clashes<'w>(wanted: &'w Value, current: &'w Value, taken: &'w Taken) -> impl Iterator<Item = &'w str> {
    let had = current["shortNames"].as_array();
    let is_own = move |name: &str| had.is_some_and(|had| had.iter().any(|own| own == name));
    let short = wanted["shortNames"].as_array().into_iter().flatten().filter_map(Value::as_str);
    short.filter(move |name| !is_own(name) && taken.resources.iter().any(|other| other == *name))
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

    #[test]
    fn a_definition_tells_of_its_approval_its_authority_and_its_end() {
        let mut it = definition("foos", "Foo", "f");
        it.set(&["spec", "group"], "x.k8s.io".into());
        it.set(&["metadata", "annotations", "api-approved.kubernetes.io"], "https://example.com/1".into());
        settle(&mut it, &Taken::default(), jiff::Timestamp::UNIX_EPOCH);
        let reason = |it: &Object, kind: &str| {
            let list = it.get(&["status", "conditions"]).unwrap().as_array().unwrap();
            list.iter().find(|found| found["type"] == kind).map(|found| found["reason"].clone())
        };
        assert_eq!(reason(&it, "KubernetesAPIApprovalPolicyConformant"), Some("ApprovedAnnotation".into()));
        let webhook = json!({"strategy": "Webhook", "webhook": {"clientConfig": {"caBundle": "Cg=="}}});
        it.set(&["spec", "conversion"], webhook);
        settle(&mut it, &Taken::default(), jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(reason(&it, "Established"), Some("InvalidCABundle".into()));
        it.set_deletion_timestamp(Some(jiff::Timestamp::UNIX_EPOCH));
        it.set_finalizers(vec![crate::custom_resource::CLEANUP.to_owned(), "a/b".to_owned()]);
        settle(&mut it, &Taken::default(), jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(reason(&it, "Terminating"), Some("InstanceDeletionInProgress".into()));
        it.set_finalizers(vec!["a/b".to_owned()]);
        settle(&mut it, &Taken::default(), jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(reason(&it, "Terminating"), Some("InstanceDeletionCompleted".into()));
        assert!(!is_true(&it, "Terminating"));
    }

    #[test]
    fn several_short_names_that_others_have_are_told_together() {
        let mut first = definition("foos", "Foo", "f");
        first.set(&["spec", "names", "shortNames"], json!(["f", "fo"]));
        settle(&mut first, &Taken::default(), jiff::Timestamp::UNIX_EPOCH);
        let mut taken = Taken::default();
        taken.add_definition(&first);
        let mut second = definition("bars", "Bar", "b");
        second.set(&["spec", "names", "shortNames"], json!(["fo", "f", "b"]));
        settle(&mut second, &taken, jiff::Timestamp::UNIX_EPOCH);
        let condition = &second.get(&["status", "conditions"]).unwrap()[0];
        assert_eq!(condition["reason"], "ShortNamesConflict");
        assert_eq!(condition["message"], "[\"fo\" is already in use, \"f\" is already in use]");
    }
}
