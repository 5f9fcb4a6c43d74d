//! Fields that 1.36 knows and does not take yet: what writers say in them is dropped, unless the object has it already.

use keelson_api::{Object, ResourceInfo};
use serde_json::{Map, Value};

use super::is;

/// Where a kind has the spec of a pod.
const PODS: [(&str, &str, &[&str]); 8] = [
    ("", "pods", &["spec"]),
    ("", "podtemplates", &["template", "spec"]),
    ("", "replicationcontrollers", &["spec", "template", "spec"]),
    ("apps", "daemonsets", &["spec", "template", "spec"]),
    ("apps", "deployments", &["spec", "template", "spec"]),
    ("apps", "replicasets", &["spec", "template", "spec"]),
    ("apps", "statefulsets", &["spec", "template", "spec"]),
    ("batch", "jobs", &["spec", "template", "spec"]),
];

/// Below the spec of a pod. `[]` is each item of a list, `*` each value of a map.
const OF_PODS: [&[&str]; 1] = [&["schedulingGroup"]];

const OTHERS: [(&str, &str, &[&str]); 7] = [
    ("", "pods", &["status", "nodeAllocatableResourceClaimStatuses"]),
    ("storage.k8s.io", "csidrivers", &["spec", "preventPodSchedulingIfMissing"]),
    ("resource.k8s.io", "resourceslices", &["spec", "devices", "[]", "nodeAllocatableResourceMappings"]),
    ("resource.k8s.io", "resourceslices", &["spec", "devices", "[]", "attributes", "*", "bools"]),
    ("resource.k8s.io", "resourceslices", &["spec", "devices", "[]", "attributes", "*", "ints"]),
    ("resource.k8s.io", "resourceslices", &["spec", "devices", "[]", "attributes", "*", "strings"]),
    ("resource.k8s.io", "resourceslices", &["spec", "devices", "[]", "attributes", "*", "versions"]),
];

/// Drops what is not taken yet and not in use.
pub(super) fn drop_fields(resource: &ResourceInfo, object: &mut Object, live: Option<&Object>) {
    if resource.custom.is_some() {
        return;
    }
    let cron: (&str, &str, &[&str]) =
        ("batch", "cronjobs", &["spec", "jobTemplate", "spec", "template", "spec"]);
    for (group, plural, spec) in PODS.iter().chain([&cron]) {
        if is(resource, group, plural) {
            OF_PODS.iter().for_each(|field| drop_field(object, live, &[spec, *field].concat()));
        }
    }
    for (group, plural, path) in OTHERS {
        if is(resource, group, plural) {
            drop_field(object, live, path);
        }
    }
}

fn drop_field(object: &mut Object, live: Option<&Object>, path: &[&str]) {
    if has(&object.0, path) && !live.is_some_and(|live| has(&live.0, path)) {
        remove(&mut object.0, path);
    }
}

fn has(fields: &Map<String, Value>, path: &[&str]) -> bool {
    let below = |value: &Value, path: &[&str]| value.as_object().is_some_and(|fields| has(fields, path));
    match path {
        ["*", rest @ ..] => fields.values().any(|value| below(value, rest)),
        [field] => fields.get(*field).is_some_and(|value| !value.is_null()),
        [field, "[]", rest @ ..] => {
            let items = fields.get(*field).and_then(Value::as_array);
            items.is_some_and(|items| items.iter().any(|item| below(item, rest)))
        }
        [field, rest @ ..] => fields.get(*field).is_some_and(|value| below(value, rest)),
        [] => false,
    }
}

fn remove(fields: &mut Map<String, Value>, path: &[&str]) {
    let below = |value: &mut Value, path: &[&str]| {
        if let Value::Object(fields) = value {
            remove(fields, path);
        }
    };
    match path {
        ["*", rest @ ..] => fields.iter_mut().for_each(|(_, value)| below(value, rest)),
        [field] => drop(fields.remove(*field)),
        [field, "[]", rest @ ..] => {
            let items = fields.get_mut(*field).and_then(Value::as_array_mut);
            items.into_iter().flatten().for_each(|item| below(item, rest));
        }
        [field, rest @ ..] => fields.get_mut(*field).into_iter().for_each(|value| below(value, rest)),
        [] => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keelson_api::Catalog;
    use serde_json::json;

    fn dropped(group: &str, plural: &str, document: Value, live: Option<Value>) -> Value {
        let catalog = Catalog::builtin();
        let mut object = Object::from_value(document).unwrap();
        let live = live.map(|live| Object::from_value(live).unwrap());
        drop_fields(catalog.find(group, "v1", plural).unwrap(), &mut object, live.as_ref());
        object.into_value()
    }

    #[test]
    fn a_field_that_is_not_taken_yet_is_dropped_unless_it_is_in_use() {
        let spec = json!({"schedulingGroup": {"podGroupName": "g"}, "nodeName": "n"});
        let kept = json!({"nodeName": "n"});
        let pod = json!({"spec": spec});
        assert_eq!(dropped("", "pods", pod.clone(), None), json!({"spec": kept}));
        assert_eq!(dropped("", "pods", pod.clone(), Some(pod.clone())), pod);
        let cron = json!({"spec": {"jobTemplate": {"spec": {"template": {"spec": spec}}}}});
        let expected = json!({"spec": {"jobTemplate": {"spec": {"template": {"spec": kept}}}}});
        assert_eq!(dropped("batch", "cronjobs", cron, None), expected);
    }

    #[test]
    fn attributes_of_devices_are_no_lists_yet() {
        let slice =
            |attribute: Value| json!({"spec": {"devices": [{"name": "d", "attributes": {"a": attribute}}]}});
        let both = slice(json!({"ints": [1], "int": 2}));
        assert_eq!(dropped("resource.k8s.io", "resourceslices", both, None), slice(json!({"int": 2})));
    }
}
