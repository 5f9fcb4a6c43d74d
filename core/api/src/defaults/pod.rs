//! Defaults of pods and pod templates.

use serde_json::{Map, Value, json};

use super::{each, fill, volume};
use crate::object::{Object, child_map};
use crate::resource_list;

/// A pod itself gets more than a template of pods does.
pub(super) fn pod(spec: &mut Map<String, Value>) {
    self::spec(spec);
    fill(spec, "enableServiceLinks", true);
    let host_network = spec.get("hostNetwork").and_then(Value::as_bool).unwrap_or(false);
    for list in ["containers", "initContainers"] {
        for it in each(spec, list) {
            requests(it);
            if host_network {
                for port in each(it, "ports") {
                    let number = port.get("containerPort").cloned().unwrap_or(Value::Null);
                    fill(port, "hostPort", number);
                }
            }
        }
    }
    requests_of_pod(spec);
}

/// A pod that limits itself as a whole asks for what its containers ask for together, or where they ask for nothing of a kind, for what
/// it may have at most.
fn requests_of_pod(spec: &mut Map<String, Value>) {
    let limits =
        spec.get("resources").and_then(|resources| resources.get("limits")).and_then(Value::as_object);
    let Some(limits) = limits.filter(|limits| !limits.is_empty()).cloned() else { return };
    let parts = ["containers", "initContainers"].map(|list| (list.to_owned(), spec.get(list).cloned()));
    let parts: Map<String, Value> = parts.into_iter().filter_map(|(list, it)| Some((list, it?))).collect();
    let together = Object::from_value(json!({ "spec": parts }))
        .map(|pod| resource_list::to_value(&resource_list::of_pod(&pod, "requests", false)));
    let requests = child_map(child_map(spec, "resources"), "requests");
    for (name, amount) in together.iter().filter_map(Value::as_object).flatten() {
        if matches!(name.as_str(), "cpu" | "memory") {
            requests.entry(name.clone()).or_insert_with(|| amount.clone());
        }
    }
    for (name, limit) in limits {
        requests.entry(name).or_insert(limit);
    }
}

/// A container asks for what it may have at most, unless it says otherwise.
fn requests(it: &mut Map<String, Value>) {
    let resources = child_map(it, "resources");
    if let Some(Value::Object(limits)) = resources.get("limits").cloned() {
        let requests = child_map(resources, "requests");
        for (name, limit) in limits {
            requests.entry(name).or_insert(limit);
        }
    }
}

/// What every pod and every template of pods has.
pub(super) fn spec(spec: &mut Map<String, Value>) {
    fill(spec, "restartPolicy", "Always");
    fill(spec, "dnsPolicy", "ClusterFirst");
    fill(spec, "terminationGracePeriodSeconds", 30);
    fill(spec, "schedulerName", "default-scheduler");
    fill(spec, "securityContext", json!({}));
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        each(spec, list).for_each(container);
    }
    each(spec, "volumes").for_each(volume::fill_in);
    if let Some(account) = spec.get("serviceAccountName").filter(|it| it.as_str() != Some("")).cloned() {
        fill(spec, "serviceAccount", account);
    } else if let Some(account) = spec.get("serviceAccount").cloned() {
        fill(spec, "serviceAccountName", account);
    }
}

fn container(it: &mut Map<String, Value>) {
    let image = it.get("image").and_then(Value::as_str).unwrap_or("");
    let last = image.rsplit('/').next().unwrap_or("");
    let latest = !image.contains('@') && (!last.contains(':') || last.ends_with(":latest"));
    fill(it, "imagePullPolicy", if latest { "Always" } else { "IfNotPresent" });
    fill(it, "terminationMessagePath", "/dev/termination-log");
    fill(it, "terminationMessagePolicy", "File");
    each(it, "ports").for_each(|port| fill(port, "protocol", "TCP"));
    child_map(it, "resources");
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(Value::Object(probe)) = it.get_mut(probe) {
            fill(probe, "timeoutSeconds", 1);
            fill(probe, "periodSeconds", 10);
            fill(probe, "successThreshold", 1);
            fill(probe, "failureThreshold", 3);
            handler(probe);
        }
    }
    if let Some(Value::Object(lifecycle)) = it.get_mut("lifecycle") {
        for hook in ["postStart", "preStop"] {
            if let Some(Value::Object(hook)) = lifecycle.get_mut(hook) {
                handler(hook);
            }
        }
    }
    for variable in each(it, "env") {
        if let Some(Value::Object(source)) = variable.get_mut("valueFrom")
            && let Some(Value::Object(field)) = source.get_mut("fieldRef")
        {
            fill(field, "apiVersion", "v1");
        }
    }
}

fn handler(it: &mut Map<String, Value>) {
    if let Some(Value::Object(get)) = it.get_mut("httpGet") {
        fill(get, "path", "/");
        fill(get, "scheme", "HTTP");
    }
    if let Some(Value::Object(grpc)) = it.get_mut("grpc") {
        grpc.entry("service").or_insert_with(|| "".into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_that_limits_itself_asks_for_what_its_containers_do_or_for_its_limits() {
        let mut given = json!({
            "resources": {"limits": {"cpu": "2", "memory": "1Gi", "hugepages-2Mi": "2Mi"}},
            "containers": [{"name": "a", "resources": {"limits": {"cpu": "500m", "hugepages-2Mi": "2Mi"}}}, {"name": "b",
                "resources": {"requests": {"cpu": "250m"}}}],
        });
        pod(given.as_object_mut().unwrap());
        let expected = json!({"cpu": "750m", "memory": "1Gi", "hugepages-2Mi": "2Mi"});
        assert_eq!(given["resources"]["requests"], expected);
        let mut plain = json!({"containers": [{"name": "a"}]});
        pod(plain.as_object_mut().unwrap());
        assert!(plain.get("resources").is_none());
    }
}
