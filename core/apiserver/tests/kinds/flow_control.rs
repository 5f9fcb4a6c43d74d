//! Priority and fairness: its objects, and what a flood does to others.

use http::{Method, Request};
use keelson_apiserver::Identity;
use keelson_apiserver::server::Limits;
use serde_json::{Value, json};

use crate::harness::Server;
use crate::insight::metrics;

const SCHEMAS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas";
const LEVELS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations";

async fn limited(limits: Limits) -> Server {
    Server::start_with(|config| config.limits = limits).await
}

/// Asks until an answer is as it should be.
async fn until(server: &Server, path: &str, good: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..2000 {
        let answer = server.get(path).await.1;
        if good(&answer) {
            return answer;
        }
        tokio::task::yield_now().await;
    }
    panic!("{path} never became what it should be: {}", server.get(path).await.1);
}

fn dangling(status: &'static str) -> impl Fn(&Value) -> bool {
    move |schema| schema["status"]["conditions"][0]["status"] == status
}

#[tokio::test]
async fn every_cluster_has_upstreams_schemas_and_levels_and_gets_them_back() {
    let server = Server::start().await;
    let names = |list: Value| -> Vec<String> {
        let items = list["items"].as_array().unwrap();
        items.iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(
        names(server.get(LEVELS).await.ok()),
        [
            "catch-all",
            "exempt",
            "global-default",
            "leader-election",
            "node-high",
            "system",
            "workload-high",
            "workload-low"
        ]
    );
    assert_eq!(names(server.get(SCHEMAS).await.ok()).len(), 14);
    let schema = format!("{SCHEMAS}/service-accounts");
    until(&server, &schema, dangling("False")).await;
    server.delete(&schema, json!({})).await.ok();
    until(&server, &schema, |schema| schema["spec"]["matchingPrecedence"] == 9000).await;
    // Told to keep its hands off, the server lets it be what it was made.
    let own = json!({"metadata": {"annotations": {"apf.kubernetes.io/autoupdate-spec": "false"}}, "spec": {"matchingPrecedence": 8999}});
    server.merge(&schema, own).await.ok();
    let level = format!("{LEVELS}/workload-low");
    server.merge(&level, json!({"spec": {"limited": {"nominalConcurrencyShares": 1}}})).await.ok();
    until(&server, &level, |level| level["spec"]["limited"]["nominalConcurrencyShares"] == 100).await;
    assert_eq!(server.get(&schema).await.ok()["spec"]["matchingPrecedence"], 8999);
    let message =
        server.merge(&format!("{SCHEMAS}/catch-all"), json!({"spec": {"matchingPrecedence": 7}})).await;
    assert!(message.fails(422).contains("spec of 'catch-all' must equal the fixed value"));
}

fn schema(name: &str, level: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "priorityLevelConfiguration": {"name": level}, "matchingPrecedence": 500, "distinguisherMethod": {"type": "ByUser"},
        "rules": [{"subjects": [{"kind": "Group", "group": {"name": "crowd"}}], "resourceRules": [
            {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true},
        ]}],
    }})
}

fn level(name: &str, queuing: Value) -> Value {
    let response = match queuing {
        Value::Null => json!({"type": "Reject"}),
        queuing => json!({"type": "Queue", "queuing": queuing}),
    };
    json!({"metadata": {"name": name}, "spec": {"type": "Limited", "limited": {
        "nominalConcurrencyShares": 1, "borrowingLimitPercent": 0, "limitResponse": response,
    }}})
}

#[tokio::test]
async fn a_schema_whose_level_is_not_there_says_so_until_it_is() {
    let server = Server::start().await;
    server.post(SCHEMAS, schema("crowd", "crowd")).await.ok();
    let path = format!("{SCHEMAS}/crowd");
    let lost = until(&server, &path, dangling("True")).await;
    assert_eq!(
        lost["status"]["conditions"][0]["message"],
        "This FlowSchema references the PriorityLevelConfiguration object named \"crowd\" but there is no such object"
    );
    server.post(LEVELS, level("crowd", Value::Null)).await.ok();
    until(&server, &path, dangling("False")).await;
}

fn crowd(name: &str) -> Identity {
    Identity::user(name, &["crowd", "people"])
}

/// Begins a large list and does not take it: it holds its seats.
async fn hold(server: &Server, who: Identity) -> (u16, http::Response<kube::client::Body>) {
    let request =
        Request::get("/api/v1/namespaces/default/configmaps").body(kube::client::Body::empty()).unwrap();
    let response = server.api.client(who).send(request).await.unwrap();
    (response.status().as_u16(), response)
}

