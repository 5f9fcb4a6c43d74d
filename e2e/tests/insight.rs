//! What the server tells of itself, and whose turn it is, as kubectl sees it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use keelson_e2e::Server;

#[test]
fn kubectl_reads_health_and_metrics() {
    let server = Server::start().unwrap();
    let ready = server.kubectl(&["get", "--raw", "/readyz?verbose"]).unwrap();
    assert!(ready.contains("[+]etcd ok\n") && ready.ends_with("readyz check passed\n"), "{ready}");
    server.kubectl(&["create", "configmap", "settings"]).unwrap();
    let metrics = server.kubectl(&["get", "--raw", "/metrics"]).unwrap();
    let created = r#"apiserver_request_total{code="201",component="apiserver",dry_run="",group="",resource="configmaps",scope="resource",subresource="",verb="POST",version="v1"} 1"#;
    assert!(metrics.contains(created), "{metrics}");
}

#[test]
fn kubectl_shows_schemas_and_levels() {
    let server = Server::start().unwrap();
    let path = "jsonpath={.spec.priorityLevelConfiguration.name} {.spec.matchingPrecedence}";
    let found = server.kubectl(&["get", "flowschema", "service-accounts", "-o", path]).unwrap();
    assert_eq!(found, "workload-low 9000");
    let refused = server.kubectl_fails(&[
        "patch",
        "flowschema",
        "exempt",
        "--type=merge",
        "-p",
        r#"{"spec":{"matchingPrecedence":3}}"#,
    ]);
    assert!(refused.unwrap().contains("must equal the fixed value"));
}
