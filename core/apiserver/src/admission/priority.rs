//! Priority: a pod's class becomes its number and its preemption policy.

use async_trait::async_trait;
use keelson_api::{GroupResource, Object, Status};
use serde_json::Value;

use super::{Admission, Attributes, Operation};
use crate::cache;
use crate::registry::Registry;

/// The plugin.
#[derive(Debug, Default)]
pub struct Priority;

/// The class that is the default; of several, the one with the lowest value.
fn default_class(registry: &Registry, classes: &GroupResource) -> Result<Option<Object>, Status> {
    let value = |class: &Object| class.get(&["value"]).and_then(Value::as_i64).unwrap_or(0);
    let mut lowest: Option<Object> = None;
    for found in registry.resource(classes).list().objects.values() {
        let class = cache::decode(&found.bytes)?;
        let is_default = class.get(&["globalDefault"]).and_then(Value::as_bool).unwrap_or(false);
        if is_default && lowest.as_ref().is_none_or(|lowest| value(&class) < value(lowest)) {
            lowest = Some(class);
        }
    }
    Ok(lowest)
}

#[async_trait]
impl Admission for Priority {
    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        attributes.is_write()
            && (attributes.is("", "pods") || attributes.is("scheduling.k8s.io", "priorityclasses"))
    }

    async fn mutate(
        &self,
        registry: &Registry,
        attributes: &Attributes<'_>,
        object: &mut Object,
    ) -> Result<(), Status> {
        let resource = attributes.resource.group_resource();
        let is_pod = resource == GroupResource::new("", "pods") && attributes.subresource.is_empty();
        if let (true, Some(old)) = (is_pod, attributes.old) {
            // A writer that leaves out what was computed keeps it.
            for path in [["spec", "priority"], ["spec", "preemptionPolicy"]] {
                if let (None, Some(value)) = (object.get(&path), old.get(&path)) {
                    object.set(&path, value.clone());
                }
            }
        }
        if !is_pod || attributes.operation != Operation::Create {
            return Ok(());
        }
        let refuse = |detail: &str| Status::forbidden(&resource, attributes.name, detail);
        let classes = GroupResource::new("scheduling.k8s.io", "priorityclasses");
        let named = object.get_str(&["spec", "priorityClassName"]).filter(|name| !name.is_empty());
        let class = match named {
            Some(name) => {
                let found = registry.resource(&classes).get(name);
                let text = format!("no PriorityClass with name {name} was found");
                Some(cache::decode(&found.ok_or_else(|| refuse(&text))?.bytes)?)
            }
            None => default_class(registry, &classes)?,
        };
        let mut priority = 0;
        let mut policy = "PreemptLowerPriority".to_owned();
        if let Some(class) = &class {
            priority = class.get(&["value"]).and_then(Value::as_i64).unwrap_or(0);
            policy = class.get_str(&["preemptionPolicy"]).unwrap_or(&policy).to_owned();
            object.set(&["spec", "priorityClassName"], class.name().unwrap_or_default().into());
        }
        let own = object.get(&["spec", "priority"]).and_then(Value::as_i64);
        if own.is_some_and(|own| own != priority) {
            return Err(refuse(&format!(
                "the integer value of priority ({}) must not be provided in pod spec; priority admission controller computed {priority} from the given PriorityClass name",
                own.unwrap_or_default()
            )));
        }
        let own = object.get_str(&["spec", "preemptionPolicy"]);
        if own.is_some_and(|own| own != policy) {
            return Err(refuse(&format!(
                "the string value of PreemptionPolicy ({}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name",
                own.unwrap_or_default()
            )));
        }
        object.set(&["spec", "priority"], priority.into());
        object.set(&["spec", "preemptionPolicy"], policy.into());
        Ok(())
    }

    async fn validate(
        &self,
        registry: &Registry,
        attributes: &Attributes<'_>,
        object: Option<&Object>,
    ) -> Result<(), Status> {
        let is_default =
            object.is_some_and(|class| class.get(&["globalDefault"]) == Some(&Value::Bool(true)));
        if !is_default || !attributes.is("scheduling.k8s.io", "priorityclasses") {
            return Ok(());
        }
        match default_class(registry, &attributes.group_resource())?.as_ref().and_then(Object::name) {
            Some(other) if other != attributes.name => Err(attributes.forbidden(&format!(
                "PriorityClass {other} is already marked as default. Only one default can exist"
            ))),
            Some(_) | None => Ok(()),
        }
    }
}
