//! Pods as the scheduler sees them, with everything that decisions need computed once.

pub mod affinity;
pub mod requests;
pub mod topology_spread;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::jiff::Timestamp;

use crate::labels::Labels;
use crate::names::{NodeName, ObjectName, PodUid};
use crate::resources::Resources;
use crate::selector::{NodeSelectorTerm, RequiredNodeAffinity};
use crate::taint::Toleration;
use affinity::PodAffinity;
use requests::Requests;
use topology_spread::SpreadConstraint;

/// What is remembered of every pod, also of those that run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodInfo {
    /// Its identity.
    pub uid: PodUid,
    /// Its namespace and name.
    pub name: ObjectName,
    /// Its labels.
    pub labels: Labels,
    /// `spec.priority`.
    pub priority: i32,
    /// What it asks for.
    pub requests: Requests,
    /// Ports of the node that it takes.
    pub ports: Box<[HostPort]>,
    /// Its affinity to other pods, where it has one.
    pub affinity: Option<Box<PodAffinity>>,
    /// Its claims of volumes.
    pub claims: Box<[VolumeClaim]>,
    /// Its controller.
    pub controller: Option<ControllerId>,
    /// When it was started, or else made: the younger of two pods is the better victim.
    pub started: Timestamp,
    /// Whether it is being deleted.
    pub deleting: bool,
}

/// What is remembered of a pod that waits for a node.
#[derive(Clone, Debug, PartialEq)]
pub struct PendingPod {
    /// What is remembered of every pod.
    pub info: Arc<PodInfo>,
    /// `spec.nodeName`, where whoever made the pod chose already.
    pub node_name: Option<NodeName>,
    /// Its tolerations.
    pub tolerations: Vec<Toleration>,
    /// What it demands of a node's labels.
    pub required_nodes: RequiredNodeAffinity,
    /// What it would like of a node's labels, with weights.
    pub preferred_nodes: Vec<(i64, NodeSelectorTerm)>,
    /// Its topology spread constraints.
    pub spread: Vec<SpreadConstraint>,
    /// Images of its containers, with a tag.
    pub images: Vec<Box<str>>,
    /// Its claims to devices.
    pub device_claims: Vec<DeviceClaim>,
    /// Names of the scheduling gates that hold it back, and of its claims that are not made yet.
    pub gates: Vec<Box<str>>,
    /// Whether it may displace pods of lower priority.
    pub preempts: bool,
    /// When it was made.
    pub created: Timestamp,
}

/// A port of the node that a pod takes for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// The address; `0.0.0.0` is all.
    pub address: Box<str>,
    /// The protocol.
    pub protocol: Box<str>,
    /// The port.
    pub port: i32,
}

/// A claim that a pod mounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeClaim {
    /// The name of the PersistentVolumeClaim.
    pub name: Arc<str>,
    /// Whether it is made for this pod alone, from a template in it.
    pub ephemeral: bool,
}

/// A claim to devices that a pod has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceClaim {
    /// The name of the ResourceClaim.
    pub name: Arc<str>,
    /// Whether it was made for this pod alone, of a template.
    pub own: bool,
}

/// The identity of a controller: pods with the same one are siblings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ControllerId(u64);

impl ControllerId {
    /// The identity for a UID.
    pub fn of(uid: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        uid.hash(&mut hasher);
        ControllerId(hasher.finish())
    }
}

impl HostPort {
    const EVERYWHERE: &str = "0.0.0.0";

    /// Whether both cannot be on one node.
    pub fn conflicts(&self, other: &HostPort) -> bool {
        self.port == other.port
            && self.protocol == other.protocol
            && (self.address == other.address
                || *self.address == *Self::EVERYWHERE
                || *other.address == *Self::EVERYWHERE)
    }
}

fn ports(spec: &core::PodSpec) -> Box<[HostPort]> {
    let sidecars = spec.init_containers.iter().flatten().filter(|container| requests::is_sidecar(container));
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            let number = port.host_port.filter(|number| *number > 0)?;
            let address = port.host_ip.as_deref().filter(|it| !it.is_empty()).unwrap_or(HostPort::EVERYWHERE);
            let protocol = port.protocol.as_deref().filter(|it| !it.is_empty()).unwrap_or("TCP");
            Some(HostPort { address: address.into(), protocol: protocol.into(), port: number })
        })
        .collect()
}

impl PodInfo {
    /// Reads a pod; `None` where it has no identity, which the API does not hand out.
    pub fn read(pod: &core::Pod) -> Option<Self> {
        let meta = &pod.metadata;
        let spec = pod.spec.as_ref()?;
        let labels = Labels::from(meta.labels.as_ref());
        let namespace = meta.namespace.as_deref()?;
        let controller = meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
        let started = pod.status.as_ref().and_then(|status| status.start_time.as_ref());
        Some(PodInfo {
            uid: PodUid::new(meta.uid.as_deref()?),
            name: ObjectName::new(namespace, meta.name.as_deref()?),
            priority: spec.priority.unwrap_or(0),
            requests: Requests::of(pod),
            ports: ports(spec),
            affinity: PodAffinity::read(spec, namespace, &labels).map(Box::new),
            claims: claims(spec, meta.name.as_deref()?),
            controller: controller.map(|owner| ControllerId::of(&owner.uid)),
            started: started
                .or(meta.creation_timestamp.as_ref())
                .map_or(Timestamp::UNIX_EPOCH, |time| time.0),
            deleting: meta.deletion_timestamp.is_some(),
            labels,
        })
    }
}

