//! What containers have, in the words of the pod resources API.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use keelson_devices::pod_resources as api;

use crate::devices::Nodes;
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

fn container(uid: &str, name: &str, furnishing: &Furnishing) -> api::ContainerResources {
    let given = furnishing.devices.given(uid, name);
    api::ContainerResources {
        name: name.to_owned(),
        devices: given.iter().flat_map(|(resource, ids)| devices(resource, ids)).collect(),
        cpu_ids: furnishing.cpus.own(uid, name).into_iter().map(i64::from).collect(),
        memory: furnishing.memory.blocks(uid, name).iter().map(memory).collect(),
        // No pod that claims devices is taken.
        dynamic_resources: Vec::new(),
    }
}

/// What the containers of a pod have that go on.
pub(super) fn of_pod(pod: &Pod, furnishing: &Furnishing) -> api::PodResources {
    let metadata = &pod.metadata;
    let uid = metadata.uid.as_deref().unwrap_or_default();
    let spec = pod.spec.iter();
    let lasting = spec.flat_map(|spec| {
        let init = spec.init_containers.iter().flatten();
        let sidecars = init.filter(|one| one.restart_policy.as_deref() == Some("Always"));
        sidecars.chain(&spec.containers)
    });
    api::PodResources {
        name: metadata.name.clone().unwrap_or_default(),
        namespace: metadata.namespace.clone().unwrap_or_default(),
        containers: lasting.map(|one| container(uid, &one.name, furnishing)).collect(),
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
