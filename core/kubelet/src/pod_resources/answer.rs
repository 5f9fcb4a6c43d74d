//! What containers have, in the words of the pod resources API.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod};
use keelson_devices::pod_resources as api;

use crate::devices::Nodes;
use crate::dra::{Claim, Device, Dra};
use crate::furnishing::Furnishing;
use crate::numa_memory::Block;

fn topology<'a>(nodes: impl IntoIterator<Item = &'a u32>) -> Option<api::TopologyInfo> {
    let nodes = nodes.into_iter().map(|node| api::NumaNode { id: i64::from(*node) });
    Some(api::TopologyInfo { nodes: nodes.collect() })
}

/// A line for each device, and for each memory node that it is at (pure).
fn devices(resource: &str, devices: &BTreeMap<String, Nodes>) -> Vec<api::ContainerDevices> {
    let line = |id: &String, topology| api::ContainerDevices {
        resource_name: resource.to_owned(),
        device_ids: vec![id.clone()],
        topology,
    };
    let of = |(id, nodes): (&String, &Nodes)| match nodes.len() {
        0 => vec![line(id, None)],
        _ => nodes.iter().map(|node| line(id, topology([node]))).collect(),
    };
    devices.iter().flat_map(of).collect()
}

fn memory(block: &Block) -> api::ContainerMemory {
    let (memory_type, size) = (block.kind.clone(), block.size);
    api::ContainerMemory { memory_type, size, topology: topology(&block.nodes) }
}

/// A line for each device that was prepared for a claim (pure).
fn dynamic(claim: &Claim) -> api::DynamicResource {
    let line = |driver: &str, device: &Device| api::ClaimResource {
        cdi_devices: device.cdi_device_ids.iter().map(|name| api::CdiDevice { name: name.clone() }).collect(),
        driver_name: driver.to_owned(),
        pool_name: device.pool_name.clone(),
        device_name: device.device_name.clone(),
    };
    let of = |(driver, devices): (&String, &Vec<Device>)| -> Vec<api::ClaimResource> {
        devices.iter().map(|device| line(driver, device)).collect()
    };
    api::DynamicResource {
        claim_name: claim.name.clone(),
        claim_namespace: claim.namespace.clone(),
        claim_resources: claim.drivers.iter().flat_map(of).collect(),
    }
}

/// Who gives devices, processors and memory.
pub(super) struct Givers {
    pub(super) furnishing: Arc<Furnishing>,
    pub(super) dra: Arc<Dra>,
}

fn container(pod: &Pod, container: &Container, givers: &Givers) -> api::ContainerResources {
    let (uid, name) = (pod.metadata.uid.as_deref().unwrap_or_default(), container.name.as_str());
    let furnishing = &givers.furnishing;
    let given = furnishing.devices.given(uid, name);
    api::ContainerResources {
        name: name.to_owned(),
        devices: given.iter().flat_map(|(resource, ids)| devices(resource, ids)).collect(),
        cpu_ids: furnishing.cpus.own(uid, name).into_iter().map(i64::from).collect(),
        memory: furnishing.memory.blocks(uid, name).iter().map(memory).collect(),
        dynamic_resources: givers.dra.claims(pod, container).iter().map(dynamic).collect(),
    }
}

/// What the containers of a pod have that go on.
pub(super) fn of_pod(pod: &Pod, givers: &Givers) -> api::PodResources {
    let metadata = &pod.metadata;
    let spec = pod.spec.iter();
    let lasting = spec.flat_map(|spec| {
        let init = spec.init_containers.iter().flatten();
        let sidecars = init.filter(|one| one.restart_policy.as_deref() == Some("Always"));
        sidecars.chain(&spec.containers)
    });
    api::PodResources {
        name: metadata.name.clone().unwrap_or_default(),
        namespace: metadata.namespace.clone().unwrap_or_default(),
        containers: lasting.map(|one| container(pod, one, givers)).collect(),
    }
}

/// What the node has to give to one alone, be it given or not.
pub(super) fn allocatable(furnishing: &Furnishing) -> api::AllocatableResourcesResponse {
    let all = furnishing.devices.allocatable();
    let of_node = |(node, amounts): (&u32, &crate::numa_memory::Amounts)| -> Vec<api::ContainerMemory> {
        let one = |(kind, size): (&String, &u64)| api::ContainerMemory {
            memory_type: kind.clone(),
            size: *size,
            topology: topology([node]),
        };
        amounts.iter().map(one).collect()
    };
    api::AllocatableResourcesResponse {
        devices: all.iter().flat_map(|(resource, ids)| devices(resource, ids)).collect(),
        cpu_ids: furnishing.cpus.allocatable().into_iter().map(i64::from).collect(),
        memory: furnishing.memory.allocatable().iter().flat_map(of_node).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_device_of_a_claim_has_a_line_with_its_own_names_for_the_runtime() {
        let device = |name: &str, ids: &[&str]| Device {
            pool_name: "pool".to_owned(),
            device_name: name.to_owned(),
            cdi_device_ids: ids.iter().map(ToString::to_string).collect(),
            ..Device::default()
        };
        let mut claim = Claim::default();
        (claim.namespace, claim.name) = ("n".to_owned(), "c".to_owned());
        let devices = vec![device("one", &["v/k=1", "v/k=x"]), device("two", &[])];
        claim.drivers = BTreeMap::from([("d".to_owned(), devices)]);
        let told = dynamic(&claim);
        assert_eq!((told.claim_name.as_str(), told.claim_namespace.as_str()), ("c", "n"));
        let lines: Vec<(String, String, String, usize)> = told
            .claim_resources
            .into_iter()
            .map(|one| (one.driver_name, one.pool_name, one.device_name, one.cdi_devices.len()))
            .collect();
        let line = |device: &str, ids| ("d".to_owned(), "pool".to_owned(), device.to_owned(), ids);
        assert_eq!(lines, [line("one", 2), line("two", 0)]);
    }
}
