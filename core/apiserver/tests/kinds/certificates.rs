//! Requests for certificates: from the request to a client that logs in with what was signed.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use keelson_apiserver::Identity;
use serde_json::{Value, json};

use crate::harness::Server;
use crate::https::Https;

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

/// A request in base64, and its key in PEM.
fn request(name: &str, group: &str) -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.distinguished_name.push(rcgen::DnType::OrganizationName, group);
    let pem = params.serialize_request(&key).unwrap().pem().unwrap();
    (STANDARD.encode(pem), key.serialize_pem())
}

fn document(name: &str, request: &str, signer: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"request": request, "signerName": signer,
        "usages": ["digital signature", "client auth"], "expirationSeconds": 3600}})
}

/// Asks until the request has a certificate or a condition.
async fn until(server: &Server, name: &str, good: impl Fn(&Value) -> bool) -> Value {
    let path = format!("{REQUESTS}/{name}");
    for _ in 0..2000 {
        let value = server.get(&path).await.ok();
        if good(&value) {
            return value;
        }
        tokio::task::yield_now().await;
    }
    panic!("{name} never became what it should be: {}", server.get(&path).await.1);
}

fn approved() -> Value {
    json!({"status": {"conditions": [{"type": "Approved", "status": "True", "reason": "Test", "message": "ok"}]}})
}

#[tokio::test]
async fn what_is_approved_is_signed_and_lets_its_owner_in() {
    let server = Server::start().await;
    let (text, key) = request("ann", "dev");
    let made =
        server.post(REQUESTS, document("ann", &text, "kubernetes.io/kube-apiserver-client")).await.ok();
    assert_eq!(made["spec"]["username"], "kubernetes-admin");
    server.merge(&format!("{REQUESTS}/ann/approval"), approved()).await.ok();
    let signed = until(&server, "ann", |it| it["status"]["certificate"].is_string()).await;
    let pem = STANDARD.decode(signed["status"]["certificate"].as_str().unwrap()).unwrap();
    let client = Https::to(&server).with_certificate(&server, std::str::from_utf8(&pem).unwrap(), &key);
    let (_, who) =
        client.send(Method::POST, "/apis/authentication.k8s.io/v1/selfsubjectreviews", &[], json!({})).await;
    assert_eq!(who["status"]["userInfo"]["username"], "ann");
    assert_eq!(who["status"]["userInfo"]["groups"], json!(["dev", "system:authenticated"]));
}

#[tokio::test]
async fn a_node_that_may_gets_its_certificate_without_anybody_asking() {
    let server = Server::start().await;
    let binding = json!({"metadata": {"name": "nodes"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
        "name": "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:nodes"}]});
    server.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await.ok();
    let (text, _) = request("system:node:one", "system:nodes");
    let node = Identity::user("system:node:one", &["system:nodes"]);
    let wanted = document("one", &text, "kubernetes.io/kube-apiserver-client-kubelet");
    server.act(node, Method::POST, REQUESTS, wanted).await.ok();
    let signed = until(&server, "one", |it| it["status"]["certificate"].is_string()).await;
    assert_eq!(signed["status"]["conditions"][0]["reason"], "AutoApproved");
}

#[tokio::test]
async fn what_a_signer_does_not_sign_fails_and_says_why() {
    let server = Server::start().await;
    let (text, _) = request("ann", "dev");
    server.post(REQUESTS, document("x", &text, "kubernetes.io/kube-apiserver-client-kubelet")).await.ok();
    server.merge(&format!("{REQUESTS}/x/approval"), approved()).await.ok();
    let failed = until(&server, "x", |it| it["status"]["conditions"][1]["type"] == "Failed").await;
    assert_eq!(failed["status"]["conditions"][1]["message"], "subject organization is not system:nodes");
}

