//! The record of requests, as it comes to a log and to a webhook.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{Method, Request};
use keelson_apiserver::Identity;
use keelson_apiserver::audit::options::{BatchOptions, Mode};
use keelson_apiserver::server::Config;
use pretty_assertions::assert_eq;
use serde_json::{Value, json};

use crate::harness::Server;
use crate::hook_server::{HookServer, answer, patched};
use crate::https::Https;
use crate::insight::metrics;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";
/// Of what tests do; not of what the server does for itself.
const TESTED: &str = "{level: None, users: ['system:apiserver']}";

fn log(server: &Server) -> PathBuf {
    server.dir.path().join("audit.log")
}

/// Writes a policy and a log into the folder of the server.
fn configure(config: &mut Config, rules: &str) {
    let path = config.data_dir.join("policy.yaml");
    let policy = format!("{{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [{TESTED}, {rules}]}}");
    std::fs::write(&path, policy).unwrap();
    config.audit.policy_file = Some(path);
    config.audit.log.path = Some(config.data_dir.join("audit.log"));
}

async fn start(rules: &str) -> Server {
    Server::start_with(|config| configure(config, rules)).await
}

fn read(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The events about a path, with or without a query.
fn about(server: &Server, path: &str) -> Vec<Value> {
    let is_it = |event: &Value| {
        let uri = event["requestURI"].as_str().unwrap();
        uri.split('?').next() == Some(path)
    };
    read(&log(server)).into_iter().filter(is_it).collect()
}

fn stages(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["stage"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_request_is_recorded_when_it_comes_and_when_it_is_answered() {
    let server = start("{level: RequestResponse}").await;
    let ann = Identity::user("ann", &["system:masters"]);
    let made = server
        .act(ann, Method::POST, MAPS, json!({"metadata": {"name": "a"}, "data": {"k": "v"}}))
        .await
        .ok();
    let events = about(&server, MAPS);
    assert_eq!(stages(&events), ["RequestReceived", "ResponseComplete"]);
    let (came, done) = (&events[0], &events[1]);
    assert_eq!(came["auditID"], done["auditID"]);
    assert!(came.get("responseStatus").is_none() && came.get("requestObject").is_none());
    assert_eq!(
        done["user"],
        json!({"username": "ann", "groups": ["system:masters", "system:authenticated"]})
    );
    assert_eq!((&done["verb"], &done["level"]), (&json!("create"), &json!("RequestResponse")));
    let reference =
        json!({"resource": "configmaps", "namespace": "default", "name": "a", "apiVersion": "v1"});
    assert_eq!(done["objectRef"], reference);
    assert_eq!(done["responseStatus"], json!({"metadata": {}, "code": 201}));
    assert_eq!(done["requestObject"], json!({"metadata": {"name": "a"}, "data": {"k": "v"}}));
    assert_eq!(done["responseObject"], made);
    assert_eq!(done["annotations"]["authorization.k8s.io/decision"], "allow");
    assert!(done["stageTimestamp"].as_str() >= done["requestReceivedTimestamp"].as_str());
    let text = metrics(&server).await;
    assert!(text.contains("apiserver_audit_level_total{level=\"RequestResponse\"}"), "{text}");
    assert!(text.contains("apiserver_audit_requests_rejected_total 0\n"), "{text}");
}

#[tokio::test]
async fn objects_come_without_managed_fields_in_any_encoding() {
    let server = Server::start_with(|config| {
        configure(config, "{level: RequestResponse, omitStages: [RequestReceived], omitManagedFields: true}");
    })
    .await;
    server.post(MAPS, json!({"metadata": {"name": "a"}})).await.ok();
    server.merge(&format!("{MAPS}/a"), json!({"data": {"k": "v"}})).await.ok();
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {x: y}\n";
    let path = format!("{MAPS}/a?fieldManager=me");
    server.patch(&path, "application/apply-patch+yaml", yaml).await.ok();
    for (accept, path) in [
        ("application/vnd.kubernetes.protobuf", format!("{MAPS}/a")),
        ("application/json;as=Table;v=v1;g=meta.k8s.io", MAPS.to_owned()),
        ("application/yaml", MAPS.to_owned()),
    ] {
        let request = Request::get(&path).header("accept", accept).body(kube::client::Body::empty()).unwrap();
        assert!(server.api.administrator().send(request).await.unwrap().status().is_success());
    }
    let one = about(&server, &format!("{MAPS}/a"));
    assert_eq!(one[0]["requestObject"], json!({"data": {"k": "v"}}));
    assert_eq!(one[1]["requestObject"]["data"], json!({"x": "y"}));
    let got = &one[2]["responseObject"];
    assert_eq!((&got["kind"], &got["data"]["x"]), (&json!("ConfigMap"), &json!("y")));
    assert!(one.iter().all(|event| !event.to_string().contains("managedFields")), "{one:?}");
    let all = about(&server, MAPS);
    assert_eq!(all[1]["responseObject"]["kind"], "Table");
    assert_eq!(all[2]["responseObject"]["kind"], "ConfigMapList");
    assert!(all.iter().all(|event| !event.to_string().contains("managedFields")), "{all:?}");
}

#[tokio::test]
async fn the_content_of_credentials_is_not_recorded_unless_a_rule_names_them() {
    let server = start("{level: RequestResponse}").await;
    let hush = "aHVzaC1odXNoLWh1c2g=";
    let secret = json!({"metadata": {"name": "keys"}, "data": {"k": hush}});
    server.post(SECRETS, secret.clone()).await.ok();
    server.put(&format!("{SECRETS}/keys"), secret.clone()).await.ok();
    server.merge(&format!("{SECRETS}/keys"), json!({"stringData": {"k": "hush-hush-hush"}})).await.ok();
    server.merge(&format!("{SECRETS}/keys"), json!({"data": {"k": "hush-hush-hush"}})).await.fails(422);
    server.get(SECRETS).await.ok();
    server.delete(&format!("{SECRETS}/keys"), json!({})).await.ok();
    let token = format!("{}/default/token", "/api/v1/namespaces/default/serviceaccounts");
    let given = server.post(&token, json!({"spec": {}})).await.ok();
    let given = given["status"]["token"].as_str().unwrap();
    let review = json!({"spec": {"token": given}});
    server.post("/apis/authentication.k8s.io/v1/tokenreviews", review).await.ok();
    let text = std::fs::read_to_string(log(&server)).unwrap();
    for content in [hush, "hush-hush-hush", given] {
        assert!(!text.contains(content), "{content}");
    }
    let made = &about(&server, SECRETS)[1];
    assert_eq!((&made["level"], &made["objectRef"]["name"]), (&json!("Metadata"), &json!("keys")));

    let named = start("{level: Request, resources: [{group: '', resources: [secrets]}]}").await;
    named.post(SECRETS, secret).await.ok();
    assert_eq!(about(&named, SECRETS)[1]["requestObject"]["data"]["k"], hush);
    assert!(about(&named, SECRETS)[1].get("responseObject").is_none());
}

#[tokio::test]
async fn who_is_not_known_or_not_allowed_is_recorded_with_the_reason() {
    let server = start("{level: Metadata}").await;
    let https = Https::to(&server);
    let headers =
        [("authorization", "Bearer hush"), ("user-agent", "test/1"), ("x-forwarded-for", "1.2.3.4")];
    assert_eq!(https.send(Method::GET, MAPS, &headers, Value::Null).await.0, 401);
    let events = about(&server, MAPS);
    assert_eq!(stages(&events), ["ResponseStarted"]);
    let unknown = &events[0];
    assert_eq!((&unknown["user"], &unknown["userAgent"]), (&json!({}), &json!("test/1")));
    assert_eq!(unknown["sourceIPs"], json!(["1.2.3.4", "127.0.0.1"]));
    assert_eq!(
        unknown["responseStatus"],
        json!({"metadata": {}, "status": "Failure", "message": "Authentication failed, attempted: bearer",
            "reason": "Unauthorized", "code": 401})
    );
    assert!(!unknown.to_string().contains("hush"));
    server.act(Identity::user("eve", &[]), Method::GET, MAPS, Value::Null).await.fails(403);
    let events = about(&server, MAPS);
    let refused = events.last().unwrap();
    assert_eq!(refused["annotations"]["authorization.k8s.io/decision"], "forbid");
    let status = &refused["responseStatus"];
    assert_eq!((&status["code"], &status["reason"]), (&json!(403), &json!("Forbidden")));
    assert!(status["message"].as_str().unwrap().contains("\"eve\""), "{status}");
}

#[tokio::test]
async fn the_policy_is_about_the_caller_and_the_event_tells_in_whose_place_it_acts() {
    let server = start("{level: Metadata, users: [boss]}").await;
    let boss = Identity::user("boss", &["system:masters"]);
    let request =
        Request::get(MAPS).header("impersonate-user", "ann").body(kube::client::Body::empty()).unwrap();
    let response = server.api.client(boss).send(request).await.unwrap();
    assert_eq!(response.status(), 403);
    server.act(Identity::user("ann", &[]), Method::GET, MAPS, Value::Null).await.fails(403);
    let events = about(&server, MAPS);
    assert_eq!(events.len(), 2);
    assert_eq!(events[1]["user"]["username"], "boss");
    let acted = json!({"username": "ann", "groups": ["system:authenticated"]});
    assert_eq!(events[1]["impersonatedUser"], acted);
    let constraint = json!({"impersonationConstraint": "impersonate:user-info"});
    assert_eq!(events[1]["authenticationMetadata"], constraint);
    assert_eq!(events[1]["responseStatus"]["code"], 403);
}

#[tokio::test]
async fn a_watch_is_recorded_when_it_starts_and_when_it_ends() {
    let server = start("{level: RequestResponse, omitStages: [RequestReceived]}").await;
    let path = format!("{MAPS}?watch=1&timeoutSeconds=1");
    let request = Request::get(&path).body(kube::client::Body::empty()).unwrap();
    let watch = server.api.administrator().send(request).await.unwrap();
    assert_eq!(stages(&about(&server, MAPS)), ["ResponseStarted"]);
    watch.into_body().collect_bytes().await.unwrap();
    let path = log(&server);
    let dir = {
        let Server { api, dir } = server;
        api.shutdown().await;
        dir
    };
    let events = read(&path);
    let ends: Vec<&Value> = events.iter().filter(|event| event["verb"] == "watch").collect();
    assert_eq!(ends.len(), 2, "{ends:?}");
    assert_eq!(
        (&ends[1]["stage"], &ends[1]["responseStatus"]["code"]),
        (&json!("ResponseComplete"), &json!(200))
    );
    assert!(ends[1].get("responseObject").is_none());
    drop(dir);
}

#[tokio::test]
async fn what_admission_and_discovery_remark_is_annotated() {
    let hooks = HookServer::start(|_, review| {
        patched(review, json!([{"op": "add", "path": "/data", "value": {"added": "eWVz"}}]))
    })
    .await;
    let server = start("{level: Request, omitStages: [RequestReceived]}").await;
    let hook = json!({
        "metadata": {"name": "hook"},
        "webhooks": [{
            "name": "a.example.com", "clientConfig": hooks.client_config("x"), "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps", "secrets"]}],
        }]
    });
    let hooked = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
    server.post(hooked, hook).await.ok();
    server.post(MAPS, json!({"metadata": {"name": "a"}})).await.ok();
    let annotations = about(&server, MAPS)[0]["annotations"].clone();
    let mutation = annotations["mutation.webhook.admission.k8s.io/round_0_index_0"].as_str().unwrap();
    assert!(mutation.contains("\"mutated\":true"), "{annotations}");
    let patch = annotations["patch.webhook.admission.k8s.io/round_0_index_0"].as_str().unwrap();
    assert!(patch.contains("added"), "{annotations}");
    // A patch is content.
    server.post(SECRETS, json!({"metadata": {"name": "a"}})).await;
    let annotations = about(&server, SECRETS)[0]["annotations"].clone();
    assert!(annotations.get("mutation.webhook.admission.k8s.io/round_0_index_0").is_some(), "{annotations}");
    assert!(annotations.get("patch.webhook.admission.k8s.io/round_0_index_0").is_none(), "{annotations}");
    let endpoints = "/api/v1/namespaces/default/endpoints";
    server.get(endpoints).await.ok();
    assert_eq!(about(&server, endpoints)[0]["annotations"]["k8s.io/deprecated"], "true");
    let pods = "/api/v1/namespaces/strict/pods";
    let namespace =
        json!({"metadata": {"name": "strict", "labels": {"pod-security.kubernetes.io/audit": "baseline"}}});
    server.post("/api/v1/namespaces", namespace).await.ok();
    let pod = json!({"metadata": {"name": "p"}, "spec": {"hostNetwork": true, "containers": [{"name": "c", "image": "i"}]}});
    server.post(pods, pod).await.ok();
    let annotations = about(&server, pods)[0]["annotations"].clone();
    let violations = annotations["pod-security.kubernetes.io/audit-violations"].as_str().unwrap();
    assert!(violations.contains("hostNetwork"), "{annotations}");
}

