//! (pure) Whether a pod fits on the node beside those that it has taken.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ContainerPort, Taint};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::node_affinity;
use crate::memory::Why;
use crate::pod::{Kind, PodModel};
use crate::resources;

/// What the node is and has.
#[derive(Debug, Clone, Default)]
pub(crate) struct Place {
    /// Its name.
    pub(crate) name: String,
    /// What pods may have of it.
    pub(crate) allocatable: BTreeMap<String, Quantity>,
    /// Its labels and taints; unknown before the Node was read.
    pub(crate) known: Option<(BTreeMap<String, String>, Vec<Taint>)>,
}

/// Why a pod does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Misfit {
    /// There is too little of something, in thousandths of a CPU, bytes or pieces.
    Insufficient {
        /// Of what.
        resource: String,
        /// What the pod asks for.
        requested: i128,
        /// What the others have asked for.
        used: i128,
        /// What there is.
        capacity: i128,
    },
    /// Something else stands against it: its name, and what it is.
    Predicate(&'static str, &'static str),
}

impl Misfit {
    /// The reason of the pod's status.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Insufficient { resource, .. } => format!("OutOf{resource}"),
            Self::Predicate(name, _) => (*name).to_owned(),
        }
    }

    /// The resource of which there is too little.
    pub(crate) fn resource(&self) -> Option<&str> {
        match self {
            Self::Insufficient { resource, .. } => Some(resource),
            Self::Predicate(..) => None,
        }
    }

    /// The message of the pod's status.
    pub(crate) fn message(&self) -> String {
        match self {
            Self::Insufficient { resource, requested, used, capacity } => format!(
                "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
            ),
            Self::Predicate(name, what) => format!("Predicate {name} failed: {what}"),
        }
    }

    /// Whether the Node's labels or taints are against it, which may have changed since they were read.
    pub(crate) fn is_of_node(&self) -> bool {
        matches!(self, Self::Predicate("NodeAffinity" | "TaintToleration", _))
    }
}

/// Thousandths of CPU as they are, everything else in whole units.
fn amount(name: &str, milli: i128) -> i128 {
    if name == "cpu" { milli } else { milli.div_euclid(1000) + i128::from(milli.rem_euclid(1000) != 0) }
}

/// What a pod asks for of a resource.
pub(super) fn request(pod: &PodModel, name: &str) -> i128 {
    if name == "pods" { 1 } else { amount(name, resources::request(pod, name)) }
}

fn ports(pod: &PodModel) -> impl Iterator<Item = &ContainerPort> {
    let members = pod.members.iter().filter(|one| matches!(one.kind, Kind::Regular | Kind::Sidecar));
    let ports = members.flat_map(|member| member.container.ports.iter().flatten());
    ports.filter(|port| port.host_port.is_some_and(|port| port > 0))
}

/// Two ports are the same if their addresses are, or one of them is on all.
fn collide(one: &ContainerPort, other: &ContainerPort) -> bool {
    let ip = |port: &ContainerPort| match port.host_ip.as_deref().unwrap_or_default() {
        "" => "0.0.0.0".to_owned(),
        ip => ip.to_owned(),
    };
    let protocol = |port: &ContainerPort| port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
    let (a, b) = (ip(one), ip(other));
    one.host_port == other.host_port
        && protocol(one) == protocol(other)
        && (a == b || a == "0.0.0.0" || b == "0.0.0.0")
}

/// Resources of which the node has too little.
fn insufficient(pod: &PodModel, place: &Place, others: &[PodModel]) -> Vec<Misfit> {
    let short = |(name, quantity): (&String, &Quantity)| {
        let requested = request(pod, name);
        let capacity = amount(name, resources::amount(quantity).unwrap_or(0));
        let used: i128 = others.iter().map(|other| request(other, name)).sum();
        let resource = name.clone();
        (requested > 0 && requested > capacity - used).then_some(Misfit::Insufficient {
            resource,
            requested,
            used,
            capacity,
        })
    };
    let mut found: Vec<Misfit> = place.allocatable.iter().filter_map(short).collect();
    let rank = |one: &Misfit| match one {
        Misfit::Insufficient { resource, .. } => {
            let order = ["pods", "cpu", "memory", "ephemeral-storage"];
            order.iter().position(|name| name == resource).unwrap_or(order.len())
        }
        Misfit::Predicate(..) => usize::MAX,
    };
    found.sort_by_key(rank);
    found
}

/// All that stands against a pod beside `others`.
pub(crate) fn misfits(pod: &PodModel, place: &Place, others: &[PodModel]) -> Vec<Misfit> {
    let mut found = insufficient(pod, place, others);
    let spec = pod.spec();
    if let Some((labels, _)) = &place.known
        && !node_affinity::selects(spec, &place.name, labels)
    {
        let what = "node(s) didn't match Pod's node affinity/selector";
        found.push(Misfit::Predicate("NodeAffinity", what));
    }
    let taken = |port: &ContainerPort| others.iter().flat_map(ports).any(|other| collide(port, other));
    if ports(pod).any(taken) {
        let what = "node(s) didn't have free ports for the requested pod ports";
        found.push(Misfit::Predicate("NodePorts", what));
    }
    if let Some((_, taints)) = &place.known
        && !pod.is_static()
        && !node_affinity::bears(spec, taints)
    {
        let what = "node(s) had taints that the pod didn't tolerate";
        found.push(Misfit::Predicate("TaintToleration", what));
    }
    found
}