#[tokio::test]
async fn nobody_approves_or_asks_for_what_is_not_theirs() {
    let server = Server::start().await;
    let (text, _) = request("ann", "system:masters");
    let wanted = document("x", &text, "kubernetes.io/kube-apiserver-client");
    let told = server.post(REQUESTS, wanted).await.fails(403);
    assert!(told.contains("signer with system:masters group is not allowed"), "{told}");
    let (text, _) = request("ann", "dev");
    server.post(REQUESTS, document("x", "bm90aGluZw==", "example.com/s")).await.fails(422);
    server.post(REQUESTS, document("x", &text, "kubernetes.io/legacy-unknown")).await.fails(422);
    server.post(REQUESTS, document("x", &text, "example.com/s")).await.ok();
    let role = json!({"metadata": {"name": "approver"}, "rules": [{"apiGroups": ["certificates.k8s.io"],
        "resources": ["certificatesigningrequests/approval"], "verbs": ["patch", "update"]}]});
    server.post("/apis/rbac.authorization.k8s.io/v1/clusterroles", role).await.ok();
    let binding = json!({"metadata": {"name": "approver"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "approver"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "bob"}]});
    server.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await.ok();
    let bob = Identity::user("bob", &[]);
    let path = format!("{REQUESTS}/x/approval");
    let told =
        server.act_as(bob, Method::PATCH, &path, "application/merge-patch+json", approved()).await.fails(403);
    assert!(
        told.contains("user not permitted to approve requests with signerName \"example.com/s\""),
        "{told}"
    );
    // Through the status nobody approves.
    server.merge(&format!("{REQUESTS}/x/status"), approved()).await.fails(422);
}

/// A request for a certificate for serving, in base64.
fn serving_request(node: &str, names: &[&str], addresses: &[&str]) -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|it| (*it).to_owned()).collect();
    let mut params = rcgen::CertificateParams::new(names).unwrap();
    let addresses = addresses.iter().map(|it| rcgen::SanType::IpAddress(it.parse().unwrap()));
    params.subject_alt_names.extend(addresses);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, format!("system:node:{node}"));
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:nodes");
    STANDARD.encode(params.serialize_request(&key).unwrap().pem().unwrap())
}

async fn node_with_address(server: &Server, name: &str, address: &str) {
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
    server.post("/api/v1/nodes", node).await.ok();
    let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": address}]}});
    server.merge(&format!("/api/v1/nodes/{name}/status"), status).await.ok();
}

#[tokio::test]
async fn a_kubelet_gets_a_certificate_for_its_own_addresses_and_for_no_others() {
    let server = Server::start().await;
    node_with_address(&server, "one", "192.0.2.1").await;
    node_with_address(&server, "two", "192.0.2.2").await;
    for (name, names, addresses) in [
        ("foreign-address", vec!["one"], vec!["192.0.2.2"]),
        ("foreign-name", vec!["two"], vec!["192.0.2.1"]),
        ("server", vec!["kubernetes"], vec!["192.0.2.1"]),
        // The last one, so that the others have been looked at when it is answered.
        ("own", vec!["one"], vec!["192.0.2.1"]),
    ] {
        let wanted = json!({"metadata": {"name": name}, "spec": {
            "request": serving_request("one", &names, &addresses), "signerName": "kubernetes.io/kubelet-serving",
            "usages": ["digital signature", "server auth"],
        }});
        let node = Identity::user("system:node:one", &["system:nodes"]);
        server.act(node, Method::POST, REQUESTS, wanted).await.ok();
    }
    let signed = until(&server, "own", |it| it["status"]["certificate"].is_string()).await;
    assert_eq!(signed["status"]["conditions"][0]["reason"], "AutoApproved");
    for name in ["foreign-address", "foreign-name", "server"] {
        let waits = server.get(&format!("{REQUESTS}/{name}")).await.ok();
        assert!(waits["status"]["conditions"].is_null(), "{waits}");
    }
}

#[tokio::test]
async fn a_token_gets_no_certificate_of_a_node_that_is_at_work_and_one_of_a_node_that_is_not() {
    let server = Server::start().await;
    let lease = |name: &str, renewed: jiff::Timestamp| {
        json!({"metadata": {"name": name, "namespace": "kube-node-lease"}, "spec": {
            "holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": format!("{renewed:.6}"),
        }})
    };
    let now = jiff::Timestamp::now();
    for (name, renewed) in [("alive", now), ("gone", now - jiff::SignedDuration::from_hours(1))] {
        node_with_address(&server, name, "192.0.2.1").await;
        let path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
        server.post(path, lease(name, renewed)).await.ok();
        let machine = Identity::user("system:bootstrap:abcdef", &["system:bootstrappers:keelson:nodes"]);
        let (text, _) = request(&format!("system:node:{name}"), "system:nodes");
        let wanted = document(name, &text, "kubernetes.io/kube-apiserver-client-kubelet");
        server.act(machine, Method::POST, REQUESTS, wanted).await.ok();
    }
    let denied = until(&server, "alive", |it| it["status"]["conditions"].is_array()).await;
    assert_eq!(denied["status"]["conditions"][0]["type"], "Denied");
    let message = denied["status"]["conditions"][0]["message"].as_str().unwrap();
    assert!(message.contains("kubectl delete node alive"), "{message}");
    until(&server, "gone", |it| it["status"]["certificate"].is_string()).await;
}
