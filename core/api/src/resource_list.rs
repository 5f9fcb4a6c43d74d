//! Amounts by resource: what containers and pods ask for, added up as the scheduler and quotas count them.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::object::Object;
use crate::quantity::Amount;

/// Amounts by the names of resources.
pub type ResourceList = BTreeMap<String, Amount>;

/// Reads a `ResourceList` of the API; what is no quantity is left out.
pub fn read(value: Option<&Value>) -> ResourceList {
    let mut list = ResourceList::new();
    for (name, amount) in value.and_then(Value::as_object).into_iter().flatten() {
        let amount = match amount {
            Value::String(text) => Amount::parse(text).ok(),
            other => other.as_i64().map(Amount::whole),
        };
        list.extend(amount.map(|amount| (name.clone(), amount)));
    }
    list
}

/// The list as the API writes it.
pub fn to_value(list: &ResourceList) -> Value {
    list.iter()
        .map(|(name, amount)| (name.clone(), Value::from(amount.to_string())))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// Adds each amount of `other`.
pub fn add(list: &mut ResourceList, other: &ResourceList) {
    for (name, amount) in other {
        let sum = list.get(name).copied().unwrap_or_default().plus(*amount);
        list.insert(name.clone(), sum);
    }
}

fn raise(list: &mut ResourceList, other: &ResourceList) {
    for (name, amount) in other {
        let most = list.get(name).map_or(*amount, |own| own.max(*amount));
        list.insert(name.clone(), most);
    }
}

/// The containers in a field of a pod's spec.
pub fn containers<'a>(pod: &'a Object, field: &str) -> impl Iterator<Item = &'a Value> {
    pod.get(&["spec", field]).and_then(Value::as_array).into_iter().flatten()
}

/// What a pod asks for (`requests`) or may use (`limits`) while it runs: its containers and the init containers that
/// stay, or one init container with those before it that stay, whichever is more. What the pod says for itself as a
/// whole stands above both. With `overhead` what the pod's runtime takes is added.
pub fn of_pod(pod: &Object, which: &str, overhead: bool) -> ResourceList {
    let own = |container: &Value| read(container.get("resources").and_then(|it| it.get(which)));
    let mut sum = ResourceList::new();
    for container in containers(pod, "containers") {
        add(&mut sum, &own(container));
    }
    let (mut staying, mut first) = (ResourceList::new(), ResourceList::new());
    for container in containers(pod, "initContainers") {
        let mut needs = own(container);
        if container.get("restartPolicy").and_then(Value::as_str) == Some("Always") {
            add(&mut sum, &needs);
            add(&mut staying, &needs);
            needs = staying.clone();
        } else {
            add(&mut needs, &staying);
        }
        raise(&mut first, &needs);
    }
    raise(&mut sum, &first);
    for (name, amount) in read(pod.get(&["spec", "resources", which])) {
        sum.insert(name, amount);
    }
    if overhead {
        let extra = read(pod.get(&["spec", "overhead"]));
        // Who may use without limit may go on to.
        let extra =
            extra.into_iter().filter(|(name, _)| which == "requests" || sum.contains_key(name)).collect();
        add(&mut sum, &extra);
    }
    sum
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_needs_what_it_needs_at_its_largest_moment() {
        let container = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}}});
        let mut sidecar = container("100m");
        sidecar["restartPolicy"] = "Always".into();
        let spec = json!({"containers": [container("200m"), container("300m")],
            "initContainers": [container("50m"), sidecar, container("700m")], "overhead": {"cpu": "1m", "memory": "1Mi"}});
        let pod = Object::from_value(json!({"spec": spec})).unwrap();
        assert_eq!(of_pod(&pod, "requests", false)["cpu"].to_string(), "800m");
        assert_eq!(to_value(&of_pod(&pod, "requests", true)), json!({"cpu": "801m", "memory": "1Mi"}));
        assert!(of_pod(&pod, "limits", true).is_empty());
    }
}
