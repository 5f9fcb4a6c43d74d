//! What every namespace has, and tokens in Secrets.

use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, ServiceAccount};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::cluster::{Cluster, until};

#[tokio::test]
async fn the_default_account_and_the_bundle_come_back_when_they_are_deleted_or_changed() {
    let cluster = Cluster::start().await;
    cluster.install(&["serviceaccount"]).await;
    cluster.namespace("home").await;
    let accounts: Api<ServiceAccount> = Api::namespaced(cluster.client.clone(), "home");
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "home");
    let account = || async { accounts.get_opt("default").await.unwrap().and_then(|it| it.uid()) };
    let first = until("an account", account, Option::is_some).await;
    accounts.delete("default", &DeleteParams::default()).await.unwrap();
    until("another account", account, |uid| uid.is_some() && *uid != first).await;
    let bundle = || async { maps.get_opt("kube-root-ca.crt").await.unwrap().and_then(|it| it.data) };
    let data = until("a bundle", bundle, Option::is_some).await;
    assert!(data.as_ref().unwrap()["ca.crt"].starts_with("-----BEGIN CERTIFICATE-----"));
    let wrong = Patch::Merge(json!({"data": {"ca.crt": "wrong", "more": "x"}}));
    maps.patch("kube-root-ca.crt", &PatchParams::default(), &wrong).await.unwrap();
    until("the bundle is repaired", bundle, |now| *now == data).await;
    maps.delete("kube-root-ca.crt", &DeleteParams::default()).await.unwrap();
    until("the bundle is back", bundle, |now| *now == data).await;
    cluster.end().await;
}

#[tokio::test]
async fn a_secret_that_asks_for_a_token_gets_one_that_works_and_goes_with_its_account() {
    let cluster = Cluster::start().await;
    cluster.install(&["serviceaccount"]).await;
    cluster.namespace("home").await;
    let accounts: Api<ServiceAccount> = Api::namespaced(cluster.client.clone(), "home");
    let account = serde_json::from_value(json!({"metadata": {"name": "robot"}})).unwrap();
    accounts.create(&PostParams::default(), &account).await.unwrap();
    let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), "home");
    let secret = json!({"metadata": {"name": "token", "annotations": {"kubernetes.io/service-account.name": "robot"}},
        "type": "kubernetes.io/service-account-token"});
    secrets.create(&PostParams::default(), &serde_json::from_value(secret).unwrap()).await.unwrap();
    let data =
        || async { secrets.get_opt("token").await.unwrap().and_then(|it| it.data).unwrap_or_default() };
    let data = until("a token", data, |data| data.contains_key("token")).await;
    assert_eq!(data["namespace"].0, b"home");
    let client = cluster.client_with_token(&String::from_utf8(data["token"].0.clone()).unwrap());
    let reviews: Api<SelfSubjectReview> = Api::all(client);
    let me = reviews.create(&PostParams::default(), &SelfSubjectReview::default()).await.unwrap();
    let user = me.status.and_then(|status| status.user_info).and_then(|user| user.username);
    assert_eq!(user.as_deref(), Some("system:serviceaccount:home:robot"));
    accounts.delete("robot", &DeleteParams::default()).await.unwrap();
    until("the Secret goes", || async { secrets.get_opt("token").await.unwrap() }, Option::is_none).await;
    cluster.end().await;
}
