//! The class of service of a pod: who has to go first when a node runs out of something.

use serde_json::Value;

use crate::object::Object;
use crate::quantity::Quantity;

/// `Guaranteed` where every container has limits that equal its requests, `BestEffort` where none has either.
pub fn quality_of_service(pod: &Object) -> &'static str {
    const RESOURCES: [&str; 2] = ["cpu", "memory"];
    let list = |field: &str| pod.get(&["spec", field]).and_then(Value::as_array).into_iter().flatten();
    let amount = |resources: Option<&Value>, kind: &str, name: &str| {
        let text = resources?.get(kind)?.get(name)?.as_str()?;
        Quantity::parse(text).ok().filter(|quantity| *quantity > Quantity::ZERO)
    };
    let own = pod.get(&["spec", "resources"]).filter(|resources| resources.is_object());
    let containers = list("containers").chain(list("initContainers")).map(|it| it.get("resources"));
    let all: Vec<Option<&Value>> = match own {
        Some(resources) => vec![Some(resources)],
        None => containers.collect(),
    };
    let (mut any, mut guaranteed) = (false, true);
    for resources in all {
        for name in RESOURCES {
            let (limit, request) = (amount(resources, "limits", name), amount(resources, "requests", name));
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && limit == request;
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn class(resources: &[Value]) -> &'static str {
        let containers: Vec<Value> = resources.iter().map(|it| json!({"resources": it})).collect();
        quality_of_service(&Object::from_value(json!({"spec": {"containers": containers}})).unwrap())
    }

    #[test]
    fn a_pod_is_guaranteed_when_each_container_gets_what_it_may_use() {
        let full =
            json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1Gi"}});
        assert_eq!(class(std::slice::from_ref(&full)), "Guaranteed");
        assert_eq!(class(&[full.clone(), json!({})]), "Burstable");
        assert_eq!(class(&[json!({"requests": {"cpu": "1"}})]), "Burstable");
        assert_eq!(class(&[json!({}), json!({"requests": {"cpu": "0"}})]), "BestEffort");
    }
}
