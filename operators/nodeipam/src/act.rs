//! Writes a node's range (client).

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Node;
use keelson_operator_kit::ObjectKey;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use crate::observe::NodeView;

/// Gives a node that nobody has changed meanwhile its range.
pub async fn give(
    client: &Client,
    key: &ObjectKey,
    node: &NodeView,
    range: Ipv4Net,
) -> Result<(), kube::Error> {
    let api: Api<Node> = Api::all(client.clone());
    let patch = json!({
        "metadata": {"uid": node.uid, "resourceVersion": node.resource_version},
        "spec": {"podCIDR": range, "podCIDRs": [range]},
    });
    api.patch(key.name(), &PatchParams::default(), &Patch::Strategic(&patch)).await.map(drop)
}
