//! `GET /stats/summary`: what the node and its pods use.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use keelson_cri::v1;
use serde_json::{Map, Value, json};

use super::Node;
use super::failure::Failure;
use crate::config::Config;
use crate::labels;
use crate::node::machine::{self, MachineError};

fn time(nanoseconds: i64) -> Value {
    let time = Timestamp::from_nanosecond(i128::from(nanoseconds)).unwrap_or(Timestamp::UNIX_EPOCH);
    Value::String(time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// An object of those fields that are known.
fn object(fields: impl IntoIterator<Item = (&'static str, Option<Value>)>) -> Value {
    let known = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(known.collect::<Map<_, _>>())
}

fn number(value: &Option<v1::UInt64Value>) -> Option<Value> {
    value.as_ref().map(|value| value.value.into())
}

fn cpu(usage: &v1::CpuUsage) -> Value {
    object([
        ("time", Some(time(usage.timestamp))),
        ("usageNanoCores", number(&usage.usage_nano_cores)),
        ("usageCoreNanoSeconds", number(&usage.usage_core_nano_seconds)),
    ])
}

fn memory(usage: &v1::MemoryUsage) -> Value {
    object([
        ("time", Some(time(usage.timestamp))),
        ("availableBytes", number(&usage.available_bytes)),
        ("usageBytes", number(&usage.usage_bytes)),
        ("workingSetBytes", number(&usage.working_set_bytes)),
        ("rssBytes", number(&usage.rss_bytes)),
        ("pageFaults", number(&usage.page_faults)),
        ("majorPageFaults", number(&usage.major_page_faults)),
    ])
}

fn interface(usage: &v1::NetworkInterfaceUsage) -> Value {
    object([
        ("name", Some(usage.name.clone().into())),
        ("rxBytes", number(&usage.rx_bytes)),
        ("rxErrors", number(&usage.rx_errors)),
        ("txBytes", number(&usage.tx_bytes)),
        ("txErrors", number(&usage.tx_errors)),
    ])
}

/// The default interface's numbers stand beside the list of all.
fn network(usage: &v1::NetworkUsage) -> Value {
    let default = usage.default_interface.as_ref().map(interface);
    let mut out = default.and_then(|value| value.as_object().cloned()).unwrap_or_default();
    out.insert("time".to_owned(), time(usage.timestamp));
    out.insert("interfaces".to_owned(), usage.interfaces.iter().map(interface).collect());
    Value::Object(out)
}

fn container(usage: &v1::ContainerStats) -> Value {
    let attributes = usage.attributes.clone().unwrap_or_default();
    let name = attributes.labels.get(labels::CONTAINER_NAME).cloned();
    let name = name.or_else(|| attributes.metadata.map(|metadata| metadata.name));
    let layer = usage.writable_layer.as_ref().map(|layer| {
        object([
            ("time", Some(time(layer.timestamp))),
            ("usedBytes", number(&layer.used_bytes)),
            ("inodesUsed", number(&layer.inodes_used)),
        ])
    });
    object([
        ("name", name.map(Value::String)),
        ("cpu", usage.cpu.as_ref().map(cpu)),
        ("memory", usage.memory.as_ref().map(memory)),
        ("rootfs", layer),
    ])
}

fn pod(usage: &v1::PodSandboxStats) -> Value {
    let attributes = usage.attributes.clone().unwrap_or_default();
    let metadata = attributes.metadata.unwrap_or_default();
    let linux = usage.linux.as_ref();
    let containers: Vec<Value> =
        linux.into_iter().flat_map(|linux| &linux.containers).map(container).collect();
    let processes = linux.and_then(|linux| linux.process.as_ref());
    object([
        (
            "podRef",
            Some(json!({ "name": metadata.name, "namespace": metadata.namespace, "uid": metadata.uid })),
        ),
        ("containers", Some(Value::Array(containers))),
        ("cpu", linux.and_then(|linux| linux.cpu.as_ref()).map(cpu)),
        ("memory", linux.and_then(|linux| linux.memory.as_ref()).map(memory)),
        ("network", linux.and_then(|linux| linux.network.as_ref()).map(network)),
        ("process_stats", processes.map(|it| object([("process_count", number(&it.process_count))]))),
    ])
}

fn node(config: &Config) -> Result<Value, MachineError> {
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let memory = machine::memory()?;
    let storage = machine::file_system(&config.data_dir)?;
    let processes = machine::processes()?;
    let used = memory.total.saturating_sub(memory.available);
    Ok(json!({
        "nodeName": config.node_name,
        "cpu": { "time": now, "usageCoreNanoSeconds": machine::cpu_nanoseconds()? },
        "memory": {
            "time": now,
            "availableBytes": memory.available,
            "usageBytes": used,
            "workingSetBytes": used,
        },
        "fs": {
            "time": now,
            "availableBytes": storage.available,
            "capacityBytes": storage.capacity,
            "usedBytes": storage.capacity.saturating_sub(storage.available),
            "inodes": storage.inodes,
            "inodesFree": storage.inodes_free,
            "inodesUsed": storage.inodes.saturating_sub(storage.inodes_free),
        },
        "rlimit": { "time": now, "maxpid": processes.max, "curproc": processes.running },
    }))
}

pub(super) async fn summary(State(of): State<Arc<Node>>) -> Result<Json<Value>, Failure> {
    let stats = of.runtime.list_pod_sandbox_stats(v1::ListPodSandboxStatsRequest { filter: None }).await?;
    let node = node(&of.config).map_err(|error| Failure::internal(error.to_string()))?;
    Ok(Json(json!({ "node": node, "pods": stats.stats.iter().map(pod).collect::<Vec<_>>() })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_the_sum_of_its_containers_by_name() {
        let value = |value| Some(v1::UInt64Value { value });
        let metadata = v1::ContainerMetadata { name: "c".into(), attempt: 0 };
        let of_container = v1::ContainerStats {
            attributes: Some(v1::ContainerAttributes {
                metadata: Some(metadata),
                ..v1::ContainerAttributes::default()
            }),
            cpu: Some(v1::CpuUsage { usage_core_nano_seconds: value(7), ..v1::CpuUsage::default() }),
            ..v1::ContainerStats::default()
        };
        let linux = v1::LinuxPodSandboxStats {
            containers: vec![of_container],
            ..v1::LinuxPodSandboxStats::default()
        };
        let found = pod(&v1::PodSandboxStats { linux: Some(linux), ..v1::PodSandboxStats::default() });
        assert_eq!(found["containers"][0]["name"], "c");
        assert_eq!(found["containers"][0]["cpu"]["usageCoreNanoSeconds"], 7);
        assert_eq!(found["containers"][0]["cpu"]["time"], "1970-01-01T00:00:00Z");
        assert!(found.get("memory").is_none());
    }
}
