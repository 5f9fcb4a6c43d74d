//! DefaultTolerationSeconds: a pod stays five minutes on a node that is not ready or cannot be reached.

use async_trait::async_trait;
use keelson_api::{Object, Status};
use serde_json::{Value, json};

use super::{Admission, Attributes};
use crate::registry::Registry;

const SECONDS: i64 = 300;
const TAINTS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

/// The plugin.
#[derive(Debug, Default)]
pub struct DefaultTolerationSeconds;

fn tolerates(toleration: &Value, taint: &str) -> bool {
    let text = |field: &str| toleration.get(field).and_then(Value::as_str).unwrap_or("");
    matches!(text("key"), key if key == taint || key.is_empty()) && matches!(text("effect"), "NoExecute" | "")
}

fn add(pod: &mut Object) {
    let mut tolerations =
        pod.get(&["spec", "tolerations"]).and_then(Value::as_array).cloned().unwrap_or_default();
    let before = tolerations.len();
    for taint in TAINTS {
        if !tolerations[..before].iter().any(|it| tolerates(it, taint)) {
            tolerations.push(json!({
                "key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS,
            }));
        }
    }
    if tolerations.len() > before {
        pod.set(&["spec", "tolerations"], tolerations.into());
    }
}

#[async_trait]
impl Admission for DefaultTolerationSeconds {
    fn handles(&self, attributes: &Attributes<'_>) -> bool {
        // On an update too: whoever sets the list anew gets the same one.
        attributes.is_write() && attributes.is("", "pods")
    }

    async fn mutate(
        &self,
        _registry: &Registry,
        _attributes: &Attributes<'_>,
        object: &mut Object,
    ) -> Result<(), Status> {
        add(object);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_pod_says_itself_stays() {
        let own =
            json!({"key": TAINTS[0], "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5});
        let mut pod = Object::from_value(json!({"spec": {"tolerations": [own]}})).unwrap();
        add(&mut pod);
        let tolerations = pod.get(&["spec", "tolerations"]).unwrap().as_array().unwrap().clone();
        assert_eq!(tolerations.len(), 2);
        assert_eq!(tolerations[0], own);
        assert_eq!(tolerations[1]["key"], TAINTS[1]);
    }
}
