//! Claims stay as long as pods use them.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::cluster::{Cluster, until};

fn object<K: serde::de::DeserializeOwned>(document: serde_json::Value) -> K {
    serde_json::from_value(document).unwrap()
}

#[tokio::test]
async fn a_claim_goes_with_its_last_pod_and_an_unused_volume_at_once() {
    let cluster = Cluster::start().await;
    cluster.install(&["serviceaccount", "storageprotection"]).await;
    let post = PostParams::default();
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(cluster.client.clone(), "default");
    let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    let claim = object(json!({"metadata": {"name": "c"}, "spec": spec}));
    assert_eq!(claims.create(&post, &claim).await.unwrap().finalizers(), ["kubernetes.io/pvc-protection"]);
    let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> =
        Api::namespaced(cluster.client.clone(), "default");
    until("there", || async { accounts.get_opt("default").await.unwrap() }, Option::is_some).await;
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), "default");
    let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]);
    let spec = json!({"nodeName": "n", "volumes": volumes, "containers": [{"name": "c", "image": "x"}]});
    pods.create(&post, &object(json!({"metadata": {"name": "p"}, "spec": spec}))).await.unwrap();

    claims.delete("c", &DeleteParams::default()).await.unwrap();
    let all: Api<PersistentVolume> = Api::all(cluster.client.clone());
    let spec =
        json!({"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"}});
    all.create(&post, &object(json!({"metadata": {"name": "v"}, "spec": spec}))).await.unwrap();
    all.delete("v", &DeleteParams::default()).await.unwrap();
    until("gone", || async { all.get_opt("v").await.unwrap() }, Option::is_none).await;
    assert!(claims.get("c").await.unwrap().metadata.deletion_timestamp.is_some());

    pods.delete("p", &DeleteParams::default().grace_period(0)).await.unwrap();
    until("gone", || async { claims.get_opt("c").await.unwrap() }, Option::is_none).await;
    cluster.end().await;
}
