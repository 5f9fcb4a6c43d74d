//! `GET /stats/summary`: what the node and its pods use (`stats/v1alpha1`).

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use jiff::Timestamp;
use keelson_cri::v1;
use serde_json::{Map, Value, json};

use super::failure::Failure;
use super::{Node, blocking};
use crate::disk_usage::{PodUsage, Usage};
use crate::node::machine::{self, FileSystem, MachineError};
use crate::usage::claim::ClaimFigures;
use crate::usage::group::{Detail, Group};
use crate::usage::interface::{self, Interface};
use crate::usage::{Container, PodFigures, Snapshot};

fn time(at: Timestamp) -> Value {
    Value::String(at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// An object of those fields that are known.
fn object(fields: impl IntoIterator<Item = (&'static str, Option<Value>)>) -> Value {
    let known = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(known.collect::<Map<_, _>>())
}

fn cpu(at: Timestamp, total: u64, rate: Option<u64>) -> Value {
    object([
        ("time", Some(time(at))),
        ("usageNanoCores", rate.map(Value::from)),
        ("usageCoreNanoSeconds", Some(total.into())),
    ])
}

fn memory(at: Timestamp, group: &Group) -> Value {
    let found = &group.memory;
    let available = found.limit.map(|limit| limit.saturating_sub(found.working_set));
    object([
        ("time", Some(time(at))),
        ("availableBytes", available.map(Value::from)),
        ("usageBytes", Some(found.usage.into())),
        ("workingSetBytes", Some(found.working_set.into())),
        ("rssBytes", Some(found.rss.into())),
        ("pageFaults", Some(found.page_faults.into())),
        ("majorPageFaults", Some(found.major_page_faults.into())),
    ])
}

fn swap(at: Timestamp, group: &Group) -> Option<Value> {
    let bytes = group.memory.swap?;
    Some(json!({ "time": time(at), "swapUsageBytes": bytes }))
}

fn interface(usage: &Interface) -> Map<String, Value> {
    let fields = [
        ("name", Value::from(usage.name.clone())),
        ("rxBytes", usage.received.bytes.into()),
        ("rxErrors", usage.received.errors.into()),
        ("txBytes", usage.sent.bytes.into()),
        ("txErrors", usage.sent.errors.into()),
    ];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The default interface's numbers stand beside the list of all.
fn network(at: Timestamp, all: &[Interface], default: Option<&str>) -> Value {
    let mut out = interface::default_of(all, default).map(interface).unwrap_or_default();
    out.insert("time".to_owned(), time(at));
    out.insert("interfaces".to_owned(), all.iter().map(|one| Value::Object(interface(one))).collect());
    Value::Object(out)
}

/// A file system, and how much of it something uses.
fn file_system(at: Timestamp, found: &FileSystem, used: Usage) -> Value {
    json!({
        "time": time(at),
        "availableBytes": found.available,
        "capacityBytes": found.capacity,
        "usedBytes": used.bytes,
        "inodesFree": found.inodes_free,
        "inodes": found.inodes,
        "inodesUsed": used.inodes,
    })
}

/// All that is used of a file system.
fn used(found: &FileSystem) -> Usage {
    Usage { bytes: found.used(), inodes: found.inodes.saturating_sub(found.inodes_free) }
}

/// What lies beside the control groups.
struct Disks {
    /// Of pods' folders and of logs.
    node: FileSystem,
    logs: FileSystem,
    /// Of writable layers.
    layers: FileSystem,
    /// By UID.
    pods: HashMap<String, Arc<PodUsage>>,
    claims: HashMap<String, Vec<ClaimFigures>>,
}

fn container(at: Timestamp, one: &Container, disks: Option<&Disks>, of_pod: Option<&PodUsage>) -> Value {
    let usage = of_pod.and_then(|usage| Some((usage.at, usage.containers.get(&one.name)?)));
    let disk = disks.zip(usage);
    object([
        ("name", Some(one.name.clone().into())),
        ("startTime", Some(time(one.started_at))),
        ("cpu", Some(cpu(at, one.group.cpu.total, one.rate))),
        ("memory", Some(memory(at, &one.group))),
        ("rootfs", disk.and_then(|(disks, (at, usage))| Some(file_system(at, &disks.layers, usage.layer?)))),
        ("logs", disk.map(|(disks, (at, usage))| file_system(at, &disks.logs, usage.logs))),
        ("swap", swap(at, &one.group)),
    ])
}

fn volumes(disks: &Disks, uid: &str) -> Vec<Value> {
    let mut all = Vec::new();
    if let Some(usage) = disks.pods.get(uid) {
        for (name, volume) in &usage.volumes {
            let mut value = file_system(usage.at, &disks.node, volume.usage);
            value["name"] = name.as_str().into();
            if volume.in_memory
                && let Some(fields) = value.as_object_mut()
            {
                // The node's disk says nothing of it.
                for name in ["availableBytes", "capacityBytes", "inodes", "inodesFree"] {
                    fields.remove(name);
                }
            }
            all.push(value);
        }
    }
    for one in disks.claims.get(uid).into_iter().flatten() {
        let mut value = file_system(Timestamp::now(), &one.file_system, used(&one.file_system));
        value["name"] = one.volume.as_str().into();
        value["pvcRef"] = json!({ "name": one.claim, "namespace": one.namespace });
        all.push(value);
    }
    all
}

fn pod(at: Timestamp, one: &PodFigures, disks: Option<&Disks>) -> Value {
    let model = &one.model;
    let usage = disks.and_then(|disks| disks.pods.get(&model.uid));
    let of_container = |it| container(at, it, disks, usage.map(AsRef::as_ref));
    let started = model.pod.status.as_ref().and_then(|status| status.start_time.as_ref());
    let volumes = disks.map(|disks| volumes(disks, &model.uid)).filter(|all| !all.is_empty());
    let network = one.interfaces.as_deref().filter(|_| disks.is_some());
    object([
        ("podRef", Some(json!({ "name": model.name, "namespace": model.namespace, "uid": model.uid }))),
        ("startTime", started.map(|started| time(started.0))),
        ("containers", Some(one.containers.iter().map(of_container).collect())),
        ("cpu", Some(cpu(at, one.group.cpu.total, one.rate))),
        ("memory", Some(memory(at, &one.group))),
        ("network", network.map(|all| network_of_pod(at, all))),
        ("volume", volumes.map(Value::Array)),
        (
            "ephemeral-storage",
            disks
                .zip(usage)
                .map(|(disks, usage)| file_system(usage.at, &disks.node, usage.ephemeral_storage())),
        ),
        (
            "process_stats",
            one.group.threads.filter(|_| disks.is_some()).map(|count| json!({ "process_count": count })),
        ),
        ("swap", swap(at, &one.group)),
    ])
}

fn network_of_pod(at: Timestamp, all: &[Interface]) -> Value {
    network(at, all, Some("eth0"))
}

/// What the node itself uses; `images` is the file system of images with what they take of it.
fn node(
    name: &str,
    snapshot: &Snapshot,
    disks: Option<&Disks>,
    images: Option<(FileSystem, Usage)>,
) -> Result<Value, MachineError> {
    let (at, figures) = (snapshot.at, &snapshot.node);
    let group = figures.group.as_ref();
    let of_group = |value: fn(&Group) -> u64| group.map(|group| Value::from(value(group)));
    let used_memory = figures.memory.used();
    let started = machine::boot_time()?;
    let memory = object([
        ("time", Some(time(at))),
        ("availableBytes", Some(figures.memory.available.into())),
        ("usageBytes", Some(used_memory.into())),
        ("workingSetBytes", Some(used_memory.into())),
        ("rssBytes", of_group(|group| group.memory.rss)),
        ("pageFaults", of_group(|group| group.memory.page_faults)),
        ("majorPageFaults", of_group(|group| group.memory.major_page_faults)),
    ]);
    let mut out = json!({
        "nodeName": name,
        "startTime": time(started),
        "cpu": cpu(at, figures.cpu, figures.rate),
        "memory": memory,
    });
    let pods = |value: fn(&PodFigures) -> u64| snapshot.pods.iter().map(value).sum::<u64>();
    let rates: Option<Vec<u64>> = snapshot.pods.iter().map(|pod| pod.rate).collect();
    out["systemContainers"] = json!([{
        "name": "pods",
        "startTime": time(started),
        "cpu": cpu(at, pods(|pod| pod.group.cpu.total), rates.map(|rates| rates.iter().sum())),
        "memory": {
            "time": time(at),
            "availableBytes": figures.memory.total.saturating_sub(pods(|pod| pod.group.memory.working_set)),
            "usageBytes": pods(|pod| pod.group.memory.usage),
            "workingSetBytes": pods(|pod| pod.group.memory.working_set),
            "rssBytes": pods(|pod| pod.group.memory.rss),
        },
    }]);
    let Some(disks) = disks else { return Ok(out) };
    let processes = machine::processes()?;
    let default = interface::of_default_route();
    out["network"] = network(at, &figures.interfaces, default.as_deref());
    out["fs"] = file_system(at, &disks.node, used(&disks.node));
    if let Some((found, usage)) = images {
        out["runtime"] = json!({ "imageFs": file_system(at, &found, usage) });
    }
    out["rlimit"] = json!({ "time": time(at), "maxpid": processes.max, "curproc": processes.running });
    Ok(out)
}

/// What the runtime says of its disks.
#[derive(Default)]
struct RuntimeDisks {
    /// The file system of images, and what they take of it.
    images: Option<(FileSystem, Usage)>,
    /// The one of writable layers.
    layers: Option<FileSystem>,
}

async fn disk_at(place: Option<v1::FilesystemIdentifier>) -> Option<FileSystem> {
    let path = place?.mountpoint;
    blocking(move || machine::file_system(Path::new(&path))).await.ok()?.ok()
}

/// (client) The disks of images and of writable layers.
async fn runtime_disks(of: &Node) -> RuntimeDisks {
    let answer = match of.runtime.image_fs_info(v1::ImageFsInfoRequest {}).await {
        Ok(answer) => answer,
        Err(error) => {
            tracing::warn!(%error, "the container runtime does not say how much images take");
            return RuntimeDisks::default();
        }
    };
    let number = |value: Option<v1::UInt64Value>| value.map_or(0, |value| value.value);
    let images = match answer.image_filesystems.into_iter().next() {
        Some(found) => {
            let usage = Usage { bytes: number(found.used_bytes), inodes: number(found.inodes_used) };
            disk_at(found.fs_id).await.map(|disk| (disk, usage))
        }
        None => None,
    };
    // Most keep them with the images, and say nothing else.
    let layers = match answer.container_filesystems.into_iter().next() {
        Some(found) => disk_at(found.fs_id).await,
        None => images.map(|(disk, _)| disk),
    };
    RuntimeDisks { images, layers }
}

/// With `?only_cpu_and_memory=true` nothing else is looked at.
pub(super) async fn summary(
    State(of): State<Arc<Node>>,
    Query(parameters): Query<Vec<(String, String)>>,
) -> Result<Json<Value>, Failure> {
    let is_set = |(name, value): &(String, String)| name == "only_cpu_and_memory" && value == "true";
    if parameters.iter().any(is_set) {
        let snapshot = of.meter.look_twice(Detail::Brief).await?;
        let pods: Vec<Value> = snapshot.pods.iter().map(|one| pod(snapshot.at, one, None)).collect();
        let node = blocking(move || node(&of.config.node_name, &snapshot, None, None)).await??;
        return Ok(Json(json!({ "node": node, "pods": pods })));
    }
    let snapshot = of.meter.look_twice(Detail::Full).await?;
    let claims = of.meter.claims.of_pods(&of.runtime, &snapshot.pods).await;
    let uids = snapshot.pods.iter().map(|one| one.model.uid.clone());
    let claims = uids.zip(claims).collect();
    let RuntimeDisks { images, layers } = runtime_disks(&of).await;
    let work = move || {
        let counted = snapshot.pods.iter().filter_map(|one| {
            let uid = &one.model.uid;
            Some((uid.clone(), of.pods.disk.of(uid)?))
        });
        let found = machine::file_system(&of.config.data_dir)?;
        let disks = Disks {
            node: found,
            logs: machine::file_system(&of.config.log_dir)?,
            layers: layers.unwrap_or(found),
            pods: counted.collect(),
            claims,
        };
        let node = node(&of.config.node_name, &snapshot, Some(&disks), images)?;
        let pods: Vec<Value> = snapshot.pods.iter().map(|one| pod(snapshot.at, one, Some(&disks))).collect();
        Ok::<_, MachineError>(json!({ "node": node, "pods": pods }))
    };
    Ok(Json(blocking(work).await??))
}

#[cfg(test)]
mod tests;
