//! What becomes of objects whose owners go.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::cluster::{Cluster, until};

struct Family {
    cluster: Cluster,
    maps: Api<ConfigMap>,
}

fn reference(owner: &ConfigMap) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "name": owner.name_any(), "uid": owner.uid(),
        "blockOwnerDeletion": true})
}

impl Family {
    async fn start() -> Self {
        let cluster = Cluster::start().await;
        cluster.install(&["garbagecollector"]).await;
        cluster.namespace("home").await;
        let maps = Api::namespaced(cluster.client.clone(), "home");
        Family { cluster, maps }
    }

    async fn make(&self, name: &str, owners: &[Value], finalizers: &[&str]) -> ConfigMap {
        let document =
            json!({"metadata": {"name": name, "ownerReferences": owners, "finalizers": finalizers}});
        self.maps.create(&PostParams::default(), &serde_json::from_value(document).unwrap()).await.unwrap()
    }

    async fn gone(&self, name: &str) {
        until(name, || async { self.maps.get_opt(name).await.unwrap() }, Option::is_none).await;
    }

    async fn is_there(&self, name: &str) -> bool {
        self.maps.get_opt(name).await.unwrap().is_some()
    }
}

#[tokio::test]
async fn dependents_of_dependents_follow_an_owner_that_was_deleted() {
    let family = Family::start().await;
    let owner = family.make("owner", &[], &[]).await;
    let child = family.make("child", &[reference(&owner)], &[]).await;
    family.make("grandchild", &[reference(&child)], &[]).await;
    family.make("stranger", &[], &[]).await;
    family.maps.delete("owner", &DeleteParams::background()).await.unwrap();
    family.gone("grandchild").await;
    assert!(!family.is_there("child").await && family.is_there("stranger").await);
    family.cluster.end().await;
}

#[tokio::test]
async fn an_object_that_names_an_owner_that_never_was_goes_and_one_with_another_owner_stays() {
    let family = Family::start().await;
    let owner = family.make("owner", &[], &[]).await;
    let mut never = reference(&owner);
    never["uid"] = json!("0189f7ea-cc24-4d6f-9b1c-00a1b2c3d4e5");
    family.make("both", &[never.clone(), reference(&owner)], &[]).await;
    family.make("lost", &[never], &[]).await;
    family.gone("lost").await;
    let references = || async { family.maps.get("both").await.unwrap().owner_references().to_vec() };
    let left = until("the absent owner is forgotten", references, |it| it.len() == 1).await;
    assert_eq!(Some(left[0].uid.clone()), owner.uid());
    family.cluster.end().await;
}

#[tokio::test]
async fn an_owner_that_is_deleted_in_the_foreground_waits_for_its_dependents() {
    let family = Family::start().await;
    let owner = family.make("owner", &[], &[]).await;
    let child = family.make("child", &[reference(&owner)], &[]).await;
    family.make("grandchild", &[reference(&child)], &["example.com/hold"]).await;
    family.maps.delete("owner", &DeleteParams::foreground()).await.unwrap();
    let ends = || async { family.maps.get("grandchild").await.unwrap().metadata.deletion_timestamp };
    until("the grandchild ends", ends, Option::is_some).await;
    let owner = family.maps.get("owner").await.unwrap();
    assert_eq!(owner.finalizers(), ["foregroundDeletion"]);
    assert!(family.is_there("child").await);
    let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    family.maps.patch("grandchild", &PatchParams::default(), &free).await.unwrap();
    family.gone("owner").await;
    assert!(!family.is_there("child").await);
    family.cluster.end().await;
}

#[tokio::test]
async fn an_owner_that_orphans_leaves_its_dependents_without_reference() {
    let family = Family::start().await;
    let owner = family.make("owner", &[], &[]).await;
    let child = family.make("child", &[reference(&owner)], &[]).await;
    family.make("grandchild", &[reference(&child)], &[]).await;
    family.maps.delete("owner", &DeleteParams::orphan()).await.unwrap();
    family.gone("owner").await;
    assert!(family.maps.get("child").await.unwrap().owner_references().is_empty());
    assert_eq!(family.maps.get("grandchild").await.unwrap().owner_references().len(), 1);
    family.cluster.end().await;
}

#[tokio::test]
async fn two_objects_that_own_each_other_go_in_the_foreground() {
    let family = Family::start().await;
    let one = family.make("one", &[], &[]).await;
    let two = family.make("two", &[reference(&one)], &[]).await;
    let patch = Patch::Merge(json!({"metadata": {"ownerReferences": [reference(&two)]}}));
    family.maps.patch("one", &PatchParams::default(), &patch).await.unwrap();
    family.maps.delete("one", &DeleteParams::foreground()).await.unwrap();
    family.gone("one").await;
    family.gone("two").await;
    family.cluster.end().await;
}

#[tokio::test]
async fn custom_kinds_that_come_later_are_collected() {
    let family = Family::start().await;
    family.cluster.make_kind("things").await;
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("example.com", "v1", "Thing"));
    let things: Api<DynamicObject> = Api::namespaced_with(family.cluster.client.clone(), "home", &kind);
    let thing = json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "t"}});
    let thing = serde_json::from_value(thing).unwrap();
    let thing: DynamicObject = things.create(&PostParams::default(), &thing).await.unwrap();
    let owner = json!({"apiVersion": "example.com/v1", "kind": "Thing", "name": "t", "uid": thing.uid()});
    family.make("child", &[owner], &[]).await;
    things.delete("t", &DeleteParams::background()).await.unwrap();
    family.gone("child").await;
    family.cluster.end().await;
}
