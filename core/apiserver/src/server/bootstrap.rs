//! The objects that every cluster has, made when they are missing and otherwise left as they are.

use std::sync::Arc;

use futures::future::try_join_all;
use keelson_api::{GroupVersionKind, Object, Status};
use serde_json::{Value, json};

use crate::identity::{Identity, MASTERS};
use crate::registry::{Record, Registry, Target, WriteOptions};

pub(crate) fn options() -> WriteOptions {
    WriteOptions {
        identity: Identity::user("system:apiserver", &[MASTERS]),
        manager: "kube-apiserver".to_owned(),
        served: None,
        record: Record::Track,
        dry_run: false,
        admitted: false,
        remarks: Arc::default(),
    }
}

pub(crate) async fn ensure(registry: &Registry, document: Value) -> Result<(), Status> {
    let object = Object::from_value(document).map_err(Status::internal)?;
    let gvk: GroupVersionKind = object.gvk();
    let catalog = registry.catalog();
    let resource = catalog.find_kind(&gvk).cloned().ok_or_else(Status::path_not_found)?;
    let target = Target {
        resource: Arc::clone(&resource),
        namespace: object.namespace().map(str::to_owned),
        name: object.name().unwrap_or_default().to_owned(),
        subresource: String::new(),
    };
    if registry.find(&target).is_some() {
        return Ok(());
    }
    match registry.create(target, object, &options()).await {
        Err(status) if status.reason == "AlreadyExists" => Ok(()),
        outcome => outcome.map(drop),
    }
}

/// Tells extension API servers whom to believe: with the authorities in PEM of clients and of the front proxy.
pub(super) async fn tell_extensions(
    registry: &Registry,
    clients: &str,
    front_proxy: &str,
) -> Result<(), Status> {
    let document = crate::aggregation::identity::config_map(clients, front_proxy);
    for document in [document.clone()].into_iter().chain(crate::aggregation::identity::readers()) {
        ensure(registry, document).await?;
    }
    let catalog = registry.catalog();
    let resource = catalog.find("", "v1", "configmaps").cloned().ok_or_else(Status::path_not_found)?;
    let wanted = Object::from_value(document).map_err(Status::internal)?;
    let target = Target {
        resource,
        namespace: wanted.namespace().map(str::to_owned),
        name: wanted.name().unwrap_or_default().to_owned(),
        subresource: String::new(),
    };
    let data = wanted.get(&["data"]).cloned().unwrap_or_default();
    let options = options();
    let written = registry.update(&target, &options, |live| {
        let mut object = live.clone();
        object.set(&["data"], data.clone());
        object.set_resource_version(None);
        Ok(object)
    });
    written.await.map(drop)
}

/// What a namespace holds from its beginning, so that pods can start in it.
pub fn namespace_contents(namespace: &str, authority: &str) -> [Value; 2] {
    [
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": namespace}}),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"ca.crt": authority}, "metadata": {
            "name": "kube-root-ca.crt", "namespace": namespace,
            "annotations": {"kubernetes.io/description":
                "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters."},
        }}),
    ]
}

/// Gives every namespace without a `default` account what it holds from its beginning.
pub(crate) async fn fill_namespaces(registry: &Registry, authority: &str) -> Result<(), Status> {
    let of = |resource: &str| registry.resource(&keelson_api::GroupResource::new("", resource));
    let accounts = of("serviceaccounts");
    for namespace in of("namespaces").list().objects.values() {
        if accounts.get(&format!("{}/default", namespace.name)).is_some() {
            continue;
        }
        let object = crate::cache::decode(&namespace.bytes)?;
        if object.deletion_timestamp().is_some() {
            continue;
        }
        for document in namespace_contents(&namespace.name, authority) {
            ensure(registry, document).await?;
        }
    }
    Ok(())
}

fn priority_class(name: &str, value: i64, description: &str) -> Value {
    json!({
        "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "value": value, "description": description,
        "metadata": {"name": name},
    })
}

/// The namespaces that every cluster has.
pub(super) const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// Makes these namespaces with what they hold.
pub(super) async fn namespaces(registry: &Registry, authority: &str) -> Result<(), Status> {
    // What does not wait for each other is written together.
    let namespace = |name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    try_join_all(NAMESPACES.map(|name| ensure(registry, namespace(name)))).await?;
    let contents = NAMESPACES.into_iter().flat_map(|name| namespace_contents(name, authority));
    try_join_all(contents.map(|document| ensure(registry, document))).await.map(drop)
}

/// Makes what is missing.
pub(super) async fn run(registry: &Registry, authority: &str) -> Result<(), Status> {
    namespaces(registry, authority).await?;
    let node = "Used for system critical pods that must not be moved from their current node.";
    let cluster = "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.";
    let classes = [
        priority_class("system-node-critical", 2_000_001_000, node),
        priority_class("system-cluster-critical", 2_000_000_000, cluster),
    ];
    let classes = classes.map(|document| ensure(registry, document));
    let roles = super::roles::documents().map_err(Status::internal)?;
    let roles = roles.into_iter().chain(super::controller_roles::documents());
    let roles = roles.map(|document| super::role_reconciliation::reconcile(registry, document));
    futures::try_join!(try_join_all(classes), try_join_all(roles))?;
    super::aggregated_roles::settle(registry).await
}
