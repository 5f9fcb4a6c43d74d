//! What an Operator object brings about, and what is left of it.

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use keelson_operator_catalog::kind::Operator;
use keelson_operator_catalog::profile::manifest;
use keelson_operator_kit::condition;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::cluster::{Cluster, until};

const NAME: &str = "serviceaccount";

fn ready(operator: &Option<Operator>) -> Option<(String, String)> {
    let status = operator.as_ref()?.status.as_ref()?;
    let ready = condition::find(&status.conditions, "Ready")?;
    Some((ready.status.clone(), ready.reason.clone()))
}

#[tokio::test]
async fn an_operator_object_is_installed_runs_and_leaves_nothing_behind() {
    let cluster = Cluster::start().await;
    cluster.install(&[NAME]).await;
    let api: Api<Operator> = Api::all(cluster.client.clone());
    let object = api.get(NAME).await.unwrap();
    assert_eq!(object.status.as_ref().unwrap().version.as_deref(), Some(env!("CARGO_PKG_VERSION")));
    assert!(condition::find(&object.status.unwrap().conditions, "Ready").is_some());
    let accounts: Api<ServiceAccount> = Api::namespaced(cluster.client.clone(), "keelson-system");
    assert!(accounts.get_opt(NAME).await.unwrap().is_some());

    api.delete(NAME, &DeleteParams::default()).await.unwrap();
    until("the object goes", || async { api.get_opt(NAME).await.unwrap() }, Option::is_none).await;
    let role = format!("keelson:operator:{NAME}");
    let roles: Api<ClusterRole> = Api::all(cluster.client.clone());
    let bindings: Api<ClusterRoleBinding> = Api::all(cluster.client.clone());
    let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), "keelson-system");
    assert!(roles.get_opt(&role).await.unwrap().is_none());
    assert!(bindings.get_opt(&role).await.unwrap().is_none());
    assert!(accounts.get_opt(NAME).await.unwrap().is_none());
    assert!(leases.get_opt(NAME).await.unwrap().is_none());
    cluster.end().await;
}

#[tokio::test]
async fn a_name_that_is_not_in_the_catalog_is_told_and_the_object_can_be_deleted() {
    let cluster = Cluster::start().await;
    cluster.install(&[]).await;
    let api: Api<Operator> = Api::all(cluster.client.clone());
    api.create(&PostParams::default(), &manifest("no-such")).await.unwrap();
    let told =
        until("a reason", || async { ready(&api.get_opt("no-such").await.unwrap()) }, Option::is_some).await;
    assert_eq!(told.unwrap(), ("False".to_owned(), "NotInCatalog".to_owned()));
    api.delete("no-such", &DeleteParams::default()).await.unwrap();
    assert!(api.get_opt("no-such").await.unwrap().is_none());
    cluster.end().await;
}

#[tokio::test]
async fn operators_are_taken_up_again_by_the_host_that_comes_next() {
    let mut cluster = Cluster::start().await;
    cluster.install(&[NAME]).await;
    cluster.restart_host().await;
    let settled = keelson_operator_catalog::wait_until_settled(cluster.client.clone()).await.unwrap();
    assert_eq!(settled, "1 of 1 running");
    let api: Api<Operator> = Api::all(cluster.client.clone());
    assert_eq!(api.get(NAME).await.unwrap().finalizers().len(), 1);
    cluster.end().await;
}

#[tokio::test]
async fn an_object_that_comes_to_name_another_operator_leaves_the_first_without_rights() {
    let cluster = Cluster::start().await;
    cluster.install(&[]).await;
    let api: Api<Operator> = Api::all(cluster.client.clone());
    let mut object = manifest("mine");
    object.spec.name = Some(NAME.to_owned());
    api.create(&PostParams::default(), &object).await.unwrap();
    let roles: Api<ClusterRole> = Api::all(cluster.client.clone());
    let role = |name: &str| {
        let (roles, name) = (roles.clone(), format!("keelson:operator:{name}"));
        async move { roles.get_opt(&name).await.unwrap() }
    };
    until("rights", || role(NAME), Option::is_some).await;
    let other = json!({"spec": {"name": "namespace"}});
    api.patch("mine", &PatchParams::default(), &Patch::Merge(other)).await.unwrap();
    until("rights of the other", || role("namespace"), Option::is_some).await;
    until("no rights of the first", || role(NAME), Option::is_none).await;
    api.delete("mine", &DeleteParams::default()).await.unwrap();
    until("the object goes", || async { api.get_opt("mine").await.unwrap() }, Option::is_none).await;
    assert!(role("namespace").await.is_none());
    cluster.end().await;
}

#[tokio::test]
async fn the_object_that_bears_the_name_takes_precedence_and_leaves_the_operator_to_the_next() {
    let cluster = Cluster::start().await;
    cluster.install(&[]).await;
    let api: Api<Operator> = Api::all(cluster.client.clone());
    let post = PostParams::default();
    let mut second = manifest("mine");
    second.spec.name = Some(NAME.to_owned());
    api.create(&post, &second).await.unwrap();
    let reason = |name: &'static str| {
        let api = api.clone();
        async move { ready(&api.get_opt(name).await.unwrap()).map(|(_, reason)| reason) }
    };
    let is = |wished: &'static str| move |it: &Option<String>| it.as_deref() == Some(wished);
    until("it runs", || reason("mine"), is("Running")).await;
    api.create(&post, &manifest(NAME)).await.unwrap();
    until("it gives way", || reason("mine"), is("DuplicateOperator")).await;
    until("the other runs", || reason(NAME), is("Running")).await;
    api.delete(NAME, &DeleteParams::default()).await.unwrap();
    until("it runs again", || reason("mine"), is("Running")).await;
    let roles: Api<ClusterRole> = Api::all(cluster.client.clone());
    assert!(roles.get_opt(&format!("keelson:operator:{NAME}")).await.unwrap().is_some());
    cluster.end().await;
}
