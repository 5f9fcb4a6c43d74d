//! What is kept of a Service (pure).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ObjectReference, Service, ServicePort};
use keelson_operator_kit::recorder::reference;

/// What the decisions need to know of a Service.
#[derive(Clone, Debug)]
pub struct ServiceView {
    /// Its UID.
    pub uid: String,
    /// The object, for Events.
    pub reference: ObjectReference,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it stands for a name elsewhere.
    pub is_external: bool,
    /// Which pods are behind it; empty where people say so themselves.
    pub selector: BTreeMap<String, String>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Its address; `None` where it has none of its own.
    pub cluster_ip: Option<String>,
    /// `IPv4`, `IPv6`.
    pub families: Vec<String>,
    /// Whether pods count before they are ready.
    pub publish_not_ready: bool,
    /// Which endpoints a client prefers.
    pub traffic_distribution: Option<String>,
}

impl ServiceView {
    /// What is kept of a Service; `None` for one that the API has not completed.
    pub fn read(service: Service) -> Option<Self> {
        let reference = reference(&service);
        let spec = service.spec?;
        Some(ServiceView {
            uid: service.metadata.uid?,
            reference,
            labels: service.metadata.labels.unwrap_or_default(),
            is_external: spec.type_.as_deref() == Some("ExternalName"),
            selector: spec.selector.unwrap_or_default(),
            ports: spec.ports.unwrap_or_default(),
            cluster_ip: spec.cluster_ip.filter(|ip| !ip.is_empty() && ip != "None"),
            families: spec.ip_families.unwrap_or_default(),
            publish_not_ready: spec.publish_not_ready_addresses.unwrap_or(false),
            traffic_distribution: spec.traffic_distribution,
        })
    }
}
