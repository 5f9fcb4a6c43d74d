//! The way of a user: manifests and kubectl.

use crate::cluster::Cluster;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_are_applied_seen_and_deleted_on_a_minimal_cluster() {
    let cluster = Cluster::start().await;
    keelson_operator_catalog::install(cluster.client.clone(), "minimal").await.unwrap();
    let applied = cluster
        .kubectl(&[
            "apply",
            "-f",
            "manifests/operators/namespace.yaml",
            "-f",
            "manifests/operators/serviceaccount.yaml",
        ])
        .await;
    assert!(applied.contains("operator.platform.keelson.io/namespace created"), "{applied}");
    cluster.kubectl(&["wait", "--for=condition=Ready", "--timeout=10s", "operator", "--all"]).await;
    let table = cluster.kubectl(&["get", "operators"]).await;
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NAME", "READY", "VERSION", "AGE"]);
    assert_eq!(lines[1][..3], ["namespace", "True", env!("CARGO_PKG_VERSION")]);
    let again = cluster.kubectl(&["apply", "-f", "manifests/operators/namespace.yaml"]).await;
    assert!(again.contains("unchanged"), "{again}");
    let all = cluster.kubectl(&["apply", "-k", "manifests/profiles/default"]).await;
    assert!(all.contains("operator.platform.keelson.io/garbagecollector created"), "{all}");
    cluster.kubectl(&["delete", "op", "namespace", "--timeout=10s"]).await;
    let left = cluster.kubectl(&["get", "clusterroles", "-o", "name"]).await;
    assert!(!left.contains("keelson:operator:namespace") && left.contains("keelson:operator:serviceaccount"));
    cluster.end().await;
}
