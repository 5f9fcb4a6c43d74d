//! What becomes of a namespace that is deleted.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::cluster::{Cluster, until};

fn object<K: serde::de::DeserializeOwned>(document: serde_json::Value) -> K {
    serde_json::from_value(document).unwrap()
}

async fn condition(api: &Api<Namespace>, type_: &str) -> Option<(String, String)> {
    let conditions = api.get_opt("doomed").await.unwrap()?.status?.conditions?;
    let found = conditions.into_iter().find(|condition| condition.type_ == type_)?;
    Some((found.status, found.message?))
}

#[tokio::test]
async fn a_namespace_takes_its_content_along_also_of_custom_kinds() {
    let cluster = Cluster::start().await;
    cluster.install(&["garbagecollector", "namespace", "serviceaccount"]).await;
    cluster.make_kind("things").await;
    let namespaces = cluster.namespace("doomed").await;
    let post = PostParams::default();
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "doomed");
    maps.create(&post, &object(json!({"metadata": {"name": "a"}}))).await.unwrap();
    let things: Api<DynamicObject> = Api::namespaced_with(
        cluster.client.clone(),
        "doomed",
        &ApiResource::from_gvk(&GroupVersionKind::gvk("example.com", "v1", "Thing")),
    );
    let thing = json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "t"}});
    things.create(&post, &object(thing)).await.unwrap();
    namespaces.delete("doomed", &DeleteParams::default()).await.unwrap();
    until("gone", || async { namespaces.get_opt("doomed").await.unwrap() }, Option::is_none).await;
    assert!(maps.list(&kube::api::ListParams::default()).await.unwrap().items.is_empty());
    assert!(things.list(&kube::api::ListParams::default()).await.unwrap().items.is_empty());
    cluster.end().await;
}

#[tokio::test]
async fn other_content_goes_only_after_the_pods_and_conditions_say_what_holds() {
    let cluster = Cluster::start().await;
    cluster.install(&["namespace"]).await;
    let namespaces = cluster.namespace("doomed").await;
    let post = PostParams::default();
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "doomed");
    maps.create(&post, &object(json!({"metadata": {"name": "a"}}))).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), "doomed");
    let pod = json!({"metadata": {"name": "p", "finalizers": ["example.com/hold"]},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    pods.create(&post, &object(pod)).await.unwrap();
    namespaces.delete("doomed", &DeleteParams::default()).await.unwrap();
    let held = until(
        "a condition",
        || condition(&namespaces, "NamespaceFinalizersRemaining"),
        |it| it.as_ref().is_some_and(|(status, _)| status == "True"),
    )
    .await;
    assert!(held.unwrap().1.ends_with("example.com/hold in 1 resource instances"));
    let remaining = condition(&namespaces, "NamespaceContentRemaining").await.unwrap();
    assert_eq!(remaining.1, "Some resources are remaining: pods. has 1 resource instances");
    assert!(maps.get_opt("a").await.unwrap().is_some(), "the pods go first");
    let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    pods.patch("p", &PatchParams::default(), &free).await.unwrap();
    until("gone", || async { namespaces.get_opt("doomed").await.unwrap() }, Option::is_none).await;
    cluster.end().await;
}

#[tokio::test]
async fn a_namespace_that_is_not_deleted_keeps_everything() {
    let cluster = Cluster::start().await;
    let namespaces = cluster.namespace("doomed").await;
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "doomed");
    maps.create(&PostParams::default(), &object(json!({"metadata": {"name": "a"}}))).await.unwrap();
    cluster.install(&["namespace"]).await;
    let labels: BTreeMap<String, String> = [("a".to_owned(), "b".to_owned())].into();
    let patch = Patch::Merge(json!({"metadata": {"labels": labels}}));
    let patched = namespaces.patch("doomed", &PatchParams::default(), &patch).await.unwrap();
    assert_eq!(patched.labels().get("a").map(String::as_str), Some("b"));
    // One that is deleted afterwards shows that the operator was at work.
    cluster.namespace("other").await.delete("other", &DeleteParams::default()).await.unwrap();
    until("gone", || async { namespaces.get_opt("other").await.unwrap() }, Option::is_none).await;
    assert!(maps.get_opt("a").await.unwrap().is_some());
    cluster.end().await;
}