/// Why a pod that is here cannot have what it asks for now: because the node is too small, or too full.
pub(crate) fn resized(pod: &PodModel, place: &Place, others: &[PodModel]) -> Result<(), Why> {
    for name in ["cpu", "memory"] {
        let capacity = place.allocatable.get(name).and_then(resources::amount).unwrap_or(0);
        let (requested, capacity) = (request(pod, name), amount(name, capacity));
        if requested > capacity {
            let message = format!(
                "Node didn't have enough capacity: {name}, requested: {requested}, capacity: {capacity}"
            );
            return Err(Why::new("Infeasible", message));
        }
    }
    let is_compute = |one: &Misfit| match one {
        Misfit::Insufficient { resource, .. } => matches!(resource.as_str(), "cpu" | "memory"),
        Misfit::Predicate(..) => false,
    };
    match insufficient(pod, place, others).into_iter().find(is_compute) {
        Some(misfit) => Err(Why::new("Deferred", misfit.message())),
        None => Ok(()),
    }
}

/// What another system is needed for.
pub(crate) fn foreign(pod: &PodModel) -> Option<(&'static str, &'static str)> {
    let label = pod.pod.metadata.labels.as_ref().and_then(|labels| labels.get("kubernetes.io/os"));
    if label.is_some_and(|label| label != "linux") {
        let message = "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label";
        return Some(("PodOSSelectorNodeLabelDoesNotMatch", message));
    }
    let os = pod.spec().os.as_ref().filter(|os| os.name != "linux");
    os.map(|_| ("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"))
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;

    pub(crate) fn pod(name: &str, spec: Value) -> PodModel {
        let pod = json!({ "metadata": { "name": name, "namespace": "n", "uid": name }, "spec": spec });
        PodModel::new(Arc::new(serde_json::from_value(pod).unwrap())).unwrap()
    }

    pub(crate) fn asks(name: &str, cpu: &str, memory: &str) -> PodModel {
        let requests = json!({ "cpu": cpu, "memory": memory });
        pod(name, json!({ "containers": [{ "name": "a", "resources": { "requests": requests } }] }))
    }

    pub(crate) fn place() -> Place {
        let all = [("cpu", "2"), ("memory", "1Gi"), ("ephemeral-storage", "10Gi"), ("pods", "3")];
        Place {
            name: "n".to_owned(),
            allocatable: all.map(|(name, text)| (name.to_owned(), Quantity(text.to_owned()))).into(),
            known: Some((BTreeMap::new(), Vec::new())),
        }
    }

    fn words(pod: &PodModel, others: &[PodModel]) -> Vec<(String, String)> {
        misfits(pod, &place(), others).iter().map(|one| (one.reason(), one.message())).collect()
    }

    #[test]
    fn what_is_short_is_named_with_what_is_asked_for_used_and_there() {
        let others = [asks("a", "1500m", "100Mi"), asks("b", "0", "0")];
        assert!(words(&asks("p", "500m", "924Mi"), &others).is_empty());
        let found = words(&asks("p", "501m", "1Gi"), &others);
        let text = |what: &str| format!("Node didn't have enough resource: {what}");
        assert_eq!(found[0], ("OutOfcpu".into(), text("cpu, requested: 501, used: 1500, capacity: 2000")));
        let memory = text("memory, requested: 1073741824, used: 104857600, capacity: 1073741824");
        assert_eq!(found[1], ("OutOfmemory".into(), memory));
        let three = [asks("a", "0", "0"), asks("b", "0", "0"), asks("c", "0", "0")];
        let pods = text("pods, requested: 1, used: 3, capacity: 3");
        assert_eq!(words(&asks("p", "0", "0"), &three), [("OutOfpods".into(), pods)]);
    }

    #[test]
    fn what_is_asked_for_anew_is_given_later_or_never() {
        let others = [asks("a", "1500m", "100Mi")];
        let told = |cpu: &str| {
            let result = resized(&asks("p", cpu, "1Mi"), &place(), &others);
            result.err().map(|why| (why.reason, why.message))
        };
        assert_eq!(told("500m"), None);
        let (reason, message) = told("1").unwrap();
        assert_eq!(reason, "Deferred");
        assert_eq!(
            message,
            "Node didn't have enough resource: cpu, requested: 1000, used: 1500, capacity: 2000"
        );
        let (reason, message) = told("3").unwrap();
        assert_eq!(reason, "Infeasible");
        assert_eq!(message, "Node didn't have enough capacity: cpu, requested: 3000, capacity: 2000");
    }

    #[test]
    fn a_port_of_the_node_is_given_once() {
        let with = |name: &str, ip: &str, protocol: &str| {
            let port = json!({ "containerPort": 80, "hostPort": 80, "hostIP": ip, "protocol": protocol });
            pod(name, json!({ "containers": [{ "name": "a", "ports": [port] }] }))
        };
        let taken = [with("a", "127.0.0.1", "TCP")];
        let text = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
        assert_eq!(words(&with("p", "", "TCP"), &taken), [("NodePorts".into(), text.into())]);
        assert!(words(&with("p", "127.0.0.2", "TCP"), &taken).is_empty());
        assert!(words(&with("p", "", "UDP"), &taken).is_empty());
    }

    #[test]
    fn a_pod_that_does_not_want_this_node_is_refused() {
        let spec = json!({ "containers": [{ "name": "a" }], "nodeSelector": { "disk": "ssd" } });
        let text = "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
        assert_eq!(words(&pod("p", spec), &[]), [("NodeAffinity".into(), text.into())]);
    }
}
