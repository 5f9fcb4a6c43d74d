//! What the server says about a pod itself: its class of service, and why it is not scheduled.

use keelson_api::Object;
use keelson_api::object::format_time;
use keelson_api::quality_of_service::quality_of_service;
use serde_json::{Value, json};

/// A new pod with what follows from the rest of it, once that is final: selectors with its own labels, its status.
pub(super) fn finish(pod: &mut Object, now: jiff::Timestamp) {
    merge_label_keys(pod);
    take_app_armor(pod);
    let class = quality_of_service(pod);
    pod.set(&["status", "qosClass"], class.into());
    let gated = pod.get(&["spec", "schedulingGates"]).and_then(Value::as_array);
    if gated.is_some_and(|gates| !gates.is_empty()) {
        pod.set(
            &["status", "conditions"],
            json!([{
                "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
                "lastProbeTime": null, "lastTransitionTime": format_time(now),
            }]),
        );
    }
}

/// Adds to selectors the labels of the pod itself that terms and constraints name by their keys.
fn merge_label_keys(pod: &mut Object) {
    let labels = pod.get(&["metadata", "labels"]).and_then(Value::as_object).cloned().unwrap_or_default();
    let Some(spec) = pod.0.get_mut("spec") else { return };
    let lists = ["podAffinity", "podAntiAffinity"].into_iter().flat_map(|kind| {
        [
            (format!("/affinity/{kind}/requiredDuringSchedulingIgnoredDuringExecution"), ""),
            (format!("/affinity/{kind}/preferredDuringSchedulingIgnoredDuringExecution"), "/podAffinityTerm"),
        ]
    });
    for (list, term) in lists.chain([("/topologySpreadConstraints".to_owned(), "")]) {
        let items = spec.pointer_mut(&list).and_then(Value::as_array_mut);
        for item in items.into_iter().flatten().filter_map(|item| item.pointer_mut(term)) {
            for (field, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
                let keys = item.get(field).and_then(Value::as_array).into_iter().flatten();
                let known = keys.filter_map(|key| Some((key, labels.get(key.as_str()?)?)));
                let new: Vec<Value> = known
                    .map(|(key, value)| json!({"key": key, "operator": operator, "values": [value]}))
                    .collect();
                // No selector selects nothing, and goes on to do so.
                let selector = item.get_mut("labelSelector").and_then(Value::as_object_mut);
                if let Some(selector) = selector.filter(|_| !new.is_empty())
                    && let Value::Array(all) = selector.entry("matchExpressions").or_insert_with(|| json!([]))
                {
                    all.extend(new);
                }
            }
        }
    }
}

/// What a writer of the status leaves out and what nobody may change.
pub(super) fn keep(pod: &mut Object, live: &Object) {
    if let Some(class) = live.get(&["status", "qosClass"]) {
        pod.set(&["status", "qosClass"], class.clone());
    }
    keep_generations(pod, live);
}

const OBSERVED: &str = "observedGeneration";

/// Clients of before do not know which generation a status and its conditions are about.
fn keep_generations(pod: &mut Object, live: &Object) {
    let is_unset = |value: Option<&Value>| value.and_then(Value::as_i64).unwrap_or(0) == 0;
    if is_unset(pod.get(&["status", OBSERVED]))
        && let Some(known) = live.get(&["status", OBSERVED])
    {
        pod.set(&["status", OBSERVED], known.clone());
    }
    let conditions = |pod: &Object| pod.get(&["status", "conditions"]).and_then(Value::as_array).cloned();
    let mut known = conditions(live).unwrap_or_default();
    let Some(mut said) = conditions(pod) else { return };
    for one in said.iter_mut().filter_map(Value::as_object_mut) {
        let Some(place) = known.iter().position(|before| before.get("type") == one.get("type")) else {
            continue;
        };
        // A type may be there more than once.
        let before = known.remove(place);
        if let (true, Some(generation)) = (is_unset(one.get(OBSERVED)), before.get(OBSERVED)) {
            one.insert(OBSERVED.to_owned(), generation.clone());
        }
    }
    pod.set(&["status", "conditions"], said.into());
}

/// A container's profile that is named as it was before there was a field for it.
fn take_app_armor(pod: &mut Object) {
    const KEY: &str = "container.apparmor.security.beta.kubernetes.io/";
    if pod.get_str(&["spec", "os", "name"]) == Some("windows") {
        return;
    }
    let annotations = pod.annotations().cloned().unwrap_or_default();
    let profile = |container: &str| match annotations.get(&format!("{KEY}{container}"))?.as_str()? {
        "unconfined" => Some(json!({"type": "Unconfined"})),
        "runtime/default" => Some(json!({"type": "RuntimeDefault"})),
        text => {
            let file =
                text.strip_prefix("localhost/").filter(|file| !file.is_empty() && file.trim() == *file)?;
            Some(json!({"type": "Localhost", "localhostProfile": file}))
        }
    };
    let of_pod = pod.get(&["spec", "securityContext", "appArmorProfile"]).cloned();
    let Some(spec) = pod.0.get_mut("spec") else { return };
    for list in ["initContainers", "containers"] {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten();
        for container in containers.filter_map(Value::as_object_mut) {
            let name = container.get("name").and_then(Value::as_str).unwrap_or_default();
            let Some(profile) = profile(name).filter(|profile| Some(profile) != of_pod.as_ref()) else {
                continue;
            };
            let context = container.entry("securityContext").or_insert_with(|| json!({}));
            if context.is_null() {
                *context = json!({});
            }
            if let Some(context) = context.as_object_mut()
                && context.get("appArmorProfile").is_none_or(Value::is_null)
            {
                context.insert("appArmorProfile".to_owned(), profile);
            }
        }
    }
}

