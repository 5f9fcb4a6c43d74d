//! Metrics, health and the marks of a request.

use http::{HeaderMap, Method, Request};
use keelson_apiserver::Identity;
use serde_json::{Value, json};

use crate::harness::Server;

/// The code, headers and text of an answer.
async fn ask(
    server: &Server,
    who: Identity,
    path: &str,
    headers: &[(&str, &str)],
) -> (u16, HeaderMap, String) {
    let mut request = Request::builder().method(Method::GET).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(kube::client::Body::empty()).unwrap();
    let response = server.api.client(who).send(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let text = String::from_utf8(body.collect_bytes().await.unwrap().to_vec()).unwrap();
    (parts.status.as_u16(), parts.headers, text)
}

fn administrator() -> Identity {
    Identity::user("admin", &["system:masters"])
}

pub(crate) async fn metrics(server: &Server) -> String {
    ask(server, administrator(), "/metrics", &[]).await.2
}

#[tokio::test]
async fn requests_are_counted_with_upstreams_names_and_labels() {
    let server = Server::start().await;
    let path = "/api/v1/namespaces/default/configmaps";
    server.post(path, json!({"metadata": {"name": "a"}})).await.ok();
    server.get(&format!("{path}/a")).await.ok();
    server.get(&format!("{path}/b")).await.fails(404);
    server.get("/api/v1/nothings/b").await.fails(404);
    server.get("/api/v1/namespaces/default/configmaps?labelSelector=a").await.ok();
    let text = metrics(&server).await;
    let labels =
        r#"component="apiserver",dry_run="",group="",resource="configmaps",scope="resource",subresource="""#;
    for line in [
        format!(r#"apiserver_request_total{{code="200",{labels},verb="GET",version="v1"}} 1"#),
        format!(r#"apiserver_request_total{{code="404",{labels},verb="GET",version="v1"}} 1"#),
        format!(r#"apiserver_request_total{{code="201",{labels},verb="POST",version="v1"}} 1"#),
        format!(r#"apiserver_request_duration_seconds_count{{{labels},verb="GET",version="v1"}} 2"#),
    ] {
        assert!(text.contains(&line), "{line}\n{text}");
    }
    for part in [
        "apiserver_admission_controller_admission_duration_seconds_count{name=\"NamespaceLifecycle\",operation=\"CREATE\",rejected=\"false\",type=\"admit\"}",
        "etcd_request_duration_seconds_count{operation=\"create\"}",
        "apiserver_storage_objects{resource=\"clusterroles.rbac.authorization.k8s.io\"}",
        "apiserver_storage_size_bytes{storage_cluster_id=\"keelson-0\"}",
        "kubernetes_build_info{",
        "apiserver_request_body_size_bytes_count{resource=\"configmaps\",verb=\"create\"} 1\n",
        "apiserver_cache_list_total{group=\"\",resource=\"configmaps\"} 1\n",
        "apiserver_cache_list_returned_objects_total{group=\"\",resource=\"configmaps\"} 0\n",
        "authorization_attempts_total{result=\"allowed\"} ",
        "process_resident_memory_bytes ",
        "apiserver_current_inflight_requests{request_kind=\"readOnly\"} 1\n",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    assert!(!text.contains("nothings"), "{text}");
}

#[tokio::test]
async fn metrics_are_for_those_who_may_read_them_in_the_format_they_ask_for() {
    let server = Server::start().await;
    let ann = Identity::user("ann", &[]);
    assert_eq!(ask(&server, ann.clone(), "/metrics", &[]).await.0, 403);
    let monitoring = Identity::user("prometheus", &["system:monitoring"]);
    let accept = [("accept", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")];
    assert_eq!(ask(&server, monitoring.clone(), "/readyz", &[]).await.0, 200);
    let (code, _, slis) = ask(&server, monitoring.clone(), "/metrics/slis", &[]).await;
    assert!(code == 200 && slis.contains("kubernetes_healthcheck{"), "{slis}");
    assert!(!slis.contains("apiserver_request_total"), "{slis}");
    let (code, headers, text) = ask(&server, monitoring, "/metrics", &accept).await;
    assert_eq!(code, 200);
    assert!(headers["content-type"].to_str().unwrap().starts_with("application/openmetrics-text"));
    assert!(text.ends_with("# EOF\n"));
    assert_eq!(ask(&server, ann, "/readyz/ping", &[]).await.0, 403);
}

#[tokio::test]
async fn a_watch_is_counted_while_it_runs() {
    let server = Server::start().await;
    let request = Request::get("/api/v1/secrets?watch=true").body(kube::client::Body::empty()).unwrap();
    let watch = server.api.administrator().send(request).await.unwrap();
    let running = r#"apiserver_longrunning_requests{component="apiserver",group="",resource="secrets",scope="cluster",subresource="",verb="WATCH",version="v1"}"#;
    assert!(metrics(&server).await.contains(&format!("{running} 1\n")));
    drop(watch);
    assert!(metrics(&server).await.contains(&format!("{running} 0\n")));
}

#[tokio::test]
async fn health_tells_each_check_and_leaves_out_what_it_is_asked_to() {
    let server = Server::start().await;
    let get = async |path: &str| {
        let (code, _, text) = ask(&server, administrator(), path, &[]).await;
        (code, text)
    };
    assert_eq!(get("/readyz").await, (200, "ok".to_owned()));
    let (code, text) = get("/readyz?verbose&exclude=etcd&exclude=nothing").await;
    assert_eq!(code, 200);
    for line in [
        "[+]ping ok\n",
        "[+]etcd excluded: ok\n",
        "[+]informer-sync ok\n",
        "[+]poststarthook/rbac/bootstrap-roles ok\n",
        "[+]shutdown ok\n",
        "warn: some health checks cannot be excluded: no matches for \"nothing\"\nreadyz check passed\n",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    let live = get("/livez?verbose").await.1;
    assert!(!live.contains("shutdown") && live.ends_with("livez check passed\n"), "{live}");
    assert_eq!(get("/readyz/poststarthook/crd-informer-synced").await, (200, "ok".to_owned()));
    assert_eq!(get("/livez/shutdown").await.0, 404);
}

#[tokio::test]
async fn every_answer_carries_the_id_of_its_request() {
    let server = Server::start().await;
    let id = |headers: &HeaderMap| headers["audit-id"].to_str().unwrap().to_owned();
    let (_, headers, _) = ask(&server, administrator(), "/api/v1/pods", &[]).await;
    assert_eq!(id(&headers).len(), 36);
    let (code, headers, _) =
        ask(&server, Identity::user("ann", &[]), "/api/v1/pods", &[("audit-id", "own")]).await;
    assert_eq!((code, id(&headers).as_str()), (403, "own"));
}

#[tokio::test]
async fn the_version_says_what_it_emulates() {
    let server = Server::start().await;
    let version: Value = server.get("/version").await.ok();
    for (field, value) in
        [("major", "1"), ("minor", "36"), ("emulationMinor", "36"), ("minCompatibilityMinor", "35")]
    {
        assert_eq!(version[field], value, "{version}");
    }
}
