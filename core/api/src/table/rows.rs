//! Headings and cells by kind. A heading that ends with `+` is shown with `-o wide` only.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{age, pod};
use crate::kinds::GroupVersionKind;
use crate::object::Object;

pub(super) fn headings(gvk: &GroupVersionKind) -> &'static str {
    match (gvk.group.as_str(), gvk.kind.as_str()) {
        ("", "Pod") => "Name,Ready,Status,Restarts,Age,IP+,Node+,Nominated Node+,Readiness Gates+",
        ("apps", "Deployment") => "Name,Ready,Up-to-date,Available,Age,Containers+,Images+,Selector+",
        ("apps", "ReplicaSet") => "Name,Desired,Current,Ready,Age,Containers+,Images+,Selector+",
        ("", "Service") => "Name,Type,Cluster-IP,External-IP,Port(s),Age,Selector+",
        ("", "Node") => {
            "Name,Status,Roles,Age,Version,Internal-IP+,External-IP+,OS-Image+,Kernel-Version+,Container-Runtime+"
        }
        ("", "Namespace") => "Name,Status,Age",
        ("", "ConfigMap") => "Name,Data,Age",
        ("", "Secret") => "Name,Type,Data,Age",
        ("", "Event") => "Last Seen,Type,Reason,Object,Message,Name+",
        _ => "Name,Created At",
    }
}

pub(super) fn cells(gvk: &GroupVersionKind, it: &Object, now: Timestamp) -> Vec<Value> {
    let name = || json!(it.name().unwrap_or(""));
    let old = || json!(age(it.creation_timestamp(), now));
    let number = |path: &[&str]| it.get(path).and_then(Value::as_i64).unwrap_or(0);
    let text = |path: &[&str]| it.get_str(path).filter(|text| !text.is_empty()).unwrap_or("<none>");
    let size = |field: &str| it.get(&[field]).and_then(Value::as_object).map_or(0, serde_json::Map::len);
    match (gvk.group.as_str(), gvk.kind.as_str()) {
        ("", "Pod") => pod::cells(it, now),
        ("apps", "Deployment") => {
            let ready = format!("{}/{}", number(&["status", "readyReplicas"]), number(&["spec", "replicas"]));
            let (updated, available) = (["status", "updatedReplicas"], ["status", "availableReplicas"]);
            let mut row =
                vec![name(), json!(ready), json!(number(&updated)), json!(number(&available)), old()];
            row.extend(template(it));
            row
        }
        ("apps", "ReplicaSet") => {
            let mut row = vec![
                name(),
                json!(number(&["spec", "replicas"])),
                json!(number(&["status", "replicas"])),
                json!(number(&["status", "readyReplicas"])),
                old(),
            ];
            row.extend(template(it));
            row
        }
        ("", "Service") => service(it, old()),
        ("", "Node") => node(it, old()),
        ("", "Namespace") => vec![name(), json!(text(&["status", "phase"])), old()],
        ("", "ConfigMap") => vec![name(), json!(size("data") + size("binaryData")), old()],
        ("", "Secret") => vec![name(), json!(text(&["type"])), json!(size("data")), old()],
        ("", "Event") => {
            let seen = it.get_str(&["lastTimestamp"]).or_else(|| it.get_str(&["eventTime"]));
            let part = |field: &str| it.get_str(&["involvedObject", field]).unwrap_or("");
            vec![
                json!(age(seen.or(it.creation_timestamp()), now)),
                json!(it.get_str(&["type"]).unwrap_or("")),
                json!(it.get_str(&["reason"]).unwrap_or("")),
                json!(format!("{}/{}", part("kind").to_lowercase(), part("name"))),
                json!(it.get_str(&["message"]).unwrap_or("").trim()),
                name(),
            ]
        }
        _ => vec![name(), json!(it.creation_timestamp().unwrap_or(""))],
    }
}

fn pairs(map: Option<&Value>) -> String {
    let pairs: Vec<String> = map
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or("")))
        .collect();
    if pairs.is_empty() { "<none>".to_owned() } else { pairs.join(",") }
}

fn template(it: &Object) -> [Value; 3] {
    let containers = it.get(&["spec", "template", "spec", "containers"]).and_then(Value::as_array);
    let all = |field: &str| {
        let texts = containers.into_iter().flatten().filter_map(|container| container.get(field)?.as_str());
        json!(texts.collect::<Vec<_>>().join(","))
    };
    [all("name"), all("image"), json!(pairs(it.get(&["spec", "selector", "matchLabels"])))]
}

fn service(it: &Object, old: Value) -> Vec<Value> {
    let text = |field: &str| it.get_str(&["spec", field]).filter(|text| !text.is_empty());
    let mut external: Vec<&str> = Vec::new();
    for ingress in
        it.get(&["status", "loadBalancer", "ingress"]).and_then(Value::as_array).into_iter().flatten()
    {
        external.extend(ingress.get("ip").or_else(|| ingress.get("hostname")).and_then(Value::as_str));
    }
    let listed = it.get(&["spec", "externalIPs"]).and_then(Value::as_array);
    external.extend(listed.into_iter().flatten().filter_map(Value::as_str));
    external.extend(text("externalName").filter(|_| text("type") == Some("ExternalName")));
    let external = match (external.is_empty(), text("type")) {
        (true, Some("LoadBalancer")) => "<pending>".to_owned(),
        (true, _) => "<none>".to_owned(),
        (false, _) => external.join(","),
    };
    let ports: Vec<String> = it
        .get(&["spec", "ports"])
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|port| {
            let number = |field: &str| port.get(field).and_then(Value::as_i64).unwrap_or(0);
            let protocol = port.get("protocol").and_then(Value::as_str).unwrap_or("TCP");
            match number("nodePort") {
                0 => format!("{}/{protocol}", number("port")),
                node => format!("{}:{node}/{protocol}", number("port")),
            }
        })
        .collect();
    let ports = if ports.is_empty() { "<none>".to_owned() } else { ports.join(",") };
    vec![
        json!(it.name().unwrap_or("")),
        json!(text("type").unwrap_or("")),
        json!(text("clusterIP").unwrap_or("<none>")),
        json!(external),
        json!(ports),
        old,
        json!(pairs(it.get(&["spec", "selector"]))),
    ]
}

fn node(it: &Object, old: Value) -> Vec<Value> {
    let list = |field: &str| it.get(&["status", field]).and_then(Value::as_array).into_iter().flatten();
    let is = |value: &Value, field: &str, want: &str| value.get(field).and_then(Value::as_str) == Some(want);
    let mut status = match list("conditions").find(|condition| is(condition, "type", "Ready")) {
        Some(condition) if is(condition, "status", "True") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if it.get(&["spec", "unschedulable"]) == Some(&Value::Bool(true)) {
        status.push_str(",SchedulingDisabled");
    }
    let labels = it.labels().into_iter().flatten();
    let roles: Vec<&str> =
        labels.filter_map(|(key, _)| key.strip_prefix("node-role.kubernetes.io/")).collect();
    let roles = if roles.is_empty() { "<none>".to_owned() } else { roles.join(",") };
    let address = |kind: &str| {
        let found = list("addresses").find(|address| is(address, "type", kind));
        json!(found.and_then(|address| address.get("address")?.as_str()).unwrap_or("<none>"))
    };
    let info = |field: &str| json!(it.get_str(&["status", "nodeInfo", field]).unwrap_or("<unknown>"));
    vec![
        json!(it.name().unwrap_or("")),
        json!(status),
        json!(roles),
        old,
        info("kubeletVersion"),
        address("InternalIP"),
        address("ExternalIP"),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}
