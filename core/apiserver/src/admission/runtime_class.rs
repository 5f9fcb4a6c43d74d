//! RuntimeClass: a pod names one that is there, and takes its overhead and the nodes that know it.

use async_trait::async_trait;
use keelson_api::{GroupResource, Object, Status};
use serde_json::{Map, Value};

use super::{Admission, Attributes, Operation};
use crate::cache;
use crate::registry::Registry;

/// The plugin.
#[derive(Debug, Default)]
pub struct RuntimeClass;

/// Takes over what a class says of its pods; the text of the refusal where the pod says otherwise.
fn take_over(pod: &mut Object, class: &Object) -> Result<(), String> {
    let overhead = class.get(&["overhead", "podFixed"]).filter(|it| !it.is_null());
    match (pod.get(&["spec", "overhead"]).filter(|it| !it.is_null()), overhead) {
        (None, Some(overhead)) => pod.set(&["spec", "overhead"], overhead.clone()),
        (Some(own), overhead) if Some(own) != overhead => {
            return Err(
                "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead".to_owned()
            );
        }
        (Some(_) | None, _) => {}
    }
    let wanted = class.get(&["scheduling", "nodeSelector"]).and_then(Value::as_object);
    if let Some(wanted) = wanted.filter(|it| !it.is_empty()) {
        let own = pod.get(&["spec", "nodeSelector"]).and_then(Value::as_object);
        let mut merged: Map<String, Value> = own.cloned().unwrap_or_default();
        for (label, value) in wanted {
            let own = merged.insert(label.clone(), value.clone());
            if let Some(own) = own.filter(|own| own != value) {
                return Err(format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{label}] = {}; pod.spec.nodeSelector[{label}] = {}",
                    value.as_str().unwrap_or_default(),
                    own.as_str().unwrap_or_default()
                ));
            }
        }
        pod.set(&["spec", "nodeSelector"], merged.into());
    }
    let tolerations = class.get(&["scheduling", "tolerations"]).and_then(Value::as_array);
    if let Some(wanted) = tolerations.filter(|it| !it.is_empty()) {
        let own = pod.get(&["spec", "tolerations"]).and_then(Value::as_array);
        let mut all: Vec<Value> = own.cloned().unwrap_or_default();
        all.extend(wanted.iter().filter(|it| !own.is_some_and(|own| own.contains(it))).cloned());
        pod.set(&["spec", "tolerations"], all.into());
    }
    Ok(())
}

#[async_trait]
impl Admission for RuntimeClass {
    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        attributes.operation == Operation::Create && attributes.is("", "pods")
    }

    async fn mutate(
        &self,
        registry: &Registry,
        attributes: &Attributes<'_>,
        object: &mut Object,
    ) -> Result<(), Status> {
        let resource = attributes.resource.group_resource();
        let is_pod = resource == GroupResource::new("", "pods") && attributes.subresource.is_empty();
        if !is_pod || attributes.operation != Operation::Create {
            return Ok(());
        }
        let refuse = |detail: &str| Status::forbidden(&resource, attributes.name, detail);
        let named = object.get_str(&["spec", "runtimeClassName"]).filter(|name| !name.is_empty());
        let Some(name) = named else {
            let has_overhead = object.get(&["spec", "overhead"]).is_some_and(|it| !it.is_null());
            return if has_overhead {
                Err(refuse(
                    "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
                ))
            } else {
                Ok(())
            };
        };
        let classes = GroupResource::new("node.k8s.io", "runtimeclasses");
        let missing = format!("pod rejected: RuntimeClass {name:?} not found");
        let found = registry.resource(&classes).get(name).ok_or_else(|| refuse(&missing))?;
        let class = cache::decode(&found.bytes)?;
        take_over(object, &class).map_err(|text| refuse(&text))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_takes_what_its_class_says_and_may_not_contradict_it() {
        let class = Object::from_value(json!({
            "overhead": {"podFixed": {"cpu": "100m"}},
            "scheduling": {"nodeSelector": {"runtime": "vm"}, "tolerations": [{"key": "vm", "operator": "Exists"}]},
        }))
        .unwrap();
        let pod = |spec: Value| Object::from_value(json!({"spec": spec})).unwrap();
        let mut plain = pod(json!({"nodeSelector": {"a": "b"}}));
        take_over(&mut plain, &class).unwrap();
        assert_eq!(plain.get(&["spec", "overhead"]), Some(&json!({"cpu": "100m"})));
        assert_eq!(plain.get(&["spec", "nodeSelector"]), Some(&json!({"a": "b", "runtime": "vm"})));
        assert_eq!(plain.get(&["spec", "tolerations"]).unwrap()[0]["key"], "vm");
        assert!(take_over(&mut pod(json!({"overhead": {"cpu": "1"}})), &class).is_err());
        assert!(take_over(&mut pod(json!({"nodeSelector": {"runtime": "other"}})), &class).is_err());
    }
}
