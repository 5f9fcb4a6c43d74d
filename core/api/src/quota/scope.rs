//! The scopes of a quota: of which pods and claims it is about.

use serde_json::Value;

use crate::kinds::GroupResource;
use crate::object::Object;
use crate::resource_list::containers;

/// A scope, or a requirement on one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    /// The scope's name.
    pub scope: String,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    pub operator: String,
    /// The values.
    pub values: Vec<String>,
}

/// What an object has to fulfil for a quota, or an entry of a configuration with the same fields, to be about it.
pub fn selectors(quota: &Object) -> Vec<Selector> {
    let plain = quota.get(&["spec", "scopes"]).and_then(Value::as_array).into_iter().flatten();
    let plain = plain.filter_map(Value::as_str).map(|scope| Selector {
        scope: scope.to_owned(),
        operator: "Exists".to_owned(),
        values: Vec::new(),
    });
    let listed = quota.get(&["spec", "scopeSelector", "matchExpressions"]).and_then(Value::as_array);
    let listed = listed.into_iter().flatten().map(|it| {
        let values =
            it.get("values").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        Selector {
            scope: it["scopeName"].as_str().unwrap_or_default().to_owned(),
            operator: it["operator"].as_str().unwrap_or_default().to_owned(),
            values: values.map(str::to_owned).collect(),
        }
    });
    plain.chain(listed).collect()
}

impl Selector {
    /// Whether it holds of an object; never of a kind that the scope is not about.
    pub fn holds(&self, resource: &GroupResource, object: &Object) -> bool {
        let is = |group: &str, plural: &str| resource.group == group && resource.resource == plural;
        if is("", "persistentvolumeclaims") {
            return self.scope == "VolumeAttributesClass"
                && self.holds_of_classes(&attribute_classes(object));
        }
        if !is("", "pods") {
            return false;
        }
        match self.scope.as_str() {
            "Terminating" => is_terminating(object),
            "NotTerminating" => !is_terminating(object),
            "BestEffort" => is_best_effort(object),
            "NotBestEffort" => !is_best_effort(object),
            "PriorityClass" => {
                let class = object.get_str(&["spec", "priorityClassName"]).filter(|it| !it.is_empty());
                self.holds_of_classes(&class.into_iter().collect::<Vec<_>>())
            }
            "CrossNamespacePodAffinity" => crosses_namespaces(object),
            _ => false,
        }
    }

    fn holds_of_classes(&self, classes: &[&str]) -> bool {
        let listed = || classes.iter().any(|class| self.values.iter().any(|value| value == class));
        match self.operator.as_str() {
            "Exists" => !classes.is_empty(),
            "DoesNotExist" => classes.is_empty(),
            "In" => listed(),
            "NotIn" => !listed(),
            _ => false,
        }
    }
}

fn is_terminating(pod: &Object) -> bool {
    pod.get(&["spec", "activeDeadlineSeconds"]).and_then(Value::as_i64).is_some_and(|seconds| seconds >= 0)
}

/// Whether no container asks for or limits anything.
fn is_best_effort(pod: &Object) -> bool {
    let says = |resources: Option<&Value>| {
        ["requests", "limits"].iter().any(|which| {
            let list = resources.and_then(|it| it.get(which)).and_then(Value::as_object);
            ["cpu", "memory"].iter().any(|name| list.is_some_and(|list| list.contains_key(*name)))
        })
    };
    let mut all = containers(pod, "containers").chain(containers(pod, "initContainers"));
    !says(pod.get(&["spec", "resources"])) && !all.any(|container| says(container.get("resources")))
}

/// Whether a pod wants to be near, or far from, pods of other namespaces.
fn crosses_namespaces(pod: &Object) -> bool {
    const KINDS: [&str; 2] = ["podAffinity", "podAntiAffinity"];
    let names_others = |term: &Value| {
        let named = term.get("namespaces").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
        named || term.get("namespaceSelector").is_some_and(|selector| !selector.is_null())
    };
    KINDS.iter().any(|kind| {
        let Some(affinity) = pod.get(&["spec", "affinity", kind]) else { return false };
        let list = |field: &str| affinity.get(field).and_then(Value::as_array).into_iter().flatten();
        list("requiredDuringSchedulingIgnoredDuringExecution").any(names_others)
            || list("preferredDuringSchedulingIgnoredDuringExecution")
                .any(|weighted| weighted.get("podAffinityTerm").is_some_and(names_others))
    })
}

fn attribute_classes(claim: &Object) -> Vec<&str> {
    let paths: [&[&str]; 3] = [
        &["spec", "volumeAttributesClassName"],
        &["status", "currentVolumeAttributesClassName"],
        &["status", "modifyVolumeStatus", "targetVolumeAttributesClassName"],
    ];
    paths.into_iter().filter_map(|path| claim.get_str(path)).filter(|name| !name.is_empty()).collect()
}
