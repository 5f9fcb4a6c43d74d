//! Waiting for a Node, and what people are told meanwhile.

use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::core::v1::{Node, NodeCondition};
use kube::Api;
use kube::runtime::wait::await_condition;

use crate::progress::Progress;

/// Between two looks at why it takes so long, and before the first.
const LATE: Duration = Duration::from_secs(8);

/// Waits until a Node is ready; when that takes long, says what stands against it, each reason once. `has_range`: its pods' addresses
/// are known here, and nobody has to give it some.
pub(crate) async fn until_ready(
    progress: &Progress,
    nodes: Api<Node>,
    name: &str,
    has_range: bool,
) -> anyhow::Result<Option<Node>> {
    let tell = async {
        let mut told = None;
        loop {
            tokio::time::sleep(LATE).await;
            let why = nodes.get_opt(name).await.ok().flatten().and_then(|node| obstacle(&node, has_range));
            if let Some(why) = why.filter(|why| told.as_ref() != Some(why)) {
                progress.line(format_args!("  … {name} is not Ready yet: {why}"));
                told = Some(why);
            }
        }
    };
    tokio::select! {
        ready = await_condition(nodes.clone(), name, is_ready) => ready.context("wait for the Node"),
        () = tell => Ok(None),
    }
}

fn ready(node: &Node) -> Option<&NodeCondition> {
    node.status.as_ref()?.conditions.iter().flatten().find(|condition| condition.type_ == "Ready")
}

/// Whether a Node says that it is ready.
fn is_ready(node: Option<&Node>) -> bool {
    node.and_then(ready).is_some_and(|condition| condition.status == "True")
}

/// Why a Node is not ready, and what is to be done about it where that is known.
fn obstacle(node: &Node, has_range: bool) -> Option<String> {
    if !has_range && node.spec.as_ref().and_then(|spec| spec.pod_cidr.as_ref()).is_none() {
        return Some(
            "it has no range of pod addresses, which the cluster's operator nodeipam gives it. \
             Does it run? kubectl get operators"
                .to_owned(),
        );
    }
    let condition = ready(node).filter(|condition| condition.status != "True")?;
    let message = condition.message.clone().unwrap_or_default();
    let info = node.status.as_ref()?.node_info.as_ref();
    let is_own = info.is_none_or(|info| info.container_runtime_version.starts_with("keelson://"));
    if is_own || !message.contains("reason:NetworkPluginNotReady") {
        return Some(message);
    }
    Some(format!(
        "{message}\n    Its container runtime has to look for plugins of the pod network in cni/bin and cni/net.d of the data folder \
         (README, \"Another container runtime\"). If it does, restart it: it does not notice folders that were made after its start."
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    fn node(runtime: &str, ready: &str, message: &str, range: Option<&str>) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "n"},
            "spec": {"podCIDR": range},
            "status": {
                "conditions": [{"type": "Ready", "status": ready, "message": message}],
                "nodeInfo": {"containerRuntimeVersion": runtime, "architecture": "", "bootID": "", "kernelVersion": "",
                    "kubeProxyVersion": "", "kubeletVersion": "", "machineID": "", "operatingSystem": "", "osImage": "", "systemUUID": ""},
            },
        }))
        .unwrap()
    }

    #[test]
    fn what_keeps_a_node_from_being_ready_is_told_with_what_helps() {
        const RANGE: Option<&str> = Some("10.42.0.0/24");
        const NETWORK: &str =
            "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:x";
        let told =
            |runtime: &str, message: &str, range| obstacle(&node(runtime, "False", message, range), false);
        assert_eq!(told("containerd://1", "the runtime is down", RANGE).unwrap(), "the runtime is down");
        assert!(told("containerd://1", NETWORK, RANGE).unwrap().contains("restart it"));
        assert_eq!(told("keelson://1", NETWORK, RANGE).unwrap(), NETWORK);
        assert!(told("keelson://1", NETWORK, None).unwrap().contains("nodeipam"));
        let good = node("keelson://1", "True", "kubelet is posting ready status", RANGE);
        assert_eq!(obstacle(&good, false), None);
        let own = node("keelson://1", "False", "the runtime is down", None);
        assert_eq!(obstacle(&own, true).unwrap(), "the runtime is down", "nobody has to give it a range");
        assert!(is_ready(Some(&good)) && !is_ready(None));
    }
}
