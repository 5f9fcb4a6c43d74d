//! A kind's status: what it is at first, and what else is written with it.

use keelson_api::{Object, ResourceInfo};
use serde_json::{Map, Value, json};

use super::is;

/// What a status is made of before anything is known: numbers that are nought. They are always written.
const COUNTS: [(&str, &str, &[&str]); 16] = [
    ("", "replicationcontrollers", &["replicas"]),
    ("", "resourcequotas", &[]),
    ("admissionregistration.k8s.io", "validatingadmissionpolicies", &[]),
    (
        "apps",
        "daemonsets",
        &["currentNumberScheduled", "desiredNumberScheduled", "numberMisscheduled", "numberReady"],
    ),
    ("apps", "deployments", &[]),
    ("apps", "replicasets", &["replicas"]),
    ("apps", "statefulsets", &["replicas"]),
    ("autoscaling", "horizontalpodautoscalers", &["desiredReplicas"]),
    ("batch", "cronjobs", &[]),
    ("batch", "jobs", &[]),
    ("certificates.k8s.io", "certificatesigningrequests", &[]),
    ("flowcontrol.apiserver.k8s.io", "flowschemas", &[]),
    ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations", &[]),
    ("networking.k8s.io", "servicecidrs", &[]),
    (
        "policy",
        "poddisruptionbudgets",
        &["currentHealthy", "desiredHealthy", "disruptionsAllowed", "expectedPods"],
    ),
    ("resource.k8s.io", "resourceclaims", &[]),
];

/// The status of a new object that has one of its own; `None` where it has no fixed parts.
pub(super) fn initial(resource: &ResourceInfo) -> Option<Value> {
    if resource.custom.is_some() {
        return None;
    }
    if is(resource, "", "services") || is(resource, "networking.k8s.io", "ingresses") {
        return Some(json!({"loadBalancer": {}}));
    }
    if is(resource, "storage.k8s.io", "volumeattachments") {
        return Some(json!({"attached": false}));
    }
    let (_, _, counts) = COUNTS.iter().find(|(group, plural, _)| is(resource, group, plural))?;
    Some(counts.iter().map(|name| ((*name).to_owned(), json!(0))).collect::<Map<String, Value>>().into())
}

/// The parts of an object's metadata that may be written with its status.
const WRITTEN: [&str; 4] = ["labels", "annotations", "finalizers", "ownerReferences"];

/// Kinds of whose metadata nothing is written with the status; nor is anything of custom resources'.
const STATUS_ALONE: [(&str, &str); 7] = [
    ("admissionregistration.k8s.io", "validatingadmissionpolicies"),
    ("apiregistration.k8s.io", "apiservices"),
    ("flowcontrol.apiserver.k8s.io", "flowschemas"),
    ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations"),
    ("networking.k8s.io", "servicecidrs"),
    ("resource.k8s.io", "resourceclaims"),
    ("storage.k8s.io", "volumeattachments"),
];

/// Takes over what a writer of the status says in the metadata.
pub(super) fn write_metadata(resource: &ResourceInfo, object: &mut Object, said: &Object) {
    let is_alone = STATUS_ALONE.iter().any(|(group, plural)| is(resource, group, plural));
    if resource.custom.is_some() || is_alone {
        return;
    }
    for field in WRITTEN {
        let is_kept = match field {
            "labels" => is(resource, "apps", "deployments"),
            // Kubelets of old times spoilt them.
            "ownerReferences" => is(resource, "", "pods"),
            _ => false,
        };
        if is_kept {
            continue;
        }
        match said.get(&["metadata", field]) {
            Some(value) => object.set(&["metadata", field], value.clone()),
            None => drop(object.remove(&["metadata", field])),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keelson_api::Catalog;

    fn written(group: &str, plural: &str) -> Value {
        let object = |value: &str| {
            let metadata = json!({"name": "a", "labels": {"l": value}, "finalizers": [value], "ownerReferences": [{"uid": value}]});
            Object::from_value(json!({"metadata": metadata})).unwrap()
        };
        let mut live = object("old");
        write_metadata(Catalog::builtin().find(group, "v1", plural).unwrap(), &mut live, &object("new"));
        let metadata = &live.into_value()["metadata"];
        json!([metadata["labels"]["l"], metadata["finalizers"][0], metadata["ownerReferences"][0]["uid"]])
    }

    #[test]
    fn of_metadata_a_writer_of_the_status_changes_what_the_kind_allows() {
        assert_eq!(written("apps", "replicasets"), json!(["new", "new", "new"]));
        assert_eq!(written("apps", "deployments"), json!(["old", "new", "new"]));
        assert_eq!(written("", "pods"), json!(["new", "new", "old"]));
        assert_eq!(written("resource.k8s.io", "resourceclaims"), json!(["old", "old", "old"]));
    }

    #[test]
    fn every_line_is_a_resource_that_is_served() {
        let catalog = Catalog::builtin();
        let all = COUNTS.iter().map(|(group, plural, _)| (*group, *plural)).chain(STATUS_ALONE);
        for (group, plural) in all {
            let found = catalog.resources().iter().any(|it| it.group == group && it.plural == plural);
            assert!(found, "{group} {plural}");
        }
    }
}