fn kubeconfig(hooks: &HookServer, folder: &Path) -> PathBuf {
    let path = folder.join("webhook.kubeconfig");
    let text = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c"}}],
        "clusters": [{"name": "c", "cluster": {
            "server": format!("https://{}/audit", hooks.address), "certificate-authority-data": hooks.ca_bundle
        }}]
    });
    std::fs::write(&path, text.to_string()).unwrap();
    path
}

fn names(lists: &[Value]) -> Vec<String> {
    let items = lists.iter().flat_map(|list| list["items"].as_array().unwrap());
    items.filter_map(|event| event["objectRef"]["name"].as_str().map(str::to_owned)).collect()
}

#[tokio::test]
async fn a_webhook_gets_lists_of_events_also_at_the_end() {
    let hooks = HookServer::start(|_, _| json!({})).await;
    let server = Server::start_with(|config| {
        configure(config, "{level: Metadata, omitStages: [RequestReceived], resources: [{group: '', resources: [configmaps]}]}");
        config.audit.webhook.config_file = Some(kubeconfig(&hooks, &config.data_dir));
    })
    .await;
    for name in ["a", "b"] {
        server.post(MAPS, json!({"metadata": {"name": name}})).await.ok();
    }
    // Nothing has been sent: events wait half a minute for others, or until the server ends.
    server.api.shutdown().await;
    let lists = hooks.take();
    assert_eq!(lists.len(), 1);
    assert_eq!(
        (&lists[0]["kind"], &lists[0]["apiVersion"]),
        (&json!("EventList"), &json!("audit.k8s.io/v1"))
    );
    let mut found = names(&lists);
    found.retain(|name| name.len() == 1);
    assert_eq!(found, ["a", "b"]);
}

