//! The objects that every cluster has, made when they are missing and otherwise left as they are.

use std::sync::Arc;

use keelson_api::{GroupVersionKind, Object, Status};
use serde_json::{Value, json};

use super::Config;
use crate::identity::{Identity, MASTERS};
use crate::registry::{Registry, Target, WriteOptions};

fn options() -> WriteOptions {
    WriteOptions {
        identity: Identity::user("system:apiserver", &[MASTERS]),
        manager: "kube-apiserver".to_owned(),
        dry_run: false,
    }
}

async fn ensure(registry: &Registry, document: Value) -> Result<(), Status> {
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

/// Makes what is missing.
pub(super) async fn run(registry: &Registry, config: &Config, authority: &str) -> Result<(), Status> {
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        ensure(registry, json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
            .await?;
        for document in namespace_contents(name, authority) {
            ensure(registry, document).await?;
        }
    }
    for document in super::roles::documents().map_err(Status::internal)? {
        ensure(registry, document).await?;
    }
    let critical = "Used for system critical pods that must not be moved from their current node.";
    ensure(registry, priority_class("system-node-critical", 2_000_001_000, critical)).await?;
    let critical = "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.";
    ensure(registry, priority_class("system-cluster-critical", 2_000_000_000, critical)).await?;
    let address = config.service_cidr.hosts().next().map(|address| address.to_string());
    ensure(
        registry,
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"component": "apiserver", "provider": "kubernetes"}},
            "spec": {"type": "ClusterIP", "clusterIP": address, "ports": [
                {"name": "https", "port": 443, "protocol": "TCP", "targetPort": config.bind.port()},
            ]},
        }),
    )
    .await
}
