//! Bootstrap tokens end, and sign where the cluster is.

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde_json::json;

use crate::cluster::{Cluster, until};

fn token(id: &str, expiration: &str) -> Secret {
    serde_json::from_value(json!({
        "metadata": {"name": format!("bootstrap-token-{id}")}, "type": "bootstrap.kubernetes.io/token",
        "stringData": {"token-id": id, "token-secret": "0123456789abcdef", "expiration": expiration,
            "usage-bootstrap-signing": "true", "usage-bootstrap-authentication": "true"},
    }))
    .unwrap()
}

#[tokio::test]
async fn an_expired_token_goes_and_the_others_sign_where_the_cluster_is() {
    let cluster = Cluster::start().await;
    cluster.install(&["bootstraptoken"]).await;
    let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), "kube-system");
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "kube-public");
    let post = PostParams::default();
    secrets.create(&post, &token("oldold", "2020-01-01T00:00:00Z")).await.unwrap();
    secrets.create(&post, &token("newnew", "2100-01-01T00:00:00Z")).await.unwrap();
    let gone = || async { secrets.get_opt("bootstrap-token-oldold").await.unwrap() };
    until("the expired token gone", gone, Option::is_none).await;
    let data = || async { maps.get_opt("cluster-info").await.unwrap().and_then(|map| map.data) };
    let signs = |data: &Option<std::collections::BTreeMap<String, String>>, id: &str| {
        data.as_ref().is_some_and(|data| data.contains_key(&format!("jws-kubeconfig-{id}")))
    };
    until("signed", data, |data| signs(data, "newnew") && !signs(data, "oldold")).await;
    let told = data().await.unwrap();
    assert!(told["kubeconfig"].contains("server: https://127.0.0.1:"), "{}", told["kubeconfig"]);
    assert!(told["jws-kubeconfig-newnew"].starts_with("eyJhbGciOiJIUzI1NiIsImtpZCI6Im5ld25ldyJ9.."));
    secrets.delete("bootstrap-token-newnew", &DeleteParams::default()).await.unwrap();
    until("unsigned", data, |data| !signs(data, "newnew")).await;
    maps.delete("cluster-info", &DeleteParams::default()).await.unwrap();
    until("made again", data, Option::is_some).await;
    cluster.end().await;
}
