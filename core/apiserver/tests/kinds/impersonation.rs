//! Acting for somebody: with limits, and without.

use http::Method;
use serde_json::{Value, json};

use crate::harness::Server;
use crate::https::Https;

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const WHOAMI: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

/// Gives a user rules in the whole cluster.
async fn grant(server: &Server, user: &str, rules: Value) {
    let role = json!({"metadata": {"name": user}, "rules": rules});
    server.post(&format!("{RBAC}/clusterroles"), role).await.ok();
    let binding = json!({"metadata": {"name": user}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io",
        "kind": "ClusterRole", "name": user}, "subjects": [{"kind": "User", "name": user}]});
    server.post(&format!("{RBAC}/clusterrolebindings"), binding).await.ok();
}

fn rule(verbs: &[&str], group: &str, resources: &[&str]) -> Value {
    json!({"apiGroups": [group], "resources": resources, "verbs": verbs})
}

fn client(server: &Server, user: &str) -> Https {
    let own = server.api.pki().issue_client(user, &["crew", "dev"]).unwrap();
    Https::to(server).with_certificate(server, &own.certificate, &own.key)
}

async fn get(https: &Https, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
    let (code, document) = https.send(Method::GET, path, headers, Value::Null).await;
    (code, document["message"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn a_deputy_does_for_somebody_what_it_may_do_for_them_and_nothing_else() {
    let server = Server::start().await;
    grant(
        &server,
        "deputy",
        json!([
            rule(&["impersonate:user-info"], "authentication.k8s.io", &["users"]),
            rule(&["impersonate-on:user-info:list"], "", &["configmaps"]),
        ]),
    )
    .await;
    grant(&server, "ann", json!([rule(&["list", "get"], "", &["configmaps", "secrets"])])).await;
    let deputy = client(&server, "deputy");
    let maps = "/api/v1/namespaces/default/configmaps";
    assert_eq!(get(&deputy, maps, &[("impersonate-user", "ann")]).await.0, 200);
    // Not without a name, and not what the deputy alone may do.
    assert_eq!(get(&deputy, maps, &[]).await.0, 403);
    let (code, text) = get(&deputy, &format!("{maps}/x"), &[("impersonate-user", "ann")]).await;
    assert_eq!(code, 403);
    assert!(
        text.contains("User \"deputy\" cannot impersonate-on:user-info:get resource \"configmaps\""),
        "{text}"
    );
    let secrets = "/api/v1/namespaces/default/secrets";
    assert_eq!(get(&deputy, secrets, &[("impersonate-user", "ann")]).await.0, 403);
    // Who it becomes must have the right, too.
    let (code, text) = get(&deputy, maps, &[("impersonate-user", "bob")]).await;
    assert!(code == 403 && text.contains("User \"bob\" cannot list"), "{text}");
    let grouped = [("impersonate-user", "ann"), ("impersonate-group", "g")];
    let (code, text) = get(&deputy, maps, &grouped).await;
    assert!(code == 403 && text.contains("impersonate:user-info resource \"groups\""), "{text}");
    let (code, text) = get(&deputy, maps, &[("impersonate-group", "g")]).await;
    assert!(code == 400 && text.contains("without impersonating a user name"), "{text}");
}

#[tokio::test]
async fn the_older_right_suffices_for_everything_that_somebody_may() {
    let server = Server::start().await;
    let rules = json!([
        rule(&["impersonate"], "", &["users", "groups"]),
        rule(&["impersonate"], "authentication.k8s.io", &["uids", "userextras/acme.io/team"]),
    ]);
    grant(&server, "proxy", rules).await;
    let proxy = client(&server, "proxy");
    let headers = [
        ("impersonate-user", "ann"),
        ("impersonate-group", "g"),
        ("impersonate-uid", "7"),
        ("impersonate-extra-acme.io%2fteam", "blue"),
    ];
    let (code, who) = proxy.send(Method::POST, WHOAMI, &headers, json!({})).await;
    assert_eq!(code, 201, "{who}");
    assert_eq!(
        who["status"]["userInfo"],
        json!({"username": "ann", "uid": "7", "groups": ["g", "system:authenticated"],
            "extra": {"acme.io/team": ["blue"]}})
    );
    // An account is another resource, and another key of what is said is another right.
    for wanted in [
        [("impersonate-user", "system:serviceaccount:default:default"), ("accept", "*/*")],
        [("impersonate-user", "ann"), ("impersonate-extra-acme.io%2fother", "x")],
    ] {
        let (code, told) = proxy.send(Method::POST, WHOAMI, &wanted, json!({})).await;
        assert_eq!(code, 403, "{told}");
    }
}

#[tokio::test]
async fn an_agent_is_the_node_that_it_runs_on_and_no_other() {
    let server = Server::start().await;
    for name in ["one", "two"] {
        server.post("/api/v1/nodes", json!({"metadata": {"name": name}})).await.ok();
    }
    let user = "system:serviceaccount:default:default";
    grant(
        &server,
        user,
        json!([
            rule(&["impersonate:associated-node"], "authentication.k8s.io", &["nodes"]),
            rule(&["impersonate-on:associated-node:get"], "", &["nodes"]),
        ]),
    )
    .await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "one", "containers": [{"name": "c", "image": "i"}]}});
    let pod = server.post("/api/v1/namespaces/default/pods", pod).await.ok();
    let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": pod["metadata"]["uid"]});
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let token = server.post(path, json!({"spec": {"boundObjectRef": bound}})).await.ok();
    let bearer = format!("Bearer {}", token["status"]["token"].as_str().unwrap());
    let https = Https::to(&server);
    for (node, code) in [("one", 200), ("two", 403)] {
        let name = format!("system:node:{node}");
        let headers = [("authorization", bearer.as_str()), ("impersonate-user", &name)];
        let (found, text) = get(&https, &format!("/api/v1/nodes/{node}"), &headers).await;
        assert_eq!(found, code, "{text}");
    }
}
