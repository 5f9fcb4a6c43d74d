//! Defaults of pods and pod templates.

use serde_json::{Map, Value, json};

use super::{each, fill, volume};
use crate::object::child_map;

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