#[tokio::test]
async fn a_request_waits_for_a_webhook_that_blocks_and_for_no_other() {
    let hooks = HookServer::start(|_, _| json!({})).await;
    let server = Server::start_with(|config| {
        configure(config, "{level: Metadata, users: [ann]}");
        config.audit.webhook.config_file = Some(kubeconfig(&hooks, &config.data_dir));
        config.audit.webhook.delivery.mode = Mode::Blocking;
    })
    .await;
    let ann = Identity::user("ann", &["system:masters"]);
    server.act(ann.clone(), Method::POST, MAPS, json!({"metadata": {"name": "a"}})).await.ok();
    assert_eq!(hooks.take().len(), 2);

    // Nobody listens there any more.
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut dead = hooks.clone();
    dead.address = closed.local_addr().unwrap();
    drop(closed);
    let small = BatchOptions { buffer_size: 1, max_size: 1, max_wait: Duration::ZERO, throttle: None };
    let server = Server::start_with(|config| {
        configure(config, "{level: Metadata, users: [ann]}");
        config.audit.webhook.config_file = Some(kubeconfig(&dead, &config.data_dir));
        config.audit.webhook.delivery.batch = small;
    })
    .await;
    for _ in 0..30 {
        server.act(ann.clone(), Method::GET, MAPS, Value::Null).await.ok();
    }
    let text = metrics(&server).await;
    assert!(text.contains("apiserver_audit_error_total{plugin=\"buffered\"}"), "{text}");
    assert!(!text.contains("apiserver_audit_error_total{plugin=\"buffered\"} 0\n"), "{text}");
}

