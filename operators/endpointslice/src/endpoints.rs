//! The endpoints that pods give (pure).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ObjectReference, ServicePort};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, ForNode, ForZone,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use keelson_operator_kit::ObjectKey;

use crate::pod::PodView;
use crate::service::ServiceView;
use crate::validate::{Family, ValidatedService};

/// Endpoints that have the same ports; a port with a name may have other numbers in other pods.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// The ports, in the order of [`sorted`].
    pub ports: Vec<EndpointPort>,
    /// The endpoints, by the UID of their pods.
    pub endpoints: BTreeMap<String, Endpoint>,
}

/// All endpoints of a family of addresses.
pub fn groups(valid: &ValidatedService, family: Family) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (key, pod) in &valid.pods {
        let Some(endpoint) = endpoint(valid, family, key, pod) else { continue };
        let ports = ports(&valid.service, pod);
        match groups.iter_mut().find(|group| group.ports == ports) {
            Some(group) => {
                group.endpoints.insert(pod.uid.clone(), endpoint);
            }
            None => groups.push(Group { ports, endpoints: BTreeMap::from([(pod.uid.clone(), endpoint)]) }),
        }
    }
    groups
}

/// The ports at which a pod serves; one that the pod does not have is left out.
fn ports(service: &ServiceView, pod: &PodView) -> Vec<EndpointPort> {
    let ports = service.ports.iter().filter_map(|port| {
        Some(EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            protocol: Some(protocol(port).to_owned()),
            port: Some(target(port, pod)?),
            app_protocol: port.app_protocol.clone(),
        })
    });
    sorted(ports.collect())
}

/// The protocol of a port of a Service.
pub fn protocol(port: &ServicePort) -> &str {
    port.protocol.as_deref().unwrap_or("TCP")
}

/// The number of the port of a pod to which a port of a Service leads.
pub fn target(port: &ServicePort, pod: &PodView) -> Option<i32> {
    match &port.target_port {
        Some(IntOrString::Int(0)) | None => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) if name.is_empty() => Some(port.port),
        Some(IntOrString::String(name)) => pod.port(name, protocol(port)),
    }
}

/// Ports in a fixed order.
pub fn sorted(mut ports: Vec<EndpointPort>) -> Vec<EndpointPort> {
    ports.sort_by(|a, b| (&a.name, a.port, &a.protocol).cmp(&(&b.name, b.port, &b.protocol)));
    ports
}

fn endpoint(valid: &ValidatedService, family: Family, key: &ObjectKey, pod: &PodView) -> Option<Endpoint> {
    let addresses: Vec<String> =
        pod.addresses.iter().filter(|address| family.has(address)).map(ToString::to_string).collect();
    if addresses.is_empty() {
        return None;
    }
    let ready = valid.service.publish_not_ready || (pod.ready && !pod.terminating);
    let zone = pod.node.as_ref().and_then(|node| valid.zones.get(node)).map(|zone| zone.to_string());
    let hints = ready.then(|| hints(&valid.service, zone.as_deref(), pod.node.as_deref())).flatten();
    Some(Endpoint {
        addresses,
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(pod.ready),
            terminating: Some(pod.terminating),
        }),
        hints,
        hostname: host(valid, pod),
        node_name: pod.node.clone(),
        target_ref: Some(pod_reference(key, pod)),
        zone,
        deprecated_topology: None,
    })
}

/// The host name that a pod has below the Service.
pub fn host(valid: &ValidatedService, pod: &PodView) -> Option<String> {
    let host = pod.host.as_ref().filter(|host| host.subdomain == valid.key.name())?;
    Some(host.name.clone())
}

/// A reference to a pod.
pub fn pod_reference(key: &ObjectKey, pod: &PodView) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: Some(key.namespace().to_owned()),
        name: Some(key.name().to_owned()),
        uid: Some(pod.uid.clone()),
        ..ObjectReference::default()
    }
}

/// Who should use an endpoint, where the Service prefers what is near.
fn hints(service: &ServiceView, zone: Option<&str>, node: Option<&str>) -> Option<EndpointHints> {
    let for_zones = zone.map(|zone| vec![ForZone { name: zone.to_owned() }]);
    let for_nodes = node.map(|node| vec![ForNode { name: node.to_owned() }]);
    let hints = match service.traffic_distribution.as_deref() {
        Some("PreferClose" | "PreferSameZone") => EndpointHints { for_zones, for_nodes: None },
        Some("PreferSameNode") => EndpointHints { for_zones, for_nodes },
        Some(_) | None => return None,
    };
    (hints.for_zones.is_some() || hints.for_nodes.is_some()).then_some(hints)
}
