use keelson_api::Object;
use serde_json::json;

use super::*;

fn pod(name: &str, node: &str, secret: &str) -> Object {
    Object::from_value(json!({
        "metadata": {"name": name, "namespace": "a"},
        "spec": {"nodeName": node, "volumes": [{"name": "v", "secret": {"secretName": secret}}],
            "containers": [{"name": "c", "envFrom": [{"configMapRef": {"name": "settings"}}]}]}
    }))
    .unwrap()
}

#[test]
fn a_node_reaches_only_what_its_own_pods_refer_to() {
    let mut graph = Graph::default();
    graph.put_pod(&pod("p", "one", "s"));
    assert!(graph.reaches("one", "a", Reference::Secret("s".into())));
    assert!(graph.reaches("one", "a", Reference::ConfigMap("settings".into())));
    assert!(!graph.reaches("two", "a", Reference::Secret("s".into())));
    assert!(!graph.reaches("one", "b", Reference::Secret("s".into())));
    assert!(!graph.reaches("one", "a", Reference::ConfigMap("s".into())));
}

#[test]
fn a_secret_stays_reachable_until_the_last_pod_that_needs_it_is_gone() {
    let mut graph = Graph::default();
    graph.put_pod(&pod("p", "one", "s"));
    graph.put_pod(&pod("q", "one", "s"));
    graph.put_pod(&pod("q", "one", "s"));
    graph.remove_pod("a", "p");
    assert!(graph.reaches("one", "a", Reference::Secret("s".into())));
    graph.remove_pod("a", "q");
    assert!(!graph.reaches("one", "a", Reference::Secret("s".into())));
    assert!(graph.edges.is_empty());
}

#[test]
fn a_kubelet_is_told_why_it_may_not() {
    let authorizer = NodeAuthorizer::new(&WatchCache::default());
    let asks = |method, path: &str, query| {
        authorizer.decide("one", &RequestInfo::parse(&method, path, query)).unwrap_err()
    };
    use http::Method;
    assert_eq!(
        asks(Method::GET, "/api/v1/namespaces/a/secrets/s", None),
        "no relationship found between node 'one' and this object"
    );
    assert_eq!(asks(Method::GET, "/api/v1/secrets", None), "can only read namespaced object of this type");
    assert_eq!(
        asks(Method::GET, "/api/v1/pods", Some("fieldSelector=spec.nodeName%3Dtwo")),
        "can only list/watch pods with spec.nodeName field selector"
    );
    assert_eq!(
        asks(Method::GET, "/api/v1/nodes/two", None),
        "node 'one' cannot read 'two', only its own Node object"
    );
    let own = RequestInfo::parse(&Method::GET, "/api/v1/pods", Some("fieldSelector=spec.nodeName%3Done"));
    assert_eq!(authorizer.decide("one", &own), Ok(()));
    let volumes = "/api/v1/persistentvolumes";
    assert_eq!(asks(Method::GET, volumes, None), "can only get individual resources of this type");
    let other = "labelSelector=local.keelson.io%2Fnode%3Dtwo";
    assert_eq!(asks(Method::GET, volumes, Some(other)), "can only get individual resources of this type");
    let own = RequestInfo::parse(&Method::GET, volumes, Some("labelSelector=local.keelson.io%2Fnode%3Done"));
    assert_eq!(authorizer.decide("one", &own), Ok(()));
    assert_eq!(
        asks(Method::PATCH, "/api/v1/persistentvolumes/v", None),
        "no relationship found between node 'one' and this object"
    );
}

#[test]
fn a_volume_names_the_secrets_that_mount_it() {
    let volume = Object::from_value(json!({"spec": {
        "claimRef": {"namespace": "a", "name": "c"}, "rbd": {"secretRef": {"name": "r"}},
        "csi": {"nodeStageSecretRef": {"name": "s", "namespace": "b"}, "controllerExpandSecretRef": {"name": "x"}},
    }}))
    .unwrap();
    assert_eq!(secrets(&volume).collect::<Vec<_>>(), [("a", "r"), ("b", "s")]);
}