impl PendingPod {
    /// Reads a pod; `None` where it has no identity, which the API does not hand out.
    pub fn read(pod: &core::Pod) -> Option<Self> {
        let spec = pod.spec.as_ref()?;
        let info = PodInfo::read(pod)?;
        let node_affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
        let preferred =
            node_affinity.and_then(|it| it.preferred_during_scheduling_ignored_during_execution.as_ref());
        let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        let created = pod.metadata.creation_timestamp.as_ref();
        let (device_claims, unmade) = device_claims(pod);
        let gates = spec.scheduling_gates.iter().flatten().map(|gate| gate.name.as_str().into());
        let gates = gates.chain(unmade).collect();
        Some(PendingPod {
            node_name: spec.node_name.as_deref().filter(|name| !name.is_empty()).map(NodeName::new),
            tolerations: spec.tolerations.iter().flatten().filter_map(Toleration::read).collect(),
            required_nodes: RequiredNodeAffinity::read(spec),
            preferred_nodes: preferred
                .into_iter()
                .flatten()
                .map(|it| (i64::from(it.weight), NodeSelectorTerm::read(&it.preference)))
                .collect(),
            spread: spec
                .topology_spread_constraints
                .iter()
                .flatten()
                .map(|constraint| SpreadConstraint::read(constraint, &info.labels))
                .collect(),
            images: containers.filter_map(|container| container.image.as_deref()).map(with_tag).collect(),
            device_claims,
            gates,
            preempts: spec.preemption_policy.as_deref() != Some("Never"),
            created: created.map_or(Timestamp::UNIX_EPOCH, |time| time.0),
            info: Arc::new(info),
        })
    }

    /// The name of something else in its namespace.
    pub fn sibling(&self, name: &Arc<str>) -> ObjectName {
        ObjectName { namespace: self.info.name.namespace.clone(), name: Arc::clone(name) }
    }

    /// What it asks for.
    pub fn requests(&self) -> &Resources {
        &self.info.requests.actual
    }
}

/// A node lists its images with tags, so that an image without one is looked for as `latest`.
fn with_tag(image: &str) -> Box<str> {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains([':', '@']) { image.into() } else { format!("{image}:latest").into() }
}

/// The pod's claims to devices, and the names in it of those that are not made of their templates yet.
fn device_claims(pod: &core::Pod) -> (Vec<DeviceClaim>, Vec<Box<str>>) {
    let (mut made, mut unmade) = (Vec::new(), Vec::new());
    let statuses = pod.status.as_ref().and_then(|status| status.resource_claim_statuses.as_ref());
    let claims = pod.spec.as_ref().and_then(|spec| spec.resource_claims.as_ref());
    for claim in claims.into_iter().flatten() {
        if let Some(name) = &claim.resource_claim_name {
            made.push(DeviceClaim { name: name.as_str().into(), own: false });
            continue;
        }
        match statuses.into_iter().flatten().find(|status| status.name == claim.name) {
            None => unmade.push(claim.name.as_str().into()),
            // Without a name, none is needed.
            Some(status) => made.extend(
                status
                    .resource_claim_name
                    .as_ref()
                    .map(|it| DeviceClaim { name: it.as_str().into(), own: true }),
            ),
        }
    }
    (made, unmade)
}

fn claims(spec: &core::PodSpec, pod: &str) -> Box<[VolumeClaim]> {
    spec.volumes
        .iter()
        .flatten()
        .filter_map(|volume| {
            let claim = volume.persistent_volume_claim.as_ref();
            match (claim, &volume.ephemeral) {
                (Some(claim), _) => {
                    Some(VolumeClaim { name: claim.claim_name.as_str().into(), ephemeral: false })
                }
                (None, Some(_)) => {
                    Some(VolumeClaim { name: format!("{pod}-{}", volume.name).into(), ephemeral: true })
                }
                (None, None) => None,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_without_a_tag_is_the_latest() {
        assert_eq!(&*with_tag("localhost:5000/web"), "localhost:5000/web:latest");
        assert_eq!(&*with_tag("web:1"), "web:1");
        assert_eq!(&*with_tag("web@sha256:00"), "web@sha256:00");
    }

    #[test]
    fn a_port_on_all_addresses_conflicts_with_each() {
        let port = |address: &str, protocol: &str, port| HostPort {
            address: address.into(),
            protocol: protocol.into(),
            port,
        };
        assert!(port("0.0.0.0", "TCP", 80).conflicts(&port("10.0.0.1", "TCP", 80)));
        assert!(!port("10.0.0.2", "TCP", 80).conflicts(&port("10.0.0.1", "TCP", 80)));
        assert!(!port("0.0.0.0", "UDP", 80).conflicts(&port("0.0.0.0", "TCP", 80)));
    }
}
