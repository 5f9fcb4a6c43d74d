//! From what was observed to what can be decided upon (pure).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use keelson_operator_kit::ObjectKey;

use crate::observe::Observed;
use crate::pod::PodView;
use crate::service::ServiceView;

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// As an EndpointSlice names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        }
    }

    /// Whether an address is of it.
    pub fn has(self, address: &IpAddr) -> bool {
        match self {
            Family::V4 => address.is_ipv4(),
            Family::V6 => address.is_ipv6(),
        }
    }
}

/// What has to be done about a Service.
#[derive(Debug)]
pub enum Validated {
    /// Its endpoints are ours to keep.
    Ours(Box<ValidatedService>),
    /// It is gone, and so go its endpoints.
    Gone {
        /// Its slices.
        slices: Vec<Arc<EndpointSlice>>,
        /// Its Endpoints.
        endpoints: Option<Arc<Endpoints>>,
    },
    /// Its endpoints are not ours.
    NotOurs,
}

/// A Service whose endpoints are ours to keep.
#[derive(Debug)]
pub struct ValidatedService {
    /// Its name.
    pub key: ObjectKey,
    /// What is known of it.
    pub service: Arc<ServiceView>,
    /// Its families of addresses, the first first.
    pub families: Vec<Family>,
    /// The pods that it selects, by name.
    pub pods: Vec<(ObjectKey, Arc<PodView>)>,
    /// The zones of their nodes.
    pub zones: BTreeMap<String, Arc<String>>,
    /// Its slices.
    pub slices: Vec<Arc<EndpointSlice>>,
    /// Its Endpoints.
    pub endpoints: Option<Arc<Endpoints>>,
}

/// Takes what was observed apart.
pub fn validate(observed: Observed) -> Validated {
    let Observed { key, service, pods, zones, mut slices, endpoints } = observed;
    slices.retain(|slice| slice.metadata.deletion_timestamp.is_none());
    let Some(service) = service else {
        return Validated::Gone { slices, endpoints };
    };
    if service.is_external || service.selector.is_empty() {
        return Validated::NotOurs;
    }
    let families = families(&service);
    Validated::Ours(Box::new(ValidatedService { key, service, families, pods, zones, slices, endpoints }))
}

fn families(service: &ServiceView) -> Vec<Family> {
    let named = service.families.iter().map(|family| if family == "IPv6" { Family::V6 } else { Family::V4 });
    let mut families: Vec<Family> = named.collect();
    families.dedup();
    if families.is_empty() {
        let is_v6 = service.cluster_ip.as_ref().is_some_and(|ip| ip.contains(':'));
        families.push(if is_v6 { Family::V6 } else { Family::V4 });
    }
    families
}
