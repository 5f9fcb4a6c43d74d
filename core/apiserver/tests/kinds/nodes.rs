//! What kubelets may do, and what they may not.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use keelson_apiserver::Identity;
use serde_json::{Value, json};

use crate::harness::Server;

const PODS: &str = "/api/v1/namespaces/default/pods";

fn kubelet(node: &str) -> Identity {
    Identity::user(format!("system:node:{node}"), &["system:nodes"])
}

async fn nodes(server: &Server) -> Vec<Value> {
    let mut made = Vec::new();
    for name in ["one", "two"] {
        made.push(server.post("/api/v1/nodes", json!({"metadata": {"name": name}})).await.ok());
    }
    made
}

#[tokio::test]
async fn a_kubelet_asks_for_certificates_of_its_own_name_alone() {
    let server = Server::start().await;
    let requests = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let document = |name: &str, user: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, user);
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:nodes");
        let pem = params.serialize_request(&key).unwrap().pem().unwrap();
        json!({"metadata": {"name": name}, "spec": {"request": STANDARD.encode(pem),
            "signerName": "kubernetes.io/kube-apiserver-client-kubelet", "usages": ["digital signature", "client auth"]}})
    };
    let ask = |name: &'static str, user: &'static str| {
        server.act(kubelet("one"), Method::POST, requests, document(name, user))
    };
    ask("a", "system:node:one").await.ok();
    let told = ask("b", "system:node:two").await.fails(403);
    assert!(told.ends_with("can only create a node CSR with CN=system:node:one"), "{told}");
}

#[tokio::test]
async fn a_kubelet_reads_the_accounts_of_its_own_pods_alone() {
    let server = Server::start().await;
    nodes(&server).await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "one", "containers": [{"name": "c", "image": "i"}]}});
    server.post(PODS, pod).await.ok();
    let account = "/api/v1/namespaces/default/serviceaccounts/default";
    server.act(kubelet("one"), Method::GET, account, Value::Null).await.ok();
    let told = server.act(kubelet("two"), Method::GET, account, Value::Null).await.fails(403);
    assert!(told.ends_with("no relationship found between node 'two' and this object"), "{told}");
    let all = "/api/v1/namespaces/default/serviceaccounts";
    server.act(kubelet("one"), Method::GET, all, Value::Null).await.fails(403);
}

#[tokio::test]
async fn a_mirror_pod_refers_to_nothing_that_its_kubelet_could_then_read() {
    let server = Server::start().await;
    let uid = nodes(&server).await[0]["metadata"]["uid"].clone();
    let mirror = |name: &str, volume: Value| {
        json!({"metadata": {"name": name, "annotations": {"kubernetes.io/config.mirror": "x"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "one", "uid": uid, "controller": true}]},
            "spec": {"nodeName": "one", "containers": [{"name": "c", "image": "i"}],
                "volumes": if volume.is_null() { json!([]) } else { json!([volume]) }}})
    };
    let create = |pod: Value| server.act(kubelet("one"), Method::POST, PODS, pod);
    create(mirror("good", Value::Null)).await.ok();
    let downward = json!({"name": "v", "projected": {"sources": [{"downwardAPI": {"items": [
        {"path": "n", "fieldRef": {"fieldPath": "metadata.name"}}]}}]}});
    create(mirror("downward", downward)).await.ok();
    // Some of it is refused to any mirror pod, some to those that kubelets make.
    for (volume, refused) in [
        (json!({"name": "v", "secret": {"secretName": "s"}}), "reference secrets"),
        (
            json!({"name": "v", "configMap": {"name": "m"}}),
            "node \"one\" can not create pods that reference configmaps",
        ),
        (
            json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}}),
            "node \"one\" can not create pods that reference persistentvolumeclaims",
        ),
    ] {
        let told = create(mirror("bad", volume)).await.fails(403);
        assert!(told.contains(refused), "{told}");
    }
    let path = format!("{PODS}/good");
    let change = json!({"metadata": {"labels": {"a": "b"}}});
    let merge = "application/merge-patch+json";
    server.act_as(kubelet("one"), Method::PATCH, &path, merge, change).await.fails(403);
}
