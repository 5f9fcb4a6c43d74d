//! CSINode, and what drivers say of this node: its IDs in an annotation of the Node, and its place as labels.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::storage::v1::{CSINode, CSINodeDriver, CSINodeSpec, VolumeNodeResources};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use super::driver::{CsiError, Driver};

/// The annotation with the drivers' IDs of the node.
const IDS: &str = "csi.volume.kubernetes.io/nodeid";
/// How often a write is tried again that came too late.
const TRIES: usize = 5;

fn entry(driver: &Driver) -> CSINodeDriver {
    CSINodeDriver {
        name: driver.name.clone(),
        node_id: driver.node_id.clone(),
        topology_keys: Some(driver.topology.keys().cloned().collect::<Vec<_>>())
            .filter(|keys| !keys.is_empty()),
        allocatable: driver.limit.map(|count| VolumeNodeResources { count: Some(count) }),
    }
}

pub(super) fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

/// Says that a driver is there (`Some`), or that it is gone.
pub(super) async fn write(
    client: &kube::Client,
    node: &str,
    name: &str,
    driver: Option<&Driver>,
) -> Result<(), CsiError> {
    let mut last = Ok(());
    for _ in 0..TRIES {
        last = attempt(client, node, name, driver).await;
        match &last {
            Err(error) if is_conflict(error) => {}
            Ok(()) | Err(_) => break,
        }
    }
    last.map_err(CsiError::api("write what a driver says of node", node))
}

async fn attempt(
    client: &kube::Client,
    node: &str,
    name: &str,
    driver: Option<&Driver>,
) -> Result<(), kube::Error> {
    let nodes: Api<Node> = Api::all(client.clone());
    let own = nodes.get(node).await?;
    // Those of other drivers are not written over because somebody has garbled them.
    let ids = own.annotations().get(IDS).map(|text| serde_json::from_str(text)).transpose();
    let known: BTreeMap<String, String> = ids.map_err(kube::Error::SerdeError)?.unwrap_or_default();
    let mut wanted = known.clone();
    match driver {
        Some(driver) => drop(wanted.insert(name.to_owned(), driver.node_id.clone())),
        None => drop(wanted.remove(name)),
    }
    let labels: BTreeMap<&String, &String> = driver.iter().flat_map(|driver| &driver.topology).collect();
    let is_new = labels.iter().any(|(key, value)| own.labels().get(*key) != Some(*value));
    if wanted != known || is_new {
        let ids = (!wanted.is_empty()).then(|| json!(wanted).to_string());
        let meta =
            json!({"resourceVersion": own.resource_version(), "annotations": {IDS: ids}, "labels": labels});
        nodes.patch(node, &PatchParams::default(), &Patch::Merge(json!({"metadata": meta}))).await?;
    }
    let api: Api<CSINode> = Api::all(client.clone());
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node.to_owned(),
        uid: own.uid().unwrap_or_default(),
        ..OwnerReference::default()
    };
    let Some(mut found) = api.get_opt(node).await? else {
        let Some(driver) = driver else { return Ok(()) };
        let meta = ObjectMeta {
            name: Some(node.to_owned()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        };
        let made = CSINode { metadata: meta, spec: CSINodeSpec { drivers: vec![entry(driver)] } };
        return api.create(&PostParams::default(), &made).await.map(drop);
    };
    let before = found.spec.drivers.iter().find(|it| it.name == name).cloned();
    // It goes with the Node that owns it, which may have been made anew.
    let is_owned = found.owner_references().contains(&owner);
    if before == driver.map(entry) && is_owned {
        return Ok(());
    }
    if !is_owned {
        found.metadata.owner_references = Some(vec![owner]);
        found = api.replace(node, &PostParams::default(), &found).await?;
        if before == driver.map(entry) {
            return Ok(());
        }
    }
    found.spec.drivers.retain(|it| it.name != name);
    if before.is_some() && driver.is_some() {
        // What is known of a driver does not change: it goes and comes again.
        found = api.replace(node, &PostParams::default(), &found).await?;
    }
    found.spec.drivers.extend(driver.map(entry));
    api.replace(node, &PostParams::default(), &found).await.map(drop)
}
