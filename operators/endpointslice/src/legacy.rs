//! What is behind a Service as Endpoints, which older programs read (pure).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::decide::{HEADLESS, Legacy};
use crate::endpoints::{host, pod_reference, protocol, target};
use crate::validate::ValidatedService;

/// The label that says who writes Endpoints.
pub const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
/// We do.
pub const MANAGER: &str = "endpoint-controller";

/// The annotation that says that there are more.
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";

/// How many addresses are shown at most.
const LARGEST: usize = 1000;

/// Decides what to do about the Endpoints of a Service.
pub fn decide(valid: &ValidatedService) -> Legacy {
    let mut labels = valid.service.labels.clone();
    labels.remove(HEADLESS);
    if valid.service.cluster_ip.is_none() {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    let (subsets, truncated) = subsets(valid);
    let subsets = Some(subsets).filter(|subsets| !subsets.is_empty());
    let Some(old) = &valid.endpoints else {
        let metadata = ObjectMeta {
            name: Some(valid.key.name().to_owned()),
            namespace: Some(valid.key.namespace().to_owned()),
            labels: Some(labels),
            annotations: truncated.then(truncation),
            ..ObjectMeta::default()
        };
        return Legacy::Create(Box::new(Endpoints { metadata, subsets }));
    };
    let is_noted = old.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(OVER_CAPACITY));
    if old.subsets.as_deref().unwrap_or_default() == subsets.as_deref().unwrap_or_default()
        && old.metadata.labels.as_ref() == Some(&labels)
        && is_noted == truncated
    {
        return Legacy::Keep;
    }
    let mut new = Endpoints::clone(old);
    new.subsets = subsets;
    new.metadata.labels = Some(labels);
    let annotations = new.metadata.annotations.get_or_insert_default();
    annotations.remove(OVER_CAPACITY);
    annotations.extend(truncated.then(truncation).into_iter().flatten());
    Legacy::Update(Box::new(new))
}

fn truncation() -> BTreeMap<String, String> {
    BTreeMap::from([(OVER_CAPACITY.to_owned(), "truncated".to_owned())])
}

/// The pods with the same ports together; whether some are left out.
fn subsets(valid: &ValidatedService) -> (Vec<EndpointSubset>, bool) {
    let mut subsets: Vec<EndpointSubset> = Vec::new();
    let (mut count, mut truncated) = (0, false);
    for (key, pod) in &valid.pods {
        let published = valid.service.publish_not_ready;
        let address =
            pod.addresses.iter().find(|address| valid.families.iter().take(1).any(|it| it.has(address)));
        let Some(address) = address.filter(|_| published || !pod.terminating) else { continue };
        let ports = valid.service.ports.iter().filter_map(|port| {
            Some(EndpointPort {
                name: port.name.clone().filter(|name| !name.is_empty()),
                port: target(port, pod)?,
                protocol: Some(protocol(port).to_owned()),
                app_protocol: port.app_protocol.clone(),
            })
        });
        let mut ports: Vec<EndpointPort> = ports.collect();
        if ports.is_empty() && !valid.service.ports.is_empty() {
            continue;
        }
        if count == LARGEST {
            truncated = true;
            continue;
        }
        count += 1;
        ports.sort_by(|a, b| (&a.name, a.port, &a.protocol).cmp(&(&b.name, b.port, &b.protocol)));
        let ports = Some(ports).filter(|ports| !ports.is_empty());
        let address = EndpointAddress {
            ip: address.to_string(),
            hostname: host(valid, pod),
            node_name: pod.node.clone(),
            target_ref: Some(pod_reference(key, pod)),
        };
        let at = subsets.iter().position(|subset| subset.ports == ports);
        let mut subset = match at {
            Some(at) => subsets.swap_remove(at),
            None => EndpointSubset { ports, ..EndpointSubset::default() },
        };
        let list =
            if published || pod.ready { &mut subset.addresses } else { &mut subset.not_ready_addresses };
        list.get_or_insert_default().push(address);
        subsets.push(subset);
    }
    for subset in &mut subsets {
        for list in [&mut subset.addresses, &mut subset.not_ready_addresses].into_iter().flatten() {
            list.sort_by(|a, b| a.ip.cmp(&b.ip));
        }
    }
    let order = |subset: &EndpointSubset| {
        subset.ports.iter().flatten().map(|port| (port.name.clone(), port.port)).collect::<Vec<_>>()
    };
    subsets.sort_by_key(order);
    (subsets, truncated)
}
