//! Makes the Node object, or takes over the one that is there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, NodeSpec, NodeStatus};
use kube::Api;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::machine;
use crate::config::Config;
use crate::csi::{self, CsiError};
use crate::volume::local;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(7);

/// Why a node is not registered.
#[derive(Debug, thiserror::Error)]
enum RegistrationError {
    #[error("{action} the node")]
    Request { action: &'static str, source: kube::Error },
    #[error("the API server gave the node no UID")]
    Uid,
    #[error("find which volumes the node still has")]
    Volumes(#[source] CsiError),
}

fn request(action: &'static str) -> impl FnOnce(kube::Error) -> RegistrationError {
    move |source| RegistrationError::Request { action, source }
}

/// The usual labels and the configured ones.
fn labels(config: &Config) -> BTreeMap<String, String> {
    let architecture = machine::architecture();
    let usual = [
        ("beta.kubernetes.io/arch", architecture),
        ("beta.kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", architecture),
        ("kubernetes.io/hostname", &config.node_name),
        ("kubernetes.io/os", "linux"),
    ];
    let usual = usual.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned()));
    usual.chain(config.labels.clone()).collect()
}

/// Says that this kubelet leaves it to others to attach volumes.
const ATTACHED_BY_OTHERS: &str = "volumes.kubernetes.io/controller-managed-attach-detach";

/// Where the node has its volumes, for those who make volumes on it, and that they attach them.
fn annotations(config: &Config) -> BTreeMap<String, String> {
    let folder = local::folder(config).to_string_lossy().into_owned();
    BTreeMap::from([(local::FOLDER.to_owned(), folder), (ATTACHED_BY_OTHERS.to_owned(), "true".to_owned())])
}

/// A new node (pure). It says from its first moment on which volumes it still has, for they are not to be detached.
fn node(config: &Config, in_use: BTreeSet<String>) -> Node {
    let cidr = config.pod_cidr.map(|range| range.to_string());
    let taints = Some(config.taints.clone()).filter(|taints| !taints.is_empty());
    let spec = NodeSpec {
        pod_cidrs: cidr.clone().map(|it| vec![it]),
        pod_cidr: cidr,
        taints,
        ..NodeSpec::default()
    };
    let status = (!in_use.is_empty())
        .then(|| NodeStatus { volumes_in_use: Some(in_use.into_iter().collect()), ..NodeStatus::default() });
    Node {
        metadata: ObjectMeta {
            name: Some(config.node_name.clone()),
            labels: Some(labels(config)),
            annotations: Some(annotations(config)),
            ..ObjectMeta::default()
        },
        spec: Some(spec),
        status,
    }
}

/// What has to change of a node that is there already (pure). A range of addresses that it has stays.
fn difference(config: &Config, found: &Node) -> Option<Value> {
    let known = found.metadata.labels.clone().unwrap_or_default();
    let mut wanted = labels(config);
    wanted.retain(|key, value| known.get(key) != Some(value));
    let mut patch = json!({});
    if !wanted.is_empty() {
        patch["metadata"] = json!({ "labels": wanted });
    }
    let known = found.metadata.annotations.clone().unwrap_or_default();
    let mut wanted = annotations(config);
    wanted.retain(|key, value| known.get(key) != Some(value));
    if !wanted.is_empty() {
        patch["metadata"]["annotations"] = json!(wanted);
    }
    let range = found.spec.as_ref().and_then(|spec| spec.pod_cidr.as_deref()).unwrap_or_default();
    if let Some(configured) = config.pod_cidr.map(|range| range.to_string()) {
        if range.is_empty() {
            patch["spec"] = json!({ "podCIDR": configured, "podCIDRs": [configured] });
        } else if range != configured {
            tracing::warn!(
                range,
                configured,
                "the node keeps another range of pod addresses than it is configured with"
            );
        }
    }
    (patch != json!({})).then_some(patch)
}

async fn attempt(config: &Config, api: &Api<Node>) -> Result<String, RegistrationError> {
    let name = &config.node_name;
    let found = match api.get_opt(name).await.map_err(request("read"))? {
        Some(found) => found,
        None => {
            let in_use = csi::left_in_use(config).await.map_err(RegistrationError::Volumes)?;
            let made = api.create(&PostParams::default(), &node(config, in_use)).await;
            let made = made.map_err(request("create"))?;
            tracing::info!(node = name, "the node is registered");
            made
        }
    };
    if let Some(patch) = difference(config, &found) {
        let patched = api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await;
        patched.map_err(request("change"))?;
    }
    found.metadata.uid.filter(|uid| !uid.is_empty()).ok_or(RegistrationError::Uid)
}

/// Tries until the node is there; its UID.
pub(super) async fn register(config: &Config, client: &kube::Client) -> String {
    let api: Api<Node> = Api::all(client.clone());
    let mut pause = FIRST_PAUSE;
    loop {
        match attempt(config, &api).await {
            Ok(uid) => return uid,
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, ?pause, "the node cannot be registered yet");
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::config;

    #[test]
    fn a_known_node_gets_what_it_lacks_and_keeps_what_others_set() {
        let mut config = config();
        config.labels.insert("example.com/disk".into(), "fast".into());
        let mut found = node(&config, BTreeSet::new());
        assert_eq!(difference(&config, &found), None);
        let labels = found.metadata.labels.as_mut().unwrap();
        labels.insert("example.com/other".into(), "kept".into());
        labels.insert("kubernetes.io/hostname".into(), "old".into());
        labels.remove("example.com/disk");
        found.spec = None;
        let expected = json!({
            "metadata": {"labels": {"kubernetes.io/hostname": "node-1", "example.com/disk": "fast"}},
            "spec": {"podCIDR": "10.42.0.0/24", "podCIDRs": ["10.42.0.0/24"]},
        });
        assert_eq!(difference(&config, &found), Some(expected));
        config.pod_cidr = None;
        let labels_alone = difference(&config, &found).unwrap();
        assert_eq!(labels_alone.get("spec"), None);
        assert_eq!(node(&config, BTreeSet::new()).spec, Some(NodeSpec::default()));
    }

    #[test]
    fn a_node_is_made_with_the_volumes_that_it_still_has() {
        let used = node(&config(), BTreeSet::from(["kubernetes.io/csi/d^h".to_owned()]));
        let in_use = used.status.and_then(|status| status.volumes_in_use);
        assert_eq!(in_use, Some(vec!["kubernetes.io/csi/d^h".to_owned()]));
        assert_eq!(node(&config(), BTreeSet::new()).status, None);
    }
}