#[tokio::test]
async fn a_request_that_must_be_recorded_and_cannot_is_refused() {
    let hooks = HookServer::start(|_, review| answer(review, json!({}))).await;
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut dead = hooks.clone();
    dead.address = closed.local_addr().unwrap();
    drop(closed);
    let server = Server::start_with(|config| {
        configure(config, "{level: Metadata, users: [ann]}");
        config.audit.webhook.config_file = Some(kubeconfig(&dead, &config.data_dir));
        config.audit.webhook.delivery.mode = Mode::BlockingStrict;
        config.audit.webhook.initial_backoff = Duration::from_millis(1);
    })
    .await;
    let ann = Identity::user("ann", &["system:masters"]);
    let said = server.act(ann, Method::POST, MAPS, json!({"metadata": {"name": "a"}})).await.fails(500);
    assert_eq!(said, "Internal error occurred: failed to store audit event");
    server.get(&format!("{MAPS}/a")).await.fails(404);
    assert!(metrics(&server).await.contains("apiserver_audit_requests_rejected_total 1\n"));
}

#[tokio::test]
async fn a_wrong_policy_or_a_place_that_cannot_be_written_ends_the_start() {
    let dir = tempfile::tempdir().unwrap();
    for (policy, log, expected) in [
        ("kind: Policy", "audit.log", "use the audit policy"),
        (
            "{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [{level: Metadata}]}",
            "policy/audit.log",
            "open the audit log",
        ),
    ] {
        let mut config = Config::new(dir.path().to_owned(), "127.0.0.1:0".parse().unwrap());
        std::fs::write(dir.path().join("policy"), policy).unwrap();
        config.audit.policy_file = Some(dir.path().join("policy"));
        config.audit.log.path = Some(dir.path().join(log));
        let failed = keelson_apiserver::ApiServer::start(config).await.err().unwrap();
        let cause = std::error::Error::source(&failed).unwrap().to_string();
        assert!(cause.starts_with(expected), "{cause}");
    }
}