/// Of a write through `resize` takes what containers ask for, and how they take its change.
pub(super) fn resize(pod: &mut Object, live: &Object) {
    let mut resized = live.clone();
    // What a pod asks for as a whole changes if it has asked for something.
    let has_own = live.get(&["spec", "resources"]).is_some_and(Value::is_object);
    if let Some(own) = pod.get(&["spec", "resources"]).filter(|own| has_own && own.is_object()) {
        resized.set(&["spec", "resources"], own.clone());
    }
    for list in ["containers", "initContainers"] {
        let asked = pod.get(&["spec", list]).and_then(Value::as_array).cloned().unwrap_or_default();
        let Some(Value::Array(containers)) = resized.0.get_mut("spec").and_then(|spec| spec.get_mut(list))
        else {
            continue;
        };
        for container in containers.iter_mut().filter_map(Value::as_object_mut) {
            let Some(asked) = asked.iter().find(|asked| asked.get("name") == container.get("name")) else {
                continue;
            };
            for field in ["resources", "resizePolicy"] {
                match asked.get(field) {
                    Some(value) => drop(container.insert(field.to_owned(), value.clone())),
                    None => drop(container.remove(field)),
                }
            }
        }
    }
    resized.set_resource_version(pod.resource_version());
    *pod = resized;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_get_the_pods_own_labels_whose_keys_are_named() {
        let pod = json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {
            "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm":
                {"topologyKey": "t", "labelSelector": {}, "matchLabelKeys": ["a", "none"], "mismatchLabelKeys": ["b"]}}]}},
            "topologySpreadConstraints": [
                {"matchLabelKeys": ["a"], "labelSelector": {"matchLabels": {"x": "y"}}}, {"matchLabelKeys": ["a"]}],
        }});
        let mut pod = Object::from_value(pod).unwrap();
        merge_label_keys(&mut pod);
        let spec = pod.get(&["spec"]).unwrap();
        let list = &spec["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"];
        let is = |key: &str, operator: &str, value: &str| json!({"key": key, "operator": operator, "values": [value]});
        let expected = json!([is("a", "In", "1"), is("b", "NotIn", "2")]);
        assert_eq!(list[0]["podAffinityTerm"]["labelSelector"]["matchExpressions"], expected);
        let constraints = &spec["topologySpreadConstraints"];
        assert_eq!(constraints[0]["labelSelector"]["matchExpressions"], json!([is("a", "In", "1")]));
        assert!(constraints[1]["labelSelector"].is_null());
    }

    #[test]
    fn an_annotation_of_before_becomes_the_field_that_is_acted_on() {
        let key = |name: &str| format!("container.apparmor.security.beta.kubernetes.io/{name}");
        let pod = json!({"metadata": {"annotations": {
                key("a"): "localhost/own", key("b"): "runtime/default", key("c"): "unconfined", key("d"): "nothing"}},
            "spec": {"securityContext": {"appArmorProfile": {"type": "Unconfined"}}, "containers": [{"name": "a"},
                {"name": "b", "securityContext": {"appArmorProfile": {"type": "Unconfined"}}}, {"name": "c"}, {"name": "d"}]}});
        let mut pod = Object::from_value(pod).unwrap();
        take_app_armor(&mut pod);
        let of = |place: usize| &pod.get(&["spec", "containers"]).unwrap()[place]["securityContext"]["appArmorProfile"];
        assert_eq!(*of(0), json!({"type": "Localhost", "localhostProfile": "own"}));
        assert_eq!(*of(1), json!({"type": "Unconfined"}));
        assert!(of(2).is_null() && of(3).is_null());
    }

    #[test]
    fn a_status_of_a_client_that_knows_no_generations_keeps_them() {
        let live = json!({"status": {"observedGeneration": 3, "conditions": [
            {"type": "Ready", "observedGeneration": 2}, {"type": "Own", "observedGeneration": 3}]}});
        let said = json!({"status": {"conditions": [{"type": "Own", "status": "True"}, {"type": "New"},
            {"type": "Ready", "observedGeneration": 3}]}});
        let mut pod = Object::from_value(said).unwrap();
        keep(&mut pod, &Object::from_value(live).unwrap());
        assert_eq!(
            pod.get(&["status"]).unwrap(),
            &json!({"observedGeneration": 3, "conditions": [
            {"type": "Own", "status": "True", "observedGeneration": 3}, {"type": "New"}, {"type": "Ready", "observedGeneration": 3}]})
        );
    }
}
