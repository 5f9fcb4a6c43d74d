//! Does what was decided (client).

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};
use k8s_openapi::jiff::Timestamp;
use keelson_operator_kit::time::api_time;
use keelson_operator_kit::{Fault, ObjectKey};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::{Value, json};

use crate::eviction::Cause;
use crate::node::NodeView;
use crate::observe::{LEASES, World, renewed_at};
use crate::pod::PodView;

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The Lease of a node could not be looked at.
    #[error("look at the Lease of node {0}")]
    Lease(ObjectKey, #[source] kube::Error),
    /// The conditions of a node could not be written.
    #[error("write the conditions of node {0}")]
    Conditions(ObjectKey, #[source] kube::Error),
    /// The taints of a node could not be written.
    #[error("write the taints of node {0}")]
    Taints(ObjectKey, #[source] kube::Error),
    /// The node of a pod could not be looked for.
    #[error("look whether node {0} is gone")]
    LookForNode(String, #[source] kube::Error),
    /// The status of a pod could not be written.
    #[error("write the status of pod {0}")]
    PodStatus(ObjectKey, #[source] kube::Error),
    /// A pod could not be deleted.
    #[error("delete pod {0}")]
    Delete(ObjectKey, #[source] kube::Error),
}

impl Fault for Error {}

/// When the Lease of a node was renewed, as the API knows it now: the watch may be late.
pub async fn lease_renewed_at(world: &World, node: &ObjectKey) -> Result<Option<Timestamp>, Error> {
    let api: Api<Lease> = Api::namespaced(world.client.clone(), LEASES);
    let lease = api.get_opt(node.name()).await.map_err(|error| Error::Lease(node.clone(), error))?;
    Ok(lease.as_ref().and_then(renewed_at))
}

/// Writes conditions of a node that nobody has changed meanwhile.
pub async fn write_conditions(
    world: &World,
    key: &ObjectKey,
    node: &NodeView,
    conditions: &[NodeCondition],
) -> Result<(), Error> {
    let api: Api<Node> = Api::all(world.client.clone());
    let patch = json!({"metadata": version(node), "status": {"conditions": conditions}});
    let done = api.patch_status(key.name(), &PatchParams::default(), &Patch::Strategic(&patch)).await;
    unless_gone(done.map(drop)).map_err(|error| Error::Conditions(key.clone(), error))
}

/// Writes all taints of a node that nobody has changed meanwhile.
pub async fn write_taints(
    world: &World,
    key: &ObjectKey,
    node: &NodeView,
    taints: &[Taint],
) -> Result<(), Error> {
    let api: Api<Node> = Api::all(world.client.clone());
    let taints = (!taints.is_empty()).then_some(taints);
    let patch = json!({"metadata": version(node), "spec": {"taints": taints}});
    let done = api.patch(key.name(), &PatchParams::default(), &Patch::Merge(&patch)).await;
    unless_gone(done.map(drop)).map_err(|error| Error::Taints(key.clone(), error))
}

fn version(node: &NodeView) -> Value {
    json!({"uid": node.uid, "resourceVersion": node.resource_version})
}

/// Calls a pod not ready, because nobody can say so where it runs.
pub async fn mark_not_ready(world: &World, key: &ObjectKey, pod: &PodView) -> Result<(), Error> {
    let now = api_time(Timestamp::now());
    let condition = json!({"type": "Ready", "status": "False", "lastTransitionTime": now});
    patch_pod_status(world, key, pod, json!({"conditions": [condition]})).await?;
    world.recorder.warning(&pod.reference, "NodeNotReady", "Node is not ready");
    Ok(())
}

/// Whether a node is gone, as the API knows it now.
pub async fn is_gone(world: &World, node: &str) -> Result<bool, Error> {
    let api: Api<Node> = Api::all(world.client.clone());
    let there = api.get_metadata_opt(node).await;
    Ok(there.map_err(|error| Error::LookForNode(node.to_owned(), error))?.is_none())
}

/// Lets a pod go.
pub async fn evict(world: &World, key: &ObjectKey, pod: &PodView, cause: Cause) -> Result<(), Error> {
    let now = api_time(Timestamp::now());
    let target = |reason: &str, message: &str| {
        json!([{
            "type": "DisruptionTarget",
            "status": "True",
            "reason": reason,
            "message": message,
            "lastTransitionTime": now,
        }])
    };
    match cause {
        Cause::Taint => {
            let message = format!("Marking for deletion Pod {key}");
            world.recorder.normal(&pod.reference, "TaintManagerEviction", message);
            let message = "Taint manager: deleting due to NoExecute taint";
            let status = json!({"conditions": target("DeletionByTaintManager", message)});
            patch_pod_status(world, key, pod, status).await?;
            delete(world, key, pod, DeleteParams::default()).await
        }
        Cause::NodeGone => {
            let conditions = target("DeletionByPodGC", "PodGC: node no longer exists");
            fail(world, key, pod, json!({"conditions": conditions})).await?;
            delete(world, key, pod, at_once()).await
        }
        Cause::NeverScheduled | Cause::OutOfService => {
            fail(world, key, pod, json!({})).await?;
            delete(world, key, pod, at_once()).await
        }
    }
}

/// Deletes a pod that has ended and that nobody looks at any more.
pub async fn discard(world: &World, key: &ObjectKey, pod: &PodView) -> Result<(), Error> {
    delete(world, key, pod, at_once()).await
}

/// Says that a pod has ended, for nobody else will.
async fn fail(world: &World, key: &ObjectKey, pod: &PodView, mut status: Value) -> Result<(), Error> {
    if !pod.terminal
        && let Value::Object(fields) = &mut status
    {
        fields.insert("phase".to_owned(), "Failed".into());
    }
    if status.as_object().is_some_and(|fields| fields.is_empty()) {
        return Ok(());
    }
    patch_pod_status(world, key, pod, status).await
}

async fn patch_pod_status(world: &World, key: &ObjectKey, pod: &PodView, status: Value) -> Result<(), Error> {
    let api: Api<Pod> = Api::namespaced(world.client.clone(), key.namespace());
    let patch = json!({"metadata": {"uid": pod.uid}, "status": status});
    let done = api.patch_status(key.name(), &PatchParams::default(), &Patch::Strategic(&patch)).await;
    unless_gone(done.map(drop)).map_err(|error| Error::PodStatus(key.clone(), error))
}

fn at_once() -> DeleteParams {
    DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() }
}

async fn delete(world: &World, key: &ObjectKey, pod: &PodView, params: DeleteParams) -> Result<(), Error> {
    let api: Api<Pod> = Api::namespaced(world.client.clone(), key.namespace());
    let only = Preconditions { uid: Some(pod.uid.clone()), resource_version: None };
    match api.delete(key.name(), &params.preconditions(only)).await {
        Ok(_) => Ok(()),
        // It is gone, or has become another one.
        Err(kube::Error::Api(answer)) if matches!(answer.code, 404 | 409) => Ok(()),
        Err(error) => Err(Error::Delete(key.clone(), error)),
    }
}

fn unless_gone(done: Result<(), kube::Error>) -> Result<(), kube::Error> {
    match done {
        Err(kube::Error::Api(answer)) if answer.is_not_found() => Ok(()),
        done => done,
    }
}
