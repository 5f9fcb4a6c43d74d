//! TaintNodesByCondition: a new node takes pods only once it has been found ready.

use async_trait::async_trait;
use keelson_api::{Object, Status};
use serde_json::{Value, json};

use super::{Admission, Attributes, Operation};
use crate::registry::Registry;

const NOT_READY: &str = "node.kubernetes.io/not-ready";

/// The plugin.
#[derive(Debug, Default)]
pub struct TaintNodesByCondition;

fn taint(node: &mut Object) {
    let mut taints = node.get(&["spec", "taints"]).and_then(Value::as_array).cloned().unwrap_or_default();
    if taints.iter().all(|taint| taint["key"] != NOT_READY || taint["effect"] != "NoSchedule") {
        taints.push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
        node.set(&["spec", "taints"], taints.into());
    }
}

#[async_trait]
impl Admission for TaintNodesByCondition {
    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        attributes.operation == Operation::Create && attributes.is("", "nodes")
    }

    async fn mutate(
        &self,
        _registry: &Registry,
        _attributes: &Attributes<'_>,
        object: &mut Object,
    ) -> Result<(), Status> {
        taint(object);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_tainted_once_and_keeps_its_own_taints() {
        let own = json!({"key": "a", "effect": "NoSchedule"});
        let mut node = Object::from_value(json!({"spec": {"taints": [own]}})).unwrap();
        taint(&mut node);
        taint(&mut node);
        let taints = node.get(&["spec", "taints"]).unwrap();
        assert_eq!(*taints, json!([own, {"key": NOT_READY, "effect": "NoSchedule"}]));
    }
}