/// A server where the crowd may read, and a list is larger than a connection's buffers.
async fn crowded(queuing: Value) -> Server {
    let limits =
        Limits { max_requests_inflight: 150, max_mutating_requests_inflight: 100, ..Limits::default() };
    let server = limited(limits).await;
    let binding = json!({"metadata": {"name": "crowd"}, "subjects": [{"kind": "Group", "name": "crowd"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}});
    server.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await.ok();
    let large = json!({"metadata": {"name": "large"}, "data": {"a": "x".repeat(90 << 10)}});
    server.post("/api/v1/namespaces/default/configmaps", large).await.ok();
    server.post(LEVELS, level("crowd", queuing)).await.ok();
    server.post(SCHEMAS, schema("crowd", "crowd")).await.ok();
    until(&server, &format!("{SCHEMAS}/crowd"), dangling("False")).await;
    server
}

#[tokio::test]
async fn what_is_beyond_a_levels_seats_is_refused_and_other_levels_do_not_notice() {
    let server = crowded(Value::Null).await;
    // One of 246 shares of 250 seats: two, rounded up.
    let mut held = Vec::new();
    let refused = loop {
        let (code, response) = hold(&server, crowd("ann")).await;
        if code != 200 {
            break response;
        }
        held.push(response);
        assert!(held.len() <= 2);
    };
    assert_eq!(refused.status().as_u16(), 429);
    assert_eq!(refused.headers()["retry-after"], "1");
    let uid = server.get(&format!("{SCHEMAS}/crowd")).await.ok()["metadata"]["uid"].clone();
    assert_eq!(uid, refused.headers()["x-kubernetes-pf-flowschema-uid"].to_str().unwrap());
    let body = refused.into_body().collect_bytes().await.unwrap();
    let status: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(status["message"], "Too many requests, please try again later.");
    // Somebody else is of another level.
    let binding = json!({"metadata": {"name": "bob"}, "subjects": [{"kind": "User", "name": "bob"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}});
    server.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await.ok();
    server.act(Identity::user("bob", &[]), Method::GET, "/api/v1/nodes", Value::Null).await.ok();
    drop(held);
    assert_eq!(hold(&server, crowd("ann")).await.0, 200);
}

#[tokio::test]
async fn a_flood_of_one_user_does_not_keep_another_of_the_same_level_from_its_turn() {
    let server = crowded(json!({"queues": 64, "handSize": 1, "queueLengthLimit": 20})).await;
    let seats = [hold(&server, crowd("flood")).await.1, hold(&server, crowd("flood")).await.1];
    // Twenty wait in the flood's queue, one in another.
    let client = server.api.client(crowd("flood"));
    let flood: Vec<_> = (0..20)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                let request =
                    Request::get("/api/v1/namespaces/default/configmaps").body(kube::client::Body::empty());
                client.send(request.unwrap()).await.unwrap()
            })
        })
        .collect();
    let waiting = |count: usize| {
        let line = format!(
            r#"apiserver_flowcontrol_current_inqueue_requests{{flow_schema="crowd",priority_level="crowd"}} {count}"#
        );
        let server = &server;
        async move {
            while !metrics(server).await.lines().any(|found| found == line) {
                tokio::task::yield_now().await;
            }
        }
    };
    waiting(20).await;
    // A user with another queue; with 64 of them, one of these names has it.
    let (mut others, mut refused) = (Vec::new(), 0);
    for name in ["ann", "bob"] {
        let client = server.api.client(crowd(name));
        others.push(tokio::spawn(async move {
            let request =
                Request::get("/api/v1/namespaces/default/configmaps/large").body(kube::client::Body::empty());
            client.send(request.unwrap()).await.unwrap().status().as_u16()
        }));
    }
    waiting(22).await;
    // Two seats become free: were it first come, first served, the flood would have both.
    drop(seats);
    for other in others {
        let code = other.await.unwrap();
        refused += u32::from(code != 200);
    }
    assert_eq!(refused, 0);
    let done = flood.iter().filter(|request| request.is_finished()).count();
    assert!(done < 20, "{done}");
    flood.into_iter().for_each(|request| request.abort());
}

#[tokio::test]
async fn without_fairness_what_is_beyond_the_limit_is_refused() {
    let limits =
        Limits { enable_priority_and_fairness: false, max_requests_inflight: 1, ..Limits::default() };
    let server = limited(limits).await;
    let binding = json!({"metadata": {"name": "crowd"}, "subjects": [{"kind": "Group", "name": "crowd"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}});
    server.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await.ok();
    let large = json!({"metadata": {"name": "large"}, "data": {"a": "x".repeat(90 << 10)}});
    server.post("/api/v1/namespaces/default/configmaps", large).await.ok();
    let (code, held) = hold(&server, crowd("ann")).await;
    assert_eq!((code, hold(&server, crowd("bob")).await.0), (200, 429));
    // Administrators are never kept out.
    server.get("/api/v1/namespaces/default/configmaps").await.ok();
    drop(held);
    assert_eq!(hold(&server, crowd("bob")).await.0, 200);
}
