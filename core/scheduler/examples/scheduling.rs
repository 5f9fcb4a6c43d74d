//! How many decisions a second the pure path makes: `cargo run --release -p keelson-scheduler --example scheduling --
//! [NODES] [PODS]`. Prints a line of JSON. Nodes and pods are of the kinds that a real cluster has: three zones, and
//! pods of many ReplicaSets.

use std::time::Instant;

use keelson_scheduler::cache::Cache;
use keelson_scheduler::cycle::{Rotation, schedule};
use keelson_scheduler::framework::Framework;
use keelson_scheduler::node::NodeInfo;
use keelson_scheduler::pod::PendingPod;
use serde_json::{from_value, json};

fn node(at: usize) -> Option<NodeInfo> {
    let name = format!("node-{at}");
    let labels =
        json!({"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": format!("zone-{}", at % 3)});
    let allocatable = json!({"cpu": "32", "memory": "128Gi", "pods": "110"});
    let node = json!({"metadata": {"name": name, "labels": labels}, "status": {"allocatable": allocatable}});
    NodeInfo::read(&from_value(node).ok()?)
}

fn pod(at: usize) -> Option<PendingPod> {
    let set = format!("set-{}", at / 30);
    let owner =
        json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": set, "uid": set, "controller": true});
    let requests = json!({"cpu": "250m", "memory": "256Mi"});
    let pod = json!({
        "metadata": {
            "name": format!("pod-{at}"), "namespace": "default", "uid": format!("uid-{at}"),
            "labels": {"app": set}, "ownerReferences": [owner],
        },
        "spec": {"containers": [{"name": "c", "image": "web:1", "resources": {"requests": requests}}]},
    });
    PendingPod::read(&from_value(pod).ok()?)
}

fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|number| number.parse::<usize>().ok());
    let (nodes, pods) = (numbers.next().unwrap_or(1000), numbers.next().unwrap_or(20_000));
    let mut cache = Cache::default();
    for node in (0..nodes).filter_map(node) {
        cache.set_node(node);
    }
    let pending: Vec<PendingPod> = (0..pods).filter_map(pod).collect();
    let framework = Framework::default();
    let mut rotation = Rotation::default();
    let mut placed = 0_usize;
    let started = Instant::now();
    for pod in &pending {
        if let Ok(found) = schedule(&framework, cache.view(), pod, 0, &mut rotation) {
            cache.assume(pod.info.clone(), found.node);
            placed += 1;
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    let rate = pods as f64 / seconds;
    println!(
        "{}",
        json!({"nodes": nodes, "pods": pods, "placed": placed, "seconds": seconds, "pods_per_second": rate})
    );
}
